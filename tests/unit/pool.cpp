// The pool: every task once, on any number of threads, nested, from two threads, by a caller's executor; and the choice of a level.
// SPDX-License-Identifier: Apache-2.0
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/host/pool.hpp>

using namespace moesaic;

TEST_CASE("pool: every task runs once, whatever the number of threads") {
  for (int threads : {1, 2, 3, 5}) {
    host::pool pool(threads);
    CHECK(pool.threads() == threads);
    for (std::int64_t tasks : {0, 1, 2, 3, 7, 100}) {
      std::vector<int> runs(100);
      for (int round = 0; round < 200; ++round) pool.for_each(tasks, [&](std::int64_t i) { ++runs[static_cast<std::size_t>(i)]; });
      for (std::int64_t i = 0; i < 100; ++i) CHECK(runs[static_cast<std::size_t>(i)] == (i < tasks ? 200 : 0));
    }
  }
}

TEST_CASE("pool: what tasks wrote is seen by the caller, and by the tasks of the next call") {
  host::pool pool(3);
  std::vector<std::int64_t> x(64, 1);
  for (int round = 0; round < 100; ++round) {
    pool.for_each(64, [&](std::int64_t i) { x[static_cast<std::size_t>(i)] += i; });
    pool.for_each(32, [&](std::int64_t i) { std::swap(x[static_cast<std::size_t>(i)], x[static_cast<std::size_t>(63 - i)]); });
  }
  CHECK(std::accumulate(x.begin(), x.end(), std::int64_t{0}) == 64 + 100 * 63 * 32);
}

TEST_CASE("pool: a call from inside a task, and calls from two threads") {
  host::pool pool(2);
  std::atomic<int> runs = 0;
  pool.for_each(8, [&](std::int64_t) { pool.for_each(5, [&](std::int64_t) { ++runs; }); });
  CHECK(runs == 40);
  std::thread other([&] {
    for (int i = 0; i < 200; ++i) pool.for_each(10, [&](std::int64_t) { ++runs; });
  });
  for (int i = 0; i < 200; ++i) pool.for_each(10, [&](std::int64_t) { ++runs; });
  other.join();
  CHECK(runs == 40 + 4000);
}

TEST_CASE("pool: a caller's executor") {
  struct backwards {
    int calls = 0;
    static void run(void* self, std::int64_t tasks, void (*task)(void*, std::int64_t), void* context) {
      ++static_cast<backwards*>(self)->calls;
      for (auto i = tasks; i > 0; --i) task(context, i - 1);
    }
  } mine;
  host::pool pool(host::executor{&mine, &backwards::run, 4});
  CHECK(pool.threads() == 4);
  std::vector<std::int64_t> order;
  pool.for_each(3, [&](std::int64_t i) { order.push_back(i); });
  CHECK(order == std::vector<std::int64_t>{2, 1, 0});
  CHECK(mine.calls == 1);
}

TEST_CASE("pool: an executor is called even where it says it has one thread") {
  struct counter {
    int calls = 0;
    static void run(void* self, std::int64_t tasks, void (*task)(void* context, std::int64_t index), void* context) {
      ++static_cast<counter*>(self)->calls;
      for (std::int64_t i = 0; i < tasks; ++i) task(context, i);
    }
  } one;
  host::pool pool(host::executor{&one, counter::run});
  pool.for_each(5, [](std::int64_t) {});
  CHECK(one.calls == 1);
}

#if defined(__x86_64__)
TEST_CASE("pool: workers treat subnormals as the caller does, whenever it changed its mind") {
  host::pool pool(4);
  auto const kept = __builtin_ia32_stmxcsr();
  for (unsigned const flush : {0u, 0x8040u, 0u}) {             // subnormal results and operands as zero, or not
    __builtin_ia32_ldmxcsr((kept & ~0x8040u) | flush);
    std::atomic<int> zeros = 0;
    pool.for_each(400, [&](std::int64_t) {
      volatile float small = 1e-38f, tenth = 0.01f;
      zeros += small * tenth == 0.0f;
      std::this_thread::sleep_for(std::chrono::microseconds(20));   // long enough for every worker to come
    });
    __builtin_ia32_ldmxcsr(kept);
    CHECK(zeros == (flush != 0 ? 400 : 0));
  }
}
#endif

// A sanitizer's shadow needs more address space than the limit leaves.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#if defined(__has_feature)
#define MOESAIC_SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define MOESAIC_SANITIZED 0
#endif
#if !MOESAIC_SANITIZED
TEST_CASE("pool: more threads than there can be are refused, and those that started end") {
  rlimit kept{};
  getrlimit(RLIMIT_AS, &kept);
  auto const child = fork();                                   // the limit is for good
  if (child == 0) {
    rlimit const tight{1u << 30, kept.rlim_max};
    setrlimit(RLIMIT_AS, &tight);
    int outcome = 1;
    try {
      host::pool pool(10000);
    } catch (error const& e) {
      outcome = std::string(e.what()).find("pool: expected to start 9999 threads") == 0 ? 0 : 2;
    }
    _exit(outcome);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}
#endif
#endif

TEST_CASE("level: the best one, a lower one by the environment, never one the processor lacks") {
  using host::level;
  CHECK(host::pool(1, level::avx512_bf16).level() == host::detected_level());
  CHECK(host::pool(1, level::portable).level() == level::portable);
  std::string const before = std::getenv("MOESAIC_LEVEL") != nullptr ? std::getenv("MOESAIC_LEVEL") : "";
  setenv("MOESAIC_LEVEL", "portable", 1);
  CHECK(host::best_level() == level::portable);
  CHECK(host::pool(1).level() == level::portable);
  for (const char* other : {"avx512_bf16", ""}) {
    setenv("MOESAIC_LEVEL", other, 1);
    CHECK(host::best_level() == host::detected_level());
  }
  for (const char* unknown : {"AVX2", "avx512 ", "avx"}) {
    setenv("MOESAIC_LEVEL", unknown, 1);
    auto const sentence = "MOESAIC_LEVEL: expected portable, avx2, avx512 or avx512_bf16, found '" + std::string(unknown) + "'";
    CHECK_THROWS_WITH_AS(host::pool(2), sentence.c_str(), error);
  }
  if (before.empty()) unsetenv("MOESAIC_LEVEL");
  else setenv("MOESAIC_LEVEL", before.c_str(), 1);
}
