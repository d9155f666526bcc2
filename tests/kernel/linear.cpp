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

TEST_CASE("sums of whole numbers are exact") {
  for (int const tokens : {3, 20, 67}) {
    check_product<dtype::bf16, bf16, float>(dtype::bf16, {80, 272, tokens, true}, 80, true);
    check_product<dtype::fp32, float, float>(dtype::fp32, {80, 272, tokens, true}, 70, true);
  }
}

TEST_CASE("columns of wider matrices, aligned and not") {
  constexpr std::int64_t outputs = 56, inputs = 96;
  for (int const tokens : {3, 70})
    for (int const spare : {8, 3}) {                       // rows of x that copies of 16 bytes reach, and rows that go to simt
      CAPTURE(tokens);
      CAPTURE(spare);
      cuda::stream nowhere;
      both_packed const w(nowhere, {dtype::bf16, outputs, inputs}, 7);
      random_stream random(8);
      auto const wide_x = random_matrix<bf16>(tokens, inputs + spare, random);
      view<const bf16> const x(wide_x.data.data(), tokens, inputs, inputs + spare);
      host::pool pool;
      matrix<bf16> want(tokens, outputs);
      host::linear<dtype::bf16>(pool, w.host, x, {}, want.view());
      under_every_schedule(
          [&](cuda::stream_ref& where) {
            auto wide_y = unwritten<bf16>(tokens, outputs + spare);
            view<bf16> const y(wide_y.data.data(), tokens, outputs, outputs + spare);
            with_sm80(where, [&](auto& stream) { cuda::linear<dtype::bf16>(stream, w.device, x, {}, y); });
            auto const found = compare(view<const bf16>(y), view<const bf16>(want.view()));
            CHECK_MESSAGE(found.worst <= sum_tolerance<bf16>(inputs) * 4, to_string(found));
            for (std::int64_t t = 0; t < tokens; ++t)
              for (auto c = outputs; c < wide_y.columns; ++c) CHECK(wide_y(t, c) != wide_y(t, c));
          },
          80);
    }
}

TEST_CASE("in one order: a row has the same bits alone and in a batch") {
  auto const check = [](auto stored, auto example, auto tuning, int architecture) {
    using T = decltype(example);
    constexpr dtype W = stored();
    constexpr std::int64_t outputs = 48, inputs = 400;
    cuda::stream nowhere;
    both_packed const w(nowhere, {W, outputs, inputs}, 9);
    random_stream random(10);
    auto const x = random_matrix<T>(70, inputs, random);
    device_model::scope const options({.architecture = architecture});
    cuda::basic_stream_ref<decltype(tuning)> where;
    auto of_batch = unwritten<float>(70, outputs), alone = unwritten<float>(70, outputs);
    cuda::linear<W>(where, w.device, x.view(), {}, of_batch.view());
    for (std::int64_t first = 0, rows = 1; first < 70; first += rows, rows *= 3) {      // runs of 1, 3, 9, 27 and the rest
      if (first + rows > 70) rows = 70 - first;
      cuda::linear<W>(where, w.device, view<const T>(x.data.data() + first * inputs, rows, inputs), {}, view<float>(alone.data.data() + first * outputs, rows, outputs));
    }
    check_bits(alone, of_batch);
    CHECK(cuda::finish(where));
    CHECK(device_model::take_findings().empty());
  };
  using fp32 = std::integral_constant<dtype, dtype::fp32>;
  using weights16 = std::integral_constant<dtype, dtype::bf16>;
  check(fp32{}, 0.0f, up_to_sm80{}, 80);
  check(fp32{}, bf16(0.0f), up_to_sm80{}, 80);
  check(weights16{}, bf16(0.0f), cuda::in_one_order<up_to_sm80>{}, 80);
  check(weights16{}, bf16(0.0f), cuda::in_one_order<up_to_sm80>{}, 70);
}
