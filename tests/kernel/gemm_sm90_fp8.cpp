// e4m3 weights and e4m3 activations by wgmma: scales of 1 × 128 and 128 × 128 on sums of 128 inputs, against the host's product with the same numbers.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/base/groups.hpp>

#include "gemm_sm90.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

/// Rows as codes and scales, and as the numbers that these are.
struct quantized_rows {
  matrix<std::uint8_t> codes;
  matrix<float> scales, values;

  quantized_rows(std::int64_t rows, std::int64_t inputs, random_stream& random) : codes(rows, inputs), scales(rows, (inputs + 127) / 128), values(rows, inputs) {
    auto const x = random_matrix<float>(rows, inputs, random);
    std::vector<group_scale> both(scales.data.size());
    view<group_scale> const into(both.data(), rows, scales.columns);
    groups::quantize<dtype::e4m3>(x.view(), {1, 128}, codes.view(), into);
    groups::dequantize<dtype::e4m3>(codes.view(), into, {1, 128}, values.view());
    for (std::size_t i = 0; i < both.size(); ++i) scales.data[i] = both[i].scale;
  }
  e4m3 const* data() const { return reinterpret_cast<e4m3 const*>(codes.data.data()); }
};

template <class Start = best_kernel<dtype::e4m3>>
void check(experts_case const& c) {
  auto const experts = static_cast<std::int64_t>(c.offsets.size()) - 1;
  auto const parts = gated(c.act.act) ? 2 : 1;
  INFO("[", c.outputs, " x ", parts, ", ", c.inputs, "], ", c.slots, " slots of ", experts, " experts, gathers ", c.gathers);
  cuda::stream nowhere;
  both_packed const w(nowhere, {.stored = dtype::e4m3, .outputs = c.outputs, .inputs = c.inputs, .parts = parts, .count = experts}, 5);
  random_stream random(6);
  auto const tokens = c.gathers ? c.slots / 2 + 1 : c.slots;
  quantized_rows const x(tokens, c.inputs, random);
  auto const bias = random_matrix<float>(1, c.bias ? experts * parts * c.outputs : 0, random);
  std::vector<std::int32_t> token_of_slot;
  for (std::int64_t s = 0; s < c.slots; ++s) token_of_slot.push_back(static_cast<std::int32_t>(random.below(tokens)));
  auto const* const rows = c.gathers ? token_of_slot.data() : nullptr;
  host::pool pool;
  auto want = unwritten<float>(c.slots, c.outputs);
  host::expert_gate_up<dtype::e4m3, float>(pool, c.act, w.host, bias.data, x.values.view(), c.offsets, rows, want.view());
  under_every_schedule([&](cuda::stream_ref& where) {
    auto h = unwritten<bf16>(c.slots, c.outputs);
    cuda::gemm_params<e4m3, bf16> const p{.w = cuda::weight_view(w.device), .bias = c.bias ? bias.data.data() : nullptr, .x = x.data(), .x_stride = c.inputs,
                                          .y = h.data.data(), .y_stride = c.outputs, .rows = c.slots, .offsets = c.offsets.data(), .token_of_slot = rows,
                                          .activated = true, .act = c.act};
    Start{}(where, p, cuda::x_scale_view{x.scales.data.data(), x.scales.columns});
    auto const used = c.offsets.back();
    auto const found = compare<bf16, float>(view(h.data.data(), used, c.outputs), view(want.data.data(), used, c.outputs));
    CHECK_MESSAGE(found.worst <= sum_tolerance<bf16>(c.inputs) * 4, to_string(found));
    for (auto s = used; s < c.slots; ++s) CHECK(std::isnan(static_cast<float>(h(s, 0))));
  });
}

}  // namespace

TEST_CASE("one matrix") {
  for (auto const& c : {linear_case{16, 16, 1}, {144, 272, 20}, {160, 144, 60}, {272, 144, 131}}) {
    INFO("[", c.outputs, ", ", c.inputs, "], ", c.tokens, " tokens");
    cuda::stream nowhere;
    both_packed const w(nowhere, {dtype::e4m3, c.outputs, c.inputs}, 7);
    random_stream random(8);
    quantized_rows const x(c.tokens, c.inputs, random);
    host::pool pool;
    matrix<float> want(c.tokens, c.outputs);
    host::linear<dtype::e4m3>(pool, w.host, x.values.view(), list<const float>{}, want.view());
    under_every_schedule([&](cuda::stream_ref& where) {
      auto y = unwritten<bf16>(c.tokens, c.outputs);
      cuda::gemm_params<e4m3, bf16> const p{.w = cuda::weight_view(w.device), .x = x.data(), .x_stride = c.inputs, .y = y.data.data(), .y_stride = c.outputs,
                                            .rows = c.tokens};
      REQUIRE(cuda::multiply_sm90<dtype::e4m3>(where, p, {x.scales.data.data(), x.scales.columns}));
      check_close(y, want, sum_tolerance<bf16>(c.inputs) * 4);
    });
  }
}
TEST_CASE("experts: few slots") {
  check({.offsets = {0, 0, 1, 1, 3}, .slots = 4, .inputs = 208, .outputs = 40});
  check({.offsets = {0, 20, 20, 21}, .slots = 24, .inputs = 144, .outputs = 80, .act = activation::relu, .gathers = false});
}
TEST_CASE("experts: long runs, one takes all") {
  check({.offsets = {0, 0, 150, 150}, .slots = 151, .inputs = 336, .outputs = 136});
  check({.offsets = {0, 130, 131, 131, 140}, .slots = 141, .inputs = 80, .outputs = 264, .act = activation::gelu_tanh});
}
TEST_CASE("experts: blocks in pairs share the weights") {
  using in_pairs = one_kernel<dtype::e4m3, cuda::run_length::longest>;
  check<in_pairs>({.offsets = {0, 0, 270, 270, 271}, .slots = 272, .inputs = 208, .outputs = 72});
  check<in_pairs>({.offsets = {0, 130}, .slots = 130, .inputs = 144, .outputs = 80, .act = activation::relu, .gathers = false});
}
