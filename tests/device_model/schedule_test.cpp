// Whose turn it is on the device model, when copies land, what a failed launch leaves behind, and the runtime that launches go through.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <set>
#include <thread>

#include "internal.hpp"
#include "threads.hpp"

namespace {

using namespace moesaic;
using namespace moesaic::device;
using namespace moesaic::device_model;

std::vector<int> order_of(std::uint64_t seed, bool with_barrier) {
  std::vector<int> order;
  auto const found = findings_of({{.x = 2}, 64}, {.seed = seed, .watch_global = false}, [&] {
    if (with_barrier) block_sync();
    order.push_back(block_x() * 64 + thread_id());
  });
  CHECK_MESSAGE(found.empty(), found);
  return order;
}

TEST_CASE("threads run in ascending order without a seed, and in one of many orders with one") {
  std::vector<int> ascending(128);
  for (int i = 0; i < 128; ++i) ascending[static_cast<std::size_t>(i)] = i;
  CHECK(order_of(0, false) == ascending);
  for (bool const with_barrier : {false, true}) {
    std::set<std::vector<int>> orders;
    for (std::uint64_t seed = 1; seed <= 8; ++seed) {
      auto order = order_of(seed, with_barrier);
      CHECK(order == order_of(seed, with_barrier));
      orders.insert(order);
      std::sort(order.begin(), order.end());
      CHECK(order == ascending);
    }
    CHECK(orders.size() == 8);
  }
}

struct memory {
  alignas(16) std::uint32_t words[2][32];
  mbarrier full[2];
};

TEST_CASE("copies land at once, as late as can be, or at any time between") {
  std::vector<std::uint32_t> const in(64, 7);
  // What a thread sees of a copy of its own before it waits, through eyes that no detector has.
  auto const seen = [&](options const& how) {
    std::uint32_t before = 0;
    auto const found = findings_of({{}, 32, sizeof(memory)}, how, [&] {
      memory& s = device::shared<memory>();
      if (thread_id() == 0) {
        mbarrier_init(&s.full[0], 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect_tx(&s.full[0], 128);
        bulk_load(s.words[0], in.data(), 128, &s.full[0]);
      }
      block_sync();
      block_sync();
      if (thread_id() == 0) std::memcpy(&before, &s.words[0][5], 4);
      mbarrier_wait(&s.full[0], 0);
      CHECK(s.words[0][thread_id()] == 7);
    });
    if (!sees_races()) CHECK_MESSAGE(found.empty(), found);
    return before;
  };
  if (sees_races()) return;
  CHECK(seen({.when = delivery::eager}) == 7);
  CHECK(seen({.when = delivery::late}) == 0xffff'ffffu);
  std::set<std::uint32_t> either;
  for (std::uint64_t seed = 1; seed <= 30; ++seed) either.insert(seen({.when = delivery::random, .seed = seed}));
  CHECK(either == std::set<std::uint32_t>{7, 0xffff'ffffu});
}

TEST_CASE("two loads may land in either order") {
  std::vector<std::uint32_t> const in(64, 7);
  std::set<int> firsts;
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    int first = -1;
    auto const found = findings_of({{}, 64, sizeof(memory)}, {.when = delivery::random, .seed = seed, .watch_global = false}, [&] {
      memory& s = device::shared<memory>();
      if (thread_id() == 0) {
        for (auto& b : s.full) mbarrier_init(&b, 1);
        fence_mbarrier_init();
      }
      block_sync();
      if (thread_id() == 0) {
        for (int i = 0; i < 2; ++i) {
          mbarrier_arrive_expect_tx(&s.full[i], 128);
          bulk_load(s.words[i], in.data(), 128, &s.full[i]);
        }
      }
      mbarrier_wait(&s.full[warp_id()], 0);
      if (first < 0) first = warp_id();
    });
    CHECK_MESSAGE(found.empty(), found);
    firsts.insert(first);
  }
  CHECK(firsts == std::set<int>{0, 1});
}

TEST_CASE("a failed launch fails alone") {
  auto const fails = [] { if (thread_id() < 40) block_sync(); };
  for (int i = 0; i < 3; ++i) {
    auto const found = findings_of({{.x = 3}, 64, 512}, {.seed = static_cast<std::uint64_t>(i)}, fails);
    check_found(found, "deadlock: ");
    CHECK(found.find("succeeded") == std::string::npos);
    CHECK(take_findings().empty());
    check_right({{.x = 2}, 64, 512}, [] { block_sync(); });
  }
}

TEST_CASE("a deadlock names every group of threads that waits, and what for") {
  auto const found = findings_of({{}, 128, sizeof(memory)}, {}, [] {
    memory& s = device::shared<memory>();
    if (thread_id() == 0) mbarrier_init(&s.full[1], 4);
    block_sync();
    if (warp_id() == 0) mbarrier_wait(&s.full[1], 0);
    if (warp_id() == 1) device::bar_sync(5, 64);
    if (warp_id() == 2 && lane_id() < 31) ballot(0x7fff'ffffu | 1u << 31, true);
  });
  check_found(found,
              "deadlock: nothing can go on; block (0, 0, 0): 32 threads from 0 wait in mbarrier_try_wait_parity(0) of shared+264 at schedule_test.cpp:");
  check_found(found, ", 32 threads from 32 wait in bar_sync(5) at schedule_test.cpp:");
  check_found(found, ", 31 threads from 64 wait in ballot at schedule_test.cpp:");
  check_found(found, ", 33 have ended");
}

TEST_CASE("a sentence is told once a launch, with the block and thread that it was first found by") {
  auto const found = findings_of({{.x = 5}, 64, 512}, {.watch_global = false}, [] { internal::report("model", "it happened at {1}", internal::here()); });
  check_found(found, "model: it happened at schedule_test.cpp:");
  check_found(found, "(test, block (0, 0, 0), thread 0)");
  CHECK(std::count(found.begin(), found.end(), '\n') == 1);
}

TEST_CASE("an interpreter says where its threads are") {
  static constexpr internal::place_source source{[] { return std::uint64_t{40} + static_cast<std::uint64_t>(thread_id() / 32); },
                                                 [](std::uint64_t line) { return "kernel.ptx:" + std::to_string(line); }};
  internal::use_places(&source);
  auto const found = findings_of({{}, 64}, {}, [] {
    if (thread_id() < 63) block_sync();
  });
  internal::use_places(nullptr);
  check_found(found,
              "32 threads from 0 wait in block_sync at kernel.ptx:40, 31 threads from 32 wait in block_sync at kernel.ptx:41, 1 has ended");
}

TEST_CASE("operations that nobody waits for but their issuer") {
  // Of the kind that wgmma is: a stall does not complete them, a wait does.
  struct op final : internal::async_op {
    int* to;
    void complete() override { ++*to; }
  };
  for (auto const when : deliveries) {
    int completed = 0;
    auto const found = findings_of({}, {.when = when}, [&] {
      if (thread_id() != 0) return;
      auto* const o = new op;
      o->name = "an operation";
      o->to = &completed;
      o->only_by_wait = true;
      o->release_when_done = false;
      internal::issue(o);
      CHECK(completed == (when == delivery::eager ? 1 : 0));
      internal::force(*o);
      internal::force(*o);
      delete o;
    });
    CHECK_MESSAGE(found.empty(), found);
    CHECK(completed == 1);
  }
}

TEST_CASE("several threads of the host have a device each") {
  auto const work = [](std::uint64_t seed) {
    for (int i = 0; i < 20; ++i) {
      scope const on({.seed = seed, .watch_global = false});
      int sum = 0;
      auto const body = [&sum] { block_sync(); ++sum; };
      CHECK(run({.x = 2}, 96, 64, [](void const* p) { (*static_cast<decltype(body) const*>(p))(); }, &body, "sum"));
      CHECK(sum == 192);
    }
  };
  std::thread one(work, 1), two(work, 2);
  one.join();
  two.join();
}

TEST_CASE("the options of a scope end with it") {
  CHECK(cuda::current_device().architecture == 90);
  {
    scope const on({.architecture = 80, .multiprocessors = 7});
    CHECK(cuda::current_device().architecture == 80);
    CHECK(cuda::current_device().multiprocessors == 7);
    CHECK(cuda::current_device().shared_bytes == 163 * 1024);
  }
  CHECK(cuda::current_device().shared_bytes == 227 * 1024);
}

TEST_CASE("a launch inside of a kernel is refused") {
  CHECK(findings_of({}, {}, [] {
          if (thread_id() == 0) CHECK_FALSE(run({}, 32, 0, [](void const*) {}, nullptr, "inner"));
        }).empty());
}

TEST_CASE("the runtime copies, sets and frees") {
  cuda::stream_ref gpu;
  auto* const p = static_cast<int*>(cuda::device_allocate(400));
  REQUIRE(p != nullptr);
  CHECK(reinterpret_cast<std::uintptr_t>(p) % 256 == 0);
  CHECK(p[99] == -1);
  int in[100] = {1, 2, 3}, out[100];
  CHECK(cuda::copy_to_device(gpu, p, in, sizeof in));
  CHECK(cuda::copy_to_host(gpu, out, p, sizeof out));
  CHECK(std::memcmp(in, out, sizeof in) == 0);
  CHECK(cuda::set_bytes(gpu, p, 0, 400));
  CHECK(cuda::synchronize(gpu));
  CHECK(p[1] == 0);
  cuda::device_free(p);
}

struct newest {
  static constexpr int threads = 32;
  static constexpr cuda::rung needs = cuda::rung::sm90;
  struct params {};
  struct shared {};
  MOESAIC_DEVICE void operator()(params const&) const {}
};
TEST_CASE("a kernel needs its architecture") {
  scope const on({.architecture = 80});
  cuda::stream_ref gpu;
  cuda::start<newest>(gpu, {}, {});
  CHECK(to_string(cuda::finish(gpu)).find("newer architecture than the device has (expected 90, found 80)") != std::string::npos);
}

}  // namespace
