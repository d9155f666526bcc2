// base/groups.hpp: the quantisation rules, by hand, by search over all codes, and at every edge.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include <moesaic/base/groups.hpp>
#include <moesaic/base/random.hpp>

using namespace moesaic;

namespace {

template <dtype D, bool ZeroPoint = false>
struct rule {
  static constexpr dtype type = D;
  static constexpr bool zero_point = ZeroPoint;
  static constexpr int codes = bits(D) == 4 ? 16 : 256;
};
using int8_rule = rule<dtype::int8>;
using int4_rule = rule<dtype::int4>;
using zero_point_rule = rule<dtype::int4, true>;
using e4m3_rule = rule<dtype::e4m3>;
using mxfp4_rule = rule<dtype::mxfp4>;

template <class R>
struct stored {
  std::vector<std::uint8_t> codes;
  std::vector<group_scale> scales;
  std::vector<float> values;
};

template <class R>
stored<R> store(std::vector<float> const& w, std::int64_t rows, groups::extent group) {
  auto const inputs = static_cast<std::int64_t>(w.size()) / rows;
  auto const shape = groups::scales_of(rows, inputs, group);
  stored<R> s{std::vector<std::uint8_t>(w.size()), std::vector<group_scale>(static_cast<std::size_t>(shape.rows * shape.inputs)),
              std::vector<float>(w.size())};
  view<std::uint8_t> const codes(s.codes.data(), rows, inputs);
  view<group_scale> const scales(s.scales.data(), shape.rows, shape.inputs);
  groups::quantize<R::type>(view<const float>(w.data(), rows, inputs), group, codes, scales, R::zero_point);
  view<float> const values(s.values.data(), rows, inputs);
  groups::dequantize<R::type>(view<const std::uint8_t>(codes), view<const group_scale>(scales), group, values, R::zero_point);
  return s;
}

template <class R>
stored<R> store(std::vector<float> const& w) {
  return store<R>(w, 1, {1, 0});
}

// Values from tiny to large, of both signs, with zeros.
std::vector<float> some_weights(std::size_t count, std::uint64_t seed) {
  random_stream random(seed);
  std::vector<float> w(count);
  for (auto& x : w) {
    auto const exponent = static_cast<int>(random.below(8)) - 6;
    x = random.below(16) == 0 ? 0.0f : std::ldexp(random.normal(), exponent);
  }
  return w;
}

}  // namespace

TEST_CASE("nearest rounds ties to even") {
  for (int i = -4000; i <= 4000; ++i) {
    auto const x = static_cast<float>(i) / 8;
    REQUIRE(groups::nearest(x) == static_cast<int>(std::nearbyint(x)));
  }
  CHECK(groups::nearest(0.49999997f) == 0);
  CHECK(groups::nearest(0.50000006f) == 1);
}

TEST_CASE("e2m1 has sixteen codes, and chooses the nearest, ties to even") {
  constexpr float grid[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  for (std::uint32_t code = 0; code < 8; ++code) {
    CHECK(groups::decode_e2m1(code) == grid[code]);
    CHECK(groups::decode_e2m1(code + 8) == -grid[code]);
    CHECK(groups::encode_e2m1(grid[code]) == code);
    CHECK(groups::encode_e2m1(-grid[code]) == code + 8);
    if (code == 7) continue;
    auto const middle = (grid[code] + grid[code + 1]) / 2;
    CHECK(groups::encode_e2m1(middle) == (code % 2 == 0 ? code : code + 1));
    CHECK(groups::encode_e2m1(std::nextafter(middle, 0.0f)) == code);
    CHECK(groups::encode_e2m1(std::nextafter(middle, 9.0f)) == code + 1);
  }
  CHECK(groups::encode_e2m1(1e30f) == 7);
  CHECK(groups::encode_e2m1(-1e30f) == 15);
}

TEST_CASE("scales and codes by hand") {
  auto const int8 = store<int8_rule>({1, -127, 3.5f, 2.5f, 0});
  CHECK(int8.scales[0].scale == 1);
  CHECK(int8.codes == std::vector<std::uint8_t>{1, 0x81, 4, 2, 0});

  auto const int4 = store<int4_rule>({-14, 7, 3, -3, 0.9f});   // scale 2: -7, 3.5, 1.5, -1.5, 0.45
  CHECK(int4.scales[0].scale == 2);
  CHECK(int4.codes == std::vector<std::uint8_t>{9, 4, 2, 14, 0});
  CHECK(int4.values == std::vector<float>{-14, 8, 4, -4, 0});

  auto const asymmetric = store<zero_point_rule>({-5, 10, 0, 2.5f, -0.6f});   // scale 1, zero 5
  CHECK(asymmetric.scales[0].scale == 1);
  CHECK(asymmetric.scales[0].zero == 5);
  CHECK(asymmetric.codes == std::vector<std::uint8_t>{0, 15, 5, 7, 4});
  CHECK(asymmetric.values == std::vector<float>{-5, 10, 0, 2, -1});

  auto const e4m3 = store<e4m3_rule>({0.03f, -0.2f, 1.5f, -3.2f});
  CHECK(e4m3.scales[0].scale == 3.2f / 448);
  std::vector<float> codes;
  for (auto const c : e4m3.codes) codes.push_back(moesaic::e4m3::from_bits(c));
  CHECK(codes == std::vector<float>{4, -28, 208, -448});

  auto const mxfp4 = store<mxfp4_rule>({7, -2.5f, 0.25f, 0.26f});   // floor(log2 7) - 2 = 0, 7 saturates
  CHECK(mxfp4.scales[0].scale == 1);
  CHECK(mxfp4.codes == std::vector<std::uint8_t>{7, 12, 0, 1});
  CHECK(mxfp4.values == std::vector<float>{6, -2, 0, 0.5f});
  CHECK(store<mxfp4_rule>({8}).scales[0].scale == 2);
  CHECK(store<mxfp4_rule>({std::nextafter(8.0f, 0.0f)}).scales[0].scale == 1);
}

TEST_CASE_TEMPLATE("no code is nearer than the chosen one", R, int8_rule, int4_rule, zero_point_rule, e4m3_rule, mxfp4_rule) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    auto const w = some_weights(64, seed);
    auto const s = store<R>(w);
    auto const scale = s.scales[0];
    group_scale const unit{1, scale.zero};
    auto const encoded = [&](std::uint32_t code) { return static_cast<double>(groups::decode<R::type>(code, unit, R::zero_point)); };
    INFO("seed ", seed);
    for (std::size_t i = 0; i < w.size(); ++i) {
      double const x = w[i] / scale.scale;
      auto const error = std::fabs(encoded(s.codes[i]) - x);
      for (std::uint32_t code = 0; code < R::codes; ++code) {
        auto const most_negative = (R::type == dtype::int8 && code == 0x80) || (R::type == dtype::int4 && !R::zero_point && code == 8);
        if (most_negative) continue;   // symmetric formats leave it out
        auto const other = std::fabs(encoded(code) - x);
        if (std::isnan(other)) continue;
        REQUIRE(error <= other);
        // A tie: the chosen code is even. With a zero point the rounded number is, which is the code without it.
        if (error == other && encoded(code) != encoded(s.codes[i])) REQUIRE((s.codes[i] - scale.zero) % 2 == 0);
      }
      REQUIRE(s.values[i] == static_cast<float>(encoded(s.codes[i])) * scale.scale);
    }
  }
}

TEST_CASE_TEMPLATE("zeros are stored as zeros", R, int8_rule, int4_rule, zero_point_rule, e4m3_rule, mxfp4_rule) {
  auto const s = store<R>(std::vector<float>(33, 0.0f));
  CHECK(s.scales[0].scale > 0);
  CHECK(s.scales[0].zero == 0);
  CHECK(std::count(s.codes.begin(), s.codes.end(), std::uint8_t{0}) == 33);
  CHECK(std::count(s.values.begin(), s.values.end(), 0.0f) == 33);
}

TEST_CASE("a zero among others is exact with a zero point, whatever the range") {
  for (auto const& w : {std::vector<float>{0, 1, 2, 4}, {-4, -1, 0}, {-1.3f, 0, 7.7f}, {0.001f, 0, -0.2f}}) {
    auto const s = store<zero_point_rule>(w);
    for (std::size_t i = 0; i < w.size(); ++i)
      if (w[i] == 0) CHECK(s.values[i] == 0);
  }
  auto const above = store<zero_point_rule>({15, 1, 2}), below = store<zero_point_rule>({-15, -1, -2});
  CHECK(above.scales[0].zero == 0);
  CHECK(above.values == std::vector<float>{15, 1, 2});
  CHECK(below.scales[0].zero == 15);
  CHECK(below.values == std::vector<float>{-15, -1, -2});
}

TEST_CASE_TEMPLATE("a power of two times the weights gives the same codes", R, int8_rule, int4_rule, zero_point_rule, e4m3_rule,
                   mxfp4_rule) {
  auto const w = some_weights(100, 7);
  auto const s = store<R>(w);
  for (int exponent : {-6, -1, 3, 20}) {
    auto scaled = w;
    for (auto& x : scaled) x = std::ldexp(x, exponent);
    auto const t = store<R>(scaled);
    CHECK(t.codes == s.codes);
    CHECK(t.scales[0].scale == std::ldexp(s.scales[0].scale, exponent));
  }
}

TEST_CASE("mxfp4 weights of a checkpoint, widened and stored again, do not change") {
  random_stream random(3);
  for (int trial = 0; trial < 1000; ++trial) {
    auto const scale = std::ldexp(1.0f, static_cast<int>(random.below(200)) - 100);
    std::vector<float> w(32);
    auto const codes = trial % 16 + 1;   // some groups without large ones
    for (auto& x : w) x = groups::decode_e2m1(static_cast<std::uint32_t>(random.below(codes))) * scale;
    REQUIRE(store<mxfp4_rule>(w).values == w);
  }
}

TEST_CASE("ends of the range of float") {
  constexpr auto huge = std::numeric_limits<float>::max(), tiny = std::numeric_limits<float>::denorm_min();
  CHECK(store<int8_rule>({huge, -huge}).codes == std::vector<std::uint8_t>{127, 0x81});
  CHECK(store<int4_rule>({huge, tiny}).codes == std::vector<std::uint8_t>{7, 0});
  CHECK(store<mxfp4_rule>({huge}).values[0] == 0x1.8p127f);   // 6 · 2^125
  CHECK(store<mxfp4_rule>({tiny}).scales[0].scale == 0x1p-127f);
  CHECK(store<mxfp4_rule>({0x1p-125f}).values[0] == 0x1p-125f);
  CHECK(store<e4m3_rule>({1e-4f, 1e-5f}).scales[0].scale == 1e-4f / 448);
  CHECK(store<e4m3_rule>({1e-6f}).scales[0].scale == 1e-4f / 448);
}

TEST_CASE_TEMPLATE("every group by itself, short last groups and edge blocks included", R, int8_rule, int4_rule, zero_point_rule, e4m3_rule,
                   mxfp4_rule) {
  for (std::int64_t rows : {1, 3, 17, 40})
    for (std::int64_t inputs : {1, 31, 33, 100, 130})
      for (groups::extent group : {groups::extent{1, 32}, {1, 128}, {1, 0}, {16, 16}, {16, 48}, {128, 128}}) {
        auto const w = some_weights(static_cast<std::size_t>(rows * inputs), static_cast<std::uint64_t>(rows * 1000 + inputs));
        auto const s = store<R>(w, rows, group);
        auto const wide = group.inputs == 0 ? inputs : group.inputs;
        auto const shape = groups::scales_of(rows, inputs, group);
        REQUIRE(static_cast<std::int64_t>(s.scales.size()) == ((rows - 1) / group.rows + 1) * ((inputs - 1) / wide + 1));
        for (std::int64_t i = 0; i < shape.rows; ++i)
          for (std::int64_t j = 0; j < shape.inputs; ++j) {
            std::vector<float> alone, values;
            std::vector<std::uint8_t> codes;
            for (auto n = i * group.rows; n < std::min(rows, (i + 1) * group.rows); ++n)
              for (auto k = j * wide; k < std::min(inputs, (j + 1) * wide); ++k) {
                auto const at = static_cast<std::size_t>(n * inputs + k);
                alone.push_back(w[at]);
                values.push_back(s.values[at]);
                codes.push_back(s.codes[at]);
              }
            auto const t = store<R>(alone);
            auto const& scale = s.scales[static_cast<std::size_t>(i * shape.inputs + j)];
            REQUIRE(t.codes == codes);
            REQUIRE(t.values == values);
            REQUIRE(t.scales[0].scale == scale.scale);
            REQUIRE(t.scales[0].zero == scale.zero);
          }
      }
}

TEST_CASE("the extent of a group, by format") {
  auto const of = [](format f) { return groups::extent_of(f); };
  CHECK(of(dtype::int8).rows == 1);
  CHECK(of(dtype::int8).inputs == 32);
  CHECK(of({dtype::int4, 0}).inputs == 0);
  CHECK(of(dtype::e4m3).rows == 128);
  CHECK(of(dtype::e4m3).inputs == 128);
}
