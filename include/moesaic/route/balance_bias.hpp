// How often experts were chosen, or their scores -> a new selection bias: balance without a loss.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include <moesaic/base/bits.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/route/balance.hpp>
#include <moesaic/route/top_k.hpp>

/// Rules that keep load even by the bias [experts] that is added to scores for selection (router_config::score_bias). It is fp32, lives in
/// the caller's memory, has no gradient, and belongs into checkpoints. Update it between optimiser steps only, with counts of the whole
/// batch, summed over all ranks and taken after biased selection: an update inside a sequence would tell its tokens about later ones. A
/// bias at rest leaves routing causal and batch-invariant. Beside routing they cost nothing (quantile_rule: some dozen passes over scores).
namespace moesaic::balance {

/// b_i += γ sign(mean count − count_i), sign(0) = 0; exact, in integers. DeepSeek-V3 (arXiv 2412.19437, 2408.15664), as Megatron-LM's
/// get_updated_expert_bias; γ = 1e-3 there, for scores in 0 … 1, and 0 at the end of training. Helps wherever a balance loss would disturb
/// the language loss; a larger γ is faster and keeps oscillating.
inline status sign_rule(list<const std::int64_t> counts, float gamma, list<float> bias) {
  if (bias.size != counts.size) return invalid("there must be a bias an expert", counts.size, bias.size);
  std::int64_t total = 0;
  for (auto const count : counts) total += count;
  for (std::int64_t e = 0; e < counts.size; ++e) {
    auto const share = counts[e] * counts.size;                       // count · E against the sum: no mean to round
    if (share != total) bias[e] += share < total ? gamma : -gamma;
  }
  return {};
}

/// b_i += μ (K_e / (K N) − T_i / (K T)) for the N FFN experts, which come first; the identity experts behind them keep their bias. Besides
/// evenness it holds the FFN experts that a token uses at K_e on average, so that compute has a budget: LongCat-Flash (arXiv 2509.01322).
/// chosen.counts [experts]: T_i; top_k: K, all of a token's choices; mean_ffn: K_e. Scores are softmax there; large μ oscillates.
inline status longcat_rule(choices const& chosen, int top_k, int ffn_experts, double mean_ffn, double mu, list<float> bias) {
  if (bias.size != chosen.counts.size) return invalid("there must be a bias an expert", chosen.counts.size, bias.size);
  if (ffn_experts < 1 || ffn_experts > bias.size) return invalid("ffn_experts must be from 1 to all experts", bias.size, ffn_experts);
  if (top_k < 1) return invalid("a token chooses at least once", 1, top_k);
  if (!(mean_ffn >= 0 && mean_ffn <= top_k)) return invalid("mean_ffn must be from 0 to top_k", top_k, 0);
  if (chosen.tokens == 0) return {};                                  // nothing was seen, so nothing is known
  for (int e = 0; e < ffn_experts; ++e) {
    auto const load = static_cast<double>(chosen.counts[e]) / (static_cast<double>(top_k) * static_cast<double>(chosen.tokens));
    bias[e] += static_cast<float>(mu * (mean_ffn / (static_cast<double>(top_k) * ffn_experts) - load));
  }
  return {};
}

namespace detail {

/// A number as bits that are in its order.
template <class T>
auto ordered(T x) {
  using bits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
  constexpr auto sign = static_cast<bits>(bits{1} << (sizeof(T) * 8 - 1));
  bits b;
  std::memcpy(&b, &x, sizeof b);
  return (b & sign) != 0 ? static_cast<bits>(~b) : static_cast<bits>(b | sign);
}
template <class T, class Bits>
T unordered(Bits b) {
  constexpr auto sign = static_cast<Bits>(Bits{1} << (sizeof(T) * 8 - 1));
  b = (b & sign) != 0 ? static_cast<Bits>(b & ~sign) : static_cast<Bits>(~b);
  T x;
  std::memcpy(&x, &b, sizeof x);
  return x;
}

/// The number of rank `rank`, 0 the largest, among those that each(f) passes to f. Without memory: its bits one by one, by counting.
template <class T, class Each>
T largest_of_rank(std::int64_t rank, Each const& each) {
  using bits = decltype(ordered(T()));
  bits found = 0;
  for (bits bit = static_cast<bits>(bits{1} << (sizeof(T) * 8 - 1)); bit != 0; bit = static_cast<bits>(bit >> 1)) {
    std::int64_t reach = 0;
    each([&](T x) { reach += ordered(x) >= (found | bit); });
    if (reach > rank) found = static_cast<bits>(found | bit);
  }
  return unordered<T>(found);
}

}  // namespace detail

/// The bias that makes loads even on this batch, straight from the scores: with β = −bias, α_t is the (k + 1)-th largest s_{t,i} − β_i of a
/// token, and β_i becomes the (q + 1)-th largest s_{t,i} − α_t of an expert, q = ⌊T k / E⌋ its share of the tokens, so that q of them clear
/// it. Then the mean over experts is taken off, and β ← keep · old + (1 − keep) · new. Quantile balancing (Su, kexue.fm/archives/11619;
/// Megatron-LM's quantile_balancing, Kimi K3): no rate to choose, and even within a few steps where the sign rule needs hundreds. Each
/// expert's step supposes that the others stand still: several updates on one batch approach the optimum of the assignment problem, of
/// which β and α are the prices. scores [tokens, experts], as selection sees them before the bias, not finite or padding as of the losses,
/// −inf where masked. A token with no more than k open experts takes them all whatever they cost (α = −inf): it uses up room, and the best
/// of the others set the price; an expert that none of the others may have keeps its bias. alpha [tokens] and memory are written.
/// top_k = experts needs no bias and leaves it alone, as does a batch without tokens.
template <class T>
status quantile_rule(view<const T> scores, padding_rows padding, int top_k, double keep, list<float> bias, list<T> alpha,
                     scratch const& memory) {
  auto const experts = scores.columns;
  if (auto const fits = detail::check(scores, padding, view<T>{}); !fits) return fits;
  if (auto const fits = detail::check(memory, experts, top_k); !fits) return fits;
  if (bias.size != experts) return invalid("there must be a bias an expert", experts, bias.size);
  if (alpha.size < scores.rows) return {status_code::workspace_too_small, "alpha must have room for every token", scores.rows, alpha.size};
  if (!(keep >= 0 && keep <= 1)) return invalid("keep must be from 0 to 1", 1, static_cast<std::int64_t>(keep));
  std::int64_t tokens = 0;
  for (std::int64_t t = 0; t < scores.rows; ++t) {
    alpha[t] = not_a_number<T>;
    if (!detail::takes_part(scores, padding, t)) continue;
    ++tokens;
    if (top_k < experts)
      alpha[t] = detail::largest_of_rank<T>(top_k, [&](auto const& f) {
        for (std::int64_t e = 0; e < experts; ++e) f(scores(t, e) + static_cast<T>(bias[e]));
      });
  }
  if (tokens == 0 || top_k == experts) return {};
  auto const share = tokens * top_k / experts;
  constexpr T never = -infinity<T>;
  std::int64_t priced = 0;                                            // experts that some token may have or leave
  for (std::int64_t e = 0; e < experts; ++e) {
    std::int64_t certain = 0, open = 0;                               // tokens that take it at any price, and those it can be priced by
    for (std::int64_t t = 0; t < scores.rows; ++t) {
      bool const may = alpha[t] == alpha[t] && scores(t, e) > never;
      certain += may && !(alpha[t] > never);
      open += may && alpha[t] > never;
    }
    memory.counts[e] = open;
    if (open == 0) continue;
    ++priced;
    auto const left = share > certain ? share - certain : 0;
    memory.totals[e] = static_cast<double>(detail::largest_of_rank<T>(left < open ? left : open - 1, [&](auto const& f) {
      for (std::int64_t t = 0; t < scores.rows; ++t)
        if (alpha[t] > never && scores(t, e) > never) f(scores(t, e) - alpha[t]);
    }));
  }
  double mean = 0;
  for (std::int64_t e = 0; e < experts; ++e)
    if (memory.counts[e] > 0) mean += memory.totals[e] / static_cast<double>(priced);
  for (std::int64_t e = 0; e < experts; ++e)
    if (memory.counts[e] > 0) bias[e] = static_cast<float>(keep * static_cast<double>(bias[e]) - (1 - keep) * (memory.totals[e] - mean));
  return {};
}

}  // namespace moesaic::balance
