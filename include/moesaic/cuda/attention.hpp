// Queries and the cache to attention outputs: softmax(scores(q Kᵀ)) V, causal, grouped heads, any mix of sequences in a batch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/config/attention_rule.hpp>
#include <moesaic/cuda/kernel/attention.hpp>
#include <moesaic/cuda/launch.hpp>

namespace moesaic::cuda {

namespace attention_detail {
template <class T>
status check(attention_rule const& rule, kv_cache const& cache, view<const T> q, list<const std::int32_t> sequence, list<const std::int32_t> position,
             dtype stored) {
  if (sequence.size != position.size) return invalid("Every token has one sequence and one position.", sequence.size, position.size);
  if (q.rows != sequence.size) return invalid("Queries have one row for every token.", sequence.size, q.rows);
  if (auto const widest = cache.key_dim > cache.value_dim ? cache.key_dim : cache.value_dim; widest > attention_tuning::most_head_dim)
    return invalid("Attention keeps its heads in registers: head_dim and value_dim are at most 512.", attention_tuning::most_head_dim, widest);
  auto const width = std::int64_t{cache.kv_heads} * cache.key_dim;
  if (q.columns == 0 || q.columns % width != 0) return invalid("Queries are heads · key_dim wide, heads a multiple of kv_heads.", width, q.columns);
  if (!rule.sinks.empty() && rule.sinks.size != q.columns / cache.key_dim)
    return invalid("There is a sink for every query head.", q.columns / cache.key_dim, rule.sinks.size);
  if (cache.storage != stored) return invalid("A cache must have been made for the layer's storage.", bits(stored), bits(cache.storage));
  return {};
}
/// `unit`: scores are in units of 1 / unit.
template <class T>
attention_params<T> params_of(attention_rule const& rule, double unit, kv_cache const& cache, view<const T> q, view<T> out, list<const std::int32_t> sequence,
                              list<const std::int32_t> position) {
  auto const heads = static_cast<int>(q.columns / cache.key_dim);
  bool const caps = rule.softcap != 0;
  return {.cache = cache,
          .q = q,
          .out = out,
          .sequence = sequence.data,
          .position = position.data,
          .scale = static_cast<float>(caps ? rule.scale / rule.softcap : rule.scale * unit),
          .heads = heads,
          .group = heads / cache.kv_heads,
          .softcap = static_cast<float>(rule.softcap * unit),
          .unit = static_cast<float>(unit),
          .rule = rule};
}
/// Whether the matrix kernels take it: rows and cache that 16-byte copies reach, a device whose blocks have room for the widest of them.
template <int KeyDim, int ValueDim, bool Plain>
bool tiles_take(device_facts const& device, kv_cache const& cache, view<const bf16> q, view<bf16> out) {
  constexpr auto prompt = static_cast<std::int64_t>(shared_bytes_of<attend_prompt<KeyDim, ValueDim, Plain>>());
  constexpr auto split = static_cast<std::int64_t>(shared_bytes_of<attend_split<KeyDim, ValueDim, 1, Plain>>());
  return cache.key_dim == KeyDim && cache.value_dim == ValueDim && q.rows > 0 && is_wide(q) && reinterpret_cast<std::uintptr_t>(cache.data) % 16 == 0 &&
         reinterpret_cast<std::uintptr_t>(out.data) % 4 == 0 && out.stride % 2 == 0 && prompt <= device.shared_bytes && split <= device.shared_bytes;
}
constexpr bool is_plain(attention_rule const& r) { return r.softcap == 0 && r.window == 0 && r.chunk == 0 && !r.tiled_kv && r.sinks.empty(); }
}  // namespace attention_detail

/// out[t] = the values of token t's sequence weighted by the softmax of its scores: q · k · scale, through rule.softcap where there is one, and rule.sinks
/// [heads] on the device beside them. It sees its own slot and those before, as far back as rule.window and rule.chunk reach; query head h reads kv head
/// rule.kv_head(h) (arXiv:2305.13245). q [tokens, heads · key_dim], out [tokens, heads · value_dim], out not q; sequence, position [tokens]; scale above 0.
/// Whose keys and values a batch uses must have been appended. Stored: the cache's storage; KeyDim, ValueDim: its dimensions, 0 = any (simt). Plain: the
/// rule is a scale and nothing else, and kernels are compiled for that.
/// With bf16 tokens and cache, weights are rounded to bf16 before they meet the values. Tokens of a prompt (8 and more side by side) and single ones go
/// through different kernels, whose bits differ; a single token's depend on its own slots only, and on whether the call has more than 64 tokens. Under a
/// tuning that is cuda::in_one_order every token goes through one kernel by itself.
template <class T, dtype Stored, int KeyDim = 0, int ValueDim = KeyDim, bool Plain = false, class Tuning>
status attend(basic_stream_ref<Tuning>& where, attention_rule const& rule, kv_cache const& cache, view<const T> q, list<const std::int32_t> sequence,
              list<const std::int32_t> position, view<T> out) {
  using tuning = attention_tuning;
  if (auto const fits = attention_detail::check<T>(rule, cache, q, sequence, position, Stored); !fits) return fits;
  if (auto const width = q.columns / cache.key_dim * cache.value_dim; out.rows != q.rows || out.columns != width)
    return invalid("Attention writes heads · value_dim columns.", width, out.columns);
  if (Plain && !attention_detail::is_plain(rule)) return invalid("Attention that was compiled for a plain rule must get one.", 0, 1);
  if constexpr (std::is_same_v<T, bf16> && Stored == dtype::bf16 && tuning::has_tiles(KeyDim) && tuning::has_tiles(ValueDim))
    if (where.best() != rung::simt && attention_detail::tiles_take<KeyDim, ValueDim, Plain>(where.device, cache, q, out)) {
      constexpr double log2_e = 1.4426950408889634;
      auto p = attention_detail::params_of<T>(rule, log2_e, cache, q, out, sequence, position);
      auto const tokens = static_cast<unsigned>(q.rows), kv_heads = static_cast<unsigned>(cache.kv_heads), parts = static_cast<unsigned>((p.group + 15) / 16);
      p.one_by_one = sums_in_one_order<Tuning>;
      if (!p.one_by_one && q.rows >= tuning::prompt_tokens)
        start<attend_prompt<KeyDim, ValueDim, Plain>>(where, {.x = blocks_for(q.rows, tuning::tile_tokens), .y = static_cast<unsigned>(p.heads), .early = true}, p);
      if constexpr (Tuning::has(rung::sm90) && !sums_in_one_order<Tuning>)
        if (where.best() == rung::sm90 && q.rows <= tuning::few_tokens) {
          start<attend_split<KeyDim, ValueDim, tuning::cluster, Plain>>(
              where, {.x = tokens * tuning::cluster, .y = kv_heads, .z = parts, .cluster = tuning::cluster, .early = true}, p);
          return {};
        }
      start<attend_split<KeyDim, ValueDim, 1, Plain>>(where, {.x = tokens, .y = kv_heads, .z = parts, .early = true}, p);
      return {};
    }
  auto const p = attention_detail::params_of<T>(rule, 1.0, cache, q, out, sequence, position);
  start<attend_simt<T, scalar_of<Stored>, Plain>>(where, {.x = blocks_for(q.rows * p.heads, 4), .early = true}, p);
  return {};
}

/// The weights that attend() gives to slots, for a tap: probabilities row h · tokens + t, [heads · tokens, keys], zero where a token does not look; with
/// sinks they sum to less than 1. Slow. `keys` must be above every token's slot: weights beyond are left out.
template <class T, dtype Stored, class Tuning>
status attention_probabilities(basic_stream_ref<Tuning>& where, attention_rule const& rule, kv_cache const& cache, view<const T> q,
                               list<const std::int32_t> sequence, list<const std::int32_t> position, view<float> probabilities) {
  if (auto const fits = attention_detail::check<T>(rule, cache, q, sequence, position, Stored); !fits) return fits;
  auto const p = attention_detail::params_of<T>(rule, 1.0, cache, q, {}, sequence, position);
  if (probabilities.rows != p.heads * q.rows) return invalid("Probabilities have a row for every head and token.", p.heads * q.rows, probabilities.rows);
  start<attention_weights_simt<T, scalar_of<Stored>>>(where, {.x = blocks_for(probabilities.rows, 4), .early = true}, {p, probabilities});
  return {};
}

}  // namespace moesaic::cuda
