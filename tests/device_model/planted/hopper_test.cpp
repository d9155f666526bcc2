// The kernel for sm_90a: right as it is, and each planted bug found by what should find it.
// SPDX-License-Identifier: Apache-2.0
#include "hopper_gemm.hpp"
#include "planted.hpp"

namespace {

using namespace moesaic;
using namespace moesaic::planted;
using bug = hopper_bug;

template <class Kernel>
bool right(shape const& of) {
  auto const [m, n, k] = of;
  auto const a = integers(std::int64_t{m} * k, 1), b = integers(std::int64_t{n} * k, 2);
  auto c = not_numbers<bf16>(std::int64_t{m} * n);
  typename Kernel::params p;
  if (!Kernel::make(p, a.data(), b.data(), c.data(), m, n, k)) return false;
  cuda::stream_ref gpu;
  cuda::start<Kernel>(gpu, {.x = tiles(n, Kernel::tile_n), .y = tiles(m, Kernel::tile_m)}, p);
  bool same = static_cast<bool>(cuda::finish(gpu));
  for (int row = 0; row < m; ++row)
    for (int column = 0; column < n; ++column) {
      float sum = 0;
      for (int i = 0; i < k; ++i) sum += at(a, row * k + i) * at(b, column * k + i);
      same = same && c[static_cast<std::size_t>(row * n + column)].bits == bf16(sum).bits;
    }
  return same;
}

template <bug Bug>
void found(expectation const& want) {
  check(everywhere([] { return right<hopper_gemm<Bug>>({120, 56, 424}); }), want, "hopper_gemm.hpp");
}

}  // namespace

TEST_CASE("The kernel for sm_90a is exact and clean, ragged edges and short sums included") {
  for (auto const& of : {shape{128, 64, 384}, {136, 72, 424}, {1, 8, 8}}) {
    auto const ran = everywhere([&] { return right<hopper_gemm<>>(of); });
    INFO(of.m, " x ", of.n, " x ", of.k, ": ", ran.all());
    REQUIRE(ran.noticed == 0);
  }
}

TEST_CASE("The swizzled tile is written without bank conflicts, the plain one eight times over") {
  if (!device_model::sees_races()) return;
  device_model::scope const counting({.count_conflicts = true});
  device_model::take_conflicts();
  REQUIRE(right<hopper_gemm<>>({128, 64, 64}));
  auto const swizzled = device_model::take_conflicts();
  constexpr int words = 8 * 16;                 // warps · words of a lane
  CHECK(swizzled.instructions == words + 6);    // and the barriers' inits
  CHECK(swizzled.passes == swizzled.instructions);
  CHECK(!right<hopper_gemm<bug::no_store_swizzle>>({128, 64, 64}));
  auto const plain = device_model::take_conflicts();
  CHECK(plain.instructions == swizzled.instructions);
  CHECK(plain.passes == swizzled.passes + 7 * words);
}

TEST_CASE("Consumers do not wait for a stage's bytes") { found<bug::no_full_wait>({"race: tma_load_2d of thread 256"}); }
TEST_CASE("Consumers wait for the other phase") { found<bug::wrong_full_parity>({"race: "}); }
TEST_CASE("The producer does not wait for a stage's readers") { found<bug::no_empty_wait>({"arrival overflow"}); }
TEST_CASE("The producer waits for the other phase") { found<bug::wrong_empty_parity>({"deadlock: ", true, "deadlock: "}); }
TEST_CASE("Descriptors with another swizzle") { found<bug::wrong_descriptor_swizzle>({""}); }
TEST_CASE("The stored tile is not fenced for the copy engine") { found<bug::no_proxy_fence>({"proxy: thread", false}); }
TEST_CASE("The copy engine is asked before the tile is written") { found<bug::no_store_barrier>({"race: "}); }
TEST_CASE("A stage is given back while it is read") { found<bug::early_release>({"race: wgmma"}); }
TEST_CASE("Sums are read before the last wait") { found<bug::no_last_wait>({"model: "}); }
TEST_CASE("Products without wgmma_fence") { found<bug::no_wgmma_fence>({"wgmma_fence", true, "wgmma_fence"}); }
TEST_CASE("A stage expects more bytes than come") { found<bug::expect_too_many>({"deadlock: ", true, "deadlock: "}); }
TEST_CASE("A stage expects fewer bytes than come") { found<bug::expect_too_few>({"race: tma_load_2d"}); }
TEST_CASE("Rows of the stored tile are off by one") { found<bug::row_off_by_one>({""}); }
TEST_CASE("Threads end while the copy engine reads their tile") { found<bug::store_not_waited>({"model: a thread ended", true, "model: a thread ended"}); }
TEST_CASE("One arrival too few empties a stage") { found<bug::empty_count_too_small>({"race: "}); }
TEST_CASE("Descriptors advance two steps at once") { found<bug::descriptor_step_doubled>({""}); }
TEST_CASE("Sums are changed while wgmma adds to them") { found<bug::sums_touched>({"model: "}); }
TEST_CASE("Barriers are not fenced after their init") { found<bug::init_not_fenced>({"fence_mbarrier_init", true, "fence_mbarrier_init"}); }
TEST_CASE("Nobody waits for the barriers' init") { found<bug::no_sync_after_init>({"race: thread 256 wrote", true, "is no initialised mbarrier"}); }
TEST_CASE("Descriptors with another stride") { found<bug::wrong_stride>({""}); }
TEST_CASE("The stored tile is not swizzled") { found<bug::no_store_swizzle>({""}); }
