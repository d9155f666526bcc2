// Router logits and how often experts were chosen -> the losses that training adds to keep load even, and their gradient by the logits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>

#include <moesaic/base/arena.hpp>
#include <moesaic/base/bits.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/block_config.hpp>
#include <moesaic/route/gradient.hpp>
#include <moesaic/route/policy.hpp>
#include <moesaic/route/top_k.hpp>

/// All losses here: T is float or double, `balance::z_loss<float>(…)`; sums over tokens are kept in double, in ascending order.
///   router_logits  [tokens, experts]. A token whose logits are not finite (NaN, +inf, all −inf) chose no expert and counts as padding; an
///                  expert at −inf has score 0. A configuration's soft cap is not applied: hand over capped logits.
///   padding        [tokens] 1 = a row that is no token: it enters no count, no mean and no gradient; empty = none.
///   coefficient    multiplies value and gradient.
///   gradient       [tokens, experts]: d loss / d router_logits is added to it; none wanted: {}.
/// Counts are constants: no gradient flows through them. No token gives 0. They need the whole batch, cost O(tokens · experts), and belong
/// to training: nothing here changes who is chosen, so a model stays as causal and as batch-invariant as its policy is.
namespace moesaic::balance {

/// [tokens] 1 = a row that is no token.
using padding_rows = list<const std::uint8_t>;

/// What a loss answers: its value, or why there is none.
template <class T>
struct [[nodiscard]] loss {
  T value = T(0);
  status done = {};
};

/// How often each expert, or each group of neighbouring experts, was chosen, and by how many tokens. Of one batch, or summed over layers,
/// ranks or the batches of an optimiser step: the losses take the mean score of the batch at hand and the counts that they are given, so
/// that such sums make them the global-batch loss (arXiv 2501.11873).
struct choices {
  list<std::int64_t> counts;   ///< [experts] or [groups]; 0 before the first count
  std::int64_t tokens = 0;
};

/// What losses that count by themselves write in. carve(memory, experts, top_k) fits all of them.
struct scratch {
  list<std::int64_t> counts;   ///< [experts]
  list<double> totals;         ///< [experts]
  list<std::int32_t> ids;      ///< [top_k + 1]

  static constexpr scratch carve(arena& memory, int experts, int top_k) {
    return {memory.take<std::int64_t>(experts), memory.take<double>(experts), memory.take<std::int32_t>(top_k + 1)};
  }
};

namespace detail {

template <class T>
view<T> rows_of(view<T> all, std::int64_t first, std::int64_t n) {
  return all.data == nullptr ? all : view<T>{all.row(first), n, all.columns, all.stride};
}
inline padding_rows part_of(padding_rows padding, std::int64_t first, std::int64_t n) {
  return padding.empty() ? padding : padding_rows{padding.data + first, n};
}

template <class T, class Group>
MOESAIC_FN bool finite(Group const& g, T const* z, std::int64_t experts) {
  int bad = 0, open = 0;
  for (std::int64_t e = g.rank(); e < experts; e += g.size()) {
    bad |= !(z[e] < infinity<T>);
    open |= z[e] > -infinity<T>;
  }
  return g.max(bad) == 0 && g.max(open) != 0;
}

template <class T>
bool takes_part(view<const T> z, padding_rows padding, std::int64_t t) {
  return (padding.empty() || padding[t] == 0) && finite(serial_group{}, z.row(t), z.columns);
}
template <class T>
std::int64_t tokens_of(view<const T> z, padding_rows padding) {
  std::int64_t n = 0;
  for (std::int64_t t = 0; t < z.rows; ++t) n += takes_part(z, padding, t);
  return n;
}

inline status check(padding_rows padding, std::int64_t tokens) {
  if (padding.empty() || padding.size == tokens) return {};
  return invalid("padding must have an entry a token, or none at all", tokens, padding.size);
}
template <class T>
status check(view<const T> z, padding_rows padding, view<T> gradient) {
  if (auto const fits = check(padding, z.rows); !fits) return fits;
  if (gradient.data == nullptr) return {};
  if (gradient.rows != z.rows) return invalid("the gradient must have a row a token", z.rows, gradient.rows);
  if (gradient.columns != z.columns) return invalid("the gradient must have a column an expert", z.columns, gradient.columns);
  return {};
}
inline status check_ids(view<const std::int32_t> ids, std::int64_t experts) {
  for (std::int64_t t = 0; t < ids.rows; ++t)
    for (std::int64_t i = 0; i < ids.columns; ++i)
      if (ids(t, i) >= experts) return {status_code::out_of_range, "an expert id must be one of the experts", experts, ids(t, i)};
  return {};
}
inline status check_groups(std::int64_t experts, std::int64_t groups) {
  if (groups >= 1 && experts % groups == 0) return {};
  return invalid("the experts must fall into as many equal groups as there are counts", experts, groups);
}
inline status check(view<const std::int32_t> ids, int experts, padding_rows padding, std::int64_t groups) {
  if (auto const fits = check(padding, ids.rows); !fits) return fits;
  if (auto const fits = check_groups(experts, groups); !fits) return fits;
  return check_ids(ids, experts);
}
constexpr bool normalises(score kind) { return kind != score::identity; }
inline status no_such_score() { return invalid("a balance loss needs scores that are not negative, so not score::identity", 0, 0); }

inline status check(scratch const& s, std::int64_t experts, int top_k) {
  if (top_k < 1 || top_k > experts) return invalid("top_k must be at least 1 and at most the number of experts", experts, top_k);
  for (auto const room : {s.counts.size, s.totals.size})
    if (room < experts) return {status_code::workspace_too_small, "the scratch must have room for every expert", experts, room};
  if (s.ids.size <= top_k) return {status_code::workspace_too_small, "the scratch must have room for top_k + 1 ids", top_k + 1, s.ids.size};
  return {};
}

/// value = Σ price(e) s̃_e of one token, s̃ the scores normalised to sum 1, over the n experts at(0), at(1), … (−1: none): everything that
/// is linear in s̃. Where gradient [experts] is not null, factor times the derivative, s′_e / Σ s · (price(e) − value), is added to it.
template <class T, class Group, class At, class Price>
MOESAIC_FN T priced_row(score kind, Group const& g, T const* z, int n, At const& at, Price const& price, T factor, T* gradient) {
  bool const softmax = kind == score::softmax;
  T top = -infinity<T>;
  if (softmax)
    for (int i = g.rank(); i < n; i += g.size())
      if (at(i) >= 0 && z[at(i)] > top) top = z[at(i)];
  top = g.max(top);
  T sum = T(0), dot = T(0);
  for (int i = g.rank(); i < n; i += g.size()) {
    int const e = at(i);
    if (e < 0) continue;
    T const s = softmax ? std::exp(z[e] - top) : routing::standard::score_of(kind, z[e]);
    sum += s, dot += s * price(e);
  }
  sum = g.sum(sum) + T(1e-20);                                         // scores that all underflow give 0, not NaN, as Megatron-LM does
  T const value = g.sum(dot) / sum;
  if (gradient == nullptr) return value;
  for (int i = g.rank(); i < n; i += g.size()) {
    int const e = at(i);
    if (e >= 0) gradient[e] += factor * (softmax ? std::exp(z[e] - top) : routing::score_slope(kind, z[e])) / sum * (price(e) - value);
  }
  return value;
}

/// coefficient · mean over tokens of Σ_e price(t, e) s̃_{t,e}.
template <class T, class Price>
loss<T> mean_price(score kind, view<const T> z, padding_rows padding, Price const& price, double coefficient, view<T> gradient) {
  if (auto const fits = check(z, padding, gradient); !fits) return {T(0), fits};
  if (!normalises(kind)) return {T(0), no_such_score()};
  auto const tokens = tokens_of(z, padding);
  if (tokens == 0) return {};
  auto const factor = coefficient / static_cast<double>(tokens);
  double sum = 0;
  for (std::int64_t t = 0; t < z.rows; ++t)
    if (takes_part(z, padding, t))
      sum += static_cast<double>(priced_row(kind, serial_group{}, z.row(t), static_cast<int>(z.columns), [](int e) { return e; },
                                            [&](int e) { return static_cast<T>(price(t, e)); }, static_cast<T>(factor),
                                            gradient.data == nullptr ? nullptr : gradient.row(t)));
  return {static_cast<T>(factor * sum), {}};
}

/// α (G / (per_token · tokens)) Σ_G count_G P_G over G groups of neighbouring experts, P_G the mean score of the group.
template <class T>
loss<T> group_balance(score kind, view<const T> z, padding_rows padding, choices const& chosen, int per_token, T coefficient,
                      view<T> gradient) {
  auto const groups = chosen.counts.size;
  if (auto const fits = check_groups(z.columns, groups); !fits) return {T(0), fits};
  if (per_token < 1) return {T(0), invalid("a token chooses at least once", 1, per_token)};
  auto const width = static_cast<int>(z.columns / groups);
  auto const all = static_cast<double>(per_token) * static_cast<double>(chosen.tokens);
  auto const scale = all > 0 ? static_cast<double>(groups) / all : 0.0;
  auto const frequency = [&](std::int64_t, int e) { return scale * static_cast<double>(chosen.counts[e / width]); };
  return mean_price(kind, z, padding, frequency, static_cast<double>(coefficient), gradient);
}

/// Mean over tokens of H(p_t) or of lse_t², and the like: row(z, factor, gradient or null) answers a token's value and adds its gradient.
template <class T, class Row>
loss<T> mean_of_rows(view<const T> z, padding_rows padding, double coefficient, view<T> gradient, Row const& row) {
  if (auto const fits = check(z, padding, gradient); !fits) return {T(0), fits};
  auto const tokens = tokens_of(z, padding);
  if (tokens == 0) return {};
  auto const factor = coefficient / static_cast<double>(tokens);
  double sum = 0;
  for (std::int64_t t = 0; t < z.rows; ++t)
    if (takes_part(z, padding, t))
      sum += static_cast<double>(row(z.row(t), static_cast<T>(factor), gradient.data == nullptr ? nullptr : gradient.row(t)));
  return {static_cast<T>(factor * sum), {}};
}

/// ln Σ e^z of one token.
template <class T, class Group>
MOESAIC_FN T log_sum_exp(Group const& g, T const* z, int experts) {
  T top = -infinity<T>, sum = T(0);
  for (int e = g.rank(); e < experts; e += g.size()) top = z[e] > top ? z[e] : top;
  top = g.max(top);
  for (int e = g.rank(); e < experts; e += g.size()) sum += std::exp(z[e] - top);
  return top + std::log(g.sum(sum));
}

/// lse², and factor times its derivative 2 lse p.
template <class T, class Group>
MOESAIC_FN T z_row(Group const& g, T const* z, int experts, T factor, T* gradient) {
  T const lse = log_sum_exp(g, z, experts);
  if (gradient != nullptr)
    for (int e = g.rank(); e < experts; e += g.size()) gradient[e] += factor * T(2) * lse * std::exp(z[e] - lse);
  return lse * lse;
}

/// H(p), and factor times its derivative −p (ln p + H).
template <class T, class Group>
MOESAIC_FN T entropy_row(Group const& g, T const* z, int experts, T factor, T* gradient) {
  T const lse = log_sum_exp(g, z, experts);
  T entropy = T(0);
  auto const p = [&](int e) { return std::exp(z[e] - lse); };
  for (int e = g.rank(); e < experts; e += g.size())
    if (p(e) > T(0)) entropy -= p(e) * (z[e] - lse);                   // 0 ln 0 is 0
  entropy = g.sum(entropy);
  if (gradient != nullptr)
    for (int e = g.rank(); e < experts; e += g.size())
      if (p(e) > T(0)) gradient[e] -= factor * p(e) * (z[e] - lse + entropy);
  return entropy;
}

/// Sums of p_t over the tokens into totals [experts]; answers how many tokens.
template <class T>
std::int64_t sum_softmax(view<const T> z, padding_rows padding, list<double> totals) {
  std::int64_t tokens = 0;
  for (std::int64_t e = 0; e < z.columns; ++e) totals[e] = 0;
  for (std::int64_t t = 0; t < z.rows; ++t) {
    if (!takes_part(z, padding, t)) continue;
    T const lse = log_sum_exp(serial_group{}, z.row(t), static_cast<int>(z.columns));
    for (std::int64_t e = 0; e < z.columns; ++e) totals[e] += static_cast<double>(std::exp(z(t, e) - lse));
    ++tokens;
  }
  return tokens;
}

}  // namespace detail

/// Adds how often each expert of ids [tokens, slots] stands there (−1 = unused) to into.counts [experts], or [groups] of experts / groups
/// neighbours each, and to into.tokens the tokens that have any: one without is no token, as where logits are not finite. Count what routing
/// chose, before capacity drops any.
inline status count_chosen(view<const std::int32_t> ids, int experts, padding_rows padding, choices& into) {
  auto const groups = into.counts.size;
  if (auto const fits = detail::check(ids, experts, padding, groups); !fits) return fits;
  for (std::int64_t t = 0; t < ids.rows; ++t) {
    if (!padding.empty() && padding[t] != 0) continue;
    bool chose = false;
    for (std::int64_t i = 0; i < ids.columns; ++i)
      if (ids(t, i) >= 0) chose = true, ++into.counts[ids(t, i) / (experts / groups)];
    into.tokens += chose;
  }
  return {};
}

/// The same, but a token counts once in each group of experts that it reaches: the messages it costs when a group is a device.
inline status count_reached(view<const std::int32_t> ids, int experts, padding_rows padding, choices& into) {
  auto const groups = into.counts.size;
  if (auto const fits = detail::check(ids, experts, padding, groups); !fits) return fits;
  auto const group = [&](std::int32_t id) { return id / (experts / groups); };
  for (std::int64_t t = 0; t < ids.rows; ++t) {
    if (!padding.empty() && padding[t] != 0) continue;
    bool chose = false;
    for (std::int64_t i = 0; i < ids.columns; ++i) {
      chose = chose || ids(t, i) >= 0;
      bool first = ids(t, i) >= 0;
      for (std::int64_t h = 0; h < i && first; ++h) first = ids(t, h) < 0 || group(ids(t, h)) != group(ids(t, i));
      if (first) ++into.counts[group(ids(t, i))];
    }
    into.tokens += chose;
  }
  return {};
}

/// The same of the top_k largest logits of every token, of equal ones the lower expert: what routing chooses without bias, price or groups.
/// Scores grow with logits, so it is the top-k of any of them. memory.ids is written.
template <class T>
status count_top_k(view<const T> router_logits, padding_rows padding, int top_k, choices& into, scratch const& memory) {
  auto const z = router_logits;
  if (auto const fits = detail::check(z, padding, view<T>{}); !fits) return fits;
  if (auto const fits = detail::check(memory, z.columns, top_k); !fits) return fits;
  if (into.counts.size != z.columns) return invalid("there must be a count an expert", z.columns, into.counts.size);
  for (std::int64_t t = 0; t < z.rows; ++t) {
    if (!detail::takes_part(z, padding, t)) continue;
    ++into.tokens;
    int const found = moesaic::top_k(z.row(t), static_cast<int>(z.columns), top_k, memory.ids.data);
    for (int i = 0; i < found; ++i) ++into.counts[memory.ids[i]];
  }
  return {};
}

namespace detail {

/// The balance loss of top_k by logit in runs of tokens [begin(r), begin(r + 1)), its mean over the runs that have a token.
template <class T, class Begin>
loss<T> balance_of_runs(score kind, view<const T> z, padding_rows padding, std::int64_t runs, Begin const& begin, int top_k,
                        T coefficient, view<T> gradient, scratch const& memory) {
  if (auto const fits = check(z, padding, gradient); !fits) return {T(0), fits};
  if (auto const fits = check(memory, z.columns, top_k); !fits) return {T(0), fits};
  if (!normalises(kind)) return {T(0), no_such_score()};
  auto const size = [&](std::int64_t run) { return begin(run + 1) - begin(run); };
  auto const logits_of = [&](std::int64_t run) { return rows_of(z, begin(run), size(run)); };
  auto const padding_of = [&](std::int64_t run) { return part_of(padding, begin(run), size(run)); };
  std::int64_t with_tokens = 0;
  for (std::int64_t run = 0; run < runs; ++run) with_tokens += tokens_of(logits_of(run), padding_of(run)) > 0;
  auto const share = with_tokens > 0 ? static_cast<double>(coefficient) / static_cast<double>(with_tokens) : 0.0;
  double sum = 0;
  for (std::int64_t run = 0; run < runs && with_tokens > 0; ++run) {
    choices chosen{{memory.counts.data, z.columns}};
    for (auto& count : chosen.counts) count = 0;
    if (auto const counted = count_top_k(logits_of(run), padding_of(run), top_k, chosen, memory); !counted) return {T(0), counted};
    auto const part = group_balance(kind, logits_of(run), padding_of(run), chosen, top_k, static_cast<T>(share),
                                    rows_of(gradient, begin(run), size(run)));
    if (!part.done) return part;
    sum += static_cast<double>(part.value);
  }
  return {static_cast<T>(sum), {}};
}

}  // namespace detail

/// α (E / (k T)) Σ_i count_i P_i, P the mean of the normalised scores: α at balance. Megatron-LM's aux_loss; with softmax the expert-level
/// loss of DeepSeekMoE and DeepSeek-V2 (arXiv 2405.04434, eq. 23). chosen.counts [experts]; top_k: choices a token makes.
template <class T>
loss<T> load_balance(score kind, view<const T> router_logits, padding_rows padding, choices const& chosen, int top_k, T coefficient,
                     view<T> gradient = {}) {
  auto const experts = router_logits.columns;
  if (chosen.counts.size != experts) return {T(0), invalid("there must be a count an expert", experts, chosen.counts.size)};
  return detail::group_balance(kind, router_logits, padding, chosen, top_k, coefficient, gradient);
}

/// The device-level loss of DeepSeek-V2 (arXiv 2405.04434, eq. 26): α Σ_D f′_D P′_D, f′ the mean over the device's experts of (E / (k T))
/// count, P′ the sum of their P: α at balance. chosen: of count_chosen with one count a device.
template <class T>
loss<T> device_balance(score kind, view<const T> router_logits, padding_rows padding, choices const& chosen, int top_k, T coefficient,
                       view<T> gradient = {}) {
  return detail::group_balance(kind, router_logits, padding, chosen, top_k, coefficient, gradient);
}

/// The communication loss of DeepSeek-V2 (arXiv 2405.04434, eq. 29): α Σ_D f″_D P″_D, f″ = (D / (M T)) · tokens sent to the device, P″ the
/// sum of its experts' P: α at balance. chosen: of count_reached with one count a device; top_devices: M, how many a token may reach.
template <class T>
loss<T> communication_balance(score kind, view<const T> router_logits, padding_rows padding, choices const& chosen, int top_devices,
                              T coefficient, view<T> gradient = {}) {
  return detail::group_balance(kind, router_logits, padding, chosen, top_devices, coefficient, gradient);
}

/// α E Σ_i f_i P_i in groups of group_size rows (the last may be shorter), mean over the groups that have a token: f_i the fraction of
/// tokens whose largest logit is i, before capacity, P_i the mean softmax. Switch Transformer (arXiv 2101.03961) and the top-1 density of
/// GShard (arXiv 2006.16668): α at balance; α = 1e-2 there. mesh-tensorflow counts padding in f; here it enters neither f nor P.
template <class T>
loss<T> switch_balance(view<const T> router_logits, padding_rows padding, std::int64_t group_size, T coefficient, view<T> gradient,
                       scratch const& memory) {
  if (group_size < 1) return {T(0), invalid("a group must have a token", 1, group_size)};
  auto const tokens = router_logits.rows;
  auto const groups = (tokens + group_size - 1) / group_size;
  auto const begin = [&](std::int64_t run) { return run < groups ? run * group_size : tokens; };
  return detail::balance_of_runs(score::softmax, router_logits, padding, groups, begin, 1, coefficient, gradient, memory);
}

/// The sequence-wise loss of DeepSeek-V3 (arXiv 2412.19437, eq. 17 to 20): in every sequence α Σ f_i P_i, f_i = (E / (k T)) · those of its
/// T tokens that have i among their k largest scores, without bias and without groups, P_i the mean of the scores divided by their sum; the
/// mean over the sequences that have a token: α at balance; α = 1e-4 there. sequence_offsets [sequences + 1]: sequence s has the rows
/// [sequence_offsets[s], sequence_offsets[s + 1]).
template <class T>
loss<T> sequence_balance(score kind, view<const T> router_logits, padding_rows padding, list<const std::int32_t> sequence_offsets,
                         int top_k, T coefficient, view<T> gradient, scratch const& memory) {
  auto const sequences = sequence_offsets.size - 1;
  if (sequences < 0) return {T(0), invalid("sequence_offsets must have an entry more than there are sequences", 1, 0)};
  if (sequence_offsets[0] != 0) return {T(0), invalid("sequence_offsets must begin with 0", 0, sequence_offsets[0])};
  for (std::int64_t s = 0; s < sequences; ++s)
    if (sequence_offsets[s + 1] < sequence_offsets[s])
      return {T(0), invalid("sequence_offsets must not descend", sequence_offsets[s], sequence_offsets[s + 1])};
  if (sequence_offsets[sequences] != router_logits.rows)
    return {T(0), invalid("sequence_offsets must end with the number of tokens", router_logits.rows, sequence_offsets[sequences])};
  auto const begin = [&](std::int64_t run) { return static_cast<std::int64_t>(sequence_offsets[run]); };
  return detail::balance_of_runs(kind, router_logits, padding, sequences, begin, top_k, coefficient, gradient, memory);
}

/// α E Σ_i f_i P_i with f and P over the rows of all layers together, f_i = count_i / rows summed over slots: α k at balance. As the
/// HuggingFace classes of Mixtral, OLMoE, Qwen2-MoE and others (load_balancing_loss_func). router_logits, gradients: one view a layer, all
/// of the same tokens and padding, gradients empty or as many; chosen: of count_top_k over all layers.
template <class T>
loss<T> pooled_balance(list<const view<const T>> router_logits, padding_rows padding, choices const& chosen, T coefficient,
                       list<const view<T>> gradients = {}) {
  if (!gradients.empty() && gradients.size != router_logits.size)
    return {T(0), invalid("there must be a gradient a layer, or none at all", router_logits.size, gradients.size)};
  std::int64_t rows = 0;
  for (auto const& layer : router_logits) rows += detail::tokens_of(layer, padding);
  double sum = 0;
  for (std::int64_t l = 0; l < router_logits.size; ++l) {
    auto const& layer = router_logits[l];
    auto const share = rows > 0 ? static_cast<double>(detail::tokens_of(layer, padding)) / static_cast<double>(rows) : 0.0;
    auto const part = load_balance(score::softmax, layer, padding, chosen, 1, static_cast<T>(static_cast<double>(coefficient) * share),
                                   gradients.empty() ? view<T>{} : gradients[l]);
    if (!part.done) return part;
    sum += static_cast<double>(part.value);
  }
  return {static_cast<T>(sum), {}};
}

/// α mean (ln Σ_j e^{z_j})²: keeps logits small. ST-MoE (arXiv 2202.08906), α = 1e-3 there. Whole rows, chosen or not.
template <class T>
loss<T> z_loss(view<const T> router_logits, padding_rows padding, T coefficient, view<T> gradient = {}) {
  auto const experts = static_cast<int>(router_logits.columns);
  return detail::mean_of_rows(router_logits, padding, static_cast<double>(coefficient), gradient,
                              [&](T const* z, T factor, T* by_z) { return detail::z_row(serial_group{}, z, experts, factor, by_z); });
}

/// β mean H(p_t), p the softmax: α ln E where tokens do not care. Keeps top-p routing from choosing everybody (arXiv 2403.07652) and, of
/// one modality's tokens (the others padding), is the local loss of LIMoE (arXiv 2206.02770).
template <class T>
loss<T> entropy(view<const T> router_logits, padding_rows padding, T coefficient, view<T> gradient = {}) {
  auto const experts = static_cast<int>(router_logits.columns);
  return detail::mean_of_rows(router_logits, padding, static_cast<double>(coefficient), gradient,
                              [&](T const* z, T factor, T* by_z) { return detail::entropy_row(serial_group{}, z, experts, factor, by_z); });
}

/// β max(0, least − H(mean p)): LIMoE's global loss of one modality (the others padding; arXiv 2206.02770), which wants its tokens spread
/// over at least e^least experts. Where least is +inf, −β H(mean p), the same without a threshold. memory.totals is written.
template <class T>
loss<T> global_entropy(view<const T> router_logits, padding_rows padding, T least, T coefficient, view<T> gradient, scratch const& memory) {
  auto const z = router_logits;
  if (auto const fits = detail::check(z, padding, gradient); !fits) return {T(0), fits};
  if (auto const fits = detail::check(memory, z.columns, 1); !fits) return {T(0), fits};
  list<double> const mean{memory.totals.data, z.columns};
  auto const tokens = detail::sum_softmax(z, padding, mean);
  if (tokens == 0) return {};
  double entropy = 0;
  for (auto& p : mean) {
    p /= static_cast<double>(tokens);
    if (p > 0) entropy -= p * std::log(p);
  }
  bool const bounded = least < infinity<T>;
  auto const value = bounded ? static_cast<double>(least) - entropy : -entropy;
  if (bounded && !(value > 0)) return {};
  if (gradient.data != nullptr) {
    auto const surprise = [&](std::int64_t, int e) { return mean[e] > 0 ? std::log(mean[e]) : 0.0; };   // and 1, which drops out
    auto const added = detail::mean_price(score::softmax, z, padding, surprise, static_cast<double>(coefficient), gradient);
    if (!added.done) return added;
  }
  return {static_cast<T>(static_cast<double>(coefficient) * value), {}};
}

/// α E Σ_i M_i P_i, M_i = count_i · width_i / T: load in parameters rather than tokens, so that small experts are not left aside. The
/// P-penalty of HMoE (arXiv 2408.10681). widths [experts], in any unit; chosen.counts [experts].
template <class T>
loss<T> width_penalty(view<const T> router_logits, padding_rows padding, choices const& chosen, list<const T> widths, T coefficient,
                      view<T> gradient = {}) {
  auto const experts = router_logits.columns;
  if (chosen.counts.size != experts) return {T(0), invalid("there must be a count an expert", experts, chosen.counts.size)};
  if (widths.size != experts) return {T(0), invalid("there must be a width an expert", experts, widths.size)};
  auto const scale = chosen.tokens > 0 ? static_cast<double>(experts) / static_cast<double>(chosen.tokens) : 0.0;
  auto const load = [&](std::int64_t, int e) { return scale * static_cast<double>(chosen.counts[e]) * static_cast<double>(widths[e]); };
  return detail::mean_price(score::softmax, router_logits, padding, load, static_cast<double>(coefficient), gradient);
}

/// β mean Σ_i p_i c_i: what a token is expected to cost, p the softmax. cost [tokens, experts] finite, in one unit; stride 0 = the same for
/// all tokens. Raise β from 0 and keep a balance loss beside it, or cheap experts take everything.
template <class T>
loss<T> expected_cost(view<const T> router_logits, padding_rows padding, view<const T> cost, T coefficient, view<T> gradient = {}) {
  auto const& z = router_logits;
  if (cost.rows != z.rows) return {T(0), invalid("the cost must have a row a token", z.rows, cost.rows)};
  if (cost.columns != z.columns) return {T(0), invalid("the cost must have a column an expert", z.columns, cost.columns)};
  auto const price = [&](std::int64_t t, int e) { return cost(t, e); };
  return detail::mean_price(score::softmax, router_logits, padding, price, static_cast<double>(coefficient), gradient);
}

/// β max(0, mean Σ_i p_i c_i − budget)²: nothing while the expected cost keeps its budget, a squared hinge above it (Duo-LLM, arXiv
/// 2410.10846, trains with a budget loss of this kind). cost as of expected_cost.
template <class T>
loss<T> cost_hinge(view<const T> router_logits, padding_rows padding, view<const T> cost, T budget, T coefficient, view<T> gradient = {}) {
  if (auto const fits = detail::check(router_logits, padding, gradient); !fits) return {T(0), fits};
  auto const mean = expected_cost(router_logits, padding, cost, T(1));
  auto const over = mean.value - budget;
  if (!mean.done || !(over > T(0)) || detail::tokens_of(router_logits, padding) == 0) return {T(0), mean.done};
  if (gradient.data != nullptr) {
    auto const added = expected_cost(router_logits, padding, cost, coefficient * T(2) * over, gradient);
    if (!added.done) return added;
  }
  return {coefficient * over * over, {}};
}

}  // namespace moesaic::balance
