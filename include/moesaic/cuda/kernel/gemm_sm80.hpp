// Rows of bf16 through packed weights by mma.sync: a ring of cp.async stages, weights as the operand of 16 rows, slots as the columns.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <moesaic/base/floats.hpp>
#include <moesaic/cuda/kernel/dequantize.hpp>
#include <moesaic/cuda/kernel/epilogue.hpp>
#include <moesaic/cuda/kernel/gemm.hpp>
#include <moesaic/cuda/launch.hpp>
#include <moesaic/cuda/tuning/gemm.hpp>

namespace moesaic::cuda {

/// Weights of type W, `GroupSteps` steps of 16 inputs to a scale: 2 for groups of 32, 4 for multiples of 64 and whole rows; unused without scales.
/// Codes become bf16 in registers, exactly; sums of a group are multiplied by its scale in float. Grid: x = blocks(...).
///
/// Gate and up rows are interleaved by eight, so that a thread's sums of rows g and g + 8 belong to one output; int4 and mxfp4 lie in global memory as
/// registers of this operand. So weights take the side of 16 rows for any number of slots, and few slots cost columns of 8.
template <dtype W, class Y, gemm_tile Tile, int GroupSteps = 4>
struct gemm_sm80 {
  static_assert(sm80_multiplies(W) && (GroupSteps == 2 || GroupSteps == 4));
  static constexpr int threads = Tile.threads();
  static constexpr rung needs = rung::sm80;
  static constexpr int blocks = Tile.blocks;
  using params = gemm_params<bf16, Y>;

  static constexpr int slab = 64;                                        // inputs of a stage for one warp along the inputs
  static constexpr int slab_steps = slab / 16;
  static constexpr int rows = Tile.rows, slots = Tile.slots;
  static constexpr bool scaled = has_scales(W);
  static constexpr int groups = scaled ? slab_steps / GroupSteps : 1;    // of a slab
  static constexpr int scale_bytes = W == dtype::mxfp4 ? 1 : 4;
  static constexpr int row_tiles16 = rows / Tile.warps_rows / 16, slot_tiles8 = slots / Tile.warps_slots / 8;   // of a warp
  static constexpr int pitch = rows + 4;                                 // of a slot's sums: a warp's stores meet every bank once

  struct slab_data {
    alignas(128) std::byte weights[rows * slab * bits(W) / 8];
    alignas(128) std::byte x[slots * slab * 2];
    alignas(16) std::byte scales[scaled ? groups * rows * scale_bytes : 16];
    alignas(16) std::byte zeros[W == dtype::int4 ? groups * rows : 16];
  };
  struct stage {
    slab_data of[Tile.warps_inputs];
  };
  union shared {
    stage ring[Tile.stages];
    float sums[Tile.warps_inputs * slots * pitch];
  };
  static_assert(sizeof(shared) <= (Tile.stages * sm80_stage_bytes(W, Tile) > sm80_sum_bytes(Tile) ? Tile.stages * sm80_stage_bytes(W, Tile) : sm80_sum_bytes(Tile)) +
                                      sm80_padding(Tile),
                "the tuning counts the bytes that the kernel takes");

  static constexpr std::int64_t blocks_for(std::int64_t slots_at_most, std::int64_t experts, std::int64_t weight_rows) {
    auto const tiles = tiles_at_most(slots_at_most, experts, slots);
    return packed::ceil_div(tiles, Tile.raster) * Tile.raster * packed::ceil_div(weight_rows, rows);
  }

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    // Blocks in order: `raster` tiles of slots with one tile of weights, then the same slots with the next.
    int const row_tiles = (p.w.rows + rows - 1) / rows;
    int const set = device::block_x() / (Tile.raster * row_tiles), in_set = device::block_x() % (Tile.raster * row_tiles);
    auto const t = find_tile(p, set * Tile.raster + in_set % Tile.raster, slots);
    if (t.expert < 0) return;
    multiply(p, t, in_set / Tile.raster * rows);
  }

 private:
  // Chunks of 16 bytes of a row of a slab lie permuted, so that neither eight rows of ldmatrix nor the pairs of chunks that four rows of x are read by
  // meet a bank twice.
  MOESAIC_DEVICE static int chunk128(int row, int chunk) { return chunk ^ ((row & 3) << 1 | (row >> 2 & 1)); }
  MOESAIC_DEVICE static int chunk64(int row, int chunk) { return chunk ^ (row >> 1 & 3); }

  template <int Copies, class F>
  MOESAIC_DEVICE static void each(F f) {
    constexpr int turns = (Copies + threads - 1) / threads;
    MOESAIC_UNROLL
    for (int j = 0; j < turns; ++j) {
      int const i = j * threads + device::thread_id();
      if (Copies % threads == 0 || i < Copies) f(j, i);
    }
  }

  // What a thread copies into a stage, turn by turn: its rows of x, −1 beyond the tile. Numbers: pointers would be twice the registers.
  static constexpr int x_copies = slots * 8 * Tile.warps_inputs;
  struct x_rows {
    std::int32_t row[(x_copies + threads - 1) / threads];
  };
  MOESAIC_DEVICE static x_rows rows_of(params const& p, slot_tile const& t) {
    x_rows from;
    each<x_copies>([&](int j, int i) {
      int const slot = t.first + i / 8 % slots;
      from.row[j] = slot >= t.last ? -1 : p.token_of_slot != nullptr ? p.token_of_slot[slot] : slot;
    });
    return from;
  }

  MOESAIC_DEVICE static void load_x(params const& p, x_rows const& from, int k0, stage& to) {
    each<x_copies>([&](int j, int i) {
      int const chunk = i % 8, row = i / 8 % slots, warp = i / (8 * slots);
      int const k = k0 + warp * slab + chunk * 8;
      bool const inside = from.row[j] >= 0 && k < p.w.inputs;
      device::cp_async<16>(to.of[warp].x + row * 128 + chunk128(row, chunk) * 16, inside ? p.x + from.row[j] * p.x_stride + k : p.x, inside ? 16 : 0);
    });
  }

  MOESAIC_DEVICE static void load_weights(params const& p, std::byte const* matrix, int first_row, int k0, stage& to) {
    if constexpr (layout::in_stripes(W)) {
      int const steps = p.w.inputs / 16;
      each<rows / 16 * 32 * Tile.warps_inputs>([&](int, int i) {
        int const chunk = i % 32, stripe = i / 32 % (rows / 16), warp = i / (2 * rows);
        int const step = k0 / 16 + warp * slab_steps, row = first_row + stripe * 16;
        int const together = steps - step < slab_steps ? steps - step : slab_steps;
        bool const inside = row < p.w.rows && chunk < together * 8;
        auto const at = (static_cast<std::int64_t>(row / 16) * steps + step) * 128 + chunk * 16;
        device::cp_async<16>(to.of[warp].weights + stripe * 512 + chunk * 16, inside ? matrix + at : matrix, inside ? 16 : 0);
      });
    } else {
      constexpr int chunks = slab * bits(W) / 128, width = 128 / bits(W);
      each<rows * chunks * Tile.warps_inputs>([&](int, int i) {
        int const chunk = i % chunks, row = i / chunks % rows, warp = i / (chunks * rows);
        int const k = k0 + warp * slab + chunk * width;
        bool const inside = first_row + row < p.w.rows && k < p.w.inputs;
        auto const at = (static_cast<std::int64_t>(first_row + row) * p.w.inputs + k) * (bits(W) / 8);
        int const place = W == dtype::bf16 ? chunk128(row, chunk) : chunk64(row, chunk);
        device::cp_async<16>(to.of[warp].weights + (row * chunks + place) * 16, inside ? matrix + at : matrix, inside ? 16 : 0);
      });
    }
  }

  // A warp's group number `g` of a slab that begins at input k, among all of a row's.
  MOESAIC_DEVICE static int group_of(params const& p, int k, int g) { return GroupSteps == 2 ? k / 32 + g : k / p.w.group; }

  // Rows that share scales of blocks: each gets a copy of its block's, found once.
  static constexpr int block_copies = groups * rows * Tile.warps_inputs;
  struct row_blocks {
    int of[W == dtype::e4m3 ? (block_copies + threads - 1) / threads : 1];
    int of_group;
  };
  MOESAIC_DEVICE static row_blocks blocks_of(params const& p, int first_row) {
    row_blocks b{};
    if constexpr (W == dtype::e4m3) {
      int const along = (p.w.outputs + p.w.group - 1) / p.w.group;
      b.of_group = p.w.parts * along;
      each<block_copies>([&](int j, int i) {
        int const row = first_row + i % rows;
        b.of[j] = row < p.w.rows ? layout::part_of(p.w.parts, row) * along + static_cast<int>(layout::output_of(p.w.parts, row)) / p.w.group : -1;
      });
    }
    return b;
  }

  MOESAIC_DEVICE static void load_scales(params const& p, std::byte const* matrix, row_blocks const& b, int first_row, int k0, stage& to) {
    auto const* const scales = matrix + p.w.scales_at;
    if constexpr (W == dtype::e4m3) {
      each<block_copies>([&](int j, int i) {
        int const row = i % rows, g = i / rows % groups, warp = i / (rows * groups);
        int const k = k0 + warp * slab;
        bool const inside = b.of[j] >= 0 && k + g * GroupSteps * 16 < p.w.inputs;
        auto const at = inside ? group_of(p, k, g) * b.of_group + b.of[j] : 0;
        device::cp_async<4>(to.of[warp].scales + (g * rows + row) * 4, scales + std::int64_t{4} * at, inside ? 4 : 0);
      });
    } else if constexpr (scaled) {
      auto const copy = [&](int i, int bytes_of_row, std::byte const* from, int warp, std::byte* into) {
        int const chunk = i % (rows * bytes_of_row / 16), g = i / (rows * bytes_of_row / 16) % groups;
        int const k = k0 + warp * slab, row = first_row + chunk * 16 / bytes_of_row;
        bool const inside = row < p.w.rows && k + g * GroupSteps * 16 < p.w.inputs;
        auto const at = inside ? static_cast<std::int64_t>(group_of(p, k, g)) * p.w.rows + row : 0;
        device::cp_async<16>(into + g * rows * bytes_of_row + chunk * 16, from + at * bytes_of_row, inside ? 16 : 0);
      };
      constexpr int chunks = groups * rows * scale_bytes / 16, zero_chunks = groups * rows / 16;
      each<chunks * Tile.warps_inputs>([&](int, int i) { copy(i % chunks, scale_bytes, scales, i / chunks, to.of[i / chunks].scales); });
      if constexpr (W == dtype::int4)
        if (p.w.zero_point)
          each<zero_chunks * Tile.warps_inputs>([&](int, int i) {
            copy(i % zero_chunks, 1, matrix + p.w.zeros_at, i / zero_chunks, to.of[i / zero_chunks].zeros);
          });
    }
  }

  using sums = float[row_tiles16][slot_tiles8][4];

  // Operand b of step `step`: slots as columns, two registers each.
  MOESAIC_DEVICE static void load_b(slab_data const& from, int first_slot, int step, std::uint32_t (&b)[slot_tiles8][2]) {
    int const lane = device::lane_id();
    if constexpr (bits(W) == 8) {
      // Bytes of weights come four inputs to a register; the same four of x are 8 bytes.
      struct alignas(8) words2 {
        std::uint32_t word[2];
      };
      MOESAIC_UNROLL
      for (int j = 0; j < slot_tiles8; ++j) {
        int const slot = first_slot + j * 8 + lane / 4, chunk = step * 2 + lane % 4 / 2;
        auto const two = *reinterpret_cast<words2 const*>(from.x + slot * 128 + chunk128(slot, chunk) * 16 + lane % 2 * 8);
        b[j][0] = two.word[0];
        b[j][1] = two.word[1];
      }
    } else if constexpr (slot_tiles8 == 1) {
      int const slot = first_slot + lane % 8, chunk = step * 2 + lane / 8 % 2;
      device::ldmatrix<2>(b[0], from.x + slot * 128 + chunk128(slot, chunk) * 16);
    } else {
      static_assert(slot_tiles8 % 2 == 0, "two tiles of slots are loaded at once");
      MOESAIC_UNROLL
      for (int j = 0; j < slot_tiles8; j += 2) {
        int const slot = first_slot + j * 8 + lane / 16 * 8 + lane % 8, chunk = step * 2 + lane / 8 % 2;
        std::uint32_t four[4];
        device::ldmatrix<4>(four, from.x + slot * 128 + chunk128(slot, chunk) * 16);
        b[j][0] = four[0], b[j][1] = four[1], b[j + 1][0] = four[2], b[j + 1][1] = four[3];
      }
    }
  }

  // What a warp keeps of the weights of a slab: words of stripes, or the bytes of two steps, per tile of 16 rows.
  struct codes {
    std::uint32_t word[row_tiles16][4];
  };
  MOESAIC_DEVICE static void load_stripes(slab_data const& from, int first_row, int together, codes& c) {
    int const lane = device::lane_id();
    MOESAIC_UNROLL
    for (int i = 0; i < row_tiles16; ++i) {
      auto const* const stripe = from.weights + (first_row / 16 + i) * 512;
      if (together == slab_steps) {
        auto const four = reinterpret_cast<device::words4 const*>(stripe)[lane];
        MOESAIC_UNROLL
        for (int step = 0; step < slab_steps; ++step) c.word[i][step] = four.word[step];
      } else {
        MOESAIC_UNROLL
        for (int step = 0; step < slab_steps; ++step)
          c.word[i][step] = step < together ? reinterpret_cast<std::uint32_t const*>(stripe)[lane * together + step] : 0;
      }
    }
  }
  MOESAIC_DEVICE static void load_bytes(slab_data const& from, int first_row, int step, codes& c) {
    int const lane = device::lane_id();
    MOESAIC_UNROLL
    for (int i = 0; i < row_tiles16; ++i) {
      int const row = first_row + i * 16 + lane % 16, chunk = step + lane / 16;
      device::ldmatrix<4>(c.word[i], from.weights + row * 64 + chunk64(row, chunk) * 16);
    }
  }
  // Operand a of a step, for tile i of 16 rows.
  MOESAIC_DEVICE static void load_a(slab_data const& from, int first_row, int i, int step, codes const& c, std::uint32_t const (&offset)[2],
                                    std::uint32_t (&a)[4]) {
    if constexpr (layout::in_stripes(W)) {
      MOESAIC_UNROLL
      for (int r = 0; r < 4; ++r) a[r] = bf16x2_of_nibbles<W>(c.word[i][step], r, offset[r % 2]);
    } else if constexpr (bits(W) == 8) {
      a[0] = bf16x2_of_bytes<W, 0>(c.word[i][step % 2 * 2]);
      a[1] = bf16x2_of_bytes<W, 0>(c.word[i][step % 2 * 2 + 1]);
      a[2] = bf16x2_of_bytes<W, 2>(c.word[i][step % 2 * 2]);
      a[3] = bf16x2_of_bytes<W, 2>(c.word[i][step % 2 * 2 + 1]);
    } else {
      int const lane = device::lane_id(), row = first_row + i * 16 + lane % 16, chunk = step * 2 + lane / 16;
      device::ldmatrix<4>(a, from.weights + row * 128 + chunk128(row, chunk) * 16);
    }
  }

  MOESAIC_DEVICE static float scale_at(slab_data const& from, int g, int row) {
    if constexpr (W == dtype::mxfp4) return e8m0::from_bits(static_cast<std::uint8_t>(from.scales[g * rows + row]));
    else return reinterpret_cast<float const*>(from.scales)[g * rows + row];
  }

  // A warp's sums of a slab that begins at input k.
  MOESAIC_DEVICE static void multiply_slab(params const& p, slab_data const& from, int first_row, int first_slot, int k, sums& all) {
    codes c{};
    if constexpr (layout::in_stripes(W)) load_stripes(from, first_row, p.w.inputs - k < slab ? (p.w.inputs - k) / 16 : slab_steps, c);
    MOESAIC_UNROLL
    for (int g = 0; g < groups; ++g) {
      sums of_group{};
      sums& into = scaled ? of_group : all;
      std::uint32_t offset[row_tiles16][2];
      MOESAIC_UNROLL
      for (int i = 0; i < row_tiles16; ++i)
        MOESAIC_UNROLL
        for (int half = 0; half < 2; ++half) {
          offset[i][half] = int4_offset;
          if (W == dtype::int4 && p.w.zero_point)
            offset[i][half] = int4_offset_of(static_cast<std::uint32_t>(from.zeros[g * rows + first_row + i * 16 + half * 8 + device::lane_id() / 4]));
        }
      MOESAIC_UNROLL
      for (int step = g * slab_steps / groups; step < (g + 1) * slab_steps / groups; ++step) {
        std::uint32_t b[slot_tiles8][2];
        load_b(from, first_slot, step, b);
        if constexpr (bits(W) == 8)
          if (step % 2 == 0) load_bytes(from, first_row, step, c);
        MOESAIC_UNROLL
        for (int i = 0; i < row_tiles16; ++i) {
          std::uint32_t a[4];
          load_a(from, first_row, i, step, c, offset[i], a);
          MOESAIC_UNROLL
          for (int j = 0; j < slot_tiles8; ++j) device::mma_sync<dtype::bf16>(into[i][j], a, b[j]);
        }
      }
      if constexpr (scaled) {
        MOESAIC_UNROLL
        for (int i = 0; i < row_tiles16; ++i) {
          int const row = first_row + i * 16 + device::lane_id() / 4;
          float const scale[2] = {scale_at(from, g, row), scale_at(from, g, row + 8)};
          MOESAIC_UNROLL
          for (int j = 0; j < slot_tiles8; ++j)
            MOESAIC_UNROLL
            for (int n = 0; n < 4; ++n) all[i][j][n] = device::fma(of_group[i][j][n], scale[n / 2], all[i][j][n]);
        }
      }
    }
  }

  MOESAIC_DEVICE static void multiply(params const& p, slot_tile const& t, int first_row) {
    auto& s = device::shared<shared>();
    constexpr int inputs_of_stage = slab * Tile.warps_inputs;
    auto const* const matrix = p.w.of(t.expert);
    auto const from = rows_of(p, t);
    auto const scale_blocks = blocks_of(p, first_row);
    int const stages = (p.w.inputs + inputs_of_stage - 1) / inputs_of_stage;
    auto const load = [&](int n) {
      if (n < stages) {
        auto& to = s.ring[n % Tile.stages];
        load_weights(p, matrix, first_row, n * inputs_of_stage, to);
        load_x(p, from, n * inputs_of_stage, to);
        load_scales(p, matrix, scale_blocks, first_row, n * inputs_of_stage, to);
      }
      device::cp_async_commit_group();             // an empty one at the end, so that counting groups counts stages
    };

    int const warp = device::warp_id();
    int const warp_row = warp % Tile.warps_rows * (rows / Tile.warps_rows);
    int const warp_slot = warp / Tile.warps_rows % Tile.warps_slots * (slots / Tile.warps_slots);
    int const warp_input = warp / (Tile.warps_rows * Tile.warps_slots);
    sums all{};
    for (int n = 1 - Tile.stages; n < stages; ++n) {       // from before the first, so that the code of loads is there once
      if (n >= 0) {
        device::cp_async_wait_group<Tile.stages - 2>();
        device::block_sync();                      // stage n is there for all, and all are done with the one that is loaded next
      }
      load(n + Tile.stages - 1);
      if (n < 0) continue;
      int const k = n * inputs_of_stage + warp_input * slab;
      if (k < p.w.inputs) multiply_slab(p, s.ring[n % Tile.stages].of[warp_input], warp_row, warp_slot, k, all);
    }
    device::cp_async_wait_group<0>();
    device::block_sync();

    int const lane = device::lane_id();
    MOESAIC_UNROLL
    for (int i = 0; i < row_tiles16; ++i)
      MOESAIC_UNROLL
      for (int j = 0; j < slot_tiles8; ++j)
        MOESAIC_UNROLL
        for (int n = 0; n < 4; ++n) {
          int const row = warp_row + i * 16 + n / 2 * 8 + lane / 4, slot = warp_slot + j * 8 + lane % 4 * 2 + n % 2;
          s.sums[(warp_input * slots + slot) * pitch + row] = all[i][j][n];
        }
    device::block_sync();
    finish_tile<rows, slots, Tile.warps_inputs, pitch, threads>(p, t, first_row, s.sums);
  }
};

}  // namespace moesaic::cuda
