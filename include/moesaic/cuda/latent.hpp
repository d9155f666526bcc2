// Multi-head latent attention on a device: a cache of latents, and queries attending to it in the absorbed form (arXiv:2405.04434 §2.1, appendix C).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include <moesaic/config/latent.hpp>
#include <moesaic/config/weights.hpp>
#include <moesaic/cuda/gemm.hpp>
#include <moesaic/cuda/kernel/latent.hpp>
#include <moesaic/cuda/launch.hpp>
#include <moesaic/cuda/memory.hpp>

namespace moesaic::cuda {

/// A layer's cache and its memory. Converts to the view that forward calls take.
class owned_latent_cache {
 public:
  owned_latent_cache(stream& where, latent_cache shape)
      : memory_(where, bytes(shape)), first_position_(where, static_cast<std::size_t>(shape.sequences) * sizeof(std::int32_t)), view_(shape) {
    view_.data = memory_.data();
    view_.first_position = reinterpret_cast<std::int32_t const*>(first_position_.data());
  }

  operator latent_cache const&() const { return view_; }
  /// The position of the first token that a sequence keeps: 0 unless set before its tokens come. Set-up: waits for the copy.
  status set_first_position(stream& where, int sequence, std::int32_t position) {
    return copy_to_device(where, first_position_.data() + static_cast<std::size_t>(sequence) * sizeof position, &position, sizeof position);
  }

 private:
  buffer memory_, first_position_;
  latent_cache view_;
};

/// An empty cache: `sequences` sequences of up to max_tokens tokens.
inline owned_latent_cache make_latent_cache(stream& where, dtype storage, latent_shape const& s, int sequences, int max_tokens) {
  if (sequences < 1 || max_tokens < 1)
    throw error("cache: expected at least one sequence and one token, found " + std::to_string(sequences) + " and " + std::to_string(max_tokens));
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
/// y[t] + h · y_step = matrix h times x[t] + h · x_step.
template <dtype W, class Tuning, class X, class Y>
void start_heads(basic_stream_ref<Tuning>& where, packed_matrix const& m, std::int64_t rows, X const* x, std::int64_t x_step, std::int64_t x_stride, Y* y,
                 std::int64_t y_step, std::int64_t y_stride) {
  if (rows == 0) return;
  if (m.stored.type != W) return where.record(invalid("the weights are not of the type that the call was compiled for", static_cast<int>(W), static_cast<int>(m.stored.type)));
  if (!layout::takes(m)) return where.record(invalid("CUDA kernels need inputs that are a multiple of 16", 16, m.inputs));
  gemm_params<X, Y> const p{.w = weight_view(m), .x = x, .x_stride = x_stride, .y = y, .y_stride = y_stride, .rows = rows};
  auto const go = [&]<class Kernel>() {
    start<gemm_of_heads<Kernel>>(where, {.x = static_cast<unsigned>(Kernel::blocks_for(rows, 1, p.w.rows)), .y = static_cast<unsigned>(m.count), .early = true},
                                 {p, x_step, y_step});
  };
  if constexpr (!sums_in_one_order<Tuning>)
    if (!simt_few(rows)) return go.template operator()<gemm_simt_many<W, X, Y>>();
  go.template operator()<gemm_simt_few<W, X, Y>>();
}
}  // namespace latent_detail

/// out[t] = Σ_s p_s · value(s) over the slots s of token t's sequence up to its own; p = softmax(scale · (q_nope · key(s) + q_rope · rotated key(s))),
/// key(s) = W_uk latent(s) and value(s) = W_uv latent(s) of each head. q [tokens, heads · (head_dim + rope_dim)], its last elements rotated;
/// out [tokens, heads · value_dim]; sequence, position [tokens]; weights of type W. What a batch sees must have been appended. Scores, softmax and sums
/// in float. On a device every token is computed in the absorbed form, whatever is asked for: lengths of sequences lie there, where no call looks. A
/// token's bits depend on its own slots, and on how many tokens the call has; under a tuning that is cuda::in_one_order on its own slots alone.
template <class T, dtype W, dtype Stored, class Tuning>
status attend_latent(basic_stream_ref<Tuning>& where, latent_form, double scale, latent_shape const& s, latent_cache const& cache, attention_weights const& w,
                     view<const T> q, list<const std::int32_t> sequence, list<const std::int32_t> position, latent_memory<T> const& memory, view<T> out) {
  using rows = latent_memory<T>;
  if (sequence.size != position.size) return invalid("Every token has one sequence and one position.", sequence.size, position.size);
  if (q.rows != sequence.size) return invalid("Queries have one row for every token.", sequence.size, q.rows);
  if (q.columns != std::int64_t{s.heads} * s.key_dim())
    return invalid("Queries are heads · (head_dim + rope_dim) wide.", std::int64_t{s.heads} * s.key_dim(), q.columns);
  if (s.rank > latent_tuning::most_rank || s.slot_dim() > latent_tuning::most_slot_dim)
    return invalid("Attention keeps its latents in registers: rank is at most 512, and 576 with the rotated elements.", latent_tuning::most_slot_dim, s.slot_dim());
  if (cache.storage != Stored) return invalid("A cache must have been made for the layer's storage.", bits(Stored), bits(cache.storage));
  auto const out_step = rows::state_width(s.rank);
  using kernel = attend_latents_simt<T, scalar_of<Stored>>;
  for (std::int64_t first = 0; first < q.rows; first += rows::tokens) {
    auto const count = q.rows - first < rows::tokens ? q.rows - first : rows::tokens;
    latent_detail::start_heads<W>(where, w.key_up_transposed, count, q.row(first), s.key_dim(), q.stride, memory.query.data, s.slot_dim(), memory.query.stride);
    auto const groups = (s.heads + latent_tuning::heads - 1) / latent_tuning::heads;
    start<kernel>(where, {.x = blocks_for(count * groups), .early = true},
                  {cache, view<const float>(memory.query.data, count, memory.query.columns, memory.query.stride), view<const T>(q.row(first), count, q.columns, q.stride),
                   view<float>(memory.latent.data, count, memory.latent.columns, memory.latent.stride), sequence.data + first, position.data + first,
                   static_cast<float>(scale), s.heads, s.slot_dim(), s.key_dim(), static_cast<int>(out_step)});
    latent_detail::start_heads<W>(where, w.value_up, count, static_cast<float const*>(memory.latent.data), out_step, memory.latent.stride, out.row(first), s.value_dim,
                                  out.stride);
  }
  return {};
}

}  // namespace moesaic::cuda
