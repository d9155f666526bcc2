// Token ids and a fixed table -> experts, without asking the scores.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/bits.hpp>
#include <moesaic/base/random.hpp>
#include <moesaic/route/replay.hpp>

namespace moesaic::routing {

/// Hash routing (Roller et al., arXiv 2106.04426; the first layers of DeepSeek-V4): a token's experts stand in a table under its vocabulary
/// id. Weights are as configured: scores of the router for those experts (DeepSeek-V4), or combine_weight::ones (Hash layers). An expert that
/// is masked is skipped; entries outside 0 .. experts − 1 are unused slots; a token id outside the table gets no expert.
/// Helps where routing should not be learned: balance is the vocabulary's, nothing drifts, and the experts of the next token are known as
/// soon as it is. Costs a row of the table. Causal; batch-invariant.
template <class Base = standard>
struct hash : Base {
  static constexpr bool coupled = false, listed = true;
  struct state : Base::state {
    list<const std::int32_t> token_ids = {};        ///< [tokens]
    view<const std::int32_t> table = {};            ///< [vocabulary, any number], of which at most the slots of Base are used
  };
  static constexpr status fits(router_config const& c, state const& s, std::int64_t tokens) {
    if (s.token_ids.size != tokens) return invalid("token_ids must have an entry a token", tokens, s.token_ids.size);
    return Base::fits(c, s, tokens);
  }

  template <class T, class Group>
  MOESAIC_FN static int select(router_config const& c, Group const& g, state const& s, std::int64_t token, T const*, T const* choice, int slots,
                               std::int32_t* ids) {
    auto const id = s.token_ids[token];
    bool const known = id >= 0 && id < s.table.rows;
    auto const open = [&](std::int32_t e) { return choice[e] > -infinity<T>; };
    return found_by_one(g, [&] {
      return take_listed(c.experts, known ? s.table.row(id) : nullptr, known ? s.table.columns : 0, slots, ids, open);
    });
  }
};

/// A random table of different experts a row, the same on every machine: table [vocabulary, k], k ≤ experts.
MOESAIC_FN constexpr void fill_hash_table(view<std::int32_t> table, int experts, std::uint64_t seed) {
  random_stream random(seed);
  for (std::int64_t row = 0; row < table.rows; ++row)
    for (std::int64_t i = 0; i < table.columns; ++i) {
      auto drawn = static_cast<std::int32_t>(random.below(experts - i));       // of those that are left, counted from the smallest
      std::int64_t smaller = 0;
      for (std::int32_t e = 0;; ++e) {
        bool taken = false;
        for (std::int64_t j = 0; j < i; ++j) taken = taken || table(row, j) == e;
        if (taken) continue;
        if (smaller++ == drawn) {
          table(row, i) = e;
          break;
        }
      }
    }
}

}  // namespace moesaic::routing
