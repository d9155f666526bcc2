// Token ids to rows of the table: the host's bits in every format; ids outside the vocabulary are flagged. Logits' factor and cap.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/embedding.hpp>
#include <moesaic/cuda/logits.hpp>
#include <moesaic/host/embedding.hpp>
#include <moesaic/host/logits.hpp>

#include "both_packed.hpp"
#include "schedules.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

template <dtype Stored, class T>
void check_table(format f) {
  CAPTURE(name(Stored));
  cuda::stream_ref set_up;
  both_packed const table(set_up, {.stored = f, .outputs = 37, .inputs = 80}, 41);
  std::vector<std::int32_t> const ids{0, 36, 5, 5, 17}, wrong{3, 37, -1};
  host::pool pool;
  matrix<T> want(5, 80), scaled(5, 80);
  REQUIRE(host::embed<T>(pool, table.host, ids, want.view()));
  REQUIRE(host::embed<T>(pool, table.host, ids, scaled.view(), nullptr, 6.928203230275509));
  under_every_schedule([&](cuda::stream_ref& where) {
    auto x = unwritten<T>(5, 80), of_wrong = unwritten<T>(3, 80);
    call_flags flags;
    REQUIRE(cuda::embed<T, Stored>(where, table.device, ids, x.view(), &flags));
    check_bits(x, want);
    REQUIRE(cuda::embed<T, Stored>(where, table.device, ids, x.view(), &flags, 6.928203230275509));
    check_bits(x, scaled);
    CHECK(flags.id == 0);
    REQUIRE(cuda::embed<T, Stored>(where, table.device, wrong, of_wrong.view(), &flags));
    CHECK(flags.id == 1);
    CHECK(static_cast<float>(of_wrong(1, 79)) == 0.0f);
  });
}

}  // namespace

TEST_CASE("embed") {
  check_table<dtype::bf16, bf16>(dtype::bf16);
  check_table<dtype::fp32, float>(dtype::fp32);
  check_table<dtype::int8, float>({dtype::int8, 32});
  check_table<dtype::int4, float>({dtype::int4, 32, true});
  check_table<dtype::e4m3, bf16>({dtype::e4m3, 32});
  check_table<dtype::mxfp4, float>(dtype::mxfp4);
  cuda::stream_ref where;
  matrix<float> x(1, 16);
  CHECK(cuda::embed<float, dtype::bf16>(where, {}, std::vector<std::int32_t>{0}, x.view()).code == status_code::invalid_argument);
}

TEST_CASE("logits: a factor, then a soft cap, in place") {
  for (std::int64_t const vocabulary : {1, 57, 2100}) {
    random_stream random(42);
    auto before = random_matrix<float>(2, vocabulary, random);
    for (auto& z : before.data) z *= 20;
    for (double const cap : {0.0, 30.0}) {
      host::pool pool;
      auto want = before;
      host::scale_and_cap(pool, 0.577, cap, want.view());
      under_every_schedule([&](cuda::stream_ref& where) {
        auto x = before;
        cuda::scale_and_cap(where, 0.577, cap, x.view());
        check_close(x, want, cap == 0 ? 0.0 : sum_tolerance<float>(8));
      });
    }
  }
}
