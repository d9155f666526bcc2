// Two phases: every token takes its own best few, then fills its list with the best experts that somebody took.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/route/coupled.hpp>

namespace moesaic::routing {

/// Each token's own best `own` experts make a union; each token's list is filled to k with its best experts inside that (opportunistic expert
/// activation, arXiv 2511.02237). A step reads at most tokens · own experts; a token gets fewer than k where the union is smaller.
///   costs          one pass over the chosen, a second choice for tokens that lose an expert
///   helps          decode batches of 4 to 64 sequences, where bytes are the price; simple, but elimination keeps more of the gate's weight
///   neutral        own ≥ k: Base to the bit
///   causal         only between steps; batch-invariant: no; order of tokens: free
template <class Base = standard>
struct two_phase : batch_rule<Base> {
  using rule = batch_rule<Base>;
  struct state : rule::state {
    int own = 1;                           ///< experts that a token takes whatever the others do
  };

  static constexpr status fits(router_config const& c, auto const& s, std::int64_t tokens) {
    if (auto const done = rule::fits_from_zero(s.own, "own of two_phase must be 0 or more"); !done) return done;
    return Base::fits(c, s, tokens);
  }
  static constexpr std::int64_t batch_bytes(router_config const& c, std::int64_t tokens) { return rule::bytes_of(c, tokens, carve<double>); }

  template <class T, class Group>
  MOESAIC_FN static void select_batch(router_config const& c, Group const& g, state const& s, routing_batch<T> const& batch,
                                      routing_slots<T> const& slots, list<std::byte> bytes) {
    rule::choose_plain(c, g, s, batch, slots);
    if (s.own >= slots.ids.columns) return;
    arena from(bytes.data, static_cast<std::size_t>(bytes.size));
    auto const memory = carve<T>(from, c, batch.choice.rows);
    rule::clear(g, memory.kept);
    rule::each_choice(g, slots, s.own, [&](std::int64_t, std::int32_t e) { memory.kept[e] = 1; });
    g.sync();
    rule::choose_inside(c, g, s, batch, slots, memory.kept, memory.rows);
  }

 private:
  template <class T>
  struct scratch {
    list<std::uint8_t> kept;
    view<T> rows;
  };
  template <class T>
  MOESAIC_FN static constexpr scratch<T> carve(arena& memory, router_config const& c, std::int64_t tokens) {
    return {memory.take<std::uint8_t>(c.experts), memory.take<T>(tokens, c.experts)};
  }
};

}  // namespace moesaic::routing
