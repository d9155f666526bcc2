// Expert ids of many tokens -> their plan and their counts, by CUB's device algorithms in the caller's memory. For nvcc, and apart, since CUB takes seconds
// to compile.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cub/device/device_histogram.cuh>
#include <cub/device/device_radix_sort.cuh>

#include <moesaic/base/arena.hpp>
#include <moesaic/cuda/kernel/plan.hpp>
#include <moesaic/cuda/kernel/rows.hpp>
#include <moesaic/cuda/launch.cuh>

namespace moesaic::cuda {

namespace large_plan_detail {

struct scratch {
  list<std::uint32_t> key, choice, sorted_key, sorted_choice;   // [tokens · slots]
  list<std::byte> sort;

  static scratch carve(arena& memory, std::int64_t choices, std::size_t sort_bytes) {
    auto const take = [&] { return memory.take<std::uint32_t>(choices); };
    return {take(), take(), take(), take(), memory.take<std::byte>(static_cast<std::int64_t>(sort_bytes))};
  }
};

/// Bits of a number up to `most`.
constexpr int bits_of(std::int64_t most) {
  int bits = 1;
  while (most >> bits != 0) ++bits;
  return bits;
}

/// Asked without memory it only tells how much it takes.
inline cudaError_t sort(scratch const& s, void* memory, std::size_t& bytes, std::int64_t experts, cudaStream_t stream) {
  return cub::DeviceRadixSort::SortPairs(memory, bytes, s.key.data, s.sorted_key.data, s.choice.data, s.sorted_choice.data, s.key.size, 0, bits_of(experts),
                                         stream);
}
inline cudaError_t count(void* memory, std::size_t& bytes, view<const std::int32_t> ids, list<std::int32_t> counts, cudaStream_t stream) {
  auto const experts = static_cast<int>(counts.size);
  return cub::DeviceHistogram::HistogramEven(memory, bytes, ids.data, counts.data, experts + 1, 0, experts, static_cast<int>(ids.columns),
                                             static_cast<int>(ids.rows), static_cast<std::size_t>(ids.stride) * sizeof(std::int32_t), stream);
}

}  // namespace large_plan_detail

/// Workspace of large_plan, in bytes. Asks CUB, which may look at the device: to be called at set-up.
inline std::size_t large_plan_bytes(stream& where, std::int64_t tokens, int slots, int experts) {
  using namespace large_plan_detail;
  arena counted;
  std::size_t sort_bytes = 0;
  where.record(status_of(sort(scratch::carve(counted, tokens * slots, 0), nullptr, sort_bytes, experts, nullptr)));
  scratch::carve(counted = {}, tokens * slots, sort_bytes);
  return counted.used() + arena::alignment;
}

/// As `plan`, by a radix sort of all choices, which is stable: three launches and more, and faster beyond some thousand tokens.
/// Errors: a workspace that is too small.
inline void large_plan(stream& where, view<const std::int32_t> ids, dispatch_plan const& out, list<std::byte> workspace) {
  using namespace large_plan_detail;
  auto const choices = ids.rows * ids.columns, experts = out.expert_offsets.size - 1;
  arena counted, from(workspace.data, static_cast<std::size_t>(workspace.size));
  std::size_t sort_bytes = 0;
  if (!where.failed) return;
  where.record(status_of(sort(scratch::carve(counted, choices, 0), nullptr, sort_bytes, experts, handle_of(where))));
  auto const s = scratch::carve(from, choices, sort_bytes);
  if (!from.fits())
    where.record({status_code::workspace_too_small, "the workspace must have large_plan_bytes of this call", static_cast<std::int64_t>(from.used()), workspace.size});
  if (!where.failed) return;
  constexpr int threads = list_choices::threads;
  start<list_choices>(where, {.x = blocks_for(choices, threads), .early = true}, {ids, static_cast<std::uint32_t>(experts), s.key.data, s.choice.data});
  if (choices > 0) where.record(status_of(sort(s, s.sort.data, sort_bytes, experts, handle_of(where))));
  start<place_choices>(where, {.x = blocks_for(choices + 1, threads), .early = true}, {s.sorted_key.data, s.sorted_choice.data, out});
}

/// Workspace of count_choices, in bytes.
inline std::size_t count_choices_bytes(stream& where, std::int64_t tokens, int slots, int experts) {
  std::size_t bytes = 0;
  where.record(status_of(large_plan_detail::count(nullptr, bytes, {nullptr, tokens, slots}, {nullptr, experts}, nullptr)));
  return bytes;
}

/// counts[e] = choices of expert e; ids [tokens, slots], −1 = unused. For monitors and balance: counts as of `moesaic::choices`.
inline void count_choices(stream& where, view<const std::int32_t> ids, list<std::int32_t> counts, list<std::byte> workspace) {
  std::size_t needed = 0;
  if (!where.failed) return;
  where.record(status_of(large_plan_detail::count(nullptr, needed, ids, counts, handle_of(where))));
  if (static_cast<std::size_t>(workspace.size) < needed)
    where.record({status_code::workspace_too_small, "the workspace must have count_choices_bytes of this call", static_cast<std::int64_t>(needed), workspace.size});
  if (!where.failed) return;
  where.record(status_of(large_plan_detail::count(workspace.data, needed, ids, counts, handle_of(where))));
}

}  // namespace moesaic::cuda
