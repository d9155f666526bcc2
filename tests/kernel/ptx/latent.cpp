// Latent attention: the cache's rows, queries down to latents and sums up to values, and what lies between.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/latent.hpp>

#include "leg.hpp"

namespace moesaic::test::ptx {
namespace {

struct odd {
  static constexpr latent_shape value{.heads = 3, .head_dim = 16, .rope_dim = 8, .value_dim = 16, .rank = 48};
};
struct tiled {
  static constexpr latent_shape value{.heads = 3, .head_dim = 16, .rope_dim = 16, .value_dim = 32, .rank = 64};
};

template <class T, dtype Stored, class Shape>
void attend(cuda::stream_ref& where, memory& m, std::int64_t tokens, latent_form form) {
  constexpr auto s = Shape::value;
  cuda::latent_cache c;
  c.storage = Stored, c.sequences = 2, c.rank = s.rank, c.rope_dim = s.rope_dim, c.max_tokens = 96;
  c.data = reinterpret_cast<std::byte*>(m.random<scalar_of<Stored>>(static_cast<std::int64_t>(cuda::bytes(c)) * 8 / bits(Stored)));
  c.first_position = m.of<std::int32_t>({0, 3});
  auto* const sequence = m.zeros<std::int32_t>(tokens);
  auto* const position = m.zeros<std::int32_t>(tokens);
  for (std::int32_t t = 0; t + 1 < tokens; ++t) position[t] = 17 + t;
  sequence[tokens - 1] = 1, position[tokens - 1] = 40;   // a single token of the other sequence
  auto const latent = m.random_rows<T>(tokens, s.rank), key = m.random_rows<T>(tokens, s.rope_dim);
  cuda::multiply<T>(where, 1.25, latent);
  where.record(cuda::append<T, Stored>(where, c, latent, key, {sequence, tokens}, {position, tokens}, m.zeros<call_flags>(1)));
  attention_weights w;
  w.key_up = random_weights(m, {dtype::bf16, s.head_dim, s.rank, 1, s.heads, nullptr});
  w.key_up_transposed = random_weights(m, {dtype::bf16, s.rank, s.head_dim, 1, s.heads, nullptr});
  w.value_up = random_weights(m, {dtype::bf16, s.value_dim, s.rank, 1, s.heads, nullptr});
  using rows = latent_memory<T>;
  arena counting;
  rows::carve(counting, s, tokens);
  auto const bytes = static_cast<std::int64_t>(counting.used());
  arena over(m.scratch(bytes), counting.used());
  auto work = rows::carve(over, s, tokens);
  work.narrow.rows = 64;                 // the first sequence's slots lie in two passes
  auto const q = m.random_rows<T>(tokens, std::int64_t{s.heads} * s.key_dim());
  list<std::int32_t const> const sequences(sequence, tokens), positions(position, tokens);
  where.record(cuda::attend_latent<T, dtype::bf16, Stored, Shape>(where, form, 0.4, s, c, w, q, sequences, positions, work,
                                                                  m.result_rows<T>(tokens, std::int64_t{s.heads} * s.value_dim)));
  if constexpr (std::is_same_v<Shape, odd>)
    where.record(cuda::latent_probabilities<T, dtype::bf16, Stored>(where, 0.4, s, c, w, q, sequences, positions, work,
                                                                    m.result_rows<float>(s.heads * tokens, 90)));
}

void few(cuda::stream_ref& where, memory& m) { attend<bf16, dtype::bf16, odd>(where, m, 3, latent_form::absorbed); }
void many(cuda::stream_ref& where, memory& m) { attend<float, dtype::fp32, odd>(where, m, 66, latent_form::by_shape); }
void tiles(cuda::stream_ref& where, memory& m) { attend<bf16, dtype::bf16, tiled>(where, m, 3, latent_form::absorbed); }
void wide(cuda::stream_ref& where, memory& m) { attend<bf16, dtype::bf16, tiled>(where, m, 66, latent_form::expanded); }

/// Heads that fill two and a half of a block's four tiles, slots of two tiles and a piece.
void many_heads(cuda::stream_ref& where, memory& m) {
  constexpr int heads = 40, rank = 128, rope_dim = 16, slot_dim = rank + rope_dim, key_dim = 32, slots = 70;
  cuda::latent_cache const c{dtype::bf16, 1, rank, rope_dim, slots, reinterpret_cast<std::byte*>(m.random<bf16>(slots * slot_dim)), nullptr};
  auto const query = m.random_rows<bf16>(2, heads * slot_dim), q = m.random_rows<bf16>(2, heads * key_dim), out = m.result_rows<bf16>(2, heads * rank);
  auto* const sequence = m.of<std::int32_t>({0, 0});
  auto* const position = m.of<std::int32_t>({slots - 1, 20});
  where.record(cuda::launch<cuda::attend_latents<64, rank, rope_dim, 1>>(where, {.x = 2, .early = true},
                                                                         {c, query, q, out, sequence, position, nullptr, 0.1f, heads, slot_dim, key_dim, rank}));
}

constexpr family families[] = {
    {"append_latents multiply_rows gemm_of_heads attend_latents_simt latent_weights_simt", few, 4},
    {"plan_latents gather_latents attend_expanded_simt", many, 4},
    {"attend_latents", tiles},
    {"attend_latents", many_heads},
    {"attend_expanded", wide},
};
MOESAIC_LEG(latent, families)

}  // namespace
}  // namespace moesaic::test::ptx
