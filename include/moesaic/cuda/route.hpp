// Router logits -> expert ids and weights of every token, by any routing policy; and the plan of the expert GEMMs. Apart, or in one launch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <moesaic/base/packed.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/config/weights.hpp>
#include <moesaic/cuda/cosine.hpp>
#include <moesaic/cuda/kernel/route.hpp>
#include <moesaic/cuda/launch.hpp>
#include <moesaic/cuda/linear.hpp>

namespace moesaic::cuda {

/// Counters of a launch that does several steps: blocks that are done. Zero before the first call; every launch leaves them so, also when a graph is
/// replayed. One for all layers of a stream.
struct route_counters {
  std::uint32_t of_group[most_token_groups] = {};   ///< of tokens, whose logits are there
  std::uint32_t of_grid = 0;
};

namespace route_detail {

/// Whether a tuning has kernels with redux (sm_80), which every newer device gets then.
template <class Tuning>
constexpr bool has_redux = Tuning::has(rung::sm80) || Tuning::has(rung::sm90);

/// Calls f<Rung>() with the kernels for this device: those with redux, or without.
template <class Tuning, class F>
void with_rung(basic_stream_ref<Tuning>& where, F&& f) {
  if constexpr (has_redux<Tuning>)
    if (where.device.architecture >= 80 || !Tuning::has(rung::simt)) return f.template operator()<rung::sm80>();
  if constexpr (Tuning::has(rung::simt)) f.template operator()<rung::simt>();
}

/// A kernel that `with_rung` named, as it is started.
template <class Tuning, class Kernel>
using chosen = std::conditional_t<Kernel::needs == rung::simt && has_redux<Tuning>, replaced_on<Kernel, 80, newest_architecture>, Kernel>;

/// Threads of a block that routes.
template <class Tuning, class Policy, class Config>
constexpr int threads_of() { return route_tuning<Tuning>::rows(experts_of<Config>(), slots_of<Policy, Config>()).threads; }

/// The parts of `all` in one launch where that is possible: one block, or counters.
template <class Policy, class Config, class Tuning>
void start_parts(basic_stream_ref<Tuning>& where, route_params<Policy, Config> all) {
  constexpr int threads = threads_of<Tuning, Policy, Config>();
  constexpr int warps = threads / 32;
  with_rung(where, [&]<rung Rung>() {
    using kernel = chosen<Tuning, route_logits<Policy, Config, threads, Rung>>;
    auto const most = where.device.multiprocessors > 0 ? where.device.multiprocessors * route_tuning<Tuning>::blocks : 1;
    auto const needed = (all.scores.rows + warps - 1) / warps;
    grid blocks{.x = static_cast<unsigned>(needed < most ? needed : most), .early = true};
    bool const more = all.batch || all.planned;
    if (blocks.x == 0 && more) blocks.x = 1;               // no tokens: the plan is of nobody, and every run empty
    if (!more || blocks.x == 1 || all.arrived != nullptr) return start<kernel>(where, blocks, all);
    auto tokens = all;
    tokens.batch = tokens.planned = false;
    start<kernel>(where, blocks, tokens);
    all.tokens = false;
    start<kernel>(where, {.x = 1, .early = true}, all);
  });
}

template <class Policy>
constexpr bool batched = Policy::coupled || Policy::settles;

}  // namespace route_detail

/// logits, scores, choice [tokens, experts], three memories; score_bias [experts] or empty; batch_memory: batch_bytes_of<Policy> bytes.
/// A token whose logits are not finite gets no expert and sets `*not_finite` to 1; padding gets none and is silent. `config`: a router_config, or an
/// empty type with `static constexpr router_config config`, for which loops over experts unroll and rows lie in shared memory.
/// What concerns a batch (policies that are coupled or settle) is one block's work: a second launch if the tokens take more than one.
template <class Policy, class Config, class T, class Tuning>
void route(basic_stream_ref<Tuning>& where, Config const& config, typename Policy::state const& state, view<const T> logits,
           list<const float> score_bias, view<T> scores, view<T> choice, routing_slots<T> const& slots, list<std::byte> batch_memory,
           std::int32_t* not_finite) {
  route_detail::start_parts<Policy, Config>(where, {config, state, logits, score_bias, scores, choice, slots, batch_memory, not_finite, {}, nullptr, true,
                                                    route_detail::batched<Policy>, false});
}

/// ids [tokens, slots] -> expert_offsets, token_of_slot, slot_of_choice. One block: for many tokens cuda/large_plan.cuh is faster.
template <class Tuning>
void plan(basic_stream_ref<Tuning>& where, view<const std::int32_t> ids, dispatch_plan const& out) {
  start<plan_choices<route_tuning<Tuning>::plan_threads>>(where, {.x = 1, .early = true}, {ids, out});
}

/// The plan of a feed-forward that every token uses: offsets = {0, tokens}.
template <class Tuning>
void plan_whole(basic_stream_ref<Tuning>& where, std::int64_t tokens, list<std::int32_t> offsets) {
  start<plan_of_all>(where, {.x = 1, .early = true}, {static_cast<std::int32_t>(tokens), offsets.data});
}

/// route, then plan: one launch up to planned_tokens of the tuning, the last block that is done makes the plan.
template <class Policy, class Config, class T, class Tuning>
void route_and_plan(basic_stream_ref<Tuning>& where, Config const& config, typename Policy::state const& state, view<const T> logits,
                    list<const float> score_bias, view<T> scores, view<T> choice, routing_slots<T> const& slots, list<std::byte> batch_memory,
                    std::int32_t* not_finite, route_counters* counters, dispatch_plan const& out) {
  bool const planned = logits.rows <= route_tuning<Tuning>::planned_tokens;
  route_detail::start_parts<Policy, Config>(where, {config, state, logits, score_bias, scores, choice, slots, batch_memory, not_finite, out,
                                                    counters != nullptr ? &counters->of_grid : nullptr, true, route_detail::batched<Policy>, planned});
  if (!planned) plan(where, slots.ids, out);
}

/// Whether the rows of a block's warps fit the launch that computes logits too.
template <class Tuning, class Policy, class Config>
constexpr bool rows_fit_fused() {
  return logits_tile::warps * route_row_bytes(experts_of<Config>(), slots_of<Policy, Config>()) <= route_tuning<Tuning>::most_shared;
}

/// Whether `linear_route_and_plan` takes a call: few tokens, rows that are read 16 bytes at a time.
template <class Tuning, class X>
bool fuses_logits(basic_stream_ref<Tuning> const&, packed_matrix const& weight, view<const X> x) {
  return x.rows > 0 && x.rows <= route_tuning<Tuning>::fused_tokens && weight.stored.type == dtype::fp32 && weight.inputs % logits_tile::inputs == 0 &&
         is_wide(x) && reinterpret_cast<std::uintptr_t>(weight.data) % 16 == 0;
}

/// linear<fp32>, then route, then plan, in one launch: logits = x · weightᵀ + bias. Sums in float, of one token in an order that depends on `hidden`
/// alone, but another one than linear's. Only where `fuses_logits` says so.
template <class Policy, class Config, class X, class Tuning>
void linear_route_and_plan(basic_stream_ref<Tuning>& where, Config const& config, typename Policy::state const& state, packed_matrix const& weight,
                           view<const X> x, list<const float> bias, view<float> logits, list<const float> score_bias, view<float> scores,
                           view<float> choice, routing_slots<float> const& slots, list<std::byte> batch_memory, std::int32_t* not_finite,
                           route_counters* counters, dispatch_plan const& out) {
  static_assert(route_tuning<Tuning>::fused_tokens <= most_token_groups * logits_tile::token_tile, "a group of tokens needs a counter");
  static_assert(route_tuning<Tuning>::fused_tokens <= route_tuning<Tuning>::planned_tokens, "a fused launch makes the plan too");
  static_assert(rows_fit_fused<Tuning, Policy, Config>(), "so many experts need the router's steps in launches of their own: linear, then route_and_plan");
  if (!fuses_logits(where, weight, x)) return where.record(invalid("the router's products are fused with routing for few tokens, rows of 16 bytes", 0, x.rows));
  route_detail::with_rung(where, [&]<rung Rung>() {
    auto const ceil = [](std::int64_t n, int each) { return static_cast<unsigned>((n + each - 1) / each); };
    start<route_detail::chosen<Tuning, route_fused<Policy, Config, X, Rung>>>(
        where, {.x = ceil(logits.columns, logits_tile::expert_tile), .y = ceil(x.rows, logits_tile::token_tile), .early = true},
        {{config, state, logits, score_bias, scores, choice, slots, batch_memory, not_finite, out, &counters->of_grid, true,
          route_detail::batched<Policy>, true},
         x, reinterpret_cast<float const*>(weight.data), bias.empty() ? nullptr : bias.data, logits, counters->of_group});
  });
}

/// Rows to expert ids, weights and plan, by router weights: the step that layers ask for, in as few launches as it takes. `config`: an empty type with
/// `static constexpr router_config config`; if it says `batch_invariant` too, or the tuning sums in one order, logits are linear's
/// however few tokens there are.
/// x [tokens, hidden]; logits [tokens, outputs] and the rest as above, all are written. A plan without expert_offsets is not made.
template <class Policy, class Config, class X, class Tuning>
void route_tokens(basic_stream_ref<Tuning>& where, Config const& config, typename Policy::state const& state, router_weights const& w, view<const X> x,
                  view<float> logits, view<float> scores, view<float> choice, routing_slots<float> const& slots, list<std::byte> batch_memory,
                  call_flags* flags, dispatch_plan const& out) {
  static_assert(sizeof(route_counters) <= sizeof(flags->counter), "a call's counters hold the router's");
  constexpr double cosine = Config::config.cosine;
  auto* const counters = reinterpret_cast<route_counters*>(flags->counter);
  bool const planned = out.expert_offsets.data != nullptr;
  constexpr bool one_order = sums_in_one_order<Tuning> || requires { requires Config::batch_invariant; };
  if constexpr (cosine == 0 && !one_order && rows_fit_fused<Tuning, Policy, Config>())
    if (planned && fuses_logits(where, w.weight, x))
      return linear_route_and_plan<Policy>(where, config, state, w.weight, x, w.bias, logits, w.score_bias, scores, choice, slots, batch_memory,
                                           &flags->not_finite, counters, out);
  linear<dtype::fp32>(where, w.weight, x, w.bias, logits);
  if constexpr (cosine != 0) to_cosines<X>(where, x, w.length, cosine, logits);
  view<const float> const found = logits;
  if (planned) route_and_plan<Policy>(where, config, state, found, w.score_bias, scores, choice, slots, batch_memory, &flags->not_finite, counters, out);
  else route<Policy>(where, config, state, found, w.score_bias, scores, choice, slots, batch_memory, &flags->not_finite);
}

}  // namespace moesaic::cuda
