// linear with weights of 8 bits and scales: against the host's.
// SPDX-License-Identifier: Apache-2.0
#include "products.hpp"

using namespace moesaic;
using namespace moesaic::test;

TEST_CASE("int8") {
  check_products<dtype::int8, bf16, bf16>(dtype::int8);
  for (auto const f : {format{dtype::int8, 64}, format{dtype::int8, 0}, format{dtype::int8, 20}})
    for (int const tokens : {3, 33}) check_product<dtype::int8, bf16, bf16>(f, {80, 208, tokens}, 80);
}
TEST_CASE("e4m3") {
  check_products<dtype::e4m3, bf16, bf16>(dtype::e4m3);
  for (auto const f : {format{dtype::e4m3, 64}, format{dtype::e4m3, 32}, format{dtype::e4m3, 48}})
    for (int const tokens : {3, 33}) check_product<dtype::e4m3, bf16, bf16>(f, {80, 208, tokens}, 80);
  check_product<dtype::e4m3, bf16, bf16>(dtype::e4m3, {21, 144, 5}, 80);                // outputs that are no multiple of anything
}
