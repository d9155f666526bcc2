// Runs a grid: fibres, whose turn it is, meetings of a warp's lanes, and what happens when nothing can go on.
// SPDX-License-Identifier: Apache-2.0
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "fibre.hpp"
#include "machine.hpp"

namespace moesaic::device_model::internal {

constinit thread_local thread* running = nullptr;
constinit thread_local machine* active = nullptr;
observer* watcher = nullptr;

machine& the_machine() {
  static thread_local machine m;
  return m;
}

namespace {

constexpr std::size_t fibre_stack_bytes = 256 * 1024;

thread_local options chosen;
thread_local std::vector<std::string> told;

[[noreturn]] void die(char const* why) {
  std::fprintf(stderr, "device model: %s\n", why);
  std::abort();
}

std::byte* map_memory(std::size_t bytes) {
  void* const p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) die("no address space for stacks and shared memory");
  return static_cast<std::byte*>(p);
}

// --- switching ------------------------------------------------------------------------------------------------------------------------

/// Fibre to fibre, main to fibre and back: `fake` is where AddressSanitizer keeps what belongs to the stack that is left.
inline void go(machine& m, void** from, void** fake, void* to, void const* bottom, std::size_t bytes) {
  if (!__sanitizer_start_switch_fiber) {
    moesaic_device_model_switch(from, to);
    return;
  }
  m.switching = true;
  __sanitizer_start_switch_fiber(fake, bottom, bytes);
  moesaic_device_model_switch(from, to);
  __sanitizer_finish_switch_fiber(*fake, nullptr, nullptr);
  m.switching = false;
}
void to_fibre_from_main(machine& m, thread& t) {
  running = &t;
  go(m, &m.main_stack_pointer, &m.main_fake_stack, t.stack_pointer, t.stack, t.stack_bytes);
  running = nullptr;
}
void to_main(machine& m, thread& from) {
  go(m, &from.stack_pointer, &from.fake_stack, m.main_stack_pointer, m.main_stack, m.main_stack_bytes);
}
inline void to_fibre(machine& m, thread& from, thread& to) {
  running = &to;
  go(m, &from.stack_pointer, &from.fake_stack, to.stack_pointer, to.stack, to.stack_bytes);
}

[[gnu::noinline]] thread* next_of_any(machine& m) {
  if (m.random_delivery && (!m.pending.empty() || !m.copying.empty()) && draw() % m.deliver_one_in == 0) deliver_at_random(m);
  if (m.ready.empty()) return nullptr;
  return m.how.seed == 0 ? m.ready.pop() : m.ready.pop(draw() % m.ready.size());
}
inline thread* next(machine& m) {
  if (m.random_delivery || m.how.seed != 0) return next_of_any(m);
  return m.ready.empty() ? nullptr : m.ready.pop();
}
/// The running fibre leaves the processor, having arranged for its return.
void switch_away(machine& m, thread& t) {
  thread* const to = next(m);
  if (to == &t) return;
  if (to != nullptr) {
    to_fibre(m, t, *to);
  } else {
    m.why_back = outcome::stalled;
    to_main(m, t);
  }
}

void end_thread(machine& m, thread& t) {
  check_thread_end(t);
  if (matrix_thread_end) matrix_thread_end(t);
  if (watcher) watcher->thread_end(t);
  t.ended = true;
  ++m.progress;
  block& b = *t.home;
  cluster& c = *b.cluster;
  --b.running;
  if (--c.running == 0) {
    m.ended = &c;
    m.why_back = outcome::cluster_ended;
    to_main(m, t);
  } else {
    cluster_barrier_check(c);
    switch_away(m, t);
  }
}

/// What a fibre does: one thread after another.
void fibre_main() {
  if (__sanitizer_finish_switch_fiber) {
    void const* bottom = nullptr;
    std::size_t bytes = 0;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
    if (active->main_stack == nullptr) active->main_stack = bottom, active->main_stack_bytes = bytes;
    active->switching = false;
  }
  for (;;) {
    bool failed = false;
    try {
      active->body(active->params);
      end_thread(*active, *running);
    } catch (abandoned const&) {
      failed = true;
    }
    if (failed) give_up();
  }
}

thread& make_fibre(machine& m) {
  auto t = std::make_unique<thread>();
  auto* const mapped = map_memory(fibre_stack_bytes + 4096);
  if (mprotect(mapped, 4096, PROT_NONE) != 0) die("cannot protect the end of a fibre's stack");
  t->stack = mapped + 4096;
  t->stack_bytes = fibre_stack_bytes;
  // Tops of stacks at different distances from a page: else all of them share one set of the cache.
  t->stack_top = t->stack + fibre_stack_bytes - ((m.fibres.size() * 448) & 4095);
  t->stack_pointer = fresh_stack(t->stack_top, &fibre_main);
  m.fibres.push_back(std::move(t));
  return *m.fibres.back();
}

// --- blocks ---------------------------------------------------------------------------------------------------------------------------

void poison(void const* at, std::size_t bytes) {
  if (__asan_poison_memory_region) __asan_poison_memory_region(at, bytes);
}
void unpoison(void const* at, std::size_t bytes) {
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(at, bytes);
}

/// Shared memory at an exact size, between margins.
void open_shared(machine& m, block& b, int slot) {
  std::byte* const start = m.arena + static_cast<std::size_t>(slot) * m.arena_stride;
  b.slot = slot;
  b.shared = start + margin_bytes;
  b.shared_bytes = m.shared_bytes;
  unpoison(start, m.arena_stride);
  std::memset(b.shared, fresh_byte, b.shared_bytes);
  std::memset(b.shared - 256, margin_byte, 256);
  std::memset(b.shared + b.shared_bytes, margin_byte, 256);
  poison(start, margin_bytes);
  poison(b.shared + b.shared_bytes, m.arena_stride - margin_bytes - b.shared_bytes);
}
void check_margins(block const& b) {
  auto const* const shared = reinterpret_cast<unsigned char const*>(b.shared);
  for (int i = 0; i < 256; ++i) {
    if (shared[-1 - i] != margin_byte) {
      report("model", text("block (%d, %d, %d) wrote %d bytes before its shared memory", b.x, b.y, b.z, i + 1));
      return;
    }
    if (shared[b.shared_bytes + static_cast<std::size_t>(i)] != margin_byte) {
      report("model",
             text("block (%d, %d, %d) wrote %d bytes behind the end of its %zu bytes of shared memory", b.x, b.y, b.z, i, b.shared_bytes));
      return;
    }
  }
}

void start_cluster(machine& m, std::int64_t index) {
  auto c = std::make_unique<cluster>();
  auto const size = static_cast<int>(m.blocks.cluster);
  auto const clusters_x = static_cast<std::int64_t>(m.blocks.x) / size;
  c->running = size * m.threads;
  if (watcher) watcher->sync_begin(*c);
  for (int rank = 0; rank < size; ++rank) {
    auto made = std::make_unique<block>();
    block& b = *made;
    c->blocks.push_back(std::move(made));
    b.cluster = c.get();
    b.rank = rank;
    b.x = static_cast<int>(index % clusters_x) * size + rank;
    b.y = static_cast<int>(index / clusters_x % m.blocks.y);
    b.z = static_cast<int>(index / clusters_x / m.blocks.y);
    int const slot = m.free_slots.back();
    m.free_slots.pop_back();
    open_shared(m, b, slot);
    m.in_slot[static_cast<std::size_t>(slot)] = &b;
    b.running = m.threads;
    b.grid_waited = !m.blocks.early;
    b.warps.resize(static_cast<std::size_t>((m.threads + 31) / 32));
    if (watcher) watcher->block_begin(b);
    for (int i = 0; i < m.threads; ++i) {
      if (m.idle.empty()) m.idle.push_back(&make_fibre(m));
      thread& t = *m.idle.back();
      m.idle.pop_back();
      t.id = i;
      t.lane = i % 32;
      t.warp_index = i / 32;
      t.home = &b;
      t.ended = t.blocked = t.timed_out = t.cluster_arrived = false;
      t.why = {};
      t.race = t.matrix = t.ptx = nullptr;
      b.threads.push_back(&t);
      if (watcher) watcher->thread_begin(t);
      m.ready.push(&t);
    }
  }
  m.clusters.push_back(std::move(c));
}

/// Also of abandoned blocks, which are in any state.
void end_cluster(machine& m, cluster& c, bool abandoned) {
  for (auto const& owned : c.blocks) {
    block& b = *owned;
    for (std::size_t i = 0; i < m.pending.size();) {
      async_op* const op = m.pending[i];
      if (op->home != &b || (op->may_outlive_block && !abandoned)) {
        ++i;
        continue;
      }
      if (!abandoned) report("model", text("a block ended while %s was under way, asked for at {1}", op->name), op->asked);
      op->done = true;
      m.pending.erase(m.pending.begin() + static_cast<std::ptrdiff_t>(i));
      if (op->release_when_done) delete op;
    }
    if (!abandoned) check_margins(b), check_registers(b);
    for (thread* const t : b.threads) {
      if (abandoned && matrix_thread_abandoned) matrix_thread_abandoned(*t);
      if (!abandoned) check_block_end(*t);
      forget_thread(*t);
      if (!t->ended) {
        t->stack_pointer = fresh_stack(t->stack_top, &fibre_main);
        t->fake_stack = nullptr;
        unpoison(t->stack, t->stack_bytes);
      }
      t->home = nullptr;
    }
    if (matrix_warp_end)
      for (warp& w : b.warps) matrix_warp_end(w);
    if (watcher) watcher->block_end(b);
    // In reverse, so that the same fibre becomes the same thread again.
    for (auto t = b.threads.rbegin(); t != b.threads.rend(); ++t) m.idle.push_back(*t);
    m.free_slots.push_back(b.slot);
    m.in_slot[static_cast<std::size_t>(b.slot)] = nullptr;
  }
  if (watcher) watcher->sync_end(c);
  std::erase_if(m.clusters, [&](auto const& alive) { return alive.get() == &c; });
}

// --- what happens when nothing is ready -----------------------------------------------------------------------------------------------

/// Finds something that lets a thread go on. False: a deadlock.
bool unstall(machine& m) {
  if (m.progress != m.progress_at_stall) m.idle_rounds = 0;
  m.progress_at_stall = m.progress;
  bool const delivered = deliver_when_stalled(m);
  if (!m.sleepers.empty()) {
    // Sleepers look at memory that other sleepers may change, so they get many turns before it is a deadlock.
    if (++m.idle_rounds > 5000) return false;
    for (thread* const t : m.sleepers) wake(*t);
    m.sleepers.clear();
    m.progress_at_stall = m.progress;
    return true;
  }
  if (delivered) return true;
  if (!m.timed_waits.empty() && ++m.idle_rounds <= 3) {
    auto const waits = m.timed_waits;
    for (thread* const t : waits) {
      t->timed_out = true;
      wake(*t);
    }
    m.progress_at_stall = m.progress;
    return true;
  }
  return false;
}

bool try_unstall(machine& m) {
  try {
    return unstall(m);
  } catch (abandoned const&) {
    m.doomed = true;
    return false;
  }
}

status run_grid(machine& m) {
  std::int64_t const count = static_cast<std::int64_t>(m.blocks.x) / m.blocks.cluster * m.blocks.y * m.blocks.z;
  auto const size = static_cast<std::int64_t>(m.blocks.cluster);
  std::int64_t const window = std::min(count, std::max<std::int64_t>(1, m.how.resident_blocks / size));
  m.arena_stride = (m.shared_bytes + 2 * margin_bytes + 4095) / 4096 * 4096;
  if (static_cast<std::size_t>(window * size) * m.arena_stride > arena_bytes)
    return invalid("so many resident blocks have no room for their shared memory", static_cast<std::int64_t>(arena_bytes / m.arena_stride),
                   window * size);
  if (m.arena == nullptr) m.arena = map_memory(arena_bytes);
  m.free_slots.clear();
  for (auto slot = static_cast<int>(window * size); slot-- > 0;) m.free_slots.push_back(slot);
  m.in_slot.assign(m.free_slots.size(), nullptr);
  m.ready.hold(static_cast<std::size_t>(window * size * m.threads));

  // Blocks come in any order, unless they wait for each other.
  bool const shuffled = m.how.seed != 0 && m.how.resident_blocks == 0 && count <= 1 << 20;
  std::vector<std::int32_t> order;
  if (shuffled) {
    for (std::int32_t i = 0; i < count; ++i) order.push_back(i);
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[draw() % i]);
  }
  bool failed = false;
  std::int64_t started = 0;
  while (!failed && (started < count || !m.clusters.empty())) {
    while (started < count && static_cast<std::int64_t>(m.clusters.size()) < window) {
      start_cluster(m, shuffled ? order[static_cast<std::size_t>(started)] : started);
      ++started;
    }
    thread* const t = next(m);
    m.why_back = outcome::stalled;
    if (t != nullptr) to_fibre_from_main(m, *t);
    if (m.why_back == outcome::cluster_ended) {
      end_cluster(m, *m.ended, false);
    } else if (m.why_back == outcome::failed) {
      failed = true;
    } else if (!try_unstall(m)) {
      if (m.doomed) break;
      m.findings.push_back({"deadlock", where_threads_wait(m), {}, {}, {}});
      failed = true;
    }
  }
  while (!m.clusters.empty()) end_cluster(m, *m.clusters.back(), true);
  try {
    while (!m.pending.empty()) complete(*m.pending.back());  // writes that the blocks did not have to wait for
  } catch (abandoned const&) {
    m.pending.clear();
  }
  unpoison(m.arena, static_cast<std::size_t>(window * size) * m.arena_stride);
  return {};
}

std::string kernel_name(char const* pretty) {
  std::string const name = pretty;
  auto const at = name.find("Kernel = ");
  if (at == std::string::npos) return name;
  int depth = 0;
  std::string kernel;
  for (std::size_t i = at + 9; i < name.size(); ++i) {
    char const c = name[i];
    if (depth == 0 && (c == ';' || c == ']' || c == ',')) break;
    depth += (c == '<' || c == '(' || c == '{' || c == '[') - (c == '>' || c == ')' || c == '}' || c == ']');
    kernel += c;
  }
  return kernel;
}

}  // namespace

thread* self() { return running; }
options const& current_options() { return active != nullptr ? active->how : chosen; }
std::uint64_t draw() {
  std::uint64_t z = active->random += 0x9e37'79b9'7f4a'7c15ull;
  z = (z ^ z >> 30) * 0xbf58'476d'1ce4'e5b9ull;
  z = (z ^ z >> 27) * 0x94d0'49bb'1331'11ebull;
  return z ^ z >> 31;
}
bool random_delivery() { return active->random_delivery; }

void wait(waiting const& why) { block_on(*running, why.what, why.on, why.number); }
void leave(machine& m, thread& t) { switch_away(m, t); }
void note_waiting_place(thread& t) { t.waits_at = here(); }
void wake(thread& t) { make_ready(*active, t); }
void step_back() {
  machine& m = *active;
  if (m.how.seed == 0) return;
  m.ready.push(running);
  switch_away(m, *running);
}
void give_up() {
  active->why_back = outcome::failed;
  to_main(*active, *running);
  __builtin_unreachable();
}

void meet(collective const& what, std::uint32_t lanes, void* mine) {
  thread& t = *running;
  block& b = *t.home;
  warp& w = b.warps[static_cast<std::size_t>(t.warp_index)];
  std::uint32_t const bit = 1u << t.lane;
  meeting* m = nullptr;
  for (meeting& other : w.meetings) {
    if (other.here != 0 && other.lanes == lanes) {
      m = &other;
      break;
    }
    if (other.here == 0 && m == nullptr) m = &other;
  }
  if (m == nullptr) m = &w.meetings.emplace_back();
  if (m->here == 0) {
    auto const exist = static_cast<int>(b.threads.size()) - t.warp_index * 32;
    if ((lanes & bit) == 0)
      fail("model", text("lane %d calls %s for lanes %08x, of which it is none, at {1}", t.lane, what.name, lanes), here());
    if (exist < 32 && lanes >> exist != 0)
      fail("model", text("%s at {1} is for lanes %08x, but the warp has only %d", what.name, lanes, exist), here());
    m->what = &what;
    m->lanes = lanes;
    m->first = here();
    if (watcher && what.orders_memory) watcher->sync_begin(m->sync);
  } else if (m->what != &what) {
    fail("model", text("lanes of a warp ask for different things: %s at {1}, and %s at {2}", m->what->name, what.name), m->first, here());
  } else if ((lanes & bit) == 0) {
    fail("model", text("lane %d calls %s for lanes %08x, of which it is none, at {1}", t.lane, what.name, lanes), here());
  }
  m->here |= bit;
  m->arguments[t.lane] = mine;
  if (watcher && what.orders_memory) watcher->arrive(m->sync, t);
  if (m->here != lanes) {
    block_on(t, what.name, nullptr, lanes == device::all_lanes ? -1 : static_cast<std::int64_t>(lanes));
    return;
  }
  machine& machine_here = *active;
  what.compute(*m, b, w);
  auto const first_thread = static_cast<std::size_t>(t.warp_index) * 32;
  if (watcher && what.orders_memory) watcher->phase_end(m->sync);
  m->here = 0;
  for (std::uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    auto const lane = static_cast<std::size_t>(__builtin_ctz(rest));
    m->arguments[lane] = nullptr;
    thread& other = *b.threads[first_thread + lane];
    if (watcher && what.orders_memory) watcher->acquire(m->sync, other);
    if (&other != &t) make_ready(machine_here, other);
  }
  if (watcher && what.orders_memory) watcher->sync_end(m->sync);
  step_back();
}

block* block_of(void const* p) {
  machine& m = *active;
  auto const* const b = static_cast<std::byte const*>(p);
  if (b < m.arena || b >= m.arena + arena_bytes) return nullptr;
  auto const slot = static_cast<std::size_t>(b - m.arena) / m.arena_stride;
  return slot < m.in_slot.size() ? m.in_slot[slot] : nullptr;
}

}  // namespace moesaic::device_model::internal

namespace moesaic::device_model {

using namespace internal;

scope::scope(options const& o) : before_(chosen) {
  chosen = o;
  if (watcher) watcher->launches_ordered();
}
scope::~scope() { chosen = before_; }

std::vector<std::string> take_findings() { return std::exchange(told, {}); }
conflict_count take_conflicts() { return watcher ? watcher->take_conflicts() : conflict_count{}; }
bool sees_races() { return watcher != nullptr; }

status run(cuda::grid const& blocks, int threads, std::size_t shared_bytes, void (*body)(void const*), void const* params, char const* name,
           int blocks_together) {
  if (active != nullptr) return invalid("a kernel of the device model cannot launch another", 0, 0);
  if (threads < 1 || threads > 1024) return invalid("a block has 1 to 1024 threads", 1024, threads);
  auto const limit = most_shared_bytes();
  if (static_cast<std::int64_t>(shared_bytes) > limit)
    return invalid("the kernel's shared memory does not fit a block's", limit, static_cast<std::int64_t>(shared_bytes));
  if (blocks.cluster < 1 || blocks.cluster > 8) return invalid("a cluster has 1 to 8 blocks", 8, blocks.cluster);
  if (blocks.cluster > 1 && chosen.architecture < 90) return invalid("clusters need sm_90", 90, chosen.architecture);
  if (blocks.x > 0x7fff'ffffu || blocks.y > 65535 || blocks.z > 65535)
    return invalid("a grid has at most 2^31 - 1 blocks along x, 65535 along y and z", 65535, std::max(blocks.y, blocks.z));
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) return {};
  if (blocks.x % blocks.cluster != 0) return invalid("a grid's x must be a multiple of its cluster", blocks.cluster, blocks.x);

  machine& m = the_machine();
  m.how = chosen;
  m.blocks = blocks;
  if (chosen.architecture < 90) m.blocks.early = false;   // there are no such launches, and no griddepcontrol in what is compiled
  m.threads = threads;
  m.shared_bytes = shared_bytes;
  m.body = body;
  m.params = params;
  m.blocks_together = blocks_together;
  m.reads.clear();
  m.loads = m.loads_skipped = 0;
  m.kernel = kernel_name(name);
  m.random = chosen.seed * 0xd129'0ab5'9e8f'21c3ull + 1;
  m.random_delivery = chosen.when == delivery::random;
  m.deliver_one_in = 4;
  for (auto seed = chosen.seed % 4; seed > 0; --seed) m.deliver_one_in *= 8;
  m.findings.clear();
  m.sleepers.clear();
  m.timed_waits.clear();
  m.pending.clear();
  m.copying.clear();
  m.idle_rounds = 0;
  m.doomed = false;
  m.places_noted = has_place_source();
  m.grid_waited = !m.blocks.early;
  active = &m;
  if (watcher) watcher->launch_begin(m.kernel.c_str());
  watch(m, true);
  status const done = run_grid(m);
  watch(m, false);
  check_reads(m);
  if (done && m.findings.empty() && !m.grid_waited)
    m.findings.push_back(
        {"model",
         "the launch is early, but no block calls griddepcontrol_wait: the grids after it may start before those before it end",
         {},
         {},
         {}});
  if (watcher) watcher->launch_end();
  active = nullptr;
  if (!done) return done;
  auto const texts = resolve(m.findings, m.kernel);
  told.insert(told.end(), texts.begin(), texts.end());
  if (!texts.empty())
    return invalid("the kernel does something wrong on the device model: take_findings() says what", 0,
                   static_cast<std::int64_t>(texts.size()));
  return {};
}

}  // namespace moesaic::device_model
