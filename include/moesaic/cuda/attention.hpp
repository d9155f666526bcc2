// Queries and the cache to attention outputs: softmax(q Kᵀ · scale) V, causal, grouped heads, any mix of sequences in a batch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/cuda/kernel/attention.hpp>
#include <moesaic/cuda/launch.hpp>

namespace moesaic::cuda {

namespace attention_detail {
template <class T>
status check(kv_cache const& cache, view<const T> q, list<const std::int32_t> sequence, list<const std::int32_t> position, dtype stored) {
  if (sequence.size != position.size) return invalid("Every token has one sequence and one position.", sequence.size, position.size);
  if (q.rows != sequence.size) return invalid("Queries have one row for every token.", sequence.size, q.rows);
  if (cache.key_dim > attention_tuning::most_head_dim)
    return invalid("Attention keeps its heads in registers: head_dim is at most 512.", attention_tuning::most_head_dim, cache.key_dim);
  auto const width = std::int64_t{cache.kv_heads} * cache.key_dim;
  if (q.columns == 0 || q.columns % width != 0) return invalid("Queries are heads · head_dim wide, heads a multiple of kv_heads.", width, q.columns);
  if (cache.storage != stored) return invalid("A cache must have been made for the layer's storage.", bits(stored), bits(cache.storage));
  return {};
}
template <class T>
attention_params<T> params_of(double scale, kv_cache const& cache, view<const T> q, view<T> out, list<const std::int32_t> sequence,
                              list<const std::int32_t> position) {
  auto const heads = static_cast<int>(q.columns / cache.key_dim);
  return {cache, q, out, sequence.data, position.data, static_cast<float>(scale), heads, heads / cache.kv_heads};
}
/// Whether the matrix kernels take it: rows and cache that 16-byte copies reach, a device whose blocks have room for the widest of them.
template <int HeadDim>
bool tiles_take(device_facts const& device, kv_cache const& cache, view<const bf16> q, view<bf16> out) {
  constexpr auto prompt = static_cast<std::int64_t>(shared_bytes_of<attend_prompt<HeadDim>>());
  constexpr auto split = static_cast<std::int64_t>(shared_bytes_of<attend_split<HeadDim, 1>>());
  return cache.key_dim == HeadDim && q.rows > 0 && is_wide(q) && reinterpret_cast<std::uintptr_t>(cache.data) % 16 == 0 &&
         reinterpret_cast<std::uintptr_t>(out.data) % 4 == 0 && out.stride % 2 == 0 && prompt <= device.shared_bytes && split <= device.shared_bytes;
}
}  // namespace attention_detail

/// out[t] = the values of token t's sequence weighted by softmax(q · k · scale) over its slots 0 .. own; query head h reads kv head
/// h / (heads / kv_heads) (arXiv:2305.13245). q, out [tokens, heads · head_dim], out not q; sequence, position [tokens]; scale above 0.
/// Whose keys and values a batch uses must have been appended. Stored: the cache's storage; HeadDim: its head_dim, 0 = any (simt).
/// With bf16 tokens and cache, weights are rounded to bf16 before they meet the values. Tokens of a prompt (8 and more side by side) and single ones go
/// through different kernels, whose bits differ; a single token's depend on its own slots only, and on whether the call has more than 64 tokens. Under a
/// tuning that is cuda::in_one_order every token goes through one kernel by itself.
template <class T, dtype Stored, int HeadDim = 0, class Tuning>
status attend(basic_stream_ref<Tuning>& where, double scale, kv_cache const& cache, view<const T> q, list<const std::int32_t> sequence,
              list<const std::int32_t> position, view<T> out) {
  using tuning = attention_tuning;
  if (auto const fits = attention_detail::check<T>(cache, q, sequence, position, Stored); !fits) return fits;
  auto p = attention_detail::params_of<T>(scale, cache, q, out, sequence, position);
  if constexpr (std::is_same_v<T, bf16> && Stored == dtype::bf16 && tuning::has_tiles(HeadDim))
    if (where.best() != rung::simt && attention_detail::tiles_take<HeadDim>(where.device, cache, q, out)) {
      constexpr double log2_e = 1.4426950408889634;
      p.scale = static_cast<float>(scale * log2_e);
      auto const tokens = static_cast<unsigned>(q.rows), kv_heads = static_cast<unsigned>(cache.kv_heads), parts = static_cast<unsigned>((p.group + 15) / 16);
      p.one_by_one = sums_in_one_order<Tuning>;
      if (!p.one_by_one && q.rows >= tuning::prompt_tokens)
        start<attend_prompt<HeadDim>>(where, {.x = blocks_for(q.rows, tuning::tile_tokens), .y = static_cast<unsigned>(p.heads), .early = true}, p);
      if constexpr (Tuning::has(rung::sm90) && !sums_in_one_order<Tuning>)
        if (where.best() == rung::sm90 && q.rows <= tuning::few_tokens) {
          start<attend_split<HeadDim, tuning::cluster>>(where, {.x = tokens * tuning::cluster, .y = kv_heads, .z = parts, .cluster = tuning::cluster, .early = true}, p);
          return {};
        }
      start<attend_split<HeadDim, 1>>(where, {.x = tokens, .y = kv_heads, .z = parts, .early = true}, p);
      return {};
    }
  start<attend_simt<T, scalar_of<Stored>>>(where, {.x = blocks_for(q.rows * p.heads, 4), .early = true}, p);
  return {};
}

/// The weights that attend() gives to slots, for a tap: probabilities row h · tokens + t, [heads · tokens, keys], zero beyond a token's own slot.
/// Plain and slow. `keys` must be above every token's slot: weights beyond are left out.
template <class T, dtype Stored, class Tuning>
status attention_probabilities(basic_stream_ref<Tuning>& where, double scale, kv_cache const& cache, view<const T> q, list<const std::int32_t> sequence,
                               list<const std::int32_t> position, view<float> probabilities) {
  if (auto const fits = attention_detail::check<T>(cache, q, sequence, position, Stored); !fits) return fits;
  auto const p = attention_detail::params_of<T>(scale, cache, q, {}, sequence, position);
  if (probabilities.rows != p.heads * q.rows) return invalid("Probabilities have a row for every head and token.", p.heads * q.rows, probabilities.rows);
  start<attention_weights_simt<T, scalar_of<Stored>>>(where, {.x = blocks_for(probabilities.rows, 4), .early = true}, {p, probabilities});
  return {};
}

}  // namespace moesaic::cuda
