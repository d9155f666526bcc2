// A head's sums to logits: a factor, and a soft cap.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <moesaic/base/view.hpp>
#include <moesaic/host/pool.hpp>

namespace moesaic::host {

/// In place: x = cap · tanh(scale · x / cap); of cap 0, x = scale · x. x [tokens, vocabulary], float or double.
template <class T>
void scale_and_cap(pool& where, double scale, double cap, view<T> x) {
  constexpr std::int64_t piece = 4096;                                      // one row is work for several threads
  auto const pieces = (x.columns + piece - 1) / piece;
  auto const factor = static_cast<T>(scale), limit = static_cast<T>(cap);
  where.for_each(x.rows * pieces, [&](std::int64_t task) {
    auto* const row = x.row(task / pieces);
    auto const first = task % pieces * piece, last = std::min(first + piece, x.columns);
    for (std::int64_t c = first; c < last; ++c) {
      auto const scaled = factor * row[c];
      row[c] = cap == 0.0 ? scaled : limit * std::tanh(scaled / limit);
    }
  });
}

}  // namespace moesaic::host
