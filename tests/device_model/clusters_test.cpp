// Clusters on the device model: shared memory of other blocks, the cluster's barrier, remote arrivals and multicast.
// SPDX-License-Identifier: Apache-2.0
#include <numeric>

#include "threads.hpp"

namespace {

using namespace moesaic;
using namespace moesaic::device;
using namespace moesaic::device_model;

constexpr char const* file = "clusters_test.cpp";

struct memory {
  alignas(1024) std::uint16_t tile[64 * 16];
  std::uint32_t words[64];
  std::uint32_t sum;
  mbarrier full, empty;
};
memory& mine() { return device::shared<memory>(); }

constexpr shape clusters_of(unsigned size, unsigned count = 3) {
  return {{.x = size * count, .y = 2, .cluster = size}, 64, sizeof(memory)};
}

TEST_CASE("blocks of a cluster read, write and add in each other's shared memory") {
  check_right(clusters_of(4), [] {
    memory& s = mine();
    int const t = thread_id(), rank = cluster_rank();
    CHECK(cluster_blocks() == 4);
    CHECK(rank == block_x() % 4);
    s.words[t] = static_cast<std::uint32_t>(rank * 100 + t);
    if (t == 0) s.sum = 0;
    cluster_arrive();
    cluster_wait();
    int const next = (rank + 1) % 4;
    CHECK(load_cluster(mapa(&s.words[t], next)) == static_cast<std::uint32_t>(next * 100 + t));
    for (int r = 0; r < 4; ++r) atomic_add_cluster(mapa(&s.sum, r), 1);
    cluster_arrive();
    cluster_wait();
    CHECK(s.sum == 256);
    store_cluster(mapa(&s.words[t], next), static_cast<std::uint32_t>(t));
    cluster_arrive();
    cluster_wait();
    CHECK(s.words[t] == static_cast<std::uint32_t>(t));
  });
}

TEST_CASE("threads that have ended are not waited for at the cluster's barrier") {
  check_right(clusters_of(2), [] {
    if (thread_id() >= 32 && cluster_rank() == 1) return;
    cluster_arrive();
    cluster_wait();
  });
}

TEST_CASE("remote arrivals") {
  check_right(clusters_of(2), [] {
    memory& s = mine();
    if (thread_id() == 0) {
      mbarrier_init(&s.empty, 128);
      fence_mbarrier_init();
    }
    cluster_arrive();
    cluster_wait();
    for (int r = 0; r < 2; ++r) mbarrier_arrive_cluster(&s.empty, r);
    mbarrier_wait_cluster(&s.empty, 0);
    cluster_arrive();
    cluster_wait();
  });
}

TEST_CASE("multicast reaches the blocks that it names, each reports to its own barrier") {
  std::vector<std::uint16_t> data(64 * 16);
  std::iota(data.begin(), data.end(), std::uint16_t{1});
  tensor_description t;
  t.data = data.data();
  t.dimensions = 2;
  t.size[0] = 64, t.size[1] = 16;
  t.stride[1] = 128;
  t.box[0] = 64, t.box[1] = 8;
  tensor_map map;
  REQUIRE(encode(t, map));
  // Each of two blocks loads one half of the tile for both.
  check_right(clusters_of(2), [&] {
    memory& s = mine();
    if (thread_id() == 0) {
      mbarrier_init(&s.full, 1);
      fence_mbarrier_init();
    }
    cluster_arrive();
    cluster_wait();
    if (thread_id() == 0) {
      mbarrier_arrive_expect_tx(&s.full, 2048);
      tma_load_2d_multicast(s.tile + cluster_rank() * 512, &map, &s.full, 3, 0, cluster_rank() * 8);
    }
    mbarrier_wait(&s.full, 0);
    for (int i = thread_id(); i < 1024; i += 64) CHECK(s.tile[i] == data[static_cast<std::size_t>(i)]);
    cluster_arrive();
    cluster_wait();
  });
}

TEST_CASE("misuse of clusters is found") {
  shape const two = clusters_of(2, 1);
  check_found(findings_of(two, {}, [] { mapa(&mine().sum, 2); }), "there is no block 2 in a cluster of 2", file, __LINE__);
  check_found(findings_of(two, {}, [] { cluster_wait(); }), "cluster_wait at clusters_test.cpp", file, __LINE__);
  check_found(findings_of(two, {}, [] { cluster_arrive(); cluster_arrive(); }),
              "comes before the cluster_wait of the one before", file, __LINE__ - 1);
  check_found(findings_of(two, {}, [] { load_cluster(0x0200'0000u + 1024 + sizeof(memory)); }),
              "lie outside of the block's", file, __LINE__ - 1);
  // The first block ends while the second still reads it.
  check_found(findings_of(two, {}, [] { if (cluster_rank() == 1) load_cluster(mapa(&mine().sum, 0)); }),
              "block 0 of the cluster has ended", file, __LINE__ - 1);
  int const line = __LINE__ + 4;
  check_found(findings_of(two, {}, [] {   // of an mbarrier that the other block never initialised
                cluster_arrive();
                cluster_wait();
                if (cluster_rank() == 1) mbarrier_arrive_cluster(&mine().empty, 0);
                cluster_arrive();
                cluster_wait();
              }),
              "mbarrier_arrive_cluster at", file, line);
  check_found(findings_of(two, {}, [] {
                memory& s = mine();
                if (thread_id() == 0) mbarrier_init(&s.empty, 1);
                cluster_arrive();
                cluster_wait();
                if (thread_id() == 0 && cluster_rank() == 1) mbarrier_arrive_cluster(&s.empty, 0);
                cluster_arrive();
                cluster_wait();
              }),
              "was not followed by fence_mbarrier_init");
}

}  // namespace
