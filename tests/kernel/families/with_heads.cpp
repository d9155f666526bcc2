// Layers of families whose attention keeps keys and values of heads.
// SPDX-License-Identifier: Apache-2.0
#include "both_legs.hpp"

using namespace moesaic::test::families;

#define MOESAIC_CHECK_OF(layer) check_family<moesaic::presets::layer>(#layer, 61);
TEST_CASE("layers of attention heads and mixtures") { MOESAIC_FAMILIES_OF_HEADS(MOESAIC_CHECK_OF) }
