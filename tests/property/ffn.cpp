// Both expert GEMMs for every weight format, number type, activation and level: sums in double, and bits that nothing but a row decides.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/host/ffn.hpp>
#include <support/compare.hpp>
#include <support/matrix.hpp>
#include <support/products.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::uint64_t seed = 31415;
activation_rule const activations[] = {activation::swiglu, activation::geglu_tanh, activation::geglu_erf, activation::relu, activation::relu_squared,
                                       activation::gelu_tanh, {activation::swiglu, 2.5f, 1.702f, 1.0f}, {activation::geglu_tanh, 0.75f, 1.0f, -0.5f}};

double exact(activation_rule const& rule, double x) {
  auto const a = rule.act;
  if (gated(a)) x = std::fmin(x, rule.limit);
  if (a == activation::swiglu) return x / (1 + std::exp(-rule.alpha * x));
  if (a == activation::relu) return x < 0 ? 0 : x;
  if (a == activation::relu_squared) return x < 0 ? 0 : x * x;
  if (a == activation::geglu_erf) return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

// The sum of up as it meets the gate.
exact_sum limited(exact_sum up, activation_rule const& rule) {
  double const most = rule.limit, offset = rule.up_offset;
  up.value = std::fmax(-most, std::fmin(most, up.value)) + offset;
  up.magnitude += std::fabs(offset);
  return up;
}

// Experts without, with one, with a few and with many slots; tokens out of order and more than once.
struct routing {
  std::vector<std::int32_t> offsets, token_of_slot;
  explicit routing(std::int64_t tokens, random_stream& random) : offsets{0, 1, 1, 14, 16, 127} {
    for (std::int32_t s = 0; s < offsets.back(); ++s) token_of_slot.push_back(static_cast<std::int32_t>(random.below(tokens)));
  }
  std::int64_t experts() const { return static_cast<std::int64_t>(offsets.size()) - 1; }
  std::int64_t slots() const { return offsets.back(); }
  std::int64_t expert_of(std::int64_t slot) const {
    std::int64_t e = 0;
    while (slot >= offsets[static_cast<std::size_t>(e + 1)]) ++e;
    return e;
  }
};

std::vector<float> random_bias(std::int64_t count, random_stream& random) {
  std::vector<float> bias(static_cast<std::size_t>(count));
  for (auto& b : bias) b = random.normal();
  return bias;
}

/// The same on 2 and 3 threads, and slot by slot.
template <class T, class Run>
void check_bits(host::level l, view<const T> y, std::int64_t slots, Run&& run) {
  for (int threads : {2, 3}) {
    if (sanitized && threads != 3) continue;
    host::pool more(threads, l);
    guarded<T> z(slots, y.columns);
    run(more, z.rows);
    CHECK(same_bits<T>(z.rows, y));
  }
}

template <dtype W, class T>
void check_gate_up(format f, activation_rule act, std::int64_t hidden, std::int64_t intermediate, bool with_bias) {
  random_stream random(seed + static_cast<std::uint64_t>(hidden));
  routing const r(9, random);
  auto const parts = gated(act.act) ? 2 : 1;
  random_packed const w({.stored = f, .outputs = intermediate, .inputs = hidden, .parts = parts, .count = r.experts()}, random);
  guarded<T> const x(9, hidden, random);
  auto const bias = random_bias(with_bias ? r.experts() * parts * intermediate : 0, random);

  matrix<double> want(r.slots(), intermediate), bound(r.slots(), intermediate);
  auto const inner = sum_tolerance<std::conditional_t<std::is_same_v<T, double>, double, float>>(hidden);
  for (std::int64_t e = 0; e < r.experts(); ++e)
    for (std::int64_t n = 0; n < intermediate; ++n) {
      auto const b = [&](int part) { return with_bias ? bias[static_cast<std::size_t>((e * parts + part) * intermediate + n)] : 0.0f; };
      auto const first = w.row(e, 0, n), second = parts == 2 ? w.row(e, 1, n) : first;
      for (auto s = r.offsets[static_cast<std::size_t>(e)]; s < r.offsets[static_cast<std::size_t>(e) + 1]; ++s) {
        auto const* const row = x.input().row(r.token_of_slot[static_cast<std::size_t>(s)]);
        auto const gate = dot(first, row, b(0)), up = parts == 2 ? limited(dot(second, row, b(1)), act) : exact_sum{1, 0};
        auto const a = exact(act, gate.value);
        want(s, n) = a * up.value;
        // No activation is steeper than 1.2 but for a square; its own error is a few roundings of its argument.
        auto const steepness = act.act == activation::relu_squared ? 2.1 * std::fabs(gate.value) + 1 : 1.2;
        bound(s, n) = inner * (steepness * gate.magnitude * (std::fabs(up.value) + up.magnitude) + std::fabs(a) * up.magnitude) +
                      16 * inner / static_cast<double>(hidden + 2) * std::fabs(gate.value * up.value) + 2 * roundoff<T> * std::fabs(want(s, n));
      }
    }

  std::vector<T> lowest;
  for (auto const l : levels()) {
    if (std::is_same_v<T, double> && l != host::level::portable) break;   // one code for all levels
    CAPTURE(text(f));
    CAPTURE(static_cast<int>(act.act));
    CAPTURE(act.limit);
    CAPTURE(std::string(name(l)));
    CAPTURE(hidden);
    CAPTURE(intermediate);
    CAPTURE(seed);
    auto const run = [&](host::pool& pool, view<T> h) {
      host::expert_gate_up<W, T>(pool, act, w.matrix, bias, x.input(), r.offsets, r.token_of_slot.data(), h);
    };
    host::pool one(1, l);
    guarded<T> h(r.slots(), intermediate);
    run(one, h.rows);
    CHECK(h.guards_whole());
    double worst = 0;
    for (std::int64_t s = 0; s < r.slots(); ++s)
      for (std::int64_t n = 0; n < intermediate; ++n) {
        auto const error = std::fabs(static_cast<double>(h.rows(s, n)) - want(s, n)) / (bound(s, n) + 1e-300);
        worst = std::isnan(error) ? INFINITY : std::fmax(worst, error);
      }
    CHECK(worst <= 1);
    check_bits<T>(l, h.rows, r.slots(), run);
    // Slots of the largest expert one at a time, x gathered beforehand.
    auto single = w.matrix;
    single.count = 1;
    for (std::int64_t s = 0; s < r.slots(); s += 5) {
      auto const e = r.expert_of(s);
      single.data = w.matrix.data + e * packed::matrix_bytes(w.matrix);
      guarded<T> alone(1, intermediate);
      std::int32_t const offsets[] = {0, 1};
      host::expert_gate_up<W, T>(one, act, single, with_bias ? list<const float>(bias.data() + e * parts * intermediate, parts * intermediate) : list<const float>{},
                                 view<const T>(x.input().row(r.token_of_slot[static_cast<std::size_t>(s)]), 1, hidden), offsets, nullptr, alone.rows);
      CHECK(same_bits<T>(alone.rows, view<const T>(h.rows.row(s), 1, intermediate)));
    }
    if (std::is_same_v<T, float>) {
      if (l == host::level::portable) lowest = h.data;
      else CHECK(std::memcmp(lowest.data(), h.data.data(), lowest.size() * sizeof(T)) == 0);
    }
  }
}

template <dtype W, class T>
void check_down(format f, std::int64_t intermediate, std::int64_t hidden) {
  random_stream random(seed);
  routing const r(1, random);
  random_packed const w({.stored = f, .outputs = hidden, .inputs = intermediate, .count = r.experts()}, random);
  guarded<T> const h(r.slots(), intermediate, random);
  auto const bias = random_bias(r.experts() * hidden, random);
  std::vector<exact_sum> sums;
  for (std::int64_t n = 0; n < hidden; n += 7)
    for (std::int64_t e = 0; e < r.experts(); ++e) {
      auto const weights = w.row(e, 0, n);
      for (auto s = r.offsets[static_cast<std::size_t>(e)]; s < r.offsets[static_cast<std::size_t>(e) + 1]; ++s)
        sums.push_back(dot(weights, h.input().row(s), bias[static_cast<std::size_t>(e * hidden + n)]));
    }
  for (auto const l : levels()) {
    if (std::is_same_v<T, double> && l != host::level::portable) break;
    CAPTURE(text(f));
    CAPTURE(std::string(name(l)));
    CAPTURE(seed);
    auto const run = [&](host::pool& pool, view<T> y) { host::expert_down<W, T>(pool, w.matrix, bias, h.input(), r.offsets, y); };
    host::pool one(1, l);
    guarded<T> y(r.slots(), hidden);
    run(one, y.rows);
    CHECK(y.guards_whole());
    double worst = 0;
    for (std::int64_t n = 0; n < hidden; n += 7)
      for (std::int64_t s = 0; s < r.slots(); ++s) {
        auto const& sum = sums[static_cast<std::size_t>(n / 7 * r.slots() + s)];
        auto const error = std::fabs(static_cast<double>(y.rows(s, n)) - sum.value) / sum.magnitude;
        worst = std::isnan(error) ? INFINITY : std::fmax(worst, error);
      }
    CHECK(worst <= sum_tolerance<T>(intermediate));
    check_bits<T>(l, y.rows, r.slots(), run);
    // Rows from the last to the first, as said or gathered beforehand.
    std::vector<std::int32_t> backwards;
    guarded<T> turned(r.slots(), intermediate), z(r.slots(), hidden), want(r.slots(), hidden);
    for (auto s = r.slots(); s-- > 0;) {
      std::copy_n(h.input().row(s), intermediate, turned.rows.row(static_cast<std::int64_t>(backwards.size())));
      backwards.push_back(static_cast<std::int32_t>(s));
    }
    host::expert_linear<W>(one, w.matrix, bias, h.input(), r.offsets, backwards.data(), z.rows);
    host::expert_down<W>(one, w.matrix, bias, view<const T>(turned.rows), r.offsets, want.rows);
    CHECK(same_bits<T>(z.rows, want.rows));
  }
}

template <dtype W, class T>
void check_format(format f) {
  for (auto const act : activations) check_gate_up<W, T>(f, act, 40, 23, true);
  check_gate_up<W, T>(f, activation::swiglu, 135, 33, false);
  check_gate_up<W, T>(f, activation::relu, 7, 70, false);
  check_down<W, T>(f, 135, 50);
}
template <dtype W>
void check_format(format f) {
  check_format<W, float>(f);
  check_format<W, bf16>(f);
  check_format<W, double>(f);
}

}  // namespace

TEST_CASE("experts, fp32 weights") { check_format<dtype::fp32>(dtype::fp32); }
TEST_CASE("experts, bf16 weights") { check_format<dtype::bf16>(dtype::bf16); }
TEST_CASE("experts, fp16 weights") { check_format<dtype::fp16>(dtype::fp16); }
TEST_CASE("experts, int8 weights") { check_format<dtype::int8>({dtype::int8, 16}); }
TEST_CASE("experts, int4 weights") {
  check_format<dtype::int4>(dtype::int4);
  check_format<dtype::int4>({dtype::int4, 64, true});
}
TEST_CASE("experts, e4m3 weights") { check_format<dtype::e4m3>({dtype::e4m3, 16}); }
TEST_CASE("experts, mxfp4 weights") { check_format<dtype::mxfp4>(dtype::mxfp4); }
