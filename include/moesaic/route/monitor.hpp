// What routers do: logits, scores and ids of every token -> counts and sums an expert, mergeable, and the metrics that follow from them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <moesaic/base/arena.hpp>
#include <moesaic/base/bits.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/block_config.hpp>

namespace moesaic {

/// How a token's scores become probabilities p that sum to 1: each one's share of their sum, or, of scores that are logits, their softmax.
enum class probabilities : std::uint8_t { shares, softmax };

constexpr probabilities probabilities_of(router_config const& c) {
  return c.score == score::identity || c.position == score_position::after_top_k ? probabilities::softmax : probabilities::shares;
}

struct monitor_shape {
  int experts = 0;
  moesaic::probabilities probabilities = moesaic::probabilities::shares;
  int domains = 0;              ///< kinds of tokens told apart, for specialisation
  bool coactivation = false;    ///< count which experts are chosen together: experts² counts
};

/// Numbers of a layer that are not an expert's.
struct monitor_totals {
  std::int64_t steps = 0;       ///< that chose anything
  std::int64_t tokens = 0;      ///< without padding and without tokens whose logits are not finite
  std::int64_t padding = 0;     ///< rows marked as padding, or left out by the router though their logits are finite
  std::int64_t not_finite = 0;  ///< rows with a logit that is NaN or +inf, or with none above −inf
  std::int64_t with_logits = 0, with_scores = 0;   ///< tokens of which these were seen
  std::int64_t wanted = 0, chosen = 0;             ///< expert slots; the difference was dropped
  std::int64_t compared = 0;    ///< tokens whose experts were compared with those of the step before
  double log_partition = 0, confidence = 0, chosen_probability = 0, entropy = 0, margin = 0, overlap = 0;   ///< sums over tokens
  double violation = 0;         ///< sum over steps
  double largest_violation = 0, largest_logit = 0, bias_spread = 0;
};

/// Accumulators of one layer. It costs a look at each logit and score (an exponential and a logarithm an expert) and an addition a choice.
/// It changes no result, so causality and batch invariance are the policy's. The memory is the caller's; counts are integers, so merging
/// them is exact and in any order the same, while sums are fp64 and merge to rounding. One thread at a time: a monitor a thread, then
/// merge.
struct router_monitor {
  monitor_shape shape;
  list<monitor_totals> totals;          ///< [1]
  list<std::int64_t> counts;            ///< [experts] choices, in steps that have ended
  list<std::int64_t> step_counts;       ///< [experts] choices, in the step that is open
  list<double> probability;             ///< [experts] Σ p
  view<std::int64_t> domain_counts;     ///< [domains, experts]
  view<std::int64_t> coactivation;      ///< [experts, experts] tokens that chose both, at (lower, higher)

  static constexpr router_monitor carve(arena& memory, monitor_shape const& s) {
    auto const pairs = s.coactivation ? s.experts : 0;
    return {s, memory.take<monitor_totals>(1), memory.take<std::int64_t>(s.experts), memory.take<std::int64_t>(s.experts),
            memory.take<double>(s.experts), memory.take<std::int64_t>(s.domains, s.experts), memory.take<std::int64_t>(pairs, pairs)};
  }
  MOESAIC_FN constexpr std::int64_t count(std::int64_t expert) const { return counts[expert] + step_counts[expert]; }
};

/// Begins anew. Carved memory must be cleared before it is used.
MOESAIC_FN inline void clear(router_monitor const& m) {
  m.totals[0] = {};
  for (auto& n : m.counts) n = 0;
  for (auto& n : m.step_counts) n = 0;
  for (auto& p : m.probability) p = 0;
  for (std::int64_t i = 0; i < m.domain_counts.rows * m.domain_counts.columns; ++i) m.domain_counts.data[i] = 0;
  for (std::int64_t i = 0; i < m.coactivation.rows * m.coactivation.columns; ++i) m.coactivation.data[i] = 0;
}

/// What a router saw and did. Only ids are needed; what else is empty is not counted.
template <class T>
struct router_observation {
  view<const std::int32_t> ids;          ///< [tokens, slots] expert, −1 = unused
  view<const T> logits = {}, scores = {};   ///< [tokens, experts] before and after Policy::score; scores NaN = left out
  list<const std::int32_t> count = {};   ///< [tokens] slots that were filled before any choice was dropped; empty = all
  list<const std::uint8_t> padding = {}; ///< [tokens] 1 = a row that is no token
  list<const std::int32_t> domain = {};  ///< [tokens] below `domains`, −1 = none
  view<const std::int32_t> previous_ids = {};   ///< [tokens, slots] of the same rows a step before, as when sequences decode
};

namespace monitor_detail {

/// The largest of a token's logits [experts], or −inf where no router can use them: one is NaN or +inf, or none is above −inf.
template <class T>
MOESAIC_FN T usable_logits(T const* logits, int experts) {
  T largest = -infinity<T>;
  bool fine = true;
  for (int e = 0; e < experts; ++e) {
    fine &= logits[e] < infinity<T>;
    largest = logits[e] > largest ? logits[e] : largest;
  }
  return fine ? largest : -infinity<T>;
}

/// Adds logits [experts], of which `largest` is the largest.
template <class T>
MOESAIC_FN void observe_logits(router_monitor const& m, T const* logits, T largest) {
  T sum = T(0), magnitude = T(0);
  for (int e = 0; e < m.shape.experts; ++e) {
    T const size = logits[e] < T(0) ? -logits[e] : logits[e];
    if (size < infinity<T>) magnitude = size > magnitude ? size : magnitude;   // −inf is a mask, not a magnitude
    sum += std::exp(logits[e] - largest);
  }
  auto& totals = m.totals[0];
  totals.log_partition += static_cast<double>(largest + std::log(sum));
  if (static_cast<double>(magnitude) > totals.largest_logit) totals.largest_logit = static_cast<double>(magnitude);
  ++totals.with_logits;
}

/// Adds scores [experts]; ids [slots]. Negative shares, and all where there is nothing to share, count as 0.
template <class T>
MOESAIC_FN void observe_scores(router_monitor const& m, T const* scores, std::int32_t const* ids, std::int64_t slots) {
  auto const experts = m.shape.experts;
  bool const softmax = m.shape.probabilities == probabilities::softmax;
  T largest = T(0), sum = T(0);
  if (softmax) {
    largest = -infinity<T>;
    for (int e = 0; e < experts; ++e) largest = scores[e] > largest ? scores[e] : largest;
  }
  auto const part = [&](std::int64_t e) { return softmax ? std::exp(scores[e] - largest) : scores[e] > T(0) ? scores[e] : T(0); };
  for (int e = 0; e < experts; ++e) sum += part(e);
  T const scale = sum > T(0) ? T(1) / sum : T(0);
  T first = T(0), second = T(0), entropy = T(0), chosen = T(0);
  for (int e = 0; e < experts; ++e) {
    T const p = part(e) * scale;
    m.probability[e] += static_cast<double>(p);
    if (p > T(0)) entropy -= p * std::log(p);
    if (p > first) second = first, first = p;
    else if (p > second) second = p;
  }
  for (std::int64_t i = 0; i < slots; ++i)
    if (ids[i] >= 0) chosen += part(ids[i]) * scale;
  auto& totals = m.totals[0];
  totals.confidence += static_cast<double>(first);
  totals.margin += static_cast<double>(first - second);
  totals.entropy += static_cast<double>(entropy);
  totals.chosen_probability += static_cast<double>(chosen);
  ++totals.with_scores;
}

/// Adds a token's choice: ids [slots], the first `filled` of them wanted.
MOESAIC_FN inline void observe_choice(router_monitor const& m, std::int32_t const* ids, std::int64_t slots, std::int64_t filled,
                                      int domain) {
  auto& totals = m.totals[0];
  totals.wanted += filled;
  for (std::int64_t i = 0; i < slots; ++i) {
    auto const e = ids[i];
    if (e < 0) continue;
    ++totals.chosen;
    ++m.step_counts[e];
    if (domain >= 0) ++m.domain_counts(domain, e);
    for (std::int64_t j = 0; j < i && m.shape.coactivation; ++j)
      if (auto const other = ids[j]; other >= 0) ++(other < e ? m.coactivation(other, e) : m.coactivation(e, other));
  }
}

/// Adds the Jaccard index of a token's experts and those it had before. ids, previous [slots]. A token without experts is not compared.
MOESAIC_FN inline void observe_overlap(router_monitor const& m, std::int32_t const* ids, std::int32_t const* previous, std::int64_t slots) {
  int now = 0, before = 0, both = 0;
  for (std::int64_t i = 0; i < slots; ++i) {
    now += ids[i] >= 0;
    before += previous[i] >= 0;
    for (std::int64_t j = 0; j < slots && ids[i] >= 0; ++j) both += previous[j] == ids[i];
  }
  if (now == 0 || before == 0) return;
  m.totals[0].overlap += static_cast<double>(both) / (now + before - both);
  ++m.totals[0].compared;
}

template <class T>
status check_observation(router_monitor const& m, router_observation<T> const& o) {
  auto const tokens = o.ids.rows;
  auto const experts = m.shape.experts;
  view<const T> const given[] = {o.logits, o.scores};
  for (auto const& v : given) {
    if (v.data == nullptr) continue;
    if (v.rows != tokens) return invalid("logits and scores must have a row a token, or be empty", tokens, v.rows);
    if (v.columns != experts) return invalid("logits and scores must have a column an expert", experts, v.columns);
  }
  auto const fits = [&](auto const& entries) { return entries.empty() || entries.size == tokens; };
  if (!fits(o.count)) return invalid("count must have an entry a token, or be empty", tokens, o.count.size);
  if (!fits(o.padding)) return invalid("padding must have an entry a token, or be empty", tokens, o.padding.size);
  if (!fits(o.domain)) return invalid("domain must have an entry a token, or be empty", tokens, o.domain.size);
  auto const& before = o.previous_ids;
  if (before.data != nullptr && (before.rows != tokens || before.columns != o.ids.columns))
    return invalid("previous_ids must be of the shape of ids, or empty", tokens * o.ids.columns, before.rows * before.columns);
  for (auto const d : o.domain)
    if (d < -1 || d >= m.shape.domains)
      return {status_code::out_of_range, "domain must be one of the monitor's domains, or −1", m.shape.domains, d};
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t i = 0; i < o.ids.columns; ++i)
      if (auto const e = o.ids(t, i); e < -1 || e >= experts)
        return {status_code::out_of_range, "ids must be experts of the monitor, or −1", experts, e};
  return {};
}

}  // namespace monitor_detail

/// Tokens of a step, which stays open: a step in several parts is observed part by part, on monitors of several threads if these are
/// merged before it ends. Errors: a shape that does not fit, an id that is no expert; then nothing is counted.
template <class T>
status observe_part(router_monitor const& m, router_observation<T> const& o) {
  if (auto fits = monitor_detail::check_observation(m, o); !fits) return fits;
  auto& totals = m.totals[0];
  auto const slots = o.ids.columns;
  for (std::int64_t t = 0; t < o.ids.rows; ++t) {
    if (!o.padding.empty() && o.padding[t] != 0) {
      ++totals.padding;
      continue;
    }
    T const largest = o.logits.data != nullptr ? monitor_detail::usable_logits(o.logits.row(t), m.shape.experts) : T(0);
    if (!(largest > -infinity<T>)) {
      ++totals.not_finite;
      continue;
    }
    bool const scored = o.scores.data != nullptr && o.scores.columns > 0;
    if (scored && o.scores(t, 0) != o.scores(t, 0)) {
      ++totals.padding;
      continue;
    }
    auto const* const ids = o.ids.row(t);
    if (o.logits.data != nullptr) monitor_detail::observe_logits(m, o.logits.row(t), largest);
    if (scored) monitor_detail::observe_scores(m, o.scores.row(t), ids, slots);
    ++totals.tokens;
    monitor_detail::observe_choice(m, ids, slots, o.count.empty() ? slots : o.count[t], o.domain.empty() ? -1 : o.domain[t]);
    if (o.previous_ids.data != nullptr) monitor_detail::observe_overlap(m, ids, o.previous_ids.row(t), slots);
  }
  return {};
}

/// Bias that balances the choice, [experts]: its spread is part of the metrics, the largest that was seen.
MOESAIC_FN inline void observe_bias(router_monitor const& m, list<const float> score_bias) {
  if (score_bias.empty()) return;
  float least = score_bias[0], most = score_bias[0];
  for (auto const b : score_bias) {
    least = b < least ? b : least;
    most = b > most ? b : most;
  }
  auto const spread = static_cast<double>(most) - static_cast<double>(least);
  if (spread > m.totals[0].bias_spread) m.totals[0].bias_spread = spread;
}

/// How a load c [experts] of choices is spread, f = c / Σ c. All 0 where nothing was chosen.
struct load_metrics {
  int experts = 0;
  std::int64_t choices = 0;
  double max_violation = 0;        ///< max c / mean c − 1 (MaxVio, arXiv:2408.15664); 0 = balanced
  double min_violation = 0;        ///< min c / mean c − 1; −1 = an expert without a choice
  double variation = 0;            ///< standard deviation over mean
  double entropy = 0;              ///< H(f) / ln experts; 1 = balanced, as one expert alone always is
  double effective_experts = 0;    ///< exp(H(f)), in 1 .. experts
  int dead = 0;                    ///< experts of a share below the limit
};

/// A share of the choices that means: never, in any window that one looks at.
inline constexpr double dead_share = 1e-9;

/// Of count(expert) choices each. An expert is dead whose share is below `dead_below`.
template <class Count>
  requires requires(Count const& count) { count(0); }
MOESAIC_FN load_metrics measure_load(int experts, Count const& count, double dead_below = dead_share) {
  load_metrics m{experts};
  for (int e = 0; e < experts; ++e) m.choices += count(e);
  if (m.choices == 0) return m;
  auto const all = static_cast<double>(m.choices), mean = all / experts;
  double least = all, most = 0, squares = 0, entropy = 0;
  for (int e = 0; e < experts; ++e) {
    auto const c = static_cast<double>(count(e)), share = c / all;
    least = c < least ? c : least;
    most = c > most ? c : most;
    squares += (c - mean) * (c - mean);
    if (c > 0) entropy -= share * std::log(share);
    m.dead += share < dead_below;
  }
  m.max_violation = most / mean - 1;
  m.min_violation = least / mean - 1;
  m.variation = std::sqrt(squares / experts) / mean;
  m.entropy = experts > 1 ? entropy / std::log(static_cast<double>(experts)) : 1;
  m.effective_experts = std::exp(entropy);
  return m;
}
/// counts [experts].
MOESAIC_FN inline load_metrics measure_load(list<const std::int64_t> counts, double dead_below = dead_share) {
  return measure_load(static_cast<int>(counts.size), [&](int e) { return counts[e]; }, dead_below);
}

/// When a router has collapsed: the effective experts of `looks` looks in a row are below least_effective · experts, or in one look more
/// than most_dead · experts are dead. A look is a window of `choices` choices an expert or more, so that chance leaves no live expert
/// without one, however small a step is. Where top_k is near `experts`, set least_effective above top_k / experts, the least there can be.
struct collapse_limits {
  double least_effective = 0.5;
  double most_dead = 0.25;
  int looks = 3;
  std::int64_t choices = 32;
};

struct collapse_detector {
  struct progress {
    int low = 0;                 ///< looks in a row
    bool collapsed = false;      ///< stays until it is cleared
    load_metrics last = {};      ///< the last look
  };
  collapse_limits limits;
  list<std::int64_t> window;     ///< [experts] choices since the last look
  list<progress> state;          ///< [1]

  static constexpr collapse_detector carve(arena& memory, collapse_limits const& limits, int experts) {
    return {limits, memory.take<std::int64_t>(experts), memory.take<progress>(1)};
  }
  MOESAIC_FN constexpr bool collapsed() const { return state[0].collapsed; }
};

MOESAIC_FN inline void clear(collapse_detector const& d) {
  d.state[0] = {};
  for (auto& n : d.window) n = 0;
}

/// Adds the choices of a step, counts [experts], and looks when the window is full. Answers whether the router has collapsed by now.
MOESAIC_FN inline bool watch(collapse_detector const& d, list<const std::int64_t> counts) {
  std::int64_t seen = 0;
  for (std::int64_t e = 0; e < d.window.size; ++e) seen += d.window[e] += counts[e];
  auto& state = d.state[0];
  if (seen == 0 || seen < d.limits.choices * d.window.size) return state.collapsed;
  state.last = measure_load(d.window);
  for (auto& n : d.window) n = 0;
  auto const experts = static_cast<double>(d.window.size);
  state.low = state.last.effective_experts < d.limits.least_effective * experts ? state.low + 1 : 0;
  state.collapsed = state.collapsed || state.low >= d.limits.looks || state.last.dead > d.limits.most_dead * experts;
  return state.collapsed;
}

/// Ends a step, whose load a detector may watch. A step without a choice is none.
MOESAIC_FN inline void end_step(router_monitor const& m, collapse_detector const* detector = nullptr) {
  if (detector != nullptr) watch(*detector, m.step_counts);
  std::int64_t choices = 0, most = 0;
  for (std::int64_t e = 0; e < m.counts.size; ++e) {
    auto const n = m.step_counts[e];
    choices += n;
    most = n > most ? n : most;
    m.counts[e] += n;
    m.step_counts[e] = 0;
  }
  if (choices == 0) return;
  auto& totals = m.totals[0];
  auto const violation = static_cast<double>(most) * m.shape.experts / static_cast<double>(choices) - 1;
  ++totals.steps;
  totals.violation += violation;
  if (violation > totals.largest_violation) totals.largest_violation = violation;
}

/// A whole step. Errors as observe_part.
template <class T>
status observe(router_monitor const& m, router_observation<T> const& o, collapse_detector const* detector = nullptr) {
  if (auto done = observe_part(m, o); !done) return done;
  end_step(m, detector);
  return {};
}

/// Adds what `from` saw: other batches, another thread's part of the same step, or another layer of as many experts. Errors: other shapes.
inline status merge(router_monitor const& into, router_monitor const& from) {
  if (into.shape.experts != from.shape.experts)
    return invalid("monitors that are merged must have as many experts", into.shape.experts, from.shape.experts);
  if (into.shape.domains != from.shape.domains)
    return invalid("monitors that are merged must have as many domains", into.shape.domains, from.shape.domains);
  if (into.shape.coactivation != from.shape.coactivation)
    return invalid("monitors that are merged must both count pairs of experts, or neither", into.shape.coactivation,
                   from.shape.coactivation);
  auto& a = into.totals[0];
  auto const& b = from.totals[0];
  a.steps += b.steps, a.tokens += b.tokens, a.padding += b.padding, a.not_finite += b.not_finite;
  a.with_logits += b.with_logits, a.with_scores += b.with_scores, a.wanted += b.wanted, a.chosen += b.chosen, a.compared += b.compared;
  a.log_partition += b.log_partition, a.confidence += b.confidence, a.chosen_probability += b.chosen_probability;
  a.entropy += b.entropy, a.margin += b.margin, a.overlap += b.overlap, a.violation += b.violation;
  auto const raise = [](double& most, double other) { most = other > most ? other : most; };
  raise(a.largest_violation, b.largest_violation), raise(a.largest_logit, b.largest_logit), raise(a.bias_spread, b.bias_spread);
  auto const add = [](auto* to, auto const* of, std::int64_t size) {
    for (std::int64_t i = 0; i < size; ++i) to[i] += of[i];
  };
  add(into.counts.data, from.counts.data, into.counts.size);
  add(into.step_counts.data, from.step_counts.data, into.step_counts.size);
  add(into.probability.data, from.probability.data, into.probability.size);
  add(into.domain_counts.data, from.domain_counts.data, into.domain_counts.rows * into.domain_counts.columns);
  add(into.coactivation.data, from.coactivation.data, into.coactivation.rows * into.coactivation.columns);
  return {};
}

/// Everything in figures. Means are over the tokens of which the numbers were seen; of nothing they are 0. Entropies are in nats.
struct monitor_summary {
  load_metrics load;               ///< of all steps together: the global MaxVio is its max_violation
  double gini = 0;                 ///< of the load; 0 = balanced, (experts − 1) / experts = all to one
  double step_violation = 0;       ///< MaxVio of single steps: their mean
  double largest_step_violation = 0;
  double experts_a_token = 0;
  double drop_rate = 0;            ///< dropped choices over wanted ones
  double confidence = 0;           ///< mean of max p
  double chosen_probability = 0;   ///< mean of Σ p over the chosen experts
  double router_entropy = 0;       ///< mean of H(p)
  double log_partition = 0;        ///< mean of ln Σ exp z, z the logits
  double largest_logit = 0;        ///< max |z|
  double margin = 0;               ///< mean of the largest p less the second
  double bias_spread = 0;          ///< max b − min b
  double stability = 0;            ///< mean Jaccard index of a row's experts and those of the step before
  double balance = 0;              ///< experts · Σ f P, P the mean p (arXiv:2101.03961, without its factor): 1 where either is uniform
};

MOESAIC_FN inline monitor_summary summarize(router_monitor const& m, double dead_below = dead_share) {
  auto const& totals = m.totals[0];
  auto const mean = [](double sum, std::int64_t count) { return count > 0 ? sum / static_cast<double>(count) : 0; };
  monitor_summary s{.load = measure_load(m.shape.experts, [&](int e) { return m.count(e); }, dead_below)};
  if (s.load.choices > 0) {
    auto const experts = static_cast<double>(s.load.experts), all = static_cast<double>(s.load.choices);
    double apart = 0, product = 0;
    for (int e = 0; e < m.shape.experts; ++e) {
      product += static_cast<double>(m.count(e)) * m.probability[e];
      for (int other = 0; other < e; ++other) apart += std::fabs(static_cast<double>(m.count(e) - m.count(other)));
    }
    s.gini = apart / (experts * all);
    s.balance = experts * mean(product / all, totals.with_scores);
  }
  s.step_violation = mean(totals.violation, totals.steps);
  s.largest_step_violation = totals.largest_violation;
  s.experts_a_token = mean(static_cast<double>(totals.chosen), totals.tokens);
  s.drop_rate = mean(static_cast<double>(totals.wanted - totals.chosen), totals.wanted);
  s.confidence = mean(totals.confidence, totals.with_scores);
  s.chosen_probability = mean(totals.chosen_probability, totals.with_scores);
  s.router_entropy = mean(totals.entropy, totals.with_scores);
  s.margin = mean(totals.margin, totals.with_scores);
  s.log_partition = mean(totals.log_partition, totals.with_logits);
  s.largest_logit = totals.largest_logit;
  s.bias_spread = totals.bias_spread;
  s.stability = mean(totals.overlap, totals.compared);
  return s;
}

/// Nats by which the load of a domain differs from the load of all: KL(f_domain || f) = Σ f_domain ln(f_domain / f). 0 = no specialisation.
MOESAIC_FN inline double specialisation(router_monitor const& m, int domain) {
  std::int64_t all = 0, own = 0;
  for (int e = 0; e < m.shape.experts; ++e) {
    all += m.count(e);
    own += m.domain_counts(domain, e);
  }
  double sum = 0;
  for (int e = 0; e < m.shape.experts; ++e)
    if (auto const n = m.domain_counts(domain, e); n > 0) {
      auto const share = static_cast<double>(n) / static_cast<double>(own);
      sum += share * std::log(share * static_cast<double>(all) / static_cast<double>(m.count(e)));
    }
  return sum;
}

}  // namespace moesaic
