// A linear layer for every weight format, number type and level, of ragged shapes: sums in double, and bits that nothing but a row decides.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/host/linear.hpp>
#include <support/compare.hpp>
#include <support/products.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::uint64_t seed = 20260;

struct shape {
  std::int64_t outputs, inputs, tokens;
};
// Around lanes, panels, pairs and tiles; sums longer than a chunk; more tokens than one pass takes.
shape const all_shapes[] = {{1, 1, 1}, {15, 2, 2}, {16, 3, 3}, {17, 7, 4}, {33, 8, 5}, {32, 33, 13}, {70, 64, 7}, {70, 64, 10}, {48, 130, 9}, {33, 40, 20},
                        {160, 259, 25}, {40, 1100, 3}, {20, 40, 101}};

template <dtype W, class T, class Out = T>
void check(format f, shape s) {
  random_stream random(seed + static_cast<std::uint64_t>(s.inputs));
  random_packed const w({.stored = f, .outputs = s.outputs, .inputs = s.inputs}, random);
  guarded<T> const x(s.tokens, s.inputs, random), broken(host::product_rows, s.inputs);   // the most rows of a pass
  std::vector<float> bias(static_cast<std::size_t>(s.outputs));
  for (auto& b : bias) b = random.normal();
  std::vector<exact_sum> want;
  for (std::int64_t n = 0; n < s.outputs; ++n) {
    auto const weights = w.row(0, 0, n);
    for (std::int64_t t = 0; t < s.tokens; ++t) want.push_back(dot(weights, x.input().row(t), bias[static_cast<std::size_t>(n)]));
  }
  std::vector<Out> lowest;   // float of the portable level
  for (auto const l : levels()) {
    if (std::is_same_v<T, double> && l != host::level::portable) break;   // one code for all levels
    CAPTURE(text(f));
    CAPTURE(std::string(name(l)));
    CAPTURE(s.outputs);
    CAPTURE(s.inputs);
    CAPTURE(s.tokens);
    CAPTURE(seed);
    host::pool one(1, l);
    guarded<Out> y(s.tokens, s.outputs), ruined(host::product_rows, s.outputs);
    host::linear<W>(one, w.matrix, broken.input(), bias, ruined.rows);   // NaN on the stack, where the level before left the right sums
    host::linear<W>(one, w.matrix, x.input(), bias, y.rows);
    CHECK(y.guards_whole());

    double worst = 0;
    for (std::int64_t n = 0; n < s.outputs; ++n)
      for (std::int64_t t = 0; t < s.tokens; ++t) {
        auto const& sum = want[static_cast<std::size_t>(n * s.tokens + t)];
        auto const error = std::fabs(static_cast<double>(y.rows(t, n)) - sum.value) / sum.magnitude;
        worst = std::isnan(error) ? INFINITY : std::fmax(worst, error);
      }
    CHECK(worst <= sum_tolerance<Out>(s.inputs));

    for (int threads : {2, 3}) {
      if (sanitized && threads != 3) continue;
      host::pool more(threads, l);
      guarded<Out> z(s.tokens, s.outputs);
      host::linear<W>(more, w.matrix, x.input(), bias, z.rows);
      CHECK(same_bits<Out>(z.rows, y.rows));
    }
    for (std::int64_t t = 0; t < s.tokens; t += sanitized ? 9 : 3) {
      guarded<Out> alone(1, s.outputs);
      host::linear<W>(one, w.matrix, view<const T>(x.input().row(t), 1, s.inputs), bias, alone.rows);
      CHECK(same_bits<Out>(alone.rows, view<const Out>(y.rows.row(t), 1, s.outputs)));
    }
    if (std::is_same_v<T, float>) {
      if (l == host::level::portable) lowest = y.data;
      else CHECK(std::memcmp(lowest.data(), y.data.data(), lowest.size() * sizeof(Out)) == 0);
    }
  }
}

int number = 0;   // of a format and a shape

template <dtype W>
void check_all(std::vector<format> const& formats) {
  for (auto const f : formats)
    for (auto const s : all_shapes) {
      if (sanitized && number++ % 2 != 0) continue;    // 13 of them: every shape, with one format or the next
      check<W, float>(f, s);
      check<W, bf16>(f, s);
      check<W, double>(f, s);
    }
}

}  // namespace

TEST_CASE("linear, formats without scales") {
  check_all<dtype::fp32>({dtype::fp32});
  check_all<dtype::bf16>({dtype::bf16});
  check_all<dtype::fp16>({dtype::fp16});
}

TEST_CASE("linear, int8: groups, a whole row, short last groups") { check_all<dtype::int8>({dtype::int8, {dtype::int8, 128}, {dtype::int8, 0}, {dtype::int8, 12}}); }

TEST_CASE("linear, int4, with and without zero points") {
  check_all<dtype::int4>({dtype::int4, {dtype::int4, 128}, {dtype::int4, 32, true}, {dtype::int4, 0, true}, {dtype::int4, 24, true}});
}

TEST_CASE("linear, e4m3 blocks and mxfp4") {
  check_all<dtype::e4m3>({dtype::e4m3, {dtype::e4m3, 32}});
  check_all<dtype::mxfp4>({dtype::mxfp4});
}

TEST_CASE("linear, router logits stay float where activations are bf16") {
  for (auto const s : all_shapes) check<dtype::fp32, bf16, float>(dtype::fp32, s);
}

TEST_CASE("linear, no bias and no tokens") {
  random_stream random(seed);
  random_packed const w({.stored = dtype::bf16, .outputs = 20, .inputs = 30}, random);
  guarded<float> const x(2, 30, random);
  guarded<float> y(2, 20);
  for (auto const l : levels()) {
    host::pool pool(1, l);
    host::linear<dtype::bf16>(pool, w.matrix, x.input(), list<const float>{}, y.rows);
    auto const want = dot(w.row(0, 0, 7), x.input().row(1), 0.0f);
    CHECK(std::fabs(static_cast<double>(y.rows(1, 7)) - want.value) <= sum_tolerance<float>(30) * want.magnitude);
    host::linear<dtype::bf16>(pool, w.matrix, view<const float>(x.input().data, 0, 30), list<const float>{}, view<float>(y.rows.data, 0, 20));
  }
}

TEST_CASE("linear, every code of e4m3 and every scale of mxfp4, on every level") {
  // Sums of one product, so that the weight itself shows: exact subnormals, NaN codes, 2^-127, the NaN scale.
  alignas(64) std::byte data[64 * 8 + 256] = {};
  packed_matrix m{.stored = {dtype::e4m3, 128}, .outputs = 32, .inputs = 8, .data = data};
  float const one = 1, x[8] = {0, 0, 0, 0, 0, 0, 0, 1};
  for (int lane = 0; lane < 32; ++lane) std::memcpy(data + packed::tile_bytes(dtype::e4m3, 8) + 4 * lane, &one, 4);
  for (auto const l : levels()) {
    host::pool pool(1, l);
    for (int code = 0; code < 256; ++code) {
      data[packed::row_offset(1, 1, 2) + 5 * 4 + 3] = static_cast<std::byte>(code);
      float y[32] = {}, want = e4m3::from_bits(static_cast<std::uint8_t>(code));
      host::linear<dtype::e4m3>(pool, m, view<const float>(x, 1, 8), list<const float>{}, view<float>(y, 1, 32));
      CHECK((y[21] == want || (std::isnan(want) && std::isnan(y[21]))));
      bf16 xb[16] = {}, yb[64];
      for (auto& v : xb) v = bf16(0.0f);
      xb[7] = xb[15] = bf16(1.0f);
      host::linear<dtype::e4m3>(pool, m, view<const bf16>(xb, 2, 8), list<const float>{}, view<bf16>(yb, 2, 32));
      CHECK((static_cast<float>(yb[53]) == want || (std::isnan(want) && std::isnan(static_cast<float>(yb[53])))));
    }
  }
  m.stored = dtype::mxfp4;
  std::memset(data, 0, sizeof data);
  data[packed::row_offset(0, 0, 1) + 3 * 4 + 3] = std::byte{0x20};   // input 7 of output 3: nibble 7 is code 2, which is 1.0
  for (auto const l : levels()) {
    host::pool pool(1, l);
    for (int code = 0; code < 256; ++code) {
      data[packed::tile_bytes(dtype::mxfp4, 8) + 3] = static_cast<std::byte>(code);
      float y[32] = {}, want = e8m0::from_bits(static_cast<std::uint8_t>(code));
      host::linear<dtype::mxfp4>(pool, m, view<const float>(x, 1, 8), list<const float>{}, view<float>(y, 1, 32));
      CHECK((y[3] == want || (std::isnan(want) && std::isnan(y[3]))));
    }
  }
}
