// Elimination: of the experts that a step would read, those go whose loss costs its tokens less than reading them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/base/bits.hpp>
#include <moesaic/route/coupled.hpp>

namespace moesaic::routing {

/// Starts from the plain union U. The loss of an expert is what its tokens would lose in shares of gate weight if it went and each took its next
/// best inside U instead: Σ over its tokens of (share − share of the next). The expert of least loss goes while that is below price · cost (of
/// equals the higher index) and more than k are left; then losses are new. It keeps the most gate weight greedily and refills as it goes.
///   rounds         0: one expert at a time. 3 or 5: so many passes, which drop the cheapest 34 %, 50 %, 100 % (20, 25, 34, 50, 100 %, rounded
///                  up) of the experts then below the price: for a block of threads; on trained routers within .002 of the same gate weight
///   costs          (experts dropped or rounds) · (tokens · k + experts) operations
///   helps          decode batches: a quarter fewer experts read for a quarter of a percent of bits on the pair of examples/data, the best rule
///                  here at equal gate weight
///   neutral        price = 0, or a batch of one: Base to the bit
///   causal         only between steps; batch-invariant: no; order of tokens: free
/// Source: this library. Base must choose the largest of `choice`; costs below it must protect nobody.
template <class Base = standard>
struct elimination : batch_rule<Base> {
  using rule = batch_rule<Base>;
  struct state : rule::state {
    float price = 0;                       ///< of an expert of cost 1, in shares of a token's gate weight
    int rounds = 0;                        ///< 0 (exact), 3 or 5
    list<const float> cost = {};           ///< [experts] of reading each, relative; empty = 1 each
  };

  static constexpr status fits(router_config const& c, auto const& s, std::int64_t tokens) {
    if (auto const done = rule::fits_experts(c, s.cost.size, "cost of a routing state must be empty or have an entry an expert"); !done) return done;
    if (s.rounds != 0 && s.rounds != 3 && s.rounds != 5)
      return invalid("rounds of elimination must be 0 (one expert at a time), 3 or 5", 0, s.rounds);
    if constexpr (requires { Base::protects(s); })
      if (Base::protects(s))
        return invalid("protect of costs below elimination must be 0, because a token's next expert is the next by choice", 0, s.protect);
    if (auto const done = rule::fits_from_zero(s.price, "price of elimination must be 0 or more"); !done) return done;
    return Base::fits(c, s, tokens);
  }
  static constexpr std::int64_t batch_bytes(router_config const& c, std::int64_t tokens) { return rule::bytes_of(c, tokens, carve<double>); }

  template <class T, class Group>
  MOESAIC_FN static void select_batch(router_config const& c, Group const& g, state const& s, routing_batch<T> const& batch,
                                      routing_slots<T> const& slots, list<std::byte> bytes) {
    static_assert(rule::template selects_largest<T>,
                  "elimination needs a policy below it that selects the largest of choice as routing::standard does, because a token's next expert is "
                  "the next of these");
    rule::choose_plain(c, g, s, batch, slots);
    auto const tokens = batch.choice.rows;
    if (s.price == 0.0f || tokens < 2) return;
    arena from(bytes.data, static_cast<std::size_t>(bytes.size));
    auto const memory = carve<T>(from, c, tokens);
    start(c, g, s, batch, slots, memory);
    int most = 0;
    for (std::int64_t t = g.rank(); t < tokens; t += g.size()) most = slots.count[t] > most ? slots.count[t] : most;
    int const spare = experts_kept(c, g, memory) - g.max(most);
    int const passes = s.rounds == 0 ? spare : s.rounds;
    for (int pass = 0, dropped = 0; pass < passes && dropped < spare; ++pass) {
      int const below = find_losses(c, g, s, slots, memory);
      if (below == 0) break;
      int const share = s.rounds == 0 ? 1 : (below * percent(s.rounds, pass) + 99) / 100, room = spare - dropped;
      int const gone = share < room ? share : room;
      drop_cheapest(c, g, memory, below, gone);
      dropped += gone;
      for (std::int64_t t = g.rank(); t < tokens; t += g.size())
        if (slots.count[t] > 0) refill(c, g, s, batch, slots.count[t], memory, t);
      g.sync();
    }
    if constexpr (rule::template cuts<T>) {
      rule::choose_inside(c, g, s, batch, slots, memory.kept, memory.rows);
    } else {
      for (std::int64_t t = g.rank(); t < tokens; t += g.size()) {
        if (slots.count[t] == 0) continue;
        int const count = memory.held[t] < slots.count[t] ? memory.held[t] : slots.count[t];
        for (int i = 0; i < count; ++i) slots.ids(t, i) = memory.has(t, i);
        slots.count[t] = count > 0 ? count : 1;            // of all that it may use nothing is left: the best of its own
      }
      g.sync();
    }
  }

 private:
  template <class T>
  struct scratch {
    list<std::uint8_t> kept;               // [experts]
    list<std::int32_t> listed;             // [experts] those of the moment, rising
    list<double> loss;                     // [experts] less the price
    view<T> rows;                          // [tokens, experts] choice inside the union, −inf outside
    view<std::int32_t> order;              // [tokens, experts] the best of it: the plain choice, then what may follow
    view<std::int32_t> has;                // [tokens, k + 1] the token's best of those kept, and the one that would come next
    view<T> share;                         // [tokens, k + 1] of its gate weight that each is worth
    list<std::int32_t> found, passed, held;   // [tokens] lengths: of `order`, of what has been looked at in it, of `has`
    list<typename rule::template measure<T>> measures;   // [tokens]
  };
  template <class T>
  MOESAIC_FN static constexpr scratch<T> carve(arena& memory, router_config const& c, std::int64_t tokens) {
    return {memory.take<std::uint8_t>(c.experts), memory.take<std::int32_t>(c.experts), memory.take<double>(c.experts),
            memory.take<T>(tokens, c.experts), memory.take<std::int32_t>(tokens, at_once(c)),
            memory.take<std::int32_t>(tokens, Base::slots(c) + 1), memory.take<T>(tokens, Base::slots(c) + 1),
            memory.take<std::int32_t>(tokens), memory.take<std::int32_t>(tokens), memory.take<std::int32_t>(tokens),
            memory.take<typename rule::template measure<T>>(tokens)};
  }

  template <class T, class Group>
  MOESAIC_FN static void start(router_config const& c, Group const& g, state const& s, routing_batch<T> const& batch,
                               routing_slots<T> const& slots,
                               scratch<T> const& memory) {
    rule::clear(g, memory.kept);
    rule::each_choice(g, slots, c.experts, [&](std::int64_t, std::int32_t e) { memory.kept[e] = 1; });
    g.sync();
    for (std::int64_t t = g.rank(); t < slots.ids.rows; t += g.size()) {
      if (slots.count[t] == 0) continue;
      auto const* const ids = slots.ids.row(t);
      int const count = memory.held[t] = slots.count[t];
      memory.measures[t] = rule::share_measure(c, s, batch, t, ids, count);
      for (int i = 0; i < count; ++i) memory.has(t, i) = ids[i], memory.share(t, i) = rule::gain_of(c, s, batch, t, ids[i], memory.measures[t]);
      for (std::int32_t e = 0; e < c.experts; ++e)
        memory.rows(t, e) = memory.kept[e] != 0 ? batch.choice(t, e) : -infinity<T>;
      list_next(c, g, memory, t, ids, count);
      refill(c, g, s, batch, count, memory, t);
    }
    g.sync();
  }
  // The next best of the union into `order`, a few at a time; done: [count] those that it has seen.
  template <class T, class Group>
  MOESAIC_FN static void list_next(router_config const& c, Group const& g, scratch<T> const& memory, std::int64_t t, std::int32_t const* done, int count) {
    for (int i = 0; i < count; ++i) memory.rows(t, done[i]) = -infinity<T>;
    memory.passed[t] = 0;
    memory.found[t] = standard::select(c, alone_of(g), typename standard::state{}, t, static_cast<T const*>(nullptr),
                                       static_cast<T const*>(memory.rows.row(t)), at_once(c), memory.order.row(t));
  }
  MOESAIC_FN static constexpr int at_once(router_config const& c) { return c.experts < 8 ? c.experts : 8; }

  // The token's first k of those kept, and the next: what has gone leaves, what comes next in `order` follows.
  template <class T, class Group>
  MOESAIC_FN static void refill(router_config const& c, Group const& g, state const& s, routing_batch<T> const& batch, int count,
                                scratch<T> const& memory, std::int64_t t) {
    auto* const has = memory.has.row(t);
    auto* const share = memory.share.row(t);
    int held = 0;
    for (int i = 0; i < memory.held[t]; ++i)
      if (memory.kept[has[i]] != 0) has[held] = has[i], share[held] = share[i], ++held;
    for (; held <= count; ++memory.passed[t]) {
      if (memory.passed[t] == at_once(c)) list_next(c, g, memory, t, memory.order.row(t), at_once(c));
      if (memory.passed[t] == memory.found[t]) break;
      auto const e = memory.order(t, memory.passed[t]);
      if (memory.kept[e] != 0) has[held] = e, share[held] = rule::gain_of(c, s, batch, t, e, memory.measures[t]), ++held;
    }
    memory.held[t] = held;
  }

  // loss [experts] less the price: those below 0 are cheaper gone. Answers how many. A token's only expert stays.
  template <class T, class Group>
  MOESAIC_FN static int find_losses(router_config const& c, Group const& g, state const& s, routing_slots<T> const& slots,
                                    scratch<T> const& memory) {
    auto const tokens = slots.ids.rows;
    for (std::int32_t e = g.rank(); e < c.experts; e += g.size()) memory.loss[e] = 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      int const count = slots.count[t];
      if (count == 0) continue;
      auto const* const has = memory.has.row(t);
      int const held = memory.held[t];
      auto const* const share = memory.share.row(t);
      T const next = held > count ? share[count] : T(0);
      for (int i = 0; i < held && i < count; ++i)
        if (has[i] % g.size() == g.rank())
          memory.loss[has[i]] += held == 1 ? infinity<double> : rule::term(static_cast<double>(share[i] - next), tokens);
    }
    int below = 0;
    for (std::int32_t e = g.rank(); e < c.experts; e += g.size()) {
      memory.loss[e] -= rule::term(static_cast<double>(s.price * rule::cost_of(s.cost, e)), tokens);
      below += memory.kept[e] != 0 && memory.loss[e] < 0;
    }
    below = g.sum(below);
    g.sync();
    return below;
  }

  // Drops the `count` cheapest of the `below` experts below the price.
  template <class T, class Group>
  MOESAIC_FN static void drop_cheapest(router_config const& c, Group const& g, scratch<T> const& memory, int below, int count) {
    if (count == 1) return drop_cheapest(c, g, memory);
    list_where(c, g, memory, [&](std::int32_t e) { return memory.kept[e] != 0 && memory.loss[e] < 0; });
    if (g.rank() == 0 && count < below)
      for (int i = 1; i < below; ++i) {                    // by rising loss, of equals the higher index first
        auto const e = memory.listed[i];
        auto const loss = memory.loss[e];
        int at = i;
        for (; at > 0 && loss <= memory.loss[memory.listed[at - 1]]; --at) memory.listed[at] = memory.listed[at - 1];
        memory.listed[at] = e;
      }
    g.sync();
    for (int i = g.rank(); i < count; i += g.size()) memory.kept[memory.listed[i]] = 0;
    g.sync();
  }

  template <class T, class Group>
  MOESAIC_FN static void drop_cheapest(router_config const& c, Group const& g, scratch<T> const& memory) {
    double least = infinity<double>;
    std::int32_t mine = -1;
    for (std::int32_t e = g.rank(); e < c.experts; e += g.size())
      if (memory.kept[e] != 0 && memory.loss[e] <= least) least = memory.loss[e], mine = e;
    auto const gone = g.max(least == -g.max(-least) ? mine : -1);
    if (gone % g.size() == g.rank()) memory.kept[gone] = 0;
    g.sync();
  }

  // Into `listed`, from the lowest: answers how many.
  template <class T, class Group, class Where>
  MOESAIC_FN static int list_where(router_config const& c, Group const& g, scratch<T> const& memory, Where&& where) {
    int found = 0;
    for (std::int32_t e = 0; e < c.experts; ++e)
      if (where(e)) {
        if (g.rank() == 0) memory.listed[found] = e;
        ++found;
      }
    g.sync();
    return found;
  }

  template <class T, class Group>
  MOESAIC_FN static int experts_kept(router_config const& c, Group const& g, scratch<T> const& memory) {
    int kept = 0;
    for (std::int32_t e = g.rank(); e < c.experts; e += g.size()) kept += memory.kept[e];
    return g.sum(kept);
  }

  MOESAIC_FN static constexpr int percent(int rounds, int round) {
    constexpr int three[] = {34, 50, 100}, five[] = {20, 25, 34, 50, 100};
    return rounds == 3 ? three[round] : rounds == 5 ? five[round] : 100 / (rounds - round);
  }
};

}  // namespace moesaic::routing
