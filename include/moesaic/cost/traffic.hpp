// Experts spread over devices into the bytes a token sends to them and gets back, and the time of that.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/cost/roofline.hpp>

namespace moesaic {

/// Experts in equal shares on `ranks` devices, some to a machine; each device has tokens of its own.
struct expert_parallel {
  int ranks = 1;
  int ranks_per_machine = 8;
  int machines_per_token = 0;          ///< group-limited routing sends a token to so many machines at most (DeepSeek-V3: 4); 0 = to any
  format dispatch = dtype::bf16;       ///< of a row sent to experts: e4m3 carries an fp32 scale for every `group` elements
  format combine = dtype::bf16;        ///< and of what comes back
  double latency = 0;                  ///< seconds a message, to be measured: it differs from one network to the next

  constexpr int machines() const { return (ranks + ranks_per_machine - 1) / ranks_per_machine; }
};

/// Expected number of parts, besides the token's own, that hold one of its top_k experts, where `experts` lie in `parts` equal parts and
/// all choices are alike: (R − 1)(1 − Π_j (E − E/R − j) / (E − j)). A row is sent to such a part once, whatever number of experts it has
/// there.
constexpr double remote_parts(int parts, int experts, int top_k) {
  double none = 1;                     // of a part's experts chosen
  for (int j = 0; j < top_k; ++j) {
    auto const elsewhere = experts - static_cast<double>(experts) / parts - j;
    none *= elsewhere > 0 ? elsewhere / (experts - j) : 0;
  }
  return (parts - 1) * (1 - none);
}
/// The same where each choice falls on any part by itself: (R − 1)(1 − (1 − 1/R)^k), the limit of many experts.
constexpr double remote_parts(int parts, int top_k) { return (parts - 1) * (1 - detail::power(1 - 1.0 / parts, top_k)); }

/// Of one layer, for a token, mean over even routing. A row crosses the network once a machine and is handed on inside it.
struct expert_traffic {
  double copies = 0;                   ///< rows sent to other ranks, were there one for each expert: k (1 − 1/R)
  double rows = 0;                     ///< rows sent to other ranks, one a rank
  double network_rows = 0;             ///< rows sent to other machines, one a machine
  double dispatch = 0, combine = 0;    ///< bytes of `rows`
  double network_dispatch = 0, network_combine = 0;   ///< bytes of `network_rows`
};
constexpr expert_traffic traffic(block_config const& c, expert_parallel const& p) {
  auto const shape = shapes(c);
  expert_traffic t;
  if (shape.dense || p.ranks <= 1) return t;
  auto const row = [&](format f) { return static_cast<double>(stored_bytes(f, 1, c.hidden)); };
  t.copies = c.router.top_k * (1 - 1.0 / p.ranks);
  t.rows = remote_parts(p.ranks, c.router.experts, c.router.top_k);
  t.network_rows = remote_parts(p.machines(), c.router.experts, c.router.top_k);
  if (p.machines_per_token > 0 && t.network_rows > p.machines_per_token) t.network_rows = p.machines_per_token;
  t.dispatch = t.rows * row(p.dispatch);
  t.combine = t.rows * row(p.combine);
  t.network_dispatch = t.network_rows * row(p.dispatch);
  t.network_combine = t.network_rows * row(p.combine);
  return t;
}

/// One layer's experts spread over devices. Seconds on one of them.
struct expert_parallel_time {
  double dispatch = 0, combine = 0;
  double experts = 0;                  ///< of the slowest rank
  constexpr double in_turn() const { return dispatch + experts + combine; }
  /// Two halves of a batch that take turns, one on the wire while the other computes.
  constexpr double overlapped() const {
    auto const wire = dispatch + combine;
    return wire > experts ? wire : experts;
  }
};
/// `tokens` on each rank. `imbalance`: load of the fullest rank over the mean, 1 + MaxVio. The network and the links inside a machine work
/// at the same time; a rank sends a message to each other one. Infinite where there is no wire.
constexpr expert_parallel_time expert_time(machine const& d, block_config const& c, expert_parallel const& p, std::int64_t tokens,
                                           double imbalance = 1) {
  auto const t = traffic(c, p);
  auto const one_way = [&](double inside, double between) {
    auto const link = detail::seconds(inside, d.link), network = detail::seconds(between, d.network);
    return static_cast<double>(tokens) * (link > network ? link : network) + p.latency * (p.ranks - 1);
  };
  auto const all = roofline(d, c, {.sequences = tokens * p.ranks, .tokens = 1, .keys = 0}).experts;
  expert_parallel_time time;
  time.dispatch = one_way(t.dispatch, t.network_dispatch);
  time.combine = one_way(t.combine, t.network_combine);
  auto const reading = all.reading / p.ranks, computing = all.computing / p.ranks * imbalance;
  time.experts = reading > computing ? reading : computing;
  return time;
}

/// Seconds on the wire for each second of an expert's arithmetic, one way and without de-duplication, for elements of so many bytes:
/// P · F · (1 − 1/R) / (6 m BW) of a gated expert of width m (the widest). Top_k, hidden and the batch cancel: narrow experts are what
/// makes traffic dear.
constexpr double traffic_per_arithmetic(machine const& d, block_config const& c, int ranks, double bytes_per_element,
                                        double bytes_a_second) {
  auto const shape = shapes(c);
  return bytes_per_element * rate(d, operand_type(shape.activations, shape.ffn_format, c.storage.inputs)) * (1 - 1.0 / ranks) /
         (2.0 * (shape.gate_parts + 1) * shape.intermediate * bytes_a_second);
}

}  // namespace moesaic
