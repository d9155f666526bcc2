// Which tile of a product a block takes next: found on the device from expert_offsets, so that grids depend on bounds alone.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/cuda/kernel/gemm.hpp>

namespace moesaic::cuda {

/// Slots [first, last) of one expert, and rows of its matrix from `row` on; expert −1: there is no such tile.
struct product_tile {
  int expert = -1;
  int first = 0, last = 0;
  int row = 0;

  MOESAIC_DEVICE explicit operator bool() const { return expert >= 0; }
};

/// Tiles of `Slots` slots × `Rows` rows of weights, expert by expert. Inside an expert, `band` tiles of slots go through all rows together: blocks at
/// work at one time then share slots and rows in L2. A warp's own: all its lanes make one and ask it, for ascending numbers.
template <int Slots, int Rows>
class tile_schedule {
 public:
  static constexpr int band = 8;

  template <class X, class Y>
  MOESAIC_DEVICE explicit tile_schedule(gemm_params<X, Y> const& p)
      : offsets_(p.offsets), experts_(p.offsets != nullptr ? p.w.count : 1), slots_(static_cast<int>(p.rows)), row_tiles_((p.w.rows + Rows - 1) / Rows) {
    look_at(0, 0);
  }

  MOESAIC_DEVICE product_tile find(int tile) {
    int const lane = device::lane_id();
    int source;
    while ((source = static_cast<int>(device::redux_min(device::all_lanes, static_cast<std::uint32_t>(tile < through_ ? lane : device::warp_size)))) ==
           device::warp_size) {
      if (window_ + device::warp_size >= experts_) return {};
      look_at(window_ + device::warp_size, device::shuffle(through_, device::warp_size - 1));
    }
    int const first = device::shuffle(first_, source), last = device::shuffle(last_, source);
    int const slot_tiles = (last - first + Slots - 1) / Slots;
    int const inside = tile - (device::shuffle(through_, source) - slot_tiles * row_tiles_);
    int const upper = inside / (band * row_tiles_) * band, here = inside - upper * row_tiles_;
    int const height = slot_tiles - upper < band ? slot_tiles - upper : band;
    int const begin = first + (upper + here % height) * Slots;
    return {window_ + source, begin, begin + Slots < last ? begin + Slots : last, here / height * Rows};
  }

 private:
  // Each lane counts the tiles through one expert of 32.
  MOESAIC_DEVICE void look_at(int window, int before) {
    int const e = window + device::lane_id();
    window_ = window;
    first_ = e < experts_ && offsets_ != nullptr ? offsets_[e] : 0;
    last_ = e >= experts_ ? 0 : offsets_ != nullptr ? offsets_[e + 1] : slots_;
    through_ = before + device::warp_inclusive_sum((last_ - first_ + Slots - 1) / Slots * row_tiles_);
  }

  std::int32_t const* offsets_;
  int experts_, slots_, row_tiles_;
  int window_ = 0, first_ = 0, last_ = 0, through_ = 0;
};

}  // namespace moesaic::cuda
