// A group of one thread whose loops over experts are vectors: softmax, sigmoid and top-k of a row of fp32.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>

#include <moesaic/host/simd/parts.hpp>
#include <moesaic/route/policy.hpp>

#define MOESAIC_BODY <moesaic/host/simd/route.inl>
#include <moesaic/host/simd/levels.inl>

#if defined(__CUDACC__)
#pragma nv_diag_suppress 20011   // hooks of policies are of host and device; with this group they run on the host alone
#endif

namespace moesaic::host {

/// The same bits on every level.
struct vector_group : serial_group {
  level instructions = level::portable;

  vector_group alone() const { return *this; }

  void softmax(int n, float const* in, float* out) const {
    at_level(instructions, [&](auto here) { softmax_row(here, n, in, out); });
  }
  void sigmoid(int n, float const* in, float* out) const {
    at_level(instructions, [&](auto here) { sigmoid_row(here, n, in, out); });
  }
  void less(int n, float const* in, float factor, float const* x, float* out) const {
    at_level(instructions, [&](auto here) { less_row(here, n, in, factor, x, out); });
  }
  /// As moesaic::top_k.
  int top_k(float const* choice, int experts, int slots, std::int32_t* ids) const {
    int found = -1;
    if (slots > 0 && slots <= packed::lanes && experts >= 2 * packed::lanes)
      at_level(instructions, [&](auto here) { found = top_k_row(here, experts, choice, slots, ids); });
    return found >= 0 ? found : moesaic::top_k(choice, experts, slots, ids);
  }
};

}  // namespace moesaic::host
