// Every tensor of a layer and of a decoder, said once: parameters, FLOPs and bytes are sums of a price over it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/view.hpp>
#include <moesaic/config/spec.hpp>

namespace moesaic {

/// What a tensor belongs to. `expert` is a routed expert; a dense layer's feed-forward is its only one. `shared`: what every token uses beside
/// the routed experts. `attention_expert`: the projections of an expert of attention; `attention_router`: what chooses among these.
enum class part : std::uint8_t { norm, attention, attention_expert, attention_router, router, expert, shared, embedding, head };

/// A matrix [outputs, inputs] that is multiplied (`parts` of them side by side), or a vector [outputs] that is not: a norm, a bias.
struct weight_tensor {
  moesaic::part part = part::norm;
  format stored = dtype::fp32;
  std::int64_t outputs = 0, inputs = 1;
  int parts = 1;
  bool matrix = true;
  std::int64_t count = 1;              ///< how many such: routed experts or heads that have one each
  bool copy = false;                   ///< a matrix that is there already, packed once more for another use of it: memory, and no parameter
};

namespace detail {

constexpr weight_tensor vector(part p, std::int64_t size) { return {p, dtype::fp32, size, 1, 1, false}; }

template <class F>
constexpr void visit_norm(norm_config const& norm, part p, std::int64_t width, F& f) {
  f(vector(p, width));
  if (norm.bias) f(vector(p, width));
}

template <class F>
constexpr void visit_ffn(block_config const& c, part p, std::int64_t width, F&& f, std::int64_t count = 1) {
  auto const s = shapes(c);
  auto const visit = [&](weight_tensor t) { t.count = count, f(t); };
  auto const outside = p == part::expert && c.expert.latent != 0 ? c.expert.latent : s.hidden;   // of what goes in and comes out
  visit({p, s.ffn_format, width, outside, s.gate_parts});
  visit({p, s.ffn_format, outside, width});
  if (c.expert.bias) visit(vector(p, s.gate_parts * width + outside));
}

template <class F>
constexpr void visit_attention(block_config const& c, F& f) {
  auto const s = shapes(c);
  auto const visit = [&](std::int64_t outputs, std::int64_t inputs, std::int64_t count = 1, bool copy = false) {
    f(weight_tensor{part::attention, copy ? turned(s.attention_format) : s.attention_format, outputs, inputs, 1, true, count, copy});
  };
  auto const& a = c.attention;
  if (a.router.experts != 0) {
    auto const expert = [&](std::int64_t outputs, std::int64_t inputs) {
      f(weight_tensor{part::attention_expert, s.attention_format, outputs, inputs, 1, true, s.attention_experts});
    };
    expert(s.q_width / s.attention_slots, s.hidden), expert(s.hidden, s.heads_width / s.attention_slots);
    f(weight_tensor{part::attention_router, dtype::fp32, s.attention_experts, s.hidden});
    if (a.router.bias) f(vector(part::attention_router, s.attention_experts));
  } else {
    visit(s.hidden, s.heads_width);
  }
  if (a.out_bias) f(vector(part::attention, s.hidden));
  if (a.sinks) f(vector(part::attention, s.heads));
  if (auto const& latent = a.latent; latent.kv_rank != 0) {
    visit((latent.q_rank != 0 ? latent.q_rank : s.q_width) + latent.kv_rank + latent.rope_dim, s.hidden);
    if (latent.q_rank != 0) visit(s.q_width, latent.q_rank), f(vector(part::attention, latent.q_rank));
    f(vector(part::attention, latent.kv_rank));
    visit(s.head_dim, latent.kv_rank, s.heads), visit(s.value_dim, latent.kv_rank, s.heads);
    visit(latent.kv_rank, s.head_dim, s.heads, true);   // keys' matrices again, transposed, for the absorbed form
    return;
  }
  visit(s.qkv_width, s.hidden);
  if (a.qkv_bias) f(vector(part::attention, s.qkv_width));
  if (a.qk_norm == qk_norm::per_head) f(vector(part::attention, s.head_dim)), f(vector(part::attention, s.head_dim));
  if (a.qk_norm == qk_norm::full_width) f(vector(part::attention, s.q_width)), f(vector(part::attention, s.k_width));
}

// Two gate rows and a vector of a constant expert. No packed matrix: fp32 lists.
template <class F>
constexpr void visit_constant(block_config const& c, F&& f, std::int64_t count = 1) {
  auto lists = vector(part::expert, 3ll * c.hidden);
  lists.count = count;
  f(lists);
}

}  // namespace detail

/// f(weight_tensor) for the tensors of one layer; those of like experts once, with their count.
template <class F>
constexpr void for_each_tensor(block_config const& c, F&& f) {
  using detail::vector;
  auto const s = shapes(c);
  for (int norms = c.norms == norm_placement::sandwich ? 4 : 2; norms > 0; --norms) detail::visit_norm(c.norm, part::norm, s.hidden, f);
  detail::visit_attention(c, f);

  if (!s.dense) f(weight_tensor{part::router, dtype::fp32, s.router_outputs, s.hidden});
  if (c.router.bias) f(vector(part::router, s.router_outputs));
  if (c.router.score_bias) f(vector(part::router, s.experts));

  for (auto const& run : s.widths) detail::visit_ffn(c, part::expert, run.intermediate, f, run.experts);
  if (c.expert.constant > 0) detail::visit_constant(c, f, c.expert.constant);
  if (c.expert.latent > 0) {           // every token is projected there and back, whichever experts it uses
    f(weight_tensor{part::shared, s.ffn_format, c.expert.latent, s.hidden});
    f(weight_tensor{part::shared, s.ffn_format, s.hidden, c.expert.latent});
  }
  if (c.expert.mixture_bias) f(vector(part::shared, s.hidden));
  if (s.shared_intermediate > 0) detail::visit_ffn(c, part::shared, s.shared_intermediate, f);
  if (c.shared.sigmoid_gate) f(weight_tensor{part::shared, dtype::fp32, 1, s.hidden});
}

/// The same for what a decoder has besides its layers.
template <class F>
constexpr void for_each_tensor(decoder_config const& c, std::int64_t hidden, F&& f) {
  f(weight_tensor{part::embedding, c.embedding, c.vocabulary, hidden});
  if (!c.tied_head) f(weight_tensor{part::head, c.embedding, c.vocabulary, hidden});
  if (c.head_bias) f(detail::vector(part::head, c.vocabulary));
  detail::visit_norm(c.norm, part::norm, hidden, f);
}

/// Sum of price(weight_tensor) over the tensors of routed expert `e` alone: none of a zero or copy expert.
template <class Price>
constexpr std::int64_t cost_of_expert(block_config const& c, int e, Price price) {
  std::int64_t sum = 0;
  auto const add = [&](weight_tensor const& t) { sum += price(t); };
  auto const kind = kind_of(c, e);
  if (kind == expert_kind::feed_forward) detail::visit_ffn(c, part::expert, width_of(c, e), add);
  if (kind == expert_kind::constant) detail::visit_constant(c, add);
  return sum;
}

/// A layer's price by part, in whatever the price was: parameters, bytes.
struct block_cost {
  std::int64_t norm = 0, attention = 0;  ///< attention: what every token uses of it
  std::int64_t router = 0;             ///< of the feed-forward
  std::int64_t shared = 0;             ///< of the shared expert, and of what else of the feed-forward every token uses
  std::int64_t expert = 0;             ///< of one feed-forward, the widest
  std::int64_t routed = 0;             ///< of all routed experts, each by its kind and width
  std::int64_t experts = 1, slots = 1; ///< how many there are, and how many of them a token uses
  std::int64_t attention_router = 0;
  std::int64_t attention_routed = 0;   ///< of all experts of attention
  std::int64_t attention_experts = 1, attention_slots = 1;

  constexpr std::int64_t always() const { return norm + attention + attention_router + router + shared; }
  constexpr std::int64_t total() const { return always() + routed + attention_routed; }
  /// Of a token: attention with the experts that it uses.
  constexpr std::int64_t attention_active() const { return attention + attention_slots * attention_routed / attention_experts; }
  /// Of a token. Where experts differ, the mean of even routing, rounded down; choices known: cost_of_expert.
  constexpr std::int64_t active() const { return always() - attention + attention_active() + slots * routed / experts; }
  /// With so many of the experts and of those of attention (0 where it has none), as a batch of tokens uses them; a mean need not be whole, and experts
  /// that differ are used evenly.
  constexpr double with_experts(double distinct, double distinct_of_attention) const {
    return static_cast<double>(always()) + distinct * (static_cast<double>(routed) / static_cast<double>(experts)) + attention_with(distinct_of_attention) -
           static_cast<double>(attention);
  }
  /// Attention alone, with so many of its experts.
  constexpr double attention_with(double distinct) const {
    return static_cast<double>(attention) + distinct * (static_cast<double>(attention_routed) / static_cast<double>(attention_experts));
  }
};

/// A decoder's price. Published counts of active parameters follow either convention, so both are here: with the input embedding, or
/// without it, since it is looked up and not multiplied. A tied embedding is the head as well and always counts, once.
struct decoder_cost {
  std::int64_t embedding = 0, head = 0, norm = 0;   ///< head: 0 when tied, but for its bias
  std::int64_t layers = 0, layers_active = 0;       ///< all experts; those that one token uses
  bool tied = false;

  constexpr std::int64_t total() const { return embedding + head + norm + layers; }
  constexpr std::int64_t active() const { return embedding + head + norm + layers_active; }
  constexpr std::int64_t total_without_embedding() const { return total() - (tied ? 0 : embedding); }
  constexpr std::int64_t active_without_embedding() const { return active() - (tied ? 0 : embedding); }
};

/// Sum of price(weight_tensor) over a layer, or over a decoder of such layers, in order.
template <class Price>
constexpr block_cost cost_of(block_config const& c, Price price) {
  block_cost sum;
  sum.experts = shapes(c).experts;
  sum.slots = shapes(c).slots;
  sum.attention_experts = shapes(c).attention_experts;
  sum.attention_slots = shapes(c).attention_slots;
  for_each_tensor(c, [&](weight_tensor const& t) {
    auto& cell = t.part == part::norm               ? sum.norm
                 : t.part == part::attention        ? sum.attention
                 : t.part == part::attention_expert ? sum.attention_routed
                 : t.part == part::attention_router ? sum.attention_router
                 : t.part == part::router           ? sum.router
                 : t.part == part::shared           ? sum.shared
                                                    : sum.routed;
    cell += t.count * price(t);
  });
  detail::visit_ffn(c, part::expert, shapes(c).intermediate, [&](weight_tensor const& t) { sum.expert += price(t); });
  return sum;
}
template <class Price>
constexpr decoder_cost cost_of(decoder_config const& c, list<const block_config> layers, Price price) {
  decoder_cost sum;
  sum.tied = c.tied_head;
  for_each_tensor(c, layers.empty() ? 0 : layers[0].hidden, [&](weight_tensor const& t) {
    auto& cell = t.part == part::embedding ? sum.embedding : t.part == part::head ? sum.head : sum.norm;
    cell += price(t);
  });
  for (auto const& layer : layers) {
    auto const one = cost_of(layer, price);
    sum.layers += one.total();
    sum.layers_active += one.active();
  }
  return sum;
}

}  // namespace moesaic
