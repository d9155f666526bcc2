// Positions into queries and keys: pairs of elements turned by position · frequency, a block a token.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <moesaic/base/math.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/block_config.hpp>
#include <moesaic/config/rope.hpp>
#include <moesaic/cuda/kernel/rows.hpp>
#include <moesaic/cuda/tuning/tuning.hpp>

namespace moesaic::cuda {

/// In place: pair (a, b) of every head becomes (a cos − b sin, b cos + a sin). Angles in float from frequencies rounded to float; at bf16 cos and sin are
/// rounded to bf16 first, as the host does.
template <class T, rope_layout Layout>
struct rotate_rows {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::simt;
  struct params {
    view<T> x;                           // [tokens, heads · 2 · pairs]
    std::int32_t const* position;        // [tokens]
    double const* frequency;             // [pairs] radians a position
    int heads, pairs;
  };
  struct shared {
    float cosine[most_rope_pairs], sine[most_rope_pairs];
  };

  MOESAIC_DEVICE void operator()(params const& p) const {
    auto& turn = device::shared<shared>();
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    for (std::int64_t t = device::block_x(); t < p.x.rows; t += device::grid_x()) {
      for (int i = device::thread_id(); i < p.pairs; i += threads) {
        float const angle = static_cast<float>(p.position[t]) * static_cast<float>(p.frequency[i]);
        turn.cosine[i] = rounded<T>(std::cos(angle));
        turn.sine[i] = rounded<T>(std::sin(angle));
      }
      device::block_sync();
      T* const row = p.x.row(t);
      for (int at = device::thread_id(); at < p.heads * p.pairs; at += threads) {
        int const i = at % p.pairs;
        T* const head = row + static_cast<std::int64_t>(at / p.pairs) * 2 * p.pairs;
        T* const first = Layout == rope_layout::half_split ? head + i : head + 2 * i;
        T* const second = Layout == rope_layout::half_split ? first + p.pairs : first + 1;
        float const a = static_cast<float>(*first), b = static_cast<float>(*second), c = turn.cosine[i], s = turn.sine[i];
        *first = static_cast<T>(a * c - b * s);
        *second = static_cast<T>(b * c + a * s);
      }
      device::block_sync();              // the table is free for the next token
    }
  }
};

}  // namespace moesaic::cuda
