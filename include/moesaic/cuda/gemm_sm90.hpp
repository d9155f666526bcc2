// Which products the wgmma kernels take, and how one is started: tile sizes, tensor maps, grid.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <moesaic/base/math.hpp>
#include <moesaic/cuda/kernel/gemm_sm90.hpp>
#include <moesaic/cuda/launch.hpp>
#include <moesaic/cuda/tuning/gemm_sm90.hpp>

namespace moesaic::cuda {

/// Scales of e4m3 activations, one for each 128 inputs of a row of x.
struct x_scale_view {
  float const* data = nullptr;           ///< [rows of x, ceil(inputs / 128)]
  std::int64_t stride = 0;
};

/// Types of weights, activations and results that there are kernels for.
template <dtype W, class X, class Y>
inline constexpr bool sm90_multiplies =
  (std::is_same_v<X, bf16> && (W == dtype::bf16 || W == dtype::int8 || W == dtype::int4 || W == dtype::mxfp4 || W == dtype::e4m3)) ||
  (std::is_same_v<X, e4m3> && W == dtype::e4m3);

namespace gemm_sm90_detail {

// Rows of x and of weights as the copy engine takes them, and groups that a kernel scales.
template <dtype W, class X, class Y>
bool takes(gemm_params<X, Y> const& p) {
  auto const aligned = [](void const* data) { return reinterpret_cast<std::uintptr_t>(data) % 16 == 0; };
  if (p.w.inputs % 16 != 0) return false;
  if (!aligned(p.x) || !aligned(p.w.data) || p.x_stride * static_cast<std::int64_t>(sizeof(X)) % 16 != 0) return false;
  if (p.rows > 0x7fff'ffff) return false;
  if constexpr (W == dtype::bf16) return true;
  else if constexpr (W == dtype::e4m3) return p.w.group % 128 == 0;
  else return p.w.rows % 16 == 0 && (p.w.group == 32 || p.w.group == 64 || p.w.group % 128 == 0 || p.w.group >= p.w.inputs);
}

template <class Kernel>
void start_kernel(stream& where, typename Kernel::params& a) {
  constexpr auto sizes = Kernel::sizes;
  constexpr auto stage = Kernel::stage;
  constexpr auto w = Kernel::weights;
  auto const& p = a.product;
  auto const size = [](std::int64_t n) { return static_cast<std::uint64_t>(n); };
  auto const map = [&](device::tensor_map& m, device::tensor_description const& t) { where.record(device::encode(t, m)); };
  auto const of_weights = [&](device::tensor_map& m, std::int64_t at, device::tensor_element element, std::int64_t inner, std::int64_t outer,
                              int box_inner, int box_outer, device::swizzle swizzle) {
    map(m, {.data = p.w.data + at, .element = element, .dimensions = 3, .size = {size(inner), size(outer), size(p.w.count)},
            .stride = {0, size(inner * bytes_of(element)), size(p.w.matrix_bytes)},
            .box = {static_cast<std::uint32_t>(box_inner), static_cast<std::uint32_t>(box_outer), 1}, .swizzle = swizzle});
  };
  using device::tensor_element;
  if constexpr (w == dtype::bf16) of_weights(a.weights, 0, tensor_element::bf16, p.w.inputs, p.w.rows, stage.inputs, sizes.rows() / sizes.cluster, device::swizzle::b128);
  else if constexpr (bits(w) == 8) of_weights(a.weights, 0, tensor_element::u8, p.w.inputs, p.w.rows, stage.inputs, sizes.rows() / sizes.cluster, device::swizzle::b128);
  else
    of_weights(a.weights, 0, tensor_element::u32, 2 * p.w.inputs, packed::ceil_div(p.w.rows, layout::stripe_rows), 2 * stage.inputs,
               sizes.rows() / layout::stripe_rows, device::swizzle::none);
  if constexpr (stage.scale_bytes != 0) {
    auto const groups = packed::ceil_div(p.w.inputs, p.w.group);
    a.groups = p.w.group >= stage.inputs || p.w.group >= p.w.inputs ? 1 : stage.inputs / p.w.group;
    auto const element = w == dtype::mxfp4 ? tensor_element::u8 : tensor_element::fp32;
    of_weights(a.scales, p.w.scales_at, element, p.w.rows, groups, sizes.rows(), a.groups, device::swizzle::none);
    if (p.w.zero_point) of_weights(a.zeros, p.w.zeros_at, tensor_element::u8, p.w.rows, groups, sizes.rows(), a.groups, device::swizzle::none);
  }
  if (p.token_of_slot == nullptr) {
    using X = typename Kernel::X;
    constexpr auto element = std::is_same_v<X, bf16> ? tensor_element::bf16 : tensor_element::u8;
    map(a.slots, {.data = p.x, .element = element, .dimensions = 2, .size = {size(p.w.inputs), size(p.rows)},
                  .stride = {0, size(p.x_stride * static_cast<std::int64_t>(sizeof(X)))},
                  .box = {128 / sizeof(X), static_cast<std::uint32_t>(sizes.slots())}, .swizzle = device::swizzle::b128});
  }
  auto const experts = p.offsets != nullptr ? p.w.count : 1;
  auto const tiles = sizes.cluster * tiles_at_most(p.rows, experts, sizes.cluster * sizes.slots()) * packed::ceil_div(p.w.rows, sizes.rows());
  auto const resident = std::int64_t{where.device.multiprocessors} * sizes.blocks / sizes.cluster * sizes.cluster;
  start<Kernel>(where, {.x = static_cast<unsigned>(tiles < resident ? tiles : resident), .cluster = static_cast<unsigned>(sizes.cluster), .early = true}, a);
}

}  // namespace gemm_sm90_detail

/// Whose sizes a tuning means: its own type gemm_sm90, or the default's.
template <class Tuning>
struct gemm_sm90_sizes_of {
  using type = gemm_sm90_tuning;
};
template <class Tuning>
  requires requires { typename Tuning::gemm_sm90; }
struct gemm_sm90_sizes_of<Tuning> {
  using type = typename Tuning::gemm_sm90;
};

/// Starts the product by wgmma; false where no kernel takes it: a shape or an alignment that the copy engine refuses, another group of scales.
template <dtype W, class Tuning, class X, class Y>
bool multiply_sm90(basic_stream_ref<Tuning>& where, gemm_params<X, Y> const& p, x_scale_view const& x_scales = {}) {
  static_assert(sm90_multiplies<W, X, Y>);
  if (!gemm_sm90_detail::takes<W>(p)) return false;
  if (p.rows == 0) return true;
  auto const go = [&]<run_length Runs, int Interval>() {
    using kernel = gemm_sm90<gemm_sm90_problem<W, X, Y, Interval>, Runs, typename gemm_sm90_sizes_of<Tuning>::type>;
    typename kernel::params a{.product = p, .x_scales = x_scales.data, .x_scales_stride = x_scales.stride};
    gemm_sm90_detail::start_kernel<kernel>(where, a);
  };
  // Few sums are cheap to scale: an interval of 32 serves every group there.
  constexpr int least = sm90_interval(W);
  auto const runs = run_length_of(p.rows, p.offsets != nullptr ? p.rows / p.w.count : p.rows);
  switch (runs) {
    case run_length::few: go.template operator()<run_length::few, least>(); break;
    case run_length::some: go.template operator()<run_length::some, least>(); break;
    case run_length::many: go.template operator()<run_length::many, least>(); break;
    case run_length::long_runs:
    case run_length::longest:
      if constexpr (W == dtype::bf16 || std::is_same_v<X, e4m3>) {
        if (runs == run_length::longest) go.template operator()<run_length::longest, least>();
        else go.template operator()<run_length::long_runs, least>();
      } else if constexpr (W == dtype::int8 || W == dtype::int4) {
        if (p.w.group == 32) go.template operator()<run_length::long_runs, 32>();
        else go.template operator()<run_length::long_runs, 64>();
      } else {
        go.template operator()<run_length::long_runs, least>();
      }
  }
  return true;
}

}  // namespace moesaic::cuda
