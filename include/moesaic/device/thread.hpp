// Who a thread is, and how threads of a warp, a block, a cluster and a grid meet. One function a PTX instruction or special register.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <moesaic/base/bits.hpp>
#include <moesaic/base/macros.hpp>

namespace moesaic::device {

inline constexpr int warp_size = 32;
inline constexpr int warpgroup_size = 128;
inline constexpr std::uint32_t all_lanes = 0xffff'ffffu;

// Blocks are one-dimensional in threads and up to three-dimensional in the grid.

MOESAIC_PRIMITIVE int thread_id();                       ///< %tid.x
MOESAIC_PRIMITIVE int block_x();                         ///< %ctaid.x
MOESAIC_PRIMITIVE int block_y();                         ///< %ctaid.y
MOESAIC_PRIMITIVE int block_z();                         ///< %ctaid.z
MOESAIC_PRIMITIVE int grid_x();                          ///< %nctaid.x
MOESAIC_PRIMITIVE int grid_y();                          ///< %nctaid.y
MOESAIC_PRIMITIVE int grid_z();                          ///< %nctaid.z
MOESAIC_PRIMITIVE int cluster_rank();                    ///< %cluster_ctarank: this block among those of its cluster; 0 without clusters
MOESAIC_PRIMITIVE int cluster_blocks();                  ///< %cluster_nctarank; 1 without clusters
MOESAIC_DEVICE int lane_id() { return thread_id() % warp_size; }
MOESAIC_DEVICE int warp_id() { return thread_id() / warp_size; }
MOESAIC_DEVICE int warpgroup_id() { return thread_id() / warpgroup_size; }

/// First byte of the block's dynamic shared memory, which is all a kernel has: one struct, Kernel::shared. Aligned to 1024.
MOESAIC_PRIMITIVE std::byte* shared_memory();
template <class Shared>
MOESAIC_DEVICE Shared& shared() { return *reinterpret_cast<Shared*>(shared_memory()); }
/// Address of something in shared memory in the shared window, as matrix descriptors and remote addresses take it (cvta.to.shared).
MOESAIC_PRIMITIVE std::uint32_t shared_address(void const* in_shared);

// Barriers. Memory written before is seen by every thread that waits, after.

MOESAIC_PRIMITIVE void block_sync();                             ///< bar.sync 0, all threads of the block
MOESAIC_PRIMITIVE void bar_sync(int barrier, int threads);       ///< bar.sync: barrier 1 .. 15, `threads` a multiple of 32
MOESAIC_PRIMITIVE void bar_arrive(int barrier, int threads);     ///< bar.arrive: counts as one of `threads`, and goes on
MOESAIC_PRIMITIVE void warp_sync(std::uint32_t lanes = all_lanes);   ///< bar.warp.sync
MOESAIC_PRIMITIVE void cluster_arrive();                         ///< barrier.cluster.arrive.release
MOESAIC_PRIMITIVE void cluster_wait();                           ///< barrier.cluster.wait.acquire

// Warp collectives: every lane of `lanes` calls with the same `lanes`. They order no memory.

MOESAIC_PRIMITIVE std::uint32_t shfl_idx(std::uint32_t lanes, std::uint32_t value, int source);    ///< shfl.sync.idx: of lane source % 32
MOESAIC_PRIMITIVE std::uint32_t shfl_up(std::uint32_t lanes, std::uint32_t value, int distance);   ///< of lane − distance, own below 0
MOESAIC_PRIMITIVE std::uint32_t shfl_down(std::uint32_t lanes, std::uint32_t value, int distance); ///< of lane + distance, own above 31
MOESAIC_PRIMITIVE std::uint32_t shfl_bfly(std::uint32_t lanes, std::uint32_t value, int mask);     ///< of lane ^ mask
MOESAIC_PRIMITIVE std::uint32_t ballot(std::uint32_t lanes, bool vote);                            ///< vote.sync.ballot
MOESAIC_PRIMITIVE std::uint32_t match_any(std::uint32_t lanes, std::uint32_t value);               ///< match.any.sync: lanes with my value
MOESAIC_PRIMITIVE std::uint32_t redux_add(std::uint32_t lanes, std::uint32_t value);               ///< redux.sync.add.u32 (sm_80)
MOESAIC_PRIMITIVE std::uint32_t redux_min(std::uint32_t lanes, std::uint32_t value);               ///< redux.sync.min.u32 (sm_80)
MOESAIC_PRIMITIVE std::uint32_t redux_max(std::uint32_t lanes, std::uint32_t value);               ///< redux.sync.max.u32 (sm_80)

/// The shuffles for values of 4 and 8 bytes.
template <class T, class Move>
MOESAIC_DEVICE T shfl_words(T value, Move move) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move words of 4 bytes");
  if constexpr (sizeof(T) == 4) {
    return bit_cast<T>(move(bit_cast<std::uint32_t>(value)));
  } else {
    auto const bits = bit_cast<std::uint64_t>(value);
    std::uint64_t const low = move(static_cast<std::uint32_t>(bits)), high = move(static_cast<std::uint32_t>(bits >> 32));
    return bit_cast<T>(low | high << 32);
  }
}
template <class T>
MOESAIC_DEVICE T shuffle(T value, int source, std::uint32_t lanes = all_lanes) {
  return shfl_words(value, [&](std::uint32_t word) { return shfl_idx(lanes, word, source); });
}
template <class T>
MOESAIC_DEVICE T shuffle_up(T value, int distance, std::uint32_t lanes = all_lanes) {
  return shfl_words(value, [&](std::uint32_t word) { return shfl_up(lanes, word, distance); });
}
template <class T>
MOESAIC_DEVICE T shuffle_down(T value, int distance, std::uint32_t lanes = all_lanes) {
  return shfl_words(value, [&](std::uint32_t word) { return shfl_down(lanes, word, distance); });
}
template <class T>
MOESAIC_DEVICE T shuffle_xor(T value, int mask, std::uint32_t lanes = all_lanes) {
  return shfl_words(value, [&](std::uint32_t word) { return shfl_bfly(lanes, word, mask); });
}

// Global and shared memory beside plain loads and stores.

MOESAIC_PRIMITIVE std::uint32_t atomic_add(std::uint32_t* at, std::uint32_t value);           ///< atom.relaxed.gpu.add.u32: the old value
MOESAIC_PRIMITIVE std::uint32_t atomic_add_acq_rel(std::uint32_t* at, std::uint32_t value);   ///< atom.acq_rel.gpu.add.u32
MOESAIC_PRIMITIVE std::uint32_t atomic_max(std::uint32_t* at, std::uint32_t value);           ///< atom.relaxed.gpu.max.u32
MOESAIC_PRIMITIVE std::uint32_t atomic_exch(std::uint32_t* at, std::uint32_t value);          ///< atom.relaxed.gpu.exch.b32
MOESAIC_PRIMITIVE std::uint32_t load_acquire(std::uint32_t const* at);                        ///< ld.acquire.gpu.u32
MOESAIC_PRIMITIVE void store_release(std::uint32_t* at, std::uint32_t value);                 ///< st.release.gpu.u32
MOESAIC_PRIMITIVE void fence_gpu();                                                           ///< fence.acq_rel.gpu
/// Said in every loop that waits for another block (nanosleep): a model runs other threads here.
MOESAIC_PRIMITIVE void nanosleep(std::uint32_t nanoseconds);

/// 16 bytes, as the widest load and store move them.
struct alignas(16) words4 {
  std::uint32_t word[4];
};
MOESAIC_PRIMITIVE words4 load_nc(words4 const* at);               ///< ld.global.nc.L1::no_allocate.v4: read-only for the whole kernel, read once

// Distributed shared memory: `at` is an address in this block's shared memory, the place meant is the same one of block `rank`.

MOESAIC_PRIMITIVE std::uint32_t mapa(void const* at, int rank);                        ///< mapa.shared::cluster
MOESAIC_PRIMITIVE std::uint32_t load_cluster(std::uint32_t address);                   ///< ld.shared::cluster.u32, of an address of mapa
MOESAIC_PRIMITIVE void store_cluster(std::uint32_t address, std::uint32_t value);      ///< st.shared::cluster.u32
MOESAIC_PRIMITIVE std::uint32_t atomic_add_cluster(std::uint32_t address, std::uint32_t value);   ///< atom.shared::cluster.add.u32

// Registers and launches (sm_90).

template <int Registers>
MOESAIC_PRIMITIVE void setmaxnreg_inc();                          ///< setmaxnreg.inc.sync.aligned, by all warps of a warpgroup
template <int Registers>
MOESAIC_PRIMITIVE void setmaxnreg_dec();                          ///< setmaxnreg.dec.sync.aligned
/// Waits until the grids that this one depends on have finished and their memory is seen; does nothing without such a dependence.
MOESAIC_PRIMITIVE void griddepcontrol_wait();
MOESAIC_PRIMITIVE void griddepcontrol_launch_dependents();        ///< the next grid may start: what it reads of this one it waits for

// Fast arithmetic whose bits the instruction defines, so that every backend agrees where the instruction does.

MOESAIC_PRIMITIVE float ex2_approx(float x);                      ///< ex2.approx.ftz.f32: 2^x
MOESAIC_PRIMITIVE float rcp_approx(float x);                      ///< rcp.approx.ftz.f32: 1 / x
MOESAIC_PRIMITIVE float rsqrt_approx(float x);                    ///< rsqrt.approx.ftz.f32
MOESAIC_PRIMITIVE float fma(float a, float b, float c);           ///< fma.rn.f32
MOESAIC_PRIMITIVE std::uint32_t cvt_bf16x2(float low, float high);    ///< cvt.rn.bf16x2.f32: low in bits 0 .. 15
MOESAIC_PRIMITIVE std::uint32_t cvt_f16x2(float low, float high);     ///< cvt.rn.f16x2.f32
MOESAIC_PRIMITIVE std::uint16_t cvt_e4m3x2(float low, float high);    ///< cvt.rn.satfinite.e4m3x2.f32 (sm_89)
MOESAIC_PRIMITIVE std::uint32_t prmt(std::uint32_t low, std::uint32_t high, std::uint32_t selector);   ///< prmt.b32
/// lop3.b32: bit i of the result is bit (a_i · 4 + b_i · 2 + c_i) of Table.
template <int Table>
MOESAIC_PRIMITIVE std::uint32_t lop3(std::uint32_t a, std::uint32_t b, std::uint32_t c);
MOESAIC_PRIMITIVE std::uint32_t fma_bf16x2(std::uint32_t a, std::uint32_t b, std::uint32_t c);         ///< fma.rn.bf16x2 (sm_80)

}  // namespace moesaic::device
