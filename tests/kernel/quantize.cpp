// Activations to e4m3 with scales of 128, or to the numbers that these are: the bits that base/groups.hpp and the host give.
// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <limits>
#include <utility>

#include <moesaic/base/groups.hpp>
#include <moesaic/cuda/quantize.hpp>
#include <moesaic/cuda/quantized.hpp>
#include <moesaic/host/quantized.hpp>

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

TEST_CASE_TEMPLATE("scales that are powers of two, and what codes say in place of them: as the host's", T, float, bf16) {
  for (std::int64_t const inputs : {16, 128, 272, 133}) {
    CAPTURE(inputs);
    constexpr std::int64_t rows = 5;
    random_stream random(33);
    auto x = random_matrix<T>(rows, inputs, random);
    for (std::int64_t k = 0; k < inputs; ++k) x(rows - 1, k) = static_cast<T>(k % 5 == 0 ? 0.0f : static_cast<float>(x(rows - 1, k)) * 1e-6f);
    x(1, 3) = not_a_number<T>;
    x(2, inputs - 1) = static_cast<T>(std::numeric_limits<float>::infinity());
    host::pool pool;
    matrix<std::uint8_t> want(rows, inputs);
    matrix<float> want_scales(rows, (inputs + 127) / 128);
    host::quantize(pool, x.view(), want.view(), want_scales.view(), nullptr, input_codes::e4m3_power_of_two);
    matrix<float> want_numbers(rows, inputs);
    matrix<T> want_narrow(rows, inputs);
    host::code_inputs<input_codes::e4m3>(pool, std::as_const(x).view(), list<float>(want_numbers.data));
    host::code_inputs<input_codes::e4m3_power_of_two>(pool, std::as_const(x).view(), list<T>(want_narrow.data));
    under_every_schedule([&](cuda::stream_ref& where) {
      matrix<std::uint8_t> codes(rows, inputs);
      auto scales = unwritten<float>(rows, (inputs + 127) / 128);
      cuda::quantize(where, x.view(), codes.view(), scales.view(), nullptr, input_codes::e4m3_power_of_two);
      std::int64_t unlike = 0;
      for (std::size_t i = 0; i < codes.data.size(); ++i) unlike += codes.data[i] != want.data[i];
      for (std::size_t i = 0; i < scales.data.size(); ++i) unlike += !(scales.data[i] == want_scales.data[i]);
      CHECK(unlike == 0);
    });
    under_every_schedule([&](cuda::stream_ref& where) {
      auto numbers = unwritten<float>(rows, inputs);
      auto narrow = unwritten<T>(rows, inputs);
      auto const got = cuda::code_inputs<input_codes::e4m3>(where, std::as_const(x).view(), list<float>(numbers.data));
      auto const got_narrow = cuda::code_inputs<input_codes::e4m3_power_of_two>(where, std::as_const(x).view(), list<T>(narrow.data));
      CHECK((!got.has_codes() && !got_narrow.has_codes()));
      std::int64_t unlike = 0;                             // NaN is one here
      auto const same = [](float a, float b) { return a == b || (a != a && b != b); };
      for (std::size_t i = 0; i < numbers.data.size(); ++i)
        unlike += !same(numbers.data[i], want_numbers.data[i]) + !same(static_cast<float>(narrow.data[i]), static_cast<float>(want_narrow.data[i]));
      CHECK(unlike == 0);
    }, 80);
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
  std::int32_t const begin = 1, end = 3;                 // rows of experts of one width among others
  for (int const architecture : {90, 80})
    under_every_schedule([&](cuda::stream_ref& where) {
      auto numbers = unwritten<bf16>(4, 144);
      auto const got = cuda::code_inputs<input_codes::e4m3_power_of_two>(where, x.view(), list<bf16>(numbers.data), &end, &begin);
      for (std::int64_t r = 0; r < 4; ++r) {
        bool const within = begin <= r && r < end;
        if (got.has_codes()) CHECK((got.codes.scales(r, 0) == got.codes.scales(r, 0)) == within);
        else CHECK((numbers(r, 143) == numbers(r, 143)) == within);
      }
    }, architecture);
}
