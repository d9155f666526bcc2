// Attention: prompts by tensor cores, single tokens with their keys split over warps and over a cluster, and the plain kernels.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/attention.hpp>

#include "leg.hpp"

namespace moesaic::test::ptx {
namespace {

cuda::kv_cache cache_of(memory& m, int kv_heads, int key_dim, int value_dim, int max_tokens) {
  cuda::kv_cache c;
  c.storage = dtype::bf16, c.sequences = 2, c.kv_heads = kv_heads, c.key_dim = key_dim, c.value_dim = value_dim, c.max_tokens = max_tokens;
  c.data = reinterpret_cast<std::byte*>(m.random<bf16>(static_cast<std::int64_t>(cuda::bytes(c)) / 2));
  c.first_position = m.of<std::int32_t>({0, 3});
  return c;
}
template <class T, int KeyDim, int ValueDim, bool Plain>
void attend(cuda::stream_ref& where, memory& m, attention_rule const& rule, cuda::kv_cache const& cache, int group, std::int64_t tokens, std::int32_t first) {
  auto* const sequence = m.zeros<std::int32_t>(tokens);
  auto* const position = m.zeros<std::int32_t>(tokens);
  for (std::int32_t t = 0; t + 1 < tokens; ++t) position[t] = first + t;
  sequence[tokens - 1] = 1, position[tokens - 1] = 40;   // a single token of the other sequence
  auto const heads = std::int64_t{group} * cache.kv_heads;
  where.record(cuda::attend<T, dtype::bf16, KeyDim, ValueDim, Plain>(where, rule, cache, m.random_rows<T>(tokens, heads * cache.key_dim), {sequence, tokens},
                                                                     {position, tokens}, m.result_rows<T>(tokens, heads * cache.value_dim)));
}
/// All that a rule has; sinks of 4 heads.
attention_rule all_of(memory& m) {
  return {.scale = 0.4, .softcap = 2, .window = 21, .chunk = 32, .tiled_kv = true, .sinks = {m.random<float>(4), 4}};
}

void prompt(cuda::stream_ref& where, memory& m) { attend<bf16, 32, 32, true>(where, m, {.scale = 0.4}, cache_of(m, 1, 32, 32, 96), 2, 12, 3); }
void many(cuda::stream_ref& where, memory& m) { attend<bf16, 32, 32, true>(where, m, {.scale = 0.4}, cache_of(m, 1, 32, 32, 96), 1, 66, 0); }
void ruled(cuda::stream_ref& where, memory& m) { attend<bf16, 32, 16, false>(where, m, all_of(m), cache_of(m, 2, 32, 16, 96), 2, 12, 25); }
void slow(cuda::stream_ref& where, memory& m) {
  auto const cache = cache_of(m, 2, 24, 20, 64);
  attend<float, 0, 0, true>(where, m, {.scale = 0.4}, cache, 2, 3, 7);
  attend<float, 0, 0, false>(where, m, all_of(m), cache, 2, 3, 30);
  list<std::int32_t const> const sequence(m.of<std::int32_t>({0, 1}), 2), position(m.of<std::int32_t>({4, 20}), 2);
  where.record(cuda::attention_probabilities<float, dtype::bf16>(where, all_of(m), cache, m.random_rows<float>(2, 2 * 2 * 24), sequence, position,
                                                                 m.result_rows<float>(4 * 2, 20)));
}

constexpr family families[] = {
    {"attend_prompt attend_split", prompt},
    {"attend_prompt attend_split", many},
    {"attend_prompt attend_split", ruled, 4},
    {"attend_simt attention_weights_simt", slow, 4},
};

MOESAIC_LEG(attention, families)

}  // namespace
}  // namespace moesaic::test::ptx
