// Threads, barriers, warp collectives, words of memory and arithmetic on the device model: what each does, and what is found of misuse.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include <moesaic/base/floats.hpp>
#include <moesaic/base/random.hpp>

#include "threads.hpp"

namespace {

using namespace moesaic;
using namespace moesaic::device;
using namespace moesaic::device_model;

constexpr char const* file = "threads_test.cpp";

/// A write that no sanitizer looks at.
__attribute__((noinline, no_sanitize("address"), no_sanitize("thread"))) void write_unseen(std::byte* at) { *at = std::byte{1}; }

TEST_CASE("every thread of every block runs once and knows where it is") {
  for (std::uint64_t const seed : {0u, 1u}) {
    std::vector<int> runs(3 * 2 * 2 * 40);
    auto const found = findings_of({{.x = 3, .y = 2, .z = 2}, 40}, {.seed = seed}, [&] {
      CHECK(grid_x() == 3);
      CHECK(grid_y() == 2);
      CHECK(grid_z() == 2);
      CHECK(lane_id() == thread_id() % 32);
      CHECK(cluster_rank() == 0);
      CHECK(cluster_blocks() == 1);
      ++runs[static_cast<std::size_t>(((block_z() * 2 + block_y()) * 3 + block_x()) * 40 + thread_id())];
    });
    CHECK(found.empty());
    for (int const n : runs) CHECK(n == 1);
  }
}

TEST_CASE("launches that no device takes are refused") {
  auto const nothing = [] { FAIL("runs"); };
  CHECK(findings_of({{}, 1025}, {}, nothing).find("1 to 1024 threads") != std::string::npos);
  CHECK(findings_of({{}, 32, 300 * 1024}, {}, nothing).find("shared memory") != std::string::npos);
  CHECK(findings_of({{.x = 3, .cluster = 2}}, {}, nothing).find("multiple of its cluster") != std::string::npos);
  CHECK(findings_of({{.x = 2, .cluster = 2}}, {.architecture = 80}, nothing).find("sm_90") != std::string::npos);
  CHECK(findings_of({{.x = 0}}, {}, nothing).empty());
}

TEST_CASE("shared memory is fresh in every block, aligned, and a different one for each that is alive") {
  check_right({{.x = 4}, 64, 1000}, [] {
    auto* const bytes = reinterpret_cast<unsigned char*>(shared_memory());
    CHECK(reinterpret_cast<std::uintptr_t>(bytes) % 1024 == 0);
    CHECK(device::shared_address(bytes + 16) == device::shared_address(bytes) + 16);
    CHECK(device::shared_address(bytes) % 1024 == 0);
    for (int i = thread_id(); i < 1000; i += 64) {
      if (!sees_races()) CHECK(bytes[i] == 0xff);    // which is a finding there
      bytes[i] = 0;
    }
  });
}

TEST_CASE("writing beside shared memory is found") {
  check_found(findings_of({{}, 32, 100}, {}, [] { write_unseen(shared_memory() + 103); }),
              "model: block (0, 0, 0) wrote 3 bytes behind the end of its 100 bytes of shared memory");
  check_found(findings_of({{}, 32, 100}, {}, [] { write_unseen(shared_memory() - 1); }), "wrote 1 bytes before its shared memory");
}

TEST_CASE("block_sync orders what threads write") {
  check_right({{.x = 2}, 256, 256 * 4}, [] {
    auto* const s = reinterpret_cast<int*>(shared_memory());
    for (int round = 0; round < 3; ++round) {
      s[thread_id()] = thread_id() + round;
      block_sync();
      CHECK(s[(thread_id() + 77) % 256] == (thread_id() + 77) % 256 + round);
      block_sync();
    }
  });
}

TEST_CASE("named barriers join the warps that they are for") {
  // Warps 0 and 1 wait for each other at 1; warp 2 only arrives at 2, where warp 3 waits.
  check_right({{}, 128, 16}, [] {
    auto* const s = reinterpret_cast<int volatile*>(shared_memory());
    if (warp_id() < 2) {
      if (thread_id() == 0) s[0] = 5;
      device::bar_sync(1, 64);
      CHECK(s[0] == 5);
    } else if (warp_id() == 2) {
      if (lane_id() == 0) s[1] = 6;
      device::bar_arrive(2, 64);
    } else {
      device::bar_sync(2, 64);
      CHECK(s[1] == 6);
    }
  });
}

TEST_CASE("misuse of barriers is found") {
  int const at = __LINE__ + 2;
  auto const missing = findings_of({{}, 64}, {}, [] {
    if (thread_id() < 48) block_sync();
  });
  check_found(missing, "deadlock: nothing can go on; block (0, 0, 0): 48 threads from 0 wait in block_sync at threads_test.cpp:", file, at);
  check_found(missing, ", 16 have ended");
  check_found(findings_of({{}, 64}, {}, [] { device::bar_sync(3, 40); }), "whole warps, at most the block's 64, can meet", file, __LINE__);
  check_found(findings_of({{}, 64}, {}, [] { device::bar_sync(16, 64); }), "there is no barrier 16", file, __LINE__);
  check_found(findings_of({{}, 64}, {}, [] { device::bar_sync(0, 64); }), "barrier 0 is block_sync's", file, __LINE__);
  int const line = __LINE__ + 2;
  check_found(findings_of({{}, 96}, {}, [] {
                if (warp_id() == 0) fence_gpu(), device::bar_sync(1, 96), fence_gpu();
                else device::bar_sync(1, 64);
              }),
              "threads meet at barrier 1 with different counts: 96 at", file, line, line + 1);
}

TEST_CASE("lanes of a warp come to a barrier at one place") {
  int const line = __LINE__ + 2;
  auto const found = findings_of({{}, 64}, {}, [] {
    if (lane_id() < 16) fence_gpu(), block_sync(), fence_gpu();   // so that compilers do not make one call of two
    else block_sync();
  });
  check_found(found, "lanes of one warp come to block_sync at different places, threads_test.cpp:", file, line, line + 1);
  check_right({{}, 64}, [] {   // warps may differ
    if (warp_id() == 0) block_sync(), fence_gpu();
    else block_sync();
  });
}

TEST_CASE("shuffles take the lanes that PTX says") {
  check_right({{}, 64}, [] {
    std::uint32_t const mine = static_cast<std::uint32_t>(100 + thread_id());
    int const lane = lane_id(), base = 100 + warp_id() * 32;
    auto const is = [base](std::uint32_t value, int of) { CHECK(value == static_cast<std::uint32_t>(base + of)); };
    is(shfl_idx(all_lanes, mine, 7), 7);
    is(shfl_idx(all_lanes, mine, 35), 3);
    is(shfl_up(all_lanes, mine, 3), lane < 3 ? lane : lane - 3);
    is(shfl_down(all_lanes, mine, 5), lane > 26 ? lane : lane + 5);
    is(shfl_bfly(all_lanes, mine, 9), lane ^ 9);
    CHECK(shuffle_xor(static_cast<double>(lane) + 0.5, 1) == (lane ^ 1) + 0.5);
    // Two halves at a time, each in its own time.
    std::uint32_t const half = lane < 16 ? 0xffffu : 0xffff'0000u;
    is(shfl_idx(half, mine, lane < 16 ? 15 : 16), lane < 16 ? 15 : 16);
  });
}

TEST_CASE("votes, matches and reductions") {
  check_right({{}, 32}, [] {
    int const lane = lane_id();
    CHECK(ballot(all_lanes, lane % 3 == 0) == 0x4924'9249u);
    std::uint32_t const odd = 0xaaaa'aaaau, even = 0x5555'5555u;
    std::uint32_t const mine = lane % 2 ? odd : even;
    CHECK(ballot(mine, true) == mine);
    CHECK(match_any(all_lanes, static_cast<std::uint32_t>(lane % 2)) == mine);
    CHECK(match_any(mine, static_cast<std::uint32_t>(lane / 16)) == (mine & (lane < 16 ? 0xffffu : 0xffff'0000u)));
    CHECK(redux_add(all_lanes, static_cast<std::uint32_t>(lane)) == 496);
    CHECK(redux_min(mine, static_cast<std::uint32_t>(lane)) == static_cast<std::uint32_t>(lane % 2));
    CHECK(redux_max(all_lanes, static_cast<std::uint32_t>(lane) ^ 0x8000'0000u) == 0x8000'001fu);
    warp_sync();
  });
}

TEST_CASE("misuse of warp collectives is found") {
  int line = __LINE__ + 2;
  check_found(findings_of({{}, 32}, {}, [] {
                if (lane_id() < 16) ballot(all_lanes, true);
                else warp_sync();
              }),
              "lanes of a warp ask for different things: ballot at", file, line, line + 1);
  check_found(findings_of({{}, 32}, {}, [] { warp_sync(0xffffu); }),
              "lane 16 calls warp_sync for lanes 0000ffff, of which it is none", file, __LINE__ - 1);
  check_found(findings_of({{}, 32}, {}, [] { if (lane_id() < 16) shfl_idx(0xffffu, 1, 16); }),
              "lane 0 takes a value of lane 16, which is not among the lanes 0000ffff", file, __LINE__ - 1);
  check_found(findings_of({{}, 48}, {}, [] { warp_sync(); }), "but the warp has only 16", file, __LINE__);
  line = __LINE__ + 2;
  check_found(findings_of({{}, 32}, {}, [] {
                if (lane_id() != 3) warp_sync();
              }),
              "31 threads from 0 wait in warp_sync at", file, line);
}

TEST_CASE("atomics and words of global memory") {
  std::uint32_t sum = 0, most = 0, tickets = 0, last = 77;
  std::vector<std::uint32_t> taken(4 * 64);
  auto const found = findings_of({{.x = 4}, 64}, {.seed = 3}, [&] {
    atomic_add(&sum, 2);
    atomic_max(&most, static_cast<std::uint32_t>(block_x() * 64 + thread_id()));
    ++taken[atomic_add_acq_rel(&tickets, 1)];
    atomic_exch(&last, 5);
    fence_gpu();
  });
  CHECK(found.empty());
  CHECK(sum == 512);
  CHECK(most == 255);
  CHECK(last == 5);
  for (auto const n : taken) CHECK(n == 1);

  alignas(16) words4 const in[32] = {{{1, 2, 3, 4}}};
  CHECK(findings_of({}, {}, [&] { if (thread_id() == 0) CHECK(load_nc(in).word[2] == 3); }).empty());
  check_found(findings_of({{}, 32, 64}, {}, [] { load_nc(reinterpret_cast<words4 const*>(shared_memory())); }),
              "a shared address where a global one is meant", file, __LINE__ - 1);
  alignas(16) words4 changed[32] = {};
  int const line = __LINE__ + 2;
  check_found(findings_of({}, {}, [&] {
                changed[thread_id()].word[0] = load_nc(&changed[thread_id()]).word[0] + 1;
              }),
              "load_nc at threads_test.cpp:", file, line);
  check_found(findings_of({}, {}, [&] { load_nc(reinterpret_cast<words4 const*>(&in[0].word[1])); }),
              "not a multiple of 16", file, __LINE__ - 1);
}

TEST_CASE("blocks that wait for each other need to be alive together") {
  std::uint32_t flag = 0;
  auto const second_first = [&] {
    if (thread_id() != 0) return;
    if (block_x() == 1) {
      store_release(&flag, 1);
    } else {
      while (load_acquire(&flag) == 0) nanosleep(20);
    }
  };
  for (std::uint64_t const seed : {0u, 1u, 2u}) {
    flag = 0;
    CHECK(findings_of({{.x = 2}}, {.seed = seed, .resident_blocks = 2}, second_first).empty());
  }
  flag = 0;
  check_found(findings_of({{.x = 2}}, {}, second_first),
              "deadlock: nothing can go on; block (0, 0, 0): 1 thread from 0 waits in nanosleep");
}

TEST_CASE("a thread that runs without end is found") {
  std::uint32_t word = 0;
  int const line = __LINE__ + 2;
  check_found(findings_of({}, {.patience = 0.05}, [&] {
                while (*static_cast<std::uint32_t volatile*>(&word) == 0) {}
              }),
              "deadlock: a thread has run for 0.05 seconds and nothing has come of it", file,
              sees_races() ? 0 : line);   // there it may be in the detector
  check_found(findings_of({}, {.seed = 1, .patience = 0.05}, [&] {   // with primitives, without anybody who would end it
                while (load_acquire(&word) == 0) {}
              }),
              "and nothing has come of it", file);
}

TEST_CASE("an early launch waits for the grids before it") {
  std::uint32_t word = 0;
  auto const waits = [&] {
    griddepcontrol_wait();
    atomic_add(&word, 1);
    griddepcontrol_launch_dependents();
  };
  CHECK(findings_of({{.early = true}}, {}, waits).empty());
  check_found(findings_of({{.early = true}}, {}, [&] { atomic_add(&word, 1); griddepcontrol_wait(); }),
              "writes global memory in an early launch before griddepcontrol_wait", file, __LINE__ - 1);
  check_found(findings_of({{.early = true}}, {}, [] {}), "no block calls griddepcontrol_wait");
  CHECK(findings_of({}, {}, [&] { atomic_add(&word, 1); }).empty());
}

TEST_CASE("setmaxnreg is a whole warpgroup's, within what the block was given") {
  auto const roles = [](auto producer, auto consumer) { return [=] { if (warpgroup_id() == 0) producer(); else consumer(); }; };
  CHECK(findings_of({{}, 384}, {}, roles([] { setmaxnreg_dec<40>(); }, [] { setmaxnreg_inc<232>(); })).empty());
  check_found(findings_of({{}, 384}, {}, roles([] { setmaxnreg_dec<48>(); }, [] { setmaxnreg_inc<232>(); })),
              "left the block with 65536 registers, and it was given 64512");
  check_found(findings_of({{}, 384}, {}, roles([] { if (warp_id() < 3) setmaxnreg_dec<40>(); }, [] {})),
              "warps 0 and 3 are of one warpgroup");
  check_found(findings_of({{}, 384}, {}, [] { setmaxnreg_inc<160>(); }),
              "asks for 160 registers, and the threads have 168", file, __LINE__ - 1);
  check_found(findings_of({{}, 32}, {}, [] { if (lane_id() == 0) setmaxnreg_dec<40>(), fence_gpu(); else setmaxnreg_inc<232>(); }),
              "different things: setmaxnreg_dec at", file, __LINE__ - 1);
}

TEST_CASE("arithmetic that instructions define") {
  CHECK(ex2_approx(0.5f) == 1.41421356f);
  CHECK(ex2_approx(-126.5f) == 0.0f);                // the result would be subnormal
  CHECK(ex2_approx(200.0f) == INFINITY);
  CHECK(ex2_approx(1e-40f) == 1.0f);
  CHECK(ex2_approx(-INFINITY) == 0.0f);
  CHECK(std::isnan(ex2_approx(NAN)));
  CHECK(rcp_approx(3.0f) == 1.0f / 3.0f);
  CHECK(rcp_approx(-0.0f) == -INFINITY);
  CHECK(rcp_approx(1e-40f) == INFINITY);
  CHECK(rcp_approx(3e38f) == 0.0f);
  CHECK(rsqrt_approx(4.0f) == 0.5f);
  CHECK(rsqrt_approx(0.0f) == INFINITY);
  CHECK(device::fma(3.0f, 4.0f, 5.0f) == 17.0f);
  CHECK(device::fma(1 + 0x1p-12f, 1 + 0x1p-12f, -1.0f) == 0x1p-11f + 0x1p-24f);
  CHECK(cvt_bf16x2(1.0f, -2.0f) == 0xc000'3f80u);
  CHECK(cvt_f16x2(1.0f, -2.0f) == 0xc000'3c00u);
  CHECK(cvt_e4m3x2(1.0f, -2.0f) == 0xc038);
  CHECK(cvt_e4m3x2(1e9f, -1e9f) == 0xfe7e);          // satfinite
  CHECK(prmt(0x3322'1100u, 0x7766'5544u, 0x7531u) == 0x7755'3311u);
  CHECK(prmt(0x8000'0080u, 0u, 0x0b98u) == 0x80ff'00ffu);
  CHECK(lop3<0xf0 & 0xcc>(0b1100, 0b1010, 0) == 0b1000);
  CHECK(lop3<(0xf0 & 0xcc) | 0xaa>(0b1100, 0b1010, 0b0001) == 0b1001);
  CHECK(lop3<0xf0 ^ 0xcc ^ 0xaa>(0xffff'0000u, 0xff00'ff00u, 0xf0f0'f0f0u) == (0xffff'0000u ^ 0xff00'ff00u ^ 0xf0f0'f0f0u));
}

TEST_CASE("fma.rn.bf16x2 rounds once") {
  // Against exact rounding: the exact sum in long double when it fits, that is when exponents are near.
  random_stream numbers(9);
  for (int i = 0; i < 200'000; ++i) {
    auto const near_one = [&] { return static_cast<std::uint32_t>((numbers.next() & 0x80ff) | (0x3b80 + (numbers.next() % 16 << 7))); };
    std::uint32_t const a = near_one(), b = near_one(), c = near_one();
    auto const value = [](std::uint32_t x) {
      return static_cast<long double>(static_cast<float>(bf16::from_bits(static_cast<std::uint16_t>(x))));
    };
    long double const exact = value(a) * value(b) + value(c);
    auto const got = static_cast<std::uint16_t>(fma_bf16x2(a, b, c));
    long double const error = std::fabs(value(got) - exact);
    for (int step : {-1, 1}) {
      auto const other = static_cast<std::uint16_t>(got + step);
      long double const theirs = std::fabs(value(other) - exact);
      bool const nearest = std::isnan(static_cast<double>(theirs)) || error < theirs || (error == theirs && (got & 1) == 0);
      CHECK_MESSAGE(nearest, a << " " << b << " " << c);
      if (!nearest) return;
    }
  }
  CHECK(fma_bf16x2(0x3f80'3f80u, 0x4000'3f80u, 0x0000'3f80u) == 0x4000'4000u);
}

}  // namespace
