// The kernel for sm_80: right as it is, and each planted bug found by what should find it.
// SPDX-License-Identifier: Apache-2.0
#include "multistage_gemm.hpp"
#include "planted.hpp"

namespace {

using namespace moesaic;
using namespace moesaic::planted;
using bug = multistage_bug;

template <class Kernel>
bool right(shape const& of) {
  auto const [m, n, k] = of;
  auto a = integers(std::int64_t{m} * k, 1);
  // Rows that a bug reads behind the end are there, unless AddressSanitizer looks.
  if (!sees_addresses) a.reserve(a.size() + static_cast<std::size_t>(Kernel::tile_m * k));
  auto const b = integers(std::int64_t{k} * n, 2);
  auto c = not_numbers<float>(std::int64_t{m} * n);
  cuda::stream_ref gpu;
  cuda::start<Kernel>(gpu, {.x = tiles(n, Kernel::tile_n), .y = tiles(m, Kernel::tile_m)}, {a.data(), b.data(), c.data(), m, n, k});
  bool same = static_cast<bool>(cuda::finish(gpu));
  for (int row = 0; row < m; ++row)
    for (int column = 0; column < n; ++column) {
      float sum = 0;
      for (int i = 0; i < k; ++i) sum += at(a, row * k + i) * at(b, i * n + column);
      same = same && c[static_cast<std::size_t>(row * n + column)] == sum;
    }
  return same;
}

template <bug Bug>
void found(expectation const& want) {
  check(everywhere([] { return right<multistage_gemm<Bug>>({50, 56, 152}); }), want, "multistage_gemm.hpp");
}

}  // namespace

TEST_CASE("The kernel for sm_80 is exact and clean, ragged edges and short sums included") {
  for (auto const& of : {shape{64, 64, 128}, {100, 72, 152}, {1, 8, 8}, {65, 64, 40}}) {
    auto const ran = everywhere([&] { return right<multistage_gemm<>>(of); });
    INFO(of.m, " x ", of.n, " x ", of.k, ": ", ran.all());
    REQUIRE(ran.noticed == 0);
  }
}

TEST_CASE("ldmatrix reads permuted tiles without bank conflicts") {
  if (!device_model::sees_races()) return;
  device_model::scope const counting({.count_conflicts = true});
  device_model::take_conflicts();
  REQUIRE(right<multistage_gemm<>>({64, 64, 64}));
  auto const permuted = device_model::take_conflicts();
  CHECK(permuted.instructions > 0);
  CHECK(permuted.passes == permuted.instructions);
  CHECK(!right<multistage_gemm<bug::wrong_swizzle>>({64, 64, 64}));
  auto const plain = device_model::take_conflicts();
  CHECK(plain.instructions == permuted.instructions);
  CHECK(plain.passes > plain.instructions);
}

TEST_CASE("Copies that are not waited for") { found<bug::no_wait>({"race: cp.async of thread"}); }
TEST_CASE("A wait that is one stage too lax") { found<bug::lax_wait>({"race: cp.async of thread"}); }
TEST_CASE("Threads that do not wait for each other") { found<bug::no_block_sync>({"race: "}); }
TEST_CASE("Fragments in a wrong order") { found<bug::wrong_fragment>({""}); }
TEST_CASE("A tile read with another permutation") { found<bug::wrong_swizzle>({""}); }
TEST_CASE("Rows read behind the end of a matrix: what AddressSanitizer alone sees") {
  auto const ran = everywhere([] { return right<multistage_gemm<bug::unclamped_row>>({50, 56, 152}); });
  INFO(ran.all());
  if (sees_addresses) {
    REQUIRE(ran.noticed == ran.runs);
    REQUIRE(ran.says("is not addressable"));
    REQUIRE(ran.says("multistage_gemm.hpp:"));
  } else {
    REQUIRE(ran.noticed == 0);
  }
}
