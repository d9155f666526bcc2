// host/quantized.hpp: codes of activations, products of codes with codes, and what a short accumulator costs with and without promotion.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <moesaic/base/random.hpp>
#include <moesaic/host/linear.hpp>
#include <moesaic/host/memory.hpp>
#include <moesaic/host/quantized.hpp>
#include <support/matrix.hpp>
#include <support/refusal.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;
using moesaic::host::activation_scale;

namespace {

struct codes_and_scales {
  matrix<std::uint8_t> codes;
  matrix<float> scales;
  codes_and_scales(std::int64_t rows, std::int64_t inputs) : codes(rows, inputs), scales(rows, (inputs + 127) / 128) {}
  host::quantized_rows view() const { return {codes.view(), scales.view()}; }
  double value(std::int64_t t, std::int64_t k) const {
    return static_cast<double>(static_cast<float>(e4m3::from_bits(codes(t, k)))) * static_cast<double>(scales(t, k / 128));
  }
};

template <class X>
codes_and_scales quantized(host::pool& pool, matrix<X> const& x, activation_scale kind = activation_scale::exact) {
  codes_and_scales out(x.rows, x.columns);
  host::quantize(pool, x.view(), out.codes.view(), out.scales.view(), nullptr, kind);
  return out;
}

matrix<float> normal_matrix(std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
  random_stream random(seed);
  matrix<float> x(rows, columns);
  for (std::int64_t t = 0; t < rows; ++t)
    for (std::int64_t k = 0; k < columns; ++k) x(t, k) = random.normal();
  return x;
}

struct weights {
  host::buffer memory;
  packed_matrix m;
  weights(std::int64_t outputs, std::int64_t inputs, std::uint64_t seed, float mean = 0) : m{dtype::e4m3, outputs, inputs} {
    memory = host::buffer(static_cast<std::size_t>(packed::bytes(m)));
    m.data = memory.data();
    random_stream random(seed);
    std::vector<float> all(static_cast<std::size_t>(outputs * inputs));
    for (auto& w : all) w = mean + 0.02f * random.normal();
    host::pack(m, 0, [&](int, std::int64_t n, float* row) { std::copy_n(all.data() + n * inputs, inputs, row); }, memory.data());
  }
};

// Of y against the exact product of the numbers that codes and scales are, relative to the root mean square of that.
double error_of(matrix<float> const& y, weights const& w, codes_and_scales const& x) {
  double off = 0, size = 0;
  for (std::int64_t t = 0; t < y.rows; ++t)
    for (std::int64_t n = 0; n < y.columns; ++n) {
      double want = 0;
      for (std::int64_t k = 0; k < w.m.inputs; ++k) want += static_cast<double>(host::unpack(w.m, 0, 0, n, k)) * x.value(t, k);
      auto const d = static_cast<double>(y(t, n)) - want;
      CHECK(!std::isnan(d));
      off += d * d, size += want * want;
    }
  return std::sqrt(off / size);
}

}  // namespace

TEST_CASE("activations: the largest of 128 becomes 448, codes are nearest, zeros and short tiles too") {
  host::pool pool;
  constexpr std::int64_t inputs = 300;
  auto x = normal_matrix(4, inputs, 1);
  for (std::int64_t k = 128; k < 256; ++k) x(2, k) = 0;
  for (std::int64_t k = 0; k < inputs; ++k) x(3, k) = 0;
  auto const q = quantized(pool, x);
  for (std::int64_t t = 0; t < 4; ++t)
    for (std::int64_t g = 0; g < 3; ++g) {
      float largest = 0;
      for (auto k = g * 128; k < std::min(inputs, g * 128 + 128); ++k) largest = std::max(largest, std::fabs(x(t, k)));
      auto const scale = q.scales(t, g);
      CHECK(scale == std::max(largest, 1e-4f) / 448.0f);
      for (auto k = g * 128; k < std::min(inputs, g * 128 + 128); ++k) {
        auto const v = static_cast<double>(x(t, k));
        // half a step of three bits, or of the smallest codes
        CHECK(std::fabs(q.value(t, k) - v) <= std::max(std::fabs(v) * 0x1p-4, static_cast<double>(scale) * 0x1p-10) * (1 + 1e-6));
        if (largest == 0) CHECK(q.codes(t, k) == 0);
      }
    }
}

TEST_CASE("activations: a power of two changes scales and no code; a scale that is a power of two is the next one up") {
  host::pool pool;
  auto const x = normal_matrix(3, 272, 2);
  auto scaled = x;
  for (std::int64_t t = 0; t < 3; ++t)
    for (std::int64_t k = 0; k < 272; ++k) scaled(t, k) *= 0x1p5f;
  for (auto const kind : {activation_scale::exact, activation_scale::power_of_two}) {
    auto const one = quantized(pool, x, kind), other = quantized(pool, scaled, kind);
    CHECK(one.codes.data == other.codes.data);
    for (std::int64_t t = 0; t < 3; ++t)
      for (std::int64_t g = 0; g < 3; ++g) CHECK(other.scales(t, g) == 32 * one.scales(t, g));
  }
  auto const exact = quantized(pool, x), power = quantized(pool, x, activation_scale::power_of_two);
  for (std::int64_t t = 0; t < 3; ++t)
    for (std::int64_t g = 0; g < 3; ++g) {
      auto const s = power.scales(t, g), least = exact.scales(t, g);
      int exponent;
      CHECK(std::frexp(s, &exponent) == 0.5f);
      CHECK((s >= least && s < 2 * least));
    }
  CHECK(groups::power_of_two_from(0x1p-3f) == 0x1p-3f);
  CHECK(groups::power_of_two_from(0x1.000002p-3f) == 0x1p-2f);
}

TEST_CASE("products of codes: exact but for fp32 sums of blocks, inputs that 128 does not divide, bias, and bf16") {
  host::pool pool(2);
  for (std::int64_t const inputs : {std::int64_t{16}, std::int64_t{128}, std::int64_t{272}, std::int64_t{301}}) {
    CAPTURE(inputs);
    weights const w(70, inputs, 3);
    auto const x = quantized(pool, normal_matrix(5, inputs, 4));
    std::vector<float> const bias(70, 0.25f);
    matrix<float> y(5, 70);
    matrix<bf16> narrow(5, 70);
    host::linear(pool, w.m, x.view(), bias, y.view());
    host::linear(pool, w.m, x.view(), bias, narrow.view());
    for (std::int64_t t = 0; t < 5; ++t)
      for (std::int64_t n = 0; n < 70; ++n) {
        double want = 0.25, size = 0.25;
        for (std::int64_t k = 0; k < inputs; ++k) {
          auto const p = static_cast<double>(host::unpack(w.m, 0, 0, n, k)) * x.value(t, k);
          want += p, size += std::fabs(p);
        }
        CHECK(std::fabs(static_cast<double>(y(t, n)) - want) <= size * sum_tolerance<float>(4));
        CHECK(static_cast<float>(narrow(t, n)) == static_cast<float>(bf16(y(t, n))));
      }
  }
}

TEST_CASE("products of codes: NaN and infinity are not lost, other weights are refused") {
  host::pool pool;
  weights const w(40, 160, 5);
  for (auto const bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto x = normal_matrix(2, 160, 6);
    x(1, 130) = bad;
    matrix<float> y(2, 40);
    host::linear(pool, w.m, quantized(pool, x).view(), {}, y.view());
    for (std::int64_t n = 0; n < 40; ++n) {
      CHECK(std::isfinite(y(0, n)));
      CHECK(std::isnan(y(1, n)));
    }
  }
  packed_matrix const other{dtype::bf16, 40, 160};
  matrix<float> y(2, 40);
  CHECK(refusal([&] { host::linear(pool, other, quantized(pool, normal_matrix(2, 160, 6)).view(), {}, y.view()); }) ==
        "products of codes with codes: expected one part of e4m3 in blocks of 128, found 1 of bf16 in groups of 0");
}

// The longer sums grow beside their addends, the more of these is cut off: of weights with a mean, as of a feature that all tokens have, sums only grow.
TEST_CASE("an accumulator of 14 bits: promotion every 128 inputs keeps what 4096 inputs lose without it") {
  host::pool pool(2);
  constexpr std::int64_t inputs = 4096, outputs = 48, tokens = 3;
  for (float const mean : {0.0f, 0.02f}) {
    CAPTURE(mean);
    weights const w(outputs, inputs, 7, mean);
    auto plain = normal_matrix(tokens, inputs, 8);
    if (mean != 0)
      for (std::int64_t t = 0; t < tokens; ++t)
        for (std::int64_t k = 0; k < inputs; ++k) plain(t, k) = std::fabs(plain(t, k));
    auto const x = quantized(pool, plain);
    auto const error = [&](host::code_sums sums) {
      matrix<float> y(tokens, outputs);
      host::linear(pool, w.m, x.view(), {}, y.view(), sums);
      return error_of(y, w, x);
    };
    auto const exact = error({}), promoted = error({14, true}), narrow = error({14, false}), wide = error({40, false});
    MESSAGE("mean " << mean << ": exact " << exact << ", promoted " << promoted << ", not promoted " << narrow);
    CHECK(exact < 1e-6);
    CHECK(wide < 1e-6);
    CHECK(promoted < 0.5 * narrow);
  }
}
