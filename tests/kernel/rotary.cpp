// Rotary embedding: against the host's, both layouts, whole heads and parts of them.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/rotary.hpp>
#include <moesaic/host/rotary.hpp>

#include "schedules.hpp"

using namespace moesaic;
using namespace moesaic::test;

TEST_CASE_TEMPLATE("rotate", T, float, bf16) {
  for (auto const layout : {rope_layout::half_split, rope_layout::interleaved})
    for (int const head_dim : {2, 16, 64}) {
      CAPTURE(head_dim);
      constexpr int heads = 5;
      attention_config const config{.rope_theta = 5e5, .layout = layout, .scaling = {.kind = rope_scaling_kind::llama3, .factor = 8}};
      std::vector<std::int32_t> const positions{0, 1, 17, 4095, 131071};
      random_stream random(21);
      auto const x = random_matrix<T>(5, heads * head_dim + 8, random);
      auto const columns = [](matrix<T>& m, int d) { return view<T>(m.data.data(), m.rows, heads * d, m.columns); };
      host::pool pool;
      auto want = x;
      host::rotate<T>(pool, config, head_dim, positions, columns(want, head_dim), heads);
      under_every_schedule([&](cuda::stream_ref& where) {
        std::vector<double> frequency(static_cast<std::size_t>(head_dim / 2));
        cuda::rope_frequencies(where, config, head_dim, frequency);
        auto y = x;
        cuda::rotate<T>(where, cuda::rope_of<T>(where, config, head_dim, frequency), positions, columns(y, head_dim), heads);
        check_close(y, want, sum_tolerance<T>(2));
      });
    }
}

TEST_CASE_TEMPLATE("of two lists of factors the one for how far a sequence reaches", T, float, bf16) {
  constexpr int heads = 3, head_dim = 8, tokens = 70;                          // more rows than a warp looks at once
  attention_config const config{.scaling = {.kind = rope_scaling_kind::longrope, .factor = 4, .original_positions = 64, .factors = {1, 1.5, 2, 4},
                                            .long_factors = {1, 3, 8, 20}, .long_magnitude = 1.5}};
  std::vector<std::int32_t> sequence, positions;
  for (int t = 0; t < tokens; ++t) sequence.push_back(t < 30 ? 0 : 1 + t % 3), positions.push_back(t < 30 ? 40 + t : t % 3 == 2 ? t : t / 2);
  random_stream random(23);
  auto const x = random_matrix<T>(tokens, heads * head_dim, random);
  host::pool pool;
  for (bool const one : {false, true}) {
    auto const of = one ? std::vector<std::int32_t>() : sequence;
    auto want = x;
    host::rotate<T>(pool, config, head_dim, positions, want.view(), heads, of);
    under_every_schedule([&](cuda::stream_ref& where) {
      std::vector<double> frequency(8);
      cuda::rope_frequencies(where, config, head_dim, frequency);
      auto y = x;
      cuda::rotate<T>(where, cuda::rope_of<T>(where, config, head_dim, frequency), positions, y.view(), heads, of);
      check_close(y, want, sum_tolerance<T>(2));
    });
  }
}

TEST_CASE_TEMPLATE("the first elements of a head turn, and grow by the magnitude", T, float, bf16) {
  for (auto const layout : {rope_layout::half_split, rope_layout::interleaved}) {
    constexpr int heads = 3, head_dim = 20;
    attention_config const config{.rotary_dim = 6,
                                  .layout = layout,
                                  .scaling = {.kind = rope_scaling_kind::yarn, .factor = 4, .original_positions = 256, .rounded = false}};
    std::vector<std::int32_t> const positions{0, 1, 900};
    random_stream random(22);
    auto const x = random_matrix<T>(3, heads * head_dim, random);
    host::pool pool;
    auto want = x;
    host::rotate<T>(pool, config, head_dim, positions, want.view(), heads);
    under_every_schedule([&](cuda::stream_ref& where) {
      std::vector<double> frequency(3);
      cuda::rope_frequencies(where, config, 6, frequency);
      auto y = x;
      cuda::rotate<T>(where, cuda::rope_of<T>(where, config, head_dim, frequency), positions, y.view(), heads);
      check_close(y, want, sum_tolerance<T>(2));
    });
  }
}
