// Umbrella for .cu files: all that moesaic.hpp has, and the CUDA backend.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/cuda/cuda.hpp>
#include <moesaic/cuda/launch.cuh>
#include <moesaic/layer/instantiate.cuh>
#include <moesaic/moesaic.hpp>
