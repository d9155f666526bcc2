// A matrix product by cp.async, ldmatrix and mma.sync: how a kernel for sm_80 is written, and what goes wrong when one line of it is.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/floats.hpp>
#include <moesaic/cuda/launch.hpp>

namespace moesaic::planted {

/// One mistake in multistage_gemm.
enum class multistage_bug : std::uint8_t {
  none,
  no_wait,                               ///< copies are not waited for
  lax_wait,                              ///< one stage too few is waited for
  no_block_sync,                         ///< threads do not wait for each other's copies, nor for readers of the stage that is copied to next
  wrong_fragment,                        ///< registers of operand a in a wrong order
  wrong_swizzle,                         ///< operand a is read as if its chunks were not permuted
  unclamped_row,                         ///< rows behind the end of a are read
};

/// c [m, n] = a [m, k] · b [k, n], row-major, sums in fp32. n and k are multiples of 8. A block makes 64 × 64 of c, a warp 32 × 32.
template <multistage_bug Bug = multistage_bug::none>
struct multistage_gemm {
  static constexpr int threads = 128;
  static constexpr cuda::rung needs = cuda::rung::sm80;
  static constexpr int tile_m = 64, tile_n = 64, tile_k = 32, stages = 3;

  struct params {
    bf16 const* a;
    bf16 const* b;
    float* c;
    int m, n, k;
  };
  /// Chunks of 16 bytes, as cp.async moves them and ldmatrix reads them.
  struct alignas(16) chunk {
    bf16 element[8];
  };
  static constexpr int chunks_of_a = tile_k / 8, chunks_of_b = tile_n / 8;   // of a row
  struct shared {
    alignas(128) chunk a[stages][tile_m * chunks_of_a];
    chunk b[stages][tile_k * chunks_of_b];
  };

  // Where a chunk lies: permuted, so that the eight rows that ldmatrix reads at once are in different banks.
  MOESAIC_DEVICE static int place_in_a(int row, int chunk) { return row * chunks_of_a + (chunk ^ (row / 2 % chunks_of_a)); }
  MOESAIC_DEVICE static int place_in_b(int row, int chunk) { return row * chunks_of_b + (chunk ^ row % chunks_of_b); }

  MOESAIC_DEVICE void operator()(params const& p) const {
    shared& s = device::shared<shared>();
    int const first_row = device::block_y() * tile_m, first_column = device::block_x() * tile_n;
    int const steps = (p.k + tile_k - 1) / tile_k;

    for (int stage = 0; stage < stages - 1; ++stage) {
      if (stage < steps) load(p, s, stage, stage, first_row, first_column);
      device::cp_async_commit_group();   // also where there is nothing to load: a group a step keeps the count
    }
    float d[2][4][4] = {};
    for (int step = 0; step < steps; ++step) {
      // My copies of this step have landed; then everybody's have, and everybody is done with the stage before.
      if constexpr (Bug != multistage_bug::no_wait) device::cp_async_wait_group<stages - (Bug == multistage_bug::lax_wait ? 1 : 2)>();
      if constexpr (Bug != multistage_bug::no_block_sync) device::block_sync();
      int const ahead = step + stages - 1;
      if (ahead < steps) load(p, s, ahead % stages, ahead, first_row, first_column);
      device::cp_async_commit_group();
      multiply(s, step % stages, d);
    }
    store(p, d, first_row, first_column);
  }

 private:
  /// What lies outside of a matrix is zero: nothing is read there.
  MOESAIC_DEVICE static void load(params const& p, shared& s, int stage, int step, int first_row, int first_column) {
    for (int i = device::thread_id(); i < tile_m * chunks_of_a; i += threads) {
      int const row = i / chunks_of_a, chunk = i % chunks_of_a;
      int const from_row = first_row + row, from_k = step * tile_k + chunk * 8;
      bool const inside = (Bug == multistage_bug::unclamped_row || from_row < p.m) && from_k < p.k;
      auto const* const from = inside ? p.a + static_cast<std::int64_t>(from_row) * p.k + from_k : p.a;
      device::cp_async<16>(&s.a[stage][place_in_a(row, chunk)], from, inside ? 16 : 0);
    }
    for (int i = device::thread_id(); i < tile_k * chunks_of_b; i += threads) {
      int const row = i / chunks_of_b, chunk = i % chunks_of_b;
      int const from_k = step * tile_k + row, from_column = first_column + chunk * 8;
      bool const inside = from_k < p.k && from_column < p.n;
      auto const* const from = inside ? p.b + static_cast<std::int64_t>(from_k) * p.n + from_column : p.b;
      device::cp_async<16>(&s.b[stage][place_in_b(row, chunk)], from, inside ? 16 : 0);
    }
  }

  /// d += the warp's part of a stage.
  MOESAIC_DEVICE static void multiply(shared& s, int stage, float (&d)[2][4][4]) {
    int const lane = device::lane_id();
    int const warp_row = device::warp_id() / 2 * 32, warp_column = device::warp_id() % 2 * 32;
    MOESAIC_UNROLL
    for (int k = 0; k < tile_k; k += 16) {
      std::uint32_t a[2][4], b[4][2];
      MOESAIC_UNROLL
      for (int i = 0; i < 2; ++i) {      // 16 rows × 16 of k
        int const row = warp_row + i * 16 + lane % 16, chunk = k / 8 + lane / 16;
        int const place = Bug == multistage_bug::wrong_swizzle ? row * chunks_of_a + chunk : place_in_a(row, chunk);
        device::ldmatrix(a[i], &s.a[stage][place]);
        if constexpr (Bug == multistage_bug::wrong_fragment) {
          auto const second = a[i][1];
          a[i][1] = a[i][2];
          a[i][2] = second;
        }
      }
      MOESAIC_UNROLL
      for (int j = 0; j < 4; j += 2) {   // 16 of k × 16 columns; rows of b run along n, and mma wants columns
        std::uint32_t both[4];
        device::ldmatrix_trans(both, &s.b[stage][place_in_b(k + lane % 16, (warp_column + j * 8) / 8 + lane / 16)]);
        b[j][0] = both[0], b[j][1] = both[1];
        b[j + 1][0] = both[2], b[j + 1][1] = both[3];
      }
      MOESAIC_UNROLL
      for (int i = 0; i < 2; ++i)
        MOESAIC_UNROLL
        for (int j = 0; j < 4; ++j) device::mma_sync<dtype::bf16>(d[i][j], a[i], b[j]);
    }
  }

  MOESAIC_DEVICE static void store(params const& p, float const (&d)[2][4][4], int first_row, int first_column) {
    int const lane = device::lane_id();
    int const warp_row = device::warp_id() / 2 * 32, warp_column = device::warp_id() % 2 * 32;
    MOESAIC_UNROLL
    for (int i = 0; i < 2; ++i)
      MOESAIC_UNROLL
      for (int j = 0; j < 4; ++j)
        MOESAIC_UNROLL
        for (int half = 0; half < 2; ++half) {
          int const row = first_row + warp_row + i * 16 + half * 8 + lane / 4;
          int const column = first_column + warp_column + j * 8 + lane % 4 * 2;
          if (row >= p.m || column >= p.n) continue;
          auto* const to = p.c + static_cast<std::int64_t>(row) * p.n + column;
          to[0] = d[i][j][half * 2];
          to[1] = d[i][j][half * 2 + 1];
        }
  }
};

}  // namespace moesaic::planted
