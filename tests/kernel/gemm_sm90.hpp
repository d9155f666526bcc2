// Products by wgmma on the device model against the host's ops: what their tests share.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <moesaic/cuda/gemm_sm90.hpp>
#include <moesaic/host/ffn.hpp>
#include <moesaic/host/linear.hpp>
#include <support/products.hpp>

#include "both_packed.hpp"
#include "schedules.hpp"

namespace moesaic::test {

/// Starts what the op would.
template <dtype W>
struct best_kernel {
  template <class X, class Y>
  void operator()(cuda::stream_ref& where, cuda::gemm_params<X, Y> const& p, cuda::x_scale_view const& scales = {}) const {
    REQUIRE(cuda::multiply_sm90<W>(where, p, scales));
  }
};
/// Starts one kernel, whatever the lengths of runs.
template <dtype W, cuda::run_length Runs>
struct one_kernel {
  template <class X, class Y>
  void operator()(cuda::stream_ref& where, cuda::gemm_params<X, Y> const& p, cuda::x_scale_view const& scales = {}) const {
    using kernel = cuda::gemm_sm90<cuda::gemm_sm90_problem<W, X, Y, cuda::sm90_interval(W)>, Runs>;
    typename kernel::params a{.product = p, .x_scales = scales.data, .x_scales_stride = scales.stride};
    cuda::gemm_sm90_detail::start_kernel<kernel>(where, a);
  }
};

/// Gate and up of experts, or one matrix of each, over runs of slots.
struct experts_case {
  std::vector<std::int32_t> offsets;     // [experts + 1]; the last may lie below `slots`
  std::int64_t slots, inputs, outputs;
  activation_rule act = activation::swiglu;
  bool gathers = true, bias = true;
};

template <dtype W, class Y = bf16, class Start = best_kernel<W>>
void check_gate_up(format f, experts_case const& c) {
  auto const experts = static_cast<std::int64_t>(c.offsets.size()) - 1;
  auto const parts = gated(c.act.act) ? 2 : 1;
  INFO(text(f), " [", c.outputs, " x ", parts, ", ", c.inputs, "], ", c.slots, " slots of ", experts, " experts, gathers ", c.gathers);
  cuda::stream nowhere;
  both_packed const w(nowhere, {.stored = f, .outputs = c.outputs, .inputs = c.inputs, .parts = parts, .count = experts}, 5);
  random_stream random(6);
  auto const tokens = c.gathers ? c.slots / 2 + 1 : c.slots;
  auto const x = random_matrix<bf16>(tokens, c.inputs, random);
  auto const bias = random_matrix<float>(1, c.bias ? experts * parts * c.outputs : 0, random);
  std::vector<std::int32_t> token_of_slot;
  for (std::int64_t s = 0; s < c.slots; ++s) token_of_slot.push_back(static_cast<std::int32_t>(random.below(tokens)));
  auto const* const rows = c.gathers ? token_of_slot.data() : nullptr;
  host::pool pool;
  auto want = unwritten<bf16>(c.slots, c.outputs);
  host::expert_gate_up<W, bf16>(pool, c.act, w.host, bias.data, x.view(), c.offsets, rows, want.view());
  under_every_schedule([&](cuda::stream_ref& where) {
    auto h = unwritten<Y>(c.slots, c.outputs);
    cuda::gemm_params<bf16, Y> const p{.w = cuda::weight_view(w.device), .bias = c.bias ? bias.data.data() : nullptr, .x = x.data.data(), .x_stride = c.inputs,
                                       .y = h.data.data(), .y_stride = c.outputs, .rows = c.slots, .offsets = c.offsets.data(), .token_of_slot = rows,
                                       .activated = true, .act = c.act};
    Start{}(where, p);
    auto const used = c.offsets.back();
    auto const first = [&](auto const& m) { return view(m.data.data(), used, c.outputs); };
    auto const found = compare<Y, bf16>(first(h), first(want));
    CHECK_MESSAGE(found.worst <= sum_tolerance<bf16>(c.inputs) * 4, to_string(found));
    for (auto s = used; s < c.slots; ++s) CHECK(std::isnan(static_cast<float>(h(s, 0))));
  });
}

struct linear_case {
  std::int64_t outputs, inputs, tokens;
  bool bias = false;
};
template <dtype W, class Y, class Start = best_kernel<W>>
void check_linear(format f, linear_case const& c) {
  INFO(text(f), " [", c.outputs, ", ", c.inputs, "], ", c.tokens, " tokens");
  cuda::stream nowhere;
  both_packed const w(nowhere, {f, c.outputs, c.inputs}, 7);
  random_stream random(8);
  auto const x = random_matrix<bf16>(c.tokens, c.inputs, random);
  auto const bias = random_matrix<float>(1, c.bias ? c.outputs : 0, random);
  host::pool pool;
  matrix<Y> want(c.tokens, c.outputs);
  host::linear<W>(pool, w.host, x.view(), bias.data, want.view());
  under_every_schedule([&](cuda::stream_ref& where) {
    auto y = unwritten<Y>(c.tokens, c.outputs);
    cuda::gemm_params<bf16, Y> const p{.w = cuda::weight_view(w.device), .bias = c.bias ? bias.data.data() : nullptr, .x = x.data.data(),
                                       .x_stride = c.inputs, .y = y.data.data(), .y_stride = c.outputs, .rows = c.tokens};
    Start{}(where, p);
    check_close(y, want, sum_tolerance<Y>(c.inputs) * 4);
  });
}

/// Weights as codes: each format with few slots and with more, in a row's whole and short parts.
template <dtype W>
void check_codes(std::vector<format> const& formats) {
  for (auto const f : formats) {
    check_linear<W, bf16>(f, {80, 144, 3, true});
    check_linear<W, bf16>(f, {144, 304, 40});
    check_linear<W, bf16>(f, {16, 16, 1});
    check_gate_up<W>(f, {.offsets = {0, 0, 1, 1, 3}, .slots = 4, .inputs = 80, .outputs = 40});
    check_gate_up<W>(f, {.offsets = {0, 20, 20, 21}, .slots = 24, .inputs = 208, .outputs = 80, .act = activation::relu});
    check_gate_up<W>(f, {.offsets = {0, 130, 131, 131, 140}, .slots = 141, .inputs = 272, .outputs = 72, .act = activation::geglu_tanh});
    check_gate_up<W>(f, {.offsets = {0, 3, 135}, .slots = 135, .inputs = 144, .outputs = 136, .gathers = false, .bias = false});
  }
}

}  // namespace moesaic::test
