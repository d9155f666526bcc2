// Expert outputs back to tokens: weighted sum over a token's slots, plus the shared expert, plus the residual; and plain addition.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include <moesaic/base/math.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/host/pool.hpp>
#include <moesaic/route/plan.hpp>
#include <moesaic/route/policy.hpp>

namespace moesaic::host {

/// y[t] = residual[t] + scale · (Σ_i weights[t, i] · expert_out[slot_of_choice[t, i]] + gate[t] · shared[t]), the slots in order, best first.
/// Sums are in accumulator<T>; the mixture, the shared term, their sum and y are each rounded to T, so that a tap sees what is added.
/// expert_out [slots, hidden]; shared [tokens, hidden] or empty; gate [tokens] logits, used as sigmoid, or empty; residual [tokens, hidden] or
/// empty: zeros; y may be residual. weights may be empty: ones; and with them slot_of_choice, where expert_out [tokens, hidden] is mixed already.
/// bias [hidden] or empty joins the mixture before it is rounded. `carried` [tokens, hidden], where it is not empty, takes the mixture, which is then not added.
template <class T>
void combine(pool& where, view<const T> expert_out, view<const std::int32_t> slot_of_choice, view<const accumulator<T>> weights, view<const T> shared,
             list<const accumulator<T>> gate, view<const T> residual, view<T> y, combine_parts<T> const& parts = {}, double scale = 1.0, view<T> carried = {},
             list<const float> bias = {}) {
  using sum = accumulator<T>;
  constexpr std::int64_t block = 256;                                       // columns summed at a time, on the stack
  where.for_each(y.rows, [&](std::int64_t t) {
    for (std::int64_t first = 0; first < y.columns; first += block) {
      auto const width = y.columns - first < block ? y.columns - first : block;
      sum mixture[block];
      for (auto& m : mixture) m = -sum(0);                                  // −0 + x is x for every x, so one expert of weight 1 passes bit for bit
      bool const mixed = slot_of_choice.data == nullptr;
      for (std::int64_t i = 0; i < (mixed ? 1 : slot_of_choice.columns); ++i) {
        auto const slot = mixed ? t : slot_of_choice(t, i);
        if (slot < 0) continue;
        T const* const out = expert_out.row(slot) + first;
        sum const w = weights.data != nullptr ? weights(t, i) : sum(1);
        for (std::int64_t c = 0; c < width; ++c) mixture[c] += w * static_cast<sum>(out[c]);
      }
      if (!bias.empty())
        for (std::int64_t c = 0; c < width; ++c) mixture[c] += static_cast<sum>(bias[first + c]);
      sum const g = gate.empty() ? sum(1) : sigmoid(gate[t]);
      if (parts.shared_gate.data != nullptr) parts.shared_gate(t, 0) = g;
      for (std::int64_t c = 0; c < width; ++c) {
        T const routed = static_cast<T>(mixture[c]);
        T together = routed;
        if (carried.data != nullptr) {
          carried(t, first + c) = routed;
          together = static_cast<T>(-0.0f);
        }
        if (shared.data != nullptr) {
          T const always = static_cast<T>(g * static_cast<sum>(shared(t, first + c)));
          together = static_cast<T>(static_cast<sum>(together) + static_cast<sum>(always));
          if (parts.shared_out.data != nullptr) parts.shared_out(t, first + c) = always;
        }
        if (parts.moe_out.data != nullptr) parts.moe_out(t, first + c) = routed;
        if (parts.ffn_out.data != nullptr) parts.ffn_out(t, first + c) = together;
        sum const added = static_cast<sum>(scale) * static_cast<sum>(together);
        y(t, first + c) = static_cast<T>(residual.data != nullptr ? static_cast<sum>(residual(t, first + c)) + added : added);
      }
    }
  });
}

/// y[slot_of_choice[t, i]] = weights[t, i] · x[t]: what experts read whose weights are on their input. The weight is rounded to T, and the product
/// again (Llama 4). Without weights: x[t] itself. x [tokens, width], y [slots, width]; rows of no choice are left as they are.
template <class T>
void weigh_choices(pool& where, view<const T> x, view<const std::int32_t> slot_of_choice, view<const accumulator<T>> weights, view<T> y) {
  using sum = accumulator<T>;
  where.for_each(slot_of_choice.rows, [&](std::int64_t t) {
    for (std::int64_t i = 0; i < slot_of_choice.columns; ++i) {
      auto const slot = slot_of_choice(t, i);
      if (slot < 0) continue;
      sum const w = weights.data != nullptr ? static_cast<sum>(static_cast<T>(weights(t, i))) : sum(1);
      for (std::int64_t c = 0; c < y.columns; ++c) y(slot, c) = static_cast<T>(w * static_cast<sum>(x(t, c)));
    }
  });
}

/// Rows of the expert GEMMs back in the order of the choices: y [tokens · slots, hidden], zero where a slot is unused. For taps, and queries of experts.
template <class T>
void gather_choices(pool& where, view<const T> expert_out, view<const std::int32_t> slot_of_choice, view<T> y) {
  where.for_each(slot_of_choice.rows, [&](std::int64_t t) {
    for (std::int64_t i = 0; i < slot_of_choice.columns; ++i) {
      auto const slot = slot_of_choice(t, i);
      auto* const row = y.row(t * slot_of_choice.columns + i);
      if (slot < 0) std::fill_n(row, y.columns, T(0.0f));
      else std::copy_n(expert_out.row(slot), y.columns, row);
    }
  });
}

/// y[i] = x[rows[i]]. rows [y.rows], indices into x: check_rows has looked at them. The flags are for backends that find out later.
template <class T>
void pick_rows(pool& where, view<const T> x, list<const std::int32_t> rows, view<T> y, call_flags* = nullptr) {
  where.for_each(y.rows, [&](std::int64_t i) { std::copy_n(x.row(rows[i]), y.columns, y.row(i)); });
}

/// y = a + scale · b, element by element, rounded to T once. y may be a or b.
template <class T>
void add(pool& where, view<const T> a, view<const T> b, view<T> y, double scale = 1.0) {
  using sum = accumulator<T>;
  where.for_each(y.rows, [&](std::int64_t t) {
    for (std::int64_t c = 0; c < y.columns; ++c)
      y(t, c) = static_cast<T>(static_cast<sum>(a(t, c)) + static_cast<sum>(scale) * static_cast<sum>(b(t, c)));
  });
}

}  // namespace moesaic::host
