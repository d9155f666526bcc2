// Layers of families with latent attention, and of those with many experts.
// SPDX-License-Identifier: Apache-2.0
#include "both_legs.hpp"

using namespace moesaic::test::families;

#define MOESAIC_CHECK_OF(layer) check_family<moesaic::presets::layer>(#layer, 62);
TEST_CASE("layers of latent attention and of many experts") { MOESAIC_FAMILIES_OF_LATENTS(MOESAIC_CHECK_OF) }
