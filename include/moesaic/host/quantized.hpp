// Activations to codes of e4m3, and products of codes with codes: the FP8 recipe of DeepSeek-V3's technical report (arXiv:2412.19437, section 3.3).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include <moesaic/base/floats.hpp>
#include <moesaic/base/groups.hpp>
#include <moesaic/base/math.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/host/pack.hpp>
#include <moesaic/host/pool.hpp>

namespace moesaic::host {

/// What `quantize` writes: codes [rows, inputs] of e4m3 and scales [rows, ⌈inputs / 128⌉].
struct quantized_rows {
  view<const std::uint8_t> codes;
  view<const float> scales;
};

namespace quantized_detail {

// of_group(t, number, scale) and of_code(t, input, code, scale) of rows [first, *end), or to the last.
template <class X, class OfGroup, class OfCode>
void each_code(pool& where, input_codes kind, view<X> x, std::int64_t first, std::int32_t const* end_row, OfGroup of_group, OfCode of_code) {
  constexpr std::int64_t group = groups::input_group;
  where.for_each((end_row != nullptr ? *end_row : x.rows) - first, [&](std::int64_t row) {
    auto const t = first + row;
    for (std::int64_t k = 0; k < x.columns; k += group) {
      auto const end = std::min(x.columns, k + group);
      float largest = 0;
      for (auto i = k; i < end; ++i) largest = groups::larger(largest, std::fabs(static_cast<float>(x(t, i))));
      auto const scale = groups::input_scale(kind, largest);
      of_group(t, k / group, scale.scale);
      for (auto i = k; i < end; ++i) of_code(t, i, static_cast<std::uint8_t>(groups::encode<dtype::e4m3>(static_cast<float>(x(t, i)), scale)), scale.scale);
    }
  });
}

}  // namespace quantized_detail

/// x [rows, inputs] to codes [rows, inputs] and scales [rows, ⌈inputs / 128⌉]: of every 128 inputs of a row s = max(largest, 1e-4) / 448, or the next
/// power of two, and codes e4m3(x / s), so that x ≈ code · s. X: float or bf16. rows: how many there are, at most x.rows; null: x.rows.
template <class X>
void quantize(pool& where, view<X> x, view<std::uint8_t> codes, view<float> scales, std::int32_t const* rows = nullptr,
              input_codes kind = input_codes::e4m3) {
  quantized_detail::each_code(where, kind, x, 0, rows, [&](auto t, auto group, float scale) { scales(t, group) = scale; },
                              [&](auto t, auto i, std::uint8_t code, float) { codes(t, i) = code; });
}

/// What a layer's products read in place of x where their inputs are codes (storage.inputs): the numbers that these are, code · scale, rounded once.
/// x [rows, inputs], of it rows [*first, *end), or from the first, or to the last; memory for as many as x has.
template <input_codes Codes, class T>
view<const coded<Codes, T>> code_inputs(pool& where, view<const T> x, list<coded<Codes, T>> memory, std::int32_t const* end = nullptr,
                                        std::int32_t const* first = nullptr) {
  using sum = accumulator<T>;
  view<coded<Codes, T>> const values(memory.data, x.rows, x.columns);
  quantized_detail::each_code(where, Codes, x, first != nullptr ? *first : 0, end, [](auto, auto, float) {}, [&](auto t, auto i, std::uint8_t code, float scale) {
    values(t, i) = static_cast<coded<Codes, T>>(static_cast<sum>(static_cast<float>(e4m3::from_bits(code))) * static_cast<sum>(scale));
  });
  return values;
}

/// How products of a block of 128 inputs are added.
///   bits == 0   exactly, and rounded to float once
///   else        as a tensor core with so short an accumulator does: 32 products and the sum so far are aligned to the largest, and what lies
///               below its `bits` bits is cut off. Hopper keeps 14 for fp8 (arXiv:2412.19437, section 3.5.2)
/// promoted: sums of 128 are scaled and added in fp32, which is what the recipe is for; else all inputs are added in the short accumulator.
struct code_sums {
  int bits = 0;
  bool promoted = true;
};

namespace quantized_detail {

// A code of e4m3 in parts of 2^-9, in which all of them are whole. NaN is nothing: whoever adds them asks before.
inline constexpr auto whole_codes = [] {
  std::array<std::int32_t, 256> whole{};
  for (std::size_t i = 0; i < 256; ++i)
    if ((i & 0x7f) != 0x7f) whole[i] = static_cast<std::int32_t>(static_cast<float>(e4m3::from_bits(static_cast<std::uint8_t>(i))) * 512.0f);
  return whole;
}();
inline constexpr bool is_nan(std::uint32_t code) { return (code & 0x7f) == 0x7f; }
inline constexpr double unit = 0x1p-18;              // of a product of two

// `sum` plus the products, in an accumulator of so many bits.
inline double add_short(double sum, std::int32_t const* a, std::int32_t const* b, std::int64_t count, double scale, int bits) {
  double addend[33] = {sum};
  for (std::int64_t i = 0; i < count; ++i) addend[i + 1] = static_cast<double>(std::int64_t{a[i]} * b[i]) * scale;
  int most = std::numeric_limits<int>::min();
  for (std::int64_t i = 0; i <= count; ++i)
    if (addend[i] != 0) most = std::max(most, std::ilogb(addend[i]));
  if (most == std::numeric_limits<int>::min()) return sum;
  auto const step = std::ldexp(1.0, most - bits + 1);
  double total = 0;
  for (std::int64_t i = 0; i <= count; ++i) total += std::trunc(addend[i] / step) * step;
  return total;
}

}  // namespace quantized_detail

/// y[t][n] = bias[n] + Σ_k W[n][k] x[t][k], both as their codes and scales say: Σ over blocks of 128 inputs, in fp32, of (scale of x · scale of W) ·
/// (Σ of code · code). w: e4m3 in blocks of 128, of one part; a last block may be short. y [tokens, outputs], float or bf16; bias [outputs] or empty.
/// Throws `error` for other weights. Plain loops: a twin of cuda/quantized.hpp to compare with, not a fast path.
template <class Y>
void linear(pool& where, packed_matrix const& w, quantized_rows const& x, list<const float> bias, view<Y> y, code_sums sums = {}) {
  using namespace quantized_detail;
  if (w.stored != format(dtype::e4m3, 128) || w.parts != 1)
    throw_error({"products of codes with codes: expected one part of e4m3 in blocks of 128, found ", w.parts, " of ", name(w.stored.type), " in groups of ",
                 w.stored.group});
  constexpr std::int64_t group = 128, together = 32;
  auto const blocks = packed::groups(w.stored, w.inputs), tokens = x.codes.rows, per_task = 2 * std::int64_t{packed::lanes};
  // Rows of x once. A code that is NaN makes its scale NaN, as one of a weight does.
  std::vector<std::int32_t> of_x(static_cast<std::size_t>(tokens * w.inputs));
  std::vector<float> scale_of_x(static_cast<std::size_t>(tokens * blocks));
  where.for_each(tokens, [&](std::int64_t t) {
    for (std::int64_t b = 0; b < blocks; ++b) scale_of_x[static_cast<std::size_t>(t * blocks + b)] = x.scales(t, b);
    for (std::int64_t k = 0; k < w.inputs; ++k) {
      auto const code = x.codes(t, k);
      of_x[static_cast<std::size_t>(t * w.inputs + k)] = whole_codes[code];
      if (is_nan(code)) scale_of_x[static_cast<std::size_t>(t * blocks + k / group)] = std::numeric_limits<float>::quiet_NaN();
    }
  });
  where.for_each(packed::pairs(w), [&](std::int64_t pair) {
    std::vector<std::int32_t> of_w(static_cast<std::size_t>(w.inputs));
    std::vector<float> scale_of_w(static_cast<std::size_t>(blocks));
    auto const* const data = w.data + pair * packed::pair_bytes(w.stored, w.inputs);
    for (auto n = pair * per_task; n < std::min(w.outputs, (pair + 1) * per_task); ++n) {
      auto const at = pack_detail::place_of(w, 0, n);
      for (std::int64_t b = 0; b < blocks; ++b)
        std::memcpy(&scale_of_w[static_cast<std::size_t>(b)], data + pack_detail::scales_at(w) + 4 * pack_detail::scale_index(b, at.panel, at.lane), 4);
      for (std::int64_t k = 0; k < w.inputs; k += 4) {
        std::uint32_t word;
        std::memcpy(&word, data + packed::row_offset(k / 4, at.panel, packed::rows(dtype::e4m3, w.inputs)) + 4 * at.lane, 4);
        for (int i = 0; i < 4 && k + i < w.inputs; ++i) {
          of_w[static_cast<std::size_t>(k + i)] = whole_codes[word >> 8 * i & 0xff];
          if (is_nan(word >> 8 * i)) scale_of_w[static_cast<std::size_t>(k / group)] = std::numeric_limits<float>::quiet_NaN();
        }
      }
      for (std::int64_t t = 0; t < tokens; ++t) {
        auto const* const xs = of_x.data() + t * w.inputs;
        float promoted = 0;
        double narrow = 0;
        for (std::int64_t b = 0; b < blocks; ++b) {
          auto const first = b * group, end = std::min(w.inputs, first + group);
          auto const scale = scale_of_x[static_cast<std::size_t>(t * blocks + b)] * scale_of_w[static_cast<std::size_t>(b)];
          if (sums.bits == 0) {
            std::int64_t sum = 0;
            for (auto k = first; k < end; ++k) sum += std::int64_t{of_w[static_cast<std::size_t>(k)]} * xs[k];
            promoted = std::fma(static_cast<float>(sum) * static_cast<float>(unit), scale, promoted);
            continue;
          }
          if (sums.promoted) narrow = 0;
          auto const step = sums.promoted ? unit : unit * static_cast<double>(scale);
          for (auto k = first; k < end; k += together)
            narrow = add_short(narrow, of_w.data() + k, xs + k, std::min(together, end - k), step, sums.bits);
          if (sums.promoted) promoted = std::fma(static_cast<float>(narrow), scale, promoted);
        }
        if (sums.bits != 0 && !sums.promoted) promoted = static_cast<float>(narrow);
        y(t, n) = static_cast<Y>(promoted + (bias.empty() ? 0.0f : bias[n]));
      }
    }
  });
}

}  // namespace moesaic::host
