// A packed matrix times rows of x: what linear layers and both expert GEMMs are made of.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include <moesaic/base/groups.hpp>
#include <moesaic/base/math.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/config/activation_rule.hpp>
#include <moesaic/host/pool.hpp>
#include <moesaic/host/simd/simd.hpp>

namespace moesaic::host {

/// y[r] = act(W row(r) + bias), or by the rule of gate and up where the matrix has two parts. T, Out: float or bf16; both double in the reference.
template <class T, class Out>
struct product {
  packed_matrix matrix;                       // one; its data is that matrix
  const float* bias = nullptr;                // [parts, outputs] or null
  std::int64_t rows = 0;
  const T* x = nullptr;                       // rows of x, `x_stride` apart
  std::int64_t x_stride = 0;
  const std::int32_t* row_of = nullptr;       // which row of x is row r, or null: row r
  Out* y = nullptr;                           // [rows, outputs]
  std::int64_t y_stride = 0;
  bool activated = false;
  activation_rule_in<accumulator<T>> act = activation::relu;

  const T* row(std::int64_t r) const { return x + (row_of != nullptr ? row_of[r] : r) * x_stride; }
};

inline constexpr std::int64_t product_rows = 96;   // rows that share one pass over a pair: their sums, 12 KiB, and weights expanded once

}  // namespace moesaic::host

#define MOESAIC_BODY <moesaic/host/simd/panel.inl>
#include <moesaic/host/simd/levels.inl>
#define MOESAIC_BODY <moesaic/host/simd/finish.inl>
#include <moesaic/host/simd/levels.inl>
#define MOESAIC_BODY <moesaic/host/simd/multiply.inl>
#include <moesaic/host/simd/levels.inl>

#if defined(__x86_64__)
#include <moesaic/host/simd/target_avx512_bf16.inl>
namespace moesaic::host::avx512_bf16 {
#include <moesaic/host/simd/basics.inl>
#include <moesaic/host/simd/dot.inl>
#include <moesaic/host/simd/multiply.inl>
}
#include <moesaic/host/simd/target_end.inl>
#endif

namespace moesaic::host {

namespace reference {

/// One weight of a pair of panels as double: code · scale rounded to float as the kernels do, then widened.
template <dtype W>
double weight(packed_matrix const& m, std::int64_t pair, int panel, int lane, std::int64_t k) {
  constexpr auto per_lane = packed::per_lane(W);
  auto const* const data = m.data + pair * packed::pair_bytes(m.stored, m.inputs);
  auto const i = static_cast<int>(k % per_lane);
  std::uint32_t row;
  std::memcpy(&row, data + packed::row_offset(k / per_lane, panel, packed::rows(W, m.inputs)) + lane * 4, sizeof row);
  auto const code = (row >> (bits(W) == 4 ? 4 * packed::nibble_of(i) : i * bits(W) % 32)) & (0xffff'ffffu >> (32 - bits(W)));
  if constexpr (W == dtype::fp32) return static_cast<double>(std::bit_cast<float>(code));
  else if constexpr (W == dtype::bf16) return static_cast<double>(static_cast<float>(bf16::from_bits(static_cast<std::uint16_t>(code))));
  else if constexpr (W == dtype::fp16) return static_cast<double>(static_cast<float>(fp16::from_bits(static_cast<std::uint16_t>(code))));
  else {
    auto const* const scales = data + packed::tile_bytes(W, m.inputs);
    auto const at = ((m.stored.group == 0 ? 0 : k / m.stored.group) * 2 + panel) * packed::lanes + lane;
    group_scale s;
    if constexpr (W == dtype::mxfp4) s.scale = e8m0::from_bits(static_cast<std::uint8_t>(scales[at]));
    else std::memcpy(&s.scale, scales + at * 4, sizeof s.scale);
    if (m.stored.zero_point) s.zero = static_cast<int>(scales[packed::scale_bytes(m.stored, m.inputs) + at]);
    return static_cast<double>(groups::decode<W>(code, s, m.stored.zero_point));
  }
}

inline double activate(activation_rule const& rule, double x) {
  switch (rule.act) {
    case activation::swiglu: return x / (1.0 + std::exp(-rule.alpha * x));
    case activation::geglu_tanh:
    case activation::gelu_tanh: return gelu_tanh(x);
    case activation::geglu_erf: return gelu_erf(x);
    case activation::relu: return relu(x);
    case activation::relu_squared: return relu(x) * relu(x);
  }
  return x;
}

/// Pairs [first, last) of a product in double, plainly.
template <dtype W>
void multiply_pairs(product<double, double> const& p, std::int64_t first, std::int64_t last) {
  auto const& m = p.matrix;
  constexpr std::int64_t lanes = packed::lanes;
  for (auto output = first * lanes * (m.parts == 2 ? 1 : 2); output < last * lanes * (m.parts == 2 ? 1 : 2) && output < m.outputs; ++output)
    for (std::int64_t r = 0; r < p.rows; ++r) {
      auto const sum = [&](int part) {
        auto const pair = m.parts == 2 ? output / lanes : output / (2 * lanes);
        auto const panel = m.parts == 2 ? part : static_cast<int>(output / lanes % 2);
        double s = 0;
        for (std::int64_t k = 0; k < m.inputs; ++k)
          s = std::fma(weight<W>(m, pair, panel, static_cast<int>(output % lanes), k), p.row(r)[k], s);
        return p.bias != nullptr ? s + static_cast<double>(p.bias[part * m.outputs + output]) : s;
      };
      auto value = sum(0);
      if (m.parts == 2) {
        auto const limit = p.act.limit;
        auto const most = [&](double x) { return x > limit ? limit : x; };
        auto const up = most(sum(1));
        value = activate(p.act, most(value)) * ((up < -limit ? -limit : up) + p.act.up_offset);
      } else if (p.activated) {
        value = activate(p.act, value);
      }
      p.y[r * p.y_stride + output] = value;
    }
}

}  // namespace reference

/// Pairs [first, last) of a product, by the kernels of level `l`.
template <dtype W, class T, class Out>
void multiply_pairs(level l, product<T, Out> const& p, std::int64_t first, std::int64_t last) {
  if constexpr (std::is_same_v<T, double>) return reference::multiply_pairs<W>(p, first, last);
#if defined(__x86_64__)
  if constexpr (std::is_same_v<T, bf16> && W != dtype::fp32 && W != dtype::fp16)   // codes that are exact in bf16
    if (l == level::avx512_bf16) return multiply_pairs<W>(avx512_bf16::here{}, p, first, last);
#endif
  if constexpr (!std::is_same_v<T, double>) at_level(l, [&](auto here) { multiply_pairs<W>(here, p, first, last); });
}

/// Pairs that make one task: few enough that threads finish together, and a multiple of what one row meets at a time.
inline std::int64_t pairs_of_task(pool const& where, std::int64_t pairs) {
  constexpr std::int64_t step = 4, tasks_of_thread = 4;
  if (where.threads() == 1) return pairs;
  auto const even = pairs / (where.threads() * tasks_of_thread) / step * step;
  return even < step ? step : even;
}

}  // namespace moesaic::host
