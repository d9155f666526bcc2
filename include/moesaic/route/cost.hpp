// What it costs that a token uses an expert, in microseconds: sources to price experts by, and sums of them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>
#include <utility>

#include <moesaic/base/bits.hpp>
#include <moesaic/base/macros.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/route/policy.hpp>

namespace moesaic {

/// Where an expert's weights lie: in the memory that computes, in the host's, on a disk.
enum class tier : std::uint8_t { device, host, disk };
inline constexpr int tiers = 3;

/// A cost source is an empty type with a state, a plain struct of views and scalars, and one function, in microseconds:
///
///   struct my_cost {
///     struct state { moesaic::list<const float> watts; };
///     MOESAIC_FN static float cost(state const& s, moesaic::routing_site at) { return s.watts[at.expert]; }
///   };
///
/// or `template <class T> static T cost(state const&, routing_site)`, T fp32, or fp64 for the reference. It depends on the token, the expert
/// and a state that is fixed before the call, on nothing else that is chosen in it: such a cost is separable, so a policy that prices by it is
/// causal, batch-invariant and fit for training as far as its base is.
///
/// +infinity forbids the expert at any price above 0; a negative cost is a subsidy; NaN leaves the token without experts and is flagged, as a
/// logit that is NaN.
template <class Source, class T = float>
concept cost_source = requires { typename Source::state; } && requires(typename Source::state const& s) {
  requires requires { { Source::template cost<T>(s, routing_site{}) } -> std::convertible_to<T>; } ||
           requires { { Source::cost(s, routing_site{}) } -> std::convertible_to<T>; };
};

/// Whether the views of a source's state are long enough for a call, where it says: `static constexpr status fits(state const&, int experts,
/// std::int64_t tokens)`.
template <class Source>
constexpr status source_fits(typename Source::state const& s, int experts, std::int64_t tokens) {
  if constexpr (requires { Source::fits(s, experts, tokens); }) return Source::fits(s, experts, tokens);
  else return {};
}

/// The cost of one expert for one token, by either form of a source.
template <class Source, class T>
MOESAIC_INLINE constexpr T cost_at(typename Source::state const& s, routing_site at) {
  if constexpr (requires { Source::template cost<T>(s, at); }) return Source::template cost<T>(s, at);
  else return static_cast<T>(Source::cost(s, at));
}

namespace detail {
/// After the sentence about a source that is none, something to go on with.
struct no_cost {
  struct state {};
  template <class T>
  MOESAIC_FN static constexpr T cost(state const&, routing_site) { return T(0); }
};
template <class Source>
using source_or_none = std::conditional_t<cost_source<Source>, Source, no_cost>;
}  // namespace detail

/// Microseconds that a byte takes at so many gigabytes (1e9) a second, and a FLOP at so many teraFLOP (1e12) a second.
constexpr float us_per_byte(double gigabytes_per_second) { return static_cast<float>(1e-3 / gigabytes_per_second); }
constexpr float us_per_flop(double teraflops) { return static_cast<float>(1e-6 / teraflops); }

namespace costs {

namespace detail {
/// The first list that has another length than `experts`.
template <class... Lists>
constexpr status an_entry_an_expert(int experts, Lists const&... lists) {
  status found;
  auto const check = [&](std::int64_t size) {
    if (found && size != experts) found = invalid("every list of a cost source must have an entry an expert", experts, size);
  };
  (check(lists.size), ...);
  return found;
}
}  // namespace detail

/// Numbers made beforehand: the cheapest source to read, so write the others into one (`write_table`) where a step has many tokens.
struct table {
  struct state {
    view<const float> microseconds;      ///< [tokens, experts]; a stride of 0 is one row for all tokens
  };
  /// One row [experts] for all tokens.
  static constexpr state of_experts(list<const float> microseconds) { return {{microseconds.data, 1, microseconds.size, 0}}; }
  static constexpr status fits(state const& s, int experts, std::int64_t tokens) {
    auto const& m = s.microseconds;
    if (m.columns != experts) return invalid("a table of costs must have a column an expert", experts, m.columns);
    if (m.stride != 0 && m.rows < tokens) return invalid("a table of costs must have a row a token, or one for all (a stride of 0)", tokens, m.rows);
    return {};
  }

  template <class T>
  MOESAIC_INLINE static constexpr T cost(state const& s, routing_site at) {
    return static_cast<T>(s.microseconds(at.token, at.expert));
  }
  MOESAIC_INLINE static constexpr float const* row(state const& s, std::int64_t token) { return s.microseconds.row(token); }
};

/// Computing: FLOPs of an expert for one token over what the device does. Experts of one width all cost the same, so this moves no choice but
/// between widths, and between kinds (a zero expert has 0). A gated expert has 6 · hidden · intermediate (cost/flops.hpp).
struct flops {
  struct state {
    list<const float> flops;             ///< [experts]
    float us_per_flop = 0;
  };
  static constexpr status fits(state const& s, int experts, std::int64_t) { return detail::an_entry_an_expert(experts, s.flops); }
  template <class T>
  MOESAIC_INLINE static constexpr T cost(state const& s, routing_site at) {
    return static_cast<T>(s.flops[at.expert]) * static_cast<T>(s.us_per_flop);
  }
};

/// Reading: bytes of an expert at the bandwidth of where it lies. With the default of 0 for the device, an expert that is resident is free.
/// That another token of the batch may have it read anyway is not seen here: that is marginal cost, which is coupled.
struct bytes {
  struct state {
    list<const float> bytes;             ///< [experts]
    list<const tier> where;              ///< [experts], a snapshot from before the call: residency::where(layer)
    float us_per_byte[tiers] = {};       ///< of device, host, disk
  };
  static constexpr status fits(state const& s, int experts, std::int64_t) { return detail::an_entry_an_expert(experts, s.bytes, s.where); }
  template <class T>
  MOESAIC_INLINE static constexpr T cost(state const& s, routing_site at) {
    return static_cast<T>(s.bytes[at.expert]) * static_cast<T>(s.us_per_byte[static_cast<int>(s.where[at.expert])]);
  }
};

/// Sending: to an expert of another rank than the token's, a latency and the bytes of dispatch and combine. Every expert is charged alone: that
/// a token's second expert on a rank rides along for nothing depends on the token's other choices, so de-duplication is not separable over
/// experts and is left to the coupled policies. This is therefore an upper bound.
struct rank_distance {
  struct state {
    list<const std::int32_t> rank_of_expert;   ///< [experts]
    list<const std::int32_t> rank_of_token;    ///< [tokens]; empty: all are on `own_rank`
    std::int32_t own_rank = 0;
    float alpha = 0;                           ///< microseconds a message
    float bytes = 0;                           ///< of a token there and back
    float us_per_byte = 0;
  };
  static constexpr status fits(state const& s, int experts, std::int64_t tokens) {
    if (!s.rank_of_token.empty() && s.rank_of_token.size < tokens)
      return invalid("rank_of_token must have an entry a token, or none", tokens, s.rank_of_token.size);
    return detail::an_entry_an_expert(experts, s.rank_of_expert);
  }
  template <class T>
  MOESAIC_INLINE static constexpr T cost(state const& s, routing_site at) {
    auto const mine = s.rank_of_token.empty() ? s.own_rank : s.rank_of_token[at.token];
    return s.rank_of_expert[at.expert] == mine ? T(0) : static_cast<T>(s.alpha) + static_cast<T>(s.bytes) * static_cast<T>(s.us_per_byte);
  }
};

/// Waiting: tokens that stand before a rank beyond the mean of all ranks, each of which takes so long. An expert of a rank that is not in `waiting` costs
/// NaN, so that its tokens are flagged: the host cannot look at a list that lies on a device.
struct queue {
  struct state {
    list<const std::int32_t> rank_of_expert;   ///< [experts]
    list<const float> waiting;                 ///< [ranks] tokens, a snapshot from before the call
    float mean = 0;                            ///< of `waiting`: mean_of(waiting), once a step
    float us_per_token = 0;
  };
  static constexpr status fits(state const& s, int experts, std::int64_t) {
    return detail::an_entry_an_expert(experts, s.rank_of_expert);
  }
  static constexpr float mean_of(list<const float> waiting) {
    double sum = 0;
    for (float const q : waiting) sum += static_cast<double>(q);
    return waiting.empty() ? 0.0f : static_cast<float>(sum / static_cast<double>(waiting.size));
  }
  template <class T>
  MOESAIC_INLINE static constexpr T cost(state const& s, routing_site at) {
    auto const rank = s.rank_of_expert[at.expert];
    if (rank < 0 || rank >= s.waiting.size) return not_a_number<T>;
    T const beyond = static_cast<T>(s.waiting[rank]) - static_cast<T>(s.mean);
    return beyond > T(0) ? beyond * static_cast<T>(s.us_per_token) : T(0);
  }
};

/// Energy of computing and reading, by coefficients of the user's own: joules turned into the microseconds that they are worth.
struct energy {
  struct state {
    list<const float> flops, bytes;      ///< [experts] each
    float us_per_flop = 0, us_per_byte = 0;
  };
  static constexpr status fits(state const& s, int experts, std::int64_t) { return detail::an_entry_an_expert(experts, s.flops, s.bytes); }
  template <class T>
  MOESAIC_INLINE static constexpr T cost(state const& s, routing_site at) {
    return static_cast<T>(s.flops[at.expert]) * static_cast<T>(s.us_per_flop) + static_cast<T>(s.bytes[at.expert]) * static_cast<T>(s.us_per_byte);
  }
};

namespace detail {
/// A source of a sum and its weight; the index tells two of one kind apart.
template <std::size_t Index, class Source>
struct term {
  typename Source::state source = {};
  float weight = 1;
};
template <class Indices, class... Sources>
struct sum;
template <std::size_t... Index, class... Sources>
struct sum<std::index_sequence<Index...>, Sources...> {
  struct state : term<Index, Sources>... {};
  static constexpr status fits(state const& s, int experts, std::int64_t tokens) {
    status found;
    ((found && static_cast<term<Index, Sources> const&>(s).weight != 0
          ? void(found = source_fits<Sources>(static_cast<term<Index, Sources> const&>(s).source, experts, tokens))
          : void()), ...);
    return found;
  }

  template <class T>
  MOESAIC_INLINE static constexpr T cost(state const& s, routing_site at) {
    return (of<T, Sources>(static_cast<term<Index, Sources> const&>(s), at) + ...);
  }

 private:
  template <class T, class Source, class Term>
  MOESAIC_INLINE static constexpr T of(Term const& t, routing_site at) {
    return t.weight == 0 ? T(0) : static_cast<T>(t.weight) * cost_at<Source, T>(t.source, at);   // of weight 0 nothing is read
  }
};
}  // namespace detail

/// Several sources, added left to right with weights: state{{flops_state, 1}, {bytes_state, 0.5f}}.
template <class... Sources>
struct sum : detail::sum<std::index_sequence_for<Sources...>, Sources...> {};

}  // namespace costs

/// A source as a table: row r of `out` [rows, experts] becomes the costs of token first + r. One row is enough for a source that does not
/// look at the token (all here but a table of many rows and rank_distance with tokens on several ranks).
template <class Source>
constexpr void write_table(typename Source::state const& s, view<float> out, std::int64_t first = 0) {
  for (std::int64_t r = 0; r < out.rows; ++r)
    for (std::int64_t e = 0; e < out.columns; ++e) out(r, e) = cost_at<Source, float>(s, {first + r, static_cast<std::int32_t>(e)});
}

/// What the chosen cost: the sum over ids [tokens, slots] of a call, −1 = unused.
template <class Source>
constexpr double chosen_cost(typename Source::state const& s, view<const std::int32_t> ids) {
  double sum = 0;
  for (std::int64_t t = 0; t < ids.rows; ++t)
    for (std::int64_t i = 0; i < ids.columns; ++i)
      if (ids(t, i) >= 0) sum += cost_at<Source, double>(s, {t, ids(t, i)});
  return sum;
}

/// And what they are worth: Σ score of the chosen. Divided by that of the plain router it is the share of gate mass retained, which belongs
/// beside every saving.
template <class T>
constexpr double chosen_score(view<const T> scores, view<const std::int32_t> ids) {
  double sum = 0;
  for (std::int64_t t = 0; t < ids.rows; ++t)
    for (std::int64_t i = 0; i < ids.columns; ++i)
      if (ids(t, i) >= 0) sum += static_cast<double>(scores(t, ids(t, i)));
  return sum;
}

}  // namespace moesaic
