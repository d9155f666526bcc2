// The templates of the hardware seam for a compiler without nvcc: each calls the model's own function, which takes its numbers at run time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/device/device.hpp>

namespace moesaic::device_model::internal {

void cp_async(void* to_shared, void const* from_global, int bytes, int from);
void cp_async_wait(int pending);
void bulk_wait(int pending, bool read);
void setmaxnreg(int registers, bool more);
std::uint32_t lop3(std::uint32_t a, std::uint32_t b, std::uint32_t c, int table);

}  // namespace moesaic::device_model::internal

namespace moesaic::device {

template <int Registers>
void setmaxnreg_inc() {
  static_assert(Registers >= 24 && Registers <= 256 && Registers % 8 == 0, "setmaxnreg takes multiples of 8 from 24 to 256");
  device_model::internal::setmaxnreg(Registers, true);
}
template <int Registers>
void setmaxnreg_dec() {
  static_assert(Registers >= 24 && Registers <= 256 && Registers % 8 == 0, "setmaxnreg takes multiples of 8 from 24 to 256");
  device_model::internal::setmaxnreg(Registers, false);
}
template <int Table>
std::uint32_t lop3(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  static_assert(Table >= 0 && Table < 256, "lop3's table has 8 bits");
  return device_model::internal::lop3(a, b, c, Table);
}

template <int Bytes>
void cp_async(void* to_shared, void const* from_global, int from) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "cp.async copies 4, 8 or 16 bytes");
  device_model::internal::cp_async(to_shared, from_global, Bytes, from);
}
template <int Pending>
void cp_async_wait_group() {
  static_assert(Pending >= 0);
  device_model::internal::cp_async_wait(Pending);
}
template <int Pending>
void cp_async_bulk_wait_group() {
  static_assert(Pending >= 0);
  device_model::internal::bulk_wait(Pending, false);
}
template <int Pending>
void cp_async_bulk_wait_group_read() {
  static_assert(Pending >= 0);
  device_model::internal::bulk_wait(Pending, true);
}

template <int Threads>
std::int32_t block_scan<Threads>::exclusive_sum(std::int32_t mine, std::int32_t& total, scratch& s) {
  constexpr int warps = Threads / warp_size;
  auto* const of_warp = reinterpret_cast<std::int32_t*>(s.bytes);
  std::int32_t const inclusive = warp_inclusive_sum(mine);
  if (lane_id() == warp_size - 1) of_warp[warp_id()] = inclusive;
  block_sync();
  std::int32_t below = 0, all = 0;
  for (int w = 0; w < warps; ++w) {
    if (w < warp_id()) below += of_warp[w];
    all += of_warp[w];
  }
  total = all;
  return below + inclusive - mine;
}

}  // namespace moesaic::device

#if __has_include("matrix_primitives.hpp")
#include "matrix_primitives.hpp"
#endif
