// What the tests of packed products share: random packed matrices of any format, rows with guards around them, and sums in double.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <moesaic/base/math.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/base/random.hpp>
#include <moesaic/host/memory.hpp>
#include <moesaic/host/pack.hpp>
#include <support/levels.hpp>

namespace moesaic::test {

/// A packed matrix with memory of its own and random weights: mostly normal, of groups with unlike magnitudes, some exactly zero.
struct random_packed {
  host::buffer memory;
  packed_matrix matrix;

  random_packed(packed_matrix shape, random_stream& random) : memory(static_cast<std::size_t>(packed::bytes(shape))), matrix(shape) {
    for (std::int64_t e = 0; e < shape.count; ++e)
      host::pack(shape, e,
                 [&](int part, std::int64_t output, float* row) {
                   random_stream own(random.at(static_cast<std::uint64_t>((e * 2 + part) * shape.outputs + output)));   // a row may be asked for twice
                   for (std::int64_t k = 0; k < shape.inputs; ++k)
                     row[k] = own.below(16) == 0 ? 0.0f : own.normal() * (k / 32 % 3 == 0 ? 0.02f : 0.3f);
                 },
                 memory.data());
    matrix.data = memory.data();
    random.next();
  }
  /// Row `output` of part `part` of matrix `e`, [inputs].
  std::vector<float> row(std::int64_t e, int part, std::int64_t output) const {
    std::vector<float> w(static_cast<std::size_t>(matrix.inputs));
    host::unpack_row(matrix, e, part, output, w.data());
    return w;
  }
};

/// Rows with NaN before, between and behind: whoever reads past a row's end spoils a sum, whoever writes there is found.
/// The first element is not aligned to more than itself.
template <class T>
struct guarded {
  static constexpr std::int64_t gap = 3;
  std::vector<T> data;
  view<T> rows;

  guarded(std::int64_t count, std::int64_t columns) : data(static_cast<std::size_t>(gap + count * (columns + gap)), not_a_number()) {
    rows = view<T>(data.data() + gap, count, columns, columns + gap);
  }
  guarded(std::int64_t count, std::int64_t columns, random_stream& random) : guarded(count, columns) {
    for (std::int64_t r = 0; r < count; ++r)
      for (std::int64_t c = 0; c < columns; ++c) rows(r, c) = static_cast<T>(random.normal());
  }
  view<const T> input() const { return rows; }
  bool guards_whole() const {
    auto const nan = not_a_number();
    for (std::size_t i = 0; i < data.size(); ++i) {
      auto const column = static_cast<std::int64_t>(i) % rows.stride;
      if (column < gap && std::memcmp(&data[i], &nan, sizeof nan) != 0) return false;
    }
    return true;
  }
  static T not_a_number() { return static_cast<T>(std::numeric_limits<accumulator<T>>::quiet_NaN()); }
};

/// bias + Σ_k w x, and the sum of magnitudes that its error bound is relative to.
struct exact_sum {
  double value = 0, magnitude = 0;
};
template <class T>
exact_sum dot(std::vector<float> const& w, const T* x, float bias) {
  exact_sum s{static_cast<double>(bias), std::fabs(static_cast<double>(bias))};
  for (std::size_t k = 0; k < w.size(); ++k) {
    auto const term = static_cast<double>(w[k]) * static_cast<double>(x[k]);
    s.value += term;
    s.magnitude += std::fabs(term);
  }
  return s;
}

inline std::string text(format f) {
  return std::string(name(f.type)) + (f.group != 0 ? "/" + std::to_string(f.group) : "") + (f.zero_point ? "/zero" : "");
}

}  // namespace moesaic::test
