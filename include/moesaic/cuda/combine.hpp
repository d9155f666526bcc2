// Expert outputs back to tokens: weighted sum over a token's slots, plus the shared expert, plus the residual; and plain ops on rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/cuda/kernel/combine.hpp>
#include <moesaic/cuda/launch.hpp>

namespace moesaic::cuda {

/// y[t] = residual[t] + scale · (Σ_i weights[t, i] · expert_out[slot_of_choice[t, i]] + bias + gate[t] · shared[t]), the slots in order, best first.
/// Sums are in float; the mixture, the shared term, their sum and y are each rounded to T.
/// expert_out [slots, hidden]; shared [tokens, hidden] or empty; gate [tokens] logits, used as sigmoid, or empty; residual [tokens, hidden] or
/// empty: zeros; y may be residual. weights may be empty: ones; and with them slot_of_choice, where expert_out [tokens, hidden] is mixed already.
/// `carried` [tokens, hidden], where it is not empty, takes the mixture, which is then not added; bias [hidden] or empty.
template <class T, class Tuning>
void combine(basic_stream_ref<Tuning>& where, view<const T> expert_out, view<const std::int32_t> slot_of_choice, view<const float> weights,
             view<const T> shared, list<const float> gate, view<const T> residual, view<T> y, combine_parts<T> const& parts = {}, double scale = 1.0,
             view<T> carried = {}, list<const float> bias = {}) {
  bool const all_wide = is_wide(expert_out, y, parts.moe_out, parts.shared_out, parts.ffn_out, carried) &&
                        (shared.data == nullptr || is_wide(shared)) && (residual.data == nullptr || is_wide(residual));
  auto const go = [&]<int Count>() {
    start<combine_rows<T, Count>>(where, {.x = blocks_for(y.rows), .early = true},
                                  {expert_out, slot_of_choice, weights, shared, gate.empty() ? nullptr : gate.data, residual, y, parts,
                                   static_cast<float>(scale), carried, bias.empty() ? nullptr : bias.data});
  };
  if (all_wide) go.template operator()<wide<T>>();
  else go.template operator()<1>();
}

/// y = a + scale · b, element by element, rounded to T once. y may be a or b.
template <class T, class Tuning>
void add(basic_stream_ref<Tuning>& where, view<const T> a, view<const T> b, view<T> y, double scale = 1.0) {
  auto const factor = static_cast<float>(scale);
  if (is_wide(a, b, y)) start<add_rows<T, wide<T>>>(where, {.x = blocks_for(y.rows), .early = true}, {a, b, y, factor});
  else start<add_rows<T, 1>>(where, {.x = blocks_for(y.rows), .early = true}, {a, b, y, factor});
}

/// y[slot_of_choice[t, i]] = weights[t, i] · x[t]: what experts read whose weights are on their input. The weight is rounded to T, and the product
/// again (Llama 4). Without weights: x[t] itself. x [tokens, width], y [slots, width]; rows of no choice are left as they are.
template <class T, class Tuning>
void weigh_choices(basic_stream_ref<Tuning>& where, view<const T> x, view<const std::int32_t> slot_of_choice, view<const float> weights, view<T> y) {
  grid const over{.x = blocks_for(slot_of_choice.rows * slot_of_choice.columns), .early = true};
  if (is_wide(x, y)) start<weigh_rows<T, wide<T>>>(where, over, {x, slot_of_choice, weights, y});
  else start<weigh_rows<T, 1>>(where, over, {x, slot_of_choice, weights, y});
}

/// Rows of the expert GEMMs back in the order of the choices: y [tokens · slots, hidden], zero where a slot is unused. For taps, and queries of experts.
template <class T, class Tuning>
void gather_choices(basic_stream_ref<Tuning>& where, view<const T> expert_out, view<const std::int32_t> slot_of_choice, view<T> y) {
  start<gather_rows<T>>(where, {.x = blocks_for(y.rows), .early = true}, {expert_out, slot_of_choice.data, y, nullptr});
}

/// y[i] = x[rows[i]]. rows [y.rows]; one that is no row of x gives zeros and raises flags->row.
template <class T, class Tuning>
void pick_rows(basic_stream_ref<Tuning>& where, view<const T> x, list<const std::int32_t> rows, view<T> y, call_flags* flags = nullptr) {
  std::int32_t* const flag = flags != nullptr ? &flags->row : nullptr;
  start<gather_rows<T>>(where, {.x = blocks_for(y.rows), .early = true}, {x, rows.data, y, flag});
}

}  // namespace moesaic::cuda
