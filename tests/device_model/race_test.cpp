// The race detector by itself: what its clocks order, byte by byte, and what they do not.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <vector>

#include "race.hpp"

namespace {

using namespace moesaic::device_model::race;

/// A detector with what it said, and barriers as the model makes them.
struct watched {
  std::vector<finding> said;
  detector d;

  explicit watched(int threads = 64, std::size_t bytes = 64, int blocks = 1) : d(blocks, threads, bytes, &tell, this) {}
  static void tell(void* self, finding const& f) { static_cast<watched*>(self)->said.push_back(f); }

  void read(int t, std::size_t at, std::size_t bytes = 4) { d.access(t, 0, at, bytes, access_kind::read, 1); }
  void write(int t, std::size_t at, std::size_t bytes = 4) { d.access(t, 0, at, bytes, access_kind::write, 2); }
  void change(int t, std::size_t at) { d.access(t, 0, at, 4, access_kind::atomic, 3); }
  void barrier(int from, int to) {
    meeting_point m;
    for (int t = from; t < to; ++t) d.release(m, t);
    d.end_phase(m);
    for (int t = from; t < to; ++t) d.acquire(m, t);
  }
  std::size_t count(problem p) const {
    std::size_t n = 0;
    for (auto const& f : said) n += f.what == p;
    return n;
  }
  bool clean() const { return said.empty(); }
};

}  // namespace

TEST_CASE("Two threads that nothing orders race; a barrier orders them, of all threads or of some") {
  for (int const upto : {64, 40}) {
    watched w;
    w.write(3, 0);
    w.barrier(0, upto);
    w.read(37, 0);
    w.read(3, 0);
    w.barrier(0, upto);
    w.write(5, 0);
    CHECK(w.clean());
    w.read(6, 0);
    CHECK(w.count(problem::race) == 1);
    CHECK(w.said.back().before.by == 5);
    CHECK(w.said.back().now.by == 6);
    CHECK(w.said.back().now.kind == access_kind::read);
  }
  watched w;
  w.write(3, 0);
  w.barrier(0, 40);
  w.read(50, 0);
  CHECK(w.count(problem::race) == 1);
}

TEST_CASE("A write races with any of many readers, whichever warp they are of") {
  for (int const late : {0, 17, 31, 32, 63}) {
    watched w;
    w.write(0, 8);
    w.barrier(0, 64);
    for (int t = 0; t < 64; ++t) w.read(t, 8);
    // All meet but one.
    meeting_point m;
    for (int t = 0; t < 64; ++t)
      if (t != late) w.d.release(m, t);
    w.d.end_phase(m);
    int const writer = late == 5 ? 6 : 5;
    w.d.acquire(m, writer);
    w.write(writer, 8);
    CHECK_MESSAGE(w.count(problem::race) == 1, "late: ", late);
    CHECK(w.said.back().before.by == late);
  }
}

TEST_CASE("Bytes are apart: neighbours in a word do not race, and an access of many bytes races in any of them") {
  watched w;
  w.write(0, 0, 2);
  w.write(1, 2, 2);
  w.write(2, 4, 1);
  w.write(3, 5, 1);
  w.write(4, 6, 2);
  CHECK(w.clean());
  w.read(4, 6, 2);
  w.read(2, 4, 1);
  CHECK(w.clean());
  w.read(1, 0, 4);
  CHECK(w.count(problem::race) == 2);          // two bytes of thread 0's
  w.barrier(0, 64);
  w.write(9, 0, 8);
  w.barrier(0, 64);
  w.read(10, 0, 16);
  CHECK(w.count(problem::race) == 2);
  CHECK(w.count(problem::unwritten) == 2);     // words 2 and 3
}

TEST_CASE("Readers stay apart when a word comes apart") {
  watched w;
  w.write(0, 0, 4);
  w.barrier(0, 64);
  w.read(1, 0, 4);
  w.read(40, 0, 4);
  w.write(40, 3, 1);                            // against thread 1's reading
  CHECK(w.count(problem::race) == 1);
  w.write(1, 0, 1);                             // against thread 40's
  CHECK(w.count(problem::race) == 2);
}

TEST_CASE("Atomic changes race with plain accesses only") {
  watched w;
  w.change(0, 0);
  CHECK(w.count(problem::unwritten) == 1);
  w.write(0, 4);
  w.barrier(0, 64);
  w.said.clear();
  w.change(1, 4);
  w.change(40, 4);
  CHECK(w.clean());
  w.read(2, 4);
  CHECK(w.count(problem::race) == 2);
  w.said.clear();
  w.barrier(0, 64);
  w.read(3, 4);
  CHECK(w.clean());
  w.change(4, 4);
  CHECK(w.count(problem::race) == 1);
  w.said.clear();
  w.barrier(0, 64);
  w.change(7, 4);
  w.write(8, 4);
  CHECK(w.count(problem::race) == 1);
}

TEST_CASE("What a phase gathered is acquired, and no more") {
  watched w;
  meeting_point m;
  w.write(0, 0);
  w.write(1, 4);
  w.d.release(m, 0);
  w.d.end_phase(m);
  w.d.release(m, 1);
  w.d.acquire(m, 2);
  w.read(2, 0);
  CHECK(w.clean());
  w.read(2, 4);
  CHECK(w.count(problem::race) == 1);
  w.d.end_phase(m);
  w.d.acquire(m, 3);
  w.read(3, 4);
  CHECK(w.count(problem::race) == 1);
  // What a thread does after it has arrived is not in it.
  w.write(0, 8);
  w.d.acquire(m, 4);
  w.read(4, 8);
  CHECK(w.count(problem::race) == 2);
}

TEST_CASE("Who arrives at a barrier of all threads without waiting is known up to there, whatever the others' clocks") {
  watched w;
  meeting_point early;
  for (int i = 0; i < 5; ++i) w.d.release(early, 9);   // thread 9's clock is ahead
  meeting_point m;
  w.write(0, 0);
  w.d.release(m, 0);
  w.write(0, 4);
  for (int t = 1; t < 64; ++t) w.d.release(m, t);
  w.d.end_phase(m);
  for (int t = 1; t < 64; ++t) w.d.acquire(m, t);
  w.read(5, 0);
  CHECK(w.clean());
  w.read(5, 4);
  CHECK(w.count(problem::race) == 1);
}

TEST_CASE("An operation's accesses are ordered after its asker's, and before those of who waited for it") {
  watched w;
  w.write(0, 0);
  auto const first = w.d.begin(0);
  w.d.access(first, 0, 0, 16, true, 4);
  CHECK(w.count(problem::proxy) == 1);          // over thread 0's write, which it did not fence
  w.said.clear();
  w.read(0, 0);
  CHECK(w.count(problem::race) == 1);           // in flight, also for the asker
  w.said.clear();

  meeting_point m;
  w.d.release(m, first);
  w.d.end_phase(m);
  w.d.acquire(m, 7);
  w.read(7, 4);
  CHECK(w.clean());
  w.read(8, 8);
  CHECK(w.count(problem::race) == 1);
}

TEST_CASE("Operations that know of each other share a slot, others are told apart") {
  watched w(32, 1024);
  auto const a = w.d.begin(0);
  auto const b = w.d.begin(0);
  CHECK(a.by != b.by);
  w.d.access(a, 0, 0, 16, true, 4);
  w.d.access(b, 0, 16, 16, true, 4);
  w.d.waited(b, 0);
  w.read(0, 16);
  CHECK(w.clean());
  w.read(0, 0);
  CHECK(w.count(problem::race) == 1);
  auto const c = w.d.begin(0);
  CHECK(c.by == b.by);
  CHECK(c.clock == b.clock + 1);
  w.d.access(c, 0, 32, 16, false, 4);
  CHECK(w.count(problem::unwritten) == 4);
}

TEST_CASE("The async proxy sees a thread's writes after that thread fenced them") {
  for (bool const fenced : {false, true}) {
    for (bool const later : {false, true}) {
      watched w;
      w.write(1, 0);
      if (fenced) w.d.fence_proxy_async(1);
      if (later) w.write(1, 0);
      w.barrier(0, 64);
      w.d.fence_proxy_async(0);                 // the reader's own does not help
      auto const store = w.d.begin(0);
      w.d.access(store, 0, 0, 4, false, 4);
      CHECK(w.count(problem::proxy) == (fenced && !later ? 0 : 1));
      CHECK(w.count(problem::race) == 0);
      // Overwriting its source: a race until the store is waited for, no matter of proxies.
      w.said.clear();
      w.write(0, 0);
      CHECK(w.count(problem::race) == 1);
      w.said.clear();
      auto const again = w.d.begin(5);
      w.d.waited(store, 5);
      (void)again;
      w.barrier(0, 64);
      w.write(5, 0);
      CHECK(w.clean());
    }
  }
}

TEST_CASE("What a warp asks for together knows what all of its lanes know") {
  watched w(64, 64);
  w.write(40, 0);
  meeting_point m;
  w.d.fence_proxy_async(40);
  w.d.release(m, 40);
  w.d.end_phase(m);
  w.d.acquire(m, 0);                            // one lane has waited
  auto const one = w.d.begin_of_warp(0, 32);
  w.d.access(one, 0, 0, 4, false, 4);
  CHECK(w.count(problem::race) == 1);
  w.said.clear();
  for (int t = 1; t < 32; ++t) w.d.acquire(m, t);
  auto const all = w.d.begin_of_warp(0, 32);
  w.d.access(all, 0, 0, 4, false, 4);
  CHECK(w.clean());
  w.write(40, 0);
  CHECK(w.count(problem::race) == 2);           // both read it still
}

TEST_CASE("A thread's copy is nobody's until the thread waits, then it is the thread's own") {
  watched w;
  auto c = w.d.begin_copy(3, 0, 0, 16, 5);
  w.read(3, 0);
  CHECK(w.count(problem::race) == 1);
  CHECK(w.said.back().before.in_flight);
  w.said.clear();
  w.d.waited(c, 3);
  w.read(3, 0);
  CHECK(w.clean());
  w.read(4, 4);
  CHECK(w.count(problem::race) == 1);
  w.said.clear();
  w.barrier(0, 64);
  w.read(4, 8);
  CHECK(w.clean());

  // An arrival behind a copy: whoever waits for the barrier sees it.
  auto d = w.d.begin_copy(3, 0, 32, 16, 5);
  auto* const copies = &d;
  meeting_point m;
  w.d.release(m, 3, &copies, 1);
  w.read(3, 32);
  CHECK(w.count(problem::race) == 1);
  w.said.clear();
  w.d.end_phase(m);
  w.d.acquire(m, 9);
  w.read(9, 32);
  CHECK(w.clean());
  w.d.waited(d, 3);
  w.read(3, 36);
  CHECK(w.clean());
}

TEST_CASE("Threads of different blocks of a cluster race in one block's memory") {
  watched w(40, 64, 2);
  auto const other = w.d.thread(1, 39);
  w.write(3, 0);
  w.d.access(other, 0, 0, 4, access_kind::write, 1);
  CHECK(w.count(problem::race) == 1);
  w.d.access(other, 1, 0, 4, access_kind::write, 1);
  CHECK(w.count(problem::race) == 1);
  meeting_point m;                              // the cluster's barrier
  for (int b = 0; b < 2; ++b)
    for (int t = 0; t < 40; ++t) w.d.release(m, w.d.thread(b, t));
  w.d.end_phase(m);
  for (int b = 0; b < 2; ++b)
    for (int t = 0; t < 40; ++t) w.d.acquire(m, w.d.thread(b, t));
  w.read(other - 1, 0);
  w.d.access(0, 1, 0, 4, access_kind::read, 1);
  CHECK(w.count(problem::race) == 1);
}

TEST_CASE("Passes of a warp's accesses: one without conflicts, as many as the fullest bank has words") {
  struct pattern {
    std::size_t stride, bytes, instructions, passes;
  };
  for (auto const& p : {pattern{4, 4, 1, 1}, {0, 4, 1, 1}, {8, 4, 1, 2}, {128, 4, 1, 32}, {2, 2, 1, 1}, {16, 16, 4, 4}, {128, 16, 4, 32}, {8, 8, 2, 2}}) {
    conflict_counter c;
    for (int lane = 0; lane < 32; ++lane) c.note(lane, 1, static_cast<std::size_t>(lane) * p.stride, p.bytes);
    c.end_block();
    CHECK_MESSAGE(c.instructions == p.instructions, p.stride, " bytes apart, of ", p.bytes);
    CHECK_MESSAGE(c.passes == p.passes, p.stride, " bytes apart, of ", p.bytes);
  }
  conflict_counter c;                           // the k-th time of every lane is one instruction, also of lanes that went ahead
  for (int lane = 0; lane < 32; ++lane)
    for (int k = 0; k < 3; ++k) c.note(lane, 7, static_cast<std::size_t>(k * 128 + lane * 4), 4);
  c.end_block();
  CHECK(c.instructions == 3);
  CHECK(c.passes == 3);
}
