// Accesses and synchronisation to races: see race.hpp.
// SPDX-License-Identifier: Apache-2.0
#include "race.hpp"

#include <algorithm>
#include <bit>

namespace moesaic::device_model::race {

namespace {

constexpr std::uint32_t none = 0xffff'ffffu;

void raise(std::vector<std::uint32_t>& to, std::vector<std::uint32_t> const& from) {
  if (to.size() < from.size()) to.resize(from.size());
  for (std::size_t i = 0; i < from.size(); ++i) to[i] = std::max(to[i], from[i]);
}
bool holds(std::vector<std::uint32_t> const& a, std::vector<std::uint32_t> const& b) {
  for (std::size_t i = 0; i < b.size(); ++i)
    if (b[i] > (i < a.size() ? a[i] : 0)) return false;
  return true;
}
/// Whether who knows a knows b.
bool holds(history const& a, history const& b) {
  return a.floor >= b.floor && holds(a.of_slot, b.of_slot) && holds(a.fenced, b.fenced) && holds(a.of_thread, b.of_thread);
}
void set(std::vector<std::uint32_t>& v, std::size_t at, std::uint32_t value) {
  if (v.size() <= at) v.resize(at + 1);
  v[at] = value;
}
std::size_t number(agent slot) { return slot & ~std::size_t{slot_bit}; }

}  // namespace

// Lanes of one warp with one clock, or an operation, that have read a cell (or changed it atomically) since it was written.
struct detector::reader {
  std::uint32_t clock = 0;
  std::uint32_t lanes = 0;                      // 0: nobody. Of an operation: 1
  std::uint32_t place = 0;
  agent group = 0;                              // warp, or slot
  bool atomic = false;
  std::uint32_t next = none;                    // of more_readers_
};

// Four bytes; one where they differ.
struct detector::cell {
  std::uint32_t clock = 0;
  std::uint32_t place = 0;
  agent by = 0;
  bool written = false;
  bool async = false;                           // through the async proxy
  bool in_flight = false;
  bool is_split = false;                        // then `bytes`, and nothing else
  std::uint32_t bytes = none;
  reader first;
};

struct detector::actor {
  history const* knows;
  agent by;
  std::uint32_t clock;
  std::uint32_t place;
  int self;                                     // a thread whose accesses so far come before
  std::uint32_t fenced = 0;
  history const* fence_history = nullptr;
  bool async = false;
  bool in_flight = false;

  agent group() const { return is_slot(by) ? by : static_cast<agent>(by / 32); }
  std::uint32_t lane() const { return is_slot(by) ? 1u : 1u << by % 32; }
};

struct detector::memory {
  std::vector<cell> words;
};
struct detector::page {
  static constexpr std::size_t count = 256;
  cell words[count];
};

detector::detector(int blocks, int threads, std::size_t bytes, void (*tell)(void*, finding const&), void* told)
    : threads_(blocks * threads), stride_((threads + 31) / 32 * 32), count_(blocks * stride_), tell_(tell), told_(told) {
  auto nothing = std::make_shared<history>();
  nothing->of_thread.resize(static_cast<std::size_t>(count_));
  of_.resize(static_cast<std::size_t>(count_));
  for (auto& t : of_) t.knows = nothing;
  memory_.resize(static_cast<std::size_t>(blocks));
  for (auto& m : memory_) m.words.resize((bytes + 3) / 4);
}
detector::~detector() = default;

// --- clocks ---------------------------------------------------------------------------------------------------------------------------

void detector::join_into(history& into, history const& from) {
  into.floor = std::max(into.floor, from.floor);
  into.newest = std::max(into.newest, from.newest);
  raise(into.of_thread, from.of_thread);
  raise(into.fenced, from.fenced);
  raise(into.of_slot, from.of_slot);
}
known detector::join(known const& a, known const& b) {
  if (!b || a == b) return a;
  auto const hash = (reinterpret_cast<std::uintptr_t>(a.get()) >> 5) * 31 + (reinterpret_cast<std::uintptr_t>(b.get()) >> 5);
  auto& memo = joins_[hash % remembered];
  if (memo.a == a && memo.b == b) return memo.result;
  memo.a = a;
  memo.b = b;
  if (holds(*b, *a)) {
    memo.result = b;
  } else if (holds(*a, *b)) {
    memo.result = a;
  } else {
    auto both = std::make_shared<history>(*a);
    join_into(*both, *b);
    memo.result = std::move(both);
  }
  return memo.result;
}
std::shared_ptr<history> detector::gather(meeting_point& m, known const& from) {
  if (!m.gathered) {
    m.gathered = std::make_shared<history>(*from);
  } else if (m.joined_last != from) {
    join_into(*m.gathered, *from);
  }
  m.joined_last = from;
  return m.gathered;
}

void detector::release(meeting_point& m, int thread) {
  auto const t = static_cast<std::size_t>(thread);
  auto& mine = of_[t];
  auto const to = gather(m, mine.knows);
  to->of_thread[t] = mine.clock;
  if (mine.fenced != 0) set(to->fenced, t, mine.fenced);
  to->newest = std::max(to->newest, mine.clock);
  ++mine.clock;
  ++m.arrivals;
}
void detector::release(meeting_point& m, operation const& op) {
  if (!m.gathered) {
    m.gathered = std::make_shared<history>();
    m.gathered->of_thread.resize(static_cast<std::size_t>(count_));
  }
  set(m.gathered->of_slot, number(op.by), std::max(m.gathered->slot(number(op.by)), op.clock));
}
void detector::end_phase(meeting_point& m) {
  if (m.gathered && m.arrivals >= static_cast<std::size_t>(threads_)) {
    // All threads have just arrived. One number says most of what everybody knows of them, and all of it next time: their clocks go on from one value.
    // (Who arrived without waiting may have gone on already, at the clock after the one it arrived with.)
    bool all = true;
    std::uint32_t newest = 0, oldest = none;
    for (int t = 0; all && t < count_; ++t) {
      if (t % stride_ >= threads_ / static_cast<int>(memory_.size())) continue;
      auto const clock = of_[static_cast<std::size_t>(t)].clock;
      all = m.gathered->of_thread[static_cast<std::size_t>(t)] + 1 == clock;
      newest = std::max(newest, clock);
      oldest = std::min(oldest, clock);
    }
    if (all) {
      m.gathered->floor = std::max(m.gathered->floor, oldest - 1);
      m.gathered->newest = newest;
      for (auto& t : of_) t.clock = newest + 1;
    }
  }
  m.ended = std::move(m.gathered);
  m.gathered = nullptr;
  m.joined_last = nullptr;
  m.arrivals = 0;
}
void detector::acquire(meeting_point const& m, int thread) {
  if (!m.ended) return;
  auto& mine = of_[static_cast<std::size_t>(thread)];
  mine.knows = join(mine.knows, m.ended);
  mine.clock = std::max(mine.clock, m.ended->newest + 1);
}
void detector::fence_proxy_async(int thread) {
  auto& mine = of_[static_cast<std::size_t>(thread)];
  mine.fenced = mine.clock++;
  mine.fence_history = mine.knows;
}

// --- operations -----------------------------------------------------------------------------------------------------------------------

operation detector::with_slot(known history_of_asker) {
  operation op;
  std::size_t s = 0;
  while (s < slots_.size() && history_of_asker->slot(s) < slots_[s]) ++s;
  if (s == slots_.size()) slots_.push_back(0);
  op.by = static_cast<agent>(slot_bit | s);
  op.clock = ++slots_[s];
  auto seen = std::make_shared<history>();
  set(seen->of_slot, s, op.clock);
  op.seen = std::move(seen);
  op.history = std::move(history_of_asker);
  return op;
}
operation detector::begin(int thread) {
  auto const& mine = of_[static_cast<std::size_t>(thread)];
  auto op = with_slot(mine.knows);
  op.asked_by = thread;
  op.fenced = mine.fenced;
  op.fence_history = mine.fence_history;
  return op;
}
operation detector::begin_of_warp(int first_thread, int lanes) {
  auto const first = static_cast<std::size_t>(first_thread);
  bool same = true;
  for (int l = 1; l < lanes; ++l) same = same && of_[first + static_cast<std::size_t>(l)].knows == of_[first].knows;
  auto common = of_[first].knows;
  if (!same) {
    auto least = std::make_shared<history>(*common);
    for (int l = 1; l < lanes; ++l) {
      auto const& other = *of_[first + static_cast<std::size_t>(l)].knows;
      least->floor = std::min(least->floor, other.floor);
    }
    auto const known_of = [](history const& h, std::size_t i) { return std::max(h.floor, h.of_thread[i]); };
    for (std::size_t i = 0; i < least->of_thread.size(); ++i) {
      std::uint32_t smallest = none;
      for (std::size_t l = first; l < first + static_cast<std::size_t>(lanes); ++l)
        if (l != i) smallest = std::min(smallest, known_of(*of_[l].knows, i));   // what a lane knows of itself says nothing of the others
      least->of_thread[i] = smallest;
    }
    for (int l = 1; l < lanes; ++l) {
      auto const& other = *of_[first + static_cast<std::size_t>(l)].knows;
      for (std::size_t i = 0; i < least->of_slot.size(); ++i) least->of_slot[i] = std::min(least->of_slot[i], other.slot(i));
      for (std::size_t i = 0; i < least->fenced.size(); ++i) least->fenced[i] = std::min(least->fenced[i], i < other.fenced.size() ? other.fenced[i] : 0);
    }
    common = std::move(least);
  }
  auto op = with_slot(std::move(common));
  op.fence_history = of_[first].fence_history;
  return op;
}
void detector::waited(operation const& op, int thread) {
  auto& mine = of_[static_cast<std::size_t>(thread)];
  mine.knows = join(mine.knows, op.seen);
}

// --- cells ----------------------------------------------------------------------------------------------------------------------------

bool detector::ordered(actor const& who, agent before, std::uint32_t clock) const {
  if (is_slot(before)) return before == who.by || who.knows->slot(number(before)) >= clock;
  return clock <= who.knows->floor || before == who.self || who.knows->of_thread[before] >= clock;
}
bool detector::lanes_ordered(actor const& who, reader const& r) const {
  if (is_slot(r.group)) return ordered(who, r.group, r.clock);
  if (r.clock <= who.knows->floor) return true;
  for (auto lanes = r.lanes; lanes != 0; lanes &= lanes - 1)
    if (!ordered(who, static_cast<agent>(r.group * 32 + std::countr_zero(lanes)), r.clock)) return false;
  return true;
}
void detector::say(problem what, actor const& who, int block, std::size_t offset, access_record const& before, access_kind kind) {
  tell_(told_, finding{what, block, offset, before, {who.by, who.clock, who.place, kind, who.in_flight}});
}

/// Against the last write.
inline void detector::check_write(actor const& who, cell const& c, int block, std::size_t offset, access_kind kind) {
  if (!c.written) {
    if (kind != access_kind::write) say(problem::unwritten, who, block, offset, {}, kind);
    return;
  }
  access_record const before{c.by, c.clock, c.place, access_kind::write, c.in_flight};
  if (c.in_flight || !ordered(who, c.by, c.clock)) {
    say(problem::race, who, block, offset, before, kind);
  } else if (who.async && !c.async) {
    auto const fenced = is_slot(c.by)      ? who.fence_history != nullptr && who.fence_history->slot(number(c.by)) >= c.clock
                        : c.by == who.self ? who.fenced >= c.clock
                                           : c.by < who.knows->fenced.size() && who.knows->fenced[c.by] >= c.clock;
    if (!fenced) say(problem::proxy, who, block, offset, before, kind);
  }
}
void detector::drop_readers(cell& c) {
  for (auto r = c.first.next; r != none;) {
    auto const next = more_readers_[r].next;
    more_readers_[r].next = free_reader_;
    free_reader_ = r;
    r = next;
  }
  c.first.next = none;
  c.first.lanes = 0;
}
/// Checks against readers and changers, drops those that what comes now stands for, and adds itself.
void detector::add_reader(actor const& who, cell& c, access_kind kind, int block, std::size_t offset) {
  auto const group = who.group();
  auto const lane = who.lane();
  auto const atomic = kind == access_kind::atomic;
  auto& f = c.first;
  if (f.next == none) {                         // nearly always
    if (f.lanes == 0 || (f.group == group && f.clock == who.clock && f.atomic == atomic)) {
      if (f.lanes == 0) f = {who.clock, 0, who.place, group, atomic, none};
      f.lanes |= lane;
      return;
    }
    if (!f.atomic && !atomic && lanes_ordered(who, f)) {
      f = {who.clock, lane, who.place, group, false, none};
      return;
    }
  }
  // A chain: `into` is where this access is noted, once a place is found.
  reader* into = nullptr;
  auto const consider = [&](reader& r) {        // true: r may go
    if (r.lanes == 0) return true;
    if (r.group == group && r.clock == who.clock && r.atomic == atomic) {
      into = &r;
      return false;
    }
    bool const before = lanes_ordered(who, r);
    if (r.atomic != atomic && !before) {
      auto const l = is_slot(r.group) ? r.group : static_cast<agent>(r.group * 32 + std::countr_zero(r.lanes));
      say(problem::race, who, block, offset, {l, r.clock, r.place, r.atomic ? access_kind::atomic : access_kind::read}, kind);
    }
    return before && (!r.atomic || atomic);
  };
  bool const first_free = consider(f);
  if (first_free) f.lanes = 0;
  for (auto* link = &f.next; *link != none;) {
    auto const at = *link;
    auto& r = more_readers_[at];
    if (consider(r)) {
      *link = r.next;
      r.next = free_reader_;
      free_reader_ = at;
    } else {
      link = &r.next;
    }
  }
  if (into != nullptr) {
    into->lanes |= lane;
  } else if (f.lanes == 0) {
    auto const next = f.next;
    f = {who.clock, lane, who.place, group, atomic, next};
  } else {
    std::uint32_t at = free_reader_;
    if (at != none) {
      free_reader_ = more_readers_[at].next;
    } else {
      at = static_cast<std::uint32_t>(more_readers_.size());
      more_readers_.emplace_back();
    }
    more_readers_[at] = {who.clock, lane, who.place, group, atomic, f.next};
    f.next = at;
  }
}
void detector::touch_cell(actor const& who, cell& c, int block, std::size_t offset, access_kind kind) {
  if (kind == access_kind::write) {
    if (c.first.lanes == 0 && c.first.next == none && c.written && c.by == who.by && c.clock == who.clock && !c.in_flight && !who.in_flight) {
      c.place = who.place;
      return;
    }
    check_write(who, c, block, offset, kind);
    auto const against = [&](reader const& r) {
      if (r.lanes == 0 || lanes_ordered(who, r)) return;
      auto lanes = r.lanes;
      if (!is_slot(r.group))
        while (ordered(who, static_cast<agent>(r.group * 32 + std::countr_zero(lanes)), r.clock)) lanes &= lanes - 1;
      auto const l = is_slot(r.group) ? r.group : static_cast<agent>(r.group * 32 + std::countr_zero(lanes));
      say(problem::race, who, block, offset, {l, r.clock, r.place, r.atomic ? access_kind::atomic : access_kind::read}, kind);
    };
    against(c.first);
    for (auto r = c.first.next; r != none; r = more_readers_[r].next) against(more_readers_[r]);
    if (c.first.lanes != 0 || c.first.next != none) drop_readers(c);
    c.clock = who.clock;
    c.place = who.place;
    c.by = who.by;
    c.written = true;
    c.async = who.async;
    c.in_flight = who.in_flight;
    return;
  }
  check_write(who, c, block, offset, kind);
  add_reader(who, c, kind, block, offset);
}

/// The bytes of a word as cells of their own.
detector::cell* detector::split(cell& c) {
  if (c.is_split) return split_[c.bytes].data();
  std::uint32_t at;
  if (!free_split_.empty()) {
    at = free_split_.back();
    free_split_.pop_back();
  } else {
    at = static_cast<std::uint32_t>(split_.size());
    split_.emplace_back();
  }
  for (auto& byte : split_[at]) {
    byte = c;
    byte.first.next = none;
    for (auto r = c.first.next; r != none; r = more_readers_[r].next) {
      auto copy = more_readers_[r];
      copy.next = byte.first.next;
      byte.first.next = static_cast<std::uint32_t>(more_readers_.size());
      more_readers_.push_back(copy);
    }
  }
  drop_readers(c);
  c.is_split = true;
  c.bytes = at;
  return split_[at].data();
}

detector::cell& detector::word_at(int block, std::size_t number) {
  if (block != global_memory) return memory_[static_cast<std::size_t>(block)].words[number];
  if (latest_page_ == nullptr || latest_page_number_ != number / page::count) {
    auto const [found, fresh] = pages_.try_emplace(number / page::count);
    if (fresh) {
      found->second = std::make_unique<page>();
      for (auto& c : found->second->words) c.written = c.async = true;   // before everything, and for everybody
    }
    latest_page_ = found->second.get();
    latest_page_number_ = number / page::count;
  }
  return latest_page_->words[number % page::count];
}
template <class Do>
void detector::each_cell(int block, std::size_t offset, std::size_t bytes, Do what) {
  auto const end = block == global_memory ? offset + bytes : std::min(offset + bytes, memory_[static_cast<std::size_t>(block)].words.size() * 4);
  while (offset < end) {
    auto& word = word_at(block, offset / 4);
    auto const upto = std::min(end, offset / 4 * 4 + 4);
    bool const whole = upto - offset == 4;
    if (whole && !word.is_split) {
      what(word, offset);
    } else {
      auto* const byte = split(word);
      for (auto i = offset; i < upto; ++i) what(byte[i % 4], i);
    }
    offset = upto;
  }
}
void detector::touch(actor const& who, int block, std::size_t offset, std::size_t bytes, access_kind kind) {
  each_cell(block, offset, bytes, [&](cell& c, std::size_t at) { touch_cell(who, c, block, at, kind); });
  if (kind != access_kind::write || split_.empty()) return;
  // Words that were written as a whole are whole again.
  auto const end = block == global_memory ? (offset + bytes) / 4
                                          : std::min((offset + bytes) / 4, memory_[static_cast<std::size_t>(block)].words.size());
  for (auto at = (offset + 3) / 4; at < end; ++at) {
    auto& word = word_at(block, at);
    if (!word.is_split) continue;
    auto const from = word.bytes;
    word = split_[from][0];
    free_split_.push_back(from);
  }
}

void detector::access(int thread, int block, std::size_t offset, std::size_t bytes, access_kind kind, std::uint32_t place) {
  auto const& mine = of_[static_cast<std::size_t>(thread)];
  actor const who{mine.knows.get(), static_cast<agent>(thread), mine.clock, place, thread};
  touch(who, block, offset, bytes, kind);
}
void detector::access(operation const& op, int block, std::size_t offset, std::size_t bytes, bool write, std::uint32_t place) {
  actor const who{op.history.get(), op.by, op.clock, place, op.asked_by, op.fenced, op.fence_history.get(), true};
  touch(who, block, offset, bytes, write ? access_kind::write : access_kind::read);
}

// --- cp.async -------------------------------------------------------------------------------------------------------------------------

thread_copy detector::begin_copy(int thread, int block, std::size_t offset, std::size_t bytes, std::uint32_t place) {
  auto const& mine = of_[static_cast<std::size_t>(thread)];
  actor const who{mine.knows.get(), static_cast<agent>(thread), mine.clock, place, thread, 0, nullptr, false, true};
  touch(who, block, offset, bytes, access_kind::write);
  return {block, offset, bytes, mine.clock, {}};
}
void detector::waited(thread_copy& c, int thread) {
  if (c.with.clock != 0) return waited(c.with, thread);
  auto const clock = of_[static_cast<std::size_t>(thread)].clock;
  each_cell(c.block, c.offset, c.bytes, [&](cell& at, std::size_t) {
    if (at.in_flight && at.by == thread && at.clock == c.clock) {
      at.in_flight = false;
      at.clock = clock;
    }
  });
}
void detector::release(meeting_point& m, int thread, thread_copy* const* copies, std::size_t count) {
  auto const op = with_slot(of_[static_cast<std::size_t>(thread)].knows);
  for (std::size_t i = 0; i < count; ++i) {
    auto& c = *copies[i];
    if (c.with.clock != 0) continue;
    each_cell(c.block, c.offset, c.bytes, [&](cell& at, std::size_t) {
      if (at.in_flight && at.by == thread && at.clock == c.clock) {
        at.in_flight = false;
        at.by = op.by;
        at.clock = op.clock;
      }
    });
    c.with = op;
  }
  release(m, op);
}

// --- between clusters -----------------------------------------------------------------------------------------------------------------

bool grid_memory::conflicts(std::uint32_t cluster, last const& before) const {
  if (before.cluster == 0 || before.cluster == cluster) return false;
  auto const knows = known_.find(cluster);
  return knows == known_.end() || (before.cluster != several && knows->second.find(before.cluster) == knows->second.end());
}
void grid_memory::note(last& of, std::uint32_t cluster, std::uint32_t place) {
  of = {of.cluster == 0 || of.cluster == cluster ? cluster : several, place};
}
inline void grid_memory::touch(cell& c, std::uint32_t cluster, access_kind kind, std::uint32_t place, conflict& found) const {
  auto const against = [&](last const& before, access_kind of) {
    if (conflicts(cluster, before)) found = {before.cluster, before.place, of};
  };
  against(c.write, access_kind::write);
  if (kind != access_kind::read) against(c.read, access_kind::read);
  if (kind != access_kind::atomic) against(c.change, access_kind::atomic);
  if (kind == access_kind::write) c = {{cluster, place}, {}, {}, 0};
  else note(kind == access_kind::read ? c.read : c.change, cluster, place);
}
grid_memory::conflict grid_memory::access(std::uint32_t cluster, std::size_t address, std::size_t bytes, access_kind kind, std::uint32_t place) {
  conflict found;
  auto const end = address + bytes;
  while (address < end) {
    auto const number = address / 4 / page_words;
    if (latest_ == nullptr || number != latest_number_) {
      auto& owned = pages_[number];
      if (!owned) owned = std::make_unique<page>();
      latest_ = owned.get();
      latest_number_ = number;
    }
    auto& word = (*latest_)[address / 4 % page_words];
    auto const upto = std::min(end, address / 4 * 4 + 4);
    if (upto - address == 4 && word.bytes == 0) {
      touch(word, cluster, kind, place, found);
    } else {
      if (word.bytes == 0) {
        split_.push_back({word, word, word, word});
        word.bytes = static_cast<std::uint32_t>(split_.size());
      }
      for (; address < upto; ++address) touch(split_[word.bytes - 1][address % 4], cluster, kind, place, found);
    }
    address = upto;
  }
  return found;
}
void grid_memory::release(std::uint32_t cluster, void const* at) {
  auto& into = released_[at];
  into.insert(cluster);
  if (auto const knows = known_.find(cluster); knows != known_.end()) into.insert(knows->second.begin(), knows->second.end());
}
void grid_memory::acquire(std::uint32_t cluster, void const* at) {
  if (auto const from = released_.find(at); from != released_.end()) known_[cluster].insert(from->second.begin(), from->second.end());
}
void grid_memory::clear() {
  pages_.clear();
  latest_ = nullptr;
  split_.clear();
  released_.clear();
  known_.clear();
}

// --- bank conflicts -------------------------------------------------------------------------------------------------------------------

conflict_counter::site& conflict_counter::find(std::uint64_t key) {
  if ((sites_.size() + 1) * 2 > table_.size()) {
    table_.assign(std::max<std::size_t>(64, table_.size() * 2), 0);
    for (std::size_t i = 0; i < sites_.size(); ++i) {
      auto at = sites_[i].first * 0x9e3779b97f4a7c15ull >> 32;
      while (table_[at % table_.size()] != 0) ++at;
      table_[at % table_.size()] = static_cast<std::uint32_t>(i + 1);
    }
  }
  for (auto at = key * 0x9e3779b97f4a7c15ull >> 32;; ++at) {
    auto& entry = table_[at % table_.size()];
    if (entry == 0) {
      sites_.emplace_back(key, site{});
      entry = static_cast<std::uint32_t>(sites_.size());
    }
    if (sites_[entry - 1].first == key) return sites_[entry - 1].second;
  }
}
void conflict_counter::note(int thread, std::uint32_t place, std::size_t offset, std::size_t bytes) {
  auto& s = find(static_cast<std::uint64_t>(place) << 8 | bytes);
  s.bytes = bytes;
  if (s.of_thread.size() <= static_cast<std::size_t>(thread)) s.of_thread.resize(static_cast<std::size_t>(thread) + 1);
  s.of_thread[static_cast<std::size_t>(thread)].offset.push_back(static_cast<std::uint32_t>(offset));
}
void conflict_counter::end_block() {
  for (auto& [key, s] : sites_) {
    auto const width = std::max<std::size_t>(4, s.bytes);
    auto const together = std::max<std::size_t>(1, 128 / width);
    for (std::size_t from = 0; from < s.of_thread.size(); from += together) {
      auto const to = std::min(from + together, s.of_thread.size());
      std::size_t times = 0;
      for (auto t = from; t < to; ++t) times = std::max(times, s.of_thread[t].offset.size());
      for (std::size_t k = 0; k < times; ++k) {
        std::array<std::vector<std::uint32_t>, 32> words;
        for (auto t = from; t < to; ++t) {
          if (k >= s.of_thread[t].offset.size()) continue;
          for (std::size_t b = 0; b < width; b += 4) {
            auto const word = static_cast<std::uint32_t>((s.of_thread[t].offset[k] + b) / 4);
            auto& bank = words[word % 32];
            if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
          }
        }
        std::size_t most = 0;
        for (auto const& bank : words) most = std::max(most, bank.size());
        ++instructions;
        passes += most;
      }
    }
  }
  sites_.clear();
  table_.clear();
}

}  // namespace moesaic::device_model::race
