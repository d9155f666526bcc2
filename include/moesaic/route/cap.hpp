// A cap on the experts of a step: those of largest summed score, or those that a greedy search adds one after another.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/base/bits.hpp>
#include <moesaic/route/coupled.hpp>

namespace moesaic::routing {

/// Where experts live: expert e on rank_of[e], or, if that is empty, on one of `ranks` equal runs of experts.
struct expert_ranks {
  int ranks = 1;
  list<const std::int32_t> rank_of = {};   ///< [experts]

  MOESAIC_FN constexpr bool together(std::int32_t a, std::int32_t b, int experts) const {
    return rank(a, experts) == rank(b, experts);
  }
  MOESAIC_FN constexpr std::int32_t rank(std::int32_t e, int experts) const {
    return rank_of.empty() ? static_cast<std::int32_t>(std::int64_t{e} * ranks / experts) : rank_of[e];
  }
};

/// A step uses only the `experts` experts whose scores, summed over its tokens, are largest; of equals the lower index. With `where`, so many on
/// each rank, which bounds the slowest rank's load (batch expert sets, XShare, arXiv 2602.07265).
///   costs          tokens · experts additions, experts² comparisons, a second choice for tokens that lose an expert
///   helps          where the bytes of a step have a hard limit: a budget of time, slots of fast memory, the slowest rank
///   neutral        experts ≥ experts there are: Base to the bit
///   causal         only between steps; batch-invariant: no; order of tokens: free
template <class Base = standard>
struct cap : batch_rule<Base> {
  using rule = batch_rule<Base>;
  struct state : rule::state {
    int experts = std::numeric_limits<int>::max();   ///< of each rank
    expert_ranks where = {};
  };

  static constexpr status fits(router_config const& c, auto const& s, std::int64_t tokens) {
    if (auto const done = rule::fits_experts(c, s.where.rank_of.size, "rank_of of a routing state must be empty or have an entry an expert"); !done) return done;
    if (auto const done = rule::fits_from_zero(s.experts, "experts of cap must be 0 or more"); !done) return done;
    return Base::fits(c, s, tokens);
  }
  static constexpr std::int64_t batch_bytes(router_config const& c, std::int64_t tokens) { return rule::bytes_of(c, tokens, rule::template carve_sums<double>); }

  template <class T, class Group>
  MOESAIC_FN static void select_batch(router_config const& c, Group const& g, state const& s, routing_batch<T> const& batch,
                                      routing_slots<T> const& slots, list<std::byte> bytes) {
    rule::choose_plain(c, g, s, batch, slots);
    if (s.experts >= c.experts) return;
    auto const tokens = batch.choice.rows;
    arena from(bytes.data, static_cast<std::size_t>(bytes.size));
    auto const memory = rule::template carve_sums<T>(from, c, tokens);
    for (std::int64_t t = g.rank(); t < tokens; t += g.size())
      if (batch.counts(t)) memory.measures[t] = rule::plain_measure(c, s, batch, t);
    g.sync();
    for (std::int32_t e = g.rank(); e < c.experts; e += g.size()) {
      double sum = 0;
      for (std::int64_t t = 0; t < tokens; ++t)
        if (batch.counts(t)) sum += rule::term(static_cast<double>(rule::gain_of(c, s, batch, t, e, memory.measures[t])), tokens);
      memory.sum[e] = sum;
    }
    g.sync();
    for (std::int32_t e = g.rank(); e < c.experts; e += g.size()) {
      int better = 0;
      for (std::int32_t other = 0; other < c.experts; ++other)
        if (memory.sum[other] > memory.sum[e] || (memory.sum[other] == memory.sum[e] && other < e)) better += s.where.together(e, other, c.experts);
      memory.kept[e] = better < s.experts;
    }
    g.sync();
    rule::choose_inside(c, g, s, batch, slots, memory.kept, memory.rows);
  }
};

/// The same limits, the set built one expert at a time: always the one that adds most to Σ over tokens of the best k scores inside the set, a
/// unit of cost; of equals the lower index. That sum is monotone and submodular, so with equal costs the set reaches 1 − 1/e of the best one's
/// (Nemhauser, Wolsey and Fisher 1978). Ends early where no expert adds anything.
///   costs          tokens · experts · (experts kept) operations: a few times the cap's
///   helps          as the cap, where experts cost unequally, or where the largest sums serve the same tokens over and over
///   neutral        experts ≥ experts there are and budget infinite: Base to the bit
///   causal         only between steps; batch-invariant: no; order of tokens: free
template <class Base = standard>
struct greedy_cap : batch_rule<Base> {
  using rule = batch_rule<Base>;
  struct state : rule::state {
    int experts = std::numeric_limits<int>::max();               ///< of each rank
    expert_ranks where = {};
    float budget = infinity<float>;       ///< of the kept experts' cost together
    list<const float> cost = {};                                 ///< [experts] > 0, or empty = 1 each
  };

  static constexpr status fits(router_config const& c, auto const& s, std::int64_t tokens) {
    if (auto const done = rule::fits_experts(c, s.where.rank_of.size, "rank_of of a routing state must be empty or have an entry an expert"); !done) return done;
    if (auto const done = rule::fits_experts(c, s.cost.size, "cost of a routing state must be empty or have an entry an expert"); !done) return done;
    if (auto const done = rule::fits_from_zero(s.experts, "experts of greedy_cap must be 0 or more"); !done) return done;
    if (auto const done = rule::fits_from_zero(s.budget, "budget of greedy_cap must be 0 or more"); !done) return done;
    return Base::fits(c, s, tokens);
  }
  static constexpr std::int64_t batch_bytes(router_config const& c, std::int64_t tokens) { return rule::bytes_of(c, tokens, carve<double>); }

  template <class T, class Group>
  MOESAIC_FN static void select_batch(router_config const& c, Group const& g, state const& s, routing_batch<T> const& batch,
                                      routing_slots<T> const& slots, list<std::byte> bytes) {
    rule::choose_plain(c, g, s, batch, slots);
    if (s.experts >= c.experts && s.budget == infinity<float>) return;
    auto const tokens = batch.choice.rows;
    arena from(bytes.data, static_cast<std::size_t>(bytes.size));
    auto const memory = carve<T>(from, c, tokens);
    rule::clear(g, memory.kept);
    rule::clear(g, memory.beside);
    for (std::int64_t t = g.rank(); t < tokens; t += g.size()) {
      if (!batch.counts(t)) continue;
      auto const m = rule::plain_measure(c, s, batch, t);
      for (std::int32_t e = 0; e < c.experts; ++e) memory.gain(t, e) = rule::gain_of(c, s, batch, t, e, m);
      for (int i = 0; i < slots.count[t]; ++i) memory.inside(t, i) = T(0);
    }
    g.sync();
    float left = s.budget;
    for (int added = 0; added < c.experts; ++added) {
      double most = 0;
      std::int32_t mine = c.experts;
      for (std::int32_t e = g.rank(); e < c.experts; e += g.size()) {
        if (memory.kept[e] != 0 || memory.beside[e] >= s.experts || rule::cost_of(s.cost, e) > left) continue;
        double gain = 0;
        for (std::int64_t t = 0; t < tokens; ++t) {
          if (slots.count[t] == 0) continue;
          auto const more = memory.gain(t, e) - memory.inside(t, slots.count[t] - 1);
          if (more > T(0)) gain += rule::term(static_cast<double>(more), tokens);
        }
        gain /= static_cast<double>(rule::cost_of(s.cost, e));
        if (gain > most) most = gain, mine = e;
      }
      auto const best = g.max(most);
      if (!(best > 0)) break;
      auto const next = -g.max(most == best ? -mine : -c.experts);
      g.sync();                                            // all have read what is inside
      left -= rule::cost_of(s.cost, next);
      for (std::int32_t e = g.rank(); e < c.experts; e += g.size()) {
        if (e == next) memory.kept[e] = 1;
        if (s.where.together(e, next, c.experts)) ++memory.beside[e];
      }
      for (std::int64_t t = g.rank(); t < tokens; t += g.size())
        if (slots.count[t] > 0) insert(memory.inside.row(t), slots.count[t], memory.gain(t, next));
      g.sync();
    }
    rule::choose_inside(c, g, s, batch, slots, memory.kept, memory.gain);
  }

 private:
  template <class T>
  struct scratch {
    list<std::uint8_t> kept;
    list<std::int32_t> beside;             // experts kept on the rank of each
    view<T> gain, inside;                  // [tokens, experts]; [tokens, k] the best of those inside, falling
  };
  template <class T>
  MOESAIC_FN static constexpr scratch<T> carve(arena& memory, router_config const& c, std::int64_t tokens) {
    return {memory.take<std::uint8_t>(c.experts), memory.take<std::int32_t>(c.experts), memory.take<T>(tokens, c.experts),
            memory.take<T>(tokens, Base::slots(c))};
  }
  template <class T>
  MOESAIC_FN static void insert(T* falling, int count, T value) {
    if (!(value > falling[count - 1])) return;
    int at = count - 1;
    for (; at > 0 && value > falling[at - 1]; --at) falling[at] = falling[at - 1];
    falling[at] = value;
  }
};

}  // namespace moesaic::routing
