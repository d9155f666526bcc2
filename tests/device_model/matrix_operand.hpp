// Turns matrix descriptors of wgmma into the shared addresses of an operand's 16-byte chunks, and says what a descriptor cannot be.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include <moesaic/device/mma.hpp>

namespace moesaic::device_model {

/// One operand of one step: 32 bytes of K for each of `extent` rows of M or columns of N.
struct operand {
  std::uint32_t start = 0, leading = 0, stride = 0;   ///< bytes; start in the shared window
  device::swizzle swizzle = device::swizzle::none;
  device::major major = device::major::k;
  int extent = 0;

  friend bool operator==(operand const&, operand const&) = default;
};

/// The address that the swizzle makes of one: bits 4 .. 6 ^= bits 7 .. 9, as many of them as the width has.
constexpr std::uint32_t swizzled(std::uint32_t address, device::swizzle s) {
  std::uint32_t const mask = s == device::swizzle::none ? 0 : s == device::swizzle::b32 ? 1 : s == device::swizzle::b64 ? 3 : 7;
  return address ^ (((address >> 7) & mask) << 4);
}

/// Chunks of 16 bytes: along K, chunk `chunk` (0, 1) of row `row` of M or N; along M or N, chunk `chunk` of 8 elements of row `row` of the
/// 16 of K.
constexpr std::uint32_t chunk_address(operand const& o, int row, int chunk) {
  auto const r = static_cast<std::uint32_t>(row), c = static_cast<std::uint32_t>(chunk);
  auto const width = static_cast<std::uint32_t>(bytes_of(o.swizzle));
  auto const in_tile = r % 8 * width;
  if (o.swizzle == device::swizzle::none) {
    // Tiles of 8 rows of one chunk. Along K stride leads to the next rows and leading to the next chunk; along M or N they
    // change places.
    auto const [of_row, of_chunk] = o.major == device::major::k ? std::pair{o.stride, o.leading} : std::pair{o.leading, o.stride};
    return o.start + in_tile + r / 8 * of_row + c * of_chunk;
  }
  auto const chunks = width / 16;
  if (o.major == device::major::k) return swizzled(o.start + in_tile + r / 8 * o.stride + c * 16, o.swizzle);
  return swizzled(o.start + in_tile + r / 8 * o.stride + c / chunks * o.leading + c % chunks * 16, o.swizzle);
}

/// Takes a descriptor apart. Empty, or what is wrong with it: bits that have no meaning, tiles that do not start where their swizzle does.
inline std::string decode(std::uint64_t descriptor, device::major major, int extent, operand& o) {
  auto const field = [&](int first) { return static_cast<std::uint32_t>((descriptor >> first & 0x3fffu) << 4); };
  constexpr device::swizzle kinds[4] = {device::swizzle::none, device::swizzle::b128, device::swizzle::b64, device::swizzle::b32};
  o = {.start = field(0), .leading = field(16), .stride = field(32), .swizzle = kinds[descriptor >> 62], .major = major, .extent = extent};
  constexpr std::uint64_t meant = 0x3fffull | 0x3fffull << 16 | 0x3fffull << 32 | 0x7ull << 49 | 0x3ull << 62;
  if (descriptor & ~meant) return "matrix descriptor with bits set that have no meaning";
  if (descriptor >> 49 & 7) return "matrix descriptor with a base offset: tiles start at multiples of their size";
  if (o.swizzle == device::swizzle::none) return {};
  auto const width = static_cast<std::uint32_t>(bytes_of(o.swizzle)), tile = 8 * width;
  auto const inside = o.start % tile;
  if (inside >= width)
    return "matrix descriptor starts at " + std::to_string(o.start) + ", not in the first row of a swizzle's tile of " +
           std::to_string(tile) + " bytes";
  auto const groups = major == device::major::k ? extent / 8 : 2;   // of 8 rows
  if (groups > 1 && o.stride % tile != 0)
    return "matrix descriptor's stride of " + std::to_string(o.stride) + " bytes is not whole tiles of " + std::to_string(tile) + " bytes";
  if (major == device::major::k) {
    if (inside + 32 > width) return "matrix descriptor's step of K leaves the swizzle's width";
    return {};
  }
  auto const bytes = static_cast<std::uint32_t>(2 * extent);
  if (inside + (bytes < width ? bytes : width) > width) return "matrix descriptor's rows leave the swizzle's width";
  if (bytes > width && o.leading % tile != 0)
    return "matrix descriptor's leading offset of " + std::to_string(o.leading) + " bytes is not whole tiles of " + std::to_string(tile) +
           " bytes";
  return {};
}

/// Reads rows first .. first + count − 1 of M or N (multiples of 8) into `to` [count][32 bytes of K]. `byte_at(address)` is where 16 bytes
/// lie, null where there is nothing: then false.
template <class ByteAt>
bool gather(operand const& o, int first, int count, std::byte (*to)[32], ByteAt byte_at) {
  if (o.major == device::major::k) {
    for (int r = 0; r < count; ++r)
      for (int c = 0; c < 2; ++c) {
        std::byte const* const from = byte_at(chunk_address(o, first + r, c));
        if (!from) return false;
        __builtin_memcpy(to[r] + 16 * c, from, 16);
      }
    return true;
  }
  for (int k = 0; k < 16; ++k)
    for (int c = 0; c < count / 8; ++c) {
      std::byte const* const from = byte_at(chunk_address(o, k, first / 8 + c));
      if (!from) return false;
      for (int i = 0; i < 8; ++i) __builtin_memcpy(to[8 * c + i] + 2 * k, from + 2 * i, 2);
    }
  return true;
}

}  // namespace moesaic::device_model
