// Matrix kernels of wgmma: tokens on either side, activations in registers, runs of experts with gathered rows.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/gemm_sm90.hpp>

#include "leg.hpp"

namespace moesaic::test::ptx {
namespace {

template <dtype W, class X, class Y, int Interval, cuda::run_length Runs>
using kernel = cuda::gemm_sm90<cuda::gemm_sm90_problem<W, X, Y, Interval>, Runs, cuda::gemm_sm90_tuning>;

template <class Kernel, class X, class Y>
void plain(cuda::stream_ref& where, memory& m, format f, std::int64_t rows, std::int64_t outputs, std::int64_t inputs) {
  auto const w = random_weights(m, {.stored = f, .outputs = outputs, .inputs = inputs});
  typename Kernel::params p{.product = {.w = cuda::weight_view(w),
                                        .bias = m.random<float>(outputs),
                                        .x = m.random<X>(rows * inputs),
                                        .x_stride = inputs,
                                        .y = m.result<Y>(rows * outputs),
                                        .y_stride = outputs,
                                        .rows = rows}};
  if constexpr (std::is_same_v<X, e4m3>) {
    auto const groups = (inputs + 127) / 128;
    p.x_scales = m.random<float>(rows * groups), p.x_scales_stride = groups;
  }
  cuda::gemm_sm90_detail::start_kernel<Kernel>(where, p);
}

void few(cuda::stream_ref& where, memory& m) {
  // Gathered rows of three experts, gate and up.
  using of_experts = kernel<dtype::bf16, bf16, bf16, 128, cuda::run_length::few>;
  constexpr std::int64_t slots = 11, outputs = 40, inputs = 144;
  auto const w = random_weights(m, {.stored = dtype::bf16, .outputs = outputs, .inputs = inputs, .parts = 2, .count = 3});
  typename of_experts::params p{.product = {.w = cuda::weight_view(w),
                                            .bias = m.random<float>(3 * 2 * outputs),
                                            .x = m.random<bf16>(5 * inputs),
                                            .x_stride = inputs,
                                            .y = m.result<bf16>(slots * outputs),
                                            .y_stride = outputs,
                                            .rows = slots,
                                            .offsets = m.of<std::int32_t>({0, 9, 9, 11}),
                                            .token_of_slot = m.of<std::int32_t>({4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 0}),
                                            .activated = true,
                                            .act = {activation::swiglu, 0.5f, 1.702f, 1.0f}}};
  cuda::gemm_sm90_detail::start_kernel<of_experts>(where, p);
}
void codes(cuda::stream_ref& where, memory& m) {
  plain<kernel<dtype::int4, bf16, bf16, 32, cuda::run_length::some>, bf16, bf16>(where, m, {dtype::int4, 32, true}, 9, 80, 272);
}
void long_runs(cuda::stream_ref& where, memory& m) {
  plain<kernel<dtype::bf16, bf16, bf16, 128, cuda::run_length::long_runs>, bf16, bf16>(where, m, dtype::bf16, 130, 48, 144);
}
void both_e4m3(cuda::stream_ref& where, memory& m) {
  plain<kernel<dtype::e4m3, e4m3, bf16, 128, cuda::run_length::long_runs>, e4m3, bf16>(where, m, {dtype::e4m3, 128}, 70, 48, 272);
}

constexpr family families[] = {
    {"gemm_sm90", few},
    {"gemm_sm90", codes},
    {"gemm_sm90", long_runs},
    {"gemm_sm90", both_e4m3},
};

MOESAIC_LEG(gemm_sm90, families)

}  // namespace
}  // namespace moesaic::test::ptx
