// Asynchronous copies and the barriers they report to on the device model: what goes where and when, and what misuse is found.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <numeric>

#include <moesaic/base/random.hpp>

#include "threads.hpp"

namespace {

using namespace moesaic;
using namespace moesaic::device;
using namespace moesaic::device_model;

constexpr char const* file = "copies_test.cpp";

std::vector<std::uint32_t> numbered(std::size_t count) {
  std::vector<std::uint32_t> v(count);
  std::iota(v.begin(), v.end(), 1u);
  return v;
}
struct tile {
  alignas(1024) std::uint32_t words[512];
  mbarrier full, empty;
};
tile& shared_tile() { return device::shared<tile>(); }
constexpr shape one_warp{{}, 32, sizeof(tile)};

void init_full(std::uint32_t arrivals) {
  if (thread_id() == 0) {
    mbarrier_init(&shared_tile().full, arrivals);
    fence_mbarrier_init();
  }
  block_sync();
}

TEST_CASE("cp.async: sizes, zero fill and groups") {
  auto const in = numbered(512);
  check_right(one_warp, [&] {
    tile& s = shared_tile();
    int const t = thread_id();
    cp_async<16>(s.words + 4 * t, in.data() + 4 * t);
    cp_async_commit_group();
    cp_async<8>(s.words + 128 + 2 * t, in.data() + 2 * t, t % 2 ? 8 : 4);
    cp_async<4>(s.words + 256 + t, nullptr, 0);
    cp_async_commit_group();
    cp_async_commit_group();                         // an empty one
    cp_async_wait_group<2>();
    for (int i = 0; i < 4; ++i) CHECK(s.words[4 * t + i] == in[static_cast<std::size_t>(4 * t + i)]);
    cp_async_wait_group<0>();
    CHECK(s.words[128 + 2 * t] == in[static_cast<std::size_t>(2 * t)]);
    CHECK(s.words[129 + 2 * t] == (t % 2 ? in[static_cast<std::size_t>(2 * t + 1)] : 0));
    CHECK(s.words[256 + t] == 0);
  });
}

TEST_CASE("late cp.async lands at the wait, and not before") {
  auto const in = numbered(512);
  auto const found = findings_of(one_warp, {.when = delivery::late}, [&] {
    tile& s = shared_tile();
    int const t = thread_id();
    s.words[t] = 7;
    cp_async<4>(s.words + t, in.data() + t);
    cp_async_commit_group();
    cp_async<4>(s.words + 32 + t, in.data() + t);
    cp_async_commit_group();
    block_sync();
    if (!sees_races()) CHECK(s.words[t] == 0xffff'ffffu);
    cp_async_wait_group<1>();
    CHECK(s.words[t] == in[static_cast<std::size_t>(t)]);
    if (!sees_races()) CHECK(s.words[32 + t] == 0xffff'ffffu);
    cp_async_wait_group<0>();
  });
  CHECK_MESSAGE(found.empty(), found);
}

TEST_CASE("misuse of cp.async is found") {
  auto const in = numbered(512);
  auto const alone = [&](auto body) {
    return findings_of(one_warp, {.when = delivery::late}, [&] {
      if (thread_id() == 0) body(shared_tile());
    });
  };
  check_found(alone([&](tile& s) { cp_async<16>(s.words + 1, in.data()); }), "cp_async at copies_test.cpp", file, __LINE__);
  check_found(alone([&](tile& s) { cp_async<16>(s.words, in.data() + 1); }), "the global address is not a multiple of 16", file, __LINE__);
  check_found(alone([&](tile& s) { cp_async<16>(s.words, in.data(), 17); }), "17 of 16 bytes are to be read", file, __LINE__);
  check_found(alone([&](tile& s) { cp_async<16>(s.words, s.words + 4); }), "a shared address where a global one is meant", file, __LINE__);
  check_found(alone([&](tile&) { cp_async<16>(const_cast<std::uint32_t*>(in.data()), in.data()); }),
              "are not all inside the block's", file, __LINE__ - 1);
  check_found(alone([&](tile& s) { cp_async<4>(s.words, in.data()); }),
              "model: a thread ended with a cp_async under way that it never waited for, asked for at", file, __LINE__ - 1);
  check_found(alone([&](tile& s) { cp_async<4>(s.words, in.data()); cp_async_wait_group<0>(); }),
              "that it never waited for", file, __LINE__ - 1);   // in no group
  if (sees_races()) return;
  int const line = __LINE__ + 2;
  check_found(alone([&](tile& s) {
                cp_async<4>(s.words, in.data());
                s.words[0] = 0;
                cp_async_commit_group();
                cp_async_wait_group<0>();
              }),
              "shared+0 was written while the cp_async of copies_test.cpp", file, line);
}

TEST_CASE("cp.async reports to an mbarrier") {
  auto const in = numbered(512);
  check_right({{}, 64, sizeof(tile)}, [&] {
    tile& s = shared_tile();
    init_full(32);
    if (thread_id() < 32) {
      for (int i = 0; i < 8; ++i) cp_async<4>(s.words + i * 32 + thread_id(), in.data() + i * 32 + thread_id());
      cp_async_mbarrier_arrive_noinc(&s.full);
    } else {
      mbarrier_wait(&s.full, 0);
      for (int i = 0; i < 8; ++i) CHECK(s.words[i * 32 + 63 - thread_id()] == in[static_cast<std::size_t>(i * 32 + 63 - thread_id())]);
    }
  });
}

TEST_CASE("mbarriers: phases, parities and bytes") {
  // A ring of one stage: a producer fills it by bulk copies, two consumers empty it.
  auto const in = numbered(512);
  check_right({{}, 96, sizeof(tile)}, [&] {
    tile& s = shared_tile();
    if (thread_id() == 0) {
      mbarrier_init(&s.full, 1);
      mbarrier_init(&s.empty, 64);
      fence_mbarrier_init();
    }
    block_sync();
    ring<1> stage;
    for (int round = 0; round < 8; ++round, stage.advance()) {
      if (warp_id() == 0) {
        if (lane_id() != 0) continue;
        mbarrier_wait(&s.empty, stage.parity ^ 1);   // passes at once in the first round
        mbarrier_arrive_expect_tx(&s.full, 256);
        bulk_load(s.words, in.data() + 32 * round, 128, &s.full);
        bulk_load(s.words + 32, in.data() + 32 * round + 32, 128, &s.full);
      } else {
        mbarrier_wait(&s.full, stage.parity);
        CHECK(s.words[lane_id()] == in[static_cast<std::size_t>(32 * round + lane_id())]);
        CHECK(s.words[32 + lane_id()] == in[static_cast<std::size_t>(32 * round + 32 + lane_id())]);
        mbarrier_arrive(&s.empty);
      }
    }
  });
}

TEST_CASE("misuse of mbarriers is found") {
  auto const in = numbered(512);
  auto const alone = [&](auto body) {
    return findings_of(one_warp, {.when = delivery::late}, [&] {
      if (thread_id() == 0) body(shared_tile());
    });
  };
  check_found(alone([](tile& s) { mbarrier_arrive(&s.full); }), "shared+2048 is no initialised mbarrier", file, __LINE__);
  check_found(alone([](tile& s) { mbarrier_init(&s.full, 0); }), "expects 1 to 1048575 arrivals, not 0", file, __LINE__);
  check_found(alone([](tile& s) { mbarrier_init(&s.full, 1); mbarrier_wait(&s.full, 2); }), "a parity is 0 or 1, not 2", file, __LINE__);
  int line = __LINE__ + 2;
  check_found(alone([&](tile& s) {
                mbarrier_init(&s.full, 1);
                bulk_load(s.words, in.data(), 16, &s.full);
              }),
              "bulk_load at copies_test.cpp", file, line, line + 1);
  check_found(alone([&](tile& s) { mbarrier_init(&s.full, 1); bulk_load(s.words, in.data(), 16, &s.full); }),
              "was not followed by fence_mbarrier_init", file, __LINE__ - 1);
  line = __LINE__ + 5;
  check_found(alone([&](tile& s) {
                mbarrier_init(&s.full, 2);
                mbarrier_expect_tx(&s.full, 16);
                mbarrier_arrive(&s.full);
                mbarrier_arrive(&s.full);
                mbarrier_arrive(&s.full);
              }),
              "arrival overflow, the phase of shared+2048 expects 2 arrivals and has had them all, the last at", file, line, line + 1);
  line = __LINE__ + 3;
  check_found(alone([&](tile& s) {
                mbarrier_init(&s.full, 1);
                mbarrier_wait(&s.full, 0);
              }),
              "1 thread from 0 waits in mbarrier_try_wait_parity(0) of shared+2048 at copies_test.cpp:", file, line);
  check_found(alone([&](tile& s) {
                mbarrier_init(&s.full, 1);
                fence_mbarrier_init();
                mbarrier_arrive_expect_tx(&s.full, 32);
                bulk_load(s.words, in.data(), 16, &s.full);
                mbarrier_wait(&s.full, 0);
              }),
              "deadlock:");
}

TEST_CASE("a bulk copy that nobody waits for is found") {
  auto const in = numbered(512);
  int const line = __LINE__ + 6;
  check_found(findings_of(one_warp, {.when = delivery::late}, [&] {
                tile& s = shared_tile();
                init_full(1);
                if (thread_id() != 0) return;
                mbarrier_arrive_expect_tx(&s.full, 16);
                bulk_load(s.words, in.data(), 16, &s.full);
              }),
              "model: a block ended while bulk_load was under way, asked for at", file, line);
}

TEST_CASE("bulk stores") {
  std::vector<std::uint32_t> out(512);
  check_right(one_warp, [&] {
    tile& s = shared_tile();
    for (int i = thread_id(); i < 512; i += 32) s.words[i] = static_cast<std::uint32_t>(i);
    fence_proxy_async();
    block_sync();
    if (thread_id() == 0) {
      bulk_store(out.data() + 256, s.words, 1024);
      cp_async_bulk_commit_group();
      cp_async_bulk_wait_group_read<0>();
      for (int i = 0; i < 256; ++i) s.words[i] = 9;
      bulk_store(out.data(), s.words + 256, 1024);
      cp_async_bulk_commit_group();
      cp_async_bulk_wait_group<0>();
      CHECK(out[0] == 256);
      CHECK(out[256] == 0);
      CHECK(out[511] == 255);
    }
  });
  // Written after the block has ended, which waited for the reading alone.
  out.assign(out.size(), 0);
  check_right(one_warp, [&] {
    tile& s = shared_tile();
    s.words[thread_id()] = 4;
    fence_proxy_async();
    block_sync();
    if (thread_id() != 0) return;
    bulk_store(out.data(), s.words, 128);
    cp_async_bulk_commit_group();
    cp_async_bulk_wait_group_read<0>();
  });
  CHECK(out[31] == 4);
  auto const alone = [&](auto body) {
    return findings_of(one_warp, {.when = delivery::late}, [&] {
      tile& s = shared_tile();
      s.words[thread_id()] = 1;
      fence_proxy_async();
      block_sync();
      if (thread_id() == 0) body(s);
    });
  };
  check_found(alone([&](tile& s) { bulk_store(out.data(), s.words, 16); }), "a thread ended with a bulk_store in no group", file, __LINE__);
  check_found(alone([&](tile& s) { bulk_store(out.data(), s.words, 16); cp_async_bulk_commit_group(); }),
              "might still read shared memory: it never waited", file, __LINE__ - 1);
  if (sees_races()) return;
  int const line = __LINE__ + 2;
  check_found(alone([&](tile& s) {
                bulk_store(out.data(), s.words, 16);
                cp_async_bulk_commit_group();
                s.words[2] = 5;
                cp_async_bulk_wait_group<0>();
              }),
              "the source of the bulk_store of copies_test.cpp", file, line);
}

// --- tensor maps ----------------------------------------------------------------------------------------------------------------------

/// What a box should be: each element by its coordinates, at the place that the swizzle gives it.
void check_box(tensor_description const& t, std::vector<std::uint16_t> const& data, int const* at, std::uint16_t const* box) {
  std::size_t elements = 1;
  for (int d = 0; d < t.dimensions; ++d) elements *= t.box[d];
  for (std::size_t i = 0; i < elements; ++i) {
    std::size_t rest = i, from = 0;
    bool in = true;
    for (int d = 0; d < t.dimensions; ++d) {
      auto const c = at[d] + static_cast<std::int64_t>(rest % t.box[d]);
      rest /= t.box[d];
      in = in && c >= 0 && c < static_cast<std::int64_t>(t.size[d]);
      from += static_cast<std::size_t>(c) * (d == 0 ? 1 : t.stride[d] / 2);
    }
    // Chunks of 16 bytes change places by the number of their row of 128 bytes.
    std::size_t const byte = i * 2, row = byte / 128, chunk = byte / 16 % 8;
    std::size_t const bits = row % static_cast<std::size_t>(bytes_of(t.swizzle) / 16);
    std::size_t const place = row * 64 + (chunk ^ bits) * 8 + byte % 16 / 2;
    if (in) CHECK(box[place] == data[from]);
    else CHECK(box[place] == 0);
  }
}

struct boxes {
  alignas(1024) std::uint16_t in[4096];
  mbarrier full;
};

TEST_CASE("boxes of 1 to 5 dimensions come and go, with every swizzle, also across the tensor's edges") {
  random_stream numbers(4);
  for (int dimensions = 1; dimensions <= 5; ++dimensions) {
    for (auto const s : {swizzle::none, swizzle::b32, swizzle::b64, swizzle::b128}) {
      tensor_description t;
      t.dimensions = dimensions;
      t.swizzle = s;
      std::uint32_t const inner = s == swizzle::none ? 24 : static_cast<std::uint32_t>(bytes_of(s)) / 2;
      std::uint64_t stride = 0;
      std::size_t elements = 1;
      for (int d = 0; d < dimensions; ++d) {
        t.size[d] = d == 0 ? 75 : 3u + static_cast<unsigned>(d);
        t.box[d] = d == 0 ? inner : d == 1 ? 6u : 2u;
        t.stride[d] = stride;
        stride = d == 0 ? 80 * 2 : stride * t.size[d];
        elements = stride / 2;
      }
      std::vector<std::uint16_t> data(elements), out(elements);
      for (auto& x : data) x = static_cast<std::uint16_t>(numbers.next() | 1);
      t.data = data.data();
      tensor_map from, to;
      REQUIRE(encode(t, from));
      auto t_out = t;
      t_out.data = out.data();
      REQUIRE(encode(t_out, to));
      for (int round = 0; round < 4; ++round) {
        int at[5] = {};
        for (int d = 0; d < dimensions; ++d) {
          auto const box = static_cast<int>(t.box[d]), size = static_cast<int>(t.size[d]);
          at[d] = static_cast<int>(numbers.below(size + box)) - box;
        }
        if (round == 0) for (int& a : at) a = 0;
        for (auto const when : deliveries) {
          out.assign(out.size(), 0);
          std::vector<std::uint16_t> seen(4096);
          auto const found = findings_of({{}, 32, sizeof(boxes)}, {.when = when}, [&] {
            boxes& b = device::shared<boxes>();
            if (thread_id() == 0) {
              mbarrier_init(&b.full, 1);
              fence_mbarrier_init();
              prefetch_tensormap(&from);
              std::uint32_t bytes = 2;
              for (int d = 0; d < dimensions; ++d) bytes *= t.box[d];
              mbarrier_arrive_expect_tx(&b.full, bytes);
              if (dimensions == 1) tma_load_1d(b.in, &from, &b.full, at[0]);
              if (dimensions == 2) tma_load_2d(b.in, &from, &b.full, at[0], at[1]);
              if (dimensions == 3) tma_load_3d(b.in, &from, &b.full, at[0], at[1], at[2]);
              if (dimensions == 4) tma_load_4d(b.in, &from, &b.full, at[0], at[1], at[2], at[3]);
              if (dimensions == 5) tma_load_5d(b.in, &from, &b.full, at[0], at[1], at[2], at[3], at[4]);
              mbarrier_wait(&b.full, 0);
              for (std::uint32_t i = 0; i < bytes / 2; ++i) seen[i] = b.in[i];
              fence_proxy_async();
              if (dimensions == 1) tma_store_1d(&to, b.in, at[0]);
              if (dimensions == 2) tma_store_2d(&to, b.in, at[0], at[1]);
              if (dimensions == 3) tma_store_3d(&to, b.in, at[0], at[1], at[2]);
              if (dimensions == 4) tma_store_4d(&to, b.in, at[0], at[1], at[2], at[3]);
              if (dimensions == 5) tma_store_5d(&to, b.in, at[0], at[1], at[2], at[3], at[4]);
              cp_async_bulk_commit_group();
              cp_async_bulk_wait_group<0>();
            }
          });
          CHECK_MESSAGE(found.empty(), found);
          check_box(t, data, at, seen.data());
          check_box(t, out, at, seen.data());      // what was stored is what was loaded
          std::size_t written = 0, inside = 1;
          for (auto const x : out) written += x != 0;
          for (int d = 0; d < dimensions; ++d)
            inside *= static_cast<std::size_t>(
                std::max(0, std::min(at[d] + static_cast<int>(t.box[d]), static_cast<int>(t.size[d])) - std::max(at[d], 0)));
          CHECK(written == inside);
        }
      }
    }
  }
}

TEST_CASE("maps that the engine does not take, and misuse of those that it does") {
  std::vector<std::uint16_t> data(64 * 64);
  tensor_description t;
  t.data = data.data();
  t.dimensions = 2;
  t.size[0] = t.size[1] = 64;
  t.stride[1] = 128;
  t.box[0] = 64;
  t.box[1] = 8;
  t.swizzle = swizzle::b128;
  tensor_map map;
  REQUIRE(encode(t, map));
  auto wrong = t;
  tensor_map unused{};                                    // no magic of encode in it
  wrong.data = data.data() + 1;
  CHECK(to_string(encode(wrong, unused)).find("aligned to 16 bytes") != std::string::npos);
  wrong = t;
  wrong.stride[1] = 120;
  CHECK_FALSE(encode(wrong, unused));
  wrong = t;
  wrong.swizzle = swizzle::b64;
  CHECK_FALSE(encode(wrong, unused));

  auto const alone = [&](auto body) {
    return findings_of({{}, 32, sizeof(boxes)}, {.when = delivery::late}, [&] {
      boxes& b = device::shared<boxes>();
      if (thread_id() != 0) return;
      mbarrier_init(&b.full, 1);
      fence_mbarrier_init();
      body(b);
    });
  };
  check_found(alone([&](boxes& b) { tma_load_2d(b.in + 64, &map, &b.full, 0, 0); }),
              "shared+128 is not a multiple of 1024", file, __LINE__ - 1);
  check_found(alone([&](boxes& b) { tma_load_3d(b.in, &map, &b.full, 0, 0, 0); }), "tma_load_3d at copies_test.cpp", file, __LINE__);
  wrong = t;
  wrong.box[0] = 32;
  tensor_map narrow;
  REQUIRE(encode(wrong, narrow));
  check_found(alone([&](boxes& b) { tma_load_2d(b.in, &narrow, &b.full, 0, 0); }), "narrower than its swizzle", file, __LINE__);
  check_found(alone([&](boxes& b) { tensor_map const copy = map; tma_load_2d(b.in, &copy, &b.full, 0, 0); }),
              "must lie in the kernel's params", file, __LINE__ - 1);
  check_found(alone([&](boxes& b) { tma_load_2d(b.in, &unused, &b.full, 0, 0); }), "was not made by encode", file, __LINE__);
  check_found(alone([&](boxes& b) { tma_load_2d_multicast(b.in, &map, &b.full, 2, 0, 0); }),
              "are not all of a cluster of 1", file, __LINE__ - 1);
  check_found(alone([&](boxes& b) { tma_store_2d(&map, b.in, 0, 0); }), "tma_store_2d in no group", file, __LINE__);
  if (sees_races()) return;
  int const line = __LINE__ + 3;
  check_found(alone([&](boxes& b) {
                mbarrier_arrive_expect_tx(&b.full, 1024);
                tma_load_2d(b.in, &map, &b.full, 0, 0);
                b.in[5] = 0;
                mbarrier_wait(&b.full, 0);
              }),
              "shared+0 to shared+1024 was written while the tma_load_2d of copies_test.cpp:", file, line);
}

// What only a program with AddressSanitizer can know: how large a buffer is.
#if defined(__SANITIZE_ADDRESS__)
#define MODEL_TEST_BOUNDS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MODEL_TEST_BOUNDS 1
#endif
#endif
#if defined(MODEL_TEST_BOUNDS)
TEST_CASE("copies from and to behind the end of a buffer are found") {
  auto const in = numbered(100);
  std::vector<std::uint32_t> out(100);
  auto const alone = [&](auto body) {
    return findings_of(one_warp, {.when = delivery::late}, [&] {
      if (thread_id() == 0) body(shared_tile());
    });
  };
  check_found(alone([&](tile& s) { cp_async<16>(s.words, in.data() + 100); }),
              "of 16 bytes of global memory the one at 0 is not addressable", file, __LINE__ - 1);
  check_found(alone([&](tile& s) { bulk_store(out.data() + 96, s.words, 32); }),
              "of 32 bytes of global memory the one at 16 is not addressable", file, __LINE__ - 1);
  check_found(alone([&](tile&) { load_nc(reinterpret_cast<words4 const*>(in.data() + 100)); }),
              "load_nc at copies_test.cpp", file, __LINE__ - 1);
  tensor_description t;
  t.data = in.data();
  t.element = tensor_element::u32;
  t.dimensions = 2;
  t.size[0] = 16;
  t.size[1] = 8;                                     // 28 words more than there are
  t.stride[1] = 64;
  t.box[0] = 16;
  t.box[1] = 8;
  tensor_map map;
  REQUIRE(encode(t, map));
  check_found(alone([&](tile& s) {
                mbarrier_init(&s.full, 1);
                fence_mbarrier_init();
                mbarrier_arrive_expect_tx(&s.full, 512);
                tma_load_2d(s.words, &map, &s.full, 0, 0);
              }),
              "tma_load_2d at copies_test.cpp");
}
#endif

}  // namespace
