// At most so many tokens an expert: what an expert has no room for is dropped, by position or by weight, and only the residual passes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <moesaic/base/arena.hpp>
#include <moesaic/route/policy.hpp>

namespace moesaic::routing {

/// What says how many tokens of a group one expert takes.
enum class room : std::uint8_t {
  unlimited,       ///< dropless
  floor,           ///< ⌊tokens · factor / experts⌋, whatever top_k is (mesh-TensorFlow: Switch, ST-MoE)
  ceil,            ///< ⌈tokens · top_k / experts · factor⌉ (Megatron)
  absolute         ///< a number (HuggingFace's expert_capacity)
};

/// Who finds room where more come than there is room for.
enum class drop_order : std::uint8_t {
  first_choices,   ///< by position: the first choices of all tokens in token order, then the second ones, ... (GShard, Switch)
  tokens,          ///< by position: token after token with all its choices (Megatron's drop policy "position")
  weights          ///< by probability: the largest combine weights, of equal ones the earlier token (Megatron's "probs")
};

/// A capacity. It is run-time state, not part of a layer's type: training and evaluation use the same layer with different factors (Switch:
/// 1.25 and 2.0), and the capacity of a short last group differs anyway. As made, it is unlimited.
struct capacity_rule {
  routing::room room = routing::room::unlimited;
  double factor = 1.0;               ///< of floor and ceil; 0: no room at all; infinite: unlimited
  std::int64_t minimum = 0;          ///< and the least that these two come to (mesh: 4)
  std::int64_t tokens = 0;           ///< of absolute
  std::int64_t group = 0;            ///< rows of a group; every group has capacity of its own, the last may be short; 0 = the whole step
  drop_order order = drop_order::first_choices;

  /// Tokens that one expert has room for, of a group of so many: max(min(tokens, by factor), minimum), or the absolute number. 0 where
  /// these are negative or NaN, which layers refuse.
  MOESAIC_FN constexpr std::int64_t of(std::int64_t count, int experts, int top_k) const {
    if (room == routing::room::unlimited) return count;
    if (room == routing::room::absolute) return tokens > 0 ? tokens : 0;
    auto const n = static_cast<double>(count);
    auto const share = room == routing::room::floor ? n * factor / experts : n * top_k / experts * factor;
    std::int64_t whole = !(share > 0.0) ? 0 : share >= n ? count : static_cast<std::int64_t>(share);
    if (room == routing::room::ceil && static_cast<double>(whole) < share && whole < count) ++whole;
    return whole > minimum ? whole : minimum;
  }
};

/// The rule of mesh-TensorFlow, in which Switch Transformer and ST-MoE were trained: groups of 1024 tokens, at least 4 an expert.
constexpr capacity_rule mesh_capacity(double factor, std::int64_t group = 1024, std::int64_t minimum = 4) {
  return {.room = room::floor, .factor = factor, .minimum = minimum, .group = group};
}
/// Megatron's: one group; drop_order::weights and ::tokens are its drop policies "probs" and "position".
constexpr capacity_rule megatron_capacity(double factor, drop_order order = drop_order::weights, std::int64_t minimum = 0) {
  return {.room = room::ceil, .factor = factor, .minimum = minimum, .order = order};
}
/// HuggingFace's: so many tokens of every group; a group is a sequence there.
constexpr capacity_rule absolute_capacity(std::int64_t tokens, std::int64_t group = 0) {
  return {.room = room::absolute, .tokens = tokens, .group = group};
}

/// Experts of limited capacity, after any policy has chosen and weighed (arXiv:2101.03961, 2006.16668). A choice that finds no room gets
/// the id −1 and the weight 0 where it stands, and the others of its token keep their weights; a token that loses all passes by its
/// residual alone. Padding and tokens without finite logits take no room and do not count in the size of their group, though a group is
/// a run of rows. Without a rule, or with room for every token, results are those of Base, bit for bit. Capacity 0 is legal: every choice
/// is dropped.
///
/// Costs: one pass over the choices, [tokens, slots], by one member of the group; by weight, a heap an expert that overflows besides.
/// Helps: where every expert's work must fit a fixed buffer, as in expert parallelism, and to reproduce models trained with it.
/// Causal: no; even by position a token's second choice competes with first choices of later tokens. Batch-invariant: no.
template <class Base = standard>
struct capacity : Base {
  static constexpr bool settles = true, batch_invariant = false, causal = false;

  struct state : state_with_padding<typename Base::state> {
    capacity_rule capacity = {};
    list<std::int32_t> dropped = {}; ///< [experts] or empty: what each expert turns away is added. Monitors want it, and losses that count
                                     ///< choices before any is dropped (Switch)
  };

  static constexpr std::int64_t batch_bytes(router_config const& c, std::int64_t tokens) {
    auto const own = static_cast<std::int64_t>(sizeof(std::int32_t)) * (c.experts + 1 + tokens * Base::slots(c));
    auto const base = batch_bytes_of<Base>(c, tokens);
    return own > base ? own : base;
  }

  static constexpr status fits(router_config const& c, state const& s, std::int64_t tokens) {
    auto const& rule = s.capacity;
    if (!(rule.factor >= 0.0)) return invalid("the factor of a capacity must be a number, and not negative", 0, 0);
    if (rule.minimum < 0) return invalid("the minimum of a capacity must not be negative", 0, rule.minimum);
    if (rule.tokens < 0) return invalid("the tokens of a capacity must not be negative", 0, rule.tokens);
    if (rule.group < 0) return invalid("the group of a capacity must be a number of rows, or 0 for all", 0, rule.group);
    if (!s.dropped.empty() && s.dropped.size != c.experts)
      return invalid("dropped must have an entry an expert, or none", c.experts, s.dropped.size);
    return Base::fits(c, s, tokens);
  }

  template <class T, class Group>
  MOESAIC_FN static void settle_batch(router_config const& c, Group const& g, state const& s, routing_batch<T> const& batch,
                                      routing_slots<T> const& slots, list<std::byte> memory) {
    if constexpr (Base::settles) Base::settle_batch(c, g, s, batch, slots, memory);
    if (s.capacity.room != room::unlimited && g.rank() == 0) {
      auto const rows = batch.scores.rows;
      auto const group = s.capacity.group > 0 && s.capacity.group < rows ? s.capacity.group : rows;
      for (std::int64_t first = 0; first < rows; first += group) {
        routing_group<T> const members{batch, slots, first, group < rows - first ? first + group : rows};
        std::int64_t tokens = 0;
        for (auto t = first; t < members.end; ++t) tokens += batch.counts(t) ? 1 : 0;
        auto const limit = s.capacity.of(tokens, c.experts, c.top_k);
        if (limit >= tokens) continue;                     // a token chooses an expert once
        auto* const counters = reinterpret_cast<std::int32_t*>(memory.data);
        if (s.capacity.order == drop_order::weights) drop_by_weight(c, s, members, limit, counters);
        else drop_by_position(c, s, members, limit, counters);
      }
    }
    g.sync();
  }

 private:
  template <class T>
  struct routing_group {
    routing_batch<T> const& batch;
    routing_slots<T> const& slots;
    std::int64_t first, end;

    /// f(token, slot) for every choice, token after token.
    template <class F>
    MOESAIC_FN void each_choice(F&& f) const {
      for (auto t = first; t < end; ++t)
        for (std::int64_t i = 0; i < slots.ids.columns; ++i) each(t, i, f);
    }
    /// The same, slot after slot.
    template <class F>
    MOESAIC_FN void each_choice_by_slot(F&& f) const {
      for (std::int64_t i = 0; i < slots.ids.columns; ++i)
        for (auto t = first; t < end; ++t) each(t, i, f);
    }

   private:
    template <class F>
    MOESAIC_FN void each(std::int64_t t, std::int64_t i, F& f) const {
      if (slots.ids(t, i) >= 0 && batch.counts(t)) f(t, i);
    }
  };

  template <class T>
  MOESAIC_FN static void drop(state const& s, routing_slots<T> const& slots, std::int64_t t, std::int64_t i) {
    if (!s.dropped.empty()) ++s.dropped[slots.ids(t, i)];
    slots.ids(t, i) = -1;
    slots.weights(t, i) = T(0);
  }

  /// left [experts]
  template <class T>
  MOESAIC_FN static void drop_by_position(router_config const& c, state const& s, routing_group<T> const& members, std::int64_t limit,
                                          std::int32_t* left) {
    for (int e = 0; e < c.experts; ++e) left[e] = static_cast<std::int32_t>(limit);
    auto const take = [&](std::int64_t t, std::int64_t i) {
      auto& room_left = left[members.slots.ids(t, i)];
      if (room_left > 0) --room_left;
      else drop(s, members.slots, t, i);
    };
    if (s.capacity.order == drop_order::tokens) members.each_choice(take);
    else members.each_choice_by_slot(take);
  }

  /// ends [experts + 1], then a choice each: the experts' choices, one expert after another.
  template <class T>
  MOESAIC_FN static void drop_by_weight(router_config const& c, state const& s, routing_group<T> const& members, std::int64_t limit,
                                        std::int32_t* ends) {
    auto const& slots = members.slots;
    auto const width = slots.ids.columns;
    auto* const choices = ends + c.experts + 1;
    for (int e = 0; e <= c.experts; ++e) ends[e] = 0;
    members.each_choice([&](std::int64_t t, std::int64_t i) { ++ends[slots.ids(t, i) + 1]; });
    for (int e = 0; e < c.experts; ++e) ends[e + 1] += ends[e];
    members.each_choice([&](std::int64_t t, std::int64_t i) {
      auto& end = ends[slots.ids(t, i)];                                   // walks from its expert's start to its end
      choices[end++] = static_cast<std::int32_t>((t - members.first) * width + i);
    });

    auto const token = [&](std::int32_t choice) { return members.first + choice / width; };
    auto const weight = [&](std::int32_t choice) { return slots.weights(token(choice), choice % width); };
    auto const worse = [&](std::int32_t a, std::int32_t b) { return weight(a) < weight(b) || (weight(a) == weight(b) && a > b); };
    for (int e = 0; e < c.experts; ++e) {
      auto const start = e > 0 ? ends[e - 1] : 0;
      auto* const kept = choices + start;                                  // a heap of the best `limit` so far, the worst of them first
      auto const sink = [&](std::int64_t at) {
        for (auto below = 2 * at + 1; below < limit; below = 2 * at + 1) {
          if (below + 1 < limit && worse(kept[below + 1], kept[below])) ++below;
          if (!worse(kept[below], kept[at])) return;
          auto const moved = kept[at];
          kept[at] = kept[below];
          kept[below] = moved;
          at = below;
        }
      };
      if (ends[e] - start <= limit) continue;
      for (auto at = limit / 2; at-- > 0;) sink(at);
      for (auto i = limit; i < ends[e] - start; ++i) {
        auto out = kept[i];
        if (limit > 0 && worse(kept[0], out)) {
          out = kept[0];
          kept[0] = kept[i];
          sink(0);
        }
        drop(s, slots, token(out), out % width);
      }
    }
  }
};

/// Uses a token's later choices only as far as their combine weight is above a threshold: mesh-TensorFlow's second-expert policy
/// "threshold" of top-2, where threshold 0 is its "all" and 1 its "none" (its "random" is for training, and not here). Unlike with a
/// variable k, weights stay as they were with all choices. What is not used takes no room: capacity<second_above<>>.
///
/// Costs: a comparison a token. Helps: to spend the second expert where it has a say. Causal and batch-invariant as Base is.
template <class Base = standard>
struct second_above : Base {
  static constexpr bool settles = true;

  struct state : Base::state {
    double second_threshold = 0.0;
  };

  template <class T, class Group>
  MOESAIC_FN static void settle_batch(router_config const& c, Group const& g, state const& s, routing_batch<T> const& batch,
                                      routing_slots<T> const& slots, list<std::byte> memory) {
    if constexpr (Base::settles) Base::settle_batch(c, g, s, batch, slots, memory);
    if (!(s.second_threshold > 0.0)) return;
    auto const threshold = static_cast<T>(s.second_threshold);
    for (std::int64_t t = g.rank(); t < slots.ids.rows; t += g.size())
      for (auto& n = slots.count[t]; n > 1 && !(slots.weights(t, n - 1) > threshold); --n) {
        slots.ids(t, n - 1) = -1;
        slots.weights(t, n - 1) = T(0);
      }
    g.sync();
  }
};

/// Choices that a settling policy dropped, of all tokens. The drop rate is this over tokens · top_k.
template <class T>
MOESAIC_FN constexpr std::int64_t dropped_choices(routing_slots<T> const& slots) {
  std::int64_t dropped = 0;
  for (std::int64_t t = 0; t < slots.ids.rows; ++t)
    for (int i = 0; i < slots.count[t]; ++i) dropped += slots.ids(t, i) < 0 ? 1 : 0;
  return dropped;
}

}  // namespace moesaic::routing
