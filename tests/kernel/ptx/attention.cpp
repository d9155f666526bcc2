// Attention: prompts by tensor cores, single tokens with their keys split over warps and over a cluster, and the plain kernels.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/attention.hpp>

#include "leg.hpp"

namespace moesaic::test::ptx {
namespace {

cuda::kv_cache cache_of(memory& m, int kv_heads, int head_dim, int max_tokens) {
  cuda::kv_cache c;
  c.storage = dtype::bf16, c.sequences = 2, c.kv_heads = kv_heads, c.key_dim = c.value_dim = head_dim, c.max_tokens = max_tokens;
  c.data = reinterpret_cast<std::byte*>(m.random<bf16>(static_cast<std::int64_t>(cuda::bytes(c)) / 2));
  c.first_position = m.of<std::int32_t>({0, 3});
  return c;
}
template <class T, int HeadDim>
void attend(cuda::stream_ref& where, memory& m, cuda::kv_cache const& cache, int group, std::int64_t tokens, std::int32_t first) {
  auto* const sequence = m.zeros<std::int32_t>(tokens);
  auto* const position = m.zeros<std::int32_t>(tokens);
  for (std::int32_t t = 0; t + 1 < tokens; ++t) position[t] = first + t;
  sequence[tokens - 1] = 1, position[tokens - 1] = 40;   // a single token of the other sequence
  auto const width = std::int64_t{group} * cache.kv_heads * cache.key_dim;
  where.record(cuda::attend<T, dtype::bf16, HeadDim>(where, 0.4, cache, m.random_rows<T>(tokens, width), {sequence, tokens},
                                                     {position, tokens}, m.result_rows<T>(tokens, width)));
}

void prompt(cuda::stream_ref& where, memory& m) { attend<bf16, 32>(where, m, cache_of(m, 1, 32, 96), 2, 12, 3); }
void many(cuda::stream_ref& where, memory& m) { attend<bf16, 32>(where, m, cache_of(m, 1, 32, 96), 1, 66, 0); }
void plain(cuda::stream_ref& where, memory& m) {
  auto const cache = cache_of(m, 2, 24, 64);
  attend<float, 0>(where, m, cache, 2, 3, 7);
  list<std::int32_t const> const sequence(m.of<std::int32_t>({0, 1}), 2), position(m.of<std::int32_t>({4, 20}), 2);
  where.record(cuda::attention_probabilities<float, dtype::bf16>(where, 0.4, cache, m.random_rows<float>(2, 2 * 2 * 24), sequence, position,
                                                                 m.result_rows<float>(4 * 2, 20)));
}

constexpr family families[] = {
    {"attend_prompt attend_split", prompt},
    {"attend_prompt attend_split", many},
    {"attend_simt attention_weights_simt", plain, 4},
};

MOESAIC_LEG(attention, families)

}  // namespace
}  // namespace moesaic::test::ptx
