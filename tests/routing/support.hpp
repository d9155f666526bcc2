// Routes a batch through a policy, as a layer does, and a slow answer to compare with: sorting in long double, and every subset.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/base/random.hpp>
#include <moesaic/host/pool.hpp>
#include <moesaic/host/route.hpp>

#include "support/tolerance.hpp"

namespace moesaic::test {

using ids_of_token = std::vector<std::int32_t>;

/// What a call of host::route left, a row a token; unused slots are left out of `ids` and `weights`, wherever they stand.
template <class T>
struct routed {
  std::vector<ids_of_token> ids;
  std::vector<std::vector<T>> weights;
  std::vector<std::int32_t> raw_ids;   ///< [tokens, slots]
  std::vector<T> raw_weights, scores, choice;
  std::vector<std::int32_t> count;
  bool finite = true;
};

/// logits [tokens, columns], columns ≥ experts.
template <class Policy, class T>
routed<T> route_all(router_config const& c, typename Policy::state const& state, std::vector<T> logits,
                    std::vector<float> const& score_bias = {},
                    int columns = 0, int threads = 1) {
  static_assert(routing_policy<Policy, T>);
  columns = columns == 0 ? c.experts : columns;
  auto const tokens = static_cast<std::int64_t>(logits.size()) / columns;
  int const slots = Policy::slots(c);
  auto const size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
  routed<T> r;
  r.scores.resize(size(tokens * c.experts));
  r.choice = r.scores;
  r.raw_ids.assign(size(tokens * slots), -7);
  r.raw_weights.assign(size(tokens * slots), T(77));
  r.count.assign(size(tokens), -7);
  std::vector<std::max_align_t> memory(size(batch_bytes_of<Policy>(c, tokens)) / sizeof(std::max_align_t) + 1);
  std::int32_t not_finite = 0;
  host::pool pool{threads};
  host::route<Policy>(pool, c, state, view<const T>(logits.data(), tokens, columns), score_bias, view<T>(r.scores.data(), tokens, c.experts),
                      view<T>(r.choice.data(), tokens, c.experts),
                      routing_slots<T>{{r.raw_ids.data(), tokens, slots}, {r.raw_weights.data(), tokens, slots}, r.count},
                      list<std::byte>(reinterpret_cast<std::byte*>(memory.data()), batch_bytes_of<Policy>(c, tokens)), &not_finite);
  r.finite = not_finite == 0;
  r.ids.resize(size(tokens));
  r.weights.resize(size(tokens));
  for (std::int64_t t = 0; t < tokens; ++t)
    for (int i = 0; i < slots; ++i) {
      auto const at = size(t * slots + i);
      if (r.raw_ids[at] < 0) {
        CHECK(r.raw_ids[at] == -1);
        CHECK(r.raw_weights[at] == T(0));
        continue;
      }
      r.ids[size(t)].push_back(r.raw_ids[at]);
      r.weights[size(t)].push_back(r.raw_weights[at]);
    }
  return r;
}

/// The same for one token.
template <class Policy = routing::standard, class T = double>
routed<T> route_one(router_config c, std::vector<T> const& logits, typename Policy::state const& state = {},
                    std::vector<float> const& score_bias = {}) {
  if (c.experts == 0) c.experts = static_cast<int>(logits.size());
  return route_all<Policy, T>(c, state, logits, score_bias, static_cast<int>(logits.size()));
}

template <class T>
bool near(T got, long double want, long double scale = 1) {
  return std::fabs(static_cast<long double>(got) - want) <= routing_tolerance<T> * scale;
}

/// Random logits of a few kinds: normal, with ties (multiples of 1/2), and wide.
template <class T>
std::vector<T> random_logits(random_stream& random, std::int64_t n) {
  auto const kind = random.below(3);
  std::vector<T> z;
  for (std::int64_t i = 0; i < n; ++i) {
    float const x = random.normal();
    z.push_back(static_cast<T>(kind == 0 ? x : kind == 1 ? std::round(2 * x) / 2 : 6 * x));
  }
  return z;
}

/// Numbers as a publication prints them, six digits after the point.
template <class T>
void check_printed(std::vector<T> const& got, std::vector<double> const& want) {
  REQUIRE(got.size() == want.size());
  for (std::size_t i = 0; i < want.size(); ++i) {
    CAPTURE(i);
    CHECK(std::fabs(static_cast<double>(got[i]) - want[i]) <= printed_tolerance<T>(want[i]));
  }
}

template <class T>
std::vector<T> as(std::vector<double> const& values) {
  return {values.begin(), values.end()};
}

/// Eight logits; experts 3 and 4 tie.
inline std::vector<double> const golden{1.0, -0.5, 2.0, 0.3, 0.3, -1.2, 0.9, 1.6};

inline std::vector<long double> softmax(std::vector<long double> z) {
  auto const largest = *std::max_element(z.begin(), z.end());
  long double sum = 0;
  for (auto& x : z) sum += x = std::exp(x - largest);
  for (auto& x : z) x /= sum;
  return z;
}

/// Experts by falling value, equal ones by rising index; −inf is left out.
template <class T>
ids_of_token by_value(std::vector<T> const& value) {
  ids_of_token order;
  for (std::size_t e = 0; e < value.size(); ++e)
    if (value[e] > -infinity<T>) order.push_back(static_cast<std::int32_t>(e));
  auto const at = [&](std::int32_t e) { return value[static_cast<std::size_t>(e)]; };
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return at(a) != at(b) ? at(a) > at(b) : a < b; });
  return order;
}

template <class T>
std::vector<T> row_of(std::vector<T> const& all, std::int64_t row, std::int64_t columns) {
  return {all.begin() + row * columns, all.begin() + (row + 1) * columns};
}

}  // namespace moesaic::test
