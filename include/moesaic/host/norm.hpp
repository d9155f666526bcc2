// Rows to rows of unit size: RMS norm and LayerNorm of tokens, and RMS norm of the heads inside a token.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include <moesaic/base/math.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/block_config.hpp>
#include <moesaic/config/weights.hpp>
#include <moesaic/host/combine.hpp>
#include <moesaic/host/pool.hpp>
#include <moesaic/host/simd/parts.hpp>

namespace moesaic::host::in_double {
#include <moesaic/host/simd/norm.inl>
}
#define MOESAIC_BODY <moesaic/host/simd/norm.inl>
#include <moesaic/host/simd/levels.inl>

namespace moesaic::host {

/// y = x normalised along its columns, times weight (and its offset), plus bias (LayerNorm only). x, y [tokens, width]; y may be x.
/// RMS (arXiv:1910.07467): x / √(mean(x²) + ε). LayerNorm (arXiv:1607.06450): (x − mean) / √(variance + ε).
/// Statistics in float (double for double). An empty weight stands for ones. Rounded to T once; an RMS norm whose cast is before the weight, there too.
/// Rms: the kind is known to be that, so that only code for it is made.
template <class T, bool Rms = false>
void normalize(pool& where, norm_config const& config, norm_weights const& weights, view<const T> x, view<T> y) {
  at_level<T>(where.level(), [&](auto here) {
    where.for_each(x.rows, [&](std::int64_t t) {
      if (Rms || config.kind == norm_kind::rms)
        rms_row(here, config, weights.weight.data, x.row(t), y.row(t), x.columns);
      else
        layer_row(here, config, weights.weight.data, weights.bias.empty() ? nullptr : weights.bias.data, x.row(t), y.row(t),
                  x.columns);
    });
  });
}

/// sum = x + scale · added, rounded to T; y = sum normalised. sum may be x or added, y may not.
template <class T, bool Rms = false>
void add_and_normalize(pool& where, norm_config const& config, norm_weights const& weights, view<const T> x, view<const T> added, view<T> sum, view<T> y,
                       double scale = 1.0) {
  add<T>(where, x, added, sum, scale);
  normalize<T, Rms>(where, config, weights, sum, y);
}

/// RMS norm in place of each head by itself, whatever the layer's kind: x [tokens, heads · head_dim], weight [head_dim], shared by the heads.
/// Over the whole projected width: heads 1, head_dim the width.
template <class T>
void normalize_heads(pool& where, norm_config const& config, list<float const> weight, view<T> x, int heads, int head_dim) {
  at_level<T>(where.level(), [&](auto here) {
    where.for_each(x.rows, [&](std::int64_t t) {
      for (std::int64_t h = 0; h < heads; ++h) {
        auto* const head = x.row(t) + h * head_dim;
        rms_row<T>(here, config, weight.data, head, head, head_dim);
      }
    });
  });
}

}  // namespace moesaic::host
