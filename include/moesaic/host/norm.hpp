// Rows to rows of unit size: RMS norm and LayerNorm of tokens, and RMS norm of the heads inside a token.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <moesaic/base/math.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/block_config.hpp>
#include <moesaic/config/weights.hpp>
#include <moesaic/host/pool.hpp>

namespace moesaic::host {

namespace norm_detail {

/// Σ value(c) over columns: lane l of 16 takes columns l, l + 16, ..., then lanes are added pairwise, far half onto near half.
/// This order is what 16-wide vectors would give, so the compiler may use any width.
template <class Sum, class F>
Sum sum_over(std::int64_t columns, F&& value) {
  Sum lane[16] = {};
  std::int64_t c = 0;
  for (; c + 16 <= columns; c += 16)
    for (int l = 0; l < 16; ++l) lane[l] += value(c + l);
  for (int l = 0; c + l < columns; ++l) lane[l] += value(c + l);
  for (int half = 8; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
  return lane[0];
}

/// One row; y may be x. weight [columns] or null (ones).
/// At bf16 the normalised value is rounded before it meets the weight, as the HuggingFace Llama classes do.
template <class T>
void rms(double epsilon, const float* weight, T const* x, T* y, std::int64_t columns) {
  using sum = accumulator<T>;
  auto const squares = sum_over<sum>(columns, [&](std::int64_t c) { return static_cast<sum>(x[c]) * static_cast<sum>(x[c]); });
  auto const scale = sum(1) / std::sqrt(squares / static_cast<sum>(columns) + static_cast<sum>(epsilon));
  for (std::int64_t c = 0; c < columns; ++c) {
    auto const unit = static_cast<T>(static_cast<sum>(x[c]) * scale);
    y[c] = weight != nullptr ? static_cast<T>(static_cast<sum>(unit) * static_cast<sum>(weight[c])) : unit;
  }
}

/// One row; y may be x. Rounded to T once. bias [columns] or null.
template <class T>
void layer(double epsilon, const float* weight, const float* bias, T const* x, T* y, std::int64_t columns) {
  using sum = accumulator<T>;
  auto const mean = sum_over<sum>(columns, [&](std::int64_t c) { return static_cast<sum>(x[c]); }) / static_cast<sum>(columns);
  auto const squares = sum_over<sum>(columns, [&](std::int64_t c) {
    auto const centred = static_cast<sum>(x[c]) - mean;
    return centred * centred;
  });
  auto const scale = sum(1) / std::sqrt(squares / static_cast<sum>(columns) + static_cast<sum>(epsilon));
  for (std::int64_t c = 0; c < columns; ++c) {
    auto unit = (static_cast<sum>(x[c]) - mean) * scale;
    if (weight != nullptr) unit *= static_cast<sum>(weight[c]);
    y[c] = static_cast<T>(bias != nullptr ? unit + static_cast<sum>(bias[c]) : unit);
  }
}

}  // namespace norm_detail

/// y = x normalised along its columns, times weight, plus bias (LayerNorm only). x, y [tokens, width]; y may be x.
/// RMS (arXiv:1910.07467): x / √(mean(x²) + ε). LayerNorm (arXiv:1607.06450): (x − mean) / √(variance + ε).
/// Statistics in float (double for double). An empty weight stands for ones.
template <class T>
void normalize(pool& where, norm_config const& config, norm_weights const& weights, view<const T> x, view<T> y) {
  where.for_each(x.rows, [&](std::int64_t t) {
    if (config.kind == norm_kind::rms)
      norm_detail::rms(config.epsilon, weights.weight.data, x.row(t), y.row(t), x.columns);
    else
      norm_detail::layer(config.epsilon, weights.weight.data, weights.bias.data, x.row(t), y.row(t), x.columns);
  });
}

/// RMS norm in place of each head by itself: x [tokens, heads · head_dim], weight [head_dim], shared by the heads.
/// Over the whole projected width: heads 1, head_dim the width.
template <class T>
void normalize_heads(pool& where, double epsilon, list<const float> weight, view<T> x, int heads, int head_dim) {
  where.for_each(x.rows, [&](std::int64_t t) {
    for (std::int64_t h = 0; h < heads; ++h) {
      auto* const head = x.row(t) + h * head_dim;
      norm_detail::rms<T>(epsilon, weight.data, head, head, head_dim);
    }
  });
}

}  // namespace moesaic::host
