// A bump allocator over memory that somebody else owns. In counting mode (no memory) it answers how much is needed, so one
// function carves a workspace and tells its size.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <moesaic/base/view.hpp>

namespace moesaic {

/// Bytes handed to a call. Every take is aligned to 64 bytes, a cache line.
class arena {
 public:
  static constexpr std::size_t alignment = 64;

  /// Counting mode: hands out null pointers and adds up `used()`.
  MOESAIC_FN constexpr arena() {}
  /// Over `bytes` bytes at `memory`. The start need not be aligned; `workspace_bytes` leaves room for that.
  MOESAIC_FN arena(void* memory, std::size_t bytes) : base_(static_cast<std::byte*>(memory)), bytes_(bytes), counting_(false) {
    auto const misplaced = reinterpret_cast<std::uintptr_t>(memory) % alignment;
    used_ = misplaced == 0 ? 0 : alignment - misplaced;
  }

  template <class T>
  MOESAIC_FN constexpr list<T> take(std::int64_t count) {
    auto* const memory = bytes_for(static_cast<std::size_t>(count) * sizeof(T));
    return {memory != nullptr && count != 0 ? reinterpret_cast<T*>(memory) : nullptr, count};   // counting is a constant expression
  }
  template <class T>
  MOESAIC_FN constexpr view<T> take(std::int64_t rows, std::int64_t columns) {
    return {take<T>(rows * columns).data, rows, columns};
  }

  /// Bytes taken so far, and whether they all fitted (a counting arena always fits).
  MOESAIC_FN constexpr std::size_t used() const { return used_; }
  MOESAIC_FN constexpr bool fits() const { return counting_ || used_ <= bytes_; }

 private:
  // Not inlined: a layer takes dozens of times.
  [[gnu::noinline]] MOESAIC_FN constexpr std::byte* bytes_for(std::size_t bytes) {
    auto const at = used_;
    used_ += (bytes + alignment - 1) / alignment * alignment;
    return !counting_ && bytes != 0 && used_ <= bytes_ ? base_ + at : nullptr;   // nothing has no place, so a null pointer means none
  }

  std::byte* base_ = nullptr;
  std::size_t bytes_ = 0;
  std::size_t used_ = 0;
  bool counting_ = true;
};

}  // namespace moesaic
