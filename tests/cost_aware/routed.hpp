// Logits of a whole call through a policy, the way a layer calls it; and all subsets of a few experts.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <moesaic/base/random.hpp>
#include <moesaic/host/route.hpp>
#include <support/compare.hpp>
#include <support/matrix.hpp>

namespace moesaic::test {

template <class T>
struct routed {
  matrix<T> scores, choice, weights;
  matrix<std::int32_t> ids;
  std::vector<std::int32_t> count;
  bool finite = true;

  /// The experts of a token in ascending order.
  std::vector<int> set(std::int64_t t) const {
    std::vector<int> s;
    for (std::int64_t i = 0; i < ids.columns; ++i)
      if (ids(t, i) >= 0) s.push_back(ids(t, i));
    std::sort(s.begin(), s.end());
    return s;
  }
  /// Who is chosen, in what order and with what weight, to the bit.
  bool same(routed const& other) const {
    return same_bits(ids.view(), other.ids.view()) && same_bits(weights.view(), other.weights.view()) && count == other.count;
  }
  bool same(routed const& other, std::int64_t t) const {
    auto const row = [&](auto const& m) { return view{m.view().row(t), 1, m.columns}; };
    return same_bits(row(ids), row(other.ids)) && same_bits(row(weights), row(other.weights));
  }
};

template <class Policy, class T>
routed<T> route_all(router_config c, matrix<T> const& logits, typename Policy::state const& state = {}, std::vector<float> const& score_bias = {}) {
  c.experts = static_cast<int>(logits.columns);
  auto const tokens = logits.rows;
  auto const slots = Policy::slots(c);
  routed<T> r{{tokens, c.experts}, {tokens, c.experts}, {tokens, slots}, {tokens, slots}, std::vector<std::int32_t>(static_cast<std::size_t>(tokens)), true};
  host::pool where;
  std::int32_t not_finite = 0;
  std::vector<std::byte> memory(static_cast<std::size_t>(batch_bytes_of<Policy>(c, tokens)));
  host::route<Policy>(where, c, state, logits.view(), score_bias, r.scores.view(), r.choice.view(), {r.ids.view(), r.weights.view(), r.count}, memory,
                      &not_finite);
  r.finite = not_finite == 0;
  return r;
}

/// A matrix of numbers given row by row.
template <class T>
matrix<T> given(std::int64_t rows, std::int64_t columns, std::vector<T> const& numbers) {
  matrix<T> m(rows, columns);
  m.data = numbers;
  return m;
}

/// f(members in ascending order) for every subset of 0 .. n − 1 with `least` to `most` members.
template <class F>
void for_each_subset(int n, int least, int most, F&& f) {
  for (unsigned set = 0; set < (1u << n); ++set) {
    std::vector<int> members;
    for (int e = 0; e < n; ++e)
      if ((set >> e & 1u) != 0) members.push_back(e);
    if (static_cast<int>(members.size()) >= least && static_cast<int>(members.size()) <= most) f(members);
  }
}

/// Multiples of 1/8 up to `most`: costs whose sums and products with a power of two are exact.
inline matrix<float> exact_costs(std::int64_t tokens, std::int64_t experts, random_stream& random, int most = 4) {
  matrix<float> c(tokens, experts);
  for (auto& x : c.data) x = static_cast<float>(random.below(8 * most + 1)) / 8;
  return c;
}

}  // namespace moesaic::test
