// bf16 weights by wgmma, blocks in pairs that share the weights, on the device model against the host's ops.
// SPDX-License-Identifier: Apache-2.0
#include "gemm_sm90.hpp"

using namespace moesaic;
using namespace moesaic::test;

using in_pairs = one_kernel<dtype::bf16, cuda::run_length::longest>;

TEST_CASE("one matrix: one row, a pair's first tile, both tiles") {
  for (auto const& c : {linear_case{16, 16, 1}, {80, 144, 100, true}, {272, 80, 150}})
    check_linear<dtype::bf16, bf16, in_pairs>(dtype::bf16, c);
}
TEST_CASE("experts: none, one and several pairs, gathered or in order") {
  check_gate_up<dtype::bf16, bf16, in_pairs>(dtype::bf16, {.offsets = {0, 0, 270, 270, 271}, .slots = 272, .inputs = 208, .outputs = 72});
  check_gate_up<dtype::bf16, bf16, in_pairs>(dtype::bf16, {.offsets = {0, 130, 131, 131, 259}, .slots = 260, .inputs = 272, .outputs = 136, .gathers = false});
}
TEST_CASE("an op chooses pairs for long runs") {
  check_linear<dtype::bf16, bf16>(dtype::bf16, {.outputs = 16, .inputs = 16, .tokens = 1030});
}
