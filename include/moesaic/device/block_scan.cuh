// Exclusive sums over a block for nvcc: CUB's BlockScan in the scratch that collective.hpp gives it. Costs seconds of compile time, so it is apart from ptx.cuh.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cub/block/block_scan.cuh>

#include <moesaic/device/collective.hpp>

namespace moesaic::device {

template <int Threads>
MOESAIC_PRIMITIVE std::int32_t block_scan<Threads>::exclusive_sum(std::int32_t mine, std::int32_t& total, scratch& s) {
  using scan = cub::BlockScan<std::int32_t, Threads, cub::BLOCK_SCAN_WARP_SCANS>;
  static_assert(sizeof(typename scan::TempStorage) <= scratch_bytes, "block_scan's scratch_bytes must hold CUB's TempStorage");
  static_assert(alignof(typename scan::TempStorage) <= alignof(scratch), "block_scan's scratch must be aligned as CUB's TempStorage");
  std::int32_t below = 0;
  scan(reinterpret_cast<typename scan::TempStorage&>(s)).ExclusiveSum(mine, below, total);
  return below;
}

}  // namespace moesaic::device
