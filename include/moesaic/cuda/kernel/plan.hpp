// Expert ids [tokens, slots] -> runs of slots, one an expert, tokens ascending: a counting sort by one block, without an atomic.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/bits.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/cuda/tuning/tuning.hpp>
#include <moesaic/device/device.hpp>
#include <moesaic/route/plan.hpp>

#if defined(__CUDACC__)
#include <moesaic/device/block_scan.cuh>
#endif

namespace moesaic::cuda {

/// As moesaic::make_plan, by a block of `Threads` threads, for any number of experts, `Capacity` a pass, and of choices below 2³¹, as slots are.
/// Every warp has a run of the choices and counts its experts. Sums over lower experts and lower warps say where its choices go; inside the warp they go by
/// rounds of 32, and by lane.
template <int Threads, int Capacity>
struct block_plan {
  static constexpr int warps = Threads / device::warp_size;
  struct scratch {
    std::int32_t next[warps][Capacity];                    // the slot of a warp's next choice of each expert; before the sums, a count
    typename device::block_scan<Threads>::scratch scan;
  };

  /// ids [tokens, columns ..]
  MOESAIC_DEVICE static void make(view<const std::int32_t> const& ids, int columns, dispatch_plan const& plan, scratch& s) {
    auto const experts = static_cast<int>(plan.expert_offsets.size - 1);
    share const mine(static_cast<std::int32_t>(ids.rows) * columns);
    int slots = 0;                                         // of the experts of the passes before
    for (int first = 0; first < experts; first += Capacity) {
      int const width = experts - first < Capacity ? experts - first : Capacity;
      auto* const next = s.next[device::warp_id()];
      for (int e = device::lane_id(); e < width && mine.begin < mine.end; e += device::warp_size) next[e] = 0;
      device::warp_sync();
      each_round(ids, columns, mine, [&](int e, std::int32_t, int, bool) {
        round const r(e, first, width);
        if (r.leads()) next[r.expert] += r.together();
        device::warp_sync();                               // another lane may lead the next round
      });
      device::block_sync();
      slots = sum(s, mine.busy, first, width, slots, plan);
      each_round(ids, columns, mine, [&](int e, std::int32_t token, int slot, bool inside) {
        round const r(e, first, width);
        int start = r.leads() ? next[r.expert] : 0;
        if (r.leads()) next[r.expert] = start + r.together();
        start = device::shuffle(start, r.leader());
        if (r.counts()) {
          plan.slot_of_choice(token, slot) = start + r.below();
          plan.token_of_slot[start + r.below()] = token;
        } else if (inside && e < 0 && first == 0) {
          plan.slot_of_choice(token, slot) = -1;
        }
        device::warp_sync();
      });
      device::block_sync();
    }
    if (device::thread_id() == 0) plan.expert_offsets[experts] = slots;
  }

 private:
  /// The choices of this warp, in whole rounds.
  struct share {
    int busy, begin, end;                                  // warps that have any

    MOESAIC_DEVICE explicit share(int choices) {
      int const rounds = (choices + device::warp_size - 1) / device::warp_size, each = (rounds + warps - 1) / warps;
      busy = each > 0 ? (rounds + each - 1) / each : 0;
      begin = device::warp_id() * each * device::warp_size;
      end = begin + each * device::warp_size < choices ? begin + each * device::warp_size : choices;
    }
  };

  /// f(expert or −1, token, slot, whether it is a choice), a choice a lane; loads run ahead.
  template <class F>
  MOESAIC_DEVICE static void each_round(view<const std::int32_t> const& ids, int columns, share const& mine, F&& f) {
    constexpr int ahead = 8;
    auto const width = static_cast<std::uint32_t>(columns);
    for (int at = mine.begin; at < mine.end; at += ahead * device::warp_size) {
      int e[ahead];
      MOESAIC_UNROLL
      for (int i = 0; i < ahead; ++i) {
        int const choice = at + i * device::warp_size + device::lane_id();
        auto const row = static_cast<std::uint32_t>(choice) / width;
        e[i] = choice < mine.end ? ids(row, static_cast<std::uint32_t>(choice) - row * width) : -1;
      }
      MOESAIC_UNROLL
      for (int i = 0; i < ahead; ++i) {
        if (at + i * device::warp_size >= mine.end) break;
        int const choice = at + i * device::warp_size + device::lane_id();
        auto const row = static_cast<std::uint32_t>(choice) / width;
        f(e[i], static_cast<std::int32_t>(row), static_cast<int>(static_cast<std::uint32_t>(choice) - row * width), choice < mine.end);
      }
    }
  }

  /// Lanes that chose the same expert.
  struct round {
    int expert = -1;                                       // of this pass, else −1
    std::uint32_t same;

    MOESAIC_DEVICE round(int e, int first, int width) {
      if (e >= first && e - first < width) expert = e - first;
      same = device::match_any(device::all_lanes, static_cast<std::uint32_t>(expert));
    }
    MOESAIC_DEVICE bool counts() const { return expert >= 0; }
    MOESAIC_DEVICE int below() const { return count_ones(same & ((1u << device::lane_id()) - 1)); }
    MOESAIC_DEVICE bool leads() const { return counts() && below() == 0; }
    MOESAIC_DEVICE int together() const { return count_ones(same); }
    MOESAIC_DEVICE int leader() const { return count_ones((same & (~same + 1)) - 1); }
  };

  // Counts become first slots, of experts `first` .. and each busy warp. Answers the slots after them.
  MOESAIC_DEVICE static int sum(scratch& s, int busy, int first, int width, int slots, dispatch_plan const& plan) {
    for (int from = 0; from < width; from += Threads) {
      int const e = from + device::thread_id();
      int of_expert = 0, of_all = 0;
      if (e < width)
        for (int w = 0; w < busy; ++w) {
          int const count = s.next[w][e];
          s.next[w][e] = of_expert;
          of_expert += count;
        }
      int const start = slots + device::block_scan<Threads>::exclusive_sum(of_expert, of_all, s.scan);
      if (e < width) {
        plan.expert_offsets[first + e] = start;
        for (int w = 0; w < busy; ++w) s.next[w][e] += start;
      }
      slots += of_all;
      device::block_sync();                                // first slots are there, the scan's scratch is free
    }
    return slots;
  }
};

// Of many tokens the sort is a device algorithm's (cuda/large_plan.cuh); what goes in, and what becomes of it:

/// ids -> a key and a number a choice; of unused ones the key is `experts`, which sorts last.
struct list_choices {
  static constexpr int threads = 256;
  static constexpr rung needs = rung::simt;
  struct params {
    view<const std::int32_t> ids;
    std::uint32_t experts;
    std::uint32_t* key;                  // [tokens · slots]
    std::uint32_t* choice;
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    auto const all = p.ids.rows * p.ids.columns;
    for (auto i = static_cast<std::int64_t>(device::block_x()) * threads + device::thread_id(); i < all; i += static_cast<std::int64_t>(device::grid_x()) * threads) {
      auto const e = p.ids(i / p.ids.columns, i % p.ids.columns);
      p.key[i] = e >= 0 ? static_cast<std::uint32_t>(e) : p.experts;
      p.choice[i] = static_cast<std::uint32_t>(i);
    }
  }
};

/// Choices by key, of one key by number -> the plan. The first of a run says where it begins, and that those without a run before it are empty.
struct place_choices {
  static constexpr int threads = 256;
  static constexpr rung needs = rung::simt;
  struct params {
    std::uint32_t const* key;            // [tokens · slots]
    std::uint32_t const* choice;
    dispatch_plan plan;
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    auto const columns = p.plan.slot_of_choice.columns, all = p.plan.slot_of_choice.rows * columns, experts = p.plan.expert_offsets.size - 1;
    for (auto s = static_cast<std::int64_t>(device::block_x()) * threads + device::thread_id(); s <= all; s += static_cast<std::int64_t>(device::grid_x()) * threads) {
      auto const expert = s < all ? static_cast<std::int64_t>(p.key[s]) : experts, before = s > 0 ? static_cast<std::int64_t>(p.key[s - 1]) : -1;
      for (auto e = before + 1; e <= expert; ++e) p.plan.expert_offsets[e] = static_cast<std::int32_t>(s);
      if (s == all) continue;
      auto const choice = static_cast<std::int64_t>(p.choice[s]), token = choice / columns;
      bool const used = expert < experts;
      p.plan.slot_of_choice(token, choice - token * columns) = used ? static_cast<std::int32_t>(s) : -1;
      if (used) p.plan.token_of_slot[s] = static_cast<std::int32_t>(token);
    }
  }
};

}  // namespace moesaic::cuda
