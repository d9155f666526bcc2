// Barriers in shared memory on the device model: arrivals and bytes, phases, and who waits for them.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "machine.hpp"

namespace moesaic::device_model::internal {
namespace {

constexpr std::uint64_t magic = 0x6d62'6172ull << 32;
constexpr std::int64_t most_bytes = (1 << 20) - 1;
constexpr std::uint32_t most_arrivals = (1u << 20) - 1;

/// Where something in the block's shared memory lies, for sentences.
std::ptrdiff_t offset(block const& b, void const* p) { return static_cast<std::byte const*>(p) - b.shared; }

mbarrier_state& state_of(block& b, void const* at, char const* name) {
  if (!b.holds(at, 8) || reinterpret_cast<std::uintptr_t>(at) % 8 != 0)
    fail("model", text("%s at {1}: an mbarrier lies in the block's shared memory, at a multiple of 8", name), here());
  std::uint64_t word;
  std::memcpy(&word, at, 8);
  auto const index = static_cast<std::uint32_t>(word);
  if ((word & ~std::uint64_t{0xffff'ffff}) != magic || index >= b.mbarriers.size() || b.mbarriers[index].at != at)
    fail("model", text("%s at {1}: shared+%td is no initialised mbarrier", name, offset(b, at)), here());
  return b.mbarriers[index];
}

/// For the race detector, using an mbarrier is an atomic change of it: the init must come before.
void note_use(block const& b, mbarrier_state const& s) {
  if (watcher) watcher->access(*running, b.shared + offset(b, s.at), 8, true, true, here());
}

void try_phase_end(block& b, std::size_t index) {
  mbarrier_state& s = b.mbarriers[index];
  if (s.pending != 0 || s.bytes != 0) return;
  s.pending = s.expected;
  ++s.phase;
  ++active->progress;
  if (watcher) watcher->phase_end(s);
  for (thread* const t : s.waiters) {
    std::erase(active->timed_waits, t);
    wake(*t);
  }
  s.waiters.clear();
}

void take_arrivals(block& b, mbarrier_state& s, std::uint32_t count, char const* name) {
  if (s.pending < count)
    fail("model",
         text("%s at {1}: arrival overflow, the phase of shared+%td expects %u arrivals and has had them all, the last at {2}", name,
              offset(b, s.at), s.expected),
         here(), s.last_arrival);
  s.pending -= count;
  s.last_arrival = here();
}

}  // namespace

void mbarrier_arrive(device::mbarrier* at, std::uint32_t count, block* of) {
  thread& t = *running;
  block& mine = *t.home;
  block& b = of != nullptr ? *of : mine;
  char const* const name = of != nullptr ? "mbarrier_arrive_cluster" : "mbarrier_arrive";
  std::byte* p = reinterpret_cast<std::byte*>(at);
  if (of != nullptr) {
    if (!mine.holds(p, 8))
      fail("model", text("%s at {1}: an mbarrier lies in the block's shared memory, at a multiple of 8", name), here());
    if (b.running == 0) fail("model", text("%s at {1}: block %d of the cluster has ended", name, b.rank), here());
    p = b.shared + (p - mine.shared);
  }
  mbarrier_state& s = state_of(b, p, name);
  if (&b != &mine && !s.fenced)
    fail("model", text("%s at {1}: the init of shared+%td at {2} was not followed by fence_mbarrier_init", name, offset(b, p)), here(),
         s.initialised);
  note_use(b, s);
  if (watcher) watcher->arrive(s, t);
  take_arrivals(b, s, count, name);
  try_phase_end(b, static_cast<std::size_t>(&s - b.mbarriers.data()));
  step_back();
}

void mbarrier_expect(device::mbarrier* at, std::uint32_t bytes) {
  block& b = *running->home;
  mbarrier_state& s = state_of(b, at, "mbarrier_expect_tx");
  note_use(b, s);
  s.bytes += bytes;
  if (s.bytes > most_bytes)
    fail("model",
         text("mbarrier_expect_tx at {1}: %lld bytes are expected, an mbarrier counts to %lld", static_cast<long long>(s.bytes),
              static_cast<long long>(most_bytes)),
         here());
}

bool mbarrier_test(device::mbarrier* at, std::uint32_t parity, bool may_wait) {
  thread& t = *running;
  block& b = *t.home;
  machine& m = *active;
  mbarrier_state& s = state_of(b, at, "mbarrier_try_wait_parity");
  note_use(b, s);
  if (parity > 1) fail("model", text("mbarrier_try_wait_parity at {1}: a parity is 0 or 1, not %u", parity), here());
  auto const index = static_cast<std::size_t>(&s - b.mbarriers.data());
  auto const ended = [&] { return (b.mbarriers[index].phase & 1) != parity; };
  if (m.random_delivery && draw() % 4 == 0) {
    // It may also say no without having waited.
    deliver_at_random(m);
    if (may_wait && !ended() && draw() % 4 == 0) {
      step_back();
      return false;
    }
  }
  if (!ended() && may_wait) {
    s.waiters.push_back(&t);
    m.timed_waits.push_back(&t);
    wait({"mbarrier_try_wait_parity", at, static_cast<std::int64_t>(parity)});
    if (t.timed_out) {
      t.timed_out = false;
      std::erase(b.mbarriers[index].waiters, &t);
      std::erase(m.timed_waits, &t);
    }
  }
  if (!ended() && !may_wait) {
    // Who asks again and again must let others run, or there is nothing to hear.
    m.sleepers.push_back(&t);
    wait({"mbarrier_test_wait_parity", at, static_cast<std::int64_t>(parity)});
  }
  if (!ended()) return false;
  if (watcher) watcher->acquire(b.mbarriers[index], t);
  return true;
}

void mbarrier_complete_bytes(device::mbarrier* at, std::uint32_t bytes, async_op& by) {
  block* const b = block_of(at);
  if (b == nullptr) return;
  std::uint64_t word;
  std::memcpy(&word, at, 8);
  auto const index = static_cast<std::uint32_t>(word);
  if ((word & ~std::uint64_t{0xffff'ffff}) != magic || index >= b->mbarriers.size() ||
      b->mbarriers[index].at != reinterpret_cast<std::byte*>(at)) {
    report("model", text("%s of {1} reports to shared+%td, which is no mbarrier any more", by.name, offset(*b, at)), by.asked);
    return;
  }
  mbarrier_state& s = b->mbarriers[index];
  if (watcher) watcher->arrive(s, by);
  s.bytes -= bytes;
  try_phase_end(*b, index);
}

/// For operations that will report to it.
void check_reports_to(block& b, void const* at, char const* name) {
  mbarrier_state& s = state_of(b, at, name);
  if (!s.fenced)
    fail("model",
         text("%s at {1}: the init of its mbarrier shared+%td at {2} was not followed by fence_mbarrier_init", name, offset(b, at)), here(),
         s.initialised);
}

/// The arrival of a thread's copies, at whatever time they have landed.
void arrive_for_copies(thread& t, device::mbarrier* at, thread_copy const* copies, std::size_t count) {
  block& b = *t.home;
  std::uint64_t word;
  std::memcpy(&word, at, 8);
  auto const index = static_cast<std::uint32_t>(word);
  if ((word & ~std::uint64_t{0xffff'ffff}) != magic || index >= b.mbarriers.size()) {
    report("model", text("cp_async_mbarrier_arrive_noinc at {1}: shared+%td is no mbarrier any more", offset(b, at)), copies[count].asked);
    return;
  }
  mbarrier_state& s = b.mbarriers[index];
  if (s.pending == 0) {
    report("model",
           text("cp_async_mbarrier_arrive_noinc at {1}: arrival overflow, the phase of shared+%td expects %u arrivals and has had them "
                "all, the last at {2}",
                offset(b, s.at), s.expected),
           copies[count].asked, s.last_arrival);
    return;
  }
  if (watcher) watcher->arrive_copies(s, t, copies, count);
  --s.pending;
  s.last_arrival = copies[count].asked;
  try_phase_end(b, index);
}

void fence_inits(thread const& t) {
  for (mbarrier_state& s : t.home->mbarriers)
    if (s.initialised_by == t.id) s.fenced = true;
}
void check_mbarrier(block& b, void const* at, char const* name) { state_of(b, at, name); }

}  // namespace moesaic::device_model::internal

namespace moesaic::device {

using namespace device_model::internal;
using device_model::internal::running;

void mbarrier_init(mbarrier* at, std::uint32_t arrivals) {
  thread& t = *running;
  block& b = *t.home;
  check_shared(at, 8, 8, "mbarrier_init");
  if (arrivals == 0 || arrivals > most_arrivals)
    fail("model", text("mbarrier_init at {1}: an mbarrier expects 1 to %u arrivals, not %u", most_arrivals, arrivals), here());
  if (watcher) watcher->access(t, at, 8, true, false, here());
  auto const p = reinterpret_cast<std::byte*>(at);
  auto found = std::find_if(b.mbarriers.begin(), b.mbarriers.end(), [p](mbarrier_state const& s) { return s.at == p; });
  if (found == b.mbarriers.end()) found = b.mbarriers.insert(b.mbarriers.end(), mbarrier_state{});
  else if (!found->waiters.empty()) fail("model", "mbarrier_init at {1} of an mbarrier that threads wait for", here());
  mbarrier_state& s = *found;
  void* const race = s.race;
  s = {};
  s.race = race;
  s.at = p;
  s.expected = s.pending = arrivals;
  s.initialised_by = t.id;
  s.initialised = here();
  if (watcher) watcher->sync_begin(s);
  std::uint64_t const word = magic | static_cast<std::uint64_t>(found - b.mbarriers.begin());
  std::memcpy(at, &word, 8);
}
void mbarrier_inval(mbarrier* at) {
  block& b = *running->home;
  auto const& s = state_of(b, at, "mbarrier_inval");
  if (!s.waiters.empty()) fail("model", "mbarrier_inval at {1} of an mbarrier that threads wait for", here());
  if (watcher) watcher->access(*running, at, 8, true, false, here());
  std::memset(static_cast<void*>(at), fresh_byte, 8);
}
void mbarrier_arrive(mbarrier* at) { device_model::internal::mbarrier_arrive(at, 1, nullptr); }
void mbarrier_arrive_expect_tx(mbarrier* at, std::uint32_t bytes) {
  mbarrier_expect(at, bytes);
  device_model::internal::mbarrier_arrive(at, 1, nullptr);
}
void mbarrier_expect_tx(mbarrier* at, std::uint32_t bytes) { mbarrier_expect(at, bytes); }
void mbarrier_arrive_cluster(mbarrier* at, int rank) {
  cluster& c = *running->home->cluster;
  if (rank < 0 || rank >= static_cast<int>(c.blocks.size()))
    fail("model", text("mbarrier_arrive_cluster at {1}: there is no block %d in a cluster of %zu", rank, c.blocks.size()), here());
  device_model::internal::mbarrier_arrive(at, 1, c.blocks[static_cast<std::size_t>(rank)].get());
}
bool mbarrier_try_wait_parity(mbarrier* at, std::uint32_t parity) { return mbarrier_test(at, parity, true); }
bool mbarrier_try_wait_parity_cluster(mbarrier* at, std::uint32_t parity) { return mbarrier_test(at, parity, true); }
void fence_mbarrier_init() { fence_inits(*running); }

}  // namespace moesaic::device
