// A marginal price: the first token of a step that uses an expert pays for it, for those after it the expert is free.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/route/coupled.hpp>

namespace moesaic::routing {

/// Tokens choose in order. An expert that no earlier token of the step has taken costs price · cost in log score: a softmax or sigmoid score is
/// multiplied by exp(−price · cost), a logit has it subtracted. The best `protect` experts of a token are never given up.
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
    bool const logits = c.position == score_position::after_top_k || c.score == moesaic::score::identity;
    for (std::int32_t e = g.rank(); e < c.experts; e += g.size()) {
      auto const price = static_cast<T>(s.price * rule::cost_of(s.cost, e));
      memory.price[e] = logits ? price : std::exp(-price);
      memory.taken[e] = 0;
    }
    g.sync();
    for (std::int64_t t = 0; t < batch.choice.rows; ++t) {
      int const plain = slots.count[t];
      auto* const ids = slots.ids.row(t);
      auto const* const choice = batch.choice.row(t);
      bool free = true;
      for (int i = 0; i < plain; ++i) free = free && memory.taken[ids[i]] != 0;
      if (free) continue;                                  // its best are read anyway
      for (std::int32_t e = g.rank(); e < c.experts; e += g.size())
        memory.row[e] = memory.taken[e] != 0 ? choice[e] : logits ? choice[e] - memory.price[e] : discounted(choice[e], memory.price[e]);
      g.sync();
      if (g.rank() == 0) {
        for (int i = 0; i < s.protect && i < plain; ++i) memory.row[ids[i]] = std::numeric_limits<T>::infinity();
        int const found = top_k(static_cast<T const*>(memory.row.data), c.experts, plain, ids);
        for (std::int32_t e = 0; e < c.experts; ++e) memory.mine[e] = 0;
        for (int i = 0; i < found; ++i) memory.mine[ids[i]] = memory.taken[ids[i]] = 1;
        slots.count[t] = rule::select_inside(c, s, batch, t, found, memory.row.data, ids, [&](std::int32_t e) { return memory.mine[e] != 0; });
      }
      g.sync();
    }
  }

 private:
  template <class T>
  struct scratch {
    list<std::uint8_t> taken, mine;
    list<T> price, row;
  };
  template <class T>
  MOESAIC_FN static constexpr scratch<T> carve(arena& memory, router_config const& c, std::int64_t) {
    return {memory.take<std::uint8_t>(c.experts), memory.take<std::uint8_t>(c.experts), memory.take<T>(c.experts), memory.take<T>(c.experts)};
  }
  /// A score less a price in its logarithm. What a selection bias has made negative moves the same way, and what is not forbidden stays so.
  template <class T>
  MOESAIC_FN static T discounted(T choice, T factor) {
    if (choice >= T(0)) return choice * factor;
    if (choice == -std::numeric_limits<T>::infinity()) return choice;
    T const further = choice / factor;
    return further > std::numeric_limits<T>::lowest() ? further : std::numeric_limits<T>::lowest();
  }
};

}  // namespace moesaic::routing
