// Multi-head latent attention on a device: a cache of latents, and queries attending to it in either form (arXiv:2405.04434 §2.1, appendix C).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include <moesaic/config/latent.hpp>
#include <moesaic/config/weights.hpp>
#include <moesaic/cuda/gemm.hpp>
#include <moesaic/cuda/kernel/latent.hpp>
#include <moesaic/cuda/launch.hpp>
#include <moesaic/cuda/memory.hpp>

namespace moesaic::cuda {

using owned_latent_cache = owned_cache<latent_cache>;

/// An empty cache: `sequences` sequences of up to max_tokens tokens.
inline owned_latent_cache make_latent_cache(stream& where, dtype storage, latent_shape const& s, int sequences, int max_tokens) {
  check_cache(sequences, max_tokens);
  return owned_latent_cache(where, latent_cache{storage, sequences, s.rank, s.rope_dim, max_tokens, nullptr, nullptr});
}

/// Whether a cache was made for latents of this shape.
inline status check(stream&, latent_cache const& c, latent_shape const& s) {
  if (c.rank != s.rank) return invalid("The cache must have been made for the layer's latent rank.", s.rank, c.rank);
  if (c.rope_dim != s.rope_dim) return invalid("The cache must have been made for the layer's rotated elements.", s.rope_dim, c.rope_dim);
  return {};
}

/// In place: every element times a factor, rounded once.
template <class T, class Tuning>
void multiply(basic_stream_ref<Tuning>& where, double factor, view<T> x) {
  start<multiply_rows<T>>(where, {.x = blocks_for(x.rows), .early = true}, {x, static_cast<float>(factor)});
}

/// Writes the batch's latents [tokens, rank] and rotated keys [tokens, rope_dim] into their slots. No two tokens of a call may have one slot. A token
/// without a slot writes nothing and raises flags->site. Stored: the cache's storage, fp32 or bf16.
template <class T, dtype Stored, class Tuning>
status append(basic_stream_ref<Tuning>& where, latent_cache const& cache, view<const T> latent, view<const T> key, list<const std::int32_t> sequence,
              list<const std::int32_t> position, call_flags* flags = nullptr) {
  if (sequence.size != position.size) return invalid("Every token has one sequence and one position.", sequence.size, position.size);
  if (latent.rows != sequence.size || key.rows != sequence.size)
    return invalid("Latents and keys have one row for every token.", sequence.size, latent.rows != sequence.size ? latent.rows : key.rows);
  if (latent.columns != cache.rank || key.columns != cache.rope_dim)
    return invalid("Latents are rank wide and keys rope_dim.", cache.slot_dim(), latent.columns + key.columns);
  if (cache.storage != Stored) return invalid("A cache must have been made for the layer's storage.", bits(Stored), bits(cache.storage));
  start<append_latents<T, scalar_of<Stored>>>(where, {.x = blocks_for(latent.rows), .early = true}, {cache, latent, key, sequence.data, position.data, flags});
  return {};
}

namespace latent_detail {
/// y[t] + h · y_step = matrix h times x[t] + h · x_step; `offsets`, on the device: 0 and how many of the rows there are.
template <dtype W, class Tuning, class X, class Y>
void start_heads(basic_stream_ref<Tuning>& where, packed_matrix const& m, std::int64_t rows, X const* x, std::int64_t x_step, std::int64_t x_stride, Y* y,
                 std::int64_t y_step, std::int64_t y_stride, std::int32_t const* offsets = nullptr) {
  if (rows == 0) return;
  if (m.stored.type != W) return where.record(invalid("the weights are not of the type that the call was compiled for", static_cast<int>(W), static_cast<int>(m.stored.type)));
  if (!layout::takes(m)) return where.record(invalid("CUDA kernels need inputs that are a multiple of 16", 16, m.inputs));
  gemm_params<X, Y> p{.w = weight_view(m), .x = x, .x_stride = x_stride, .y = y, .y_stride = y_stride, .rows = rows, .offsets = offsets};
  p.w.count = 1;                         // a block looks at one head's matrix
  auto const go = [&]<class Kernel>() {
    start<gemm_of_heads<Kernel>>(where, {.x = static_cast<unsigned>(Kernel::blocks_for(rows, 1, p.w.rows)), .y = static_cast<unsigned>(m.count), .early = true},
                                 {p, x_step, y_step});
  };
  constexpr bool one_order = sums_in_one_order<Tuning>;
  if constexpr (Tuning::has(rung::sm80) && std::is_same_v<X, bf16> && std::is_same_v<Y, bf16> && sm80_multiplies(W))
    if (where.best() != rung::simt && gemm_detail::sm80_takes<W>(p) && x_step % 8 == 0) {
      auto const in = [&]<gemm_load Load>() {
        constexpr auto tile = gemm_detail::tile_of<Tuning>(W, Load);
        if constexpr (has_scales(W))
          if (p.w.group == 32) return go.template operator()<gemm_sm80<W, Y, tile, 2>>();
        if constexpr (W != dtype::mxfp4) go.template operator()<gemm_sm80<W, Y, tile>>();
      };
      if constexpr (!one_order)
        if (gemm_load_of(rows) == gemm_load::many) return in.template operator()<gemm_load::many>();
      return in.template operator()<gemm_load::some>();
    }
  if constexpr (!one_order)
    if (!simt_few(rows)) return go.template operator()<gemm_simt_many<W, X, Y>>();
  go.template operator()<gemm_simt_few<W, X, Y>>();
}

/// What both forms are given, on a device.
template <class T>
struct call {
  latent_shape shape;
  double scale;
  latent_cache cache;
  attention_weights const* w;
  view<const T> q;                             // [tokens, heads · key_dim]
  list<const std::int32_t> sequence, position;
  latent_memory<T> memory;
  view<T> out;                                 // [tokens, heads · value_dim]
};

inline constexpr char const* too_small = "Memory of latent attention must have been carved for as many tokens as a call has.";

template <class T>
status check(call<T> const& c, dtype stored) {
  auto const& s = c.shape;
  if (c.sequence.size != c.position.size) return invalid("Every token has one sequence and one position.", c.sequence.size, c.position.size);
  if (c.q.rows != c.sequence.size) return invalid("Queries have one row for every token.", c.sequence.size, c.q.rows);
  if (c.q.columns != std::int64_t{s.heads} * s.key_dim())
    return invalid("Queries are heads · (head_dim + rope_dim) wide.", std::int64_t{s.heads} * s.key_dim(), c.q.columns);
  if (s.rank > latent_tuning::most_rank || s.slot_dim() > latent_tuning::most_slot_dim)
    return invalid("Attention keeps its latents in registers: rank is at most 512, and 576 with the rotated elements.", latent_tuning::most_slot_dim, s.slot_dim());
  if (c.cache.storage != stored) return invalid("A cache must have been made for the layer's storage.", bits(stored), bits(c.cache.storage));
  auto const at_once = c.q.rows < latent_memory<T>::tokens ? c.q.rows : latent_memory<T>::tokens;
  if (c.memory.query.rows < at_once || c.memory.latent.rows < at_once)
    return invalid(too_small, at_once, c.memory.query.rows < at_once ? c.memory.query.rows : c.memory.latent.rows);
  return {};
}
/// Of a call with a plan.
template <class T>
status check_plan(call<T> const& c) {
  auto const& m = c.memory;
  if (c.shape.value_dim > attention_tuning::most_head_dim)
    return invalid("Expanded attention keeps its sums in registers: values are at most 512 wide.", attention_tuning::most_head_dim, c.shape.value_dim);
  if (m.state.rows < c.q.rows) return invalid(too_small, c.q.rows, m.state.rows);
  if (auto const words = latent_memory<T>::plan_words(c.q.rows); m.plan.size < words) return invalid(too_small, words, m.plan.size);
  return {};
}

inline constexpr double log2_e = 1.4426950408889634;

/// Tokens [first, first + count) of a call, at most latent_memory::tokens. What `out` gets of those that `plan` has expanded is no result.
template <dtype W, dtype Stored, class Shape, class Tuning, class T>
void absorbed(basic_stream_ref<Tuning>& where, call<T> const& c, std::int64_t first, std::int64_t count, latent_plan const& plan) {
  auto const& s = c.shape;
  auto const* const rows = plan.absorbed != nullptr ? plan.absorbed + 2 * (first / latent_memory<T>::tokens) : nullptr;
  auto const* const left_out = plan.block_of_token != nullptr ? plan.block_of_token + first : nullptr;
  view<const T> const q(c.q.row(first), count, c.q.columns, c.q.stride);
  auto const attend = [&]<class Sum>(auto&& launch, Sum* query, std::int64_t query_stride, std::int64_t query_step, Sum* latent, std::int64_t latent_stride,
                                     std::int64_t latent_step, double scale) {
    start_heads<turned(W)>(where, c.w->key_up_transposed, count, c.q.row(first), s.key_dim(), c.q.stride, query, query_step, query_stride, rows);
    launch(latent_params<T, Sum>{c.cache, view<const Sum>(query, count, s.heads * query_step, query_stride), q,
                                 view<Sum>(latent, count, s.heads * latent_step, latent_stride), c.sequence.data + first, c.position.data + first, left_out,
                                 static_cast<float>(scale), s.heads, static_cast<int>(query_step), s.key_dim(), static_cast<int>(latent_step)});
    start_heads<W>(where, c.w->value_up, count, static_cast<Sum const*>(latent), latent_step, latent_stride, c.out.row(first), s.value_dim, c.out.stride, rows);
  };
  if constexpr (!std::is_void_v<Shape> && std::is_same_v<T, bf16> && Stored == dtype::bf16) {
    if constexpr (latent_tuning::has_tiles(Shape::value.rank, Shape::value.rope_dim)) {
      constexpr auto known = Shape::value;
      constexpr int block_heads = latent_tuning::rows(known.heads);
      using alone = attend_latents<block_heads, known.rank, known.rope_dim, 1>;
      bool const reaches = is_wide(c.q) && s.key_dim() % 8 == 0 && reinterpret_cast<std::uintptr_t>(c.cache.data) % 16 == 0;
      if (where.best() != rung::simt && reaches && static_cast<std::int64_t>(shared_bytes_of<alone>()) <= where.device.shared_bytes) {
        auto const groups = static_cast<unsigned>((s.heads + block_heads - 1) / block_heads);
        auto const launch = [&](latent_params<bf16, bf16> const& p) {
          if constexpr (Tuning::has(rung::sm90))
            if (where.best() == rung::sm90)
              return start<attend_latents<block_heads, known.rank, known.rope_dim, latent_tuning::cluster>>(
                  where, {.x = static_cast<unsigned>(count) * latent_tuning::cluster, .y = groups, .cluster = latent_tuning::cluster, .early = true}, p);
          start<alone>(where, {.x = static_cast<unsigned>(count), .y = groups, .early = true}, p);
        };
        return attend(launch, reinterpret_cast<bf16*>(c.memory.query.data), std::int64_t{s.heads} * s.slot_dim(), s.slot_dim(),
                      reinterpret_cast<bf16*>(c.memory.latent.data), std::int64_t{s.heads} * s.rank, s.rank, c.scale * log2_e);
      }
    }
  }
  auto const launch = [&](latent_params<T, float> const& p) {
    auto const groups = (s.heads + latent_tuning::heads - 1) / latent_tuning::heads;
    start<attend_latents_simt<T, scalar_of<Stored>>>(where, {.x = blocks_for(count * groups), .early = true}, p);
  };
  auto const& m = c.memory;
  attend(launch, m.query.data, m.query.stride, s.slot_dim(), m.latent.data, m.latent.stride, latent_memory<T>::state_width(s.rank), c.scale);
}

/// Passes of the expanded form. All that its runs can need, or by shape as much as pays: the slots of all sequences, or of all tokens where one order is
/// promised, whatever else a call brings.
template <class Tuning, class T>
std::int64_t passes_of(call<T> const& c, latent_form form) {
  auto const sequences = sums_in_one_order<Tuning> || c.q.rows < c.cache.sequences ? c.q.rows : std::int64_t{c.cache.sequences};
  auto const of_sequence = packed::ceil_div(std::int64_t{c.cache.max_tokens}, std::int64_t{latent_block}) * latent_block;
  auto const all = packed::ceil_div(sequences * of_sequence, c.memory.narrow.rows);
  return form == latent_form::by_shape && all > latent_tuning::expand_passes ? latent_tuning::expand_passes : all;
}

/// The runs that `plan` has expanded.
template <dtype W, dtype Stored, class Shape, class Tuning, class T>
void expanded(basic_stream_ref<Tuning>& where, call<T> const& c, std::int64_t passes, latent_plan const& plan) {
  auto const& s = c.shape;
  auto const& m = c.memory;
  auto const window = m.narrow.rows;     // counted in T, as keys and values are kept here
  auto* const keys = reinterpret_cast<T*>(m.keys.data);
  auto* const values = reinterpret_cast<T*>(m.values.data);
  attention_params<T> const attention{.cache = sites_of(c.cache), .q = c.q, .out = c.out, .sequence = c.sequence.data, .position = c.position.data,
                                      .scale = static_cast<float>(c.scale), .heads = s.heads, .group = 1};
  expanded_params<T> p{attention, keys, values, plan.block_of_token, plan.pass, 0, window, m.state, static_cast<int>(latent_memory<T>::state_width(s.value_dim)),
                       s.key_dim(), s.value_dim};
  for (std::int64_t pass = 0; pass < passes; ++pass) {
    p.first = pass * window;
    start<gather_latents<T, scalar_of<Stored>>>(where, {.x = blocks_for(window), .early = true},
                                                {c.cache, plan, c.sequence.data, m.narrow, keys, p.first, s.heads, s.key_dim()});
    start_heads<W>(where, c.w->key_up, window, static_cast<T const*>(m.narrow.data), 0, m.narrow.stride, keys, window * s.key_dim(), s.key_dim(), plan.pass);
    start_heads<W>(where, c.w->value_up, window, static_cast<T const*>(m.narrow.data), 0, m.narrow.stride, values, window * s.value_dim, s.value_dim, plan.pass);
    if constexpr (!std::is_void_v<Shape> && std::is_same_v<T, bf16>) {
      constexpr int key_dim = Shape::value.key_dim(), value_dim = Shape::value.value_dim;
      if constexpr (attention_tuning::has_tiles(key_dim) && attention_tuning::has_tiles(value_dim)) {
        using kernel = attend_expanded<key_dim, value_dim>;
        if (where.best() != rung::simt && is_wide(c.q) && reinterpret_cast<std::uintptr_t>(c.out.data) % 4 == 0 && c.out.stride % 2 == 0 &&
            static_cast<std::int64_t>(shared_bytes_of<kernel>()) <= where.device.shared_bytes) {
          auto in_twos = p;
          in_twos.attention.scale = static_cast<float>(c.scale * log2_e);
          start<kernel>(where, {.x = blocks_for(c.q.rows, attention_tuning::tile_tokens), .y = static_cast<unsigned>(s.heads), .early = true}, in_twos);
          continue;
        }
      }
    }
    start<attend_expanded_simt<T>>(where, {.x = blocks_for(c.q.rows * s.heads, 4), .early = true}, p);
  }
}
}  // namespace latent_detail

/// out[t] = Σ_s p_s · value(s) over the slots s of token t's sequence up to its own; p = softmax(scale · (q_nope · key(s) + q_rope · rotated key(s))),
/// key(s) = W_uk latent(s) and value(s) = W_uv latent(s) of each head. q [tokens, heads · (head_dim + rope_dim)], its last elements rotated;
/// out [tokens, heads · value_dim]; sequence, position [tokens]; weights of type W. What a batch sees must have been appended. Scores, softmax and sums
/// in float. Shape: a type whose `value` is `shape`, for kernels of matrix instructions where T and the cache are bf16; they round absorbed queries, sums
/// of latents, expanded keys and values and weights to bf16.
/// Where sequences end lies on the device, so a kernel there decides by shape, as the host does: for calls of latent_tuning::expand_tokens and more (DeepSeek's
/// shape: 171), for runs of two tokens and more, and in their order for as many as `memory` has room for in 8 passes; others are absorbed, and so is every
/// call under a tuning that is cuda::in_one_order. A call of so many sequences of one token each launches the passes too, which find nothing to do.
/// Expanded alone takes passes for all slots of the cache's sequences, most of which find nothing; a sequence whose tokens lie apart may be absorbed.
/// A token's bits depend on its own slots, on its form, and on how many tokens the call has; under in_one_order, in one form, on its own slots alone.
template <class T, dtype W, dtype Stored, class Shape = void, class Tuning>
status attend_latent(basic_stream_ref<Tuning>& where, latent_form form, double scale, latent_shape const& s, latent_cache const& cache, attention_weights const& w,
                     view<const T> q, list<const std::int32_t> sequence, list<const std::int32_t> position, latent_memory<T> const& memory, view<T> out) {
  using rows = latent_memory<T>;
  latent_detail::call<T> const c{s, scale, cache, &w, q, sequence, position, memory, out};
  if (auto const fits = latent_detail::check(c, Stored); !fits) return fits;
  if constexpr (!std::is_void_v<Shape>)
    if (Shape::value != s) return invalid("Latent attention that was compiled for a shape must get it.", Shape::value.slot_dim(), s.slot_dim());
  if (out.rows != q.rows || out.columns != std::int64_t{s.heads} * s.value_dim)
    return invalid("Outputs are [tokens, heads · value_dim].", q.rows * s.heads * s.value_dim, out.rows * out.columns);
  auto const least = latent_tuning::expand_tokens(s);
  bool const by_shape = form == latent_form::by_shape && !sums_in_one_order<Tuning> && least != 0 && q.rows >= least && memory.plan.data != nullptr;
  if (form == latent_form::expanded && memory.plan.data == nullptr && q.rows != 0)
    return invalid("Memory of latent attention must have been carved for its form.", static_cast<int>(form), 0);
  latent_plan plan;
  std::int64_t passes = 0;
  if (by_shape || (form == latent_form::expanded && q.rows != 0)) {
    if (auto const fits = latent_detail::check_plan(c); !fits) return fits;
    plan = latent_plan::of(memory.plan.data, q.rows, rows::tokens);
    passes = latent_detail::passes_of<Tuning>(c, form);
    start<plan_latents>(where, {.early = true}, {cache, sequence.data, position.data, q.rows, s, form, static_cast<int>(rows::tokens),
                                                 passes * memory.narrow.rows / latent_block, plan});
  }
  for (std::int64_t first = 0; first < q.rows; first += rows::tokens)        // writes rows of `out` beside its own too: expanded ones follow
    latent_detail::absorbed<W, Stored, Shape>(where, c, first, q.rows - first < rows::tokens ? q.rows - first : rows::tokens, plan);
  if (passes != 0) latent_detail::expanded<W, Stored, Shape>(where, c, passes, plan);
  return {};
}

/// The weights that attend_latent() gives to slots, for a tap: probabilities row h · tokens + t, [heads · tokens, keys], zero beyond a token's own slot.
/// Slow. `keys` must be above every token's slot: weights beyond are left out.
template <class T, dtype W, dtype Stored, class Tuning>
status latent_probabilities(basic_stream_ref<Tuning>& where, double scale, latent_shape const& s, latent_cache const& cache, attention_weights const& w,
                            view<const T> q, list<const std::int32_t> sequence, list<const std::int32_t> position, latent_memory<T> const& memory,
                            view<float> probabilities) {
  using rows = latent_memory<T>;
  latent_detail::call<T> const c{s, scale, cache, &w, q, sequence, position, memory, {}};
  if (auto const fits = latent_detail::check(c, Stored); !fits) return fits;
  if (probabilities.rows != s.heads * q.rows) return invalid("Probabilities have a row for every head and token.", s.heads * q.rows, probabilities.rows);
  for (std::int64_t first = 0; first < q.rows; first += rows::tokens) {
    auto const count = q.rows - first < rows::tokens ? q.rows - first : rows::tokens;
    latent_detail::start_heads<turned(W)>(where, w.key_up_transposed, count, q.row(first), s.key_dim(), q.stride, memory.query.data, s.slot_dim(), memory.query.stride);
    start<latent_weights_simt<T, scalar_of<Stored>>>(
        where, {.x = blocks_for(count * s.heads, 4), .early = true},
        {{cache, view<const float>(memory.query.data, count, memory.query.columns, memory.query.stride),
          view<const T>(q.row(first), count, q.columns, q.stride), {}, sequence.data + first, position.data + first, nullptr, static_cast<float>(scale), s.heads, s.slot_dim(), s.key_dim(), 0},
         probabilities, first, q.rows});
  }
  return {};
}

/// Keys and values of the batch's own latents, for a tap: [tokens, heads · (head_dim + value_dim)], each head's key before its value.
template <class T, dtype W, class Tuning>
void expand_latents(basic_stream_ref<Tuning>& where, latent_shape const& s, attention_weights const& w, view<const T> latent, view<T> out) {
  auto const step = std::int64_t{s.head_dim} + s.value_dim;
  latent_detail::start_heads<W>(where, w.key_up, latent.rows, latent.data, 0, latent.stride, out.data, step, out.stride);
  latent_detail::start_heads<W>(where, w.value_up, latent.rows, latent.data, 0, latent.stride, out.data + s.head_dim, step, out.stride);
}

}  // namespace moesaic::cuda
