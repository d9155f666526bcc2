// Rows to rows of unit size: RMS norm and LayerNorm, a block a row, or a warp a head.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/math.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/block_config.hpp>
#include <moesaic/cuda/kernel/rows.hpp>
#include <moesaic/cuda/tuning/tuning.hpp>

namespace moesaic::cuda {

/// A unit value times its weight, where there is one: rounded before they meet, or not, as the host does.
template <class T>
MOESAIC_DEVICE float weighed_unit(float unit, float const* weight, std::int64_t at, norm_cast cast, float offset) {
  if (weight == nullptr) return unit;
  if (cast == norm_cast::before_weight) unit = rounded<T>(unit);
  return unit * (weight[at] + offset);
}

/// y = x normalised along its columns, times weight and its offset, plus bias; with `Adds` of x + factor · added, which is written to `sum` first,
/// rounded to T: the residual stream and its norm in one pass. `Count` elements at a time: 1, or wide<T>.
template <class T, int Count, bool Adds>
struct normalize_rows {
  static constexpr int threads = 256;
  static constexpr rung needs = rung::simt;
  struct params {
    view<const T> x, added;              // [tokens, width]
    view<T> sum, y;                      // y may be x, or sum
    float const* weight;                 // [width] or null: ones
    float const* bias;                   // [width] or null
    float epsilon;
    norm_kind kind;
    norm_cast cast = norm_cast::before_weight;
    float weight_offset = 0.0f;
    float factor = 1.0f;                 // of `added`
  };
  using reduce = device::block_reduce<float, threads>;
  struct shared {
    typename reduce::scratch first, second;
  };

  MOESAIC_DEVICE void operator()(params const& p) const {
    auto& memory = device::shared<shared>();
    auto const columns = p.x.columns;
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    for (std::int64_t t = device::block_x(); t < p.x.rows; t += device::grid_x()) {
      T const* row = p.x.row(t);
      if constexpr (Adds) {
        for_each_run<Count, threads>(columns, [&](std::int64_t at) {
          float a[Count], b[Count];
          load_run<Count>(row, at, a);
          load_run<Count>(p.added.row(t), at, b);
          MOESAIC_UNROLL
          for (int i = 0; i < Count; ++i) a[i] = device::fma(p.factor, b[i], a[i]);
          store_run<Count>(p.sum.row(t), at, a);
        });
        row = p.sum.row(t);              // each thread reads what it wrote
      }
      float mean = 0.0f, squares = 0.0f;
      if (p.kind == norm_kind::layer) {
        float total = 0.0f;
        for_each_run<Count, threads>(columns, [&](std::int64_t at) {
          float x[Count];
          load_run<Count>(row, at, x);
          MOESAIC_UNROLL
          for (int i = 0; i < Count; ++i) total += x[i];
        });
        mean = reduce::sum(total, memory.first) / static_cast<float>(columns);
      }
      for_each_run<Count, threads>(columns, [&](std::int64_t at) {
        float x[Count];
        load_run<Count>(row, at, x);
        MOESAIC_UNROLL
        for (int i = 0; i < Count; ++i) squares += (x[i] - mean) * (x[i] - mean);
      });
      float const scale = 1.0f / std::sqrt(reduce::sum(squares, memory.second) / static_cast<float>(columns) + p.epsilon);
      for_each_run<Count, threads>(columns, [&](std::int64_t at) {
        float x[Count];
        load_run<Count>(row, at, x);
        MOESAIC_UNROLL
        for (int i = 0; i < Count; ++i) x[i] = finished(p, at + i, (x[i] - mean) * scale);
        store_run<Count>(p.y.row(t), at, x);
      });
      device::block_sync();              // the scratch is free for the next row
    }
  }

 private:
  // LayerNorm rounds once.
  MOESAIC_DEVICE static float finished(params const& p, std::int64_t at, float unit) {
    unit = weighed_unit<T>(unit, p.weight, at, p.kind == norm_kind::rms ? p.cast : norm_cast::after_weight, p.weight_offset);
    return p.bias != nullptr ? unit + p.bias[at] : unit;
  }
};

/// RMS norm in place of each head by itself, a warp a head: x [tokens, heads · head_dim], weight [head_dim].
template <class T>
struct normalize_each_head {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::simt;
  struct params {
    view<T> x;
    float const* weight;
    float epsilon;
    int heads, head_dim;
    norm_cast cast = norm_cast::before_weight;
    float weight_offset = 0.0f;
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    constexpr int warps = threads / device::warp_size;
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    auto const all = p.x.rows * p.heads;
    for (std::int64_t h = static_cast<std::int64_t>(device::block_x()) * warps + device::warp_id(); h < all; h += static_cast<std::int64_t>(device::grid_x()) * warps) {
      T* const head = p.x.row(h / p.heads) + h % p.heads * p.head_dim;
      float squares = 0.0f;
      for (int i = device::lane_id(); i < p.head_dim; i += device::warp_size) {
        auto const x = static_cast<float>(head[i]);
        squares += x * x;
      }
      float const scale = 1.0f / std::sqrt(device::warp_sum(squares) / static_cast<float>(p.head_dim) + p.epsilon);
      for (int i = device::lane_id(); i < p.head_dim; i += device::warp_size) {
        head[i] = static_cast<T>(weighed_unit<T>(static_cast<float>(head[i]) * scale, p.weight, i, p.cast, p.weight_offset));
      }
    }
  }
};

}  // namespace moesaic::cuda
