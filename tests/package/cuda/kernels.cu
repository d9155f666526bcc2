// All that nvcc compiles of the program: the kernels of a model, and so of its layers.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda.cuh>

#include "layers.hpp"

MOESAIC_INSTANTIATE(small_model)
