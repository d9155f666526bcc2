// Norms of rows, with a residual added before, and of heads: against the host's.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/norm.hpp>
#include <moesaic/host/combine.hpp>
#include <moesaic/host/norm.hpp>

#include "schedules.hpp"

using namespace moesaic;
using namespace moesaic::test;

TEST_CASE_TEMPLATE("normalize", T, float, bf16) {
  for (auto const kind : {norm_kind::rms, norm_kind::layer})
    for (std::int64_t const width : {16, 48, 2064, 21})                    // 21: rows that no 16-byte load may touch
      for (std::int64_t const tokens : {1, 5}) {
        CAPTURE(width);
        random_stream random(11 + static_cast<std::uint64_t>(width));
        auto const x = random_matrix<T>(tokens, width, random), added = random_matrix<T>(tokens, width, random);
        auto const weight = random_matrix<float>(1, width, random), bias = random_matrix<float>(1, width, random);
        norm_config const config{.kind = kind, .bias = kind == norm_kind::layer, .weight_offset = width == 48 ? 1.0 : 0.0};
        norm_weights const w{weight.data, kind == norm_kind::layer ? list<const float>(bias.data) : list<const float>{}};
        host::pool pool;
        matrix<T> want(tokens, width), sum(tokens, width), want_of_sum(tokens, width);
        host::normalize<T>(pool, config, w, x.view(), want.view());
        host::add<T>(pool, x.view(), added.view(), sum.view());
        host::normalize<T>(pool, config, w, sum.view(), want_of_sum.view());
        under_every_schedule([&](cuda::stream_ref& where) {
          auto y = unwritten<T>(tokens, width), both = unwritten<T>(tokens, width), of_both = unwritten<T>(tokens, width);
          cuda::normalize<T>(where, config, w, x.view(), y.view());
          check_close(y, want, sum_tolerance<T>(width) * 4);
          cuda::add_and_normalize<T>(where, config, w, x.view(), added.view(), both.view(), of_both.view());
          check_bits(both, sum);
          check_close(of_both, want_of_sum, sum_tolerance<T>(width) * 4);
          auto in_place = x;
          cuda::normalize<T>(where, config, w, in_place.view(), in_place.view());
          check_bits(in_place, y);
        });
      }
}

TEST_CASE_TEMPLATE("a factor on what is added, and the cast after the weight", T, float, bf16) {
  for (std::int64_t const width : {48, 21}) {
    CAPTURE(width);
    random_stream random(13);
    auto const x = random_matrix<T>(5, width, random), added = random_matrix<T>(5, width, random);
    auto const weight = random_matrix<float>(1, width, random);
    norm_weights const w{weight.data, {}};
    host::pool pool;
    matrix<T> sum(5, width), plain(5, width);
    host::add<T>(pool, x.view(), added.view(), sum.view(), 0.22);
    under_every_schedule([&](cuda::stream_ref& where) {
      matrix<T> of_cast[2];
      for (auto const cast : {norm_cast::before_weight, norm_cast::after_weight}) {
        norm_config const config{.cast = cast, .weight_offset = 1.0};
        auto both = unwritten<T>(5, width), y = both;
        cuda::add_and_normalize<T>(where, config, w, x.view(), added.view(), both.view(), y.view(), 0.22);
        check_close(both, sum, sum_tolerance<T>(2));
        host::normalize<T>(pool, config, w, both.view(), plain.view());
        // What differs between the casts is a rounding: so nearly all bits must be those of the host's cast.
        std::int64_t different = 0;
        for (std::size_t i = 0; i < y.data.size(); ++i) different += y.data[i] != plain.data[i];
        if (std::is_same_v<T, bf16>) CHECK(different <= 2);
        check_close(y, plain, sum_tolerance<T>(width) * 4);
        of_cast[static_cast<int>(cast)] = y;
      }
      std::int64_t different = 0;
      for (std::size_t i = 0; i < of_cast[0].data.size(); ++i) different += of_cast[0].data[i] != of_cast[1].data[i];
      CHECK((different > 10) == std::is_same_v<T, bf16>);
    });
  }
}

TEST_CASE_TEMPLATE("heads by themselves, in columns of a wider matrix", T, float, bf16) {
  constexpr int heads = 3, head_dim = 40;
  random_stream random(12);
  auto const x = random_matrix<T>(7, heads * head_dim + 16, random);
  auto const weight = random_matrix<float>(1, head_dim, random);
  auto const columns = [](matrix<T>& m) { return view<T>(m.data.data() + 8, m.rows, heads * head_dim, m.columns); };
  host::pool pool;
  for (norm_config const config : {norm_config{.epsilon = 1e-6}, {.epsilon = 1e-6, .cast = norm_cast::after_weight, .weight_offset = 1}}) {
    auto want = x;
    host::normalize_heads<T>(pool, config, weight.data, columns(want), heads, head_dim);
    under_every_schedule([&](cuda::stream_ref& where) {
      auto y = x;
      cuda::normalize_heads<T>(where, config, weight.data, columns(y), heads, head_dim);
      check_close(y, want, sum_tolerance<T>(head_dim) * 4);
    });
  }
}
