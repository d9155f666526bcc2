// Kernels over rows.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/combine.hpp>
#include <moesaic/cuda/cosine.hpp>
#include <moesaic/cuda/embedding.hpp>
#include <moesaic/cuda/heads.hpp>
#include <moesaic/cuda/kv_cache.hpp>
#include <moesaic/cuda/logits.hpp>
#include <moesaic/cuda/norm.hpp>
#include <moesaic/cuda/quantize.hpp>
#include <moesaic/cuda/rotary.hpp>
#include <moesaic/cuda/special_experts.hpp>

#include "leg.hpp"

namespace moesaic::test::ptx {
namespace {

void norms(cuda::stream_ref& where, memory& m) {
  constexpr std::int64_t tokens = 3, width = 80, narrow = 21;
  auto const x = m.random_rows<bf16>(tokens, width), added = m.random_rows<bf16>(tokens, width);
  list<float const> const weight(m.random<float>(width), width);
  cuda::add_and_normalize<bf16>(where, {.kind = norm_kind::rms}, {weight, {}}, x, added, m.result_rows<bf16>(tokens, width),
                                m.result_rows<bf16>(tokens, width));
  cuda::add_and_normalize<bf16>(where, {.cast = norm_cast::after_weight, .weight_offset = 1.0}, {weight, {}}, x, added,
                                m.result_rows<bf16>(tokens, width), m.result_rows<bf16>(tokens, width), 0.22);
  cuda::normalize<float>(where, {.kind = norm_kind::layer, .bias = true}, {weight, {m.random<float>(narrow), narrow}},
                         m.random_rows<float>(tokens, narrow), m.result_rows<float>(tokens, narrow));
  cuda::normalize_heads<bf16>(where, {.epsilon = 1e-6}, weight, m.random_rows<bf16>(tokens, 2 * 40), 2, 40);
}

void heads(cuda::stream_ref& where, memory& m) {
  constexpr std::int64_t tokens = 3, width = 80, narrow = 21;
  cuda::clip<bf16>(where, 0.5, m.random_rows<bf16>(tokens, width));
  cuda::clip<float>(where, 0.5, m.random_rows<float>(tokens, narrow));
  cuda::scale_queries<float>(where, {.scale = 0.3, .floor = 4}, {m.of<std::int32_t>({2, 40, 100000}), tokens}, m.random_rows<float>(tokens, width));
  cuda::gate_heads<bf16>(where, m.random_rows<bf16>(tokens, width, 8.0f), m.random_rows<bf16>(tokens, width));
  cuda::normalize_heads<float>(where, {.epsilon = 1e-6}, {}, m.random_rows<float>(tokens, 2 * 40), 2, 40);
}

cuda::kv_cache cache_of(memory& m) {
  cuda::kv_cache c;
  c.storage = dtype::bf16, c.sequences = 2, c.kv_heads = 1, c.key_dim = c.value_dim = 16, c.max_tokens = 4;
  c.data = m.zeros<std::byte>(static_cast<std::int64_t>(cuda::bytes(c)));
  c.first_position = m.of<std::int32_t>({0, 3});
  return c;
}
void rotary(cuda::stream_ref& where, memory& m) {
  constexpr int head_dim = 16, heads = 3, pairs = head_dim / 2;
  list<std::int32_t const> const position(m.of<std::int32_t>({2, 4, 100000}), 3), sequence(m.of<std::int32_t>({0, 1, 1}), 3);
  auto* const frequency = m.zeros<double>(pairs);
  for (int i = 0; i < pairs; ++i) frequency[i] = 1.0 / (1 << i);
  auto const x = m.random_rows<bf16>(3, heads * head_dim), v = m.random_rows<bf16>(3, head_dim);
  view<bf16 const> const k(x.data + (heads - 1) * head_dim, 3, head_dim, x.stride);
  where.record(cuda::rotate_and_append<bf16, dtype::bf16>(where, {rope_layout::half_split, {frequency, pairs}, head_dim}, x, heads, cache_of(m), k, v,
                                                          sequence, position, m.zeros<call_flags>(1)));
  // Two lists of frequencies: the first sequence stays within 8 positions, the second does not.
  cuda::rotate<float>(where, {rope_layout::interleaved, {frequency, pairs / 2}, head_dim, 1.25f, 8, 1.5f}, position, m.random_rows<float>(3, heads * head_dim),
                      heads, sequence);
}
void cache(cuda::stream_ref& where, memory& m) {
  list<std::int32_t const> const position(m.of<std::int32_t>({2, 4, 9}), 3), sequence(m.of<std::int32_t>({0, 1, 1}), 3);
  where.record(cuda::append<float, dtype::bf16>(where, cache_of(m), m.random_rows<float>(3, 16), m.random_rows<float>(3, 16), sequence,
                                                position, m.zeros<call_flags>(1)));
}

void combine(cuda::stream_ref& where, memory& m) {
  constexpr std::int64_t tokens = 3, hidden = 80, top_k = 2;
  view<std::int32_t const> const slots(m.of<std::int32_t>({5, 0, -1, 3, 2, -1}), tokens, top_k);
  cuda::combine<bf16>(where, m.random_rows<bf16>(tokens * top_k, hidden), slots, m.random_rows<float>(tokens, top_k),
                      m.random_rows<bf16>(tokens, hidden), {m.random<float>(tokens), tokens}, m.random_rows<bf16>(tokens, hidden),
                      m.result_rows<bf16>(tokens, hidden));
}
/// A factor, with and without a residual; the mixture is carried on, or joins what every token has.
void carried(cuda::stream_ref& where, memory& m) {
  constexpr std::int64_t tokens = 3, hidden = 80, top_k = 2;
  view<std::int32_t const> const slots(m.of<std::int32_t>({5, 0, -1, 3, 2, -1}), tokens, top_k);
  auto const expert_out = m.random_rows<bf16>(tokens * top_k, hidden), shared = m.random_rows<bf16>(tokens, hidden);
  auto const weights = m.random_rows<float>(tokens, top_k);
  for (bool const carries : {false, true})
    for (bool const has_residual : {false, true})
      cuda::combine<bf16>(where, expert_out, slots, weights, shared, {}, has_residual ? m.random_rows<bf16>(tokens, hidden) : view<bf16>{},
                          m.result_rows<bf16>(tokens, hidden), {}, 0.22, carries ? m.result_rows<bf16>(tokens, hidden) : view<bf16>{});
}
void weighed(cuda::stream_ref& where, memory& m) {
  constexpr std::int64_t tokens = 3, width = 80;
  view<std::int32_t const> const slots(m.of<std::int32_t>({5, 0, -1, 3, 2, -1}), tokens, 2);
  cuda::weigh_choices<bf16>(where, m.random_rows<bf16>(tokens, width), slots, m.random_rows<float>(tokens, 2), m.result_rows<bf16>(6, width));
  cuda::combine<bf16>(where, m.random_rows<bf16>(tokens, width), {}, {}, {}, {}, {}, m.result_rows<bf16>(tokens, width), {}, 1.0, {},
                      {m.random<float>(width), width});
}
void add_and_gather(cuda::stream_ref& where, memory& m) {
  constexpr std::int64_t rows = 4, hidden = 24;
  auto const a = m.random_rows<float>(rows, hidden);
  cuda::add<float>(where, a, m.random_rows<float>(rows, hidden), m.result_rows<float>(rows, hidden), 0.22);
  cuda::pick_rows<float>(where, a, {m.of<std::int32_t>({3, -1, 4, 0}), rows}, m.result_rows<float>(rows, hidden), m.zeros<call_flags>(1));
}
void special(cuda::stream_ref& where, memory& m) {
  constexpr std::int64_t hidden = 48;
  constant_weights const w{{m.random<float>(2 * hidden), 2 * hidden}, {m.random<float>(hidden), hidden}};
  cuda::special_experts<bf16>(where, {.zero = 1, .copy = 1, .constant = 1}, w, m.random_rows<bf16>(3, hidden),
                              {m.of<std::int32_t>({1, 2, 4, 6}), 4}, m.of<std::int32_t>({0, 0, 1, 2, 0, 1, 2}),
                              m.result_rows<bf16>(7, hidden));
}

void embedding(cuda::stream_ref& where, memory& m) {
  auto const table = random_weights(m, {.stored = {dtype::int4, 32}, .outputs = 37, .inputs = 80});
  where.record(cuda::embed<bf16, dtype::int4>(where, table, {m.of<std::int32_t>({0, 36, 5, 37}), 4}, m.result_rows<bf16>(4, 80),
                                              m.zeros<call_flags>(1), 6.9));
}
void logits(cuda::stream_ref& where, memory& m) {
  cuda::scale_and_cap(where, 0.577, 0.0, m.random_rows<float>(2, 1100));
  cuda::scale_and_cap(where, 0.577, 3.0, m.random_rows<float>(2, 1100));
}
void quantize(cuda::stream_ref& where, memory& m) {
  cuda::quantize(where, m.random_rows<bf16>(3, 192, 30.0f), view<std::uint8_t>(m.bits<std::uint8_t>(3 * 192), 3, 192),
                 m.result_rows<float>(3, 2));
  cuda::quantize(where, m.random_rows<float>(3, 144, 30.0f), view<std::uint8_t>(m.bits<std::uint8_t>(3 * 144), 3, 144),
                 m.result_rows<float>(3, 2), nullptr, input_codes::e4m3_power_of_two);
  auto const numbers = m.result_rows<float>(3, 192);
  auto const narrow = m.result_rows<bf16>(3, 144);
  cuda::quantize_detail::start<bf16, float>(where, {.x = m.random_rows<bf16>(3, 192, 30.0f), .codes = numbers});
  cuda::quantize_detail::start<bf16, bf16>(where, {.x = m.random_rows<bf16>(3, 144, 30.0f), .codes = narrow, .kind = input_codes::e4m3_power_of_two});
}
void cosines(cuda::stream_ref& where, memory& m) {
  auto* const length = m.zeros<double>(5);
  packed_matrix const w{
      .stored = dtype::fp32, .outputs = 5, .inputs = 40, .data = reinterpret_cast<std::byte const*>(m.random<float>(5 * 40))};
  cuda::row_lengths(where, w, {length, 5});
  cuda::to_cosines<bf16>(where, m.random_rows<bf16>(3, 40), {length, 5}, 1.0, m.random_rows<float>(3, 5));
}

constexpr family families[] = {
    {"normalize_rows normalize_each_head", norms},
    {"change_heads", heads, 2},
    {"rotate_rows", rotary, 2},
    {"append_rows", cache},
    {"combine_rows", combine},
    {"combine_rows", carried},
    {"weigh_rows combine_rows", weighed},
    {"add_rows gather_rows", add_and_gather},
    {"special_expert_rows", special},
    {"embed_rows", embedding},
    {"scale_and_cap_pieces", logits, 2},
    {"quantize_rows", quantize},
    {"cosines_of_rows", cosines},
};

MOESAIC_LEG(rows, families)

}  // namespace
}  // namespace moesaic::test::ptx
