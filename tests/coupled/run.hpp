// Routes a batch by any policy and hands over everything that came of it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/host/route.hpp>
#include <support/matrix.hpp>

#include "definitions.hpp"

namespace moesaic::test {

template <class T>
struct routed {
  matrix<T> scores, choice, weights;
  matrix<std::int32_t> ids;
  std::vector<std::int32_t> count;
  std::int32_t not_finite = 0;

  std::vector<int> of(std::int64_t t) const {
    auto const* const first = ids.data.data() + t * ids.columns;
    return {first, first + count[static_cast<std::size_t>(t)]};
  }
  definitions::choice_of_batch all() const {
    definitions::choice_of_batch lists;
    for (std::int64_t t = 0; t < ids.rows; ++t) lists.push_back(of(t));
    return lists;
  }
};

template <class Policy, class T>
routed<T> route_by(router_config const& c, typename Policy::state const& state, matrix<T> const& logits, std::vector<float> const& bias = {}) {
  auto const tokens = logits.rows;
  int const slots = Policy::slots(c);
  routed<T> r{{tokens, c.experts}, {tokens, c.experts}, {tokens, slots}, {tokens, slots}, std::vector<std::int32_t>(static_cast<std::size_t>(tokens)), 0};
  std::vector<std::byte> memory(static_cast<std::size_t>(batch_bytes_of<Policy>(c, tokens)), std::byte{0xff});
  host::pool pool(1);
  host::route<Policy>(pool, c, state, logits.view(), bias, r.scores.view(), r.choice.view(), routing_slots<T>{r.ids.view(), r.weights.view(), r.count},
                      memory, &r.not_finite);
  return r;
}

/// The rows [first, first + n) of a plain run as the definitions want them. `whole` is Σ of what softmax after top-k leaves undone.
template <class T>
definitions::batch batch_of(router_config const& c, routed<T> const& plain, std::int64_t first, std::int64_t n) {
  definitions::batch b;
  b.experts = c.experts, b.k = c.top_k;
  for (auto t = first; t < first + n; ++t) {
    definitions::row choice, gain;
    double sum = 0, largest = definitions::never;
    if (plain.choice(t, 0) == plain.choice(t, 0))
      for (int e = 0; e < c.experts; ++e) {
        choice.push_back(static_cast<double>(plain.choice(t, e))), gain.push_back(static_cast<double>(plain.scores(t, e)));
        largest = std::max(largest, gain.back());
      }
    if (c.position == score_position::after_top_k)
      for (auto& v : gain) sum += v = std::exp(v - largest);
    for (std::size_t e = 0; e < gain.size(); ++e) {
      if (sum > 0) gain[e] /= sum;
      if (!(choice[e] > definitions::never)) gain[e] = 0;
    }
    b.choice.push_back(choice), b.gain.push_back(gain);
  }
  return b;
}

}  // namespace moesaic::test
