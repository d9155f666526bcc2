// Matrix kernels of the rungs simt and sm80: a single matrix, and runs of slots of experts with gathered rows, gate and up.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/gemm.hpp>

#include "leg.hpp"

namespace moesaic::test::ptx {
namespace {

template <class Kernel, dtype W, class X, class Y>
void plain(cuda::stream_ref& where, memory& m, format f, std::int64_t rows, std::int64_t outputs, std::int64_t inputs, bool activated = false,
           activation act = activation::relu) {
  static_assert(W != dtype::same);
  auto const w = random_weights(m, {.stored = f, .outputs = outputs, .inputs = inputs});
  cuda::gemm_detail::start<Kernel>(where, cuda::gemm_params<X, Y>{.w = cuda::weight_view(w),
                                                                  .bias = m.random<float>(outputs),
                                                                  .x = m.random<X>(rows * inputs),
                                                                  .x_stride = inputs,
                                                                  .y = m.result<Y>(rows * outputs),
                                                                  .y_stride = outputs,
                                                                  .rows = rows,
                                                                  .activated = activated,
                                                                  .act = act});
}
/// Three experts, the middle one without a slot; SiLU of the gate times up, clamped, steeper and shifted.
template <class Kernel, class X, class Y>
void gathered(cuda::stream_ref& where, memory& m, format f, std::int64_t outputs, std::int64_t inputs) {
  constexpr std::int64_t slots = 11, tokens = 5;
  auto const w = random_weights(m, {.stored = f, .outputs = outputs, .inputs = inputs, .parts = 2, .count = 3});
  cuda::gemm_detail::start<Kernel>(where, cuda::gemm_params<X, Y>{.w = cuda::weight_view(w),
                                                                  .bias = m.random<float>(3 * 2 * outputs),
                                                                  .x = m.random<X>(tokens * inputs),
                                                                  .x_stride = inputs,
                                                                  .y = m.result<Y>(slots * outputs),
                                                                  .y_stride = outputs,
                                                                  .rows = slots,
                                                                  .offsets = m.of<std::int32_t>({0, 9, 9, 11}),
                                                                  .token_of_slot = m.of<std::int32_t>({4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 0}),
                                                                  .activated = true,
                                                                  .act = {activation::swiglu, 0.5f, 1.702f, 1.0f}});
}

void simt(cuda::stream_ref& where, memory& m) {
  plain<cuda::gemm_simt_few<dtype::int8, float, float>, dtype::int8, float, float>(where, m, {dtype::int8, 32}, 3, 24, 80);
  gathered<cuda::gemm_simt_many<dtype::bf16, bf16, bf16>, bf16, bf16>(where, m, dtype::bf16, 40, 48);
}
/// Without a gate.
void activated(cuda::stream_ref& where, memory& m) {
  for (auto const act : {activation::relu, activation::relu_squared, activation::gelu_tanh})
    plain<cuda::gemm_simt_few<dtype::int8, float, float>, dtype::int8, float, float>(where, m, {dtype::int8, 32}, 3, 24, 80, true, act);
}
template <dtype W, cuda::gemm_load Load, int GroupSteps = 4>
using sm80_kernel = cuda::gemm_sm80<W, bf16, cuda::sm80_tile(W, Load), GroupSteps>;
void sm80(cuda::stream_ref& where, memory& m) {
  using enum cuda::gemm_load;
  plain<sm80_kernel<dtype::bf16, many>, dtype::bf16, bf16, bf16>(where, m, dtype::bf16, 37, 72, 144);
  plain<sm80_kernel<dtype::bf16, many>, dtype::bf16, bf16, bf16>(where, m, dtype::bf16, 37, 72, 144, true, activation::relu_squared);
  gathered<sm80_kernel<dtype::int4, some, 2>, bf16, bf16>(where, m, {dtype::int4, 32, true}, 32, 96);
}
void sm80_codes(cuda::stream_ref& where, memory& m) {
  using enum cuda::gemm_load;
  plain<sm80_kernel<dtype::e4m3, few>, dtype::e4m3, bf16, bf16>(where, m, {dtype::e4m3, 128}, 3, 144, 272);
  plain<sm80_kernel<dtype::mxfp4, few, 2>, dtype::mxfp4, bf16, bf16>(where, m, dtype::mxfp4, 5, 32, 160);
}

constexpr family families[] = {
    {"gemm_simt_few gemm_simt_many", simt},
    {"gemm_simt_few", activated, 2},
    {"gemm_sm80", sm80},
    {"gemm_sm80", sm80_codes},
};

MOESAIC_LEG(gemm, families)

#if !defined(__CUDACC__)
TEST_CASE("kernels of gemm are what they are as PTX for the architecture before too") { check(gemm_group, "80"); }
#endif

}  // namespace
}  // namespace moesaic::test::ptx
