// Router logits, or x and the router's weights -> expert ids and weights by any routing policy, and the plan of the expert GEMMs: one launch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <moesaic/base/bits.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/cuda/kernel/route_group.hpp>
#include <moesaic/cuda/kernel/plan.hpp>
#include <moesaic/cuda/kernel/rows.hpp>
#include <moesaic/cuda/tuning/route.hpp>
#include <moesaic/route/select.hpp>

namespace moesaic::cuda {

/// A router's configuration that kernels are compiled for: a type with `static constexpr router_config config`. `router_config` itself is one that
/// the call brings.
template <class Config>
concept constant_router = std::is_empty_v<Config> && requires { requires std::is_same_v<std::remove_cvref_t<decltype(Config::config)>, router_config>; };

template <class Config>
constexpr int experts_of() {
  if constexpr (constant_router<Config>) return Config::config.experts;
  else return 0;
}
template <class Policy, class Config>
constexpr int slots_of() {
  if constexpr (constant_router<Config>) return Policy::slots(Config::config);
  else return 0;
}

/// What a launch of the router is told.
template <class Policy, class Config>
struct route_params {
  Config config;
  typename Policy::state state;
  view<const float> logits;            ///< [tokens, experts ..]
  list<const float> score_bias;        ///< [experts] or empty
  view<float> scores, choice;          ///< [tokens, experts]
  routing_slots<float> slots;
  list<std::byte> batch_memory;
  std::int32_t* not_finite;
  dispatch_plan plan;
  std::uint32_t* arrived;              ///< blocks that are done, 0 before and after; null: one block, or a launch that does tokens alone
  bool tokens, batch, planned;         ///< which parts this launch does: each token's own, what concerns the batch, the plan
};

/// The parts of a routing launch of `Threads` threads a block.
template <class Policy, class Config, int Threads, rung Rung>
struct route_parts {
  using params = route_params<Policy, Config>;
  static constexpr int experts = experts_of<Config>(), slots = slots_of<Policy, Config>(), warps = Threads / device::warp_size;
  static constexpr bool batched = Policy::coupled || Policy::settles;
  using by_warp = warp_group<experts, Rung>;
  using by_block = block_group<Threads>;
  using planner = block_plan<Threads, (experts > 0 && experts < 512 ? experts : 512)>;

  struct row {
    float scores[experts > 0 ? experts : 1], choice[experts > 0 ? experts : 1], weights[slots > 0 ? slots : 1];
    std::int32_t ids[slots > 0 ? slots : 1];
  };
  struct shared {
    union {                              // one after another, with a barrier between
      row rows[experts > 0 ? warps : 1];
      typename planner::scratch plan;
    };
    typename by_block::scratch sums;
    std::uint32_t last;
  };

  MOESAIC_DEVICE static router_config config(params const& p) {
    if constexpr (constant_router<Config>) {
      constexpr router_config fixed = Config::config;
      return fixed;
    } else {
      return p.config;
    }
  }

  /// Token t by this warp.
  MOESAIC_DEVICE static void route_token(params const& p, shared& s, std::int64_t t) {
    auto const c = config(p);
    constexpr by_warp g;
    int const width = static_cast<int>(slots > 0 ? slots : p.slots.ids.columns), lane = g.rank();
    float *scores = p.scores.row(t), *choice = p.choice.row(t), *weights = p.slots.weights.row(t);
    auto* ids = p.slots.ids.row(t);
    if constexpr (experts > 0) {
      auto& mine = s.rows[device::warp_id()];
      scores = mine.scores, choice = mine.choice, weights = mine.weights, ids = mine.ids;
    }
    if (is_padding(p.state, t)) {
      for (int e = lane; e < c.experts; e += g.size()) scores[e] = choice[e] = not_a_number<float>;
      g.sync();
    } else {
      bool const finite = score_token<Policy>(c, g, p.state, p.score_bias, t, p.logits.row(t), scores, choice);
      if (!finite && lane == 0) raise_flag(p.not_finite);
    }
    if constexpr (!Policy::coupled) {
      int const found = select_token<Policy>(c, g, p.state, t, static_cast<float const*>(scores), static_cast<float const*>(choice), width, ids);
      g.sync();
      int const count = finish_token<Policy>(c, g, p.state, t, static_cast<float const*>(scores), static_cast<float const*>(choice), found, width, ids,
                                             weights);
      if (lane == 0) p.slots.count[t] = count;
      g.sync();
    }
    if constexpr (experts > 0) {
      for (int e = lane; e < c.experts; e += g.size()) p.scores(t, e) = scores[e], p.choice(t, e) = choice[e];
      if constexpr (!Policy::coupled)
        for (int i = lane; i < width; i += g.size()) p.slots.ids(t, i) = ids[i], p.slots.weights(t, i) = weights[i];
      g.sync();                          // the rows are free for the next token
    }
  }

  /// Whether this block is the last of `blocks` that count in `*arrived`, which is 0 again then. What the others wrote before is seen by all its threads.
  MOESAIC_DEVICE static bool is_last(std::uint32_t* arrived, int blocks, shared& s) {
    device::block_sync();
    if (blocks == 1) return true;
    if (device::thread_id() == 0) {
      s.last = device::atomic_add_acq_rel(arrived, 1) == static_cast<std::uint32_t>(blocks - 1);
      if (s.last != 0) *arrived = 0;
    }
    device::block_sync();
    return s.last != 0;
  }

  /// What concerns the whole batch, by one block, when all tokens are scored.
  MOESAIC_DEVICE static void route_batch(params const& p, shared& s) {
    auto const c = config(p);
    by_block const g{s.sums};
    auto const tokens = p.scores.rows;
    auto const each_step = [&](auto&& f) {
      auto const together = step_of(p.state, tokens);
      for (std::int64_t first = 0; first < tokens; first += together) {
        auto const n = together < tokens - first ? together : tokens - first;
        f(routing_batch<float>{rows_of<float const>(p.scores, first, n), rows_of<float const>(p.choice, first, n), first},
          routing_slots<float>{rows_of<std::int32_t>(p.slots.ids, first, n), rows_of<float>(p.slots.weights, first, n), {p.slots.count.data + first, n}});
        g.sync();
      }
    };
    if constexpr (Policy::coupled) {
      each_step([&](auto const& batch, auto const& chosen) { Policy::select_batch(c, g, p.state, batch, chosen, p.batch_memory); });
      constexpr by_warp one;
      int const width = static_cast<int>(slots > 0 ? slots : p.slots.ids.columns);
      for (std::int64_t t = device::warp_id(); t < tokens; t += warps) {
        int const found = p.slots.count[t];
        int const count = finish_token<Policy>(c, one, p.state, t, static_cast<float const*>(p.scores.row(t)),
                                               static_cast<float const*>(p.choice.row(t)), found, width, p.slots.ids.row(t), p.slots.weights.row(t));
        one.sync();
        if (one.rank() == 0) p.slots.count[t] = count;
      }
      g.sync();
    }
    if constexpr (Policy::settles)
      each_step([&](auto const& batch, auto const& chosen) { Policy::settle_batch(c, g, p.state, batch, chosen, p.batch_memory); });
  }

  /// What one block does when all tokens are there.
  MOESAIC_DEVICE static void finish(params const& p, shared& s) {
    if constexpr (batched)
      if (p.batch) route_batch(p, s);
    if (p.planned) planner::make(p.slots.ids, static_cast<int>(slots > 0 ? slots : p.slots.ids.columns), p.plan, s.plan);
  }

 private:
  template <class T, class From>
  MOESAIC_DEVICE static view<T> rows_of(view<From> const& all, std::int64_t first, std::int64_t n) {
    return {all.row(first), n, all.columns, all.stride};
  }
};

/// Logits -> ids and weights, a warp a token; the last block does the rest.
template <class Policy, class Config, int Threads, rung Rung>
struct route_logits {
  using parts = route_parts<Policy, Config, Threads, Rung>;
  static constexpr int threads = Threads;
  static constexpr rung needs = Rung;
  using params = typename parts::params;
  using shared = typename parts::shared;

  MOESAIC_DEVICE void operator()(params const& p) const {
    auto& s = device::shared<shared>();
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    if (p.tokens)
      for (std::int64_t t = static_cast<std::int64_t>(device::block_x()) * parts::warps + device::warp_id(); t < p.scores.rows;
           t += static_cast<std::int64_t>(device::grid_x()) * parts::warps)
        parts::route_token(p, s, t);
    if (!p.batch && !p.planned) return;
    if (parts::is_last(p.arrived, device::grid_x(), s)) parts::finish(p, s);
  }
};

/// x and the router's weights -> logits -> the same. Blocks (x: experts, y: tokens) compute a tile of logits each; the last one of a group of tokens
/// routes these, and the last group does the rest. A sum is taken in one order, whatever the grid and the other tokens: every thread its inputs from the
/// lowest up, then a butterfly over the warp, then warp after warp, then the bias.
template <class Policy, class Config, class X, rung Rung>
struct route_fused {
  using parts = route_parts<Policy, Config, logits_tile::threads, Rung>;
  static constexpr int threads = logits_tile::threads;
  static constexpr rung needs = Rung;
  static constexpr int token_tile = logits_tile::token_tile, expert_tile = logits_tile::expert_tile, inputs = logits_tile::inputs;
  struct params {
    typename parts::params route;
    view<const X> x;                     // [tokens, hidden]
    float const* weight;                 // [outputs, hidden]
    float const* bias;                   // [outputs] or null
    view<float> logits;                  // [tokens, outputs]
    std::uint32_t* of_group;             // [groups of tokens] blocks that are done, 0 before and after
  };
  struct shared {
    typename parts::shared route;
    float sums[logits_tile::warps][token_tile * expert_tile];
  };

  MOESAIC_DEVICE void operator()(params const& p) const {
    auto& s = device::shared<shared>();
    device::griddepcontrol_launch_dependents();
    auto const first = static_cast<std::int64_t>(device::block_y()) * token_tile, tokens = p.x.rows;
    multiply(p, s, first);
    if (!parts::is_last(p.of_group + device::block_y(), device::grid_x(), s.route)) return;
    for (std::int64_t t = first + device::warp_id(); t < first + token_tile && t < tokens; t += parts::warps) parts::route_token(p.route, s.route, t);
    if (!p.route.batch && !p.route.planned) return;
    if (parts::is_last(p.route.arrived, device::grid_y(), s.route)) parts::finish(p.route, s.route);
  }

 private:
  MOESAIC_DEVICE static void multiply(params const& p, shared& s, std::int64_t first) {
    auto const hidden = p.x.columns, outputs = p.logits.columns;
    auto const output = static_cast<std::int64_t>(device::block_x()) * expert_tile;
    float sum[token_tile * expert_tile] = {};
    bool waited = false;
    for (std::int64_t k = static_cast<std::int64_t>(device::thread_id()) * inputs; k < hidden; k += static_cast<std::int64_t>(threads) * inputs) {
      float w[expert_tile][inputs];
      MOESAIC_UNROLL
      for (int j = 0; j < expert_tile; ++j)
        if (output + j < outputs) load_run<inputs>(p.weight + (output + j) * hidden, k, w[j]);
        else
          for (int i = 0; i < inputs; ++i) w[j][i] = 0.0f;
      if (!waited) device::griddepcontrol_wait(), waited = true;   // weights depend on no other launch, x does
      MOESAIC_UNROLL
      for (int t = 0; t < token_tile; ++t) {
        if (first + t >= p.x.rows) break;
        float x[inputs];
        load_run<inputs>(p.x.row(first + t), k, x);
        MOESAIC_UNROLL
        for (int j = 0; j < expert_tile; ++j)
          MOESAIC_UNROLL
          for (int i = 0; i < inputs; ++i) sum[t * expert_tile + j] = device::fma(x[i], w[j][i], sum[t * expert_tile + j]);
      }
    }
    if (!waited) device::griddepcontrol_wait();
    MOESAIC_UNROLL
    for (int i = 0; i < token_tile * expert_tile; ++i) {
      float const all = device::warp_sum(sum[i]);
      if (device::lane_id() == 0) s.sums[device::warp_id()][i] = all;
    }
    device::block_sync();
    int const mine = device::thread_id();
    if (mine < token_tile * expert_tile) {
      auto const t = first + mine / expert_tile, o = output + mine % expert_tile;
      if (t < p.x.rows && o < outputs) {
        float all = s.sums[0][mine];
        for (int w = 1; w < logits_tile::warps; ++w) all += s.sums[w][mine];
        p.logits(t, o) = p.bias != nullptr ? all + p.bias[o] : all;
      }
    }
  }
};

/// The plan alone, by one block: any number of tokens.
template <int Threads>
struct plan_choices {
  using planner = block_plan<Threads, 512>;
  static constexpr int threads = Threads;
  static constexpr rung needs = rung::simt;
  struct params {
    view<const std::int32_t> ids;
    dispatch_plan plan;
  };
  using shared = typename planner::scratch;

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    planner::make(p.ids, static_cast<int>(p.ids.columns), p.plan, device::shared<shared>());
  }
};

/// offsets = {0, tokens}: the plan of what every token uses.
struct plan_of_all {
  static constexpr int threads = 32;
  static constexpr rung needs = rung::simt;
  struct params {
    std::int32_t tokens;
    std::int32_t* offsets;
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();       // who reads the last plan is done
    if (device::thread_id() < 2) p.offsets[device::thread_id()] = device::thread_id() == 0 ? 0 : p.tokens;
  }
};

}  // namespace moesaic::cuda
