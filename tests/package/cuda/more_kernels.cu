// A second file with kernels, some of them the same: a program may have several.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda.cuh>

#include "layers.hpp"

MOESAIC_INSTANTIATE(small_mixture)
