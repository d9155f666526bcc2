// Matrix instructions with types, shapes and registers known at run time: for the templates of device/mma.hpp and an interpreter
// of PTX.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include <moesaic/device/mma.hpp>

namespace moesaic::device_model::internal {

/// A thread's registers of 4 bytes: one after another, or each somewhere.
struct registers {
  void* first = nullptr;
  void* const* each = nullptr;   ///< if not null, register i is at each[i]; the list is copied where it must outlive the call

  void* operator[](int i) const { return each ? each[i] : static_cast<std::uint32_t*>(first) + i; }
};

void ldmatrix(int tiles, bool transposed, registers r, void const* row);
void stmatrix(int tiles, bool transposed, void* row, registers r);
void mma_sync(dtype t, registers d, registers a, registers b);   ///< d: 4 of mma_accumulator<t>; a: 4; b: 2

void wgmma_fence();
void wgmma_commit_group();
/// What a wait gives back. An interpreter whose program copies registers that are under way looks for `signature` in all of them.
struct returned {
  std::uint32_t signature, value;
};
/// Until at most `pending` groups are under way. Checks that nothing that they worked on was touched, and puts results where the
/// accumulators were given last; with `back`, does not write nor check accumulators but appends the running lane's.
void wgmma_wait_group(int pending, std::vector<returned>* back = nullptr);

struct wgmma_shape {
  dtype type = dtype::same;
  int n = 0;
  device::major a = device::major::k, b = device::major::k;

  friend bool operator==(wgmma_shape const&, wgmma_shape const&) = default;
};
/// d: n / 2 accumulators, which hold signatures (finite, above 2^20) until a wait. They are known by place, and by signature if they moved.
void wgmma(wgmma_shape const& s, registers d, std::uint64_t a, std::uint64_t b, bool add);
void wgmma(wgmma_shape const& s, registers d, registers a, std::uint64_t b, bool add);

}  // namespace moesaic::device_model::internal
