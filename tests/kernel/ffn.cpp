// expert_gate_up and expert_down with bf16 and float weights: against the host's.
// SPDX-License-Identifier: Apache-2.0
#include "experts.hpp"

using namespace moesaic;
using namespace moesaic::test;

TEST_CASE("runs of every kind") {
  check_runs<dtype::bf16, bf16>(dtype::bf16, 80);
  check_runs<dtype::bf16, float>(dtype::bf16, 70);
}

TEST_CASE("every activation") {
  for (activation_rule const act : {activation_rule(activation::swiglu), activation_rule(activation::geglu_tanh), activation_rule(activation::geglu_erf),
                                    activation_rule(activation::relu), activation_rule(activation::relu_squared), activation_rule(activation::gelu_tanh),
                                    activation_rule(activation::swiglu, 0.5f, 1.702f, 1.0f), activation_rule(activation::geglu_tanh, 0.25f, 1.0f, -0.5f)})
    for (int const architecture : {70, 80})
      check_experts<dtype::bf16, bf16>(dtype::bf16, {.act = act, .bias = act.act == activation::relu || act.alpha != 1.0f, .tokens_of_expert = {3, 0, 6}}, architecture);
}

TEST_CASE("no slots, no launch; a device that is not there is said so") {
  check_experts<dtype::bf16, bf16>(dtype::bf16, {.tokens_of_expert = {0, 0}}, 80);
  device_model::scope const none({.architecture = 0});
  cuda::basic_stream_ref<up_to_sm80> where;
  matrix<bf16> x(1, 16), y(1, 16);
  both_packed const w(where, {dtype::bf16, 16, 16}, 1);
  cuda::linear<dtype::bf16>(where, w.device, x.view(), {}, y.view());
  CHECK_FALSE(cuda::finish(where));
}

TEST_CASE("weights of another type or shape than kernels take are refused") {
  cuda::basic_stream_ref<up_to_sm80> where;
  matrix<bf16> x(1, 24), y(1, 16);
  packed_matrix m{dtype::bf16, 16, 24};
  cuda::linear<dtype::bf16>(where, m, x.view(), {}, y.view());
  CHECK(cuda::finish(where).code == status_code::invalid_argument);
  m.stored = dtype::int8;
  cuda::linear<dtype::bf16>(where, m, x.view(), {}, y.view());
  CHECK(cuda::finish(where).code == status_code::invalid_argument);
}
