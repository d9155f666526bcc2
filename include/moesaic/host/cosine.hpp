// Products of rows -> cosines of the angles between them, for routers that score by direction.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <moesaic/base/math.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/host/pack.hpp>
#include <moesaic/host/pool.hpp>

namespace moesaic::host {

/// length[n] = |row n of w|, Euclidean. length [outputs].
inline void row_lengths(pool& where, packed_matrix const& w, list<double> length) {
  where.for_each(w.outputs, [&](std::int64_t n) {
    double sum = 0;
    for (std::int64_t k = 0; k < w.inputs; ++k) {
      auto const value = static_cast<double>(unpack(w, 0, 0, n, k));
      sum += value * value;
    }
    length[n] = std::sqrt(sum);
  });
}

/// y[t][n] *= scale / (|x[t]| · length[n]): products become cosines (Chi et al., arXiv 2204.09179). A row without a length, of x or of the
/// weights, has the cosine 0 with every other: lengths count as 1e-12 at least. x [tokens, hidden], y [tokens, outputs], length [outputs].
template <class X>
void to_cosines(pool& where, view<const X> x, list<const double> length, double scale, view<accumulator<X>> y) {
  using sum = accumulator<X>;
  auto const at_least = [](double value) { return value < 1e-12 ? 1e-12 : value; };            // NaN stays NaN
  where.for_each(x.rows, [&](std::int64_t t) {
    double square = 0;
    for (std::int64_t i = 0; i < x.columns; ++i) {
      auto const value = static_cast<double>(static_cast<sum>(x(t, i)));
      square += value * value;
    }
    double const of_x = scale / at_least(std::sqrt(square));
    for (std::int64_t n = 0; n < y.columns; ++n) y(t, n) = static_cast<sum>(static_cast<double>(y(t, n)) * (of_x / at_least(length[n])));
  });
}

}  // namespace moesaic::host
