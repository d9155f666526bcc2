// expert_gate_up and expert_down with codes and scales: against the host's.
// SPDX-License-Identifier: Apache-2.0
#include "experts.hpp"

using namespace moesaic;
using namespace moesaic::test;

TEST_CASE("e4m3") { check_runs<dtype::e4m3, bf16>(dtype::e4m3, 80); }
TEST_CASE("int4") {
  check_runs<dtype::int4, bf16>(dtype::int4, 80);
  check_runs<dtype::int4, float>({dtype::int4, 16, true}, 70);
}
