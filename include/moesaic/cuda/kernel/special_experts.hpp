// The experts that are no feed-forward: their slots filled with zeros, copies of x, or mixtures of x and a constant. A block a slot.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/view.hpp>
#include <moesaic/cuda/kernel/math.hpp>
#include <moesaic/cuda/kernel/rows.hpp>
#include <moesaic/cuda/tuning/tuning.hpp>

namespace moesaic::cuda {

/// Slots of the i-th such expert are [offsets[i], offsets[i + 1]), zero ones first, then copies, then constants: 0, x, or a1 x + a2 v with
/// [a1, a2] = softmax(W x).
template <class T>
struct special_expert_rows {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::simt;
  struct params {
    view<const T> x;                     // [tokens, hidden]
    view<T> y;                           // [slots, hidden]
    std::int32_t const* offsets;         // [zero + copy + constant + 1]
    std::int32_t const* token_of_slot;
    float const* gate;                   // [constant, 2, hidden]
    float const* value;                  // [constant, hidden]
    int zero, copy, constant;
  };
  using reduce = device::block_reduce<float, threads>;
  struct shared {
    typename reduce::scratch of_x, of_value;
  };

  MOESAIC_DEVICE void operator()(params const& p) const {
    auto& memory = device::shared<shared>();
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    int const kinds = p.zero + p.copy + p.constant;
    std::int64_t const first = p.offsets[0], copies = p.offsets[p.zero], constants = p.offsets[p.zero + p.copy], last = p.offsets[kinds];
    for (std::int64_t s = first + device::block_x(); s < last; s += device::grid_x()) {
      T const* const row = p.x.row(p.token_of_slot[s]);
      float of_x = s < copies ? 0.0f : 1.0f, of_value = 0.0f;
      float const* value = nullptr;
      if (s >= constants) {
        int e = 0;
        while (s >= p.offsets[p.zero + p.copy + e + 1]) ++e;
        float const* const gate = p.gate + static_cast<std::int64_t>(e) * 2 * p.x.columns;
        value = p.value + static_cast<std::int64_t>(e) * p.x.columns;
        float a = 0.0f, b = 0.0f;
        for (std::int64_t c = device::thread_id(); c < p.x.columns; c += threads) {
          auto const x = static_cast<float>(row[c]);
          a += gate[c] * x;
          b += gate[p.x.columns + c] * x;
        }
        float const z = reduce::sum(a, memory.of_x) - reduce::sum(b, memory.of_value);
        of_x = sigmoid(z);
        of_value = sigmoid(-z);
        device::block_sync();            // the scratch is free for the next slot
      }
      for (std::int64_t c = device::thread_id(); c < p.x.columns; c += threads)
        p.y(s, c) = value != nullptr ? static_cast<T>(device::fma(of_value, value[c], of_x * static_cast<float>(row[c])))
                                     : s < copies ? static_cast<T>(0.0f) : row[c];
    }
  }
};

}  // namespace moesaic::cuda
