// The templates of device/mma.hpp for a compiler without nvcc: each calls the model's own function, which takes its numbers at run time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/device/mma.hpp>

#include "matrix.hpp"

namespace moesaic::device {

template <int Tiles>
void ldmatrix(std::uint32_t (&r)[Tiles], void const* row) {
  static_assert(Tiles == 1 || Tiles == 2 || Tiles == 4, "ldmatrix loads 1, 2 or 4 tiles");
  device_model::internal::ldmatrix(Tiles, false, {r}, row);
}
template <int Tiles>
void ldmatrix_trans(std::uint32_t (&r)[Tiles], void const* row) {
  static_assert(Tiles == 1 || Tiles == 2 || Tiles == 4, "ldmatrix loads 1, 2 or 4 tiles");
  device_model::internal::ldmatrix(Tiles, true, {r}, row);
}
template <int Tiles>
void stmatrix(void* row, std::uint32_t const (&r)[Tiles]) {
  static_assert(Tiles == 1 || Tiles == 2 || Tiles == 4, "stmatrix stores 1, 2 or 4 tiles");
  device_model::internal::stmatrix(Tiles, false, row, {const_cast<std::uint32_t*>(r)});
}
template <int Tiles>
void stmatrix_trans(void* row, std::uint32_t const (&r)[Tiles]) {
  static_assert(Tiles == 1 || Tiles == 2 || Tiles == 4, "stmatrix stores 1, 2 or 4 tiles");
  device_model::internal::stmatrix(Tiles, true, row, {const_cast<std::uint32_t*>(r)});
}

template <dtype T>
inline constexpr bool multiplies = T == dtype::bf16 || T == dtype::fp16 || T == dtype::e4m3 || T == dtype::int8;

template <dtype T>
void mma_sync(mma_accumulator<T> (&d)[4], std::uint32_t const (&a)[4], std::uint32_t const (&b)[2]) {
  static_assert(multiplies<T>, "mma.sync multiplies bf16, fp16, e4m3 and int8 here");
  device_model::internal::mma_sync(T, {d}, {const_cast<std::uint32_t*>(a)}, {const_cast<std::uint32_t*>(b)});
}

template <int Pending>
void wgmma_wait_group() {
  static_assert(Pending >= 0 && Pending <= 7, "wgmma.wait_group takes 0 to 7");
  device_model::internal::wgmma_wait_group(Pending);
}
template <dtype T, int N, major A, major B>
void wgmma(mma_accumulator<T> (&d)[N / 2], std::uint64_t a, std::uint64_t b, bool add) {
  static_assert(multiplies<T> && wgmma_takes(T, N), "wgmma has no such shape");
  static_assert(bits(T) == 16 || (A == major::k && B == major::k), "wgmma takes 8-bit types with rows along K only");
  device_model::internal::wgmma({T, N, A, B}, {d}, a, b, add);
}
template <dtype T, int N, major B>
void wgmma(mma_accumulator<T> (&d)[N / 2], std::uint32_t const (&a)[4], std::uint64_t b, bool add) {
  static_assert(multiplies<T> && wgmma_takes(T, N), "wgmma has no such shape");
  static_assert(bits(T) == 16 || B == major::k, "wgmma takes 8-bit types with rows along K only");
  device_model::internal::wgmma({T, N, major::k, B}, {d}, device_model::internal::registers{const_cast<std::uint32_t*>(a)}, b, add);
}
template <class T, int Count>
void wgmma_hold(T (&)[Count]) {}

}  // namespace moesaic::device
