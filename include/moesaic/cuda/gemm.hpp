// Which matrix kernel a call gets, and its launch: what linear and both expert products share.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include <moesaic/base/floats.hpp>
#include <moesaic/cuda/gemm_sm90.hpp>
#include <moesaic/cuda/kernel/gemm.hpp>
#include <moesaic/cuda/kernel/gemm_simt.hpp>
#include <moesaic/cuda/kernel/gemm_sm80.hpp>
#include <moesaic/cuda/launch.hpp>
#include <moesaic/cuda/tuning/gemm.hpp>

namespace moesaic::cuda {

namespace gemm_detail {

/// A kernel, of which nothing is compiled for 90 where it is replaced there.
template <class Kernel, bool Replaced>
using kept = std::conditional_t<Replaced, replaced_on<Kernel, 90, 90>, Kernel>;

template <class Kernel>
void start(stream& where, typename Kernel::params const& p) {
  auto const blocks = Kernel::blocks_for(p.rows, p.offsets != nullptr ? p.w.count : 1, p.w.rows);
  cuda::start<Kernel>(where, {.x = static_cast<unsigned>(blocks), .early = true}, p);
}

template <class Tuning>
constexpr gemm_tile tile_of(dtype w, gemm_load load) {
  if constexpr (requires { Tuning::sm80_tile(w, load); }) return Tuning::sm80_tile(w, load);
  else return sm80_tile(w, load);
}

/// Whether sm80 takes these weights and rows: groups that are 32 or a multiple of 64 inputs, scales and rows of x that 16-byte copies reach.
template <dtype W, class Y>
bool sm80_takes(gemm_params<bf16, Y> const& p) {
  bool const group = !has_scales(W) || p.w.group == p.w.inputs || p.w.group == 32 || p.w.group % 64 == 0;
  bool const scales = W == dtype::bf16 || W == dtype::e4m3 || p.w.rows % 16 == 0;
  return group && scales && reinterpret_cast<std::uintptr_t>(p.x) % 16 == 0 && p.x_stride % 8 == 0;
}

/// Whether sm90 multiplies all that sm80 does: of other codes it takes fewer lengths of groups.
constexpr bool sm90_takes_as_much(dtype w) { return w == dtype::bf16 || w == dtype::mxfp4; }

template <dtype W, class Tuning, gemm_load Load, bool Replaced, class Y>
void start_sm80(stream& where, gemm_params<bf16, Y> const& p) {
  constexpr auto tile = tile_of<Tuning>(W, Load);
  auto const go = [&]<class Kernel>() { start<kept<Kernel, Replaced>>(where, p); };
  if constexpr (has_scales(W))
    if (p.w.group == 32) return go.template operator()<gemm_sm80<W, Y, tile, 2>>();
  if constexpr (W != dtype::mxfp4) go.template operator()<gemm_sm80<W, Y, tile>>();
}

// Router weights, fp32, have one kernel, so that a token's logits and choice do not depend on its batch.
template <dtype W, class Tuning, bool Replaced, class X, class Y>
void start_simt(stream& where, gemm_params<X, Y> const& p, std::int64_t slots_of_matrix) {
  if constexpr (W != dtype::fp32 && !sums_in_one_order<Tuning>)
    if (!simt_few(slots_of_matrix)) return start<kept<gemm_simt_many<W, X, Y>, Replaced>>(where, p);
  start<kept<gemm_simt_few<W, X, Y>, Replaced>>(where, p);
}

}  // namespace gemm_detail

/// Starts the best kernel that takes `p`, the product with matrix `m`. How long runs of slots are is known on the device alone: tiles are chosen for even
/// ones. Best: the highest rung that the caller leaves it: below sm90 it has another kernel for all that a device of that rung takes.
template <dtype W, rung Best = rung::sm90, class Tuning, class X, class Y>
void start_gemm(basic_stream_ref<Tuning>& where, packed_matrix const& m, gemm_params<X, Y> const& p) {
  if (p.rows == 0) return;
  if (m.stored.type != W) return where.record(invalid("the weights are not of the type that the call was compiled for", static_cast<int>(W), static_cast<int>(m.stored.type)));
  if (!layout::takes(m)) return where.record(invalid("CUDA kernels need inputs that are a multiple of 16, and gate and up outputs of 8", 16, m.inputs));
  constexpr bool one_order = sums_in_one_order<Tuning>;
  constexpr bool elsewhere = Best != rung::sm90, by_sm90 = !elsewhere && Tuning::has(rung::sm90) && sm90_multiplies<W, X, Y> && !one_order;
  constexpr bool replaced = elsewhere || (by_sm90 && gemm_detail::sm90_takes_as_much(W));
  if constexpr (by_sm90)
    if (where.best() == rung::sm90 && multiply_sm90<W>(where, p)) return;
  auto const slots_of_matrix = packed::ceil_div(p.rows, p.offsets != nullptr ? p.w.count : 1);
  if constexpr (Tuning::has(rung::sm80) && std::is_same_v<X, bf16> && sm80_multiplies(W))
    if (where.best() >= rung::sm80 && !(replaced && where.best() == rung::sm90) && gemm_detail::sm80_takes<W>(p)) {
      if constexpr (one_order) return gemm_detail::start_sm80<W, Tuning, gemm_load::some, replaced>(where, p);
      else switch (gemm_load_of(slots_of_matrix)) {
        case gemm_load::few: return gemm_detail::start_sm80<W, Tuning, gemm_load::few, replaced>(where, p);
        case gemm_load::some: return gemm_detail::start_sm80<W, Tuning, gemm_load::some, replaced>(where, p);
        case gemm_load::many: return gemm_detail::start_sm80<W, Tuning, gemm_load::many, replaced>(where, p);
      }
    }
  gemm_detail::start_simt<W, Tuning, elsewhere>(where, p, slots_of_matrix);
}

}  // namespace moesaic::cuda
