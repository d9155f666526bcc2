// A matrix product by the copy engine and wgmma, warps specialised: how a kernel for sm_90a is written, and what goes wrong when one line of it is.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <moesaic/base/floats.hpp>
#include <moesaic/cuda/launch.hpp>

namespace moesaic::planted {

/// One mistake in hopper_gemm.
enum class hopper_bug : std::uint8_t {
  none,
  no_full_wait,                          ///< consumers do not wait for a stage's bytes
  wrong_full_parity,
  no_empty_wait,                         ///< the producer does not wait for a stage's readers
  wrong_empty_parity,
  wrong_descriptor_swizzle,
  no_proxy_fence,                        ///< the tile to store is not fenced for the copy engine
  no_store_barrier,                      ///< the copy engine is asked before all threads have written the tile
  early_release,                         ///< a stage is given back while wgmma reads it
  no_last_wait,                          ///< sums are read while wgmma adds to them
  no_wgmma_fence,
  expect_too_many,                       ///< bytes of a stage
  expect_too_few,
  row_off_by_one,                        ///< in the tile to store
  store_not_waited,                      ///< threads end while the copy engine reads
  empty_count_too_small,
  descriptor_step_doubled,
  sums_touched,                          ///< while wgmma adds to them
  init_not_fenced,
  no_sync_after_init,
  wrong_stride,                          ///< in descriptors
  no_store_swizzle,
};

/// c [m, n] = a [m, k] · b [n, k]ᵀ, row-major, sums in fp32, c rounded to bf16. n and k are multiples of 8. A block makes 128 × 64 of c: two consumer
/// warpgroups 64 rows each, and one thread of a third asks for copies.
template <hopper_bug Bug = hopper_bug::none>
struct hopper_gemm {
  static constexpr int consumers = 2;
  static constexpr int threads = (consumers + 1) * device::warpgroup_size;
  static constexpr cuda::rung needs = cuda::rung::sm90;
  static constexpr int rows_of_consumer = 64, tile_m = consumers * rows_of_consumer, tile_n = 64, tile_k = 64, stages = 3;
  static constexpr int row_bytes = tile_k * 2;   // of a stage, and of the tile to store: 128, the swizzle's width
  static_assert(tile_n * 2 == row_bytes);

  struct params {
    device::tensor_map a, b, c;          // as `boxes` describes them
    int k;
  };
  /// Tiles are swizzled by 128 bytes, and so aligned to 1024.
  struct shared {
    alignas(1024) std::byte a[stages][tile_m * row_bytes];
    alignas(1024) std::byte b[stages][tile_n * row_bytes];
    alignas(1024) std::byte c[consumers][rows_of_consumer * row_bytes];
    device::mbarrier full[stages], empty[stages];
  };
  static device::tensor_description box(void const* data, int rows, int columns, int box_rows) {
    device::tensor_description t;
    t.data = data;
    t.dimensions = 2;
    t.size[0] = static_cast<std::uint64_t>(columns), t.size[1] = static_cast<std::uint64_t>(rows);
    t.stride[1] = t.size[0] * 2;
    t.box[0] = row_bytes / 2, t.box[1] = static_cast<std::uint32_t>(box_rows);
    t.swizzle = device::swizzle::b128;
    return t;
  }
  static status make(params& p, bf16 const* a, bf16 const* b, bf16* c, int m, int n, int k) {
    p.k = k;
    if (auto const done = device::encode(box(a, m, k, tile_m), p.a); !done) return done;
    if (auto const done = device::encode(box(b, n, k, tile_n), p.b); !done) return done;
    return device::encode(box(c, m, n, rows_of_consumer), p.c);
  }

  MOESAIC_DEVICE void operator()(params const& p) const {
    shared& s = device::shared<shared>();
    bool const producer = device::thread_id() == consumers * device::warpgroup_size;
    if (producer) {
      constexpr std::uint32_t readers = consumers * (device::warpgroup_size / device::warp_size) - (Bug == hopper_bug::empty_count_too_small ? 1 : 0);
      for (int stage = 0; stage < stages; ++stage) {
        device::mbarrier_init(&s.full[stage], 1);
        device::mbarrier_init(&s.empty[stage], readers);
      }
      if constexpr (Bug != hopper_bug::init_not_fenced) device::fence_mbarrier_init();
    }
    if constexpr (Bug != hopper_bug::no_sync_after_init) device::block_sync();

    int const first_row = device::block_y() * tile_m, first_column = device::block_x() * tile_n;
    int const steps = (p.k + tile_k - 1) / tile_k;
    if (device::warpgroup_id() == consumers) {
      device::setmaxnreg_dec<40>();
      if (producer) produce(p, s, steps, first_row, first_column);
    } else {
      device::setmaxnreg_inc<232>();
      float d[tile_n / 2];
      consume(s, steps, d);
      store(p, s, d, first_row + device::warpgroup_id() * rows_of_consumer, first_column);
    }
  }

 private:
  MOESAIC_DEVICE static void produce(params const& p, shared& s, int steps, int first_row, int first_column) {
    constexpr std::uint32_t bytes = (tile_m + tile_n) * row_bytes;   // what lies outside of a matrix counts too
    constexpr std::uint32_t expected = Bug == hopper_bug::expect_too_many  ? bytes + 16
                                       : Bug == hopper_bug::expect_too_few ? bytes - tile_n * row_bytes
                                                                           : bytes;
    device::ring<stages> at;
    for (int step = 0; step < steps; ++step, at.advance()) {
      // The first time round, the phase "before the first" counts as ended.
      if constexpr (Bug != hopper_bug::no_empty_wait)
        device::mbarrier_wait(&s.empty[at.stage], Bug == hopper_bug::wrong_empty_parity ? at.parity : at.parity ^ 1u);
      device::mbarrier_arrive_expect_tx(&s.full[at.stage], expected);
      device::tma_load_2d(s.a[at.stage], &p.a, &s.full[at.stage], step * tile_k, first_row);
      device::tma_load_2d(s.b[at.stage], &p.b, &s.full[at.stage], step * tile_k, first_column);
    }
  }

  /// d = the warpgroup's rows. One step's product is under way while the next one's operands are waited for.
  MOESAIC_DEVICE static void consume(shared& s, int steps, float (&d)[tile_n / 2]) {
    constexpr std::uint32_t leading = 1, stride = Bug == hopper_bug::wrong_stride ? 4 * row_bytes : 8 * row_bytes;
    constexpr auto layout = Bug == hopper_bug::wrong_descriptor_swizzle ? device::swizzle::b64 : device::swizzle::b128;
    constexpr std::uint32_t step_bytes = (Bug == hopper_bug::descriptor_step_doubled ? 2 : 1) * 32;
    device::ring<stages> at;
    int before = 0;                      // the stage of the step before
    for (int step = 0; step < steps; ++step, at.advance()) {
      if constexpr (Bug != hopper_bug::no_full_wait)
        device::mbarrier_wait(&s.full[at.stage], Bug == hopper_bug::wrong_full_parity ? at.parity ^ 1u : at.parity);
      auto const a = device::shared_address(s.a[at.stage] + device::warpgroup_id() * rows_of_consumer * row_bytes);
      auto const b = device::shared_address(s.b[at.stage]);
      if constexpr (Bug != hopper_bug::no_wgmma_fence) device::wgmma_fence();
      MOESAIC_UNROLL
      for (int k = 0; k < tile_k / device::mma_k<dtype::bf16>; ++k) {
        auto const further = static_cast<std::uint32_t>(k) * step_bytes;
        device::wgmma<dtype::bf16, tile_n>(d, device::wgmma_descriptor(a + further, leading, stride, layout),
                                           device::wgmma_descriptor(b + further, leading, stride, layout), step > 0 || k > 0);
      }
      device::wgmma_commit_group();
      if constexpr (Bug == hopper_bug::sums_touched) d[5] += 1.0f;
      if constexpr (Bug == hopper_bug::early_release) release(s, at.stage);
      device::wgmma_wait_group<1>();
      if constexpr (Bug != hopper_bug::early_release)
        if (step > 0) release(s, before);
      before = at.stage;
    }
    if constexpr (Bug != hopper_bug::no_last_wait) device::wgmma_wait_group<0>();
    device::wgmma_hold(d);
  }
  /// The warp has read the stage: one arrival a warp, since a warp's products end together.
  MOESAIC_DEVICE static void release(shared& s, int stage) {
    if (device::lane_id() == 0) device::mbarrier_arrive(&s.empty[stage]);
  }

  MOESAIC_DEVICE static void store(params const& p, shared& s, float const (&d)[tile_n / 2], int first_row, int first_column) {
    int const lane = device::lane_id(), group = device::warpgroup_id();
    int const warp = device::warp_id() % 4;
    MOESAIC_UNROLL
    for (int j = 0; j < tile_n / 8; ++j)
      MOESAIC_UNROLL
      for (int half = 0; half < 2; ++half) {
        int const row = warp * 16 + half * 8 + lane / 4 + (Bug == hopper_bug::row_off_by_one ? 1 : 0);
        int const chunk = Bug == hopper_bug::no_store_swizzle ? j : j ^ row % 8;
        auto* const to = s.c[group] + row * row_bytes + chunk * 16 + lane % 4 * 4;
        *reinterpret_cast<std::uint32_t*>(to) = device::cvt_bf16x2(d[4 * j + 2 * half], d[4 * j + 2 * half + 1]);
      }
    // Who wrote says that the copy engine may see it; when all have said so, one asks the engine.
    if constexpr (Bug != hopper_bug::no_proxy_fence) device::fence_proxy_async();
    if constexpr (Bug != hopper_bug::no_store_barrier) device::bar_sync(1 + group, device::warpgroup_size);
    if (device::thread_id() % device::warpgroup_size == 0) {
      device::tma_store_2d(&p.c, s.c[group], first_column, first_row);
      device::cp_async_bulk_commit_group();
      if constexpr (Bug != hopper_bug::store_not_waited) device::cp_async_bulk_wait_group_read<0>();
    }
  }
};

}  // namespace moesaic::planted
