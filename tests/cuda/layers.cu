// The kernels of the layers in layers.hpp.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda.cuh>

#include "layers.hpp"

MOESAIC_INSTANTIATE(on_gpu::dense, on_gpu::stream)
MOESAIC_INSTANTIATE(on_gpu::mixtral, on_gpu::stream)
MOESAIC_INSTANTIATE(on_gpu::qwen3<moesaic::dtype::int4>, on_gpu::stream)
MOESAIC_INSTANTIATE(on_gpu::qwen3<moesaic::dtype::e4m3>, on_gpu::stream)
MOESAIC_INSTANTIATE(on_gpu::olmoe, on_gpu::stream)
