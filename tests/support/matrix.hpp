// An owning matrix for tests: from random numbers with a seed, from a tensor of an oracle file, or from another element type.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <moesaic/base/math.hpp>
#include <moesaic/base/random.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/io/safetensors.hpp>

namespace moesaic::test {

template <class T>
struct matrix {
  std::int64_t rows = 0, columns = 0;
  std::vector<T> data;

  matrix() = default;
  matrix(std::int64_t rows_, std::int64_t columns_)
      : rows(rows_), columns(columns_), data(static_cast<std::size_t>(rows_ * columns_), static_cast<T>(accumulator<T>(0))) {}

  T& operator()(std::int64_t r, std::int64_t c) { return data[static_cast<std::size_t>(r * columns + c)]; }
  T const& operator()(std::int64_t r, std::int64_t c) const { return data[static_cast<std::size_t>(r * columns + c)]; }
  moesaic::view<T> view() { return {data.data(), rows, columns}; }
  moesaic::view<const T> view() const { return {data.data(), rows, columns}; }
};

/// Rounded to nearest where To is narrower.
template <class To, class From>
matrix<To> convert(matrix<From> const& from) {
  matrix<To> to(from.rows, from.columns);
  for (std::size_t i = 0; i < from.data.size(); ++i) to.data[i] = static_cast<To>(static_cast<accumulator<To>>(from.data[i]));
  return to;
}

/// Normal, mean 0, variance 1.
template <class T>
matrix<T> random_matrix(std::int64_t rows, std::int64_t columns, random_stream& random) {
  matrix<T> m(rows, columns);
  for (auto& x : m.data) x = static_cast<T>(random.normal());
  return m;
}

inline std::string oracle_path(std::string const& name) {
  return std::string(MOESAIC_SOURCE_DIR) + "/tests/oracle/data/" + name + ".safetensors";
}

/// A tensor, its first dimension as rows and all others side by side; a list is one row.
template <class T>
matrix<T> read_matrix(safetensors const& file, std::string const& name) {
  matrix<T> m;
  m.data = read<T>(file, name);
  auto const shape = file.find(name)->shape;
  m.rows = shape.size == 1 ? 1 : shape[0];
  m.columns = static_cast<std::int64_t>(m.data.size()) / m.rows;
  return m;
}

}  // namespace moesaic::test
