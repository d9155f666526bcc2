// One transformer layer, dense or mixture of experts: x + attention(norm(x)), then + feed-forward(norm(·)); norms stand where its configuration says.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string_view>
#include <type_traits>
#include <utility>

#include <moesaic/layer/attention.hpp>
#include <moesaic/layer/device_axes.hpp>
#include <moesaic/layer/latent_attention.hpp>
#include <moesaic/layer/moe.hpp>
#include <moesaic/layer/norm.hpp>

namespace moesaic {

/// Rows of a call: x [tokens, hidden], and where each belongs.
template <class T>
struct batch {
  view<const T> x;
  list<const std::int32_t> sequence;     ///< [tokens], index into the cache
  list<const std::int32_t> position;     ///< [tokens]; rows of one sequence ascend by one, from where its cache ends: the caller's promise
  view<T> carried = {};                  ///< [tokens, hidden] of a layer that opens a shortcut: written; of the one that closes it: read, not x or y
};

/// A layer as its Spec describes it: a type with `static constexpr block_config config`, and `using routing = policy` where it has its own.
/// Calls on different workspaces and caches may run at the same time; weights are only read.
template <class Spec>
struct block {
  static constexpr block_config config = validated<Spec>::config;
  static constexpr auto shape = shapes(config);
  using scalar = scalar_of<shape.activations>;
  using weights = block_weights;
  using policy_state = typename policy_of<Spec>::state;
  static constexpr bool norms_before = config.norms != norm_placement::post, norms_after = config.norms != norm_placement::pre;
  static constexpr bool opens = config.shortcut == shortcut::opens, closes = config.shortcut == shortcut::closes;

  struct scratch {
    call_flags* flags;
    view<scalar> normed, stream;         // [tokens, hidden]
    typename attention_of<Spec>::scratch attention;
    typename moe<Spec>::scratch ffn;
  };

  /// batch.x -> y [tokens, hidden]; y may be batch.x. Appends the tokens' keys and values to the cache. `workspace` has
  /// workspace_bytes(tokens) bytes and keeps nothing between calls but the flag that `check` reads. A policy whose state is not empty must be
  /// given one. A sequence starts anew at its first position: what an older one left beyond a token's own position is not read.
  /// Errors, before anything is written: shapes or a policy's state that do not fit, a cache of another layer (invalid_argument), a sequence
  /// or position beyond the cache (out_of_range), workspace_too_small, weights of another configuration (wrong_weights).
  template <class Where, class Cache, class Tap = no_tap>
  static status forward(Where& where, weights const& w, batch<scalar> const& rows, Cache const& cache, view<scalar> y,
                        list<std::byte> workspace, policy_state const& state = no_state(), Tap&& tap = {}) {
    if constexpr (requires { Where::batch_invariant; })
      static_assert(config.purpose != purpose::batch_invariant || Where::batch_invariant,
                    "a layer whose purpose is batch_invariant needs a stream whose tuning is in_one_order, because other kernels add in an order that depends "
                    "on how many tokens a call has");
    auto const tokens = rows.x.rows;
    if (rows.x.columns != shape.hidden) return invalid("batch.x must have `hidden` columns", shape.hidden, rows.x.columns);
    if (y.rows != tokens) return invalid("y must have a row a token", tokens, y.rows);
    if (y.columns != shape.hidden) return invalid("y must have `hidden` columns", shape.hidden, y.columns);
    if (rows.sequence.size != tokens) return invalid("batch.sequence must have an entry a token", tokens, rows.sequence.size);
    if (rows.position.size != tokens) return invalid("batch.position must have an entry a token", tokens, rows.position.size);
    if constexpr (opens || closes) {
      if (rows.carried.rows != tokens)
        return invalid("batch.carried must have a row a token, because this layer opens or closes a shortcut", tokens, rows.carried.rows);
      if (rows.carried.columns != shape.hidden) return invalid("batch.carried must have `hidden` columns", shape.hidden, rows.carried.columns);
    }
    if (tokens > most_tokens) return invalid("a call takes at most so many tokens, because expert slots are counted in 32 bits", most_tokens, tokens);
    if constexpr (!shape.dense)
      if (auto fits = state_fits<policy_of<Spec>>(config.router, state, tokens); !fits) return fits;
    if (auto fits = check_weights(where, w); !fits) return fits;
    arena memory(workspace.data, static_cast<std::size_t>(workspace.size));
    auto const s = carve<std::remove_cvref_t<Tap>, Where>(memory, tokens);
    if (!memory.fits())
      return {status_code::workspace_too_small, "the workspace must have workspace_bytes(tokens) bytes",
              static_cast<std::int64_t>(workspace_bytes<std::remove_cvref_t<Tap>, Where>(tokens)), workspace.size};
    clear(where, s.flags);
    auto const done = tokens == 0 ? status{} : run(where, w, rows, cache, y, s, state, tap, 0);
    auto const late = finish(where);                       // also where a step returned early: nothing is left for the next call
    return done ? late : done;
  }
  static constexpr std::int64_t most_tokens = 0x7fff'ffff / (moe<Spec>::slots > shape.attention_slots ? moe<Spec>::slots : shape.attention_slots);
  static constexpr policy_state no_state() {
    static_assert(std::is_empty_v<policy_state>, "this layer's routing policy has a state, so a forward call must be given one after the workspace");
    return {};
  }

  /// The same with a carved workspace, as a decoder calls it for layer after layer.
  template <class Where, class Cache, class Tap>
  static status run(Where& where, weights const& w, batch<scalar> const& rows, Cache const& cache, view<scalar> y, scratch const& s,
                    policy_state const& state, Tap& tap, int layer) {
    static_assert(!std::is_same_v<scalar, double> || !requires { requires Where::on_device; },
                  "storage.activations of a layer on a device must be bf16 or fp32, because fp64 is the host's reference and has no kernels there");
    static_assert(device_has_attention(config) || !requires { requires Where::on_device; },
                  "attention.latent of a layer on a device must have a kv_rank of at most 512, of at most 576 with its rope_dim, and kv_rank, q_rank and head_dim that "
                  "are multiples of 16, because its kernels keep a latent in registers and move 16 inputs at once");
    static_assert(takes_widths<Where>(), "hidden, heads · value_dim (of each expert of attention) and every intermediate of a layer on a device must be multiples of 16, because its kernels move 16 inputs at once");
    static_assert(may_tap<Where, Tap>(), "this tap reads its views on the host, so it needs a call that runs there: on a device, copy what is wanted first");
    auto const show = [&](stage what, view<scalar> values) { tap(tap_point{layer, what}, view<const scalar>(values)); };

    constexpr double scale = config.residual_scale;
    row_sites const sites{rows.sequence, rows.position, s.flags};

    if constexpr (norms_before) {
      normalize<scalar, norm::rms(config.norm)>(where, config.norm, w.attention_norm, rows.x, s.normed);
      show(stage::attn_norm, s.normed);
    }
    view<const scalar> const attended = norms_before ? view<const scalar>(s.normed) : rows.x;
    if (auto done = attention_of<Spec>::forward(where, w.attention, attended, sites, cache, s.attention, tap, layer); !done) return done;
    if constexpr (norms_after) {
      normalize<scalar, norm::rms(config.norm)>(where, config.norm, w.attention_post_norm, s.attention.out, s.attention.out);
      show(stage::attn_post_norm, s.attention.out);
    }
    if constexpr (norms_before) add_and_normalize<scalar, norm::rms(config.norm)>(where, config.norm, w.ffn_norm, rows.x, s.attention.out, s.stream, s.normed, scale);
    else add<scalar>(where, rows.x, s.attention.out, s.stream, scale);
    show(stage::attn_residual, s.stream);
    if constexpr (norms_before) show(stage::ffn_norm, s.normed);

    view<const scalar> const mixed = norms_before ? s.normed : s.stream;
    view<const scalar> const residual = norms_after ? view<const scalar>() : s.stream;
    auto const out = norms_after ? s.normed : y;
    if (auto done = moe<Spec>::forward(where, w.ffn, mixed, residual, out, state, s.ffn, s.flags, tap, layer, opens ? rows.carried : view<scalar>()); !done)
      return done;
    if constexpr (norms_after) {
      normalize<scalar, norm::rms(config.norm)>(where, config.norm, w.ffn_post_norm, out, out);
      show(stage::ffn_post_norm, out);
      add<scalar>(where, s.stream, out, y, scale);
    }
    if constexpr (closes) add<scalar>(where, y, rows.carried, y, scale);
    show(stage::block_out, y);
    return finish(where);
  }

  /// Whether a backend that moves several inputs at once can: a device's says how many.
  template <class Where>
  static constexpr bool takes_widths() {
    if constexpr (requires { Where::inputs_at_once; }) {
      bool fits = shape.hidden % Where::inputs_at_once == 0 && shape.heads_width / shape.attention_slots % Where::inputs_at_once == 0 && shape.shared_intermediate % Where::inputs_at_once == 0 &&
                  config.expert.latent % Where::inputs_at_once == 0;
      for (auto const& run : shape.widths) fits = fits && run.intermediate % Where::inputs_at_once == 0;
      return fits;
    }
    return true;
  }

  /// Bytes that `forward` needs for a batch of so many rows (of a tap's kind: a tap looks at more), on any backend; on that of Where alone, of latent
  /// attention on a host::pool they are fewer. 64 of them are for alignment.
  template <class Tap = no_tap, class Where = void>
  static constexpr std::size_t workspace_bytes(std::int64_t tokens) {
    arena counting;
    carve<Tap, Where>(counting, tokens);
    return counting.used() + arena::alignment;
  }
  template <class Tap = no_tap, class Where = void>
  static constexpr scratch carve(arena& memory, std::int64_t tokens) {
    scratch s{};
    s.flags = memory.take<call_flags>(1).data;             // first, where `check` finds it
    s.normed = memory.take<scalar>(tokens, shape.hidden);
    s.stream = memory.take<scalar>(tokens, shape.hidden);
    auto rest = memory;                                    // attention's scratch is free when the feed-forward starts
    s.attention = attention_of<Spec>::template carve<Where>(memory, tokens);
    s.ffn = moe<Spec>::template carve<Tap>(rest, tokens);
    memory = memory.used() > rest.used() ? memory : rest;
    return s;
  }

  /// Bytes of the packed weights, known before anything is loaded.
  static constexpr std::size_t weights_bytes() {
    arena counting;
    carve_weights(counting);
    return counting.used();
  }
  static constexpr weights carve_weights(arena& memory) {
    weights w;
    constexpr int before = norms_before ? shape.hidden : 0, after = norms_after ? shape.hidden : 0;
    for (auto* const n : {&w.attention_norm, &w.ffn_norm}) *n = norm::carve_weights(config.norm, before, memory);
    for (auto* const n : {&w.attention_post_norm, &w.ffn_post_norm}) *n = norm::carve_weights(config.norm, after, memory);
    w.attention = attention_of<Spec>::carve_weights(memory);
    w.ffn = moe<Spec>::carve_weights(memory);
    return w;
  }
  /// Views of packed weights that somebody kept (a file mapped again): `memory` has weights_bytes() bytes, aligned to 64.
  /// Throws where it is not.
  static weights bind(list<const std::byte> memory) {
    check_memory(memory, weights_bytes());
    arena over(const_cast<std::byte*>(memory.data), static_cast<std::size_t>(memory.size));   // the views are of const
    return carve_weights(over);
  }

  /// Packs a layer's tensors, named `prefix` + names, for this machine; quantises where storage is narrower than what is stored.
  /// Answers an owner that converts to the weights. Throws moesaic::error for what is missing, misshapen or not a number. `sublayer`: this
  /// layer's number among those that share the prefix.
  template <class Where, tensor_source Source>
  static auto load(Where& where, Source const& source, std::string_view prefix, tensor_names const& names = {}, int sublayer = 0) {
    auto const bound = [](auto const& memory) { return bind({memory.data(), static_cast<std::int64_t>(memory.size())}); };
    auto staged = allocate_staging(where, weights_bytes());
    load_into(where, bound(staged), source, prefix, names, sublayer);
    auto memory = move_staged(where, std::move(staged));
    auto const w = bound(memory);
    return loaded<weights, decltype(memory)>{std::move(memory), w};
  }
  /// The same into memory of the caller's own, bound before: of the host, in the layout of `where`.
  template <class Where, tensor_source Source>
  static void load_into(Where& where, weights const& w, Source const& source, std::string_view prefix, tensor_names const& names = {},
                        int sublayer = 0) {
    loader from(where, source, prefix, names, sublayer);
    if constexpr (norms_before) {
      bool const pre_norm = norms_after && from.has(names.ffn_pre_norm, "");
      norm::load(config.norm, w.attention_norm, from, names.attention_norm, names.attention_norm_bias);
      norm::load(config.norm, w.ffn_norm, from, pre_norm ? names.ffn_pre_norm : names.ffn_norm, pre_norm ? names.ffn_pre_norm_bias : names.ffn_norm_bias);
    }
    if constexpr (norms_after) {
      norm::load(config.norm, w.attention_post_norm, from, names.attention_post_norm, names.attention_post_norm_bias);
      norm::load(config.norm, w.ffn_post_norm, from, names.ffn_post_norm, names.ffn_post_norm_bias);
    }
    attention_of<Spec>::load(w.attention, from);
    moe<Spec>::load(w.ffn, from);
  }

  /// An empty cache of keys and values for `sequences` sequences of up to `max_tokens` tokens.
  template <class Where>
  static auto make_cache(Where& where, int sequences, int max_tokens) {
    return make_attention_cache<Spec>(where, sequences, max_tokens);
  }

  /// Whether weights are of this configuration's shapes and formats, and all there.
  static status check_weights(weights const& w) {
    static constexpr weights expected = [] {
      arena counting;
      return carve_weights(counting);
    }();
    if (!same_shapes(w, expected)) return {status_code::wrong_weights, "the weights must have been loaded for a configuration of the same shapes and storage", 0, 0};
    return {};
  }
  /// The same, and whether they were made for this rotation, where `where` lets the host look.
  template <class Where>
  static status check_weights(Where& where, weights const& w) {
    if (auto fits = check_weights(w); !fits) return fits;
    constexpr auto rope = rope_parameters_of(config.attention);
    if (!same_values(where, w.attention.rope.data, rope.value, rope_parameter_count))
      return {status_code::wrong_weights, "the weights must have been loaded for the same rotation: rope_theta, scaling, rotary_dim and layout", 0, 0};
    return {};
  }
};

/// Whether the last call on this workspace went well all the way: router logits finite, and, where the host could not look before, every id, site and
/// row inside its table. Reads the flags; waits for the call where that runs by itself.
template <class Where>
status check(Where& where, list<std::byte> workspace) {
  arena memory(workspace.data, static_cast<std::size_t>(workspace.size));
  call_flags flags;
  if (auto const done = read_flags(where, memory.take<call_flags>(1).data, flags); !done) return done;
  if (flags.id != 0) return {status_code::out_of_range, "some token id was not below the size of the vocabulary; its row is zero", 0, 0};
  if (flags.site != 0)
    return {status_code::out_of_range, "some token's sequence or position lay outside the cache; it was not appended and attended to nothing", 0, 0};
  if (flags.row != 0) return {status_code::out_of_range, "some row whose logits were wanted was no token of the batch; they are of zeros", 0, 0};
  if (flags.not_finite != 0)
    return {status_code::not_finite, "some token's router logits, or a cost or bias on them, were not finite; it got no expert", 0, 0};
  return {};
}

}  // namespace moesaic
