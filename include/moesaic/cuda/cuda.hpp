// The CUDA backend as any C++ compiler sees it: every op that layers call with a cuda::stream_ref as their first argument. Kernels start where
// moesaic/cuda.cuh is compiled by nvcc.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/cuda/attention.hpp>
#include <moesaic/cuda/combine.hpp>
#include <moesaic/cuda/cosine.hpp>
#include <moesaic/cuda/embedding.hpp>
#include <moesaic/cuda/ffn.hpp>
#include <moesaic/cuda/heads.hpp>
#include <moesaic/cuda/kv_cache.hpp>
#include <moesaic/cuda/latent.hpp>
#include <moesaic/cuda/launch.hpp>
#include <moesaic/cuda/layout.hpp>
#include <moesaic/cuda/linear.hpp>
#include <moesaic/cuda/logits.hpp>
#include <moesaic/cuda/memory.hpp>
#include <moesaic/cuda/norm.hpp>
#include <moesaic/cuda/pack.hpp>
#include <moesaic/cuda/quantize.hpp>
#include <moesaic/cuda/quantized.hpp>
#include <moesaic/cuda/rotary.hpp>
#include <moesaic/cuda/route.hpp>
#include <moesaic/cuda/special_experts.hpp>
#include <moesaic/cuda/stream.hpp>
