// Copies of the device model that go on while threads work: cp.async, bulk copies, boxes of tensor maps.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "machine.hpp"

namespace moesaic::device_model::internal {
namespace {

bool eager() { return active->how.when == delivery::eager; }

std::ptrdiff_t offset(block const& b, void const* p) { return static_cast<std::byte const*>(p) - b.shared; }

bool fresh(std::byte const* p, std::size_t bytes) {
  return std::all_of(p, p + bytes, [](std::byte x) { return x == std::byte{fresh_byte}; });
}

// --- cp.async -------------------------------------------------------------------------------------------------------------------------

void deliver(thread& t, thread_copy& c, bool in_flight) {
  if (in_flight && !fresh(c.to, static_cast<std::size_t>(c.bytes)))
    report("model", text("shared+%td was written while the cp_async of {1} to it was under way", offset(*t.home, c.to)), c.asked);
  std::memcpy(c.to, c.from, static_cast<std::size_t>(c.read));
  std::memset(c.to + c.read, 0, static_cast<std::size_t>(c.bytes - c.read));
  c.delivered = true;
}
void list(thread& t) {
  if (t.listed >= 0) return;
  t.listed = static_cast<int>(active->copying.size());
  active->copying.push_back(&t);
}
void unlist(thread& t) {
  if (t.listed < 0) return;
  auto& copying = active->copying;
  copying.back()->listed = t.listed;
  copying[static_cast<std::size_t>(t.listed)] = copying.back();
  copying.pop_back();
  t.listed = -1;
}
/// The oldest `count` copies leave the thread's list.
void drop(thread& t, std::size_t count) {
  if (watcher)
    for (std::size_t i = 0; i < count; ++i) watcher->copy_dropped(t.copies[i]);
  t.copies.erase(t.copies.begin(), t.copies.begin() + static_cast<std::ptrdiff_t>(count));
  std::size_t rest = std::min(count, t.committed);
  t.committed -= rest;
  for (std::size_t& group : t.groups) {
    auto const out = std::min(group, rest);
    group -= out;
    rest -= out;
  }
}
/// Arrivals whose copies have all landed; those copies then leave the list.
void arrive_where_landed(thread& t) {
  std::size_t last = 0;
  for (std::size_t i = 0; i < t.copies.size(); ++i) {
    thread_copy& c = t.copies[i];
    if (c.bytes == 0 && !c.delivered) {
      c.delivered = true;
      arrive_for_copies(t, c.arrive, t.copies.data(), i);
    }
    if (!c.delivered) break;
    if (c.bytes == 0) last = i + 1;
  }
  drop(t, last);
  if (std::all_of(t.copies.begin(), t.copies.end(), [](thread_copy const& c) { return c.delivered; })) unlist(t);
}

// --- the bulk engine ------------------------------------------------------------------------------------------------------------------

constexpr std::uint64_t map_magic = 0x6d6f'6573'6169'6354ull;
static_assert(sizeof(device::tensor_description) <= 15 * 8);

device::tensor_description const& decoded(device::tensor_map const* map, char const* name) {
  thread const& t = *running;
  auto const* const p = reinterpret_cast<std::byte const*>(map);
  if (p >= t.stack && p < t.stack + t.stack_bytes)
    fail("model", text("%s at {1}: the tensor map is a copy in a thread, and must lie in the kernel's params", name), here());
  if (reinterpret_cast<std::uintptr_t>(map) % 64 != 0) fail("model", text("%s at {1}: the tensor map is not aligned to 64", name), here());
  if (__asan_region_is_poisoned && __asan_region_is_poisoned(const_cast<device::tensor_map*>(map), sizeof *map) != nullptr)
    fail("model", text("%s at {1}: the tensor map is not addressable", name), here());
  if (map->opaque[15] != map_magic) fail("model", text("%s at {1}: the tensor map was not made by encode", name), here());
  return *reinterpret_cast<device::tensor_description const*>(map->opaque);
}

/// What a bulk copy moves: `bytes` in a row, or a box of a tensor.
struct extent {
  device::tensor_description tensor;  // dimensions 0: linear
  std::int64_t at[5] = {};
  std::byte* linear = nullptr;
  std::size_t bytes = 0;  // in shared memory

  /// f(global row, bytes there, bytes before it that are outside, place of the row in shared memory): rows inside the tensor at least in part.
  /// outside(place in shared memory): rows that are not.
  template <class Inside, class Outside>
  void rows(Inside inside, Outside outside) const {
    auto const& t = tensor;
    if (t.dimensions == 0) {
      inside(linear, bytes, std::size_t{0}, std::size_t{0});
      return;
    }
    auto const element = static_cast<std::int64_t>(device::bytes_of(t.element));
    auto const row_bytes = static_cast<std::size_t>(t.box[0]) * static_cast<std::size_t>(element);
    std::int64_t const first = std::clamp<std::int64_t>(at[0], 0, static_cast<std::int64_t>(t.size[0]));
    std::int64_t const last = std::clamp<std::int64_t>(at[0] + t.box[0], 0, static_cast<std::int64_t>(t.size[0]));
    std::int64_t index[5] = {};
    for (std::size_t place = 0; place < bytes; place += row_bytes) {
      bool in = first < last;
      std::int64_t from = first * element;
      for (int d = 1; d < t.dimensions; ++d) {
        std::int64_t const i = at[d] + index[d];
        in = in && i >= 0 && i < static_cast<std::int64_t>(t.size[d]);
        from += i * static_cast<std::int64_t>(t.stride[d]);
      }
      auto* const data = static_cast<std::byte*>(const_cast<void*>(t.data));
      if (in)
        inside(data + from, static_cast<std::size_t>((last - first) * element), static_cast<std::size_t>((first - at[0]) * element), place);
      else outside(place);
      for (int d = 1; d < t.dimensions; ++d) {
        if (++index[d] < t.box[d]) break;
        index[d] = 0;
      }
    }
  }
  std::size_t row_bytes() const {
    return tensor.dimensions == 0 ? bytes
                                  : static_cast<std::size_t>(tensor.box[0]) * static_cast<std::size_t>(device::bytes_of(tensor.element));
  }
  /// Where a byte of the box lies, `start` being the box's address in the shared window.
  std::size_t placed(std::size_t start, std::size_t place) const {
    std::size_t const address = start + place;
    switch (tensor.dimensions == 0 ? device::swizzle::none : tensor.swizzle) {
      case device::swizzle::none: return place;
      case device::swizzle::b32: return (address ^ (address >> 3 & 0x10)) - start;
      case device::swizzle::b64: return (address ^ (address >> 3 & 0x30)) - start;
      case device::swizzle::b128: return (address ^ (address >> 3 & 0x70)) - start;
    }
    return place;
  }
  void check_rows(char const* name) const {
    rows([&](std::byte* p, std::size_t n, std::size_t, std::size_t) { check_global(p, n, 1, name); }, [](std::size_t) {});
  }
};

/// The global memory of an operation is told where that is watched.
void touch_global(async_op& op, extent const& what, bool write) {
  if (!watcher || !active->how.watch_global) return;
  what.rows([&](std::byte* p, std::size_t n, std::size_t, std::size_t) { op.touches.push_back({p, n, write}); }, [](std::size_t) {});
}

/// Calls piece(place, bytes) for the parts of [place, place + n) that swizzling keeps together.
template <class Piece>
void pieces(std::size_t place, std::size_t n, Piece piece) {
  while (n > 0) {
    std::size_t const part = std::min(n, 16 - place % 16);
    piece(place, part);
    place += part;
    n -= part;
  }
}

class load_op final : public async_op {
 public:
  extent what;
  std::byte* to = nullptr;
  device::mbarrier* reports_to = nullptr;
  bool in_flight = false;

  void complete() override {
    if (in_flight && !fresh(to, what.bytes))
      report("model",
             text("shared+%td to shared+%td was written while the %s of {1} to it was under way", offset(*home, to),
                  offset(*home, to + what.bytes), name),
             asked);
    std::size_t const start = window_start + static_cast<std::size_t>(offset(*home, to));
    std::memset(to, 0, what.bytes);
    what.rows(
        [&](std::byte const* p, std::size_t n, std::size_t skipped, std::size_t row) {
          if (what.tensor.dimensions == 0 || what.tensor.swizzle == device::swizzle::none) {
            std::memcpy(to + row + skipped, p, n);
            return;
          }
          pieces(row + skipped, n, [&](std::size_t place, std::size_t part) {
            std::memcpy(to + what.placed(start, place), p, part);
            p += part;
          });
        },
        [](std::size_t) {});
    mbarrier_complete_bytes(reports_to, static_cast<std::uint32_t>(what.bytes), *this);
  }
};

class store_op final : public async_op {
 public:
  extent what;
  std::byte const* from = nullptr;
  std::uint64_t hashed = 0;
  std::vector<std::byte> kept;  // the source, once it is read
  bool read = false, read_waited = false;

  void read_source() {
    if (read) return;
    if (hash(from, what.bytes) != hashed)
      report("model",
             text("shared+%td to shared+%td, the source of the %s of {1}, was written before it was read", offset(*home, from),
                  offset(*home, from + what.bytes), name),
             asked);
    kept.resize(what.bytes);
    std::size_t const start = window_start + static_cast<std::size_t>(offset(*home, from));
    if (what.tensor.dimensions == 0 || what.tensor.swizzle == device::swizzle::none) {
      std::memcpy(kept.data(), from, what.bytes);
    } else {
      pieces(0, what.bytes,
             [&](std::size_t place, std::size_t part) { std::memcpy(kept.data() + place, from + what.placed(start, place), part); });
    }
    read = true;
  }
  void complete() override {
    read_source();
    what.rows([&](std::byte* p, std::size_t n, std::size_t skipped, std::size_t row) { std::memcpy(p, kept.data() + row + skipped, n); },
              [](std::size_t) {});
    kept = {};
  }
};

void need_sm90(char const* name) {
  if (current_options().architecture < 90) fail("model", text("%s at {1} needs sm_90", name), here());
}

void start_load(char const* name, extent const& what, void* to_shared, device::mbarrier* b, std::uint32_t blocks) {
  block& mine = *running->home;
  auto& alive = mine.cluster->blocks;
  if (blocks == 0) blocks = 1u << mine.rank;
  if (blocks >> alive.size() != 0)
    fail("model", text("%s at {1}: blocks %04x are not all of a cluster of %zu", name, blocks, alive.size()), here());
  check_mbarrier(mine, b, name);
  place const asked = here();
  for (std::size_t rank = 0; rank < alive.size(); ++rank) {
    if ((blocks >> rank & 1) == 0) continue;
    block& other = *alive[rank];
    if (other.running == 0) fail("model", text("%s at {1}: block %zu of the cluster has ended", name, rank), here());
    auto* const reports_to = reinterpret_cast<device::mbarrier*>(other.shared + offset(mine, b));
    check_reports_to(other, reports_to, name);
    auto* const op = new load_op;
    op->name = name;
    op->what = what;
    op->home = &other;
    op->asked = asked;
    op->to = other.shared + offset(mine, to_shared);
    op->reports_to = reports_to;
    op->touches.push_back({op->to, what.bytes, true});
    touch_global(*op, what, false);
    if (watcher) what.rows([&](std::byte* p, std::size_t n, std::size_t, std::size_t) { op->touches.push_back({p, n, false}); }, [](std::size_t) {});
    op->in_flight = !eager();
    if (op->in_flight) std::memset(op->to, fresh_byte, what.bytes);
    issue(op);
  }
  step_back();
}

void start_store(char const* name, extent const& what, void const* from_shared) {
  check_grid_waited(name);
  auto* const op = new store_op;
  op->name = name;
  op->what = what;
  op->from = static_cast<std::byte const*>(from_shared);
  op->hashed = hash(from_shared, what.bytes);
  op->only_by_wait = true;
  op->release_when_done = false;
  op->asked = here();
  op->touches.push_back({from_shared, what.bytes, false});
  touch_global(*op, what, true);
  if (watcher) what.rows([&](std::byte* p, std::size_t n, std::size_t, std::size_t) { op->touches.push_back({p, n, true}); }, [](std::size_t) {});
  running->bulk_open.push_back(op);
  issue(op);
  step_back();
}

extent box_at(device::tensor_map const* map, int dimensions, int const* at, void const* shared, char const* name) {
  need_sm90(name);
  extent e;
  e.tensor = decoded(map, name);
  if (e.tensor.dimensions != dimensions)
    fail("model", text("%s at {1}: the tensor map has %d dimensions", name, e.tensor.dimensions), here());
  if (auto const s = e.tensor.swizzle; s != device::swizzle::none && e.row_bytes() != static_cast<std::size_t>(device::bytes_of(s)))
    fail("model", text("%s at {1}: the map's box is narrower than its swizzle, and where hardware puts it is not written down", name), here());
  e.bytes = static_cast<std::size_t>(device::bytes_of(e.tensor.element));
  for (int d = 0; d < dimensions; ++d) {
    e.at[d] = at[d];
    e.bytes *= e.tensor.box[d];
  }
  check_shared(shared, e.bytes, e.tensor.swizzle == device::swizzle::b128 ? 1024 : 128, name);
  e.check_rows(name);
  return e;
}

constexpr char const* load_names[] = {"tma_load_1d", "tma_load_2d", "tma_load_3d", "tma_load_4d", "tma_load_5d"};
constexpr char const* store_names[] = {"tma_store_1d", "tma_store_2d", "tma_store_3d", "tma_store_4d", "tma_store_5d"};

void release(async_op* op) {
  // The machine deletes what is still pending; what is done already has no other owner.
  if (op->done) {
    delete op;
  } else {
    op->release_when_done = true;
    op->may_outlive_block = true;
  }
}

}  // namespace

// --- the scheduler's side -------------------------------------------------------------------------------------------------------------

async_op::~async_op() {
  if (watcher && race != nullptr) watcher->dropped(*this);
}

void complete(async_op& op) {
  std::erase(active->pending, &op);
  op.complete();
  op.done = true;
  ++active->progress;
  if (watcher) watcher->done(op);
  if (op.release_when_done) delete &op;
}
void issue(async_op* op) {
  machine& m = *active;
  op->issuer = running;
  op->issuer_id = running->id;
  if (op->home == nullptr) op->home = running->home;
  if (op->asked.at[0] == nullptr) op->asked = here();
  if (watcher) watcher->issue(*op, *running);
  m.pending.push_back(op);
  if (m.how.when == delivery::eager) complete(*op);
}
void force(async_op& op) {
  if (!op.done) complete(op);
}

void deliver_copies(thread& t, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i)
    if (thread_copy& c = t.copies[i]; !c.delivered && c.bytes != 0) deliver(t, c, true);
  arrive_where_landed(t);
}
void deliver_some_copies(thread& t) {
  for (thread_copy& c : t.copies)
    if (!c.delivered && c.bytes != 0 && draw() % 2 == 0) deliver(t, c, true);
  arrive_where_landed(t);
}
void deliver_at_random(machine& m) {
  if (m.pending.empty() && m.copying.empty()) return;
  std::size_t const which = draw() % (m.pending.size() + m.copying.size());
  if (which < m.pending.size()) complete(*m.pending[which]);
  else deliver_some_copies(*m.copying[which - m.pending.size()]);
}
bool deliver_when_stalled(machine& m) {
  std::vector<async_op*> able;
  for (async_op* const op : m.pending)
    if (!op->only_by_wait) able.push_back(op);
  if (!able.empty()) {
    complete(*able[m.how.seed == 0 ? 0 : draw() % able.size()]);
    return true;
  }
  for (thread* const t : m.copying) {
    for (std::size_t i = 0; i < t->copies.size(); ++i) {
      if (t->copies[i].bytes == 0 && !t->copies[i].delivered) {
        deliver_copies(*t, i);
        return true;
      }
    }
  }
  return false;
}

void check_thread_end(thread& t) {
  for (thread_copy const& c : t.copies) {
    if (c.bytes == 0 || c.reported) continue;
    report("model", "a thread ended with a cp_async under way that it never waited for, asked for at {1}", c.asked);
    break;
  }
  for (async_op* const op : t.bulk_open) {
    report("model", text("a thread ended with a %s in no group (cp_async_bulk_commit_group), asked for at {1}", op->name), op->asked);
    force(*op);
    delete op;
  }
  t.bulk_open.clear();
  for (auto const& group : t.bulk_groups) {
    for (async_op* const op : group) {
      if (!static_cast<store_op*>(op)->read_waited) {
        report("model", text("a thread ended while its %s of {1} might still read shared memory: it never waited for the group", op->name),
               op->asked);
        force(*op);
      }
      release(op);
    }
  }
  t.bulk_groups.clear();
}
void check_block_end(thread& t) {
  for (thread_copy const& c : t.copies) {
    if (c.delivered || c.bytes == 0) continue;
    report("model", "a block ended while a cp_async was under way, asked for at {1}", c.asked);
    break;
  }
}
void forget_thread(thread& t) {
  if (watcher)
    for (thread_copy& c : t.copies) watcher->copy_dropped(c);
  t.copies.clear();
  t.groups.clear();
  t.committed = 0;
  unlist(t);
  for (async_op* const op : t.bulk_open) release(op);
  for (auto const& group : t.bulk_groups)
    for (async_op* const op : group) release(op);
  t.bulk_open.clear();
  t.bulk_groups.clear();
}

// --- memory ---------------------------------------------------------------------------------------------------------------------------

void check_shared(void const* p, std::size_t bytes, std::size_t alignment, char const* name) {
  block const& b = *running->home;
  if (!b.holds(p, bytes))
    fail("model", text("%s at {1}: %zu bytes are not all inside the block's %zu bytes of shared memory", name, bytes, b.shared_bytes),
         here());
  if (static_cast<std::size_t>(offset(b, p)) % alignment != 0)
    fail("model", text("%s at {1}: shared+%td is not a multiple of %zu", name, offset(b, p), alignment), here());
}
void check_global(void const* p, std::size_t bytes, std::size_t alignment, char const* name) {
  machine const& m = *active;
  auto const* const b = static_cast<std::byte const*>(p);
  if (b >= m.arena && b < m.arena + arena_bytes)
    fail("model", text("%s at {1}: a shared address where a global one is meant", name), here());
  if (b >= running->stack && b < running->stack + running->stack_bytes)
    fail("model", text("%s at {1}: a thread's own memory where a global address is meant", name), here());
  if (reinterpret_cast<std::uintptr_t>(p) % alignment != 0)
    fail("model", text("%s at {1}: the global address is not a multiple of %zu", name, alignment), here());
  if (__asan_region_is_poisoned && bytes != 0) {
    if (void const* const bad = __asan_region_is_poisoned(const_cast<void*>(p), bytes))
      fail("model",
           text("%s at {1}: of %zu bytes of global memory the one at %td is not addressable", name, bytes,
                static_cast<std::byte const*>(bad) - b),
           here());
  }
}
std::uint64_t hash(void const* p, std::size_t bytes) {
  auto const* b = static_cast<unsigned char const*>(p);
  std::uint64_t h = 0x9e37'79b9'7f4a'7c15ull + bytes;
  for (; bytes >= 8; bytes -= 8, b += 8) {
    std::uint64_t word;
    std::memcpy(&word, b, 8);
    h = (h ^ word) * 0xff51'afd7'ed55'8ccdull;
    h ^= h >> 32;
  }
  for (; bytes > 0; --bytes, ++b) h = (h ^ *b) * 0xff51'afd7'ed55'8ccdull;
  return h ^ h >> 29;
}

// --- what device/ calls ---------------------------------------------------------------------------------------------------------------

void cp_async(void* to_shared, void const* from_global, int bytes, int from) {
  thread& t = *running;
  if (from < 0 || from > bytes) fail("model", text("cp_async at {1}: %d of %d bytes are to be read", from, bytes), here());
  check_shared(to_shared, static_cast<std::size_t>(bytes), static_cast<std::size_t>(bytes), "cp_async");
  if (from > 0) check_global(from_global, static_cast<std::size_t>(from), static_cast<std::size_t>(bytes), "cp_async");
  thread_copy& c = t.copies.emplace_back();
  c.to = static_cast<std::byte*>(to_shared);
  c.from = static_cast<std::byte const*>(from_global);
  c.bytes = bytes;
  c.read = from;
  c.asked = here();
  if (watcher) watcher->copy_issue(c, t);
  if (eager()) {
    deliver(t, c, false);
  } else {
    std::memset(to_shared, fresh_byte, static_cast<std::size_t>(bytes));
    list(t);
  }
}
void cp_async_wait(int pending) {
  thread& t = *running;
  if (active->random_delivery && t.listed >= 0 && draw() % 2 == 0) deliver_some_copies(t);  // also of later groups
  if (t.groups.size() <= static_cast<std::size_t>(pending)) return;
  auto const ending = t.groups.size() - static_cast<std::size_t>(pending);
  std::size_t count = 0;
  for (std::size_t g = 0; g < ending; ++g) count += t.groups[g];
  for (std::size_t i = 0; i < count; ++i)
    if (thread_copy& c = t.copies[i]; !c.delivered && c.bytes != 0) deliver(t, c, true);
  for (std::size_t i = 0; i < count; ++i) {
    thread_copy& c = t.copies[i];
    if (watcher && c.bytes != 0) watcher->copy_waited(c, t);
    if (c.bytes == 0 && !c.delivered) {
      c.delivered = true;
      arrive_for_copies(t, c.arrive, t.copies.data(), i);
    }
  }
  drop(t, count);
  t.groups.erase(t.groups.begin(), t.groups.begin() + static_cast<std::ptrdiff_t>(ending));
  arrive_where_landed(t);
}

void bulk_wait(int pending, bool read) {
  thread& t = *running;
  if (t.bulk_groups.size() <= static_cast<std::size_t>(pending)) return;
  auto const ending = t.bulk_groups.size() - static_cast<std::size_t>(pending);
  // Groups whose source alone was waited for stay, for a wait for all of it; the oldest of very many are completed early.
  constexpr std::size_t most_kept = 64;
  std::size_t out = read ? (ending > most_kept ? ending - most_kept : 0) : ending;
  for (std::size_t g = 0; g < ending; ++g) {
    for (async_op* const op : t.bulk_groups[g]) {
      auto& store = *static_cast<store_op*>(op);
      store.read_source();
      if (g < out) force(store);
      if (watcher && (!store.read_waited || g < out)) watcher->waited(store, t);
      store.read_waited = store.may_outlive_block = true;
      if (g < out) delete &store;
    }
  }
  t.bulk_groups.erase(t.bulk_groups.begin(), t.bulk_groups.begin() + static_cast<std::ptrdiff_t>(out));
  step_back();
}

void bulk_load(void* to_shared, void const* from_global, std::uint32_t bytes, device::mbarrier* b) {
  need_sm90("bulk_load");
  if (bytes == 0 || bytes % 16 != 0) fail("model", text("bulk_load at {1}: %u bytes are not a multiple of 16", bytes), here());
  check_shared(to_shared, bytes, 16, "bulk_load");
  check_global(from_global, bytes, 16, "bulk_load");
  extent e;
  e.linear = static_cast<std::byte*>(const_cast<void*>(from_global));
  e.bytes = bytes;
  start_load("bulk_load", e, to_shared, b, 0);
}
void bulk_store(void* to_global, void const* from_shared, std::uint32_t bytes) {
  need_sm90("bulk_store");
  if (bytes == 0 || bytes % 16 != 0) fail("model", text("bulk_store at {1}: %u bytes are not a multiple of 16", bytes), here());
  check_shared(from_shared, bytes, 16, "bulk_store");
  check_global(to_global, bytes, 16, "bulk_store");
  extent e;
  e.linear = static_cast<std::byte*>(to_global);
  e.bytes = bytes;
  start_store("bulk_store", e, from_shared);
}
void tma_load(void* to_shared, device::tensor_map const* map, device::mbarrier* b, int dimensions, int const* at, std::uint32_t blocks) {
  char const* const name = load_names[dimensions - 1];
  start_load(name, box_at(map, dimensions, at, to_shared, name), to_shared, b, blocks);
}
void tma_store(device::tensor_map const* map, void const* from_shared, int dimensions, int const* at) {
  char const* const name = store_names[dimensions - 1];
  start_store(name, box_at(map, dimensions, at, from_shared, name), from_shared);
}

}  // namespace moesaic::device_model::internal

namespace moesaic::device {

using namespace device_model::internal;
using device_model::internal::running;

void cp_async_commit_group() {
  thread& t = *running;
  t.groups.push_back(t.copies.size() - t.committed);
  t.committed = t.copies.size();
}
void cp_async_mbarrier_arrive_noinc(mbarrier* b) {
  thread& t = *running;
  check_mbarrier(*t.home, b, "cp_async_mbarrier_arrive_noinc");
  for (thread_copy& c : t.copies) c.reported = true;
  thread_copy& c = t.copies.emplace_back();
  c.arrive = b;
  c.asked = here();
  list(t);
  arrive_where_landed(t);
  step_back();
}

void bulk_load(void* to_shared, void const* from_global, std::uint32_t bytes, mbarrier* b) {
  device_model::internal::bulk_load(to_shared, from_global, bytes, b);
}
void bulk_store(void* to_global, void const* from_shared, std::uint32_t bytes) {
  device_model::internal::bulk_store(to_global, from_shared, bytes);
}
void bulk_prefetch(void const* from_global, std::uint32_t bytes) {
  if (bytes % 16 != 0) fail("model", text("bulk_prefetch at {1}: %u bytes are not a multiple of 16", bytes), here());
  check_global(from_global, bytes, 16, "bulk_prefetch");
}
void cp_async_bulk_commit_group() {
  thread& t = *running;
  t.bulk_groups.push_back(t.bulk_open);
  t.bulk_open.clear();
}
void fence_proxy_async() {
  fence_inits(*running);
  if (watcher) watcher->fence_proxy_async(*running);
}

status encode(tensor_description const& t, tensor_map& map) {
  if (auto const why = check(t); !why) return why;
  if (reinterpret_cast<std::uintptr_t>(t.data) % 16 != 0)
    return invalid("a tensor map's data must be aligned to 16 bytes", 16,
                   static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(t.data) % 16));
  map = {};
  std::memcpy(map.opaque, &t, sizeof t);
  map.opaque[15] = map_magic;
  return {};
}
void prefetch_tensormap(tensor_map const* map) { decoded(map, "prefetch_tensormap"); }

void tma_load_1d(void* to_shared, tensor_map const* map, mbarrier* b, int c0) {
  int const at[] = {c0};
  tma_load(to_shared, map, b, 1, at);
}
void tma_load_2d(void* to_shared, tensor_map const* map, mbarrier* b, int c0, int c1) {
  int const at[] = {c0, c1};
  tma_load(to_shared, map, b, 2, at);
}
void tma_load_3d(void* to_shared, tensor_map const* map, mbarrier* b, int c0, int c1, int c2) {
  int const at[] = {c0, c1, c2};
  tma_load(to_shared, map, b, 3, at);
}
void tma_load_4d(void* to_shared, tensor_map const* map, mbarrier* b, int c0, int c1, int c2, int c3) {
  int const at[] = {c0, c1, c2, c3};
  tma_load(to_shared, map, b, 4, at);
}
void tma_load_5d(void* to_shared, tensor_map const* map, mbarrier* b, int c0, int c1, int c2, int c3, int c4) {
  int const at[] = {c0, c1, c2, c3, c4};
  tma_load(to_shared, map, b, 5, at);
}
void tma_load_2d_multicast(void* to_shared, tensor_map const* map, mbarrier* b, std::uint16_t blocks, int c0, int c1) {
  int const at[] = {c0, c1};
  if (blocks == 0) fail("model", "tma_load_2d_multicast at {1} names no block", here());
  tma_load(to_shared, map, b, 2, at, blocks);
}
void tma_load_3d_multicast(void* to_shared, tensor_map const* map, mbarrier* b, std::uint16_t blocks, int c0, int c1, int c2) {
  int const at[] = {c0, c1, c2};
  if (blocks == 0) fail("model", "tma_load_3d_multicast at {1} names no block", here());
  tma_load(to_shared, map, b, 3, at, blocks);
}
void tma_store_1d(tensor_map const* map, void const* from_shared, int c0) {
  int const at[] = {c0};
  tma_store(map, from_shared, 1, at);
}
void tma_store_2d(tensor_map const* map, void const* from_shared, int c0, int c1) {
  int const at[] = {c0, c1};
  tma_store(map, from_shared, 2, at);
}
void tma_store_3d(tensor_map const* map, void const* from_shared, int c0, int c1, int c2) {
  int const at[] = {c0, c1, c2};
  tma_store(map, from_shared, 3, at);
}
void tma_store_4d(tensor_map const* map, void const* from_shared, int c0, int c1, int c2, int c3) {
  int const at[] = {c0, c1, c2, c3};
  tma_store(map, from_shared, 4, at);
}
void tma_store_5d(tensor_map const* map, void const* from_shared, int c0, int c1, int c2, int c3, int c4) {
  int const at[] = {c0, c1, c2, c3, c4};
  tma_store(map, from_shared, 5, at);
}

}  // namespace moesaic::device
