// linear with weights of 4 bits in stripes: against the host's.
// SPDX-License-Identifier: Apache-2.0
#include "products.hpp"

using namespace moesaic;
using namespace moesaic::test;

TEST_CASE("int4") {
  check_products<dtype::int4, bf16, bf16>(dtype::int4);
  for (auto const f : {format{dtype::int4, 64}, format{dtype::int4, 0}, format{dtype::int4, 8}, format{dtype::int4, 32, true}, format{dtype::int4, 128, true}})
    for (int const tokens : {3, 33}) check_product<dtype::int4, bf16, bf16>(f, {80, 208, tokens}, 80);
  check_product<dtype::int4, bf16, bf16>({dtype::int4, 32, true}, {21, 144, 5}, 80);    // outputs that are no multiple of anything
}
TEST_CASE("mxfp4") { check_products<dtype::mxfp4, bf16, bf16>(dtype::mxfp4); }
