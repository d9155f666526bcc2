// bf16 weights by wgmma: few slots a matrix and many, ragged in every direction, on the device model against the host's ops.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/linear.hpp>

#include "gemm_sm90.hpp"

using namespace moesaic;
using namespace moesaic::test;

TEST_CASE("one matrix: few rows, some, many, more than a tile") {
  for (auto const& c : {linear_case{16, 16, 1}, {80, 80, 3, true}, {176, 144, 20, true}, {144, 48, 61}, {272, 208, 131, true}, {16, 16, 129}})
    check_linear<dtype::bf16, bf16>(dtype::bf16, c);
}
TEST_CASE("one matrix, sums as they are") {
  for (auto const& c : {linear_case{80, 80, 3, true}, {144, 64, 67}}) check_linear<dtype::bf16, float>(dtype::bf16, c);
}
TEST_CASE("experts: none, one and several slots, rows gathered or in order") {
  check_gate_up<dtype::bf16>(dtype::bf16, {.offsets = {0, 0, 1, 1, 3}, .slots = 4, .inputs = 80, .outputs = 40});
  check_gate_up<dtype::bf16>(dtype::bf16, {.offsets = {0, 20, 20, 21}, .slots = 24, .inputs = 208, .outputs = 72, .act = activation::relu});
  check_gate_up<dtype::bf16>(dtype::bf16, {.offsets = {0, 20, 20, 21}, .slots = 24, .inputs = 64, .outputs = 72, .gathers = false});
  check_gate_up<dtype::bf16>(dtype::bf16, {.offsets = {0, 0, 60, 60}, .slots = 60, .inputs = 144, .outputs = 40, .act = activation::geglu_tanh, .bias = false});
}
TEST_CASE("experts, long runs: one takes all, some none") {
  check_gate_up<dtype::bf16>(dtype::bf16, {.offsets = {0, 0, 150, 150}, .slots = 150, .inputs = 336, .outputs = 40});
  check_gate_up<dtype::bf16>(dtype::bf16, {.offsets = {0, 130, 131, 131, 200}, .slots = 210, .inputs = 80, .outputs = 136, .act = activation::geglu_erf});
  check_gate_up<dtype::bf16>(dtype::bf16, {.offsets = {0, 3, 140}, .slots = 140, .inputs = 80, .outputs = 264, .act = activation::gelu_tanh, .gathers = false});
}
TEST_CASE("a row of NaN spoils its own slots alone") {
  constexpr std::int64_t tokens = 7, inputs = 80, outputs = 40;
  std::vector<std::int32_t> const token_of_slot{0, 3, 1, 6, 2, 5, 0, 4};
  cuda::stream nowhere;
  both_packed const w(nowhere, {.stored = dtype::bf16, .outputs = outputs, .inputs = inputs, .count = 2}, 9);
  random_stream random(10);
  auto x = random_matrix<bf16>(tokens, inputs, random);
  for (bool const gathers : {true, false}) {
    CAPTURE(gathers);
    std::int32_t const slots = gathers ? 8 : tokens;
    std::vector<std::int32_t> const offsets{0, 5, slots};
    auto const run = [&](cuda::stream_ref& where, matrix<bf16> const& from) {
      auto y = unwritten<float>(slots, outputs);
      CHECK(cuda::multiply_sm90<dtype::bf16>(where, cuda::gemm_params<bf16, float>{.w = cuda::weight_view(w.device), .x = from.data.data(), .x_stride = inputs,
                                                                                    .y = y.data.data(), .y_stride = outputs, .rows = slots,
                                                                                    .offsets = offsets.data(), .token_of_slot = gathers ? token_of_slot.data() : nullptr}));
      return y;
    };
    auto spoiled = x;
    for (std::int64_t k = 0; k < inputs; ++k) spoiled(0, k) = bf16(not_a_number<float>);
    under_every_schedule([&](cuda::stream_ref& where) {
      auto const right = run(where, x), other = run(where, spoiled);
      for (std::int64_t s = 0; s < slots; ++s) {
        bool const mine = (gathers ? token_of_slot[static_cast<std::size_t>(s)] : s) == 0;
        for (std::int64_t n = 0; n < outputs; ++n) CHECK((mine ? std::isnan(other(s, n)) : other(s, n) == right(s, n)));
      }
    });
  }
}
TEST_CASE("at the default tuning every architecture multiplies, rows that 16-byte copies reach and others") {
  constexpr std::int64_t outputs = 40, inputs = 80;
  cuda::stream nowhere;
  both_packed const w(nowhere, {.stored = dtype::bf16, .outputs = outputs, .inputs = inputs}, 11);
  random_stream random(12);
  for (int const tokens : {3, 20, 60})
    for (int const spare : {8, 3}) {
      auto const wide = random_matrix<bf16>(tokens, inputs + spare, random);
      view<const bf16> const x(wide.data.data(), tokens, inputs, inputs + spare);
      host::pool pool;
      matrix<float> want(tokens, outputs);
      host::linear<dtype::bf16>(pool, w.host, x, {}, want.view());
      for (int const architecture : {75, 80, 90, 100}) {
        CAPTURE(tokens);
        CAPTURE(spare);
        CAPTURE(architecture);
        device_model::scope const options({.architecture = architecture});
        cuda::stream_ref where;
        auto y = unwritten<float>(tokens, outputs);
        cuda::linear<dtype::bf16>(where, w.device, x, {}, y.view());
        CHECK(cuda::finish(where));
        CHECK(device_model::take_findings().empty());
        auto const found = compare(view<const float>(y.view()), view<const float>(want.view()));
        CHECK_MESSAGE(found.worst <= sum_tolerance<float>(inputs) * 4, to_string(found));
      }
    }
}

TEST_CASE("gate and up are clamped, the gate steeper, up shifted") {
  activation_rule const rule{activation::swiglu, 0.5f, 1.702f, 1.0f};
  check_gate_up<dtype::bf16>(dtype::bf16, {.offsets = {0, 0, 1, 3}, .slots = 4, .inputs = 80, .outputs = 40, .act = rule});
  check_gate_up<dtype::bf16>(dtype::bf16, {.offsets = {0, 130, 131, 140}, .slots = 141, .inputs = 80, .outputs = 72, .act = rule});
  check_gate_up<dtype::bf16, float>(dtype::bf16, {.offsets = {0, 3, 135}, .slots = 135, .inputs = 80, .outputs = 40, .act = {activation::geglu_tanh, 0.25f, 1.0f, -0.5f}});
  check_gate_up<dtype::bf16>(dtype::bf16, {.offsets = {0, 9}, .slots = 9, .inputs = 80, .outputs = 40, .act = activation::relu_squared});
}
