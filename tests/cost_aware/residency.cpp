// Who lies in fast memory: traces by hand, counts against a plain recount, and the cost that reads it.
// SPDX-License-Identifier: Apache-2.0
#include <set>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/route/cost_aware.hpp>
#include <moesaic/route/residency.hpp>

#include "routed.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::uint64_t first_seed = 43'000;

struct held {
  std::vector<std::byte> memory;
  residency table;

  held(std::int64_t layers, std::int64_t experts, std::int64_t slots, eviction rule, std::int64_t bytes_each = 1000) {
    arena counting;
    residency::carve(counting, layers, experts, slots);
    memory.resize(counting.used() + arena::alignment);
    arena over(memory.data(), memory.size());
    table = residency::carve(over, layers, experts, slots);
    REQUIRE(over.fits());
    table.rule = rule;
    table.clear(bytes_each);
  }
  std::vector<int> resident(std::int64_t layer) const {
    std::vector<int> in;
    for (int e = 0; e < table.experts; ++e)
      if (table.where(layer)[e] == tier::device) in.push_back(e);
    return in;
  }
  void use(std::int64_t layer, std::vector<std::int32_t> const& ids) {
    table.use(layer, {ids.data(), static_cast<std::int64_t>(ids.size()), 1});
  }
};
using ids = std::vector<int>;

}  // namespace

TEST_CASE("least recently used: a trace by hand") {
  held h(1, 5, 2, eviction::least_recent);
  auto const step = [&](std::int32_t e) { h.use(0, {e}); return h.resident(0); };
  CHECK(step(0) == ids{0});
  CHECK(step(1) == ids{0, 1});
  CHECK(step(0) == ids{0, 1});
  CHECK(step(2) == ids{0, 2});                                 // 1 was used before 0
  CHECK(step(1) == ids{1, 2});
  CHECK(step(1) == ids{1, 2});
  CHECK(step(0) == ids{0, 1});
  auto const& c = h.table.counts;
  CHECK(c.hits == 2);
  CHECK(c.misses == 5);
  CHECK(c.evictions == 3);
  CHECK(c.loaded() == 5000);
  CHECK(c.hit_rate() == doctest::Approx(2.0 / 7));
}

TEST_CASE("least frequently used: a trace by hand; the older of equals goes") {
  held h(1, 5, 2, eviction::least_frequent);
  auto const step = [&](std::int32_t e) { h.use(0, {e}); return h.resident(0); };
  step(0), step(0), step(1);
  CHECK(step(2) == ids{0, 2});                                 // 1 was used once, 0 twice
  CHECK(step(2) == ids{0, 2});
  CHECK(step(3) == ids{2, 3});                                 // both twice, 0 longer ago
  CHECK(h.table.counts.evictions == 2);
}

TEST_CASE("pinned experts stay; without eviction the others pass through") {
  held h(2, 4, 2, eviction::never);
  CHECK(static_cast<bool>(h.table.pin(1, 3)));
  CHECK(static_cast<bool>(h.table.pin(0, 2)));
  CHECK_FALSE(static_cast<bool>(h.table.pin(0, 0)));           // no room
  CHECK(h.table.counts.loaded() == 2000);
  std::vector<std::int32_t> slots;
  std::vector<std::int32_t> const chosen{0, 2, 2, 0};
  h.table.use(0, {chosen.data(), 2, 2}, [&](std::int64_t layer, std::int64_t expert, std::int32_t slot) {
    CHECK(layer == 0);
    CHECK(expert == 0);
    slots.push_back(slot);
  });
  CHECK(slots == std::vector<std::int32_t>{-1});
  CHECK(h.resident(0) == ids{2});
  CHECK(h.resident(1) == ids{3});
  CHECK(h.table.counts.hits == 1);
  CHECK(h.table.counts.misses == 1);
  h.table.unpin(0, 2);
  h.table.rule = eviction::least_recent;
  h.use(0, {1});
  CHECK(h.resident(0) == ids{1});
  CHECK(h.resident(1) == ids{3});
}

TEST_CASE("what a call uses is not evicted for what it uses too") {
  held h(1, 6, 3, eviction::least_recent);
  h.use(0, {0, 1, 2});
  h.use(0, {5, 4, 2, 1, 0});                                   // all three are hits, the rest passes through
  CHECK(h.table.counts.hits == 3);
  CHECK(h.table.counts.misses == 5);
  CHECK(h.table.counts.evictions == 0);
  CHECK(h.resident(0) == ids{0, 1, 2});
}

TEST_CASE("loads are the distinct experts that were not resident, to the byte; padding and the order of tokens change nothing") {
  for (auto const rule : {eviction::least_recent, eviction::least_frequent, eviction::never})
    for (std::uint64_t seed = first_seed; seed < first_seed + 20; ++seed) {
      CAPTURE(static_cast<int>(rule));
      CAPTURE(seed);
      random_stream random(seed);
      constexpr int layers = 3, experts = 8;
      auto const slots = 1 + static_cast<int>(random.below(layers * experts));
      held h(layers, experts, slots, rule), turned(layers, experts, slots, rule);
      for (std::int64_t i = 0; i < layers * experts; ++i) {
        h.table.bytes[i] = turned.table.bytes[i] = 1 + random.below(1'000'000'000'000);
        h.table.home[i] = h.table.now[i] = turned.table.home[i] = turned.table.now[i] = random.below(2) == 0 ? tier::host : tier::disk;
      }
      std::int64_t bytes[tiers] = {}, hits = 0, misses = 0;
      for (int step = 0; step < 60; ++step) {
        auto const layer = step % layers;
        std::vector<std::int32_t> chosen;
        for (int i = 0; i < 10; ++i) chosen.push_back(static_cast<std::int32_t>(random.below(experts)));
        std::set<std::int32_t> const distinct(chosen.begin(), chosen.end());
        for (auto const e : distinct) {
          auto const at = layer * experts + e;
          if (h.table.where(layer)[e] == tier::device) ++hits;
          else ++misses, bytes[static_cast<int>(h.table.where(layer)[e])] += h.table.bytes[at];
        }
        h.table.use(layer, {chosen.data(), 5, 2});
        std::reverse(chosen.begin(), chosen.end());
        chosen.insert(chosen.begin() + 4, {-1, -1});           // a row of padding
        turned.table.use(layer, {chosen.data(), 6, 2});
        int in = 0;
        for (std::int64_t i = 0; i < layers * experts; ++i) {
          in += h.table.now[i] == tier::device;
          CHECK((h.table.slot[i] >= 0) == (h.table.now[i] == tier::device));
          if (h.table.slot[i] >= 0) CHECK(h.table.owner[h.table.slot[i]] == i);
          CHECK(h.table.now[i] == turned.table.now[i]);
        }
        CHECK(in <= slots);
      }
      auto const& c = h.table.counts;
      CHECK(c.hits == hits);
      CHECK(c.misses == misses);
      for (int t = 0; t < tiers; ++t) CHECK(c.bytes[t] == bytes[t]);
      CHECK(c.loaded() == turned.table.counts.loaded());
      CHECK(c.bytes[static_cast<int>(tier::device)] == 0);
    }
}

TEST_CASE("room for all: after the first time nothing is loaded") {
  held h(2, 4, 8, eviction::least_recent);
  for (int round = 0; round < 3; ++round)
    for (int layer = 0; layer < 2; ++layer) h.use(layer, {0, 1, 2, 3});
  CHECK(h.table.counts.misses == 8);
  CHECK(h.table.counts.loaded() == 8000);
  CHECK(h.table.counts.evictions == 0);
  h.table.forget();
  h.use(0, {3, 1});
  CHECK(h.table.counts.loaded() == 0);
  CHECK(h.table.counts.hit_rate() == 1);
}

TEST_CASE("room for none, no use, no experts in use") {
  held none(1, 4, 0, eviction::least_recent);
  none.use(0, {1, 1, 2});
  CHECK(none.table.counts.misses == 2);
  CHECK(none.resident(0).empty());
  CHECK_FALSE(static_cast<bool>(none.table.pin(0, 0)));
  held idle(1, 4, 2, eviction::least_recent);
  CHECK(idle.table.counts.hit_rate() == 1);
  idle.use(0, {});
  idle.use(0, {-1, -1});
  CHECK(idle.table.counts.hit_rate() == 1);
  CHECK(idle.table.counts.calls == 2);
}

TEST_CASE("the time of loading, by where from") {
  held h(1, 3, 1, eviction::least_recent, 352'321'536);        // an expert of Mixtral in bf16
  h.table.put(0, 1, tier::disk, 352'321'536);
  h.use(0, {0});
  CHECK(h.table.counts.stall({0, us_per_byte(25), us_per_byte(5)}) == doctest::Approx(14093).epsilon(1e-4));
  h.use(0, {1});
  CHECK(h.table.counts.stall({0, us_per_byte(25), us_per_byte(5)}) == doctest::Approx(14093 + 70464).epsilon(1e-4));
}

TEST_CASE("a price on bytes: a token reads no more of what is not resident as the price rises") {
  using policy = routing::cost_aware<costs::bytes, routing::standard, priced::logit>;
  for (std::uint64_t seed = first_seed; seed < first_seed + 10; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    held h(1, 32, 12, eviction::least_recent);
    auto const logits = random_matrix<float>(40, 32, random);
    std::vector<float> const bytes(32, 1e6f);
    policy::state s;
    s.cost = {bytes, h.table.where(0), {0, us_per_byte(20), us_per_byte(2)}};
    h.use(0, {0, 3, 5, 7, 9, 11, 20, 21, 22, 23, 30, 31});
    std::vector<int> last(40, 99);
    for (float const price : {0.0f, .01f, .02f, .05f, .1f, 1.0f}) {
      CAPTURE(price);
      s.price = price;
      auto const routed = route_all<policy>({.top_k = 4}, logits, s);
      for (std::int64_t t = 0; t < 40; ++t) {
        int missing = 0;
        for (int const e : routed.set(t)) missing += h.table.where(0)[e] != tier::device;
        CHECK(missing <= last[static_cast<std::size_t>(t)]);
        last[static_cast<std::size_t>(t)] = missing;
      }
    }
    for (int const missing : last) CHECK(missing == 0);        // 12 are resident, 4 are needed
  }
}

TEST_CASE("an expert put elsewhere after clearing lies there until it is loaded, and again when it is evicted") {
  held h(2, 4, 1, eviction::least_recent);
  auto const where = h.table.where(1);
  h.table.put(1, 3, tier::disk, 500);
  CHECK(h.table.where(1)[3] == tier::disk);
  CHECK(h.table.where(1)[2] == tier::host);
  h.use(1, {3});
  CHECK(where[3] == tier::device);                                // a list held follows what is loaded
  CHECK(h.table.where(1)[3] == tier::device);
  h.use(1, {2});
  CHECK(where[3] == tier::disk);
  CHECK(h.table.counts.bytes[static_cast<int>(tier::disk)] == 500);
  h.table.put(1, 2, tier::disk, 1000);                            // who is in a slot stays there
  CHECK(where[2] == tier::device);
}
