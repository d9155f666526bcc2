// What kernels over rows share: 16 bytes of a row at a time, and who does which part of it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/math.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/device/device.hpp>

namespace moesaic::cuda {

/// `Count` neighbours of a row, moved at once: 16 bytes of T, or one element.
template <class T, int Count>
struct alignas(Count == 1 ? alignof(T) : Count * sizeof(T) < 16 ? Count * sizeof(T) : 16) run_of {
  static_assert((Count & (Count - 1)) == 0, "what is moved at once is a power of two");
  T value[Count];
};
/// Elements of T in 16 bytes.
template <class T>
inline constexpr int wide = static_cast<int>(16 / sizeof(T));

/// Whether rows can be read 16 bytes at a time: base and stride are multiples of it, and the width of `wide` elements.
template <class... T>
bool is_wide(view<T> const&... rows) {
  return ((reinterpret_cast<std::uintptr_t>(rows.data) % 16 == 0 && rows.stride * static_cast<std::int64_t>(sizeof(T)) % 16 == 0 &&
           rows.columns * static_cast<std::int64_t>(sizeof(T)) % 16 == 0) && ...);
}

/// Sets a flag of a call (call_flags) to 1: any thread may, at any time.
MOESAIC_DEVICE void raise_flag(std::int32_t* flag) { device::atomic_exch(reinterpret_cast<std::uint32_t*>(flag), 1u); }

/// Elements [at, at + Count) of a row, widened.
template <int Count, class T>
MOESAIC_DEVICE void load_run(T const* row, std::int64_t at, float (&x)[Count]) {
  auto const run = *reinterpret_cast<run_of<T, Count> const*>(row + at);
  MOESAIC_UNROLL
  for (int i = 0; i < Count; ++i) x[i] = static_cast<float>(run.value[i]);
}
/// The same way back, rounded once.
template <int Count, class T>
MOESAIC_DEVICE void store_run(T* row, std::int64_t at, float const (&x)[Count]) {
  run_of<T, Count> run;
  MOESAIC_UNROLL
  for (int i = 0; i < Count; ++i) run.value[i] = static_cast<T>(x[i]);
  *reinterpret_cast<run_of<T, Count>*>(row + at) = run;
}

/// x, rounded as T is stored.
template <class T>
MOESAIC_DEVICE float rounded(float x) { return static_cast<float>(static_cast<T>(x)); }

/// Blocks for `rows` rows, `each` a block; at most what one dimension of a grid takes, so that kernels step by the grid.
inline unsigned blocks_for(std::int64_t rows, int each = 1) {
  auto const blocks = (rows + each - 1) / each;
  return static_cast<unsigned>(blocks < 0x7fff'ffff ? blocks : 0x7fff'ffff);
}

/// f(i) for every run of `Count` of [0, columns) that is this thread's.
template <int Count, int Threads, class F>
MOESAIC_DEVICE void for_each_run(std::int64_t columns, F&& f) {
  for (std::int64_t i = static_cast<std::int64_t>(device::thread_id()) * Count; i < columns; i += static_cast<std::int64_t>(Threads) * Count) f(i);
}

}  // namespace moesaic::cuda
