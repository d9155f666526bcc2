// Expert outputs back to tokens, and the small ops on rows beside it: a block a row.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/math.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/cuda/kernel/math.hpp>
#include <moesaic/cuda/kernel/rows.hpp>
#include <moesaic/cuda/tuning/tuning.hpp>
#include <moesaic/route/plan.hpp>

namespace moesaic::cuda {

/// y[t] = residual[t] + scale · (Σ_i weights[t, i] · expert_out[slot_of_choice[t, i]] + bias + gate[t] · shared[t]), the slots in order: no atomics, the same bits
/// always. Rounded where the host rounds. `Count` columns at a time: 1, or wide<T>.
template <class T, int Count>
struct combine_rows {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::simt;
  struct params {
    view<const T> expert_out;                        // [slots, hidden]
    view<const std::int32_t> slot_of_choice;         // [tokens, top_k], −1 = unused; or empty: expert_out is mixed already
    view<const float> weights;                       // [tokens, top_k], or empty: ones
    view<const T> shared_out;                        // [tokens, hidden] or empty
    float const* gate;                               // [tokens] logits, or null: 1
    view<const T> residual;                          // [tokens, hidden] or empty: zeros
    view<T> y;
    combine_parts<T> parts;
    float scale;
    view<T> carried;                                 // [tokens, hidden]: takes the mixture, which is then not added; or empty
    float const* bias;                               // [hidden] or null
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    for (std::int64_t t = device::block_x(); t < p.y.rows; t += device::grid_x()) {
      float const gate = p.gate != nullptr ? sigmoid(p.gate[t]) : 1.0f;
      if (p.parts.shared_gate.data != nullptr && device::thread_id() == 0) p.parts.shared_gate(t, 0) = gate;
      for_each_run<Count, threads>(p.y.columns, [&](std::int64_t at) {
        float mixture[Count], x[Count];
        MOESAIC_UNROLL
        for (int i = 0; i < Count; ++i) mixture[i] = -0.0f;    // −0 + x is x for every x
        bool const mixed = p.slot_of_choice.data == nullptr;
        for (std::int64_t choice = 0; choice < (mixed ? 1 : p.slot_of_choice.columns); ++choice) {
          auto const slot = mixed ? t : p.slot_of_choice(t, choice);
          if (slot < 0) continue;
          float const weight = p.weights.data != nullptr ? p.weights(t, choice) : 1.0f;
          load_run<Count>(p.expert_out.row(slot), at, x);
          MOESAIC_UNROLL
          for (int i = 0; i < Count; ++i) mixture[i] += weight * x[i];
        }
        if (p.bias != nullptr) {
          MOESAIC_UNROLL
          for (int i = 0; i < Count; ++i) mixture[i] += p.bias[at + i];
        }
        if (p.parts.moe_out.data != nullptr) store_run<Count>(p.parts.moe_out.row(t), at, mixture);
        MOESAIC_UNROLL
        for (int i = 0; i < Count; ++i) mixture[i] = rounded<T>(mixture[i]);
        if (p.carried.data != nullptr) {
          store_run<Count>(p.carried.row(t), at, mixture);
          MOESAIC_UNROLL
          for (int i = 0; i < Count; ++i) mixture[i] = -0.0f;
        }
        if (p.shared_out.data != nullptr) {
          load_run<Count>(p.shared_out.row(t), at, x);
          MOESAIC_UNROLL
          for (int i = 0; i < Count; ++i) x[i] = rounded<T>(gate * x[i]);
          if (p.parts.shared_out.data != nullptr) store_run<Count>(p.parts.shared_out.row(t), at, x);
          MOESAIC_UNROLL
          for (int i = 0; i < Count; ++i) mixture[i] = rounded<T>(mixture[i] + x[i]);
        }
        if (p.parts.ffn_out.data != nullptr) store_run<Count>(p.parts.ffn_out.row(t), at, mixture);
        MOESAIC_UNROLL
        for (int i = 0; i < Count; ++i) x[i] = -0.0f;
        if (p.residual.data != nullptr) load_run<Count>(p.residual.row(t), at, x);
        MOESAIC_UNROLL
        for (int i = 0; i < Count; ++i) mixture[i] = device::fma(p.scale, mixture[i], x[i]);
        store_run<Count>(p.y.row(t), at, mixture);
      });
    }
  }
};

/// y = a + scale · b, rounded once.
template <class T, int Count>
struct add_rows {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::simt;
  struct params {
    view<const T> a, b;
    view<T> y;
    float scale = 1.0f;
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    for (std::int64_t t = device::block_x(); t < p.y.rows; t += device::grid_x())
      for_each_run<Count, threads>(p.y.columns, [&](std::int64_t at) {
        float a[Count], b[Count];
        load_run<Count>(p.a.row(t), at, a);
        load_run<Count>(p.b.row(t), at, b);
        MOESAIC_UNROLL
        for (int i = 0; i < Count; ++i) a[i] = device::fma(p.scale, b[i], a[i]);
        store_run<Count>(p.y.row(t), at, a);
      });
  }
};

/// y[slot_of_choice[t, i]] = weights[t, i] · x[t], the weight rounded to T, and the product again.
template <class T, int Count>
struct weigh_rows {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::simt;
  struct params {
    view<const T> x;                                 // [tokens, width]
    view<const std::int32_t> slot_of_choice;         // [tokens, top_k], −1 = unused
    view<const float> weights;                       // [tokens, top_k], or empty: ones
    view<T> y;                                       // [slots, width]
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    auto const top_k = static_cast<int>(p.slot_of_choice.columns);
    std::int64_t const choices = p.slot_of_choice.rows * top_k;
    for (std::int64_t i = device::block_x(); i < choices; i += device::grid_x()) {
      auto const t = i / top_k, choice = i - t * top_k;
      auto const slot = p.slot_of_choice(t, choice);
      if (slot < 0) continue;
      float const weight = p.weights.data != nullptr ? rounded<T>(p.weights(t, choice)) : 1.0f;
      for_each_run<Count, threads>(p.y.columns, [&](std::int64_t at) {
        float x[Count];
        load_run<Count>(p.x.row(t), at, x);
        MOESAIC_UNROLL
        for (int j = 0; j < Count; ++j) x[j] *= weight;
        store_run<Count>(p.y.row(slot), at, x);
      });
    }
  }
};

/// y[i] = x[row i]: row `rows[i]`, and zeros where that is negative or no row of x; the latter raises `flag`.
template <class T>
struct gather_rows {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::simt;
  struct params {
    view<const T> x;
    std::int32_t const* rows;            // [y.rows]
    view<T> y;
    std::int32_t* flag;                  // or null: a negative row is meant
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    for (std::int64_t i = device::block_x(); i < p.y.rows; i += device::grid_x()) {
      auto const row = p.rows[i];
      bool const there = row >= 0 && (p.flag == nullptr || row < p.x.rows);
      if (!there && p.flag != nullptr && device::thread_id() == 0) raise_flag(p.flag);
      for (std::int64_t c = device::thread_id(); c < p.y.columns; c += threads) p.y(i, c) = there ? p.x(row, c) : static_cast<T>(0.0f);
    }
  }
};

}  // namespace moesaic::cuda
