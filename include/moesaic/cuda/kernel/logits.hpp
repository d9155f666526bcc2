// A head's sums to logits, a block a piece of a row.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <moesaic/base/view.hpp>
#include <moesaic/cuda/kernel/rows.hpp>
#include <moesaic/cuda/tuning/tuning.hpp>

namespace moesaic::cuda {

/// In place: x = cap · tanh(scale · x / cap), or scale · x. A row is a whole vocabulary, and of few rows decode has one: so it is cut up.
struct scale_and_cap_pieces {
  static constexpr int threads = 256;
  static constexpr rung needs = rung::simt;
  static constexpr std::int64_t columns = 4 * threads;
  struct params {
    view<float> x;                       // [tokens, vocabulary]
    float scale, cap;                    // cap 0: none
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    auto const pieces = (p.x.columns + columns - 1) / columns;
    for (std::int64_t i = device::block_x(); i < p.x.rows * pieces; i += device::grid_x()) {
      float* const row = p.x.row(i / pieces);
      auto const first = i % pieces * columns;
      auto const last = first + columns < p.x.columns ? first + columns : p.x.columns;
      for (auto c = first + device::thread_id(); c < last; c += threads) {
        float const scaled = p.scale * row[c];
        row[c] = p.cap == 0.0f ? scaled : p.cap * std::tanh(scaled / p.cap);
      }
    }
  }
};

}  // namespace moesaic::cuda
