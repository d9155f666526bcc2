// A whole batch's scores -> for every expert the tokens that it likes best.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <moesaic/base/bits.hpp>
#include <moesaic/route/policy.hpp>

namespace moesaic::routing {

/// Expert choice (arXiv 2202.09368): every expert takes the c tokens of its largest choice, c = tokens · factor / experts, rounded down or up;
/// weights are the plain scores. Balance is perfect by construction; a token gets from none to `top_k` experts (top_k = experts: no cap),
/// and where more than top_k take it, the best for it stay. Of equal choices an expert takes the earlier token.
/// Padding, tokens without finite logits and masked pairs take no part, and c counts the tokens that do.
/// Helps encoders, and batches of whole sequences. Costs tokens · experts · log c. Neither causal nor batch-invariant: a token's experts
/// depend on later ones, which do not exist yet when a model generates.
template <class Base = standard>
struct expert_choice : Base {
  static constexpr bool coupled = true, batch_invariant = false, causal = false, trainable = false;
  /// together: tokens that are chosen from together, a sequence.
  struct state : state_with_steps<state_with_padding<typename Base::state>> {
    double factor = 1;                 ///< experts a token on average
    bool round_up = false;             ///< of c; down: c may be 0
  };

  /// Tokens that every expert takes, of `tokens` that take part.
  MOESAIC_FN static constexpr std::int64_t taken_by_each(state const& s, std::int64_t tokens, int experts) {
    double const exact = static_cast<double>(tokens) * s.factor / experts;
    if (!(exact > 0)) return 0;
    if (exact >= static_cast<double>(tokens)) return tokens;
    auto const down = static_cast<std::int64_t>(exact);
    return s.round_up && static_cast<double>(down) < exact ? down + 1 : down;
  }

  static constexpr std::int64_t batch_bytes(router_config const& c, std::int64_t tokens) {
    auto const own = tokens * static_cast<std::int64_t>(sizeof(std::int32_t));
    auto const base = batch_bytes_of<Base>(c, tokens);               // of one that settles
    return own > base ? own : base;
  }
  static constexpr status fits(router_config const& c, state const& s, std::int64_t tokens) {
    if (!(s.factor >= 0)) return invalid("the factor of an expert choice must be a number, and not negative", 0, 0);
    return Base::fits(c, s, tokens);
  }

  template <class T, class Group>
  MOESAIC_FN static void select_batch(router_config const& c, Group const& g, state const& s, routing_batch<T> const& batch,
                                      routing_slots<T> const& slots, list<std::byte> memory) {
    if (g.rank() == 0) choose(c, s, batch, slots, memory);           // one member for all: there is one heap
    g.sync();
  }

 private:
  template <class T>
  MOESAIC_FN static void choose(router_config const& c, state const& s, routing_batch<T> const& batch, routing_slots<T> const& slots,
                                list<std::byte> memory) {
    auto const tokens = batch.choice.rows;
    auto* const heap = reinterpret_cast<std::int32_t*>(memory.data);
    std::int64_t partaking = 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      slots.count[t] = 0;
      partaking += batch.counts(t);
    }
    auto const most = taken_by_each(s, partaking, c.experts);
    for (std::int32_t e = 0; e < c.experts; ++e) {
      std::int64_t const found = best_tokens(batch, e, most, heap);
      for (std::int64_t i = 0; i < found; ++i)
        insert(batch.choice.row(heap[i]), slots.ids.row(heap[i]), slots.count[heap[i]], static_cast<std::int32_t>(slots.ids.columns), e);
    }
  }

  /// The `most` tokens of expert e's largest choices, in no order: a heap with the worst of them on top.
  template <class T>
  MOESAIC_FN static std::int64_t best_tokens(routing_batch<T> const& batch, std::int32_t e, std::int64_t most, std::int32_t* heap) {
    auto const worse = [&](std::int32_t a, std::int32_t b) {
      T const x = batch.choice(a, e), y = batch.choice(b, e);
      return x < y || (x == y && a > b);
    };
    auto const swap = [&](std::int64_t i, std::int64_t j) {
      auto const kept = heap[i];
      heap[i] = heap[j];
      heap[j] = kept;
    };
    std::int64_t size = 0;
    for (std::int32_t t = 0; t < batch.choice.rows && most > 0; ++t) {
      if (!(batch.choice(t, e) > -infinity<T>)) continue;         // forbidden, or NaN
      if (size < most) {
        auto at = size++;
        heap[at] = t;
        for (; at > 0 && worse(heap[at], heap[(at - 1) / 2]); at = (at - 1) / 2) swap(at, (at - 1) / 2);
        continue;
      }
      if (!worse(heap[0], t)) continue;
      heap[0] = t;
      for (std::int64_t at = 0;;) {
        auto next = 2 * at + 1;
        if (next + 1 < size && worse(heap[next + 1], heap[next])) ++next;
        if (next >= size || !worse(heap[next], heap[at])) break;
        swap(at, next);
        at = next;
      }
    }
    return size;
  }

  /// Keeps the `most` best of a token's takers, best first; e is larger than all of them, so among equals it comes last.
  template <class T>
  MOESAIC_FN static void insert(T const* choice, std::int32_t* ids, std::int32_t& count, std::int32_t most, std::int32_t e) {
    if (count == most && !(most > 0 && choice[e] > choice[ids[count - 1]])) return;
    auto at = count < most ? count++ : most - 1;
    for (; at > 0 && choice[e] > choice[ids[at - 1]]; --at) ids[at] = ids[at - 1];
    ids[at] = e;
  }
};

}  // namespace moesaic::routing
