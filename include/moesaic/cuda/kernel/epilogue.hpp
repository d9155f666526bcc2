// From a sum to an element of y: bias, activation, rounding.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include <moesaic/base/floats.hpp>
#include <moesaic/cuda/kernel/gemm.hpp>
#include <moesaic/cuda/kernel/math.hpp>

namespace moesaic::cuda {

/// Value of an output from its sum, or its sums of gate and up (up is not read with one part), as the host's finish. Not rounded yet.
template <class X, class Y>
MOESAIC_DEVICE float finish_sum(gemm_params<X, Y> const& p, int expert, int output, float sum, float up) {
  float const* const bias = p.bias != nullptr ? p.bias + static_cast<std::int64_t>(expert) * p.w.parts * p.w.outputs + output : nullptr;
  float value = bias != nullptr ? sum + bias[0] : sum;
  if (p.activated) value = activate(p.act, value);
  if (p.w.parts == 2) value *= bias != nullptr ? up + bias[p.w.outputs] : up;
  return value;
}

/// Writes `count` (1 .. 8) neighbouring outputs: as one store of 16 bytes or two where y allows it.
template <class Y>
MOESAIC_DEVICE void store_outputs(Y* to, float const (&value)[8], int count) {
  static_assert(std::is_same_v<Y, float> || std::is_same_v<Y, bf16>, "results are float or bf16");
  if (count == 8 && reinterpret_cast<std::uintptr_t>(to) % 16 == 0) {
    auto* const wide = reinterpret_cast<device::words4*>(to);
    if constexpr (std::is_same_v<Y, bf16>) {
      *wide = {{device::cvt_bf16x2(value[0], value[1]), device::cvt_bf16x2(value[2], value[3]), device::cvt_bf16x2(value[4], value[5]),
                device::cvt_bf16x2(value[6], value[7])}};
    } else {
      wide[0] = {{bit_cast<std::uint32_t>(value[0]), bit_cast<std::uint32_t>(value[1]), bit_cast<std::uint32_t>(value[2]), bit_cast<std::uint32_t>(value[3])}};
      wide[1] = {{bit_cast<std::uint32_t>(value[4]), bit_cast<std::uint32_t>(value[5]), bit_cast<std::uint32_t>(value[6]), bit_cast<std::uint32_t>(value[7])}};
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (i < count) to[i] = static_cast<Y>(value[i]);
}

}  // namespace moesaic::cuda
