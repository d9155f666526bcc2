// Expert ids that somebody recorded -> the same experts again, weighed by this router's own scores.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/route/policy.hpp>

namespace moesaic::routing {

/// Writes the usable ids of a list in its order: from 0 to experts − 1, each once, and `open(id)`; at most `slots`, the rest −1.
template <class Open>
MOESAIC_FN int take_listed(int experts, std::int32_t const* listed, std::int64_t size, int slots, std::int32_t* ids, Open&& open) {
  int found = 0;
  for (std::int64_t i = 0; i < size && found < slots; ++i) {
    auto const e = listed[i];
    bool usable = e >= 0 && e < experts && open(e);
    for (int j = 0; usable && j < found; ++j) usable = ids[j] != e;
    if (usable) ids[found++] = e;
  }
  for (int i = found; i < slots; ++i) ids[i] = -1;
  return found;
}

/// Router replay (Megatron-Core; reinforcement learning, where the experts of sampling must be those of training; tests): a token's experts
/// are the supplied ones, in the supplied order, and the weights are this model's. Groups, masks and prices change nothing: what was
/// recorded decides. Entries outside 0 .. experts − 1 are unused slots; an expert named twice is used once. A token whose logits are not
/// finite gets no expert, as ever. Costs nothing. Causal and batch-invariant as far as the recording was.
template <class Base = standard>
struct replay : Base {
  static constexpr bool coupled = false, listed = true;
  struct state : Base::state {
    view<const std::int32_t> ids = {};  ///< [tokens, any number], of which at most the slots of Base are used
  };
  static constexpr status fits(router_config const& c, state const& s, std::int64_t tokens) {
    if (s.ids.rows != tokens) return invalid("the supplied ids must have a row a token", tokens, s.ids.rows);
    return Base::fits(c, s, tokens);
  }

  template <class T, class Group>
  MOESAIC_FN static int select(router_config const& c, Group const& g, state const& s, std::int64_t token, T const*, T const*, int slots,
                               std::int32_t* ids) {
    return found_by_one(g, [&] { return take_listed(c.experts, s.ids.row(token), s.ids.columns, slots, ids, [](std::int32_t) { return true; }); });
  }
};

}  // namespace moesaic::routing
