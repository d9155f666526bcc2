// wgmma of one shape, from operands placed by plain arithmetic, against products in integers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "case.hpp"

namespace moesaic::conformance {

using device::major;
using device::swizzle;

/// Which tiles of an operand lie next to each other in shared memory: those along M or N, or those along K.
enum class order : std::uint8_t { mn_first, k_first };

/// Where the elements of an operand [Extent, Steps · 32 bytes] of 16-bit units lie, and what its descriptors say.
template <int Extent, int Steps, major Major, swizzle S, order Order>
struct placed {
  static constexpr int width = bytes_of(S);
  static constexpr int tile = 8 * width;
  static constexpr bool along_k = Major == major::k;
  // Tiles of 8 rows of `width` bytes: rows along K have rows of M or N, those along M or N have rows of K.
  static constexpr int row_tiles = along_k ? Extent / 8 : Steps * 2;
  static constexpr int byte_tiles = along_k ? (Steps * 32 + width - 1) / width : (Extent * 2 + width - 1) / width;
  static constexpr bool rows_next = (Order == order::mn_first) == along_k;
  static constexpr int from_row_tile = rows_next ? tile : byte_tiles * tile;
  static constexpr int from_byte_tile = rows_next ? row_tiles * tile : tile;
  static constexpr int bytes = row_tiles * byte_tiles * tile;

  /// Of bytes 2 k, 2 k + 1 of row r of M or N.
  MOESAIC_DEVICE static int of(int r, int k) {
    int const line = along_k ? r : k, byte = 2 * (along_k ? k : r);
    int const plain = line / 8 * from_row_tile + byte / width * from_byte_tile + line % 8 * width;
    int const chunk = byte % width / 16 ^ (width == 16 ? 0 : line % 8 * width / 128);
    return plain + chunk * 16 + byte % 16;
  }
  MOESAIC_DEVICE static std::uint64_t descriptor(std::uint32_t start, int step) {
    constexpr bool plain = S == swizzle::none;
    constexpr int leading = along_k ? (plain ? from_byte_tile : 16) : plain ? from_row_tile : from_byte_tile;
    constexpr int stride = along_k || !plain ? from_row_tile : from_byte_tile;
    int const of_step = along_k ? step * 32 / width * from_byte_tile + step * 32 % width : step * 2 * from_row_tile;
    return device::wgmma_descriptor(start + static_cast<std::uint32_t>(of_step), static_cast<std::uint32_t>(leading),
                                    static_cast<std::uint32_t>(stride), S);
  }
};

template <dtype T, int N, int Steps, bool Registers, major A, swizzle SwizzleA, major B, swizzle SwizzleB, order Order>
struct wgmma_kernel {
  static constexpr int threads = 128;
  static constexpr cuda::rung needs = cuda::rung::sm90;
  using place_a = placed<64, Steps, A, SwizzleA, Order>;
  using place_b = placed<N, Steps, B, SwizzleB, Order>;
  static constexpr int units = Steps * 16;   // of 16 bits, a row
  struct params : buffers {
    bool add = false;
  };
  struct shared {
    alignas(1024) std::byte a[Registers ? 16 : place_a::bytes];
    alignas(1024) std::byte b[place_b::bytes];
  };

  MOESAIC_DEVICE void operator()(params const& p) const {
    using namespace device;
    auto& s = device::shared<shared>();
    auto const t = thread_id();
    auto const* const in = reinterpret_cast<std::uint16_t const*>(p.in);
    if constexpr (!Registers)
      for (int i = t; i < 64 * units; i += threads)
        *reinterpret_cast<std::uint16_t*>(s.a + place_a::of(i / units, i % units)) = in[i];
    for (int i = t; i < N * units; i += threads)
      *reinterpret_cast<std::uint16_t*>(s.b + place_b::of(i / units, i % units)) = in[64 * units + i];
    fence_proxy_async();
    block_sync();
    mma_accumulator<T> d[N / 2];
    MOESAIC_UNROLL
    for (int i = 0; i < N / 2; ++i) d[i] = static_cast<mma_accumulator<T>>(t - i);
    [[maybe_unused]] std::uint32_t a[Steps][4];
    if constexpr (Registers) {
      MOESAIC_UNROLL
      for (int step = 0; step < Steps; ++step)
        MOESAIC_UNROLL
        for (int i = 0; i < 4; ++i)
          a[step][i] = p.in[(t / 32 * 16 + t % 32 / 4 + 8 * (i % 2)) * (units / 2) + step * 8 + t % 4 + 4 * (i / 2)];
    }
    auto const b_start = shared_address(s.b);
    [[maybe_unused]] auto const a_start = shared_address(s.a);
    wgmma_hold(d);   // or the compiler fills registers after the fence
    if constexpr (Registers) {
      MOESAIC_UNROLL
      for (int step = 0; step < Steps; ++step) wgmma_hold(a[step]);
    }
    wgmma_fence();
    MOESAIC_UNROLL
    for (int step = 0; step < Steps; ++step) {
      bool const add = step > 0 || p.add;
      if constexpr (Registers) wgmma<T, N, B>(d, a[step], place_b::descriptor(b_start, step), add);
      else wgmma<T, N, A, B>(d, place_a::descriptor(a_start, step), place_b::descriptor(b_start, step), add);
    }
    wgmma_commit_group();
    wgmma_wait_group<0>();
    wgmma_hold(d);
    MOESAIC_UNROLL
    for (int i = 0; i < N / 2; ++i) p.out[t * (N / 2) + i] = bit_cast<word>(d[i]);
  }
};

struct operands {
  random_stream r;
  matrix a, b;
  operands(dtype t, int n, int k, std::uint64_t seed) : r(seed), a(t, 64, k, r), b(t, n, k, r) {}
};
/// What each thread's registers hold.
inline words wgmma_products(dtype type, int n, operands const& o, bool add) {
  words to;
  for (int t = 0; t < 128; ++t)
    for (int i = 0; i < n / 2; ++i) {
      int const row = t / 32 * 16 + t % 32 / 4 + 8 * (i / 2 % 2), column = i / 4 * 8 + t % 4 * 2 + i % 2;
      int sum = add ? t - i : 0;
      for (int j = 0; j < o.a.k; ++j) sum += o.a.at(row, j) * o.b.at(column, j);
      to.push_back(as_sum(type, sum));
    }
  return to;
}

/// Odd seeds write d, even ones add to what it held.
template <dtype T, int N, int Steps, bool Registers, major A, swizzle SwizzleA, major B, swizzle SwizzleB, order Order>
struct wgmma_case {
  static constexpr int k = Steps * 256 / bits(T);
  static bool adds(std::uint64_t seed) { return seed % 2 == 0; }

  static words run(std::uint64_t seed) {
    using kernel = wgmma_kernel<T, N, Steps, Registers, A, SwizzleA, B, SwizzleB, Order>;
    operands const o(T, N, k, seed);
    return launch<kernel>({}, joined(o.a.packed, o.b.packed), words(64 * N, untouched), [&](buffers const& b) {
      return typename kernel::params{b, adds(seed)};
    });
  }
  static words expected(std::uint64_t seed) { return wgmma_products(T, N, operands(T, N, k, seed), adds(seed)); }
};

// --- lists of shapes -------------------------------------------------------------------------------------------------------------------

inline std::string wgmma_name(dtype t, int n, int steps, bool registers, major a, swizzle of_a, major b, swizzle of_b, order o) {
  auto const of = [](major m, swizzle s) { return std::string(m == major::k ? "k_" : "mn_") + name_of(s); };
  return std::string("wgmma.") + name(t) + ".n" + std::to_string(n) + ".a_" + (registers ? "registers" : of(a, of_a)) + ".b_" +
         of(b, of_b) + (o == order::k_first ? ".tiles_along_k" : "") + (steps == 4 ? ".steps4" : "");
}
template <dtype T, int N, int Steps, bool Registers, major A, swizzle SwizzleA, major B, swizzle SwizzleB, order Order>
void add_wgmma(cases& to) {
  add<wgmma_case<T, N, Steps, Registers, A, SwizzleA, B, SwizzleB, Order>>(
      to, wgmma_name(T, N, Steps, Registers, A, SwizzleA, B, SwizzleB, Order));
}

/// Every N, both operands as a tensor map with the widest swizzle lays them.
template <dtype T, int... Eights>
void add_every_n(cases& to, std::integer_sequence<int, Eights...>) {
  auto const one = [&]<int N>() {
    if constexpr (device::wgmma_takes(T, N))
      add_wgmma<T, N, 4, false, major::k, swizzle::b128, major::k, swizzle::b128, order::mn_first>(to);
  };
  (one.template operator()<8 * (Eights + 1)>(), ...);
}
/// Each swizzle, both orders of tiles.
template <dtype T, int N, bool Registers, major A, major B>
void add_every_layout(cases& to) {
  add_wgmma<T, N, 2, Registers, A, swizzle::none, B, swizzle::none, order::mn_first>(to);
  add_wgmma<T, N, 2, Registers, A, swizzle::b32, B, swizzle::b32, order::mn_first>(to);
  add_wgmma<T, N, 2, Registers, A, swizzle::b64, B, swizzle::b64, order::mn_first>(to);
  add_wgmma<T, N, 4, Registers, A, swizzle::b128, B, swizzle::b128, order::mn_first>(to);
  add_wgmma<T, N, 2, Registers, A, swizzle::none, B, swizzle::none, order::k_first>(to);
  add_wgmma<T, N, 4, Registers, A, swizzle::b32, B, swizzle::b64, order::k_first>(to);
}

}  // namespace moesaic::conformance
