// Sums, maxima, scans and ranks over a warp or a block, in one fixed order of summation.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <moesaic/device/thread.hpp>

namespace moesaic::device {

/// Σ over the warp, in every lane: a butterfly, so that all lanes hold the same bits.
template <class T>
MOESAIC_DEVICE T warp_sum(T mine) {
  for (int mask = warp_size / 2; mask > 0; mask /= 2) mine += shuffle_xor(mine, mask);
  return mine;
}
/// The largest over the warp, in every lane; a NaN loses to what it is compared with.
template <class T>
MOESAIC_DEVICE T warp_max(T mine) {
  for (int mask = warp_size / 2; mask > 0; mask /= 2) {
    T const other = shuffle_xor(mine, mask);
    mine = other > mine ? other : mine;
  }
  return mine;
}
/// Σ over this lane and those below.
template <class T>
MOESAIC_DEVICE T warp_inclusive_sum(T mine) {
  for (int distance = 1; distance < warp_size; distance *= 2) {
    T const below = shuffle_up(mine, distance);
    if (lane_id() >= distance) mine += below;
  }
  return mine;
}

/// Over a block of `Threads` threads, a multiple of 32: a word a warp in shared memory. Every thread calls; every thread gets the result. The scratch
/// may be used again after a block_sync.
template <class T, int Threads>
struct block_reduce {
  static_assert(Threads % warp_size == 0 && Threads <= 1024, "a block is whole warps, at most 32 of them");
  static constexpr int warps = Threads / warp_size;
  struct scratch {
    T of_warp[warps];
  };

  MOESAIC_DEVICE static T sum(T mine, scratch& s) {
    return meet(warp_sum(mine), s, [](T a, T b) { return a + b; });
  }
  MOESAIC_DEVICE static T max(T mine, scratch& s) {
    return meet(warp_max(mine), s, [](T a, T b) { return b > a ? b : a; });
  }

 private:
  template <class Join>
  MOESAIC_DEVICE static T meet(T of_mine, scratch& s, Join join) {
    if constexpr (warps == 1) return of_mine;
    if (lane_id() == 0) s.of_warp[warp_id()] = of_mine;
    block_sync();
    T all = s.of_warp[0];
    for (int w = 1; w < warps; ++w) all = join(all, s.of_warp[w]);
    return all;
  }
};

/// Exclusive sums of integers over a block, and the total: CUB's BlockScan under nvcc (device/block_scan.cuh), shuffles on a model.
template <int Threads>
struct block_scan {
  static constexpr int scratch_bytes = Threads / warp_size * 8 + 64;   ///< holds CUB's TempStorage: device/block_scan.cuh asserts it
  struct scratch {
    alignas(16) std::byte bytes[scratch_bytes];
  };
  /// Σ of the threads below; `total` is Σ of all. The scratch may be used again after a block_sync.
  MOESAIC_PRIMITIVE static std::int32_t exclusive_sum(std::int32_t mine, std::int32_t& total, scratch& s);
};

}  // namespace moesaic::device
