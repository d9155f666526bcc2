// The few standard constants and casts that device code needs, spelled so that nvcc takes them without flags.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>

#include <moesaic/base/macros.hpp>

namespace moesaic {

/// std::bit_cast, which nvcc knows on the host only.
template <class To, class From>
MOESAIC_INLINE constexpr To bit_cast(From const& from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast is between types of one size");
  return __builtin_bit_cast(To, from);
}

/// std::popcount, the same way.
MOESAIC_INLINE constexpr int count_ones(std::uint32_t word) { return __builtin_popcount(word); }

/// +∞, the least number and a quiet NaN of a floating-point type: constants, where std::numeric_limits has host functions.
template <class T>
inline constexpr T infinity = std::numeric_limits<T>::infinity();
template <class T>
inline constexpr T least_number = std::numeric_limits<T>::lowest();
template <class T>
inline constexpr T not_a_number = std::numeric_limits<T>::quiet_NaN();

}  // namespace moesaic
