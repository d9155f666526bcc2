// base/floats.hpp: every code of every format, against PyTorch's tables, the definition of the formats, and their neighbours.
// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <doctest/doctest.h>

#include <moesaic/base/floats.hpp>

#include <support/table.hpp>

using namespace moesaic;

namespace {


static_assert(std::is_trivially_copyable_v<bf16> && std::is_trivially_copyable_v<fp16> && std::is_trivially_copyable_v<e4m3>);
static_assert(std::is_trivial_v<e5m2> && std::is_trivial_v<e8m0> && sizeof(bf16) == 2 && sizeof(fp16) == 2 && sizeof(e4m3) == 1);
static_assert(!std::is_convertible_v<float, bf16>, "narrowing is explicit");
static_assert(bf16(1.0f).bits == 0x3f80 && e4m3(-500.0f).bits == 0xfe && float(fp16(65519.0f)) == 65504.0f);   // constant expressions

bool same_bits(float a, float b) { return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b); }

// A format as its definition has it: the number of finite non-negative codes, and the value of a code in double.
template <class F, int Mantissa, int Bias, int Finite, bool Saturates>
struct defined {
  using type = F;
  using code_type = decltype(F::bits);
  static constexpr int finite = Finite;
  static constexpr bool saturates = Saturates;
  static constexpr code_type sign = static_cast<code_type>(1u << (8 * sizeof(F) - 1));
  static double value(int code) {
    auto const exponent = code >> Mantissa, fraction = code & ((1 << Mantissa) - 1);
    if (exponent == 0) return std::ldexp(fraction, 1 - Bias - Mantissa);
    return std::ldexp(fraction + (1 << Mantissa), exponent - Bias - Mantissa);
  }
};
using defined_bf16 = defined<bf16, 7, 127, 0x7f80, false>;
using defined_fp16 = defined<fp16, 10, 15, 0x7c00, false>;
using defined_e4m3 = defined<e4m3, 3, 7, 0x7f, true>;
using defined_e5m2 = defined<e5m2, 2, 15, 0x7c, true>;

template <class D>
typename D::type of_code(int code, bool negative) {
  return D::type::from_bits(static_cast<typename D::code_type>(code | (negative ? D::sign : 0)));
}

}  // namespace

TEST_CASE_TEMPLATE("every code has the value its definition gives, and encodes to itself", D, defined_bf16, defined_fp16, defined_e4m3,
                   defined_e5m2) {
  int wrong = 0;
  for (int code = 0; code < D::sign; ++code)
    for (bool negative : {false, true}) {
      auto const x = of_code<D>(code, negative);
      auto const y = static_cast<float>(x);
      if (code < D::finite) {
        auto const value = static_cast<float>(D::value(code));
        wrong += !same_bits(y, negative ? -value : value);
        wrong += typename D::type(y).bits != x.bits;
      } else if (code == D::finite && !std::is_same_v<typename D::type, e4m3>) {
        wrong += y != (negative ? -infinity<float> : infinity<float>);
        wrong += typename D::type(y).bits != (D::saturates ? of_code<D>(code - 1, negative).bits : x.bits);
      } else {
        wrong += !std::isnan(y);
        wrong += !std::isnan(static_cast<float>(typename D::type(y)));
      }
    }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("between two codes the nearer one is chosen, and the even one in the middle", D, defined_bf16, defined_fp16,
                   defined_e4m3, defined_e5m2) {
  int wrong = 0;
  for (int code = 0; code < D::finite; ++code) {
    // Beyond the last finite code the grid goes on: its midpoint is where overflow begins.
    auto const middle = static_cast<float>((D::value(code) + D::value(code + 1)) / 2);
    REQUIRE(static_cast<double>(middle) == (D::value(code) + D::value(code + 1)) / 2);
    auto const above = D::saturates && code + 1 == D::finite ? code : code + 1;
    auto const even = code % 2 == 0 ? code : above;
    for (bool negative : {false, true}) {
      auto const encode = [&](float x) { return typename D::type(negative ? -x : x).bits; };
      wrong += encode(middle) != of_code<D>(even, negative).bits;
      wrong += encode(std::nextafter(middle, 0.0f)) != of_code<D>(code, negative).bits;
      wrong += encode(std::nextafter(middle, infinity<float>)) != of_code<D>(above, negative).bits;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("the smallest floats become zero with their sign, the largest infinity or the largest value") {
  constexpr auto tiny = std::numeric_limits<float>::denorm_min(), huge = std::numeric_limits<float>::max();
  CHECK(bf16(-tiny).bits == 0x8000);
  CHECK(fp16(-tiny).bits == 0x8000);
  CHECK(e4m3(-tiny).bits == 0x80);
  CHECK(e5m2(-tiny).bits == 0x80);
  CHECK(bf16(huge).bits == 0x7f80);
  CHECK(fp16(-huge).bits == 0xfc00);
  CHECK(e4m3(infinity<float>).bits == 0x7e);
  CHECK(e4m3(-huge).bits == 0xfe);
  CHECK(e5m2(infinity<float>).bits == 0x7b);
  CHECK(e5m2::unsaturated(infinity<float>).bits == 0x7c);
  CHECK(e5m2::unsaturated(-huge).bits == 0xfc);
}

TEST_CASE("a NaN whose payload is cut off stays NaN") {
  for (std::uint32_t bits : {0x7f800001u, 0xff800001u, 0x7fffffffu, 0xffc00000u}) {
    auto const x = std::bit_cast<float>(bits);
    CHECK(std::isnan(static_cast<float>(bf16(x))));
    CHECK(std::isnan(static_cast<float>(fp16(x))));
    CHECK(std::isnan(static_cast<float>(e4m3(x))));
    CHECK(std::isnan(static_cast<float>(e5m2(x))));
    CHECK(std::isnan(static_cast<float>(e5m2::unsaturated(x))));
    CHECK(e8m0(x).bits == 255);
  }
}

TEST_CASE("e8m0 is a power of two") {
  for (int code = 0; code < 255; ++code) {
    auto const value = std::ldexp(1.0f, code - 127);
    auto const x = e8m0::from_bits(static_cast<std::uint8_t>(code));
    auto const above = code == 254 ? 254 : code + 1;
    auto const middle = std::ldexp(1.5f, code - 127);
    CHECK(same_bits(x, value));
    CHECK(e8m0(value).bits == code);
    CHECK(e8m0(-value).bits == code);
    CHECK(e8m0(std::nextafter(middle, 0.0f)).bits == code);
    CHECK(e8m0(middle).bits == above);
  }
  CHECK(e8m0(0.0f).bits == 0);
  CHECK(e8m0(infinity<float>).bits == 254);
  CHECK(std::isnan(static_cast<float>(e8m0::from_bits(255))));
  CHECK(e8m0(not_a_number<float>).bits == 255);
}

TEST_CASE("PyTorch decodes and encodes the same") {
  auto const tables = test::function_tables("floats");
  auto const decode = [&](const char* name, auto from_bits) {
    auto const expected = test::table<float>(tables, name);
    REQUIRE(expected.size() == 256);
    int wrong = 0;
    for (std::size_t code = 0; code < 256; ++code) {
      float const found = from_bits(static_cast<std::uint8_t>(code));
      wrong += std::isnan(expected[code]) ? !std::isnan(found) : !same_bits(found, expected[code]);
    }
    CHECK(wrong == 0);
  };
  decode("e4m3.decode", e4m3::from_bits);
  decode("e5m2.decode", e5m2::from_bits);

  auto const encode = [&]<class Bits>(const char* name, const char* inputs, Bits, auto narrow) {
    auto const x = test::table<float>(tables, inputs);
    auto const expected = test::table<Bits>(tables, name);
    REQUIRE(x.size() == expected.size());
    REQUIRE(x.size() > 2000);
    int wrong = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      auto const found = narrow(x[i]);
      wrong += std::isnan(x[i]) ? !std::isnan(static_cast<float>(found)) : found.bits != expected[i];
    }
    INFO(name);
    CHECK(wrong == 0);
  };
  auto const saturating = [](float x) { return e5m2(x); };
  encode("e4m3.encode", "x", std::uint8_t{}, [](float x) { return e4m3(x); });
  encode("e4m3.encode_saturated", "x", std::uint8_t{}, [](float x) { return e4m3(x); });
  encode("e5m2.encode", "x", std::uint8_t{}, e5m2::unsaturated);
  encode("e5m2.encode_saturated", "x", std::uint8_t{}, saturating);
  encode("bf16.bits", "half_x", std::int32_t{}, [](float x) { return bf16(x); });
  encode("fp16.bits", "half_x", std::int32_t{}, [](float x) { return fp16(x); });
}
