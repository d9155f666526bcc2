// Multi-head latent attention in numbers: its shape, what each of its two forms costs, and the memory that a call works in.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/arena.hpp>
#include <moesaic/base/math.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/shapes.hpp>

namespace moesaic {

/// How queries meet the latents (arXiv:2405.04434 §2.1, C). expanded: keys and values of every head are projected up from the cached
/// latents, a block of slots at a time. absorbed: queries are projected down to latents, score against the cache itself, and the weighted
/// sum of latents is projected up. Equal but for rounding; by_shape takes the one of fewer FLOPs for each sequence of a batch.
enum class latent_form : std::uint8_t { by_shape, expanded, absorbed };

constexpr const char* name(latent_form value) {
  switch (value) {
    case latent_form::by_shape: return "by_shape";
    case latent_form::expanded: return "expanded";
    case latent_form::absorbed: return "absorbed";
  }
  return "";
}

/// The widest latents that kernels of a device take: DeepSeek's.
inline constexpr int most_latent_rank = 512, most_latent_slot_dim = 576;

struct latent_shape {
  int heads = 0, head_dim = 0, rope_dim = 0, value_dim = 0, rank = 0;

  MOESAIC_FN constexpr int key_dim() const { return head_dim + rope_dim; }   ///< of a query
  MOESAIC_FN constexpr int slot_dim() const { return rank + rope_dim; }      ///< elements that the cache keeps of a token
  friend constexpr bool operator==(latent_shape const&, latent_shape const&) = default;
};
constexpr latent_shape latent_shape_of(block_config const& c) {
  auto const s = shapes(c);
  return {s.heads, s.head_dim, c.attention.latent.rope_dim, s.value_dim, c.attention.latent.kv_rank};
}

/// Multiply-adds of a head for the last `tokens` tokens of a sequence of `slots`: of both projections and of all that meets the cache.
template <class Number>
MOESAIC_FN constexpr Number latent_products(latent_shape const& s, latent_form form, Number tokens, Number slots) {
  bool const expanded = form == latent_form::expanded;
  auto const visits = tokens * slots - tokens * (tokens - 1) / 2;            // pairs of a token and a slot that it sees
  auto const projected = static_cast<Number>(s.head_dim + s.value_dim) * s.rank;    // of a token or slot
  return (expanded ? slots : tokens) * projected + visits * (expanded ? s.key_dim() + s.value_dim : s.slot_dim() + s.rank);
}
/// FLOPs of all heads; a multiply-add is two.
constexpr double latent_flops(latent_shape const& s, latent_form form, double tokens, double slots) {
  return 2 * s.heads * latent_products(s, form, tokens, slots);
}
/// The form that by_shape stands for: of the fewer FLOPs, in whole numbers, so that host and device agree.
MOESAIC_FN constexpr latent_form latent_form_of(latent_shape const& s, latent_form form, std::int64_t tokens, std::int64_t slots) {
  if (form != latent_form::by_shape) return form;
  auto const expanded = latent_products(s, latent_form::expanded, tokens, slots), absorbed = latent_products(s, latent_form::absorbed, tokens, slots);
  return expanded < absorbed ? latent_form::expanded : latent_form::absorbed;
}

/// Of a call of attention: as wide as its tokens, whatever the context.
template <class T>
struct latent_memory {
  using sum = accumulator<T>;
  static constexpr std::int64_t slots = 64;        ///< whose keys and values are expanded at a time, or some times as many
  static constexpr std::int64_t most_slots = 512;
  static constexpr std::int64_t tokens = 64;       ///< whose queries are absorbed at a time

  view<sum> query;           ///< absorbed: [tokens, heads · slot_dim], the latent queries with the rotated ones
  view<sum> latent;          ///< absorbed: [tokens, heads · state_width(rank)]
  view<sum> keys, values;    ///< expanded: [slots at once, heads · key_dim], [slots at once, heads · value_dim]; a device keeps them as T, so more of them
  view<T> narrow;            ///< expanded: [slots at once, or as many as are kept as T, rank], the latents as activations
  view<sum> state;           ///< expanded: [all tokens, heads · state_width(value_dim)]
  list<std::int32_t> plan;   ///< expanded, on a device: which token is computed how

  /// A running sum of weighted values, of a token and head: `width` elements, then 16 partial sums of the weights, then the largest score.
  static constexpr std::int64_t state_width(std::int64_t width) { return packed::ceil_div(width, packed::lanes) * packed::lanes + 2 * packed::lanes; }

  /// On a device several times 64, so that a matrix is read for many slots.
  static constexpr std::int64_t slots_at_once(std::int64_t all_tokens) {
    auto const whole = packed::ceil_div(all_tokens, slots) * slots;
    return whole < slots ? slots : whole < most_slots ? whole : most_slots;
  }
  static constexpr std::int64_t plan_words(std::int64_t all_tokens) { return 4 * all_tokens + 2 * packed::ceil_div(all_tokens, tokens) + 6; }

  /// What a form does not need stays empty. on_device: for a device, whose memory serves the host too; else for the host alone.
  static constexpr latent_memory carve(arena& memory, latent_shape const& s, std::int64_t all_tokens, latent_form form = latent_form::by_shape,
                                       bool on_device = true) {
    auto const at_once = all_tokens < tokens ? all_tokens : tokens;
    latent_memory m{};
    m.query = memory.take<sum>(at_once, std::int64_t{s.heads} * s.slot_dim());
    m.latent = memory.take<sum>(at_once, s.heads * state_width(s.rank));
    if (form == latent_form::absorbed) return m;
    auto const expanded = on_device ? slots_at_once(all_tokens) : slots;
    m.keys = memory.take<sum>(expanded, std::int64_t{s.heads} * s.key_dim());
    m.values = memory.take<sum>(expanded, std::int64_t{s.heads} * s.value_dim);
    m.narrow = memory.take<T>(expanded * (on_device ? static_cast<std::int64_t>(sizeof(sum) / sizeof(T)) : 1), s.rank);
    m.state = memory.take<sum>(all_tokens, s.heads * state_width(s.value_dim));
    m.plan = memory.take<std::int32_t>(on_device ? plan_words(all_tokens) : 0);
    return m;
  }
};

}  // namespace moesaic
