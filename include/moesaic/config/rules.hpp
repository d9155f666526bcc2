// What must hold of a configuration: lists of sentences, read by static_assert where it is compiled and by explain() where it runs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include <moesaic/base/groups.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/shapes.hpp>

namespace moesaic {

/// The values that break a rule, in the order in which its sentence names them. The compiler prints this type beside the sentence.
template <auto... Values>
struct you_gave {
  static constexpr bool accepted = false;
};

/// A real number as one of them (clang 14 takes no bare double as a template argument).
struct real {
  double value = 0;
};

/// What the layers of a model must agree on: the first layer, and the first that differs from it in this (or the first once more); and the
/// number of the first that opens a shortcut which the next does not close, or closes none (or −1).
struct layer_stack {
  int layers = 0;
  block_config first = {}, odd = {};
  int unpaired = -1;
  shortcut at_unpaired = shortcut::none;

  constexpr layer_stack() = default;
  constexpr layer_stack(list<const block_config> all) {
    for (std::int64_t i = all.size - 1; i >= 0; --i) {
      auto const here = all[i].shortcut, before = i > 0 ? all[i - 1].shortcut : shortcut::none;
      auto const next = i + 1 < all.size ? all[i + 1].shortcut : shortcut::none;
      if ((here == shortcut::opens && next != shortcut::closes) || (here == shortcut::closes && before != shortcut::opens))
        unpaired = static_cast<int>(i), at_unpaired = here;
    }
    for (auto const& layer : all) {
      if (layers++ == 0) first = odd = layer;
      if (agrees(odd) && !agrees(layer)) odd = layer;
    }
  }

 private:
  constexpr bool agrees(block_config const& c) const {
    return c.hidden == first.hidden && c.storage.activations == first.storage.activations &&
           (c.attention.latent.kv_rank != 0) == (first.attention.latent.kv_rank != 0);
  }
};

/// *What must hold, because why.* Fields are named as a user writes them. Every broken rule is reported, so a condition stays true where
/// another rule's breach makes it meaningless, and a mistake is answered by one sentence.
///
/// Legal, though it may look wrong: renormalize with top_k 1 at inference (every weight is then 1), top_groups == groups (no group is left
/// out), and sigmoid scores after top-k (the experts of before top-k, unless two sigmoids round to the same number).
namespace rules {

// The text of a static_assert is a literal in C++20: the macro hands one literal to the assert and to explain().
#define MOESAIC_RULE(subject, rule, sentence_, condition, ...)           \
  struct rule {                                                          \
    static constexpr const char* sentence = sentence_;                   \
    static constexpr bool holds(subject const& c) { return condition; }  \
    template <subject c>                                                 \
    using given = you_gave<__VA_ARGS__>;                                 \
    template <class Spec, class YouGave>                                 \
    struct broken_by {                                                   \
      static_assert(YouGave::accepted, sentence_);                       \
    };                                                                   \
  }

constexpr bool is_finite(double value) { return value >= std::numeric_limits<double>::lowest() && value <= std::numeric_limits<double>::max(); }
constexpr bool not_negative(double value) { return value >= 0 && is_finite(value); }
constexpr bool is_positive(double value) { return value > 0 && is_finite(value); }
// Experts that are no feed-forward.
constexpr int special(block_config const& c) { return c.expert.zero + c.expert.copy + c.expert.constant; }
// The first run without experts or width, or -1.
constexpr int empty_run(width_runs const& widths) {
  int index = 0;
  for (auto const& run : widths) {
    if (run.experts <= 0 || run.intermediate <= 0) return index;
    ++index;
  }
  return -1;
}
constexpr int shown_run(block_config const& c) { return empty_run(c.expert.widths) < 0 ? 0 : empty_run(c.expert.widths); }

// ---- shape

MOESAIC_RULE(block_config, hidden_is_positive,
    "hidden must be positive, because it is the width of every row that enters and leaves the layer",
    c.hidden > 0, c.hidden);
MOESAIC_RULE(block_config, heads_are_positive,
    "attention.heads must be positive, because every layer attends",
    c.attention.heads > 0, c.attention.heads);
MOESAIC_RULE(block_config, heads_divide_hidden,
    "attention.heads must divide hidden where attention.head_dim is not given, because the head dimension is then hidden / heads",
    c.attention.head_dim != 0 || c.attention.heads <= 0 || c.hidden % c.attention.heads == 0, c.attention.heads, c.hidden);
MOESAIC_RULE(block_config, head_dim_is_positive,
    "attention.head_dim must be positive, or 0 for hidden / heads, because it is the width of a head",
    c.attention.head_dim >= 0, c.attention.head_dim);
MOESAIC_RULE(block_config, head_dim_is_even,
    "the head dimension (attention.head_dim, or hidden / heads) must be even where all of it turns, because rotary embedding turns pairs of "
    "elements",
    !c.attention.rotary || c.attention.rotary_dim != 0 || c.attention.latent.kv_rank != 0 || shapes(c).head_dim % 2 == 0, shapes(c).head_dim);
MOESAIC_RULE(block_config, head_dim_is_at_most_512,
    "the head dimension (attention.head_dim, or hidden / heads) must be at most 512, because rotary embedding and attention keep a head's "
    "values on the stack",
    shapes(c).head_dim <= 512, shapes(c).head_dim);
MOESAIC_RULE(block_config, kv_heads_divide_heads,
    "attention.kv_heads must divide attention.heads, or be 0 for as many, because every key-value head serves equally many query heads",
    c.attention.kv_heads == 0 || (c.attention.kv_heads > 0 && c.attention.heads % c.attention.kv_heads == 0),
    c.attention.kv_heads, c.attention.heads);
MOESAIC_RULE(block_config, intermediate_is_positive,
    "expert.intermediate must be positive, because it is the width of the feed-forward, of a dense layer's one as of every expert's",
    c.expert.intermediate > 0 || !c.expert.widths.empty(), c.expert.intermediate);

// ---- attention

MOESAIC_RULE(block_config, rope_theta_is_positive,
    "attention.rope_theta must be finite and positive, because the rotary frequencies are its powers",
    is_positive(c.attention.rope_theta), real{c.attention.rope_theta});
MOESAIC_RULE(block_config, rotary_dim_is_within_a_head,
    "attention.rotary_dim must be even and at most the head dimension, or 0 for all of it, because the first elements of a head turn in pairs",
    c.attention.rotary_dim >= 0 && c.attention.rotary_dim % 2 == 0 && (shapes(c).head_dim <= 0 || c.attention.rotary_dim <= shapes(c).head_dim),
    c.attention.rotary_dim, shapes(c).head_dim);
MOESAIC_RULE(block_config, rotary_settings_need_rotary,
    "attention.rotary_dim and attention.scaling need attention.rotary, because a layer without positions turns nothing",
    c.attention.rotary || (c.attention.rotary_dim == 0 && c.attention.scaling == rope_scaling{}), c.attention.rotary_dim, c.attention.scaling.kind);
MOESAIC_RULE(block_config, scaling_has_a_kind,
    "attention.scaling.factor needs attention.scaling.kind, because without a kind nothing is scaled",
    c.attention.scaling.kind != rope_scaling_kind::none || c.attention.scaling.factor == 1.0, real{c.attention.scaling.factor});
MOESAIC_RULE(block_config, scaling_stretches,
    "attention.scaling.factor must be finite and at least 1, because scaling stretches the positions a model was trained on",
    c.attention.scaling.kind == rope_scaling_kind::none || (c.attention.scaling.factor >= 1.0 && is_finite(c.attention.scaling.factor)), real{c.attention.scaling.factor});
constexpr bool scaling_fields_fit(rope_scaling const& s) {
  constexpr rope_scaling plain;
  bool const llama3 = s.kind == rope_scaling_kind::llama3, yarn = s.kind == rope_scaling_kind::yarn;
  return (llama3 || (s.low_freq_factor == plain.low_freq_factor && s.high_freq_factor == plain.high_freq_factor)) &&
         (yarn || (s.beta_fast == plain.beta_fast && s.beta_slow == plain.beta_slow && s.rounded == plain.rounded)) &&
         (llama3 || yarn || s.kind == rope_scaling_kind::longrope || s.original_positions == plain.original_positions);
}
MOESAIC_RULE(block_config, scaling_fields_are_of_their_kind,
    "attention.scaling's low_freq_factor and high_freq_factor need llama3, its beta_fast, beta_slow and rounded yarn, and its original_positions llama3, "
    "yarn or longrope, because other kinds read none of them",
    !c.attention.rotary || scaling_fields_fit(c.attention.scaling), c.attention.scaling.kind);
MOESAIC_RULE(block_config, scaling_bands_are_ordered,
    "attention.scaling.low_freq_factor must be positive and at most high_freq_factor, which must be finite, because llama3 scaling blends the frequencies "
    "between",
    c.attention.scaling.kind != rope_scaling_kind::llama3 ||
        (c.attention.scaling.low_freq_factor > 0 && c.attention.scaling.low_freq_factor <= c.attention.scaling.high_freq_factor &&
         is_finite(c.attention.scaling.high_freq_factor)),
    real{c.attention.scaling.low_freq_factor}, real{c.attention.scaling.high_freq_factor});
MOESAIC_RULE(block_config, scaling_knows_original_positions,
    "attention.scaling.original_positions must be positive, and above 1 for longrope, because llama3 and yarn count turns in so many positions, and "
    "longrope's magnitude is of their logarithm",
    (c.attention.scaling.kind != rope_scaling_kind::llama3 && c.attention.scaling.kind != rope_scaling_kind::yarn &&
     c.attention.scaling.kind != rope_scaling_kind::longrope) ||
        c.attention.scaling.original_positions > (c.attention.scaling.kind == rope_scaling_kind::longrope ? 1 : 0),
    c.attention.scaling.original_positions);
MOESAIC_RULE(block_config, yarn_bands_are_ordered,
    "attention.scaling.beta_slow must be positive and at most beta_fast, which must be finite, because yarn scaling blends the frequencies between",
    c.attention.scaling.kind != rope_scaling_kind::yarn ||
        (c.attention.scaling.beta_slow > 0 && c.attention.scaling.beta_slow <= c.attention.scaling.beta_fast && is_finite(c.attention.scaling.beta_fast)),
    real{c.attention.scaling.beta_slow}, real{c.attention.scaling.beta_fast});
MOESAIC_RULE(block_config, yarn_has_a_theta_above_1,
    "attention.rope_theta must be above 1 for yarn scaling, because the borders of its bands are logarithms to this base",
    c.attention.scaling.kind != rope_scaling_kind::yarn || !(c.attention.rope_theta > 0) || c.attention.rope_theta > 1, real{c.attention.rope_theta});
MOESAIC_RULE(block_config, ntk_has_two_pairs,
    "ntk scaling needs at least 4 elements of a head that turn, because theta grows by factor to the power d / (d - 2) of their number d",
    c.attention.scaling.kind != rope_scaling_kind::ntk || shapes(c).rotary_dim <= 0 || shapes(c).rotary_dim > 2, shapes(c).rotary_dim);
// The first factor that is not finite and positive, or 1.
constexpr double bad_factor(rope_scaling const& s) {
  for (auto const* some : {&s.factors, &s.long_factors})
    for (int i = 0; i < some->count && i < rope_factors::most; ++i)
      if (!is_positive(some->value[i])) return some->value[i];
  return 1;
}
MOESAIC_RULE(block_config, factors_are_of_pairs,
    "attention.scaling.factors must be as many as the pairs of a head that turn (128 at most), for longrope and for it alone, because it divides "
    "each pair's frequency by its own",
    c.attention.scaling.kind == rope_scaling_kind::longrope
        ? c.attention.scaling.factors.count <= rope_factors::most && c.attention.scaling.factors.count == shapes(c).rotary_dim / 2
        : c.attention.scaling.factors.empty(),
    c.attention.scaling.factors.count, shapes(c).rotary_dim / 2);
MOESAIC_RULE(block_config, long_factors_are_as_many,
    "attention.scaling.long_factors must be as many as attention.scaling.factors, or none where these serve texts of any length, because both are of the "
    "same pairs",
    c.attention.scaling.long_factors.empty() || c.attention.scaling.long_factors.count == c.attention.scaling.factors.count,
    c.attention.scaling.long_factors.count, c.attention.scaling.factors.count);
MOESAIC_RULE(block_config, factors_are_positive,
    "attention.scaling.factors and attention.scaling.long_factors must be finite and positive, because frequencies are divided by them",
    bad_factor(c.attention.scaling) == 1, real{bad_factor(c.attention.scaling)});
MOESAIC_RULE(block_config, magnitude_is_of_yarn_or_longrope,
    "attention.scaling.magnitude must be finite and positive, or 0 for the one that its kind has, and needs yarn or longrope, because other kinds leave "
    "cosines and sines as they are",
    c.attention.scaling.magnitude == 0 || (is_positive(c.attention.scaling.magnitude) && (c.attention.scaling.kind == rope_scaling_kind::yarn ||
                                                                                         c.attention.scaling.kind == rope_scaling_kind::longrope)),
    real{c.attention.scaling.magnitude}, c.attention.scaling.kind);
MOESAIC_RULE(block_config, long_magnitude_has_long_factors,
    "attention.scaling.long_magnitude must be finite and positive, or 0 for the one that follows from factor, and needs attention.scaling.long_factors, "
    "because it stands in magnitude's place where they stand in that of factors",
    c.attention.scaling.long_magnitude == 0 || (is_positive(c.attention.scaling.long_magnitude) && !c.attention.scaling.long_factors.empty()),
    real{c.attention.scaling.long_magnitude}, c.attention.scaling.long_factors.count);
MOESAIC_RULE(block_config, batch_invariance_has_one_list,
    "attention.scaling.long_factors must be empty where purpose is batch_invariant, because they turn a token by how far its sequence reaches in the call "
    "that brings it: the one list that serves its lengths is attention.scaling.factors",
    c.purpose != purpose::batch_invariant || c.attention.scaling.long_factors.empty(), c.attention.scaling.long_factors.count, c.purpose);
MOESAIC_RULE(block_config, attention_scale_is_positive,
    "attention.scale must be finite and positive, or 0 for 1 / sqrt(head_dim), because a negative one prefers the keys least alike",
    not_negative(c.attention.scale), real{c.attention.scale});
MOESAIC_RULE(block_config, value_dim_is_at_most_512,
    "attention.value_dim must lie between 1 and 512, or be 0 for the head dimension, because attention keeps a head's values on the stack",
    c.attention.value_dim >= 0 && c.attention.value_dim <= 512, c.attention.value_dim);
MOESAIC_RULE(block_config, attention_softcap_is_not_negative,
    "attention.softcap must be finite and positive, or 0 for none, because scores are squeezed between it and its negative",
    not_negative(c.attention.softcap), real{c.attention.softcap});
MOESAIC_RULE(block_config, qkv_clip_is_not_negative,
    "attention.qkv_clip must be finite and positive, or 0 for none, because projections are clamped between its negative and it",
    not_negative(c.attention.qkv_clip), real{c.attention.qkv_clip});
MOESAIC_RULE(block_config, window_and_chunk_are_not_negative,
    "attention.window and attention.chunk must be positive, or 0 for all positions, because they count those that a token sees, itself among them",
    c.attention.window >= 0 && c.attention.chunk >= 0, c.attention.window, c.attention.chunk);
MOESAIC_RULE(block_config, late_qk_norm_has_both,
    "attention.qk_norm_after_rope needs attention.qk_norm and attention.rotary, because it says which of the two comes first",
    !c.attention.qk_norm_after_rope || (c.attention.qk_norm != qk_norm::none && c.attention.rotary), c.attention.qk_norm, c.attention.rotary);
MOESAIC_RULE(block_config, temperature_is_not_negative,
    "attention.temperature must have a finite scale that is not negative and a positive floor, because queries grow with the whole floors of "
    "positions before them",
    not_negative(c.attention.temperature.scale) && c.attention.temperature.floor > 0,
    real{c.attention.temperature.scale}, c.attention.temperature.floor);

// ---- latent attention

MOESAIC_RULE(block_config, latent_ranks_are_not_negative,
    "attention.latent.kv_rank and attention.latent.q_rank must be positive, or 0 for projections from x, because they are widths",
    c.attention.latent.kv_rank >= 0 && c.attention.latent.q_rank >= 0, c.attention.latent.kv_rank, c.attention.latent.q_rank);
MOESAIC_RULE(block_config, latent_settings_need_kv_rank,
    "attention.latent's q_rank, rope_dim, epsilon, q_scale and kv_scale need attention.latent.kv_rank, because without it keys and values are "
    "projected from x",
    c.attention.latent.kv_rank != 0 || c.attention.latent.q_rank < 0 || c.attention.latent == latent_config{}, c.attention.latent.q_rank,
    c.attention.latent.rope_dim);
MOESAIC_RULE(block_config, latent_rope_dim_is_even,
    "attention.latent.rope_dim must be positive, even and at most 512, because of latent attention's queries and keys only these elements turn, in "
    "pairs, whose sines are kept on the stack",
    c.attention.latent.kv_rank <= 0 || (c.attention.latent.rope_dim > 0 && c.attention.latent.rope_dim % 2 == 0 && c.attention.latent.rope_dim <= 512),
    c.attention.latent.rope_dim);
MOESAIC_RULE(block_config, latent_epsilon_is_positive,
    "attention.latent.epsilon must be finite and positive, because a latent of zeros would be divided by zero",
    is_positive(c.attention.latent.epsilon), real{c.attention.latent.epsilon});
MOESAIC_RULE(block_config, latent_scales_are_positive,
    "attention.latent.q_scale and attention.latent.kv_scale must be finite and positive, because they multiply queries and latents",
    is_positive(c.attention.latent.q_scale) && is_positive(c.attention.latent.kv_scale), real{c.attention.latent.q_scale}, real{c.attention.latent.kv_scale});
MOESAIC_RULE(block_config, latent_heads_have_their_own_keys,
    "attention.kv_heads must be 0 or attention.heads where attention.latent is given, because every head projects keys and values of its own from "
    "the latent",
    c.attention.latent.kv_rank <= 0 || c.attention.kv_heads == 0 || c.attention.kv_heads == c.attention.heads, c.attention.kv_heads, c.attention.heads);
constexpr bool plain_latent(attention_config a) {
  attention_config plain;
  plain.heads = a.heads, plain.kv_heads = a.kv_heads, plain.head_dim = a.head_dim, plain.value_dim = a.value_dim, plain.rotary = a.rotary;
  plain.rope_theta = a.rope_theta, plain.layout = a.layout, plain.scaling = a.scaling, plain.out_bias = a.out_bias, plain.scale = a.scale;
  plain.latent = a.latent, plain.router = a.router;
  return a == plain;
}
MOESAIC_RULE(block_config, latent_attention_is_plain,
    "attention.latent needs attention's tiled_kv, rotary_dim, qk_norm, qkv_bias, qkv_clip, softcap, window, chunk, sinks, output_gate and temperature "
    "to be left alone, because latent attention has a projection, a norm and a cache of its own, which know of none of them",
    c.attention.latent.kv_rank <= 0 || plain_latent(c.attention), c.attention.latent.kv_rank);

// ---- experts of attention

MOESAIC_RULE(block_config, attention_experts_are_not_negative,
    "attention.router.experts must be positive, or 0 for projections that every token uses, because it counts projections of queries and output",
    c.attention.router.experts >= 0, c.attention.router.experts);
MOESAIC_RULE(block_config, attention_top_k_is_within_experts,
    "attention.router.top_k must lie between 1 and attention.router.experts, because a token attends by that many different experts",
    c.attention.router.experts <= 0 || (c.attention.router.top_k > 0 && c.attention.router.top_k <= c.attention.router.experts),
    c.attention.router.top_k, c.attention.router.experts);
MOESAIC_RULE(block_config, attention_router_has_experts,
    "attention.router's settings (top_k, score, renormalize and the rest) need attention.router.experts, because without experts it has nothing to choose",
    c.attention.router.experts != 0 || c.attention.router == router_config{}, c.attention.router.top_k, c.attention.router.experts);
MOESAIC_RULE(block_config, attention_top_k_divides_heads,
    "attention.router.top_k must divide attention.heads, because each expert that a token chooses has equally many of its heads",
    c.attention.router.experts <= 0 || !attention_top_k_is_within_experts::holds(c) || c.attention.heads % c.attention.router.top_k == 0,
    c.attention.router.top_k, c.attention.heads);
MOESAIC_RULE(block_config, attention_router_has_no_groups,
    "attention.router must leave groups, top_groups, group_worth, group_mask and group_gate alone, because each expert of attention may be chosen beside "
    "each other one",
    c.attention.router.experts <= 0 ||
        (c.attention.router.groups == 1 && c.attention.router.top_groups == 1 && c.attention.router.group_worth == router_config{}.group_worth &&
         c.attention.router.group_mask == router_config{}.group_mask && !c.attention.router.group_gate),
    c.attention.router.groups, c.attention.router.top_groups, c.attention.router.group_worth, c.attention.router.group_mask, c.attention.router.group_gate);
MOESAIC_RULE(block_config, attention_router_weighs_by_scores,
    "attention.router must leave weights, routed_scale, sum_epsilon and sum_floor alone, because what experts of attention add is weighed by their scores "
    "or by these over their sum",
    c.attention.router.experts <= 0 ||
        (c.attention.router.weights == combine_weight::scores && c.attention.router.routed_scale == 1 &&
         c.attention.router.sum_epsilon == router_config{}.sum_epsilon && c.attention.router.sum_floor == 0),
    c.attention.router.weights, real{c.attention.router.routed_scale}, real{c.attention.router.sum_epsilon}, real{c.attention.router.sum_floor});
constexpr bool plain_router(router_config const& r) {
  router_config plain;
  plain.experts = r.experts, plain.top_k = r.top_k, plain.score = r.score, plain.position = r.position, plain.renormalize = r.renormalize, plain.bias = r.bias;
  return r == plain;
}
MOESAIC_RULE(block_config, attention_router_is_plain,
    "attention.router must leave logit_softcap, cosine and score_bias alone, because experts of attention are chosen by the scores of their logits, and "
    "nothing else of a router is computed there",
    c.attention.router.experts <= 0 || plain_router(c.attention.router) || !attention_router_has_no_groups::holds(c) ||
        !attention_router_weighs_by_scores::holds(c),
    real{c.attention.router.logit_softcap}, real{c.attention.router.cosine}, c.attention.router.score_bias);
MOESAIC_RULE(block_config, attention_renormalize_leaves_weights,
    "attention.router.renormalize needs softmax, sigmoid, sqrt_softplus or relu scores, and a top_k of at least 2 where purpose is training, because the sum "
    "of logits may be zero, and one weight over its own sum leaves the router no gradient",
    !c.attention.router.renormalize || c.attention.router.experts <= 0 ||
        (c.attention.router.score != score::identity && (c.attention.router.top_k != 1 || c.purpose != purpose::training)),
    c.attention.router.score, c.attention.router.top_k, c.purpose);
MOESAIC_RULE(block_config, attention_experts_project_alone,
    "attention.router needs attention's latent, qkv_bias, qkv_clip and output_gate to be left alone, and no qk_norm::full_width, because an expert's "
    "queries are a projection of x, and a norm or a gate over all heads would mix those of several experts",
    c.attention.router.experts <= 0 ||
        (c.attention.latent.kv_rank == 0 && !c.attention.qkv_bias && c.attention.qkv_clip == 0 && !c.attention.output_gate &&
         c.attention.qk_norm != qk_norm::full_width),
    c.attention.latent.kv_rank, c.attention.qkv_bias, real{c.attention.qkv_clip}, c.attention.output_gate, c.attention.qk_norm);

// ---- router

MOESAIC_RULE(block_config, experts_are_not_negative,
    "router.experts must be positive, or 0 for a dense layer, because it counts the experts",
    c.router.experts >= 0, c.router.experts);
MOESAIC_RULE(block_config, top_k_is_within_experts,
    "router.top_k must lie between 1 and router.experts, because a token goes to that many different experts",
    c.router.experts <= 0 || (c.router.top_k > 0 && c.router.top_k <= c.router.experts), c.router.top_k, c.router.experts);
MOESAIC_RULE(block_config, router_has_experts,
    "router settings (top_k, score, renormalize and the rest) need router.experts, because a layer of 0 experts is dense and has no router",
    c.router.experts != 0 || c.router == router_config{}, c.router.top_k, c.router.experts);
MOESAIC_RULE(block_config, score_bias_meets_scores,
    "router.score_bias needs score_position::before_top_k, because it is added to scores, and after_top_k chooses by logits",
    !c.router.score_bias || c.router.position == score_position::before_top_k, c.router.position);
MOESAIC_RULE(block_config, renormalize_has_positive_scores,
    "router.renormalize needs softmax, sigmoid, sqrt_softplus or relu scores, because identity leaves logits, whose sum may be zero or "
    "negative",
    !c.router.renormalize || c.router.score != score::identity, c.router.score);
MOESAIC_RULE(block_config, training_leaves_the_router_a_gradient,
    "router.renormalize needs router.top_k of at least 2 where purpose is training, because one weight over its own sum is always 1, and "
    "the router would get no gradient",
    !c.router.renormalize || c.router.top_k != 1 || c.purpose != purpose::training, c.router.top_k, c.purpose);
MOESAIC_RULE(block_config, sum_epsilon_is_not_negative,
    "router.sum_epsilon must be finite and not negative, because it keeps the sum of the chosen weights above zero",
    not_negative(c.router.sum_epsilon), real{c.router.sum_epsilon});
MOESAIC_RULE(block_config, sum_floor_is_not_negative,
    "router.sum_floor must be finite and not negative, because it keeps the sum of the chosen weights above zero",
    not_negative(c.router.sum_floor), real{c.router.sum_floor});
MOESAIC_RULE(block_config, sum_settings_need_renormalize,
    "router.sum_epsilon and router.sum_floor need router.renormalize, because nothing else divides by the sum of the chosen weights",
    c.router.renormalize || c.router.experts == 0 || !not_negative(c.router.sum_epsilon) || !not_negative(c.router.sum_floor) ||
        (c.router.sum_epsilon == router_config{}.sum_epsilon && c.router.sum_floor == router_config{}.sum_floor),
    real{c.router.sum_epsilon}, real{c.router.sum_floor});
MOESAIC_RULE(block_config, logit_softcap_is_not_negative,
    "router.logit_softcap must be finite and positive, or 0 for none, because logits are squeezed between it and its negative",
    not_negative(c.router.logit_softcap), real{c.router.logit_softcap});
MOESAIC_RULE(block_config, groups_are_1_to_64,
    "router.groups must lie between 1 and 64, because what each group is worth is kept on the stack",
    c.router.groups >= 1 && c.router.groups <= 64, c.router.groups);
MOESAIC_RULE(block_config, groups_divide_experts,
    "router.groups must divide router.experts, because groups are runs of equally many experts",
    !groups_are_1_to_64::holds(c) || c.router.experts <= 0 || c.router.experts % c.router.groups == 0, c.router.groups, c.router.experts);
MOESAIC_RULE(block_config, top_groups_is_within_groups,
    "router.top_groups must lie between 1 and router.groups, because a token's experts come from that many different groups",
    !groups_are_1_to_64::holds(c) || (c.router.top_groups >= 1 && c.router.top_groups <= c.router.groups),
    c.router.top_groups, c.router.groups);
MOESAIC_RULE(block_config, top_groups_hold_top_k,
    "router.top_k must be at most router.top_groups * (router.experts / router.groups), because only the experts of a token's best groups "
    "can be chosen",
    c.router.experts <= 0 || !top_k_is_within_experts::holds(c) || !groups_are_1_to_64::holds(c) || !groups_divide_experts::holds(c) ||
        !top_groups_is_within_groups::holds(c) || c.router.top_k <= c.router.top_groups * (c.router.experts / c.router.groups),
    c.router.top_k, c.router.top_groups, c.router.experts / c.router.groups);
MOESAIC_RULE(block_config, top2_sum_has_two_experts,
    "group_worth::top2_sum needs at least 2 experts a group, because it sums a group's two best: say group_worth::max",
    !groups_are_1_to_64::holds(c) || c.router.groups == 1 || c.router.group_gate || c.router.experts <= 0 ||
        c.router.group_worth != group_worth::top2_sum ||
        c.router.experts / c.router.groups >= 2,
    c.router.experts / c.router.groups);
MOESAIC_RULE(block_config, group_gate_divides_top_k,
    "router.group_gate needs a router.top_k that is a multiple of router.top_groups, because every chosen group gives equally many experts",
    !c.router.group_gate || !top_k_is_within_experts::holds(c) || !groups_are_1_to_64::holds(c) || !top_groups_is_within_groups::holds(c) ||
        c.router.top_k % c.router.top_groups == 0,
    c.router.top_k, c.router.top_groups);
MOESAIC_RULE(block_config, group_gate_has_softmax_scores,
    "router.group_gate needs softmax scores before top-k, because a group's share is divided among its experts",
    !c.router.group_gate || (c.router.score == score::softmax && c.router.position == score_position::before_top_k),
    c.router.score, c.router.position);
MOESAIC_RULE(block_config, group_gate_decides,
    "router.group_gate leaves group_worth, group_mask, sum_epsilon and sum_floor alone, because the gate says what a group is worth, and each "
    "level divides by a sum of its own",
    !c.router.group_gate || c.router.experts == 0 ||
        (c.router.group_worth == router_config{}.group_worth && c.router.group_mask == router_config{}.group_mask &&
         c.router.sum_epsilon == router_config{}.sum_epsilon && c.router.sum_floor == router_config{}.sum_floor),
    c.router.group_worth, c.router.group_mask, real{c.router.sum_epsilon}, real{c.router.sum_floor});
MOESAIC_RULE(block_config, cosine_is_not_negative,
    "router.cosine must be finite and positive, or 0 for plain products, because it multiplies cosines, of which the largest is best",
    not_negative(c.router.cosine), real{c.router.cosine});
MOESAIC_RULE(block_config, cosine_has_no_bias,
    "router.cosine needs router.bias = false, because a cosine is of rows alone",
    c.router.cosine == 0 || !c.router.bias, c.router.bias);
MOESAIC_RULE(block_config, group_settings_have_groups,
    "router.group_worth and router.group_mask need router.groups of at least 2, because they compare groups of experts",
    c.router.groups != 1 || c.router.group_gate || c.router.experts == 0 ||
        (c.router.group_worth == router_config{}.group_worth && c.router.group_mask == router_config{}.group_mask),
    c.router.group_worth, c.router.group_mask);
MOESAIC_RULE(block_config, ones_are_not_scaled,
    "router.renormalize and router.routed_scale need combine_weight::scores or on_input, because weights that are ones are used as they are",
    c.router.weights != combine_weight::ones || (!c.router.renormalize && c.router.routed_scale == 1.0),
    c.router.renormalize, real{c.router.routed_scale});
MOESAIC_RULE(block_config, routed_scale_is_positive,
    "router.routed_scale must be finite and positive, because it multiplies what the chosen experts add",
    is_positive(c.router.routed_scale), real{c.router.routed_scale});

// ---- what an expert computes

MOESAIC_RULE(block_config, limit_is_not_negative,
    "expert.limit must be finite and positive, or 0 for none, because gate and up are clamped to it",
    not_negative(c.expert.limit), real{c.expert.limit});
MOESAIC_RULE(block_config, alpha_is_of_swiglu,
    "expert.alpha must be finite and positive, and 1 for all but swiglu, because it stands in that one's sigmoid",
    c.expert.alpha == 1.0 || (is_positive(c.expert.alpha) && c.expert.activation == activation::swiglu),
    real{c.expert.alpha}, c.expert.activation);
MOESAIC_RULE(block_config, up_offset_is_finite,
    "expert.up_offset must be finite, because it is added to what the gate multiplies",
    is_finite(c.expert.up_offset), real{c.expert.up_offset});
MOESAIC_RULE(block_config, gate_settings_have_a_gate,
    "expert.limit and expert.up_offset need swiglu, geglu_tanh or geglu_erf, because they are about a gate and what it multiplies",
    gated(c.expert.activation) || (c.expert.limit == 0 && c.expert.up_offset == 0), c.expert.activation);
MOESAIC_RULE(block_config, latent_is_not_negative,
    "expert.latent must be positive, or 0 for experts that work on x itself, because it is a width",
    c.expert.latent >= 0, c.expert.latent);
MOESAIC_RULE(block_config, mixture_settings_have_a_mixture,
    "expert.latent and expert.mixture_bias need router.experts, because they are about the sum of routed experts, and a dense layer has none",
    c.router.experts != 0 || (c.expert.latent <= 0 && !c.expert.mixture_bias), c.expert.latent, c.expert.mixture_bias);
MOESAIC_RULE(block_config, changed_inputs_are_of_feed_forwards,
    "expert.latent and combine_weight::on_input need expert.zero, expert.copy and expert.constant = 0, because those are made from x itself",
    special(c) <= 0 || (c.expert.latent <= 0 && c.router.weights != combine_weight::on_input), c.expert.latent, c.router.weights, special(c));

// ---- kinds of experts

MOESAIC_RULE(block_config, kinds_are_not_negative,
    "expert.zero, expert.copy and expert.constant must be positive, or 0 for none, because they count experts",
    c.expert.zero >= 0 && c.expert.copy >= 0 && c.expert.constant >= 0, c.expert.zero, c.expert.copy, c.expert.constant);
MOESAIC_RULE(block_config, feed_forwards_are_left,
    "router.experts must be more than expert.zero, expert.copy and expert.constant together, because it counts them too, and the others are "
    "the feed-forwards",
    special(c) <= 0 || c.router.experts < 0 || c.router.experts > special(c), c.router.experts, special(c));
MOESAIC_RULE(block_config, widths_stand_for_intermediate,
    "expert.intermediate must be left out where expert.widths is given, because the widths say how wide each feed-forward is",
    c.expert.widths.empty() || c.expert.intermediate == 0, c.expert.intermediate);
MOESAIC_RULE(block_config, widths_are_few,
    "expert.widths must have at most 8 runs, because each is a pair of matrix products of its own: sort the experts by width",
    c.expert.widths.count <= width_runs::most, c.expert.widths.count);
MOESAIC_RULE(block_config, widths_are_positive,
    "every run of expert.widths must have a positive number of experts and a positive width, because a run of none is left out",
    empty_run(c.expert.widths) < 0, c.expert.widths.run[shown_run(c)].experts, c.expert.widths.run[shown_run(c)].intermediate);
MOESAIC_RULE(block_config, widths_cover_the_feed_forwards,
    "the experts of expert.widths must add up to the feed-forwards (router.experts without zero, copy and constant ones, or the one of a "
    "dense layer), because each has a width",
    c.expert.widths.empty() || c.expert.widths.count > width_runs::most || empty_run(c.expert.widths) >= 0 || shapes(c).feed_forwards <= 0 ||
        c.expert.widths.experts() == shapes(c).feed_forwards,
    c.expert.widths.experts(), shapes(c).feed_forwards);

// ---- shared expert

MOESAIC_RULE(block_config, shared_is_not_negative,
    "shared.intermediate must be positive, or 0 for no shared expert, because it is a width",
    c.shared.intermediate >= 0, c.shared.intermediate);
MOESAIC_RULE(block_config, shared_has_experts_beside_it,
    "shared.intermediate needs router.experts, because every token uses a dense layer's feed-forward anyway: widen expert.intermediate",
    c.shared.intermediate <= 0 || c.router.experts != 0, c.shared.intermediate, c.router.experts);
MOESAIC_RULE(block_config, shared_gate_has_a_shared_expert,
    "shared.sigmoid_gate needs shared.intermediate, because there is nothing else for it to gate",
    !c.shared.sigmoid_gate || c.shared.intermediate != 0, c.shared.intermediate);

// ---- norms

MOESAIC_RULE(block_config, epsilon_is_positive,
    "norm.epsilon must be finite and positive, because a row of zeros would be divided by zero",
    is_positive(c.norm.epsilon), real{c.norm.epsilon});
MOESAIC_RULE(block_config, norm_bias_has_a_layer_norm,
    "norm.bias needs norm_kind::layer, because a root-mean-square norm has no bias",
    !c.norm.bias || c.norm.kind == norm_kind::layer, c.norm.kind);
MOESAIC_RULE(block_config, norm_cast_has_an_rms_norm,
    "norm.cast must be left alone where norm.kind is norm_kind::layer, because a LayerNorm is rounded once, after its weight",
    c.norm.kind == norm_kind::rms || c.norm.cast == norm_config{}.cast, c.norm.cast);
MOESAIC_RULE(block_config, weight_offset_is_finite,
    "norm.weight_offset must be finite, because it is added to the weights of every norm",
    is_finite(c.norm.weight_offset), real{c.norm.weight_offset});

// ---- what joins the stream

MOESAIC_RULE(block_config, residual_scale_is_positive,
    "residual_scale must be finite and positive, because it multiplies what attention and feed-forward add to the stream",
    is_positive(c.residual_scale), real{c.residual_scale});
MOESAIC_RULE(block_config, shortcut_opens_at_a_mixture,
    "shortcut::opens needs router.experts, because it is a mixture's output that joins the stream a layer later",
    c.shortcut != shortcut::opens || c.router.experts != 0, c.router.experts);
MOESAIC_RULE(block_config, shortcut_closes_at_a_dense_layer,
    "shortcut::closes needs router.experts = 0, because the layer over which a mixture is carried is dense",
    c.shortcut != shortcut::closes || c.router.experts == 0, c.router.experts);
MOESAIC_RULE(block_config, shortcut_has_no_post_norm,
    "shortcut needs norm_placement::pre, because a norm after the feed-forward is of all that the feed-forward adds, and a mixture that is "
    "carried on is added elsewhere",
    c.shortcut == shortcut::none || c.norms == norm_placement::pre, c.norms);

// ---- storage

/// Formats a weight matrix may be stored in.
constexpr bool stores_weights(dtype t) {
  return t == dtype::fp32 || t == dtype::bf16 || t == dtype::fp16 || has_scales(t);
}
/// Group sizes a format may have; a format that stores no weights is another rule's matter.
constexpr bool group_fits(format f) {
  if (f.type == dtype::int8 || f.type == dtype::int4) return f.group >= 0 && f.group % packed::per_lane(f.type) == 0;
  if (f.type == dtype::mxfp4) return f.group == 32;
  if (f.type == dtype::e4m3) return f.group > 0 && f.group % packed::lanes == 0;
  return f.group == 0;
}
constexpr bool zero_point_fits(format f) { return !f.zero_point || f.type == dtype::int4; }

MOESAIC_RULE(block_config, weights_have_a_weight_format,
    "storage.weights must be fp32, bf16, fp16, e4m3, int8, int4 or mxfp4, because these are the formats that matrices are packed in",
    stores_weights(c.storage.weights.type), c.storage.weights.type);
MOESAIC_RULE(block_config, ffn_has_a_weight_format,
    "storage.ffn must be fp32, bf16, fp16, e4m3, int8, int4, mxfp4 or same, because these are the formats that matrices are packed in",
    c.storage.ffn.type == dtype::same || stores_weights(c.storage.ffn.type), c.storage.ffn.type);
MOESAIC_RULE(block_config, groups_fit_their_format,
    "the groups of storage.weights and storage.ffn must be multiples of 4 for int8, of 8 for int4 (0: a whole row) and of 16 for e4m3, 32 "
    "for mxfp4, and 0 for the others, because a packed lane of four bytes, or an e4m3 block's panel, has one scale",
    group_fits(c.storage.weights) && group_fits(c.storage.ffn), c.storage.weights.group, c.storage.ffn.group);
MOESAIC_RULE(block_config, zero_points_are_int4,
    "zero_point in storage.weights and storage.ffn needs int4, because every other format is symmetric about zero",
    zero_point_fits(c.storage.weights) && zero_point_fits(c.storage.ffn), c.storage.weights.type, c.storage.ffn.type);
MOESAIC_RULE(block_config, activations_have_an_activation_format,
    "storage.activations must be fp32, bf16 or fp64, because these are the formats that ops are compiled for",
    c.storage.activations == dtype::fp32 || c.storage.activations == dtype::bf16 || c.storage.activations == dtype::fp64,
    c.storage.activations);
MOESAIC_RULE(block_config, coded_inputs_meet_e4m3,
    "storage.inputs needs e4m3 in storage.weights or storage.ffn, because weights of any other format are multiplied by activations as they are",
    c.storage.inputs == input_codes::none || c.storage.weights.type == dtype::e4m3 || c.storage.ffn.type == dtype::e4m3,
    c.storage.inputs, c.storage.weights.type, c.storage.ffn.type);
MOESAIC_RULE(block_config, coded_inputs_meet_blocks_of_128,
    "storage.inputs needs e4m3 in groups of 128, because an input's scale and a weight's belong to the same 128 products",
    c.storage.inputs == input_codes::none || ((c.storage.weights.type != dtype::e4m3 || c.storage.weights.group == groups::input_group) &&
                                              (c.storage.ffn.type != dtype::e4m3 || c.storage.ffn.group == groups::input_group)),
    c.storage.inputs, c.storage.weights.group, c.storage.ffn.group);
MOESAIC_RULE(block_config, cache_has_a_cache_format,
    "storage.cache must be same, or fp64 for fp64 activations, or fp32 or bf16 for others, because attention reads keys and values in one "
    "precision: fp64 throughout, or fp32",
    c.storage.cache == dtype::same || (c.storage.activations == dtype::fp64
        ? c.storage.cache == dtype::fp64 : c.storage.cache == dtype::fp32 || c.storage.cache == dtype::bf16),
    c.storage.cache, c.storage.activations);

// ---- decoder

MOESAIC_RULE(decoder_config, vocabulary_is_positive,
    "vocabulary must be positive, because it counts the rows of the embedding and of the head",
    c.vocabulary > 0, c.vocabulary);
MOESAIC_RULE(decoder_config, head_bias_has_a_head,
    "head_bias needs tied_head = false, because a tied head is the embedding, which has no bias",
    !c.head_bias || !c.tied_head, c.tied_head);
MOESAIC_RULE(decoder_config, final_epsilon_is_positive,
    "the epsilon of a decoder's norm must be finite and positive, because a row of zeros would be divided by zero",
    is_positive(c.norm.epsilon), real{c.norm.epsilon});
MOESAIC_RULE(decoder_config, final_norm_bias_has_a_layer_norm,
    "the bias of a decoder's norm needs norm_kind::layer, because a root-mean-square norm has no bias",
    !c.norm.bias || c.norm.kind == norm_kind::layer, c.norm.kind);
MOESAIC_RULE(decoder_config, final_norm_cast_has_an_rms_norm,
    "the cast of a decoder's norm must be left alone where its kind is norm_kind::layer, because a LayerNorm is rounded once, after its weight",
    c.norm.kind == norm_kind::rms || c.norm.cast == norm_config{}.cast, c.norm.cast);
MOESAIC_RULE(decoder_config, final_weight_offset_is_finite,
    "the weight_offset of a decoder's norm must be finite, because it is added to the norm's weights",
    is_finite(c.norm.weight_offset), real{c.norm.weight_offset});
MOESAIC_RULE(decoder_config, embedding_scale_is_positive,
    "embedding_scale must be finite and positive, because it multiplies every row of the embedding",
    is_positive(c.embedding_scale), real{c.embedding_scale});
MOESAIC_RULE(decoder_config, logit_scale_is_positive,
    "logit_scale must be finite and positive, because a negative one would prefer the tokens least likely",
    is_positive(c.logit_scale), real{c.logit_scale});
MOESAIC_RULE(decoder_config, final_logit_softcap_is_not_negative,
    "the logit_softcap of a decoder must be finite and positive, or 0 for none, because logits are squeezed between it and its negative",
    not_negative(c.logit_softcap), real{c.logit_softcap});
MOESAIC_RULE(decoder_config, embedding_has_a_weight_format,
    "embedding must be fp32, bf16, fp16, e4m3, int8, int4 or mxfp4, because these are the formats that matrices are packed in",
    stores_weights(c.embedding.type), c.embedding.type);
MOESAIC_RULE(decoder_config, embedding_groups_fit_their_format,
    "the group of embedding must be a multiple of 4 for int8, of 8 for int4 (0: a whole row) and of 16 for e4m3, 32 for mxfp4, and 0 for "
    "the others, because a packed lane of four bytes, or an e4m3 block's panel, has one scale",
    group_fits(c.embedding), c.embedding.group);
MOESAIC_RULE(decoder_config, embedding_zero_point_is_int4,
    "zero_point in embedding needs int4, because every other format is symmetric about zero",
    zero_point_fits(c.embedding), c.embedding.type);

// ---- the layers of a decoder, together

MOESAIC_RULE(layer_stack, there_are_layers,
    "layers must name at least one layer, because a decoder without any reads a token and nothing before it",
    c.layers > 0, c.layers);
MOESAIC_RULE(layer_stack, layers_share_hidden,
    "all layers must have the same hidden, because one residual stream runs through them",
    c.first.hidden == c.odd.hidden, c.first.hidden, c.odd.hidden);
MOESAIC_RULE(layer_stack, layers_share_activations,
    "all layers must have the same storage.activations, because one residual stream runs through them",
    c.first.storage.activations == c.odd.storage.activations, c.first.storage.activations, c.odd.storage.activations);
MOESAIC_RULE(layer_stack, layers_share_a_kind_of_cache,
    "all layers must have an attention.latent.kv_rank or none of them, because a model's caches are of one kind",
    (c.first.attention.latent.kv_rank != 0) == (c.odd.attention.latent.kv_rank != 0),
    c.first.attention.latent.kv_rank, c.odd.attention.latent.kv_rank);
MOESAIC_RULE(layer_stack, shortcuts_open_and_close,
    "a layer (here: this one, counted from 0) whose shortcut opens must be followed by one that closes it, and no other layer may close, "
    "because a mixture is carried over one layer",
    c.unpaired < 0, c.unpaired, c.at_unpaired);

#undef MOESAIC_RULE

template <class... Rules>
struct list {};

// Structs, not aliases: a compiler spells the name alone.
struct of_block : list<
    hidden_is_positive, heads_are_positive, heads_divide_hidden, head_dim_is_positive, head_dim_is_even, head_dim_is_at_most_512,
    kv_heads_divide_heads, intermediate_is_positive, rope_theta_is_positive, rotary_dim_is_within_a_head,
    rotary_settings_need_rotary, scaling_has_a_kind, scaling_stretches, scaling_fields_are_of_their_kind, scaling_bands_are_ordered, scaling_knows_original_positions,
    yarn_bands_are_ordered, yarn_has_a_theta_above_1, ntk_has_two_pairs, factors_are_of_pairs, long_factors_are_as_many,
    factors_are_positive, magnitude_is_of_yarn_or_longrope, long_magnitude_has_long_factors, batch_invariance_has_one_list, attention_scale_is_positive, value_dim_is_at_most_512,
    attention_softcap_is_not_negative,
    qkv_clip_is_not_negative, window_and_chunk_are_not_negative, late_qk_norm_has_both, temperature_is_not_negative, latent_ranks_are_not_negative, latent_settings_need_kv_rank, latent_rope_dim_is_even,
    latent_epsilon_is_positive, latent_scales_are_positive, latent_heads_have_their_own_keys, latent_attention_is_plain,
    attention_experts_are_not_negative, attention_top_k_is_within_experts, attention_router_has_experts, attention_top_k_divides_heads,
    attention_router_has_no_groups, attention_router_weighs_by_scores, attention_router_is_plain, attention_renormalize_leaves_weights,
    attention_experts_project_alone, experts_are_not_negative,
    top_k_is_within_experts, router_has_experts, score_bias_meets_scores, renormalize_has_positive_scores,
    training_leaves_the_router_a_gradient, sum_epsilon_is_not_negative, sum_floor_is_not_negative, sum_settings_need_renormalize,
    logit_softcap_is_not_negative, groups_are_1_to_64, groups_divide_experts, top_groups_is_within_groups, top_groups_hold_top_k,
    top2_sum_has_two_experts, group_settings_have_groups, group_gate_divides_top_k, group_gate_has_softmax_scores, group_gate_decides,
    cosine_is_not_negative, cosine_has_no_bias, ones_are_not_scaled, routed_scale_is_positive,
    limit_is_not_negative, alpha_is_of_swiglu, up_offset_is_finite, gate_settings_have_a_gate, latent_is_not_negative,
    mixture_settings_have_a_mixture, changed_inputs_are_of_feed_forwards,
    kinds_are_not_negative, feed_forwards_are_left, widths_stand_for_intermediate, widths_are_few, widths_are_positive,
    widths_cover_the_feed_forwards,
    shared_is_not_negative, shared_has_experts_beside_it, shared_gate_has_a_shared_expert, epsilon_is_positive,
    norm_bias_has_a_layer_norm, norm_cast_has_an_rms_norm, weight_offset_is_finite, residual_scale_is_positive,
    shortcut_opens_at_a_mixture, shortcut_closes_at_a_dense_layer, shortcut_has_no_post_norm, weights_have_a_weight_format, ffn_has_a_weight_format, groups_fit_their_format, zero_points_are_int4,
    activations_have_an_activation_format, coded_inputs_meet_e4m3, coded_inputs_meet_blocks_of_128, cache_has_a_cache_format> {};
struct of_decoder : list<
    vocabulary_is_positive, head_bias_has_a_head, final_epsilon_is_positive, final_norm_bias_has_a_layer_norm,
    final_norm_cast_has_an_rms_norm, final_weight_offset_is_finite, embedding_scale_is_positive, logit_scale_is_positive,
    final_logit_softcap_is_not_negative,
    embedding_has_a_weight_format, embedding_groups_fit_their_format, embedding_zero_point_is_int4> {};
struct of_stack : list<there_are_layers, layers_share_hidden, layers_share_activations, layers_share_a_kind_of_cache, shortcuts_open_and_close> {};

constexpr of_block about(block_config const&) { return {}; }
constexpr of_decoder about(decoder_config const&) { return {}; }
constexpr of_stack about(layer_stack const&) { return {}; }

template <class Config, class F, class... Rules>
constexpr void for_each_broken(Config const& c, F&& f, list<Rules...>) {
  ((Rules::holds(c) ? void() : f(Rules::sentence)), ...);
}

// The index of the first broken rule from `from` on, or -1.
template <class Config, class... Rules>
constexpr int next_broken(Config const& c, int from, list<Rules...>) {
  int index = 0, found = -1;
  ((found = found < 0 && index >= from && !Rules::holds(c) ? index : found, ++index), ...);
  return found;
}

template <int Index, class Rule, class... Rest>
struct at : at<Index - 1, Rest...> {};
template <class Rule, class... Rest>
struct at<0, Rule, Rest...> {
  using type = Rule;
};
template <int Index, class... Rules>
typename at<Index, Rules...>::type rule_at(list<Rules...>);

// Refuses a spec by its first broken rule, then by the next: instantiating broken_by<Spec, you_gave<...>> is the error.
template <class Spec, class Rule>
using broken = typename Rule::template broken_by<Spec, typename Rule::template given<Spec::config>>;
template <class Spec, class List, int Index = next_broken(Spec::config, 0, List{})>
struct refuse : broken<Spec, decltype(rule_at<Index>(List{}))>, refuse<Spec, List, next_broken(Spec::config, Index + 1, List{})> {};
template <class Spec, class List>
struct refuse<Spec, List, -1> {};

}  // namespace rules

/// f(sentence) for every rule that a configuration breaks: a block_config, a decoder_config, or layer_stack(configs of all layers).
template <class Config, class F>
constexpr void explain(Config const& config, F&& f) {
  rules::for_each_broken(config, f, rules::about(config));
}

/// The first sentence that a configuration breaks, or nullptr where every rule holds.
template <class Config>
constexpr const char* explain(Config const& config) {
  const char* first = nullptr;
  explain(config, [&](const char* sentence) { first = first != nullptr ? first : sentence; });
  return first;
}

}  // namespace moesaic
