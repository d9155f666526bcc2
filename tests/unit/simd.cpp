// The lanes of every level against scalar arithmetic: fma exactly rounded where the compiler has none, exp and activations, conversions.
// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/base/random.hpp>
#include <moesaic/host/simd/simd.hpp>

#define MOESAIC_BODY <unit/simd_body.inl>
#include <moesaic/host/simd/levels.inl>

using namespace moesaic;

namespace {

constexpr std::int64_t count = 1 << 16;
using floats_list = std::vector<float>;

floats_list any_bits(random_stream& random) {
  floats_list x(count);
  for (auto& v : x) v = std::bit_cast<float>(static_cast<std::uint32_t>(random.next() >> 32));
  return x;
}
floats_list within(float least, float most, random_stream& random) {
  floats_list x(count);
  for (auto& v : x) v = least + (most - least) * random.uniform();
  return x;
}
std::int64_t unlike(floats_list const& a, floats_list const& b) {
  std::int64_t n = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    n += std::bit_cast<std::uint32_t>(a[i]) != std::bit_cast<std::uint32_t>(b[i]) && !(std::isnan(a[i]) && std::isnan(b[i]));
  return n;
}
/// Distance in units in the last place of the exact value.
double ulps(float got, double want) {
  if (static_cast<float>(want) == got || (std::isnan(got) && std::isnan(want))) return 0;
  auto const place = std::max(std::ilogb(want) - 23, -149);
  return std::fabs(static_cast<double>(got) - want) / std::ldexp(1.0, place);
}
template <class F>
void on_levels(F&& f) {
  for (auto const l : {host::level::portable, host::level::avx2, host::level::avx512}) {
    if (l > host::detected_level()) {
      MESSAGE("this processor lacks " << std::string(name(l)));
      continue;
    }
    CAPTURE(std::string(name(l)));
    host::at_level(l, f);
  }
}

}  // namespace

TEST_CASE("simd: fma rounds once, on every level") {
  random_stream random(1);
  auto a = any_bits(random), b = any_bits(random), c = any_bits(random);
  // Cancellation, ties and sums that are far apart, which random bits do not meet.
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (i % 4 == 0) c[i] = -(a[i] * b[i]);
    if (i % 4 == 1) {
      a[i] = static_cast<float>(random.below(4096)), b[i] = std::ldexp(static_cast<float>(random.below(4096)), -12);
      c[i] = std::ldexp(static_cast<float>(random.below(1 << 24)), static_cast<int>(random.below(30)) - 8);
    }
    if (i % 8 == 7) {   // an odd product of 25 bits lies in the middle of two floats, and a far smaller addend decides
      a[i] = static_cast<float>(4097 + 2 * random.below(1700)), b[i] = static_cast<float>(4097 + 2 * random.below(1700));
      c[i] = std::ldexp(random.below(2) == 0 ? 1.0f : -1.0f, -30 - static_cast<int>(random.below(60)));
    }
    if (i % 4 == 2) {   // subnormal results
      a[i] = std::ldexp(random.normal(), -90), b[i] = std::ldexp(random.normal(), -55);
      c[i] = std::bit_cast<float>(static_cast<std::uint32_t>(random.below(100000)));
    }
  }
  floats_list want(count), twice(count), y(count);
  for (std::size_t i = 0; i < a.size(); ++i) {
    want[i] = std::fmaf(a[i], b[i], c[i]);
    float const volatile product = a[i] * b[i];
    twice[i] = product + c[i];
  }
  CHECK(unlike(want, twice) > count / 100);   // the inputs do tell one rounding from two
  on_levels([&](auto here) {
    run_fma(here, a.data(), b.data(), c.data(), y.data(), count);
    CHECK(unlike(y, want) == 0);
    run_mul_add(here, a.data(), b.data(), c.data(), y.data(), count);
    CHECK(unlike(y, twice) == 0);
  });
}

TEST_CASE("simd: exp within 1.1 units in the last place, the same bits on every level") {
  random_stream random(2);
  auto x = within(-106, 90, random);
  float const special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 88.72284f, 88.8f, -87.4f, -103.9f, -104.1f, 1e30f, -1e30f, 1e-40f};
  std::memcpy(x.data(), special, sizeof special);
  floats_list y(count), first;
  on_levels([&](auto here) {
    run_exp(here, x.data(), y.data(), count);
    if (first.empty()) first = y;
    CHECK(unlike(y, first) == 0);
  });
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) worst = std::fmax(worst, ulps(first[i], std::exp(static_cast<double>(x[i]))));
  CHECK(worst < 1.1);
  CHECK(first[2] == INFINITY);
  CHECK(first[3] == 0.0f);
  CHECK(std::isnan(first[4]));
}

TEST_CASE("simd: tanh within 2 units in the last place, the same bits on every level") {
  random_stream random(8);
  auto x = within(-10, 10, random);
  for (std::size_t i = 0; i < x.size() / 2; ++i) x[i] *= 0.07f;                // where it changes from one form to the other
  float const special[] = {0.0f, INFINITY, -INFINITY, NAN, 3e38f, -3e38f, 1e-40f, 0.625f, -0.625f};
  std::memcpy(x.data(), special, sizeof special);
  floats_list y(count), first;
  on_levels([&](auto here) {
    run_tanh(here, x.data(), y.data(), count);
    if (first.empty()) first = y;
    CHECK(unlike(y, first) == 0);
  });
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) worst = std::fmax(worst, ulps(first[i], std::tanh(static_cast<double>(x[i]))));
  CHECK(worst < 2);
  CHECK(first[1] == 1.0f);
  CHECK(first[2] == -1.0f);
  CHECK(std::isnan(first[3]));
}

TEST_CASE("simd: activations, the same bits on every level") {
  random_stream random(3);
  auto x = within(-12, 12, random);
  float const special[] = {0.0f, -0.0f, INFINITY, NAN, 3e38f, -3e38f, 1e-40f, -100.0f, 100.0f};
  std::memcpy(x.data(), special, sizeof special);
  for (auto const a : {activation::swiglu, activation::geglu_tanh, activation::geglu_erf, activation::relu, activation::gelu_tanh}) {
    CAPTURE(static_cast<int>(a));
    floats_list y(count), first;
    on_levels([&](auto here) {
      run_activation(here, a, x.data(), y.data(), count);
      if (first.empty()) first = y;
      CHECK(unlike(y, first) == 0);
    });
    double worst = 0;   // relative to |x|: far left the value itself is a rounding error of x
    for (std::size_t i = 16; i < x.size(); ++i) {
      auto const v = static_cast<double>(x[i]);
      auto const want = a == activation::swiglu      ? v / (1 + std::exp(-v))
                        : a == activation::relu      ? std::fmax(v, 0.0)
                        : a == activation::geglu_erf ? 0.5 * v * std::erfc(-v / std::sqrt(2.0))
                                                     : 0.5 * v * (1 + std::tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
      worst = std::fmax(worst, std::fabs(static_cast<double>(first[i]) - want) / (std::fabs(v) + 1e-30));
    }
    CHECK(worst < 0x1p-22);
    CHECK(first[2] == INFINITY);
    CHECK(std::isnan(first[3]));
    CHECK(first[8] == 100.0f);
  }
}

TEST_CASE("simd: fp16 and bf16, all codes and any length") {
  on_levels([&](auto here) {
    floats_list x(count), y(count);
    for (std::uint32_t i = 0; i < count; ++i) x[i] = std::bit_cast<float>(i | 0xabcd'0000u);   // the upper half is to be ignored
    run_half(here, x.data(), y.data(), count);
    std::int64_t wrong = 0;
    for (std::uint32_t i = 0; i < count; ++i) {
      float const want = fp16::from_bits(static_cast<std::uint16_t>(i));
      wrong += !(y[i] == want || (std::isnan(y[i]) && std::isnan(want)));
    }
    CHECK(wrong == 0);

    random_stream random(4);
    auto const any = any_bits(random);
    for (std::int64_t lanes : {1, 5, 8, 15, 16}) {
      std::vector<bf16> narrow(count, bf16(7.0f));
      run_bf16(here, any.data(), narrow.data(), y.data(), count, lanes);
      wrong = 0;
      for (std::size_t i = 0; i < any.size(); ++i) {
        auto const inside = static_cast<std::int64_t>(i % 16) < lanes;
        wrong += narrow[i].bits != (inside ? bf16(any[i]) : bf16(7.0f)).bits;
        wrong += inside && std::bit_cast<std::uint32_t>(y[i]) != std::uint32_t{narrow[i].bits} << 16;
      }
      CHECK(wrong == 0);
    }
  });
}

TEST_CASE("simd: lanes are added far half onto near half") {
  random_stream random(5);
  float x[16], tree[16];
  for (auto& v : x) v = random.normal();
  std::memcpy(tree, x, sizeof x);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) tree[i] += tree[i + half];
  on_levels([&](auto here) { CHECK(run_sum(here, x) == tree[0]); });
}
