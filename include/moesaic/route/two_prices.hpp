// Two prices, one for a token's use of an expert and one for reading it: the exact optimum where tokens take any number, and its form for k slots.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/route/coupled.hpp>

namespace moesaic::routing {

/// Maximises, over which experts a step reads and who uses them,
///   Σ over chosen (token, expert) of (gain − compute · size)  −  Σ over experts read of read · size.
/// Where a token may take any number this separates over experts, so no search is needed: an expert is read if its tokens' profits, gain −
/// compute · size where positive, add up to more than read · size, and then each token with a profit uses it. Best first, none if none pays.
///   costs          tokens · experts additions, and memory for as many slots a token as there are experts: experts / k times the usual
///   helps          models trained for a variable number of experts, or carved from a dense one; both prices in the unit of gain
///   neutral        both prices 0: Base with its own number of slots, to the bit
///   causal         only between steps; batch-invariant: no; order of tokens: free
template <class Base = standard>
struct two_prices : batch_rule<Base> {
  using rule = batch_rule<Base>;
  struct state : rule::state {
    float compute = 0;                     ///< a use of an expert of size 1, in units of gain
    float read = 0;                        ///< an expert of size 1 in a step
    list<const float> size = {};           ///< [experts] of each, relative; empty = 1 each
  };

  MOESAIC_FN static constexpr int slots(router_config const& c) { return c.experts; }
  static constexpr status fits(router_config const& c, auto const& s, std::int64_t tokens) {
    if (auto const done = rule::fits_experts(c, s.size.size, "size of a routing state must be empty or have an entry an expert"); !done) return done;
    if (auto const done = rule::fits_from_zero(s.compute, "compute of two_prices must be 0 or more"); !done) return done;
    if (auto const done = rule::fits_from_zero(s.read, "read of two_prices must be 0 or more"); !done) return done;
    return Base::fits(c, s, tokens);
  }
  static constexpr std::int64_t batch_bytes(router_config const& c, std::int64_t tokens) { return rule::bytes_of(c, tokens, carve<double>); }

  template <class T, class Group>
  MOESAIC_FN static void select_batch(router_config const& c, Group const& g, state const& s, routing_batch<T> const& batch,
                                      routing_slots<T> const& slots, list<std::byte> bytes) {
    auto const tokens = batch.choice.rows;
    if (s.compute == 0.0f && s.read == 0.0f) {
      auto own = slots;
      own.ids.columns = Base::slots(c);
      return rule::choose_plain(c, g, s, batch, own);
    }
    arena from(bytes.data, static_cast<std::size_t>(bytes.size));
    auto const memory = carve<T>(from, c, tokens);
    for (std::int64_t t = g.rank(); t < tokens; t += g.size())
      if (batch.counts(t)) memory.measures[t] = rule::plain_measure(c, s, batch, t);
    g.sync();
    auto const gain = [&](std::int64_t t, std::int32_t e) {
      return rule::gain_of(c, s, batch, t, e, memory.measures[t]) - static_cast<T>(s.compute * rule::cost_of(s.size, e));
    };
    for (std::int32_t e = g.rank(); e < c.experts; e += g.size()) {
      double sum = 0;
      for (std::int64_t t = 0; t < tokens; ++t)
        if (auto const more = batch.counts(t) ? gain(t, e) : T(0); more > T(0)) sum += rule::term(static_cast<double>(more), tokens);
      memory.kept[e] = sum > static_cast<double>(s.read * rule::cost_of(s.size, e));
    }
    g.sync();
    for (std::int64_t t = g.rank(); t < tokens; t += g.size()) {
      auto* const ids = slots.ids.row(t);
      auto const pays = [&](std::int32_t e) { return memory.kept[e] != 0 && gain(t, e) > T(0); };
      slots.count[t] = 0;
      if (!batch.counts(t)) continue;
      auto const found = rule::select_inside(c, g, s, batch, t, static_cast<int>(slots.ids.columns), memory.rows.row(t), ids, pays);
      slots.count[t] = rule::cut_as_base(c, s, batch, t, ids, found);
    }
    g.sync();
  }

 private:
  template <class T>
  struct scratch {
    list<std::uint8_t> kept;
    list<typename rule::template measure<T>> measures;
    view<T> rows;
  };
  template <class T>
  MOESAIC_FN static constexpr scratch<T> carve(arena& memory, router_config const& c, std::int64_t tokens) {
    return {memory.take<std::uint8_t>(c.experts), memory.take<typename rule::template measure<T>>(tokens), memory.take<T>(tokens, c.experts)};
  }
};

/// The same for k slots, as a heuristic: an expert is read if the shares of gate weight that the plain rule gives it add up to more than read ·
/// size; lost slots are refilled inside what is read; a token whose experts are all gone keeps its best one. A token's shares sum to 1.
///   costs          tokens · k additions, a second choice for tokens that lose an expert: the cheapest rule that looks at weights
///   helps          decode batches; a quarter fewer experts read for a third of a percent of bits on the pair of examples/data
///   neutral        read = 0: Base to the bit
///   causal         only between steps; batch-invariant: no; order of tokens: free
template <class Base = standard>
struct two_prices_refilled : batch_rule<Base> {
  using rule = batch_rule<Base>;
  struct state : rule::state {
    float read = 0;                        ///< an expert of size 1 in a step, in shares of a token's gate weight
    list<const float> size = {};           ///< [experts] of each, relative; empty = 1 each
  };

  static constexpr status fits(router_config const& c, auto const& s, std::int64_t tokens) {
    if (auto const done = rule::fits_experts(c, s.size.size, "size of a routing state must be empty or have an entry an expert"); !done) return done;
    if (auto const done = rule::fits_from_zero(s.read, "read of two_prices_refilled must be 0 or more"); !done) return done;
    return Base::fits(c, s, tokens);
  }
  static constexpr std::int64_t batch_bytes(router_config const& c, std::int64_t tokens) { return rule::bytes_of(c, tokens, rule::template carve_sums<double>); }

  template <class T, class Group>
  MOESAIC_FN static void select_batch(router_config const& c, Group const& g, state const& s, routing_batch<T> const& batch,
                                      routing_slots<T> const& slots, list<std::byte> bytes) {
    rule::choose_plain(c, g, s, batch, slots);
    if (s.read == 0.0f) return;
    auto const tokens = batch.choice.rows;
    arena from(bytes.data, static_cast<std::size_t>(bytes.size));
    auto const memory = rule::template carve_sums<T>(from, c, tokens);
    for (std::int64_t t = g.rank(); t < tokens; t += g.size())
      if (slots.count[t] > 0) memory.measures[t] = rule::share_measure(c, s, batch, t, slots.ids.row(t), slots.count[t]);
    rule::clear(g, memory.sum);
    rule::each_choice(g, slots, c.experts, [&](std::int64_t t, std::int32_t e) {
      memory.sum[e] += rule::term(static_cast<double>(rule::gain_of(c, s, batch, t, e, memory.measures[t])), tokens);
    });
    g.sync();
    for (std::int32_t e = g.rank(); e < c.experts; e += g.size()) memory.kept[e] = memory.sum[e] > static_cast<double>(s.read * rule::cost_of(s.size, e));
    g.sync();
    rule::choose_inside(c, g, s, batch, slots, memory.kept, memory.rows);
  }
};

}  // namespace moesaic::routing
