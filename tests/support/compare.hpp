// Two matrices to the place where they differ most, relative to the row. NaN and infinity never pass.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include <moesaic/base/view.hpp>

namespace moesaic::test {

/// `worst` is the largest |got − want| / (largest |want| of its row, or 1 for a row of zeros); infinite where a shape differs or a value
/// of either side is not finite.
struct difference {
  double worst = 0;
  std::int64_t row = 0, column = 0;
  double got = 0, want = 0;
};

inline std::string to_string(difference const& d) {
  return "worst relative difference " + std::to_string(d.worst) + " at [" + std::to_string(d.row) + ", " + std::to_string(d.column) + "]: got " +
         std::to_string(d.got) + ", want " + std::to_string(d.want);
}

template <class Got, class Want>
difference compare(view<const Got> got, view<const Want> want) {
  constexpr auto infinite = std::numeric_limits<double>::infinity();
  difference found;
  if (got.rows != want.rows || got.columns != want.columns) return {infinite, got.rows, got.columns, 0, 0};
  for (std::int64_t r = 0; r < want.rows; ++r) {
    double scale = 0;
    for (std::int64_t c = 0; c < want.columns; ++c) scale = std::fmax(scale, std::fabs(static_cast<double>(want(r, c))));
    for (std::int64_t c = 0; c < want.columns; ++c) {
      auto const g = static_cast<double>(got(r, c)), w = static_cast<double>(want(r, c));
      auto const error = std::isfinite(g) && std::isfinite(w) ? std::fabs(g - w) / (scale > 0 ? scale : 1) : infinite;
      if (!(error <= found.worst)) found = {error, r, c, g, w};
    }
  }
  return found;
}

/// Whether both hold the same bits.
template <class T>
bool same_bits(view<const T> a, view<const T> b) {
  if (a.rows != b.rows || a.columns != b.columns) return false;
  for (std::int64_t r = 0; r < a.rows; ++r)
    if (std::memcmp(a.row(r), b.row(r), static_cast<std::size_t>(a.columns) * sizeof(T)) != 0) return false;
  return true;
}

}  // namespace moesaic::test
