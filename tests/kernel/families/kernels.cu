// The kernels of every family's layer.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda.cuh>

#include "families.hpp"

#define MOESAIC_KERNELS_OF(layer) MOESAIC_INSTANTIATE(moesaic::test::families::of<moesaic::presets::layer>, moesaic::cuda::stream_ref)
MOESAIC_FAMILIES_OF_HEADS(MOESAIC_KERNELS_OF)
MOESAIC_FAMILIES_OF_LATENTS(MOESAIC_KERNELS_OF)
