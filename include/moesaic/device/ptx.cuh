// The hardware seam for nvcc: every primitive of device/ as the PTX instruction that it is named after.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <moesaic/device/barrier.hpp>
#include <moesaic/device/collective.hpp>
#include <moesaic/device/copy.hpp>
#include <moesaic/device/mma.hpp>
#include <moesaic/device/thread.hpp>
#include <moesaic/device/wgmma.cuh>

// An asm statement is one instruction, with what turns a predicate into a register beside it. It is volatile where it must keep its place among others
// (it orders, waits, or all lanes must meet in it), and clobbers memory where plain loads and stores must not pass it. Where the compiler has the very
// instruction as a function, that is taken: it knows the range of a thread's index, and where threads must have converged.

namespace moesaic::device {

// thread.hpp

MOESAIC_PRIMITIVE int thread_id() { return static_cast<int>(threadIdx.x); }
MOESAIC_PRIMITIVE int block_x() { return static_cast<int>(blockIdx.x); }
MOESAIC_PRIMITIVE int block_y() { return static_cast<int>(blockIdx.y); }
MOESAIC_PRIMITIVE int block_z() { return static_cast<int>(blockIdx.z); }
MOESAIC_PRIMITIVE int grid_x() { return static_cast<int>(gridDim.x); }
MOESAIC_PRIMITIVE int grid_y() { return static_cast<int>(gridDim.y); }
MOESAIC_PRIMITIVE int grid_z() { return static_cast<int>(gridDim.z); }
MOESAIC_PRIMITIVE int cluster_rank() {
  std::uint32_t r;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return static_cast<int>(r);
}
MOESAIC_PRIMITIVE int cluster_blocks() {
  std::uint32_t r;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(r));
  return static_cast<int>(r);
}

MOESAIC_PRIMITIVE std::byte* shared_memory() {
  extern __shared__ __align__(1024) unsigned char moesaic_shared_memory[];
  return reinterpret_cast<std::byte*>(moesaic_shared_memory);
}
MOESAIC_PRIMITIVE std::uint32_t shared_address(void const* in_shared) { return static_cast<std::uint32_t>(__cvta_generic_to_shared(in_shared)); }

MOESAIC_PRIMITIVE void block_sync() { __syncthreads(); }
MOESAIC_PRIMITIVE void bar_sync(int barrier, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }
MOESAIC_PRIMITIVE void bar_arrive(int barrier, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }
MOESAIC_PRIMITIVE void warp_sync(std::uint32_t lanes) { __syncwarp(lanes); }
MOESAIC_PRIMITIVE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
MOESAIC_PRIMITIVE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }

MOESAIC_PRIMITIVE std::uint32_t shfl_idx(std::uint32_t lanes, std::uint32_t value, int source) { return __shfl_sync(lanes, value, source); }
MOESAIC_PRIMITIVE std::uint32_t shfl_up(std::uint32_t lanes, std::uint32_t value, int distance) {
  return __shfl_up_sync(lanes, value, static_cast<unsigned>(distance));
}
MOESAIC_PRIMITIVE std::uint32_t shfl_down(std::uint32_t lanes, std::uint32_t value, int distance) {
  return __shfl_down_sync(lanes, value, static_cast<unsigned>(distance));
}
MOESAIC_PRIMITIVE std::uint32_t shfl_bfly(std::uint32_t lanes, std::uint32_t value, int mask) { return __shfl_xor_sync(lanes, value, mask); }
MOESAIC_PRIMITIVE std::uint32_t ballot(std::uint32_t lanes, bool vote) { return __ballot_sync(lanes, vote); }
MOESAIC_PRIMITIVE std::uint32_t match_any(std::uint32_t lanes, std::uint32_t value) { return __match_any_sync(lanes, value); }
MOESAIC_PRIMITIVE std::uint32_t redux_add(std::uint32_t lanes, std::uint32_t value) {
  std::uint32_t r;
  asm volatile("redux.sync.add.u32 %0, %1, %2;" : "=r"(r) : "r"(value), "r"(lanes));
  return r;
}
MOESAIC_PRIMITIVE std::uint32_t redux_min(std::uint32_t lanes, std::uint32_t value) {
  std::uint32_t r;
  asm volatile("redux.sync.min.u32 %0, %1, %2;" : "=r"(r) : "r"(value), "r"(lanes));
  return r;
}
MOESAIC_PRIMITIVE std::uint32_t redux_max(std::uint32_t lanes, std::uint32_t value) {
  std::uint32_t r;
  asm volatile("redux.sync.max.u32 %0, %1, %2;" : "=r"(r) : "r"(value), "r"(lanes));
  return r;
}

MOESAIC_PRIMITIVE std::uint32_t atomic_add(std::uint32_t* at, std::uint32_t value) {
  std::uint32_t old;
  asm volatile("atom.relaxed.gpu.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(at), "r"(value) : "memory");
  return old;
}
MOESAIC_PRIMITIVE std::uint32_t atomic_add_acq_rel(std::uint32_t* at, std::uint32_t value) {
  std::uint32_t old;
  asm volatile("atom.acq_rel.gpu.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(at), "r"(value) : "memory");
  return old;
}
MOESAIC_PRIMITIVE std::uint32_t atomic_max(std::uint32_t* at, std::uint32_t value) {
  std::uint32_t old;
  asm volatile("atom.relaxed.gpu.max.u32 %0, [%1], %2;" : "=r"(old) : "l"(at), "r"(value) : "memory");
  return old;
}
MOESAIC_PRIMITIVE std::uint32_t atomic_exch(std::uint32_t* at, std::uint32_t value) {
  std::uint32_t old;
  asm volatile("atom.relaxed.gpu.exch.b32 %0, [%1], %2;" : "=r"(old) : "l"(at), "r"(value) : "memory");
  return old;
}
MOESAIC_PRIMITIVE std::uint32_t load_acquire(std::uint32_t const* at) {
  std::uint32_t value;
  asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
  return value;
}
MOESAIC_PRIMITIVE void store_release(std::uint32_t* at, std::uint32_t value) { asm volatile("st.release.gpu.u32 [%0], %1;" ::"l"(at), "r"(value) : "memory"); }
MOESAIC_PRIMITIVE void fence_gpu() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
MOESAIC_PRIMITIVE void nanosleep(std::uint32_t nanoseconds) { asm volatile("nanosleep.u32 %0;" ::"r"(nanoseconds)); }
// Volatile: what is read-only for this kernel may be what the one before wrote, so that the load stays behind griddepcontrol_wait.
MOESAIC_PRIMITIVE words4 load_nc(words4 const* at) {
  words4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(at));
  return v;
}

MOESAIC_PRIMITIVE std::uint32_t mapa(void const* at, int rank) {
  std::uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(at)), "r"(rank));
  return address;
}
MOESAIC_PRIMITIVE std::uint32_t load_cluster(std::uint32_t address) {
  std::uint32_t value;
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
  return value;
}
MOESAIC_PRIMITIVE void store_cluster(std::uint32_t address, std::uint32_t value) {
  asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}
MOESAIC_PRIMITIVE std::uint32_t atomic_add_cluster(std::uint32_t address, std::uint32_t value) {
  std::uint32_t old;
  asm volatile("atom.shared::cluster.add.u32 %0, [%1], %2;" : "=r"(old) : "r"(address), "r"(value) : "memory");
  return old;
}

template <int Registers>
MOESAIC_PRIMITIVE void setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
MOESAIC_PRIMITIVE void setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}
// Before sm_90 there are no such launches, so nothing to wait for.
MOESAIC_PRIMITIVE void griddepcontrol_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
MOESAIC_PRIMITIVE void griddepcontrol_launch_dependents() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

MOESAIC_PRIMITIVE float ex2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
MOESAIC_PRIMITIVE float rcp_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
MOESAIC_PRIMITIVE float rsqrt_approx(float x) {
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
MOESAIC_PRIMITIVE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
MOESAIC_PRIMITIVE std::uint32_t cvt_bf16x2(float low, float high) {
  std::uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
MOESAIC_PRIMITIVE std::uint32_t cvt_f16x2(float low, float high) {
  std::uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
MOESAIC_PRIMITIVE std::uint16_t cvt_e4m3x2(float low, float high) {
  std::uint16_t r;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(r) : "f"(high), "f"(low));
  return r;
}
MOESAIC_PRIMITIVE std::uint32_t prmt(std::uint32_t low, std::uint32_t high, std::uint32_t selector) {
  std::uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(low), "r"(high), "r"(selector));
  return r;
}
template <int Table>
MOESAIC_PRIMITIVE std::uint32_t lop3(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  static_assert(Table >= 0 && Table < 256, "a table of lop3 has eight bits");
  std::uint32_t r;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(r) : "r"(a), "r"(b), "r"(c), "n"(Table));
  return r;
}
MOESAIC_PRIMITIVE std::uint32_t fma_bf16x2(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t r;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}

// barrier.hpp

MOESAIC_PRIMITIVE void mbarrier_init(mbarrier* b, std::uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
MOESAIC_PRIMITIVE void mbarrier_inval(mbarrier* b) { asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(shared_address(b)) : "memory"); }
MOESAIC_PRIMITIVE void mbarrier_arrive(mbarrier* b) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
MOESAIC_PRIMITIVE void mbarrier_arrive_expect_tx(mbarrier* b, std::uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
MOESAIC_PRIMITIVE void mbarrier_expect_tx(mbarrier* b, std::uint32_t bytes) {
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
MOESAIC_PRIMITIVE void mbarrier_arrive_cluster(mbarrier* b, int rank) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(mapa(b, rank)) : "memory");
}
MOESAIC_PRIMITIVE bool mbarrier_try_wait_parity(mbarrier* b, std::uint32_t parity) {
  std::uint32_t ended;
  asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
               : "=r"(ended)
               : "r"(shared_address(b)), "r"(parity)
               : "memory");
  return ended != 0;
}
MOESAIC_PRIMITIVE bool mbarrier_try_wait_parity_cluster(mbarrier* b, std::uint32_t parity) {
  std::uint32_t ended;
  asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
               : "=r"(ended)
               : "r"(shared_address(b)), "r"(parity)
               : "memory");
  return ended != 0;
}
MOESAIC_PRIMITIVE void fence_mbarrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// copy.hpp

template <int Bytes>
MOESAIC_PRIMITIVE void cp_async(void* to_shared, void const* from_global, int from) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "cp_async copies 4, 8 or 16 bytes");
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to_shared)), "l"(from_global), "r"(from) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(shared_address(to_shared)), "l"(from_global), "r"(from), "n"(Bytes) : "memory");
}
MOESAIC_PRIMITIVE void cp_async_commit_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending>
MOESAIC_PRIMITIVE void cp_async_wait_group() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}
MOESAIC_PRIMITIVE void cp_async_mbarrier_arrive_noinc(mbarrier* b) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(b)) : "memory");
}

MOESAIC_PRIMITIVE void bulk_load(void* to_shared, void const* from_global, std::uint32_t bytes, mbarrier* b) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to_shared)),
               "l"(from_global), "r"(bytes), "r"(shared_address(b))
               : "memory");
}
MOESAIC_PRIMITIVE void bulk_store(void* to_global, void const* from_shared, std::uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to_global), "r"(shared_address(from_shared)), "r"(bytes) : "memory");
}
MOESAIC_PRIMITIVE void bulk_prefetch(void const* from_global, std::uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from_global), "r"(bytes) : "memory");
}
MOESAIC_PRIMITIVE void cp_async_bulk_commit_group() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int Pending>
MOESAIC_PRIMITIVE void cp_async_bulk_wait_group() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(Pending) : "memory");
}
template <int Pending>
MOESAIC_PRIMITIVE void cp_async_bulk_wait_group_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
}
MOESAIC_PRIMITIVE void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

MOESAIC_PRIMITIVE void tma_load_1d(void* to_shared, tensor_map const* map, mbarrier* b, int c0) {
  asm volatile("cp.async.bulk.tensor.1d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3}], [%2];" ::"r"(shared_address(to_shared)),
               "l"(map), "r"(shared_address(b)), "r"(c0)
               : "memory");
}
MOESAIC_PRIMITIVE void tma_load_2d(void* to_shared, tensor_map const* map, mbarrier* b, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(to_shared)),
               "l"(map), "r"(shared_address(b)), "r"(c0), "r"(c1)
               : "memory");
}
MOESAIC_PRIMITIVE void tma_load_3d(void* to_shared, tensor_map const* map, mbarrier* b, int c0, int c1, int c2) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(to_shared)),
               "l"(map), "r"(shared_address(b)), "r"(c0), "r"(c1), "r"(c2)
               : "memory");
}
MOESAIC_PRIMITIVE void tma_load_4d(void* to_shared, tensor_map const* map, mbarrier* b, int c0, int c1, int c2, int c3) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(
                 shared_address(to_shared)),
               "l"(map), "r"(shared_address(b)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}
MOESAIC_PRIMITIVE void tma_load_5d(void* to_shared, tensor_map const* map, mbarrier* b, int c0, int c1, int c2, int c3, int c4) {
  asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(
                 shared_address(to_shared)),
               "l"(map), "r"(shared_address(b)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
               : "memory");
}
MOESAIC_PRIMITIVE void tma_load_2d_multicast(void* to_shared, tensor_map const* map, mbarrier* b, std::uint16_t blocks, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%4, %5}], [%2], %3;" ::"r"(
                 shared_address(to_shared)),
               "l"(map), "r"(shared_address(b)), "h"(blocks), "r"(c0), "r"(c1)
               : "memory");
}
MOESAIC_PRIMITIVE void tma_load_3d_multicast(void* to_shared, tensor_map const* map, mbarrier* b, std::uint16_t blocks, int c0, int c1, int c2) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%4, %5, %6}], [%2], %3;" ::"r"(
                 shared_address(to_shared)),
               "l"(map), "r"(shared_address(b)), "h"(blocks), "r"(c0), "r"(c1), "r"(c2)
               : "memory");
}
MOESAIC_PRIMITIVE void tma_store_1d(tensor_map const* map, void const* from_shared, int c0) {
  asm volatile("cp.async.bulk.tensor.1d.global.shared::cta.bulk_group [%0, {%2}], [%1];" ::"l"(map), "r"(shared_address(from_shared)), "r"(c0) : "memory");
}
MOESAIC_PRIMITIVE void tma_store_2d(tensor_map const* map, void const* from_shared, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map), "r"(shared_address(from_shared)), "r"(c0), "r"(c1)
               : "memory");
}
MOESAIC_PRIMITIVE void tma_store_3d(tensor_map const* map, void const* from_shared, int c0, int c1, int c2) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map), "r"(shared_address(from_shared)), "r"(c0),
               "r"(c1), "r"(c2)
               : "memory");
}
MOESAIC_PRIMITIVE void tma_store_4d(tensor_map const* map, void const* from_shared, int c0, int c1, int c2, int c3) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map), "r"(shared_address(from_shared)), "r"(c0),
               "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}
MOESAIC_PRIMITIVE void tma_store_5d(tensor_map const* map, void const* from_shared, int c0, int c1, int c2, int c3, int c4) {
  asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(map), "r"(shared_address(from_shared)),
               "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
               : "memory");
}
MOESAIC_PRIMITIVE void prefetch_tensormap(tensor_map const* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }

// mma.hpp, all but wgmma itself

template <int Tiles>
MOESAIC_PRIMITIVE void ldmatrix(std::uint32_t (&r)[Tiles], void const* row) {
  static_assert(Tiles == 1 || Tiles == 2 || Tiles == 4, "ldmatrix loads 1, 2 or 4 tiles");
  auto const at = shared_address(row);
  if constexpr (Tiles == 1)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(at) : "memory");
  else if constexpr (Tiles == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(at) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
template <int Tiles>
MOESAIC_PRIMITIVE void ldmatrix_trans(std::uint32_t (&r)[Tiles], void const* row) {
  static_assert(Tiles == 1 || Tiles == 2 || Tiles == 4, "ldmatrix loads 1, 2 or 4 tiles");
  auto const at = shared_address(row);
  if constexpr (Tiles == 1)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(at) : "memory");
  else if constexpr (Tiles == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(at) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
template <int Tiles>
MOESAIC_PRIMITIVE void stmatrix(void* row, std::uint32_t const (&r)[Tiles]) {
  static_assert(Tiles == 1 || Tiles == 2 || Tiles == 4, "stmatrix stores 1, 2 or 4 tiles");
  auto const at = shared_address(row);
  if constexpr (Tiles == 1)
    asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" ::"r"(at), "r"(r[0]) : "memory");
  else if constexpr (Tiles == 2)
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(at), "r"(r[0]), "r"(r[1]) : "memory");
  else
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}
template <int Tiles>
MOESAIC_PRIMITIVE void stmatrix_trans(void* row, std::uint32_t const (&r)[Tiles]) {
  static_assert(Tiles == 1 || Tiles == 2 || Tiles == 4, "stmatrix stores 1, 2 or 4 tiles");
  auto const at = shared_address(row);
  if constexpr (Tiles == 1)
    asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::"r"(at), "r"(r[0]) : "memory");
  else if constexpr (Tiles == 2)
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(at), "r"(r[0]), "r"(r[1]) : "memory");
  else
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}

template <dtype T>
MOESAIC_PRIMITIVE void mma_sync(mma_accumulator<T> (&d)[4], std::uint32_t const (&a)[4], std::uint32_t const (&b)[2]) {
  static_assert(T == dtype::bf16 || T == dtype::fp16 || T == dtype::e4m3 || T == dtype::int8, "mma_sync multiplies bf16, fp16, e4m3 or int8");
  if constexpr (T == dtype::bf16)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else if constexpr (T == dtype::fp16)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else if constexpr (T == dtype::e4m3)
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

MOESAIC_PRIMITIVE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
MOESAIC_PRIMITIVE void wgmma_commit_group() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int Pending>
MOESAIC_PRIMITIVE void wgmma_wait_group() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
template <class T, int Count>
MOESAIC_PRIMITIVE void wgmma_hold(T (&registers)[Count]) {
  static_assert(sizeof(T) == 4, "a register holds 4 bytes");
  MOESAIC_UNROLL
  for (int i = 0; i < Count; ++i) {
    if constexpr (std::is_same_v<T, float>) asm volatile("" : "+f"(registers[i])::"memory");
    else asm volatile("" : "+r"(registers[i])::"memory");
  }
}

}  // namespace moesaic::device
