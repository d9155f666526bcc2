// Turns a group of weights into codes and one scale, and back: int8, int4 (symmetric or with a zero point), e4m3, mxfp4.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/bits.hpp>
#include <moesaic/base/dtype.hpp>
#include <moesaic/base/floats.hpp>
#include <moesaic/base/macros.hpp>
#include <moesaic/base/view.hpp>

namespace moesaic {

/// What the weights of one group share.
struct group_scale {
  float scale = 1;   ///< of mxfp4 a power of two, exact as e8m0
  int zero = 0;      ///< code of 0.0, 0 .. 15; 0 unless the format has zero points
};

namespace groups {

/// Nearest integer, ties to even, of |x| < 2^22.
MOESAIC_FN constexpr int nearest(float x) {
  constexpr auto anchor = 0x1.8p23f;   // floats this large are whole numbers: the adder rounds
  return static_cast<int>(bit_cast<std::uint32_t>(x + anchor) - bit_cast<std::uint32_t>(anchor));
}

MOESAIC_FN constexpr float smaller(float a, float b) { return b < a ? b : a; }
MOESAIC_FN constexpr float larger(float a, float b) { return b > a ? b : a; }
MOESAIC_FN constexpr int clamp(int x, int least, int most) { return x < least ? least : x > most ? most : x; }

/// E2M1, four bits: sign and one of 0, 0.5, 1, 1.5, 2, 3, 4, 6. Nearest, ties to the even code, saturating to ±6.
MOESAIC_FN constexpr std::uint32_t encode_e2m1(float x) {
  auto const sign = bit_cast<std::uint32_t>(x) & floats::sign_bit;
  auto const a = bit_cast<float>(bit_cast<std::uint32_t>(x) ^ sign);
  // Counts the midpoints passed; one whose upper neighbour is even belongs to that neighbour.
  auto const magnitude = (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) + (a >= 3.5f) + (a > 5.0f);
  return static_cast<std::uint32_t>(magnitude) | (sign >> 28);
}
MOESAIC_FN constexpr float decode_e2m1(std::uint32_t code) {
  auto const magnitude = floats::decode<1, 1>(code & 7u);
  return (code & 8u) != 0 ? -magnitude : magnitude;
}

/// Scale, and zero point, of a group whose weights lie in [least, most]. A group of zeros gets a small scale and codes 0.
///   int8, int4    amax / 127, amax / 7
///   zero point    (most - least) / 15, the range widened to hold 0; zero = -least / scale, rounded
///   e4m3          max(amax, 1e-4) / 448 (DeepSeek-V3 technical report, section 3.3)
///   mxfp4         2^(floor(log2 amax) - 2), at least 2^-127 (OCP microscaling formats 1.0, section 6.3)
template <dtype D>
MOESAIC_FN constexpr group_scale scale_for(float least, float most, bool zero_point = false) {
  auto const amax = larger(-least, most);
  if constexpr (D == dtype::int8) {
    return {larger(amax, 1e-30f) / 127.0f, 0};
  } else if constexpr (D == dtype::int4) {
    if (!zero_point) return {larger(amax, 1e-30f) / 7.0f, 0};
    auto const low = smaller(least, 0.0f);
    auto const scale = larger(larger(most, 0.0f) - low, 1e-30f) / 15.0f;
    return {scale, clamp(nearest(-low / scale), 0, 15)};
  } else if constexpr (D == dtype::e4m3) {
    return {larger(amax, 1e-4f) / e4m3::max, 0};
  } else {
    static_assert(D == dtype::mxfp4, "only int8, int4, e4m3 and mxfp4 have scales");
    auto const exponent = bit_cast<std::uint32_t>(larger(amax, 0x1p-125f)) >> 23;   // floor(log2) + 127
    return {e8m0::from_bits(static_cast<std::uint8_t>(exponent - 2)), 0};
  }
}

/// The least power of two that is not below a scale: 2^⌈log2 s⌉. s: positive, a normal float of at most 2^127.
MOESAIC_FN constexpr float power_of_two_from(float s) {
  constexpr auto mantissa = (1u << 23) - 1;
  return bit_cast<float>((bit_cast<std::uint32_t>(s) + mantissa) & ~mantissa);
}

/// Inputs of a row that share a scale where activations become codes, and that scale: of up to so many of which `largest` is the largest magnitude.
inline constexpr int input_group = 128;
MOESAIC_FN constexpr group_scale input_scale(input_codes codes, float largest) {
  auto s = scale_for<dtype::e4m3>(0, largest);
  if (codes == input_codes::e4m3_power_of_two) s.scale = power_of_two_from(s.scale);
  return s;
}

/// The code of a weight: 8 or 4 bits. Signed integers are in two's complement; codes with a zero point are 0 .. 15.
template <dtype D>
MOESAIC_FN constexpr std::uint32_t encode(float w, group_scale s, bool zero_point = false) {
  auto const x = w / s.scale;
  if constexpr (D == dtype::int8) return static_cast<std::uint32_t>(clamp(nearest(x), -127, 127)) & 0xffu;
  else if constexpr (D == dtype::int4)
    return static_cast<std::uint32_t>(zero_point ? clamp(nearest(x) + s.zero, 0, 15) : clamp(nearest(x), -7, 7)) & 0xfu;
  else if constexpr (D == dtype::e4m3) return e4m3(x).bits;
  else return encode_e2m1(x);
}

/// The weight of a code: one rounding to float, of code · scale.
template <dtype D>
MOESAIC_FN constexpr float decode(std::uint32_t code, group_scale s, bool zero_point = false) {
  if constexpr (D == dtype::int8) return static_cast<float>(static_cast<std::int8_t>(code)) * s.scale;
  else if constexpr (D == dtype::int4)
    return static_cast<float>(zero_point ? static_cast<int>(code) - s.zero : static_cast<int>(code ^ 8u) - 8) * s.scale;
  else if constexpr (D == dtype::e4m3) return static_cast<float>(e4m3::from_bits(static_cast<std::uint8_t>(code))) * s.scale;
  else return decode_e2m1(code) * s.scale;
}

/// The rectangle of a matrix that shares one scale.
struct extent {
  std::int64_t rows = 1;
  std::int64_t inputs = 0;   ///< 0: all
};

/// Of weights stored as `f`. Activations use {1, 128}.
MOESAIC_FN constexpr extent extent_of(format f) { return {f.type == dtype::e4m3 ? f.group : 1, f.group}; }

/// Scales of a matrix [rows, inputs]: along rows, and along inputs. Edge groups are smaller.
MOESAIC_FN constexpr extent scales_of(std::int64_t rows, std::int64_t inputs, extent group) {
  return {(rows + group.rows - 1) / group.rows, group.inputs == 0 ? 1 : (inputs + group.inputs - 1) / group.inputs};
}

namespace detail {
// Calls f(row, column, first row, end row, first input, end input) for every group.
template <class F>
MOESAIC_FN void for_each_group(std::int64_t rows, std::int64_t inputs, extent group, F f) {
  auto const wide = group.inputs == 0 ? inputs : group.inputs;
  for (std::int64_t n = 0; n < rows; n += group.rows)
    for (std::int64_t k = 0; k < inputs; k += wide)
      f(n / group.rows, k / wide, n, n + group.rows < rows ? n + group.rows : rows, k, k + wide < inputs ? k + wide : inputs);
}
}  // namespace detail

/// w [rows, inputs] into codes [rows, inputs], one a byte, and scales (shape: scales_of). The weights must be finite.
template <dtype D>
MOESAIC_FN void quantize(view<const float> w, extent group, view<std::uint8_t> codes, view<group_scale> scales, bool zero_point = false) {
  detail::for_each_group(w.rows, w.columns, group, [&](auto i, auto j, auto n0, auto n1, auto k0, auto k1) {
    auto least = w(n0, k0), most = w(n0, k0);
    for (auto n = n0; n < n1; ++n)
      for (auto k = k0; k < k1; ++k) {
        least = smaller(least, w(n, k));
        most = larger(most, w(n, k));
      }
    scales(i, j) = scale_for<D>(least, most, zero_point);
    for (auto n = n0; n < n1; ++n)
      for (auto k = k0; k < k1; ++k) codes(n, k) = static_cast<std::uint8_t>(encode<D>(w(n, k), scales(i, j), zero_point));
  });
}

/// The way back: codes [rows, inputs] and scales into w [rows, inputs].
template <dtype D>
MOESAIC_FN void dequantize(view<const std::uint8_t> codes, view<const group_scale> scales, extent group, view<float> w,
                           bool zero_point = false) {
  detail::for_each_group(w.rows, w.columns, group, [&](auto i, auto j, auto n0, auto n1, auto k0, auto k1) {
    for (auto n = n0; n < n1; ++n)
      for (auto k = k0; k < k1; ++k) w(n, k) = decode<D>(codes(n, k), scales(i, j), zero_point);
  });
}

}  // namespace groups
}  // namespace moesaic
