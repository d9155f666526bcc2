// Umbrella for .cu files: all that moesaic.hpp has, and the CUDA backend.
// SPDX-License-Identifier: Apache-2.0
#pragma once

// A hook without MOESAIC_FN would be called nowhere: nvcc warns of such a call and then leaves it out.
#pragma nv_diag_error 20011

#include <moesaic/cuda/cuda.hpp>
#include <moesaic/cuda/launch.cuh>
#include <moesaic/layer/instantiate.cuh>
#include <moesaic/moesaic.hpp>
