// Turns float into the 8 and 16 bit formats and back: bf16, fp16, e4m3, e5m2, e8m0, as structs over their raw bits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/bits.hpp>
#include <moesaic/base/macros.hpp>

namespace moesaic {

namespace floats {

inline constexpr std::uint32_t sign_bit = 0x8000'0000u;
inline constexpr std::uint32_t infinity = 0x7f80'0000u;   // of float, without sign; above it lie the NaNs

/// 2^exponent for exponents of normal floats.
MOESAIC_FN constexpr float power_of_two(int exponent) { return bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23); }

/// Value of exponent and mantissa bits `code` (no sign, finite) of a format with `Mantissa` bits of mantissa and exponent bias `Bias`.
template <int Mantissa, int Bias>
MOESAIC_FN constexpr float decode(std::uint32_t code) {
  if ((code >> Mantissa) == 0) return static_cast<float>(code) * power_of_two(1 - Bias - Mantissa);   // subnormal
  return bit_cast<float>((code << (23 - Mantissa)) + (static_cast<std::uint32_t>(127 - Bias) << 23));
}

/// The nearest code, ties to even, of a float's bits without sign. Beyond the largest code the numbering goes on as if there were
/// more exponents, so that the caller can clamp to infinity or to the largest finite value; it sorts out NaN before.
template <int Mantissa, int Bias>
MOESAIC_FN constexpr std::uint32_t encode(std::uint32_t magnitude) {
  constexpr auto shift = 23 - Mantissa;
  constexpr auto rebias = static_cast<std::uint32_t>(127 - Bias) << 23;
  if (magnitude < rebias + (1u << 23)) {
    // Below the smallest normal value codes are equally far apart: let the float adder round to the last place of an anchor whose
    // last place is that distance.
    constexpr auto anchor = power_of_two(1 - Bias - Mantissa + 23);
    return bit_cast<std::uint32_t>(anchor + bit_cast<float>(magnitude)) - bit_cast<std::uint32_t>(anchor);
  }
  auto const odd = (magnitude >> shift) & 1u;
  return (magnitude - rebias + ((1u << (shift - 1)) - 1u) + odd) >> shift;
}

MOESAIC_FN constexpr std::uint32_t at_most(std::uint32_t code, std::uint32_t limit) { return code < limit ? code : limit; }

}  // namespace floats

/// The upper half of a float: 8 bits of exponent, 7 of mantissa.
struct bf16 {
  std::uint16_t bits;

  bf16() = default;
  /// Nearest, ties to even; beyond the largest value infinity. NaN stays NaN.
  MOESAIC_FN constexpr explicit bf16(float x) : bits(encode(bit_cast<std::uint32_t>(x))) {}
  MOESAIC_FN static constexpr bf16 from_bits(std::uint16_t b) {
    bf16 y(0.0f);
    y.bits = b;
    return y;
  }
  MOESAIC_FN constexpr operator float() const { return bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

 private:
  MOESAIC_FN static constexpr std::uint16_t encode(std::uint32_t x) {
    // The quiet bit is set, or a NaN whose payload lies below bit 16 would turn into infinity.
    if ((x & ~floats::sign_bit) > floats::infinity) return static_cast<std::uint16_t>((x >> 16) | 0x40u);
    return static_cast<std::uint16_t>((x + 0x7fffu + ((x >> 16) & 1u)) >> 16);
  }
};

/// IEEE 754 binary16: 5 bits of exponent, 10 of mantissa.
struct fp16 {
  std::uint16_t bits;

  fp16() = default;
  /// Nearest, ties to even; from 65520 on infinity. NaN stays NaN.
  MOESAIC_FN constexpr explicit fp16(float x) : bits(encode(bit_cast<std::uint32_t>(x))) {}
  MOESAIC_FN static constexpr fp16 from_bits(std::uint16_t b) {
    fp16 y(0.0f);
    y.bits = b;
    return y;
  }
  MOESAIC_FN constexpr operator float() const {
    auto const sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    auto const code = static_cast<std::uint32_t>(bits & 0x7fffu);
    auto const magnitude =
        code < 0x7c00u ? bit_cast<std::uint32_t>(floats::decode<10, 15>(code)) : floats::infinity | ((code & 0x3ffu) << 13);
    return bit_cast<float>(sign | magnitude);
  }

 private:
  MOESAIC_FN static constexpr std::uint16_t encode(std::uint32_t x) {
    auto const sign = (x >> 16) & 0x8000u;
    auto const magnitude = x & ~floats::sign_bit;
    auto const code = magnitude > floats::infinity ? 0x7e00u | ((magnitude >> 13) & 0x3ffu)
                                                   : floats::at_most(floats::encode<10, 15>(magnitude), 0x7c00u);
    return static_cast<std::uint16_t>(sign | code);
  }
};

/// OCP FP8 E4M3 ("fn"): 4 bits of exponent, 3 of mantissa, no infinity, largest value 448, NaN 0x7f and 0xff.
struct e4m3 {
  static constexpr float max = 448.0f;
  std::uint8_t bits;

  e4m3() = default;
  /// Nearest, ties to even, saturating to ±448, infinity included. NaN stays NaN.
  MOESAIC_FN constexpr explicit e4m3(float x) : bits(encode(bit_cast<std::uint32_t>(x))) {}
  MOESAIC_FN static constexpr e4m3 from_bits(std::uint8_t b) {
    e4m3 y(0.0f);
    y.bits = b;
    return y;
  }
  MOESAIC_FN constexpr operator float() const {
    auto const sign = static_cast<std::uint32_t>(bits & 0x80u) << 24;
    auto const code = static_cast<std::uint32_t>(bits & 0x7fu);
    auto const magnitude = code != 0x7fu ? bit_cast<std::uint32_t>(floats::decode<3, 7>(code)) : 0x7fc0'0000u;
    return bit_cast<float>(sign | magnitude);
  }

 private:
  MOESAIC_FN static constexpr std::uint8_t encode(std::uint32_t x) {
    auto const sign = (x >> 24) & 0x80u;
    auto const magnitude = x & ~floats::sign_bit;
    auto const code = magnitude > floats::infinity ? 0x7fu : floats::at_most(floats::encode<3, 7>(magnitude), 0x7eu);
    return static_cast<std::uint8_t>(sign | code);
  }
};

/// OCP FP8 E5M2: 5 bits of exponent, 2 of mantissa, largest finite value 57344, infinity and NaN as in IEEE formats.
struct e5m2 {
  static constexpr float max = 57344.0f;
  std::uint8_t bits;

  e5m2() = default;
  /// Nearest, ties to even, saturating to ±57344, infinity included. NaN stays NaN.
  MOESAIC_FN constexpr explicit e5m2(float x) : bits(encode(bit_cast<std::uint32_t>(x), 0x7bu)) {}
  /// Nearest, ties to even; from 61440 on infinity.
  MOESAIC_FN static constexpr e5m2 unsaturated(float x) { return from_bits(encode(bit_cast<std::uint32_t>(x), 0x7cu)); }
  MOESAIC_FN static constexpr e5m2 from_bits(std::uint8_t b) {
    e5m2 y(0.0f);
    y.bits = b;
    return y;
  }
  MOESAIC_FN constexpr operator float() const {
    auto const sign = static_cast<std::uint32_t>(bits & 0x80u) << 24;
    auto const code = static_cast<std::uint32_t>(bits & 0x7fu);
    auto const magnitude =
        code < 0x7cu ? bit_cast<std::uint32_t>(floats::decode<2, 15>(code)) : floats::infinity | ((code & 3u) << 21);
    return bit_cast<float>(sign | magnitude);
  }

 private:
  MOESAIC_FN static constexpr std::uint8_t encode(std::uint32_t x, std::uint32_t largest) {
    auto const sign = (x >> 24) & 0x80u;
    auto const magnitude = x & ~floats::sign_bit;
    auto const code = magnitude > floats::infinity ? 0x7fu : floats::at_most(floats::encode<2, 15>(magnitude), largest);
    return static_cast<std::uint8_t>(sign | code);
  }
};

/// OCP E8M0: a power of two, 2^(code - 127), for scales. No sign, no zero, no infinity; 255 is NaN.
struct e8m0 {
  std::uint8_t bits;

  e8m0() = default;
  /// The nearest power of two of |x|, 1.5 · 2^n upwards; saturating to 2^±127. NaN stays NaN.
  MOESAIC_FN constexpr explicit e8m0(float x) : bits(encode(bit_cast<std::uint32_t>(x) & ~floats::sign_bit)) {}
  MOESAIC_FN static constexpr e8m0 from_bits(std::uint8_t b) {
    e8m0 y(1.0f);
    y.bits = b;
    return y;
  }
  MOESAIC_FN constexpr operator float() const {
    if (bits == 0) return bit_cast<float>(0x0040'0000u);   // 2^-127 is a subnormal float
    if (bits == 255) return bit_cast<float>(0x7fc0'0000u);
    return bit_cast<float>(static_cast<std::uint32_t>(bits) << 23);
  }

 private:
  MOESAIC_FN static constexpr std::uint8_t encode(std::uint32_t magnitude) {
    if (magnitude > floats::infinity) return 255;
    // Below 2^-126 a float has no leading one: the middle of 2^-127 and 2^-126 is 1.5 · 2^-127.
    if (magnitude < (1u << 23)) return magnitude >= 0x0060'0000u ? 1 : 0;
    return static_cast<std::uint8_t>(floats::at_most((magnitude + 0x0040'0000u) >> 23, 254u));
  }
};

}  // namespace moesaic
