// Slots of zero, copy and constant experts by hand, and against the formula in double; rows of other experts stay as they were.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/host/special_experts.hpp>
#include <support/compare.hpp>
#include <support/levels.hpp>
#include <support/matrix.hpp>
#include <support/products.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::uint64_t seed = 20261124;

struct call {
  expert_config kinds;
  std::vector<std::int32_t> offsets;     // of the special experts: feed-forwards have the slots before
  std::int64_t tokens = 5;

  std::int64_t first() const { return offsets.front(); }
  std::int64_t last() const { return offsets.back(); }
};
// Experts without, with one and with many slots, more than one task has; slots before and behind that are nobody's business here.
std::vector<call> const calls{{{.zero = 2, .copy = 2, .constant = 3}, {7, 7, 20, 21, 40, 40, 41, 70}},
                              {{.zero = 1}, {0, 9}},
                              {{.copy = 3}, {3, 3, 3, 15}},
                              {{.constant = 2}, {2, 11, 30}},
                              {{.zero = 1, .copy = 1, .constant = 1}, {4, 4, 4, 4}},
                              {{.copy = 1, .constant = 1}, {1, 1, 2}, 1}};

template <class T>
void check(call const& c, std::int64_t hidden) {
  CAPTURE(seed);
  CAPTURE(hidden);
  random_stream random(seed + static_cast<std::uint64_t>(hidden));
  guarded<T> const x(c.tokens, hidden, random);
  std::vector<float> gate(static_cast<std::size_t>(c.kinds.constant * 2 * hidden)), value(static_cast<std::size_t>(c.kinds.constant * hidden));
  for (auto& g : gate) g = random.normal() / std::sqrt(static_cast<float>(hidden));
  for (auto& v : value) v = random.normal();
  std::vector<std::int32_t> token_of_slot;
  for (std::int64_t s = 0; s < c.last() + 3; ++s) token_of_slot.push_back(static_cast<std::int32_t>(random.below(c.tokens)));

  std::vector<T> lowest;
  for (auto const level : levels())
    for (int threads : {1, 3}) {
      CAPTURE(std::string(name(level)));
      host::pool where(threads, level);
      guarded<T> y(c.last() + 3, hidden);
      host::special_experts<T>(where, c.kinds, {gate, value}, x.input(), c.offsets, token_of_slot.data(), y.rows);
      CHECK(y.guards_whole());
      for (std::int64_t s = 0; s < y.rows.rows; ++s) {
        auto const* const row = x.input().row(token_of_slot[static_cast<std::size_t>(s)]);
        int e = -1;
        if (s >= c.first() && s < c.last())
          for (e = 0; s >= c.offsets[static_cast<std::size_t>(e) + 1]; ++e) {}
        int const constant = e - c.kinds.zero - c.kinds.copy;
        if (e < 0) {
          for (std::int64_t i = 0; i < hidden; ++i) CHECK(std::isnan(static_cast<double>(y.rows(s, i))));
        } else if (constant < 0) {
          for (std::int64_t i = 0; i < hidden; ++i)
            CHECK(static_cast<double>(y.rows(s, i)) == (e < c.kinds.zero ? 0.0 : static_cast<double>(row[i])));
        } else {
          auto const piece = [&](std::vector<float> const& all, std::int64_t i) {
            return std::vector<float>(all.begin() + i * hidden, all.begin() + (i + 1) * hidden);
          };
          auto const z1 = dot(piece(gate, constant * 2), row, 0), z2 = dot(piece(gate, constant * 2 + 1), row, 0);
          auto const a1 = std::exp(z1.value) / (std::exp(z1.value) + std::exp(z2.value));
          using sum = accumulator<T>;
          // A softmax is no steeper than 1/4 of a difference; the mixture is two products and a sum.
          auto const moved = sum_tolerance<sum>(hidden + 8) * (z1.magnitude + z2.magnitude) / 4 + sum_tolerance<sum>(8);
          for (std::int64_t i = 0; i < hidden; ++i) {
            auto const xi = static_cast<double>(row[i]), vi = static_cast<double>(value[static_cast<std::size_t>(constant * hidden + i)]);
            auto const want = a1 * xi + (1 - a1) * vi;
            CHECK(std::fabs(static_cast<double>(y.rows(s, i)) - want) <= moved * (std::fabs(xi) + std::fabs(vi)) + roundoff<T> * std::fabs(want));
          }
        }
      }
      if (lowest.empty()) lowest = y.data;
      else CHECK(std::memcmp(lowest.data(), y.data.data(), lowest.size() * sizeof(T)) == 0);
    }
}

}  // namespace

TEST_CASE_TEMPLATE("every slot of its own kind", T, float, bf16, double) {
  for (auto const& c : calls)
    for (std::int64_t const hidden : {1, 16, 37, 64}) check<T>(c, hidden);
}

TEST_CASE("a constant expert by hand") {
  // W = [[1, 0], [0, 1]], v = [10, 20], x = [0, ln 3]: the softmax of (0, ln 3) is (1/4, 3/4).
  host::pool where;
  std::vector<float> const gate{1, 0, 0, 1}, value{10, 20};
  std::vector<double> const x{0, std::log(3.0)};
  std::vector<double> y(2);
  std::int32_t const offsets[] = {0, 1}, token_of_slot[] = {0};
  host::special_experts<double>(where, {.constant = 1}, {gate, value}, view<const double>(x.data(), 1, 2), offsets, token_of_slot,
                                view<double>(y.data(), 1, 2));
  CHECK(std::fabs(y[0] - 7.5) <= sum_tolerance<double>(8) * 10);
  CHECK(std::fabs(y[1] - (0.25 * std::log(3.0) + 15)) <= sum_tolerance<double>(8) * 20);
}

TEST_CASE("a constant expert is sure, however large its logits") {
  host::pool where;
  std::vector<float> const gate{3e38f, -3e38f}, value{7};
  std::vector<float> const x{1, -1};
  std::vector<float> y(2);
  std::int32_t const offsets[] = {0, 2}, token_of_slot[] = {0, 1};
  host::special_experts<float>(where, {.constant = 1}, {gate, value}, view<const float>(x.data(), 2, 1), offsets, token_of_slot,
                               view<float>(y.data(), 2, 1));
  CHECK(y[0] == 1.0f);
  CHECK(y[1] == 7.0f);
}
