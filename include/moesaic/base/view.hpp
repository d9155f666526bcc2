// Non-owning views: `list` of elements, `view` of rows. No bounds are checked; the calls that take them check shapes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <type_traits>

#include <moesaic/base/macros.hpp>

namespace moesaic {

template <class T>
struct list;

namespace detail {
template <class>
inline constexpr bool is_list = false;
template <class T>
inline constexpr bool is_list<list<T>> = true;
}  // namespace detail

/// `size` elements in a row. Like std::span, and usable in device code.
template <class T>
struct list {
  T* data = nullptr;
  std::int64_t size = 0;

  constexpr list() = default;
  MOESAIC_FN constexpr list(T* first, std::int64_t count) : data(first), size(count) {}
  /// From anything contiguous: std::vector, std::array, std::span. Arrays must convert, not pointers: a derived class
  /// would bring another stride.
  template <class Range>
    requires(!detail::is_list<std::remove_cvref_t<Range>>) && requires(Range& r) {
      requires std::is_convertible_v<std::remove_pointer_t<decltype(std::data(r))> (*)[], T (*)[]>;
      static_cast<std::int64_t>(std::size(r));
    }
  constexpr list(Range&& r) : data(std::data(r)), size(static_cast<std::int64_t>(std::size(r))) {}
  /// From a list of non-const.
  template <class U>
    requires std::is_same_v<U const, T>
  MOESAIC_FN constexpr list(list<U> const& other) : data(other.data), size(other.size) {}

  MOESAIC_FN constexpr T& operator[](std::int64_t i) const { return data[i]; }
  MOESAIC_FN constexpr bool empty() const { return size == 0; }
  MOESAIC_FN constexpr T* begin() const { return data; }
  MOESAIC_FN constexpr T* end() const { return data + size; }
};

/// `rows` rows of `columns` elements, `stride` elements apart.
template <class T>
struct view {
  using element = T;
  T* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t stride = 0;

  constexpr view() = default;
  MOESAIC_FN constexpr view(T* first, std::int64_t rows_, std::int64_t columns_) : view(first, rows_, columns_, columns_) {}
  MOESAIC_FN constexpr view(T* first, std::int64_t rows_, std::int64_t columns_, std::int64_t stride_)
      : data(first), rows(rows_), columns(columns_), stride(stride_) {}
  template <class U>
    requires std::is_same_v<U const, T>
  MOESAIC_FN constexpr view(view<U> const& other) : data(other.data), rows(other.rows), columns(other.columns), stride(other.stride) {}

  MOESAIC_FN constexpr T* row(std::int64_t r) const { return data + r * stride; }
  MOESAIC_FN constexpr T& operator()(std::int64_t r, std::int64_t c) const { return data[r * stride + c]; }
};

}  // namespace moesaic
