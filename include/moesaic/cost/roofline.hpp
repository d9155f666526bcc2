// A configuration, a device and a batch into time: each operator at its roof, summed. What no kernel can beat, before any is written.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include <moesaic/cost/bytes.hpp>
#include <moesaic/cost/device.hpp>
#include <moesaic/cost/flops.hpp>

namespace moesaic {

constexpr double microseconds(double seconds) { return seconds * 1e6; }
constexpr double milliseconds(double seconds) { return seconds * 1e3; }

/// One call: `sequences` of them bring `tokens` new tokens each, the last of which sees `keys` keys, itself among them.
struct workload {
  std::int64_t sequences = 1;
  std::int64_t tokens = 1;
  std::int64_t keys = 1;
  double distinct = 0;                 ///< experts used in each layer: as measured, or distinct_experts(shares, rows); 0 = of even routing

  constexpr std::int64_t rows() const { return sequences * tokens; }
  /// Pairs of a token and a key that it sees, where no window hides one.
  constexpr std::int64_t pairs() const { return sequences * (tokens * keys - tokens * (tokens - 1) / 2); }
};
constexpr workload decoding(std::int64_t batch, std::int64_t keys) { return {.sequences = batch, .tokens = 1, .keys = keys}; }
constexpr workload prefilling(std::int64_t tokens, std::int64_t sequences = 1) {
  return {.sequences = sequences, .tokens = tokens, .keys = tokens};
}

/// An operator reads and computes at the same time: it takes what the longer of both takes. A sum of operators takes the sum.
struct roof {
  double bytes = 0, flops = 0;
  double reading = 0, computing = 0;   ///< seconds of either alone
  double seconds = 0;

  constexpr bool bound_by_memory() const { return reading >= computing; }
  constexpr roof& operator+=(roof const& other) {
    bytes += other.bytes;
    flops += other.flops;
    reading += other.reading;
    computing += other.computing;
    seconds += other.seconds;
    return *this;
  }
};
namespace detail {
// Infinite where something must be done and nothing does it.
constexpr double seconds(double amount, double a_second) {
  return amount <= 0 ? 0 : a_second > 0 ? amount / a_second : std::numeric_limits<double>::infinity();
}
}  // namespace detail

/// One operator's parts, whatever multiplies each: all are read while all are computed.
constexpr roof together(roof of, roof const& other) {
  of += other;
  of.seconds = of.reading > of.computing ? of.reading : of.computing;
  return of;
}
constexpr roof under_roof(machine const& d, double bytes, double flops, dtype operands) {
  roof r{bytes, flops, detail::seconds(bytes, d.bandwidth), detail::seconds(flops, rate(d, operands))};
  r.seconds = r.reading > r.computing ? r.reading : r.computing;
  return r;
}

struct layer_time {
  roof norms, projections, scores, router, experts, shared, attention_router;

  /// f(name, roof) for each operator.
  template <class F>
  constexpr void for_each(F&& f) const {
    f("norms", norms);
    f("projections", projections);
    f("attention", scores);
    f("attention's router", attention_router);
    f("router", router);
    f("experts", experts);
    f("shared expert", shared);
  }
  constexpr roof total() const {
    roof sum;
    for_each([&](const char*, roof const& r) { sum += r; });
    return sum;
  }
  constexpr layer_time& operator+=(layer_time const& other) {
    norms += other.norms;
    projections += other.projections;
    scores += other.scores;
    router += other.router;
    experts += other.experts;
    shared += other.shared;
    attention_router += other.attention_router;
    return *this;
  }
};
struct decoder_time {
  layer_time layers;                   ///< all of them
  roof embedding, head;                ///< rows looked up; final norm, and logits of each sequence's last token
  constexpr roof total() const {
    auto sum = layers.total();
    sum += embedding;
    sum += head;
    return sum;
  }
};

namespace detail {
// Of a token's latent on its way up to keys and values, in both forms; projections count it.
constexpr double latent_up_flops(block_config const& c) {
  if (c.attention.latent.kv_rank == 0) return 0;
  auto const shape = latent_shape_of(c);
  return 2.0 * shape.heads * (shape.head_dim + shape.value_dim) * shape.rank;
}
// Of all tokens and the keys they see. Latent attention in the form of fewer FLOPs: what it expands beyond the tokens' own latents, which
// their projections count already, is counted here.
constexpr double attention_flops(block_config const& c, workload const& w) {
  if (c.attention.latent.kv_rank == 0) {
    auto const pairs = w.sequences * seen_pairs(c.attention, w.tokens, w.keys);
    return static_cast<double>(pairs) * static_cast<double>(score_flops(c));
  }
  auto const shape = latent_shape_of(c);
  auto const tokens = static_cast<double>(w.tokens), keys = static_cast<double>(w.keys);
  if (w.keys <= 0) return 0;
  auto const form = latent_form_of(shape, latent_form::by_shape, w.tokens, w.keys);
  return static_cast<double>(w.sequences) * (latent_flops(shape, form, tokens, keys) - latent_up_flops(c) * tokens);
}
}  // namespace detail

/// Of one layer. Bytes are weights, each read once (of the experts the distinct ones), and keys and values; what passes between operators
/// is taken to stay in the caches, and a launch to cost nothing. So this is a bound from below, for weights that no cache keeps from one
/// call to the next: a budget it misses is missed by every kernel.
constexpr layer_time roofline(machine const& d, block_config const& c, workload const& w, layout l = layout::stored) {
  auto const shape = shapes(c);
  auto const bytes = weight_bytes(c, l);
  auto const work = flops(c, 1);
  auto const rows = static_cast<double>(w.rows());
  auto const distinct = !shape.dense && w.distinct > 0 ? w.distinct : distinct_experts(c.router, w.rows());
  auto const inputs = c.storage.inputs;
  auto const attention = operand_type(shape.activations, shape.attention_format, inputs), ffn = operand_type(shape.activations, shape.ffn_format, inputs);
  auto const of = [&](auto read, auto computed, dtype operands) {
    return under_roof(d, static_cast<double>(read), static_cast<double>(computed), operands);
  };
  auto const each = [&](auto of_one) { return rows * static_cast<double>(of_one); };
  layer_time t;
  t.norms = of(bytes.norm, 0, shape.activations);
  auto const up = detail::latent_up_flops(c);            // of latents, which are no codes
  t.projections = together(of(bytes.attention_with(distinct_experts(c.attention.router, w.rows())), each(static_cast<double>(work.projections) - up), attention),
                           of(0, each(up), shape.activations));
  t.scores = of(w.sequences * keys_read(c.attention, w.tokens, w.keys) * cache_bytes(c), detail::attention_flops(c, w), shape.activations);
  t.attention_router = of(bytes.attention_router, each(work.attention_router), dtype::fp32);
  t.router = of(bytes.router, each(work.router), dtype::fp32);
  t.experts = of(bytes.with_experts(distinct, 0) - static_cast<double>(bytes.always()), each(work.experts), ffn);
  t.shared = of(bytes.shared, each(work.shared), ffn);
  return t;
}
template <block_spec Spec>
constexpr layer_time roofline(machine const& d, workload const& w, layout l = layout::stored) {
  return roofline(d, validated<Spec>::config, w, l);
}

/// Of a decoder.
constexpr decoder_time roofline(machine const& d, decoder_config const& c, list<const block_config> layers, workload const& w,
                                layout l = layout::stored) {
  decoder_time t;
  if (layers.empty()) return t;
  layer_time one;
  block_config const* priced = nullptr;
  for (auto const& layer : layers) {
    if (!priced || !(*priced == layer)) one = roofline(d, layer, w, l);
    priced = &layer;
    t.layers += one;
  }
  auto const hidden = layers[0].hidden;
  auto const besides = cost_of(c, {layers.data, 1}, detail::price_in_bytes(l));
  auto const row = stored_bytes(c.embedding, 1, hidden);
  t.embedding = under_roof(d, static_cast<double>(w.rows() * row), 0, dtype::fp32);
  auto const logits = static_cast<double>(w.sequences) * 2.0 * c.vocabulary * hidden;
  t.head = under_roof(d, static_cast<double>(besides.norm + besides.head + (besides.tied ? besides.embedding : 0)), logits,
                      operand_type(layers[0].storage.activations, c.embedding));
  return t;
}
template <decoder_spec Model>
constexpr decoder_time roofline(machine const& d, workload const& w, layout l = layout::stored) {
  return roofline(d, validated<Model>::config, layer_configs<Model>, w, l);
}

/// Seconds of a layer or a decoder: static_assert(microseconds(decode_time<my_layer>(devices::h200, 16, 4096)) < 200).
template <class SpecOrModel>
constexpr double decode_time(machine const& d, std::int64_t batch, std::int64_t keys, layout l = layout::stored) {
  return roofline<SpecOrModel>(d, decoding(batch, keys), l).total().seconds;
}
/// Of `sequences` prompts of `tokens` tokens each, from the first token to the last.
template <class SpecOrModel>
constexpr double prefill_time(machine const& d, std::int64_t tokens, std::int64_t sequences = 1, layout l = layout::stored) {
  return roofline<SpecOrModel>(d, prefilling(tokens, sequences), l).total().seconds;
}

/// Tokens in a call from which the feed-forward is bound by arithmetic: a dense one at peak / bandwidth · bytes / 2 a weight, a mixture at
/// E / k times that, because a token brings work for k experts and the call reads all E.
constexpr double compute_bound_rows(machine const& d, block_config const& c) {
  auto const shape = shapes(c);
  auto const bytes = weight_bytes(c);
  auto const work = static_cast<double>(flops(c, 1).experts);
  auto const balance = ridge(d, operand_type(shape.activations, shape.ffn_format, c.storage.inputs));
  return static_cast<double>(bytes.routed) * balance / work;
}
template <block_spec Spec>
constexpr double compute_bound_rows(machine const& d) {
  return compute_bound_rows(d, validated<Spec>::config);
}

}  // namespace moesaic
