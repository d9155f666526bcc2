// A marginal price: the first token of a step that uses an expert pays for it, for those after it the expert is free.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/base/bits.hpp>
#include <moesaic/route/coupled.hpp>

namespace moesaic::routing {

/// Tokens choose in order. An expert that no earlier token of the step has taken costs price · cost in log score: it is subtracted from a choice
/// made of logits, and from the logarithm of any other. The best `protect` experts of a token are never given up.
/// cost: bytes of an expert over the bandwidth of the memory it lies in (µs), 0 for one that is resident; empty = 1 each.
///   costs          a second choice for every token that finds an expert untaken, one after another
///   helps          where tokens arrive one by one, and where experts cost unequally (offloading); otherwise elimination does better
///   neutral        price = 0: Base to the bit
///   causal         if the tokens of each sequence come in order; batch-invariant: no; order of tokens: matters
template <class Base = standard>
struct marginal : batch_rule<Base> {
  using rule = batch_rule<Base>;
  static constexpr bool causal = true;
  struct state : rule::state {
    float price = 0;                       ///< of a unit of cost, in log score
    int protect = 1;
    list<const float> cost = {};           ///< [experts] ≥ 0, or empty
  };

  static constexpr status fits(router_config const& c, auto const& s, std::int64_t tokens) {
    if (auto const done = rule::fits_experts(c, s.cost.size, "cost of a routing state must be empty or have an entry an expert"); !done) return done;
    if (auto const done = rule::fits_from_zero(s.price, "price of marginal must be 0 or more"); !done) return done;
    return Base::fits(c, s, tokens);
  }
  static constexpr std::int64_t batch_bytes(router_config const& c, std::int64_t tokens) { return rule::bytes_of(c, tokens, carve<double>); }

  template <class T, class Group>
  MOESAIC_FN static void select_batch(router_config const& c, Group const& g, state const& s, routing_batch<T> const& batch,
                                      routing_slots<T> const& slots, list<std::byte> bytes) {
    rule::choose_plain(c, g, s, batch, slots);
    if (s.price == 0.0f) return;
    arena from(bytes.data, static_cast<std::size_t>(bytes.size));
    auto const memory = carve<T>(from, c, batch.choice.rows);
    bool const logits = rule::chooses_by_logit(c, s);
    for (std::int32_t e = g.rank(); e < c.experts; e += g.size()) {
      float const cost = rule::cost_of(s.cost, e);
      memory.price[e] = cost == 0.0f ? 0.0 : static_cast<double>(s.price) * static_cast<double>(cost);
      memory.taken[e] = 0;
    }
    g.sync();
    for (std::int64_t t = 0; t < batch.choice.rows; ++t) {
      auto* const ids = slots.ids.row(t);
      auto const* const choice = batch.choice.row(t);
      bool free = true;
      for (int i = 0; i < slots.count[t]; ++i) free = free && memory.taken[ids[i]] != 0;
      if (free) continue;                                  // its best are read anyway
      for (std::int32_t e = g.rank(); e < c.experts; e += g.size())
        memory.key[e] = logits || choice[e] > T(0) ? less(memory, logits, choice[e], e) : never;
      g.sync();
      if (g.rank() == 0) {
        for (int i = 0; i < s.protect && i < slots.count[t]; ++i) memory.key[ids[i]] = -never;
        slots.count[t] = choose(c, g, s, batch, slots, memory, logits, t);
        for (int i = 0; i < slots.count[t]; ++i) memory.taken[ids[i]] = 1;
      }
      g.sync();
    }
  }

 private:
  static constexpr double never = -infinity<double>;

  template <class T>
  struct scratch {
    list<std::uint8_t> taken, mine;
    list<double> price, key;               // key: choice less price, on a scale on which prices of any size leave it a number
    list<T> row;
  };
  template <class T>
  MOESAIC_FN static constexpr scratch<T> carve(arena& memory, router_config const& c, std::int64_t) {
    return {memory.take<std::uint8_t>(c.experts), memory.take<std::uint8_t>(c.experts), memory.take<double>(c.experts),
            memory.take<double>(c.experts), memory.take<T>(c.experts)};
  }

  /// The key of a choice. What a selection bias has made negative moves the same way, from the other side of 0; what is not forbidden stays
  /// so.
  template <class T>
  MOESAIC_FN static double less(scratch<T> const& memory, bool logits, T choice, std::int32_t e) {
    constexpr double lowest = least_number<double>;
    auto const x = static_cast<double>(choice);
    if (x == never) return never;
    if (!logits && x == 0) return -lowest;
    double const further = (logits ? x : x > 0 ? std::log(x) : -std::log(-x)) - (memory.taken[e] != 0 ? 0.0 : memory.price[e]);
    return further > lowest ? further : lowest;
  }

  /// The token's best by key, as many as it had, listed as Base has them; a Base that cuts sees those that would have followed too.
  template <class T, class Group>
  MOESAIC_FN static int choose(router_config const& c, Group const& g, state const& s, routing_batch<T> const& batch,
                               routing_slots<T> const& slots, scratch<T> const& memory, bool logits, std::int64_t t) {
    auto* const ids = slots.ids.row(t);
    int const plain = slots.count[t], width = rule::template cuts<T> ? static_cast<int>(slots.ids.columns) : plain;
    int found = top_k(static_cast<double const*>(memory.key.data), c.experts, width, ids);
    if (!logits && found < width) {                        // choices of 0 and less come after all above
      for (std::int32_t e = 0; e < c.experts; ++e)
        memory.key[e] = memory.key[e] > never ? never : less(memory, logits, batch.choice(t, e), e);
      found += top_k(static_cast<double const*>(memory.key.data), c.experts, width - found, ids + found);
    }
    for (std::int32_t e = 0; e < c.experts; ++e) memory.mine[e] = 0;
    int const most = found < plain ? found : plain;
    for (int i = 0; i < most; ++i) memory.mine[ids[i]] = 1;
    int const own = rule::select_inside(c, g, s, batch, t, most, memory.row.data, ids, [&](std::int32_t e) { return memory.mine[e] != 0; });
    int const left = rule::cut_as_base(c, s, batch, t, ids, own == most ? found : own);
    return left < own ? left : own;
  }
};

}  // namespace moesaic::routing
