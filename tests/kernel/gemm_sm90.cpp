// bf16 weights by wgmma: few slots a matrix and many, ragged in every direction, on the device model against the host's ops.
// SPDX-License-Identifier: Apache-2.0
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
