// Activations to e4m3 with scales of 128: the bits that base/groups.hpp gives.
// SPDX-License-Identifier: Apache-2.0
#include <cstdint>

#include <moesaic/base/groups.hpp>
#include <moesaic/cuda/quantize.hpp>

#include "schedules.hpp"

using namespace moesaic;
using namespace moesaic::test;

TEST_CASE_TEMPLATE("codes and scales are those of groups::quantize", T, float, bf16) {
  for (std::int64_t const inputs : {16, 128, 272, 133})
    for (std::int64_t const rows : {1, 5}) {
      CAPTURE(inputs);
      random_stream random(31);
      auto x = random_matrix<T>(rows, inputs, random);
      for (std::int64_t k = 0; k < inputs; ++k) x(rows - 1, k) = static_cast<T>(k % 5 == 0 ? 0.0f : static_cast<float>(x(rows - 1, k)) * 1e-6f);
      auto const wide = convert<float>(x);
      auto const groups_of_row = (inputs + 127) / 128;
      matrix<std::uint8_t> want(rows, inputs);
      matrix<group_scale> want_scales;
      want_scales.data.resize(static_cast<std::size_t>(rows * groups_of_row));
      groups::quantize<dtype::e4m3>(wide.view(), {1, 128}, want.view(), {want_scales.data.data(), rows, groups_of_row});
      under_every_schedule([&](cuda::stream_ref& where) {
        matrix<std::uint8_t> codes(rows, inputs);
        for (auto& c : codes.data) c = 0xff;
        auto scales = unwritten<float>(rows, groups_of_row);
        cuda::quantize(where, x.view(), codes.view(), scales.view());
        std::int64_t unlike = 0;
        for (std::size_t i = 0; i < codes.data.size(); ++i) unlike += codes.data[i] != want.data[i];
        for (std::size_t i = 0; i < scales.data.size(); ++i) unlike += !(scales.data[i] == want_scales.data[i].scale);
        CHECK(unlike == 0);
      });
    }
}

TEST_CASE("rows that the device does not count stay as they are") {
  random_stream random(32);
  auto const x = random_matrix<bf16>(4, 144, random);
  std::int32_t const counted = 2;
  under_every_schedule([&](cuda::stream_ref& where) {
    matrix<std::uint8_t> codes(4, 144);
    for (auto& c : codes.data) c = 0xff;
    auto scales = unwritten<float>(4, 2);
    cuda::quantize(where, x.view(), codes.view(), scales.view(), &counted);
    for (std::int64_t r = 0; r < 4; ++r) {
      CHECK((scales(r, 0) == scales(r, 0)) == (r < counted));
      CHECK((codes(r, 143) != 0xff) == (r < counted));
    }
  });
}
