// Projections before attention and heads' outputs after it, in place: clipped, scaled by position, gated; a block a row.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/view.hpp>
#include <moesaic/config/attention_rule.hpp>
#include <moesaic/cuda/kernel/math.hpp>
#include <moesaic/cuda/kernel/rows.hpp>
#include <moesaic/cuda/tuning/tuning.hpp>

namespace moesaic::cuda {

enum class head_change : std::uint8_t { clip, scale, gate };

/// `Count` elements at a time: 1, or wide<T>.
template <class T, int Count, head_change Change>
struct change_heads {
  static constexpr int threads = 256;
  static constexpr rung needs = rung::simt;
  struct params {
    view<T> x;                           // [tokens, width]
    view<const T> gate;                  // [tokens, width], for gate alone, as the next two for scale and the last for clip
    std::int32_t const* position;        // [tokens]
    query_temperature temperature;
    float limit;
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    for (std::int64_t t = device::block_x(); t < p.x.rows; t += device::grid_x()) {
      float factor = 1.0f;
      if constexpr (Change == head_change::scale) factor = temperature_at<float>(p.temperature, p.position[t]);
      for_each_run<Count, threads>(p.x.columns, [&](std::int64_t at) {
        float x[Count], gate[Count];
        load_run<Count>(p.x.row(t), at, x);
        if constexpr (Change == head_change::gate) load_run<Count>(p.gate.row(t), at, gate);
        MOESAIC_UNROLL
        for (int i = 0; i < Count; ++i) {
          if constexpr (Change == head_change::clip) x[i] = x[i] < -p.limit ? -p.limit : x[i] > p.limit ? p.limit : x[i];   // NaN stays
          if constexpr (Change == head_change::scale) x[i] *= factor;
          if constexpr (Change == head_change::gate) x[i] /= device::fma(exp(-gate[i]), 1.0f, 1.0f);
        }
        store_run<Count>(p.x.row(t), at, x);
      });
    }
  }
};

}  // namespace moesaic::cuda
