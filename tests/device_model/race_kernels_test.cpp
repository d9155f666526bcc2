// The race detector through the compiler's eyes: accesses in all their forms, and which synchronisation orders them.
// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <atomic>
#include <cstring>

#include "threads.hpp"

namespace {

using namespace moesaic;
using namespace moesaic::device;
using namespace moesaic::device_model;

constexpr char const* file = "race_kernels_test.cpp";

struct memory {
  alignas(1024) std::uint32_t word[64];
  alignas(16) words4 wide[64];
  std::array<float, 40> many;
  mbarrier full;
  std::uint32_t count;
};
memory& mine() { return device::shared<memory>(); }
constexpr device_model::shape one_block{{}, 64, sizeof(memory)};

/// Something that races unless block_sync stands between: thread 0 does `first`, then thread 33 `second`. Found in every order, clean with the barrier.
template <class First, class Second>
void check_pair(First first, Second second, char const* what = "race: thread 0 wrote", int line = __builtin_LINE()) {
  auto const pair = [&](bool ordered) {
    return [=] {
      memory& m = mine();
      if (thread_id() == 0) {
        std::memset(m.word, 0, sizeof m.word);
        std::memset(static_cast<void*>(&m.many), 0, sizeof m.many);
        for (auto& w : m.wide) w = {};
      }
      block_sync();
      if (thread_id() == 0) first(m);
      if (ordered) block_sync();
      if (thread_id() == 33) second(m);
    };
  };
  INFO("in line ", line);
  check_right(one_block, pair(true));
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    auto const found = findings_of(one_block, {.seed = seed}, pair(false));
    // Whoever comes second is told of the first.
    CHECK_MESSAGE((found.find(what) != std::string::npos || found.find("race: thread 33") != std::string::npos), "seed ", seed, ": ", found);
    CHECK(found.find(file) != std::string::npos);
  }
}

[[gnu::noinline]] std::size_t told(std::size_t bytes) {
  asm volatile("" : "+r"(bytes));
  return bytes;
}
template <class T>
MOESAIC_DEVICE void use(T value) {
  asm volatile("" : : "X"(value));
}
MOESAIC_DEVICE float fourth(std::array<float, 40> by_value) {
  asm volatile("" ::: "memory");
  return by_value[3];
}
MOESAIC_DEVICE words4 doubled(words4 by_value) {
  for (auto& w : by_value.word) w *= 2;
  return by_value;
}

}  // namespace

TEST_CASE("Accesses of every width and form are seen") {
  if (!sees_races()) return;
  check_pair([](memory& m) { m.word[3] = 1; }, [](memory& m) { use(m.word[3]); });
  check_pair([](memory& m) { m.word[3] = 1; }, [](memory& m) { m.word[3] = 2; });
  check_pair([](memory& m) { use(m.word[3]); }, [](memory& m) { m.word[3] = 2; }, "race: thread 0 read");
  check_pair([](memory& m) { m.word[3] += 1; }, [](memory& m) { m.word[3] += 2; });
  check_pair([](memory& m) { reinterpret_cast<unsigned char*>(m.word)[5] = 1; }, [](memory& m) { use(m.word[1]); });
  check_pair([](memory& m) { reinterpret_cast<std::uint16_t*>(m.word)[5] = 1; }, [](memory& m) { reinterpret_cast<std::uint64_t*>(m.word)[1] = 1; });
  check_pair([](memory& m) { m.wide[7] = m.wide[8]; }, [](memory& m) { m.word[0] = m.wide[7].word[3]; });
  check_pair([](memory& m) { m.wide[7].word[2] = 1; }, [](memory& m) { m.wide[9] = m.wide[7]; });
  check_pair([](memory& m) { m.many[39] = 1; }, [](memory& m) { auto const copy = m.many; use(fourth(copy) + copy[39]); });
  check_pair([](memory& m) { m.many[3] = 1; }, [](memory& m) { use(fourth(m.many)); });
  check_pair([](memory& m) { m.wide[7].word[2] = 1; }, [](memory& m) { m.wide[9] = doubled(m.wide[7]); });
  check_pair([](memory& m) { m.wide[7] = doubled(m.wide[6]); }, [](memory& m) { m.wide[9] = m.wide[7]; });
  check_pair([](memory& m) { m.many = {}; }, [](memory& m) { use(m.many[17]); });
  check_pair([](memory& m) { std::memcpy(m.word, m.wide, told(100)); }, [](memory& m) { use(m.word[24]); });
  check_pair([](memory& m) { std::memset(m.word, 0, told(100)); }, [](memory& m) { use(m.word[24]); });
  check_pair([](memory& m) { std::memmove(m.word, m.word + 1, told(100)); }, [](memory& m) { use(m.word[24]); });
  check_pair([](memory& m) { m.word[25] = 1; }, [](memory& m) { std::memcpy(m.wide, m.word, told(104)); });
  check_pair([](memory& m) { *const_cast<std::uint32_t volatile*>(&m.word[3]) = 1; }, [](memory& m) { use(m.word[3]); });
  check_pair([](memory& m) { m.word[3] = 1; }, [](memory& m) { atomic_add(&m.word[3], 1); });
  check_pair([](memory& m) { m.word[3] = 1; }, [](memory& m) { std::atomic_ref<std::uint32_t>(m.word[3]).fetch_add(1, std::memory_order_relaxed); });
  check_pair([](memory& m) { std::atomic_ref<std::uint32_t>(m.word[3]).store(1); }, [](memory& m) { use(m.word[3]); });
  check_pair([](memory& m) { atomic_add(&m.word[3], 1); }, [](memory& m) { use(m.word[3]); }, "race: thread 0 changed");
}

TEST_CASE("Neighbouring bytes and atomic changes of one word do not race") {
  check_right(one_block, [] {
    memory& m = mine();
    reinterpret_cast<unsigned char*>(m.word)[thread_id()] = static_cast<unsigned char>(thread_id());
    reinterpret_cast<std::uint16_t*>(m.wide)[thread_id()] = 1;
    if (thread_id() == 0) m.count = 0;
    block_sync();
    atomic_add(&m.count, m.word[thread_id() % 16]);
    block_sync();
    if (thread_id() == 5) use(m.count);
  });
}

TEST_CASE("Lanes of a warp are ordered by warp_sync, not by shuffles, votes or standing close") {
  auto const exchange = [](int how) {
    return [how] {
      memory& m = mine();
      m.word[thread_id()] = 1;
      if (how == 1) warp_sync();
      if (how == 2) (void)shfl_idx(all_lanes, 1, 0);
      if (how == 3) (void)ballot(all_lanes, true);
      use(m.word[thread_id() ^ 1]);
      if (how == 1) warp_sync();
      if (how == 1) m.word[thread_id() ^ 2] = 3;
    };
  };
  check_right(one_block, exchange(1));
  if (!sees_races()) return;
  for (int const how : {0, 2, 3}) check_found(findings_of(one_block, {}, exchange(how)), "race: thread", file);
  // A warp's own barrier does not order other warps, nor lanes that it leaves out.
  check_found(findings_of(one_block, {}, [] {
                mine().word[thread_id()] = 1;
                warp_sync();
                use(mine().word[thread_id() ^ 32]);
              }),
              "race: thread", file);
  check_found(findings_of(one_block, {}, [] {
                mine().word[thread_id()] = 1;
                if (lane_id() != 9) warp_sync(~(1u << 9));
                if (lane_id() == 8) use(mine().word[thread_id() + 1]);
              }),
              "race: thread", file);
}

TEST_CASE("Bytes that nobody wrote are told when they are read") {
  if (!sees_races()) return;
  auto const found = findings_of(one_block, {}, [] {
    if (thread_id() == 7) use(mine().word[7]);
  });
  check_found(found, "unwritten: thread 7 reads shared+28", file);
  check_found(findings_of(one_block, {}, [] {
                if (thread_id() == 7) mine().word[7] += 1;
              }),
              "unwritten: thread 7 reads shared+28", file);
}

TEST_CASE("Accesses behind shared memory are told, inside the margins too") {
  if (!sees_races()) return;
  auto const found = findings_of(one_block, {}, [] {
    if (thread_id() == 7) use(*(&mine().word[0] + told(sizeof(memory) / 4)));
  });
  check_found(found, "model: thread 7 reads 4 bytes at shared+", file);
}

TEST_CASE("An mbarrier orders who waits after who arrived") {
  auto const pass = [](bool waits, bool later) {
    return [=] {
      memory& m = mine();
      if (thread_id() == 0) {
        mbarrier_init(&m.full, 32);
        fence_mbarrier_init();
      }
      block_sync();
      if (warp_id() == 0) {
        m.word[lane_id()] = 1;
        mbarrier_arrive(&m.full);
        if (later) m.word[lane_id()] = 2;
      } else {
        if (waits) mbarrier_wait(&m.full, 0);
        use(m.word[31 - lane_id()]);
      }
    };
  };
  check_right(one_block, pass(true, false));
  if (!sees_races()) return;
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    check_found(findings_of(one_block, {.seed = seed}, pass(false, false)), "", file);
    check_found(findings_of(one_block, {.seed = seed}, pass(true, true)), "race: thread", file);
  }
}

TEST_CASE("cp.async reports to an mbarrier, and whoever waits for that sees the bytes") {
  static std::uint32_t const from[64 * 4] = {};
  auto const copy = [](bool arrives_after) {
    return [=] {
      memory& m = mine();
      if (thread_id() == 0) mbarrier_init(&m.full, 32);
      block_sync();
      if (warp_id() == 0) {
        if (!arrives_after) cp_async_mbarrier_arrive_noinc(&m.full);
        cp_async<16>(&m.wide[lane_id()], from + 4 * lane_id());
        if (arrives_after) cp_async_mbarrier_arrive_noinc(&m.full);
        else cp_async_commit_group(), cp_async_wait_group<0>();
      } else {
        mbarrier_wait(&m.full, 0);
        use(m.wide[31 - lane_id()].word[2]);
      }
    };
  };
  check_right(one_block, copy(true));
  if (!sees_races()) return;
  for (auto const when : deliveries)
    for (std::uint64_t seed = 0; seed < 3; ++seed) {
      auto const found = findings_of(one_block, {.when = when, .seed = seed}, copy(false));
      CHECK_MESSAGE(!found.empty(), static_cast<int>(when), seed);
    }
}

TEST_CASE("Named barriers order their threads; who only arrived goes on unordered") {
  auto const pass = [](bool reads_back) {
    return [=] {
      memory& m = mine();
      if (warp_id() == 0) {
        m.word[lane_id()] = 1;
        bar_arrive(3, 64);
        if (reads_back) use(m.word[32 + lane_id()]);
      } else {
        m.word[32 + lane_id()] = 1;
        bar_sync(3, 64);
        use(m.word[31 - lane_id()]);
      }
    };
  };
  check_right(one_block, pass(false));
  if (!sees_races()) return;
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    auto const found = findings_of(one_block, {.seed = seed}, pass(true));
    check_found(found, "", file);
    CHECK(!found.empty());
  }
}

TEST_CASE("Blocks of a cluster race in each other's shared memory unless they meet") {
  device_model::shape const two{{.x = 2, .cluster = 2}, 64, sizeof(memory)};
  auto const pass = [](bool meet) {
    return [=] {
      memory& m = mine();
      m.word[thread_id()] = 0;
      cluster_arrive();
      cluster_wait();
      store_cluster(mapa(&m.word[thread_id()], cluster_rank() ^ 1), 1);
      if (meet) cluster_arrive(), cluster_wait();
      use(m.word[thread_id()]);
      cluster_arrive();
      cluster_wait();
    };
  };
  check_right(two, pass(true));
  if (!sees_races()) return;
  for (std::uint64_t seed = 0; seed < 3; ++seed) check_found(findings_of(two, {.seed = seed}, pass(false)), "race: thread", file);
}

TEST_CASE("Global memory, where it is watched: threads of a block, and blocks of a grid") {
  static std::uint32_t data[256], flag, partial[8];
  device_model::shape const blocks{{.x = 4}, 64, sizeof(memory)};
  auto const runs = [&](auto const& body, char const* race) {
    for (std::uint64_t seed = 0; seed < 3; ++seed) {
      flag = 0;
      auto const found = findings_of(blocks, {.seed = seed, .resident_blocks = 4, .watch_global = true}, body);
      if (*race == 0 || !sees_races()) CHECK_MESSAGE(found.empty(), seed, ": ", found);
      else check_found(found, race, file);
    }
  };
  // In a block.
  for (bool const meet : {true, false})
    runs(
        [=] {
          auto* const mine = data + block_x() * 64;
          mine[thread_id()] = 1;
          if (meet) block_sync();
          use(mine[63 - thread_id()]);
        },
        meet ? "" : "race: thread");
  // Tiles that meet, and tiles that overlap by a word.
  for (int const width : {64, 63})
    runs(
        [=] {
          if (thread_id() < 64) data[block_x() * width + thread_id()] = 1;
        },
        width == 64 ? "" : "race: another block wrote");
  // The last block to come adds what the others left.
  enum { right, by_fence, relaxed, early };
  for (int const how : {right, by_fence, relaxed, early})
    runs(
        [=] {
          memory& m = mine();
          if (how != early && thread_id() == 5) partial[block_x()] = 1;
          if (how == by_fence) fence_gpu();
          block_sync();
          if (thread_id() == 0) m.count = how == right || how == early ? atomic_add_acq_rel(&flag, 1) : atomic_add(&flag, 1);
          block_sync();
          if (how == early && thread_id() == 5) partial[block_x()] = 1;
          if (how == by_fence) fence_gpu();
          if (m.count == 3 && thread_id() < 4) use(partial[thread_id()]);
        },
        how == right || how == by_fence ? "" : how == relaxed ? "race: another block wrote" : "race: ");
}
