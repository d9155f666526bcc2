// Projections and heads' outputs changed in place, in rows of whole runs and in others, against the host's.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/heads.hpp>
#include <moesaic/cuda/norm.hpp>
#include <moesaic/host/heads.hpp>
#include <moesaic/host/norm.hpp>

#include "schedules.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

/// `first` columns into a wider row, as a part of a fused projection.
template <class T>
view<T> part(matrix<T>& m, std::int64_t first, std::int64_t width) {
  return {m.rows == 0 ? nullptr : m.data.data() + first, m.rows, width, m.columns};
}

template <class T>
void check_changes(std::int64_t tokens, std::int64_t width) {
  CAPTURE(width);
  random_stream random(81);
  auto const x = random_matrix<T>(tokens, 2 * width + 16, random);
  std::vector<std::int32_t> position(static_cast<std::size_t>(tokens));
  for (std::size_t t = 0; t < position.size(); ++t) position[t] = static_cast<std::int32_t>(5 * t * t + 2);
  query_temperature const temperature{.scale = 0.3, .floor = 4};
  host::pool pool;
  auto clipped = x, scaled = x, gated = x, unit = x;
  host::clip<T>(pool, 0.75, part(clipped, 16, width));
  host::scale_queries<T>(pool, temperature, position, part(scaled, 16, width));
  host::gate_heads<T>(pool, part(gated, 16 + width, width), part(gated, 16, width));
  host::normalize_heads<T>(pool, {.epsilon = 1e-5}, {}, part(unit, 16, width), 1, static_cast<int>(width));
  under_every_schedule([&](cuda::stream_ref& where) {
    auto y = x;
    cuda::clip<T>(where, 0.75, part(y, 16, width));
    check_bits(y, clipped);
    y = x;
    cuda::scale_queries<T>(where, temperature, position, part(y, 16, width));
    check_close(y, scaled, 2 * roundoff<T>);
    y = x;
    cuda::gate_heads<T>(where, part(y, 16 + width, width), part(y, 16, width));
    check_bits(y, gated);
    y = x;
    cuda::normalize_heads<T>(where, {.epsilon = 1e-5}, {}, part(y, 16, width), 1, static_cast<int>(width));   // without a weight
    check_close(y, unit, stage_tolerance<T>);
  });
}

}  // namespace

TEST_CASE_TEMPLATE("clipped, scaled by position, gated, of unit size without a weight", T, float, bf16) {
  check_changes<T>(5, 2100);                                                   // more than one pass of a block, whole runs of 4, not of 8
  check_changes<T>(3, 48);
  check_changes<T>(1, 37);
  check_changes<T>(0, 48);
}

TEST_CASE("NaN stays where it is clipped, and one block serves all rows") {
  under_every_schedule([&](cuda::stream_ref& where) {
    matrix<float> x(7, 16);
    for (std::int64_t t = 0; t < 7; ++t)
      for (std::int64_t c = 0; c < 16; ++c) x(t, c) = static_cast<float>(t - 3);
    x(4, 5) = not_a_number<float>;
    using kernel = cuda::change_heads<float, 4, cuda::head_change::clip>;
    REQUIRE(cuda::launch<kernel>(where, {.x = 1, .early = true}, {x.view(), {}, nullptr, {}, 2.0f}));
    for (std::int64_t t = 0; t < 7; ++t) CHECK(x(t, 0) == static_cast<float>(t < 1 ? -2 : t > 5 ? 2 : t - 3));
    CHECK(std::isnan(x(4, 5)));
  });
}
