// Rows to rows of unit size: RMS norm and LayerNorm of tokens, the same after a residual is added, and RMS norm of the heads inside a token.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/config/weights.hpp>
#include <moesaic/cuda/kernel/norm.hpp>
#include <moesaic/cuda/launch.hpp>

namespace moesaic::cuda {

namespace norm_detail {
template <bool Adds, class T>
void start_norm(stream& where, norm_config const& config, norm_weights const& w, view<const T> x, view<const T> added, view<T> sum, view<T> y,
                double factor = 1.0) {
  auto const go = [&]<int Count>() {
    start<normalize_rows<T, Count, Adds>>(where, {.x = blocks_for(x.rows), .early = true},
                                          {x, added, sum, y, w.weight.data, w.bias.data, static_cast<float>(config.epsilon), config.kind,
                                           config.cast, static_cast<float>(config.weight_offset), static_cast<float>(factor)});
  };
  if (is_wide(x, y) && (!Adds || is_wide(added, sum))) go.template operator()<wide<T>>();
  else go.template operator()<1>();
}
}  // namespace norm_detail

/// y = x normalised along its columns, times weight (and its offset), plus bias (LayerNorm only). x, y [tokens, width]; y may be x. Statistics in
/// float. Rounded to T once; an RMS norm whose cast is before the weight, there too.
template <class T, bool /*Rms*/ = false, class Tuning>
void normalize(basic_stream_ref<Tuning>& where, norm_config const& config, norm_weights const& weights, view<const T> x, view<T> y) {
  norm_detail::start_norm<false, T>(where, config, weights, x, {}, {}, y);
}

/// sum = x + scale · added, rounded to T; y = sum normalised. One pass where the two ops would be two. sum may be x or added; y is another.
template <class T, bool /*Rms*/ = false, class Tuning>
void add_and_normalize(basic_stream_ref<Tuning>& where, norm_config const& config, norm_weights const& weights, view<const T> x, view<const T> added,
                       view<T> sum, view<T> y, double scale = 1.0) {
  norm_detail::start_norm<true, T>(where, config, weights, x, added, sum, y, scale);
}

/// RMS norm in place of each head by itself, whatever the layer's kind: x [tokens, heads · head_dim], weight [head_dim], shared by the heads.
/// Over the whole projected width: heads 1, head_dim the width.
template <class T, class Tuning>
void normalize_heads(basic_stream_ref<Tuning>& where, norm_config const& config, list<const float> weight, view<T> x, int heads, int head_dim) {
  start<normalize_each_head<T>>(where, {.x = blocks_for(x.rows * heads, 4), .early = true},
                                {x, weight.data, static_cast<float>(config.epsilon), heads, head_dim, config.cast, static_cast<float>(config.weight_offset)});
}

}  // namespace moesaic::cuda
