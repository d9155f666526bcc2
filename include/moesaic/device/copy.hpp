// Copies that go on while threads work: cp.async, the bulk copy engine, and tensor maps. One function a PTX instruction.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/macros.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/device/barrier.hpp>

namespace moesaic::device {

// cp.async (sm_80): a thread's own copies, global to shared memory.

/// Bytes: 4, 8 (.ca) or 16 (.cg), and both addresses a multiple of it. Of the source `from` bytes are read, the rest is zero.
template <int Bytes>
MOESAIC_PRIMITIVE void cp_async(void* to_shared, void const* from_global, int from = Bytes);
MOESAIC_PRIMITIVE void cp_async_commit_group();
template <int Pending>
MOESAIC_PRIMITIVE void cp_async_wait_group();                     ///< until at most `Pending` of the thread's latest groups are under way
/// One arrival, not counted in advance (.noinc), when the thread's copies so far have landed: cp.async.mbarrier.arrive.noinc.
MOESAIC_PRIMITIVE void cp_async_mbarrier_arrive_noinc(mbarrier* b);

// The bulk engine (sm_90): one thread asks, bytes are reported to an mbarrier (loads) or to a group (stores).

/// cp.async.bulk.shared::cluster.global: bytes, and both addresses, multiples of 16.
MOESAIC_PRIMITIVE void bulk_load(void* to_shared, void const* from_global, std::uint32_t bytes, mbarrier* b);
MOESAIC_PRIMITIVE void bulk_store(void* to_global, void const* from_shared, std::uint32_t bytes);   ///< cp.async.bulk.global.shared::cta, in a group
MOESAIC_PRIMITIVE void bulk_prefetch(void const* from_global, std::uint32_t bytes);                 ///< cp.async.bulk.prefetch.L2
MOESAIC_PRIMITIVE void cp_async_bulk_commit_group();
template <int Pending>
MOESAIC_PRIMITIVE void cp_async_bulk_wait_group();                ///< until at most `Pending` groups are incomplete
template <int Pending>
MOESAIC_PRIMITIVE void cp_async_bulk_wait_group_read();           ///< until at most `Pending` groups have yet to read their source
/// What this thread wrote to shared memory is seen by the copy engine and the tensor cores: fence.proxy.async.shared::cta.
MOESAIC_PRIMITIVE void fence_proxy_async();

// Tensor maps: boxes of a tensor of 1 to 5 dimensions.

enum class tensor_element : std::uint8_t { u8, u16, u32, bf16, fp16, fp32 };
/// How 16-byte chunks of a box's rows are permuted in shared memory: chunk index ^= bits 7.. of the address (b32 by 1 bit, b64 by 2, b128 by 3).
enum class swizzle : std::uint8_t { none, b32, b64, b128 };

MOESAIC_FN constexpr int bytes_of(tensor_element e) {
  return e == tensor_element::u8 ? 1 : e == tensor_element::u32 || e == tensor_element::fp32 ? 4 : 2;
}
MOESAIC_FN constexpr int bytes_of(swizzle s) { return s == swizzle::none ? 16 : s == swizzle::b32 ? 32 : s == swizzle::b64 ? 64 : 128; }

/// A tensor in global memory and the box that one copy moves, innermost dimension first. What lies outside the tensor reads as zero and is not written.
struct tensor_description {
  static constexpr int most_dimensions = 5;
  void const* data = nullptr;                          ///< 16-byte aligned
  tensor_element element = tensor_element::bf16;
  int dimensions = 0;
  std::uint64_t size[most_dimensions] = {};            ///< in elements
  std::uint64_t stride[most_dimensions] = {};          ///< in bytes, of dimensions 1 .. ; multiples of 16; stride[0] is not read
  std::uint32_t box[most_dimensions] = {};             ///< in elements, at most 256 each; box[0] in bytes at most the swizzle's width
  device::swizzle swizzle = device::swizzle::none;
};

/// Opaque, passed by value in a kernel's params (__grid_constant__). Made by `encode` on the host.
struct alignas(64) tensor_map {
  std::uint64_t opaque[16];
};
/// Defined for nvcc by cuda/launch.cuh (cuTensorMapEncodeTiled), elsewhere by the model. Sentences for what a map cannot be.
status encode(tensor_description const& t, tensor_map& map);

/// Whether the copy engine takes it.
constexpr status check(tensor_description const& t) {
  if (t.dimensions < 1 || t.dimensions > tensor_description::most_dimensions) return invalid("a tensor map has 1 to 5 dimensions", 5, t.dimensions);
  auto const element = bytes_of(t.element);
  auto const inner = static_cast<std::int64_t>(t.box[0]) * element;
  if (inner % 16 != 0) return invalid("the inner box of a tensor map must be a multiple of 16 bytes", 16, inner);
  if (t.swizzle != swizzle::none && inner > bytes_of(t.swizzle))
    return invalid("the inner box of a tensor map must fit its swizzle", bytes_of(t.swizzle), inner);
  for (int d = 0; d < t.dimensions; ++d) {
    if (t.size[d] == 0 || t.size[d] > 0x1'0000'0000ull) return invalid("a dimension of a tensor map has 1 to 2^32 elements", 1, static_cast<std::int64_t>(t.size[d]));
    if (t.box[d] == 0 || t.box[d] > 256) return invalid("a box of a tensor map has 1 to 256 elements a dimension", 256, t.box[d]);
    if (d > 0 && (t.stride[d] % 16 != 0 || t.stride[d] >= 1ull << 40))
      return invalid("a stride of a tensor map must be a multiple of 16 bytes, below 2^40", 16, static_cast<std::int64_t>(t.stride[d]));
  }
  return {};
}

/// cp.async.bulk.tensor.Nd.shared::cluster.global.mbarrier: the box at these coordinates (elements, innermost first; signed) to shared memory,
/// aligned to 128, with swizzle b128 to 1024. The whole box's bytes are reported, those outside the tensor too.
MOESAIC_PRIMITIVE void tma_load_1d(void* to_shared, tensor_map const* map, mbarrier* b, int c0);
MOESAIC_PRIMITIVE void tma_load_2d(void* to_shared, tensor_map const* map, mbarrier* b, int c0, int c1);
MOESAIC_PRIMITIVE void tma_load_3d(void* to_shared, tensor_map const* map, mbarrier* b, int c0, int c1, int c2);
MOESAIC_PRIMITIVE void tma_load_4d(void* to_shared, tensor_map const* map, mbarrier* b, int c0, int c1, int c2, int c3);
MOESAIC_PRIMITIVE void tma_load_5d(void* to_shared, tensor_map const* map, mbarrier* b, int c0, int c1, int c2, int c3, int c4);
/// .multicast::cluster: to the same place of every block of the cluster whose bit in `blocks` is set, and reported to each one's barrier.
MOESAIC_PRIMITIVE void tma_load_2d_multicast(void* to_shared, tensor_map const* map, mbarrier* b, std::uint16_t blocks, int c0, int c1);
MOESAIC_PRIMITIVE void tma_load_3d_multicast(void* to_shared, tensor_map const* map, mbarrier* b, std::uint16_t blocks, int c0, int c1, int c2);
/// cp.async.bulk.tensor.Nd.global.shared::cta.bulk_group: the box in shared memory to these coordinates, in the thread's next group.
MOESAIC_PRIMITIVE void tma_store_1d(tensor_map const* map, void const* from_shared, int c0);
MOESAIC_PRIMITIVE void tma_store_2d(tensor_map const* map, void const* from_shared, int c0, int c1);
MOESAIC_PRIMITIVE void tma_store_3d(tensor_map const* map, void const* from_shared, int c0, int c1, int c2);
MOESAIC_PRIMITIVE void tma_store_4d(tensor_map const* map, void const* from_shared, int c0, int c1, int c2, int c3);
MOESAIC_PRIMITIVE void tma_store_5d(tensor_map const* map, void const* from_shared, int c0, int c1, int c2, int c3, int c4);
MOESAIC_PRIMITIVE void prefetch_tensormap(tensor_map const* map);

}  // namespace moesaic::device
