// linear with weights that are floats: against the host's.
// SPDX-License-Identifier: Apache-2.0
#include "products.hpp"

using namespace moesaic;
using namespace moesaic::test;

TEST_CASE("bf16") {
  check_products<dtype::bf16, bf16, bf16>(dtype::bf16);
  check_products<dtype::bf16, bf16, float>(dtype::bf16);
}
TEST_CASE("router: fp32") {
  check_products<dtype::fp32, float, float>(dtype::fp32);
  check_products<dtype::fp32, bf16, float>(dtype::fp32);
}
TEST_CASE("fp16") { check_products<dtype::fp16, bf16, bf16>(dtype::fp16); }
