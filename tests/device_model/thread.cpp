// Threads and their meetings on the device model: identity, barriers, warp collectives, memory in words, arithmetic that instructions define.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstring>

#include <moesaic/base/floats.hpp>

#include "machine.hpp"

namespace moesaic::device_model::internal {
namespace {

// --- block barriers -------------------------------------------------------------------------------------------------------------------

[[gnu::noinline]] void first_comes(named_barrier& nb, int threads) {
  nb.threads = threads;
  nb.first = here();
  if (watcher) watcher->sync_begin(nb);
}
[[gnu::noinline]] void phase_is_told(named_barrier& nb, thread& t, bool waits) {
  watcher->phase_end(nb);
  for (thread* const other : nb.waiters) watcher->acquire(nb, *other);
  if (waits) watcher->acquire(nb, t);
  watcher->sync_end(nb);
}
[[gnu::noinline, noreturn]] void cannot_meet(named_barrier const& nb, int number, int threads, int all, char const* name) {
  if (number < 0 || number > 15) fail("model", text("%s at {1}: there is no barrier %d", name, number), here());
  if (threads == 0 || threads > all || (threads % 32 != 0 && threads != all))
    fail("model", text("%s(%d) at {1} is for %d threads: whole warps, at most the block's %d, can meet", name, number, threads, all),
         here());
  fail("model", text("threads meet at barrier %d with different counts: %d at {1}, %d at {2}", number, nb.threads, threads), nb.first,
       here());
}

/// bar.sync and bar.arrive are .aligned: all lanes of a warp come at one place. Compilers make copies of code, so lines decide.
[[gnu::noinline]] void check_aligned(named_barrier const& nb, thread const& t, void const* from, char const* name) {
  place a, b;
  a.at[0] = nb.of_warp[t.warp_index];
  b.at[0] = from;
  if (to_string(a) == to_string(b)) return;
  fail("model", text("lanes of one warp come to %s at different places, {1} and {2}: all must come at one", name), a, b);
}

inline void barrier_meet(int number, int threads, bool waits, char const* name, void const* from) {
  thread& t = *running;
  block& b = *t.home;
  auto const all = static_cast<int>(b.threads.size());
  if (threads < 0) threads = all;
  named_barrier& nb = b.barriers[number & 15];
  if (number < 0 || number > 15 || threads == 0 || threads > all || (threads % 32 != 0 && threads != all) ||
      (nb.arrived != 0 && nb.threads != threads))
    cannot_meet(nb, number, threads, all, name);
  if (nb.arrived == 0) first_comes(nb, threads);
  void const*& of_warp = nb.of_warp[t.warp_index];
  if (of_warp == nullptr) of_warp = from;
  else if (of_warp != from) check_aligned(nb, t, from, name);
  if (watcher) watcher->arrive(nb, t);
  if (++nb.arrived < nb.threads) {
    if (waits) {
      nb.waiters.push_back(&t);
      block_on(t, name, nullptr, number == 0 ? -1 : number);
    }
    return;
  }
  if (watcher) phase_is_told(nb, t, waits);
  nb.arrived = 0;
  std::fill_n(nb.of_warp, b.warps.size(), nullptr);
  machine& m = *active;
  for (thread* const other : nb.waiters) make_ready(m, *other);
  nb.waiters.clear();
  step_back();
}

// --- the cluster's barrier ------------------------------------------------------------------------------------------------------------

void cluster_phase_ends(cluster& c) {
  if (watcher) {
    watcher->phase_end(c);
    for (thread* const t : c.waiters) watcher->acquire(c, *t);
  }
  c.arrived = 0;
  ++c.phase;
  for (thread* const t : c.waiters) wake(*t);
  c.waiters.clear();
}

// --- warp collectives -----------------------------------------------------------------------------------------------------------------

struct shuffle_arguments {
  std::uint32_t value, b, c;
  bool inside;
};
template <shuffle_kind Kind>
void compute_shuffle(meeting const& m, block&, warp&) {
  std::uint32_t values[32];
  for (int lane = 0; lane < 32; ++lane)
    if (m.arguments[lane] != nullptr) values[lane] = static_cast<shuffle_arguments const*>(m.arguments[lane])->value;
  for (int lane = 0; lane < 32; ++lane) {
    if (m.arguments[lane] == nullptr) continue;
    auto& a = *static_cast<shuffle_arguments*>(m.arguments[lane]);
    int const b = static_cast<int>(a.b & 31), clamp = static_cast<int>(a.c & 31), segment = static_cast<int>(a.c >> 8 & 31);
    int const most = (lane & segment) | (clamp & ~segment), least = lane & segment;
    int from = 0;
    if (Kind == shuffle_kind::up) {
      from = lane - b;
      a.inside = from >= most;
    } else if (Kind == shuffle_kind::down) {
      from = lane + b;
      a.inside = from <= most;
    } else if (Kind == shuffle_kind::bfly) {
      from = lane ^ b;
      a.inside = from <= most;
    } else {
      from = least | (b & ~segment);
      a.inside = from <= most;
    }
    if (!a.inside) from = lane;
    if ((m.lanes >> from & 1) == 0)
      fail("model",
           text("%s at {1}: lane %d takes a value of lane %d, which is not among the lanes %08x", m.what->name, lane, from, m.lanes),
           m.first);
    a.value = values[from];
  }
}
constexpr collective shuffles[] = {{"shfl_up", &compute_shuffle<shuffle_kind::up>},
                                   {"shfl_down", &compute_shuffle<shuffle_kind::down>},
                                   {"shfl_bfly", &compute_shuffle<shuffle_kind::bfly>},
                                   {"shfl_idx", &compute_shuffle<shuffle_kind::idx>}};

/// `join` over the lanes' words; every lane gets the result.
template <class Join>
void join_words(meeting const& m, Join join) {
  bool first = true;
  std::uint32_t all = 0;
  for (void* const argument : m.arguments) {
    if (argument == nullptr) continue;
    auto const mine = *static_cast<std::uint32_t const*>(argument);
    all = first ? mine : join(all, mine);
    first = false;
  }
  for (void* const argument : m.arguments)
    if (argument != nullptr) *static_cast<std::uint32_t*>(argument) = all;
}
template <redux_kind Kind>
void compute_redux(meeting const& m, block&, warp&) {
  join_words(m, [](std::uint32_t a, std::uint32_t b) -> std::uint32_t {
    auto const sa = static_cast<std::int32_t>(a), sb = static_cast<std::int32_t>(b);
    switch (Kind) {
      case redux_kind::add: return a + b;
      case redux_kind::min_u: return std::min(a, b);
      case redux_kind::max_u: return std::max(a, b);
      case redux_kind::min_s: return static_cast<std::uint32_t>(std::min(sa, sb));
      case redux_kind::max_s: return static_cast<std::uint32_t>(std::max(sa, sb));
      case redux_kind::and_: return a & b;
      case redux_kind::or_: return a | b;
      case redux_kind::xor_: return a ^ b;
    }
    return 0;
  });
}
constexpr collective reductions[] = {
    {"redux_add", &compute_redux<redux_kind::add>},       {"redux_min", &compute_redux<redux_kind::min_u>},
    {"redux_max", &compute_redux<redux_kind::max_u>},     {"redux_min.s32", &compute_redux<redux_kind::min_s>},
    {"redux_max.s32", &compute_redux<redux_kind::max_s>}, {"redux_and", &compute_redux<redux_kind::and_>},
    {"redux_or", &compute_redux<redux_kind::or_>},        {"redux_xor", &compute_redux<redux_kind::xor_>}};

template <vote_kind Kind>
void compute_vote(meeting const& m, block&, warp&) {
  std::uint32_t votes = 0;
  for (int lane = 0; lane < 32; ++lane)
    if (m.arguments[lane] != nullptr && *static_cast<std::uint32_t const*>(m.arguments[lane]) != 0) votes |= 1u << lane;
  std::uint32_t const all = votes == m.lanes;
  std::uint32_t const answer = Kind == vote_kind::ballot ? votes
                               : Kind == vote_kind::all  ? all
                               : Kind == vote_kind::any  ? votes != 0
                                                         : (all | (votes == 0));
  for (void* const argument : m.arguments)
    if (argument != nullptr) *static_cast<std::uint32_t*>(argument) = answer;
}
constexpr collective votes_of[] = {{"ballot", &compute_vote<vote_kind::ballot>},
                                   {"vote.all", &compute_vote<vote_kind::all>},
                                   {"vote.any", &compute_vote<vote_kind::any>},
                                   {"vote.uni", &compute_vote<vote_kind::uni>}};

constexpr collective matching{"match_any", [](meeting const& m, block&, warp&) {
                                std::uint32_t values[32], answers[32] = {};
                                for (int lane = 0; lane < 32; ++lane)
                                  if (m.arguments[lane] != nullptr) values[lane] = *static_cast<std::uint32_t const*>(m.arguments[lane]);
                                for (int lane = 0; lane < 32; ++lane)
                                  for (int other = 0; other < 32; ++other)
                                    if (m.arguments[lane] != nullptr && m.arguments[other] != nullptr && values[lane] == values[other])
                                      answers[lane] |= 1u << other;
                                for (int lane = 0; lane < 32; ++lane)
                                  if (m.arguments[lane] != nullptr) *static_cast<std::uint32_t*>(m.arguments[lane]) = answers[lane];
                              }};
constexpr collective syncing{"warp_sync", [](meeting const&, block&, warp&) {}, true};

/// What a thread has when the kernel starts: the multiprocessor's 65536 registers divided, in steps of 8.
int first_registers() { return std::min(256, 65536 / (active->threads * active->blocks_together) / 8 * 8); }

template <bool More>
void compute_setmaxnreg(meeting const& m, block&, warp& w) {
  int const asked = *static_cast<int const*>(m.arguments[0]), had = w.registers == 0 ? first_registers() : w.registers;
  for (void const* const argument : m.arguments)
    if (int const mine = *static_cast<int const*>(argument); mine != asked)
      fail("model", text("%s at {1}: lanes of a warp ask for %d and %d registers", m.what->name, asked, mine), m.first);
  if (More ? asked < had : asked > had)
    fail("model", text("%s at {1} asks for %d registers, and the threads have %d", m.what->name, asked, had), m.first);
  w.registers = asked;
}
constexpr collective more_registers{"setmaxnreg_inc", &compute_setmaxnreg<true>},
    fewer_registers{"setmaxnreg_dec", &compute_setmaxnreg<false>};

// --- memory ---------------------------------------------------------------------------------------------------------------------------

/// For an access of a thread by the library: own shared memory or global memory.
void check_access(void const* p, std::size_t bytes, bool write, bool atomic, char const* name) {
  if (reinterpret_cast<std::uintptr_t>(p) % bytes != 0)
    fail("model", text("%s at {1}: the address is not a multiple of %zu", name, bytes), here());
  if (block const* const b = block_of(p)) {
    if (b != running->home)
      fail("model", text("%s at {1} reaches into another block's shared memory through a plain pointer", name), here());
    check_shared(p, bytes, bytes, name);
    if (watcher) watcher->access(*running, p, bytes, write, atomic, here());
  } else {
    check_global(p, bytes, bytes, name);
    if (write) check_grid_waited(name);
    if (watcher && active->how.watch_global) watcher->access(*running, p, bytes, write, atomic, here());
    if (watcher) watcher->access(*running, p, bytes, write, atomic, here());
  }
}
template <class T>
T updated(atomic_kind kind, T old, T value, T compare) {
  using S = std::make_signed_t<T>;
  switch (kind) {
    case atomic_kind::add: return old + value;
    case atomic_kind::min_u: return std::min(old, value);
    case atomic_kind::max_u: return std::max(old, value);
    case atomic_kind::min_s: return static_cast<T>(std::min(static_cast<S>(old), static_cast<S>(value)));
    case atomic_kind::max_s: return static_cast<T>(std::max(static_cast<S>(old), static_cast<S>(value)));
    case atomic_kind::and_: return old & value;
    case atomic_kind::or_: return old | value;
    case atomic_kind::xor_: return old ^ value;
    case atomic_kind::exch: return value;
    case atomic_kind::cas: return old == compare ? value : old;
    case atomic_kind::inc: return old >= value ? 0 : old + 1;
    case atomic_kind::dec: return old == 0 || old > value ? value : old - 1;
  }
  return old;
}
template <class T>
std::uint64_t update(atomic_kind kind, void* at, std::uint64_t value, std::uint64_t compare) {
  T old;
  std::memcpy(&old, at, sizeof old);
  T const fresh = updated<T>(kind, old, static_cast<T>(value), static_cast<T>(compare));
  std::memcpy(at, &fresh, sizeof fresh);
  return old;
}

float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

}  // namespace

void check_grid_waited(char const* name) {
  if (!running->home->grid_waited)
    report("model", text("%s at {1} writes global memory in an early launch before griddepcontrol_wait", name), here());
}

namespace {

/// Where a primitive was called from, if that is the same for every caller of an interpreter's.
inline void const* called_from(void const* return_address) { return active->places_noted ? here().at[0] : return_address; }

}  // namespace

void bar_sync(int barrier, int threads) { barrier_meet(barrier, threads, true, "bar_sync", called_from(nullptr)); }
void bar_arrive(int barrier, int threads) { barrier_meet(barrier, threads, false, "bar_arrive", called_from(nullptr)); }
void block_sync() { barrier_meet(0, -1, true, "block_sync", called_from(nullptr)); }

void cluster_barrier_check(cluster& c) {
  if (c.arrived > 0 && c.arrived == c.running) cluster_phase_ends(c);
}

std::uint32_t shfl(shuffle_kind kind, std::uint32_t lanes, std::uint32_t value, std::uint32_t b, std::uint32_t c, bool* inside) {
  shuffle_arguments mine{value, b, c, false};
  meet(shuffles[static_cast<int>(kind)], lanes, &mine);
  if (inside != nullptr) *inside = mine.inside;
  return mine.value;
}
std::uint32_t redux(redux_kind kind, std::uint32_t lanes, std::uint32_t value) {
  meet(reductions[static_cast<int>(kind)], lanes, &value);
  return value;
}
std::uint32_t vote(vote_kind kind, std::uint32_t lanes, bool mine) {
  std::uint32_t word = mine;
  meet(votes_of[static_cast<int>(kind)], lanes, &word);
  return word;
}
std::uint64_t atomic(atomic_kind kind, int bytes, void* at, std::uint64_t value, std::uint64_t compare, bool acquire, bool release) {
  step_back();
  check_access(at, static_cast<std::size_t>(bytes), true, true, "an atomic");
  if (watcher && release) watcher->global_release(*running, at);
  auto const old = bytes == 8 ? update<std::uint64_t>(kind, at, value, compare) : update<std::uint32_t>(kind, at, value, compare);
  if (watcher && acquire) watcher->global_acquire(*running, at);
  return old;
}
void setmaxnreg(int registers, bool more) {
  if (current_options().architecture < 90) fail("model", "setmaxnreg at {1} needs sm_90", here());
  meet(more ? more_registers : fewer_registers, device::all_lanes, &registers);
}
void check_registers(block const& b) {
  int sum = 0;
  bool asked = false;
  for (std::size_t i = 0; i < b.warps.size(); ++i) {
    warp const &w = b.warps[i], &leader = b.warps[i / 4 * 4];
    asked = asked || w.registers != 0;
    sum += 32 * (w.registers == 0 ? first_registers() : w.registers);
    if (w.registers != leader.registers) {
      report(
          "model",
          text("warps %zu and %zu are of one warpgroup, and setmaxnreg left them with %d and %d registers a thread (0: it was not called)",
               i / 4 * 4, i, leader.registers, w.registers));
      return;
    }
  }
  int const had = first_registers() * static_cast<int>(b.threads.size());
  if (asked && sum > had)
    report("model",
           text("setmaxnreg left the block with %d registers, and it was given %d: on hardware setmaxnreg_inc waits for ever", sum, had));
}

void check_reads(machine const& m) {
  for (auto const& r : m.reads) {
    if (std::memcmp(r.at, &r.value, 16) == 0) continue;
    active->findings.push_back(
        {"model", "load_nc at {1} read memory that the kernel writes: it may read what was there before, at any time", r.where, {}, {}});
    return;
  }
}
std::uint32_t lop3(std::uint32_t a, std::uint32_t b, std::uint32_t c, int table) {
  std::uint32_t out = 0;
  for (int i = 0; i < 8; ++i)
    if ((table >> i & 1) != 0) out |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return out;
}

std::uint32_t shared_address(void const* in_shared) {
  block const& b = *running->home;
  auto const* const p = static_cast<std::byte const*>(in_shared);
  if (p < b.shared || p > b.shared + b.shared_bytes)
    fail("model", "shared_address at {1} of something outside of the block's shared memory", here());
  return window_start + static_cast<std::uint32_t>(p - b.shared);
}
std::byte* shared_pointer(std::uint32_t address, std::size_t bytes, char const* name) {
  block* b = running->home;
  if (auto const rank = address >> 24; rank != 0) {
    if (rank > b->cluster->blocks.size())
      fail("model", text("%s at {1}: address %08x is of no block of the cluster", name, address), here());
    b = b->cluster->blocks[rank - 1].get();
    if (b->running == 0) fail("model", text("%s at {1}: block %d of the cluster has ended", name, b->rank), here());
  }
  std::size_t const at = (address & 0xff'ffffu) - window_start;
  if ((address & 0xff'ffffu) < window_start || at + bytes > b->shared_bytes)
    fail("model",
         text("%s at {1}: shared address %u and %zu bytes lie outside of the block's %zu", name, (address & 0xff'ffffu) - window_start,
              bytes, b->shared_bytes),
         here());
  return b->shared + at;
}

}  // namespace moesaic::device_model::internal

namespace moesaic::device {

using namespace device_model::internal;
using device_model::internal::running;

int thread_id() { return running->id; }
int block_x() { return running->home->x; }
int block_y() { return running->home->y; }
int block_z() { return running->home->z; }
int grid_x() { return static_cast<int>(active->blocks.x); }
int grid_y() { return static_cast<int>(active->blocks.y); }
int grid_z() { return static_cast<int>(active->blocks.z); }
int cluster_rank() { return running->home->rank; }
int cluster_blocks() { return static_cast<int>(running->home->cluster->blocks.size()); }

std::byte* shared_memory() { return running->home->shared; }
std::uint32_t shared_address(void const* in_shared) { return device_model::internal::shared_address(in_shared); }

void block_sync() { barrier_meet(0, -1, true, "block_sync", called_from(__builtin_return_address(0))); }
void bar_sync(int barrier, int threads) {
  if (barrier == 0) fail("model", "bar_sync at {1}: barrier 0 is block_sync's", here());
  barrier_meet(barrier, threads, true, "bar_sync", called_from(__builtin_return_address(0)));
}
void bar_arrive(int barrier, int threads) {
  if (barrier == 0) fail("model", "bar_arrive at {1}: barrier 0 is block_sync's", here());
  barrier_meet(barrier, threads, false, "bar_arrive", called_from(__builtin_return_address(0)));
}
void warp_sync(std::uint32_t lanes) { meet(syncing, lanes, nullptr); }

void cluster_arrive() {
  thread& t = *running;
  cluster& c = *t.home->cluster;
  if (t.cluster_arrived) fail("model", "cluster_arrive at {1} comes before the cluster_wait of the one before", here());
  t.cluster_arrived = true;
  t.cluster_phase = c.phase;
  if (watcher) watcher->arrive(c, t);
  ++c.arrived;
  cluster_barrier_check(c);
  step_back();
}
void cluster_wait() {
  thread& t = *running;
  cluster& c = *t.home->cluster;
  if (!t.cluster_arrived) fail("model", "cluster_wait at {1} has no cluster_arrive before it", here());
  t.cluster_arrived = false;
  if (t.cluster_phase == c.phase) {
    c.waiters.push_back(&t);
    wait({"cluster_wait", nullptr, -1});
  } else if (watcher) {
    watcher->acquire(c, t);
  }
}

std::uint32_t shfl_idx(std::uint32_t lanes, std::uint32_t value, int source) {
  return shfl(shuffle_kind::idx, lanes, value, static_cast<std::uint32_t>(source), 31);
}
std::uint32_t shfl_up(std::uint32_t lanes, std::uint32_t value, int distance) {
  return shfl(shuffle_kind::up, lanes, value, static_cast<std::uint32_t>(distance), 0);
}
std::uint32_t shfl_down(std::uint32_t lanes, std::uint32_t value, int distance) {
  return shfl(shuffle_kind::down, lanes, value, static_cast<std::uint32_t>(distance), 31);
}
std::uint32_t shfl_bfly(std::uint32_t lanes, std::uint32_t value, int mask) {
  return shfl(shuffle_kind::bfly, lanes, value, static_cast<std::uint32_t>(mask), 31);
}
std::uint32_t ballot(std::uint32_t lanes, bool mine) { return vote(vote_kind::ballot, lanes, mine); }
std::uint32_t match_any(std::uint32_t lanes, std::uint32_t value) {
  meet(matching, lanes, &value);
  return value;
}
std::uint32_t redux_add(std::uint32_t lanes, std::uint32_t value) { return redux(redux_kind::add, lanes, value); }
std::uint32_t redux_min(std::uint32_t lanes, std::uint32_t value) { return redux(redux_kind::min_u, lanes, value); }
std::uint32_t redux_max(std::uint32_t lanes, std::uint32_t value) { return redux(redux_kind::max_u, lanes, value); }

std::uint32_t atomic_add(std::uint32_t* at, std::uint32_t value) {
  return static_cast<std::uint32_t>(atomic(atomic_kind::add, 4, at, value));
}
std::uint32_t atomic_add_acq_rel(std::uint32_t* at, std::uint32_t value) {
  return static_cast<std::uint32_t>(atomic(atomic_kind::add, 4, at, value, 0, true, true));
}
std::uint32_t atomic_max(std::uint32_t* at, std::uint32_t value) {
  return static_cast<std::uint32_t>(atomic(atomic_kind::max_u, 4, at, value));
}
std::uint32_t atomic_exch(std::uint32_t* at, std::uint32_t value) {
  return static_cast<std::uint32_t>(atomic(atomic_kind::exch, 4, at, value));
}
std::uint32_t load_acquire(std::uint32_t const* at) {
  check_access(at, 4, false, true, "load_acquire");
  step_back();
  if (watcher) watcher->global_acquire(*running, at);
  return *at;
}
void store_release(std::uint32_t* at, std::uint32_t value) {
  check_access(at, 4, true, true, "store_release");
  if (watcher) watcher->global_release(*running, at);
  *at = value;
  step_back();
}
void fence_gpu() {
  if (watcher) watcher->fence_gpu(*running);
}
void nanosleep(std::uint32_t) {
  active->sleepers.push_back(running);
  wait({"nanosleep", nullptr, -1});
}
words4 load_nc(words4 const* at) {
  check_global(at, 16, 16, "load_nc");
  machine& m = *active;
  if (watcher && m.how.watch_global) watcher->access(*running, at, 16, false, false, here());
  // Every one at first, then ever fewer.
  if (m.loads++ >= m.loads_skipped) {
    m.reads.push_back({at, *at, here()});
    if (m.reads.size() > 256) m.loads_skipped = m.loads + m.reads.size() / 64 * (m.reads.size() / 64);
  }
  return *at;
}

std::uint32_t mapa(void const* at, int rank) {
  auto const blocks = cluster_blocks();
  if (rank < 0 || rank >= blocks) fail("model", text("mapa at {1}: there is no block %d in a cluster of %d", rank, blocks), here());
  return device_model::internal::shared_address(at) | static_cast<std::uint32_t>(rank + 1) << 24;
}
std::uint32_t load_cluster(std::uint32_t address) {
  auto* const p = shared_pointer(address, 4, "load_cluster");
  if (watcher) watcher->access(*running, p, 4, false, false, here());
  std::uint32_t value;
  std::memcpy(&value, p, 4);
  return value;
}
void store_cluster(std::uint32_t address, std::uint32_t value) {
  auto* const p = shared_pointer(address, 4, "store_cluster");
  if (watcher) watcher->access(*running, p, 4, true, false, here());
  std::memcpy(p, &value, 4);
}
std::uint32_t atomic_add_cluster(std::uint32_t address, std::uint32_t value) {
  auto* const p = shared_pointer(address, 4, "atomic_add_cluster");
  if (watcher) watcher->access(*running, p, 4, true, true, here());
  return static_cast<std::uint32_t>(update<std::uint32_t>(atomic_kind::add, p, value, 0));
}

void griddepcontrol_wait() { active->grid_waited = running->home->grid_waited = true; }
void griddepcontrol_launch_dependents() {}

// The approximations are the nearest float to the true value: hardware is within 2 units of the last place of it.

float ex2_approx(float x) { return flushed(static_cast<float>(std::exp2(static_cast<double>(flushed(x))))); }
float rcp_approx(float x) { return flushed(static_cast<float>(1.0 / static_cast<double>(flushed(x)))); }
float rsqrt_approx(float x) { return flushed(static_cast<float>(1.0 / std::sqrt(static_cast<double>(flushed(x))))); }
float fma(float a, float b, float c) { return std::fma(a, b, c); }
// Every NaN becomes the format's canonical one, whose sign and payload are not those of what was converted.
std::uint32_t cvt_bf16x2(float low, float high) {
  auto const half = [](float x) { return std::isnan(x) ? std::uint32_t{0x7fff} : bf16(x).bits; };
  return half(low) | half(high) << 16;
}
std::uint32_t cvt_f16x2(float low, float high) {
  auto const half = [](float x) { return std::isnan(x) ? std::uint32_t{0x7fff} : fp16(x).bits; };
  return half(low) | half(high) << 16;
}
std::uint16_t cvt_e4m3x2(float low, float high) {
  auto const byte = [](float x) { return std::isnan(x) ? 0x7f : int{e4m3(x).bits}; };
  return static_cast<std::uint16_t>(byte(low) | byte(high) << 8);
}
std::uint32_t prmt(std::uint32_t low, std::uint32_t high, std::uint32_t selector) {
  std::uint64_t const bytes = low | static_cast<std::uint64_t>(high) << 32;
  std::uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    std::uint32_t const pick = selector >> (4 * i) & 15;
    auto byte = static_cast<std::uint32_t>(bytes >> (8 * (pick & 7)) & 0xff);
    if ((pick & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;
    out |= byte << (8 * i);
  }
  return out;
}
std::uint32_t fma_bf16x2(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t out = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    auto const part = [shift](std::uint32_t x) {
      return static_cast<double>(static_cast<float>(bf16::from_bits(static_cast<std::uint16_t>(x >> shift))));
    };
    // The product of two bf16 is exact in double. Rounding twice is avoided by rounding the sum to odd first.
    double const product = part(a) * part(b), addend = part(c);
    double const sum = product + addend;
    double const virtual_part = sum - product;
    double const lost = (product - (sum - virtual_part)) + (addend - virtual_part);
    auto bits = bit_cast<std::uint64_t>(sum);
    if (lost != 0 && std::isfinite(sum) && (bits & 1) == 0) bits = (lost > 0) == (sum > 0) ? bits + 1 : bits - 1;
    double const odd = bit_cast<double>(bits);
    // To float, again to odd, then to bf16.
    auto narrow = static_cast<float>(odd);
    if (static_cast<double>(narrow) != odd && std::isfinite(narrow)) {
      auto word = bit_cast<std::uint32_t>(narrow);
      if ((word & 1) == 0) word = (std::fabs(static_cast<double>(narrow)) < std::fabs(odd)) ? word + 1 : word - 1;
      narrow = bit_cast<float>(word);
    }
    out |= static_cast<std::uint32_t>(bf16(narrow).bits) << shift;
  }
  return out;
}

}  // namespace moesaic::device
