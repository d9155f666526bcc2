// Tiles of the matrix kernels simt and sm80: numbers only, and which of them a call gets.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/dtype.hpp>
#include <moesaic/cuda/tuning/tuning.hpp>

namespace moesaic::cuda {

/// A block's tile of weight rows × slots and how its warps share it. A stage of the ring holds 64 inputs for each of `warps_inputs` warps, which take
/// 64 each; their sums meet in shared memory at the end, in order.
struct gemm_tile {
  int rows = 0;             ///< of the weights: a multiple of 16 · warps_rows
  int slots = 0;            ///< a multiple of 8 · warps_slots
  int warps_rows = 1, warps_slots = 1, warps_inputs = 1;
  int stages = 3;
  int blocks = 1;           ///< of a multiprocessor
  int raster = 8;           ///< tiles of slots that share a tile of weights before the next one comes

  constexpr int warps() const { return warps_rows * warps_slots * warps_inputs; }
  constexpr int threads() const { return warps() * 32; }
  friend constexpr bool operator==(gemm_tile const&, gemm_tile const&) = default;
};

/// What sm80 multiplies without rounding a weight: codes that are exact in bf16.
constexpr bool sm80_multiplies(dtype w) {
  return w == dtype::bf16 || w == dtype::int8 || w == dtype::e4m3 || w == dtype::int4 || w == dtype::mxfp4;
}

/// How many slots a matrix has decides: few, some, many.
enum class gemm_load : std::uint8_t { few, some, many };
constexpr gemm_load gemm_load_of(std::int64_t slots_of_matrix) {
  return slots_of_matrix <= 8 ? gemm_load::few : slots_of_matrix <= 48 ? gemm_load::some : gemm_load::many;
}

/// Tiles of sm80. `few` streams weights: narrow tiles, many blocks, warps along the inputs. `many` reuses them: as large a tile as registers hold; with
/// scales that are two sets of sums, and 128 slots spill (ptxas for sm_80: 255 registers; with 96 about 210).
constexpr gemm_tile sm80_tile(dtype w, gemm_load load) {
  bool const scaled = has_scales(w);
  switch (load) {
    case gemm_load::few: return {.rows = 32, .slots = 8, .warps_inputs = 4, .stages = scaled ? 4 : 3, .blocks = 2, .raster = 1};
    case gemm_load::some: return {.rows = 64, .slots = 32, .warps_rows = 2, .warps_inputs = 2, .stages = 4, .blocks = 2, .raster = 1};
    case gemm_load::many: return {.rows = 128, .slots = scaled ? 96 : 128, .warps_rows = scaled ? 4 : 2, .warps_slots = scaled ? 2 : 4, .stages = 3};
  }
  return {};
}

/// Bytes of a stage: for each warp along the inputs weights, x, scales of two groups and zero points.
constexpr std::int64_t sm80_stage_bytes(dtype w, gemm_tile const& t) {
  std::int64_t const weights = t.rows * 64 * bits(w) / 8, x = t.slots * 128;
  std::int64_t const scales = !has_scales(w) ? 0 : t.rows * 2 * (w == dtype::mxfp4 ? 1 : 4);
  std::int64_t const zeros = w == dtype::int4 ? t.rows * 2 : 0;
  return t.warps_inputs * (weights + x + scales + zeros);
}
/// What a ring takes beyond: every slab begins at a multiple of 128.
constexpr std::int64_t sm80_padding(gemm_tile const& t) { return t.stages * t.warps_inputs * 128; }
/// Sums on their way out: a row of a slot's sums is 4 longer than the tile, so that a warp's stores meet no bank twice.
constexpr std::int64_t sm80_sum_bytes(gemm_tile const& t) { return std::int64_t{4} * t.warps_inputs * t.slots * (t.rows + 4); }
/// 32-bit registers of a thread that hold sums.
constexpr int sm80_sums(dtype w, gemm_tile const& t) {
  return t.rows / t.warps_rows * t.slots / t.warps_slots / 32 * (has_scales(w) ? 2 : 1);
}

/// Whether a tile keeps within an architecture.
constexpr bool sm80_fits(dtype w, gemm_tile const& t, architecture_limits const& limits) {
  auto const ring = t.stages * sm80_stage_bytes(w, t), sums = sm80_sum_bytes(t);
  auto const shared = (ring > sums ? ring : sums) + sm80_padding(t);
  return t.rows % (16 * t.warps_rows) == 0 && t.rows % 32 == 0 && t.slots % (8 * t.warps_slots) == 0 && t.stages >= 2 &&
         t.threads() <= limits.threads_of_block && shared <= limits.shared_bytes &&
         limits.registers / (t.threads() * t.blocks) >= sm80_sums(w, t) + 64;
}

/// simt: a block's warps go along the inputs of 16 rows and `few_slots` slots, or threads share a square tile.
struct simt_tuning {
  int warps = 4;
  int few_slots = 8;
  int tile = 64, depth = 16;     ///< of rows and of slots, 4 × 4 a thread; inputs in shared memory at a time
};
inline constexpr simt_tuning simt_gemm{};
/// Up to so many slots of a matrix the plain product of a few rows reads the weights no more often than a tile would.
constexpr bool simt_few(std::int64_t slots_of_matrix) { return slots_of_matrix <= 2 * simt_gemm.few_slots; }

}  // namespace moesaic::cuda
