// Rows of float or bf16 through packed weights of any format, by plain loads and fused multiply-adds.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <moesaic/base/floats.hpp>
#include <moesaic/cuda/kernel/epilogue.hpp>
#include <moesaic/cuda/kernel/gemm.hpp>
#include <moesaic/cuda/kernel/weight.hpp>
#include <moesaic/cuda/launch.hpp>
#include <moesaic/cuda/tuning/gemm.hpp>

namespace moesaic::cuda {

/// Four inputs of a row of x, in one load where all rows lie so that it can be.
template <class X>
MOESAIC_DEVICE void read_inputs(X const* at, bool aligned, float (&x)[4]) {
  if (aligned) {
    struct alignas(4 * sizeof(X)) four {
      X of[4];
    };
    auto const all = *reinterpret_cast<four const*>(at);
    MOESAIC_UNROLL
    for (int i = 0; i < 4; ++i) x[i] = static_cast<float>(all.of[i]);
  } else {
    MOESAIC_UNROLL
    for (int i = 0; i < 4; ++i) x[i] = static_cast<float>(at[i]);
  }
}
template <class X, class Y>
MOESAIC_DEVICE bool rows_aligned(gemm_params<X, Y> const& p) {
  return reinterpret_cast<std::uintptr_t>(p.x) % (4 * sizeof(X)) == 0 && p.x_stride % 4 == 0;
}

/// Few slots: a block has 16 rows of weights, a warp four of them, and its lanes go along the inputs. A sum depends on nothing but its row and slot.
template <dtype W, class X, class Y>
struct gemm_simt_few {
  static constexpr int warps = simt_gemm.warps, threads = 32 * warps;
  static constexpr rung needs = rung::simt;
  static constexpr int rows = 16, slots = simt_gemm.few_slots, warp_rows = rows / warps, pitch = rows + 4;
  using params = gemm_params<X, Y>;
  struct shared {
    float sums[slots * pitch];
  };

  static constexpr std::int64_t blocks_for(std::int64_t slots_at_most, std::int64_t experts, std::int64_t weight_rows) {
    return tiles_at_most(slots_at_most, experts, slots) * packed::ceil_div(weight_rows, rows);
  }

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    auto& s = device::shared<shared>();
    int const row_tiles = (p.w.rows + rows - 1) / rows;
    auto const t = find_tile(p, device::block_x() / row_tiles, slots);
    if (t.expert < 0) return;
    int const block_row = device::block_x() % row_tiles * rows, first_row = block_row + device::warp_id() * warp_rows, count = t.last - t.first;
    auto const* const matrix = p.w.of(t.expert);
    bool const aligned = rows_aligned(p);
    X const* x[slots];
    MOESAIC_UNROLL
    for (int i = 0; i < slots; ++i) x[i] = p.row(t.first + (i < count ? i : 0));

    float sum[warp_rows][slots] = {};
    for (int k = device::lane_id() * 4; k < p.w.inputs; k += device::warp_size * 4) {
      float w[warp_rows][4] = {};
      MOESAIC_UNROLL
      for (int r = 0; r < warp_rows; ++r)
        if (first_row + r < p.w.rows) weights_at<W>(p.w, matrix, first_row + r, k, w[r]);
      MOESAIC_UNROLL
      for (int i = 0; i < slots; ++i) {
        if (i >= count) continue;
        float of_slot[4];
        read_inputs(x[i] + k, aligned, of_slot);
        MOESAIC_UNROLL
        for (int r = 0; r < warp_rows; ++r)
          MOESAIC_UNROLL
          for (int j = 0; j < 4; ++j) sum[r][i] = device::fma(w[r][j], of_slot[j], sum[r][i]);
      }
    }
    MOESAIC_UNROLL
    for (int i = 0; i < slots; ++i) {
      if (i >= count) continue;
      MOESAIC_UNROLL
      for (int r = 0; r < warp_rows; ++r) {
        float const all = device::warp_sum(sum[r][i]);
        if (device::lane_id() == 0) s.sums[i * pitch + device::warp_id() * warp_rows + r] = all;
      }
    }
    device::block_sync();
    finish_tile<rows, slots, 1, pitch, threads>(p, t, block_row, s.sums);
  }
};

/// Many slots: 64 rows × 64 slots a block, 4 × 4 a thread, 16 inputs at a time through shared memory. Every sum runs through the inputs in order.
template <dtype W, class X, class Y>
struct gemm_simt_many {
  static constexpr int tile = simt_gemm.tile, depth = simt_gemm.depth, threads = tile * tile / 16;
  static constexpr rung needs = rung::simt;
  static constexpr int across = tile / 4, pitch = tile + 4;
  static_assert(tile * depth == 4 * threads, "a thread brings four weights and four inputs of x");
  using params = gemm_params<X, Y>;
  struct ring {
    float weights[depth * pitch], x[depth * pitch];      // an input's rows side by side
  };
  union shared {
    ring inputs;
    float sums[tile * pitch];
  };

  static constexpr std::int64_t blocks_for(std::int64_t slots_at_most, std::int64_t experts, std::int64_t weight_rows) {
    return tiles_at_most(slots_at_most, experts, tile) * packed::ceil_div(weight_rows, tile);
  }

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    auto& s = device::shared<shared>();
    int const row_tiles = (p.w.rows + tile - 1) / tile;
    auto const t = find_tile(p, device::block_x() / row_tiles, tile);
    if (t.expert < 0) return;
    int const first_row = device::block_x() % row_tiles * tile;
    auto const* const matrix = p.w.of(t.expert);
    bool const aligned = rows_aligned(p);

    int const mine = device::thread_id() / (depth / 4), k_mine = device::thread_id() % (depth / 4) * 4;   // the row and slot that this thread brings
    bool const has_row = first_row + mine < p.w.rows, has_slot = t.first + mine < t.last;
    X const* const x = p.row(has_slot ? t.first + mine : t.first) + k_mine;
    int const row = device::thread_id() / across * 4, slot = device::thread_id() % across * 4;
    float sum[4][4] = {};
    for (int k = 0; k < p.w.inputs; k += depth) {          // inputs are a multiple of 16
      float w[4] = {}, of_slot[4] = {};
      if (has_row) weights_at<W>(p.w, matrix, first_row + mine, k + k_mine, w);
      if (has_slot) read_inputs(x + k, aligned, of_slot);
      device::block_sync();
      MOESAIC_UNROLL
      for (int i = 0; i < 4; ++i) {
        s.inputs.weights[(k_mine + i) * pitch + mine] = w[i];
        s.inputs.x[(k_mine + i) * pitch + mine] = of_slot[i];
      }
      device::block_sync();
      MOESAIC_UNROLL
      for (int i = 0; i < depth; ++i)
        MOESAIC_UNROLL
        for (int r = 0; r < 4; ++r)
          MOESAIC_UNROLL
          for (int c = 0; c < 4; ++c)
            sum[r][c] = device::fma(s.inputs.weights[i * pitch + row + r], s.inputs.x[i * pitch + slot + c], sum[r][c]);
    }
    device::block_sync();
    MOESAIC_UNROLL
    for (int r = 0; r < 4; ++r)
      MOESAIC_UNROLL
      for (int c = 0; c < 4; ++c) s.sums[(slot + c) * pitch + row + r] = sum[r][c];
    device::block_sync();
    finish_tile<tile, tile, 1, pitch, threads>(p, t, first_row, s.sums);
  }
};

}  // namespace moesaic::cuda
