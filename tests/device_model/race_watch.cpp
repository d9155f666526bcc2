// The race detector as the device model's observer: threads, blocks and operations to agents and clocks, findings to sentences.
// SPDX-License-Identifier: Apache-2.0
#include "race_watch.hpp"

#include <cstring>
#include <deque>
#include <set>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "machine.hpp"
#include "race_launches.hpp"

namespace moesaic::device_model::race {

constinit thread_local window shared_window{0, 0};

namespace {

using namespace internal;
extern "C" char const __executable_start;

/// Places as numbers: of code the distance from the program's start, of others (bit 31) the number in a table.
class places {
 public:
  static constexpr std::uint32_t in_table = 0x8000'0000u;
  std::uint32_t of_code(void const* pc) {
    auto const distance = reinterpret_cast<std::uintptr_t>(pc) - reinterpret_cast<std::uintptr_t>(&__executable_start);
    if (distance < in_table) return static_cast<std::uint32_t>(distance);
    place p;
    p.at[0] = pc;
    return of(p);
  }
  std::uint32_t of(place const& p) {
    std::uint64_t hash = 0;
    for (auto const* const at : p.at) hash = (hash ^ reinterpret_cast<std::uintptr_t>(at)) * 0x9e3779b97f4a7c15ull;
    auto const [found, fresh] = number_.try_emplace(hash, static_cast<std::uint32_t>(table_.size()));
    if (fresh) table_.push_back(p);
    return in_table | found->second;
  }
  place back(std::uint32_t number) const {
    if ((number & in_table) != 0) return table_[number & ~in_table];
    place p;
    p.at[0] = &__executable_start + number;
    return p;
  }
  void clear() {
    number_.clear();
    table_.clear();
  }

 private:
  std::unordered_map<std::uint64_t, std::uint32_t> number_;
  std::deque<place> table_;
};

struct cluster_watch;

struct told_operation {
  cluster_watch* home;
  operation op;
  std::uint32_t place;
};
struct told_copy {
  cluster_watch* home;
  race::thread_copy copy;
};
struct told_point {
  cluster_watch* home = nullptr;                ///< of the first that comes
  meeting_point point;
};

/// What is watched together: the blocks of a cluster.
struct cluster_watch {
  cluster_watch(int blocks, int threads, std::size_t bytes) : clocks(blocks, threads, bytes, &tell, this), per_block(threads), alive(blocks) {}
  static void tell(void* self, finding const& f);

  struct slot_user {
    char const* name = "";
    std::uint32_t clock = 0;
    int thread = 0;
  };

  detector clocks;
  int per_block;
  int alive;                                    ///< blocks not ended
  std::uint32_t number = 0;                     ///< in the grid, from 1
  bool fenced_for_all = false;                  ///< a thread has called fence_gpu: relaxed atomics order from then on
  std::vector<slot_user> users;                 ///< of operation slots: the latest
  std::unordered_map<void const*, told_point> global;
  std::vector<conflict_counter> conflicts;      ///< a block each
};

struct watch_state {
  places where;
  std::set<std::tuple<problem, std::uint32_t, std::uint32_t>> said;   ///< one sentence for two places
  conflict_count conflicts;
  std::uint32_t clusters = 0;                   ///< begun in this launch
  bool global = false;                          ///< whether global memory is watched
  grid_memory grid;
  launch_history launches;
};
watch_state& state() {
  static thread_local watch_state s;
  return s;
}
constexpr std::size_t most_sentences = 12;

cluster_watch& home_of(thread& t) { return *static_cast<cluster_watch*>(t.race); }
int number_of(thread& t) { return home_of(t).clocks.thread(t.home->rank, t.id); }

char const* verb(access_kind k, bool past) {
  return k == access_kind::read ? (past ? "read" : "reads") : k == access_kind::write ? (past ? "wrote" : "writes") : past ? "changed" : "changes";
}
std::string name_of(cluster_watch const& w, access_record const& a) {
  if (is_slot(a.by)) {
    auto const slot = static_cast<std::size_t>(a.by & ~slot_bit);
    if (slot >= w.users.size()) return "an operation";
    auto const& user = w.users[slot];
    return text("%s%s of thread %d", user.clock == a.clock ? "" : "an earlier ", user.name, user.thread);
  }
  auto const stride = w.clocks.thread(1, 0);
  auto const name = a.by < stride ? text("thread %d", a.by) : text("thread %d of the cluster's block %d", a.by % stride, a.by / stride);
  return a.in_flight ? "cp.async of " + name : name;
}

void cluster_watch::tell(void* self, finding const& f) {
  auto& s = state();
  if (s.said.size() >= most_sentences || !s.said.emplace(f.what, f.before.place, f.now.place).second) return;
  auto const& w = *static_cast<cluster_watch*>(self);
  auto const now = name_of(w, f.now), before = name_of(w, f.before);
  auto const at = f.block == global_memory ? text("global memory at %#zx", f.offset)
                  : f.block == 0           ? text("shared+%zu", f.offset)
                                           : text("shared+%zu of the cluster's block %d", f.offset, f.block);
  if (f.what == problem::unwritten) {
    report("unwritten", text("%s %s %s at {1}, which nobody has written", now.c_str(), verb(f.now.kind, false), at.c_str()), s.where.back(f.now.place));
    return;
  }
  auto const both = text("%s %s %s at {1}, and %s %s it at {2}: ", before.c_str(), verb(f.before.kind, true), at.c_str(), now.c_str(), verb(f.now.kind, false));
  if (f.what == problem::race) {
    report("race", both + (f.before.in_flight ? "the copy was not waited for" : "nothing orders the two"), s.where.back(f.before.place), s.where.back(f.now.place));
  } else {
    report("proxy", both + "the writer did not call fence_proxy_async before they met", s.where.back(f.before.place), s.where.back(f.now.place));
  }
}

class watch final : public observer {
 public:
  void launch_begin(char const* kernel) override {
    state().where.clear();
    state().said.clear();
    state().clusters = 0;
    state().global = current_options().watch_global;
    if (state().global) state().launches.begin(kernel, active->blocks.early);
    else state().launches.forget();
  }
  void launches_ordered() override { state().launches.forget(); }
  void launch_end() override {
    shared_window = {0, 0};
    state().grid.clear();
  }

  void block_begin(block& b) override {
    auto const blocks = static_cast<int>(active->blocks.cluster);
    auto const& first = b.cluster->blocks.front();
    if (first->race != nullptr) {
      b.race = first->race;
    } else {
      auto* const fresh = new cluster_watch(blocks, active->threads, b.shared_bytes);
      fresh->number = ++state().clusters;
      b.race = fresh;
    }
    if (current_options().count_conflicts) home_of(b).conflicts.resize(static_cast<std::size_t>(blocks));
    if (state().global) shared_window = {0, ~std::uintptr_t{0}};
    else shared_window = {reinterpret_cast<std::uintptr_t>(active->arena), arena_bytes};
  }
  void block_end(block& b) override {
    auto& w = home_of(b);
    for (auto& m : b.mbarriers) sync_end(m);
    for (auto& n : b.barriers) sync_end(n);
    for (auto& one : b.warps)
      for (auto& m : one.meetings) sync_end(m.sync);
    if (!w.conflicts.empty()) {
      auto& c = w.conflicts[static_cast<std::size_t>(b.rank)];
      c.end_block();
      state().conflicts.instructions += c.instructions;
      state().conflicts.passes += c.passes;
    }
    if (--w.alive == 0) delete &w;
    b.race = nullptr;
  }
  void thread_begin(thread& t) override { t.race = t.home->race; }
  void thread_end(thread&) override {}

  void arrive(sync_point& s, thread& t) override {
    auto& p = point(s, home_of(t));
    p.home->clocks.release(p.point, number_of(t));
  }
  void arrive(sync_point& s, async_op& op) override {
    if (op.race == nullptr) return;
    auto& told = *static_cast<told_operation*>(op.race);
    auto& p = point(s, *told.home);
    p.home->clocks.release(p.point, told.op);
  }
  void arrive_copies(sync_point& s, thread& t, internal::thread_copy const* first, std::size_t count) override {
    auto& p = point(s, home_of(t));
    std::vector<race::thread_copy*> copies;
    for (std::size_t i = 0; i < count; ++i)
      if (first[i].race != nullptr) copies.push_back(&static_cast<told_copy*>(first[i].race)->copy);
    p.home->clocks.release(p.point, number_of(t), copies.data(), copies.size());
  }
  void phase_end(sync_point& s) override {
    auto* const p = static_cast<told_point*>(s.race);
    if (p != nullptr && p->home != nullptr) p->home->clocks.end_phase(p->point);
  }
  void acquire(sync_point& s, thread& t) override {
    if (s.race != nullptr) home_of(t).clocks.acquire(static_cast<told_point*>(s.race)->point, number_of(t));
  }
  void sync_begin(sync_point& s) override {
    sync_end(s);
    s.race = new told_point;
  }
  void sync_end(sync_point& s) override {
    delete static_cast<told_point*>(s.race);
    s.race = nullptr;
  }

  void fence_proxy_async(thread& t) override { home_of(t).clocks.fence_proxy_async(number_of(t)); }
  void fence_gpu(thread& t) override { home_of(t).fenced_for_all = true; }
  void global_release(thread& t, void const* at) override {
    state().grid.release(home_of(t).number, at);
    auto& p = home_of(t).global[at];
    if (p.point.ended) p.point.gathered = std::make_shared<history>(*p.point.ended);   // what was released before stays
    home_of(t).clocks.release(p.point, number_of(t));
    home_of(t).clocks.end_phase(p.point);
  }
  void global_acquire(thread& t, void const* at) override {
    state().grid.acquire(home_of(t).number, at);
    auto const found = home_of(t).global.find(at);
    if (found != home_of(t).global.end()) home_of(t).clocks.acquire(found->second.point, number_of(t));
  }

  void access(thread& t, void const* at, std::size_t bytes, bool write, bool atomic, place const& where) override {
    auto const kind = atomic ? access_kind::atomic : write ? access_kind::write : access_kind::read;
    auto const number = state().where.of(where);
    if (auto const* const b = memory_of(t, at)) {
      note(t, *b, at, bytes, kind, number);
    } else if (state().global) {
      note_global(t, reinterpret_cast<std::uintptr_t>(at), bytes, kind, number);
      if (atomic && home_of(t).fenced_for_all) {
        global_release(t, at);
        global_acquire(t, at);
      }
    }
  }

  void issue(async_op& op, thread& t) override {
    auto& w = home_of(t);
    bool const of_warp = std::strncmp(op.name, "wgmma", 5) == 0;
    auto const first = t.id / 32 * 32;
    auto& told = *new told_operation{&w, of_warp ? w.clocks.begin_of_warp(w.clocks.thread(t.home->rank, first), std::min(32, w.per_block - first))
                                                 : w.clocks.begin(number_of(t)),
                                     state().where.of(op.asked)};
    auto const slot = static_cast<std::size_t>(told.op.by & ~slot_bit);
    if (w.users.size() <= slot) w.users.resize(slot + 1);
    w.users[slot] = {op.name, told.op.clock, t.id};
    op.race = &told;
    for (auto const& touch : op.touches) {
      auto const* const b = block_of(touch.at);
      if (b != nullptr && b->race == t.race) w.clocks.access(told.op, b->rank, offset_in(*b, touch.at), touch.bytes, touch.write, told.place);
      else if (b == nullptr && state().global) {
        auto const address = reinterpret_cast<std::uintptr_t>(touch.at);
        w.clocks.access(told.op, global_memory, address, touch.bytes, touch.write, told.place);
        between_clusters(t, address, touch.bytes, touch.write ? access_kind::write : access_kind::read, told.place);
      }
    }
  }
  void done(async_op& op) override {
    if (op.race == nullptr) return;
    auto& told = *static_cast<told_operation*>(op.race);
    told.op.history = nullptr;                  // all its accesses were told when it was asked for
    told.op.fence_history = nullptr;
  }
  void dropped(async_op& op) override {
    delete static_cast<told_operation*>(op.race);
    op.race = nullptr;
  }
  void waited(async_op& op, thread& t) override {
    if (op.race != nullptr) home_of(t).clocks.waited(static_cast<told_operation*>(op.race)->op, number_of(t));
  }

  void copy_issue(internal::thread_copy& c, thread& t) override {
    if (c.bytes == 0) return;
    auto& w = home_of(t);
    if (state().global && c.read > 0)
      note_global(t, reinterpret_cast<std::uintptr_t>(c.from), static_cast<std::size_t>(c.read), access_kind::read, state().where.of(c.asked));
    c.race = new told_copy{&w, w.clocks.begin_copy(number_of(t), t.home->rank, offset_in(*t.home, c.to), static_cast<std::size_t>(c.bytes),
                                                   state().where.of(c.asked))};
  }
  void copy_waited(internal::thread_copy& c, thread& t) override {
    if (c.race != nullptr) home_of(t).clocks.waited(static_cast<told_copy*>(c.race)->copy, number_of(t));
  }
  void copy_dropped(internal::thread_copy& c) override {
    delete static_cast<told_copy*>(c.race);
    c.race = nullptr;
  }

  conflict_count take_conflicts() override { return std::exchange(state().conflicts, {}); }

  static void note(thread& t, block const& b, void const* at, std::size_t bytes, access_kind kind, std::uint32_t where) {
    auto& w = home_of(t);
    auto const offset = offset_in(b, at);
    w.clocks.access(number_of(t), b.rank, offset, bytes, kind, where);
    if (!w.conflicts.empty() && kind != access_kind::atomic) w.conflicts[static_cast<std::size_t>(t.home->rank)].note(t.id, where, offset, bytes);
  }

  static void note_global(thread& t, std::uintptr_t address, std::size_t bytes, access_kind kind, std::uint32_t where) {
    home_of(t).clocks.access(number_of(t), global_memory, address, bytes, kind, where);
    between_clusters(t, address, bytes, kind, where);
  }

 private:
  static void between_clusters(thread& t, std::uintptr_t address, std::size_t bytes, access_kind kind, std::uint32_t where) {
    auto& s = state();
    beside_other_launches(t, address, bytes, kind, where);
    auto const found = s.grid.access(home_of(t).number, address, bytes, kind, where);
    if (found.cluster == 0 || s.said.size() >= most_sentences || !s.said.emplace(problem::race, found.place, where).second) return;
    report("race", text("another block %s global memory at %#zx at {1}, and thread %d %s it at {2}: nothing orders the blocks", verb(found.kind, true),
                        address, t.id, verb(kind, false)),
           s.where.back(found.place), s.where.back(where));
  }
  static void beside_other_launches(thread& t, std::uintptr_t address, std::size_t bytes, access_kind kind, std::uint32_t where) {
    auto& s = state();
    auto const before = s.launches.note(address, bytes, kind != access_kind::read, t.home->grid_waited, where, [&](std::uint32_t n) { return s.where.back(n); });
    if (before.launch == 0 || s.said.size() >= most_sentences || !s.said.emplace(problem::race, ~before.place, where).second) return;
    report("race", text("an early launch %s global memory at %#zx at {1} before griddepcontrol_wait, and the launch before it, of %s, touches it at {2}",
                        verb(kind, false), address, s.launches.kernel(before).c_str()),
           s.where.back(where), s.launches.where(before));
  }
  static cluster_watch& home_of(block& b) { return *static_cast<cluster_watch*>(b.race); }
  static cluster_watch& home_of(thread& t) { return race::home_of(t); }
  static std::size_t offset_in(block const& b, void const* at) { return static_cast<std::size_t>(static_cast<std::byte const*>(at) - b.shared); }
  static block const* memory_of(thread& t, void const* at) {
    if (t.home->holds(at)) return t.home;
    auto const* const b = block_of(at);
    return b != nullptr && b->race == t.home->race && b->holds(at) ? b : nullptr;
  }
  static told_point& point(sync_point& s, cluster_watch& w) {
    if (s.race == nullptr) s.race = new told_point;
    auto& p = *static_cast<told_point*>(s.race);
    if (p.home == nullptr) p.home = &w;
    return p;
  }
};

watch the_watch;
[[maybe_unused]] bool const watching = (watcher = &the_watch, true);

}  // namespace

void plain_access(std::uintptr_t at, std::size_t bytes, access_kind kind, void const* pc) {
  auto* const t = running;
  if (t == nullptr || bytes == 0) return;
  auto const* const address = reinterpret_cast<std::byte const*>(at);
  auto const where = state().where.of_code(pc);
  if (address < active->arena || address >= active->arena + arena_bytes) {
    if (address >= t->stack && address < t->stack + t->stack_bytes) return;
    watch::note_global(*t, at, bytes, kind, where);
    return;
  }
  if (!t->home->holds(address, bytes)) {
    report("model", text("thread %d %s %zu bytes at shared%+td at {1}, outside of its block's %zu bytes of shared memory", t->id,
                         kind == access_kind::read ? "reads" : "writes", bytes, address - t->home->shared, t->home->shared_bytes),
           state().where.back(where));
    return;
  }
  watch::note(*t, *t->home, address, bytes, kind, where);
}

}  // namespace moesaic::device_model::race
