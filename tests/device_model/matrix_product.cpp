// Products of tiles: operands become floats once, then columns are summed eight at a time.
// SPDX-License-Identifier: Apache-2.0
#include "matrix_product.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <moesaic/base/bits.hpp>
#include <moesaic/base/floats.hpp>

namespace moesaic::device_model {

namespace {

constexpr int most_columns = 256, most_steps = 32, lanes = 8;

struct e4m3_values {
  float of[256];
  e4m3_values() {
    for (int i = 0; i < 256; ++i) of[i] = e4m3::from_bits(static_cast<std::uint8_t>(i));
  }
};

template <class T>
T element(std::byte const* row, int k) {
  T x;
  std::memcpy(&x, row + sizeof(T) * static_cast<std::size_t>(k), sizeof(T));
  return x;
}

/// Values of a row's 32 bytes, `apart` floats from one to the next.
void decode_row(dtype t, std::byte const* row, float* to, int apart) {
  static e4m3_values const table;
  if (t == dtype::bf16) {
    for (int k = 0; k < 16; ++k) to[k * apart] = bf16::from_bits(element<std::uint16_t>(row, k));
  } else if (t == dtype::fp16) {
    for (int k = 0; k < 16; ++k) to[k * apart] = fp16::from_bits(element<std::uint16_t>(row, k));
  } else {
    for (int k = 0; k < 32; ++k) to[k * apart] = table.of[element<std::uint8_t>(row, k)];
  }
}

/// b as floats [K][n]. The four warps of a warpgroup multiply by the same b one after the other: it is kept.
struct columns {
  dtype type = dtype::same;
  int n = 0;
  std::byte raw[most_columns][32];
  alignas(64) float of[most_steps][most_columns];

  void set(dtype t, int count, std::byte const (*b)[32]) {
    auto const bytes = static_cast<std::size_t>(count) * 32;
    if (t == type && count == n && std::memcmp(raw, b, bytes) == 0) return;
    type = t, n = count;
    std::memcpy(raw, b, bytes);
    for (int c = 0; c < n; ++c) decode_row(t, b[c], &of[0][c], most_columns);
  }
};

/// One sum of 14 bits: every addend is cut below 2^(largest exponent − 13), the sum is exact, and what leaves has 14 bits again.
float cut_sum(float const* addends, int count) {
  constexpr int none = -1000;
  int largest = none;
  for (int i = 0; i < count; ++i) {
    if (!std::isfinite(addends[i])) return not_a_number<float>;
    if (addends[i] != 0) largest = std::max(largest, std::ilogb(addends[i]));
  }
  if (largest == none) return 0;
  std::int64_t sum = 0;
  for (int i = 0; i < count; ++i) sum += static_cast<std::int64_t>(std::ldexp(static_cast<double>(addends[i]), 13 - largest));
  if (sum == 0) return 0;
  double const exact = std::ldexp(static_cast<double>(sum), largest - 13);
  int const last = std::ilogb(exact) - 13;
  return static_cast<float>(std::ldexp(std::trunc(std::ldexp(exact, -last)), last));
}

void multiply_int8(int rows, int n, std::byte const (*a)[32], std::byte const (*b)[32], std::uint32_t* d) {
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < n; ++c) {
      int sum = 0;
      for (int k = 0; k < 32; ++k) sum += element<std::int8_t>(a[r], k) * element<std::int8_t>(b[c], k);
      d[r * n + c] += static_cast<std::uint32_t>(sum);
    }
}

}  // namespace

void multiply(dtype t, int rows, int n, std::byte const (*a)[32], std::byte const (*b)[32], std::uint32_t* d, e4m3_sums sums) {
  if (t == dtype::int8) return multiply_int8(rows, n, a, b, d);
  static thread_local columns across;
  across.set(t, n, b);
  int const steps = 256 / bits(t);
  bool const cut = t == dtype::e4m3 && sums == e4m3_sums::bits14;
  for (int r = 0; r < rows; ++r) {
    float of_row[most_steps];
    decode_row(t, a[r], of_row, 1);
    for (int c = 0; c < n; c += lanes) {
      float sum[lanes];
      std::memcpy(sum, d + r * n + c, sizeof(sum));
      if (cut) {
        for (int i = 0; i < lanes; ++i) {
          float addends[most_steps + 1];
          for (int k = 0; k < steps; ++k) addends[k] = of_row[k] * across.of[k][c + i];
          addends[steps] = sum[i];
          sum[i] = cut_sum(addends, steps + 1);
        }
      } else {
        for (int k = 0; k < steps; ++k)
          for (int i = 0; i < lanes; ++i) sum[i] += of_row[k] * across.of[k][c + i];
      }
      std::memcpy(d + r * n + c, sum, sizeof(sum));
    }
  }
}

}  // namespace moesaic::device_model
