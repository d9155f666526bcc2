// Matrix instructions of a warp: fragments become tiles, tiles are multiplied, and what wgmma has under way is held until a wait and
// looked at again.
// SPDX-License-Identifier: Apache-2.0
#include "matrix.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "internal.hpp"
#include "matrix_operand.hpp"
#include "matrix_product.hpp"

namespace moesaic::device_model::internal {

namespace {

/// Vectors of this file's own: a program under the race detector has std::vector's functions for the same elements, instrumented, and the linker keeps one.
template <class T>
struct own {
  using value_type = T;
  own() = default;
  template <class U>
  own(own<U> const&) {}
  T* allocate(std::size_t count) { return static_cast<T*>(::operator new(count * sizeof(T))); }
  void deallocate(T* at, std::size_t) { ::operator delete(at); }
  friend bool operator==(own const&, own const&) { return true; }
};
template <class T>
using list = std::vector<T, own<T>>;

constexpr int lanes = device::warp_size;
constexpr int warps_of_group = 4;

std::uint32_t read(registers const& r, int i) {
  std::uint32_t bits;
  std::memcpy(&bits, r[i], 4);
  return bits;
}
void write(registers const& r, int i, std::uint32_t bits) { std::memcpy(r[i], &bits, 4); }

template <class Arguments>
Arguments& of_lane(meeting const& m, int lane) {
  return *static_cast<Arguments*>(m.arguments[lane]);
}
thread& thread_of(block& home, warp const& w, int lane) {
  return *home.threads[static_cast<std::size_t>(&w - home.warps.data()) * lanes + static_cast<std::size_t>(lane)];
}
/// Fails unless every lane says the same.
template <class Arguments, class Said>
void same_in_lanes(meeting const& m, char const* text, Said said) {
  for (int lane = 1; lane < lanes; ++lane)
    if (!(said(of_lane<Arguments>(m, lane)) == said(of_lane<Arguments>(m, 0)))) fail("model", text, m.first);
}

// --- ldmatrix and stmatrix ------------------------------------------------------------------------------------------------------------

struct tiles_arguments {
  int tiles;
  bool transposed, store;
  registers r;
  std::byte* row;
  place asked;
};

void move_tiles(meeting const& m, block& home, warp& w) {
  using arguments = tiles_arguments;
  same_in_lanes<arguments>(m, "lanes of a warp ask for different ldmatrix or stmatrix at {1}",
                           [](arguments const& a) { return std::array{a.tiles, int{a.transposed}, int{a.store}}; });
  auto const& of_all = of_lane<arguments>(m, 0);
  char const* const name = of_all.store ? "stmatrix" : "ldmatrix";
  for (int i = 0; i < of_all.tiles; ++i) {
    std::uint16_t tile[8][8];
    auto const row = [&](int r) -> arguments& { return of_lane<arguments>(m, 8 * i + r); };
    for (int r = 0; r < 8; ++r) {
      check_shared(row(r).row, 16, 16, name);
      if (watcher) watcher->access(thread_of(home, w, 8 * i + r), row(r).row, 16, of_all.store, false, row(r).asked);
      if (!of_all.store) std::memcpy(tile[r], row(r).row, 16);
    }
    for (int lane = 0; lane < lanes; ++lane) {
      int const line = lane / 4, pair = 2 * (lane % 4);
      std::uint16_t& low = of_all.transposed ? tile[pair][line] : tile[line][pair];
      std::uint16_t& high = of_all.transposed ? tile[pair + 1][line] : tile[line][pair + 1];
      auto const& r = of_lane<arguments>(m, lane).r;
      if (of_all.store) {
        low = static_cast<std::uint16_t>(read(r, i));
        high = static_cast<std::uint16_t>(read(r, i) >> 16);
      } else {
        write(r, i, low | static_cast<std::uint32_t>(high) << 16);
      }
    }
    if (of_all.store)
      for (int r = 0; r < 8; ++r) std::memcpy(row(r).row, tile[r], 16);
  }
}
constexpr collective ldmatrix_of_warp{"ldmatrix", move_tiles}, stmatrix_of_warp{"stmatrix", move_tiles};

// --- fragments ------------------------------------------------------------------------------------------------------------------------

/// Rows of 32 bytes: register i of a lane lies in row lane / 4 (+ 8 for odd i), bytes 4 (lane % 4) (+ 16 for i 2, 3) and the next three.
template <class Word>
void tile_of_a(std::byte (*a)[32], Word word) {
  for (int lane = 0; lane < lanes; ++lane)
    for (int i = 0; i < 4; ++i) {
      std::uint32_t const bits = word(lane, i);
      std::memcpy(a[lane / 4 + 8 * (i % 2)] + 4 * (lane % 4) + 16 * (i / 2), &bits, 4);
    }
}
/// Where accumulator i of a lane lies in the warp's [16, n].
constexpr int place_of_sum(int n, int lane, int i) { return (lane / 4 + i % 4 / 2 * 8) * n + i / 4 * 8 + 2 * (lane % 4) + i % 2; }

e4m3_sums sums_of_e4m3() { return current_options().e4m3_14_bits ? e4m3_sums::bits14 : e4m3_sums::fp32; }

struct mma_arguments {
  dtype t;
  registers d, a, b;
};

void mma_of_lanes(meeting const& m, block&, warp&) {
  using arguments = mma_arguments;
  same_in_lanes<arguments>(m, "lanes of a warp multiply different types at {1}", [](arguments const& a) { return a.t; });
  std::byte a[16][32], b[8][32];
  std::uint32_t d[16 * 8];
  tile_of_a(a, [&](int lane, int i) { return read(of_lane<arguments>(m, lane).a, i); });
  for (int lane = 0; lane < lanes; ++lane) {
    auto const& of = of_lane<arguments>(m, lane);
    for (int i = 0; i < 2; ++i) std::memcpy(b[lane / 4] + 4 * (lane % 4) + 16 * i, of.b[i], 4);
    for (int i = 0; i < 4; ++i) d[place_of_sum(8, lane, i)] = read(of.d, i);
  }
  multiply(of_lane<arguments>(m, 0).t, 16, 8, a, b, d, sums_of_e4m3());
  for (int lane = 0; lane < lanes; ++lane)
    for (int i = 0; i < 4; ++i) write(of_lane<arguments>(m, lane).d, i, d[place_of_sum(8, lane, i)]);
}
constexpr collective mma_of_warp{"mma_sync", mma_of_lanes};

// --- wgmma: what is under way -----------------------------------------------------------------------------------------------------------

/// Registers of one lane, held past the call that named them.
class held_registers {
 public:
  void hold(registers const& r, int count) {
    first_ = r.first;
    each_.clear();
    if (r.each) each_.assign(r.each, r.each + count);
  }
  registers get() const { return {first_, each_.empty() ? nullptr : each_.data()}; }

 private:
  void* first_ = nullptr;
  list<void*> each_;
};

/// Accumulators of a warp that one or more wgmma are adding to: their sums so far are here, in the registers are signatures.
struct accumulators {
  dtype type;
  int n;
  std::uint32_t id;
  held_registers of_lane[lanes];
  list<std::uint32_t> sums;     // [16, n]
  int under_way = 0;                   // wgmma that add to them and have not been waited for
  place asked;

  /// A finite float in [2^20, 2^21), where the last place is 1/8: what adds to it or scales it changes its bits.
  std::uint32_t signature(int i) const { return first_signature | ((id * 128 + static_cast<std::uint32_t>(i)) & 0x7f'ffffu); }
  static constexpr std::uint32_t first_signature = 0x4980'0000u;
  static bool looks_like_one(std::uint32_t bits) { return (bits & 0xff80'0000u) == first_signature; }
};

class wgmma_step : public async_op {
 public:
  wgmma_step() {
    name = "wgmma";
    only_by_wait = true;
    release_when_done = false;
  }
  void complete() override {}

  std::optional<operand> a;            // none: in registers
  operand b;
  int first_row = 0;                   // of the warp, in a
  list<std::byte> a_bytes, b_bytes;
  held_registers a_registers[lanes];
  accumulators* adds_to = nullptr;
};
using group = std::vector<std::unique_ptr<wgmma_step>>;

/// What must be the same in the warps of a warpgroup: instruction by instruction.
struct asked_of_group {
  char const* what;
  wgmma_shape shape;
  std::uint64_t a = 0, b = 0;
  bool a_in_registers = false, add = false;
  int pending = 0;

  friend bool operator==(asked_of_group const&, asked_of_group const&) = default;
};

struct warp_state {
  bool fenced = false;
  bool came_back = false;              // registers, at `returned`
  place returned;
  group open;
  std::deque<group> groups;
  std::vector<std::unique_ptr<accumulators>> under_way;
  std::uint32_t ids = 0;
  std::size_t asked = 0;               // instructions
  // of a warpgroup, in its first warp: instructions that not all its warps have come to
  struct entry {
    asked_of_group what;
    place first;
    int warps = 1;
  };
  std::deque<entry> log;
  std::size_t log_first = 0;
};

warp_state& state(warp& w) {
  if (!w.matrix) w.matrix = new warp_state;
  return *static_cast<warp_state*>(w.matrix);
}

void same_in_group(block& home, warp& w, asked_of_group const& what, place const& at) {
  auto const index = static_cast<std::size_t>(&w - home.warps.data());
  auto const first = index / warps_of_group * warps_of_group;
  if (first + warps_of_group > home.warps.size()) fail("model", text("%s at {1} by a warpgroup of fewer than four warps", what.what), at);
  auto& of_group = state(home.warps[first]);
  auto const i = state(w).asked++ - of_group.log_first;
  if (i == of_group.log.size()) {
    of_group.log.push_back({what, at});
  } else {
    auto& other = of_group.log[i];
    if (!(other.what == what))
      fail("model",
           other.what.what == what.what
               ? text("%s at {1} and {2}: warps of a warpgroup give different shapes or descriptors", what.what)
               : text("warps of a warpgroup do different things: one %s at {1}, another %s at {2}", other.what.what, what.what),
           other.first, at);
    ++other.warps;
  }
  while (!of_group.log.empty() && of_group.log.front().warps == warps_of_group) of_group.log.pop_front(), ++of_group.log_first;
}

// --- wgmma: operands --------------------------------------------------------------------------------------------------------------------

operand decoded(std::uint64_t descriptor, device::major major, int extent, char const* which, place const& at) {
  operand o;
  if (auto const wrong = decode(descriptor, major, extent, o); !wrong.empty())
    fail("model", text("wgmma at {1}, %s: %s", which, wrong.c_str()), at);
  return o;
}

/// Rows first .. of an operand, out of the block's shared memory.
list<std::byte> bytes_of_operand(block& home, operand const& o, int first, int count, char const* which, place const& at) {
  list<std::byte> bytes(static_cast<std::size_t>(count) * 32);
  std::uint32_t outside = 0;
  bool const all =
      gather(o, first, count, reinterpret_cast<std::byte(*)[32]>(bytes.data()), [&](std::uint32_t address) -> std::byte const* {
        auto const offset = std::size_t{address} - window_start;
        if (address >= window_start && offset + 16 <= home.shared_bytes) return home.shared + offset;
        outside = address;
        return nullptr;
      });
  if (!all) fail("model", text("wgmma at {1}: %s reaches out of the block's shared memory, to address %u", which, outside), at);
  return bytes;
}

/// Lists what of shared memory the step reads, piece by piece.
void list_reads(block& home, wgmma_step& s, operand const& o, int first, int count) {
  list<std::uint32_t> chunks;
  if (o.major == device::major::k) {
    for (int r = 0; r < count; ++r)
      for (int c = 0; c < 2; ++c) chunks.push_back(chunk_address(o, first + r, c));
  } else {
    for (int k = 0; k < 16; ++k)
      for (int c = 0; c < count / 8; ++c) chunks.push_back(chunk_address(o, k, first / 8 + c));
  }
  std::sort(chunks.begin(), chunks.end());
  for (std::size_t i = 0; i < chunks.size();) {
    auto const from = chunks[i];
    auto end = from + 16;
    while (++i < chunks.size() && chunks[i] <= end) end = std::max(end, chunks[i] + 16);
    s.touches.push_back({home.shared + (from - window_start), end - from, false});
  }
}

// --- wgmma: issue ----------------------------------------------------------------------------------------------------------------------

struct wgmma_arguments {
  wgmma_shape shape;
  registers d;
  bool a_in_registers;
  registers a_registers;
  std::uint64_t a, b;
  bool add;
};

/// The accumulators under way that lane 0's registers are, by place or because they hold their signature.
accumulators* same_registers(warp_state& s, registers const& d) {
  for (auto const& one : s.under_way)
    if (one->of_lane[0].get()[0] == d[0] || one->signature(0) == read(d, 0)) return one.get();
  return nullptr;
}

void check_not_under_way(warp_state const& s, std::uint32_t bits, char const* what, place const& at) {
  if (!accumulators::looks_like_one(bits)) return;
  for (auto const& one : s.under_way)
    for (int i = 0; i < one->n / 2; ++i)
      if (one->signature(i) == bits)
        report("model", text("wgmma at {1}: %s is an accumulator that wgmma at {2} has under way", what), at, one->asked);
}

accumulators& take_accumulators(meeting const& m, warp_state& s) {
  using arguments = wgmma_arguments;
  auto const& of_all = of_lane<arguments>(m, 0);
  int const n = of_all.shape.n, count = n / 2;
  accumulators* sums = same_registers(s, of_all.d);
  if (sums) {
    if (sums->n != n || sums->type != of_all.shape.type)
      fail("model", "wgmma at {1} takes accumulators of wgmma at {2}, of another shape, before wgmma_wait_group", m.first, sums->asked);
    bool touched = false;
    for (int lane = 0; lane < lanes; ++lane)
      for (int i = 0; i < count; ++i) touched |= read(of_lane<arguments>(m, lane).d, i) != sums->signature(i);
    if (touched)
      report("model", "accumulators of wgmma at {1} were written before wgmma_wait_group; seen by wgmma at {2}", sums->asked, m.first);
  } else {
    s.under_way.push_back(std::make_unique<accumulators>());
    sums = s.under_way.back().get();
    sums->type = of_all.shape.type;
    sums->n = n;
    sums->id = s.ids++;
    sums->sums.resize(static_cast<std::size_t>(16 * n));
    bool const others = s.under_way.size() > 1;
    for (int lane = 0; lane < lanes; ++lane) {
      auto const& d = of_lane<arguments>(m, lane).d;
      for (int i = 0; i < count; ++i) {
        auto const bits = read(d, i);
        if (others && of_all.add) check_not_under_way(s, bits, "what it adds to", m.first);
        sums->sums[static_cast<std::size_t>(place_of_sum(n, lane, i))] = bits;
      }
    }
  }
  if (!of_all.add) std::fill(sums->sums.begin(), sums->sums.end(), 0u);
  ++sums->under_way;
  sums->asked = m.first;
  for (int lane = 0; lane < lanes; ++lane) {
    auto const& d = of_lane<arguments>(m, lane).d;
    sums->of_lane[lane].hold(d, count);
    for (int i = 0; i < count; ++i) write(d, i, sums->signature(i));
  }
  return *sums;
}

void issue_wgmma(meeting const& m, block& home, warp& w) {
  using arguments = wgmma_arguments;
  same_in_lanes<arguments>(m, "lanes of a warp give wgmma at {1} different shapes or descriptors", [](arguments const& a) {
    return asked_of_group{"", a.shape, a.a_in_registers ? 0 : a.a, a.b, a.a_in_registers, a.add, 0};
  });
  auto const& of_all = of_lane<arguments>(m, 0);
  auto const shape = of_all.shape;
  if (!device::wgmma_takes(shape.type, shape.n))
    fail("model", text("wgmma at {1} with N of %d, which %s has not", shape.n, name(shape.type)), m.first);
  if (bits(shape.type) != 16 && (shape.a != device::major::k || shape.b != device::major::k))
    fail("model", "wgmma at {1} of 8-bit types with rows along M or N", m.first);
  same_in_group(home, w, {"wgmma", shape, of_all.a_in_registers ? 0 : of_all.a, of_all.b, of_all.a_in_registers, of_all.add, 0}, m.first);
  auto& s = state(w);
  if (!s.fenced) {
    if (s.came_back)
      report("model", "wgmma at {1} without wgmma_fence since wgmma_wait_group at {2} gave registers back", m.first, s.returned);
    else report("model", "wgmma at {1} without wgmma_fence before the kernel's first one", m.first);
  }

  auto step = std::make_unique<wgmma_step>();
  step->issuer = self();
  step->issuer_id = step->issuer->id;
  step->home = &home;
  step->asked = m.first;
  step->first_row = static_cast<int>(&w - home.warps.data()) % warps_of_group * 16;
  step->b = decoded(of_all.b, shape.b, shape.n, "operand b", m.first);
  step->b_bytes = bytes_of_operand(home, step->b, 0, shape.n, "operand b", m.first);
  if (of_all.a_in_registers) {
    step->a_bytes.resize(16 * 32);
    for (int lane = 0; lane < lanes; ++lane) {
      auto const& a = of_lane<arguments>(m, lane).a_registers;
      step->a_registers[lane].hold(a, 4);
      for (int i = 0; i < 4 && !s.under_way.empty(); ++i) check_not_under_way(s, read(a, i), "operand a", m.first);
    }
    tile_of_a(reinterpret_cast<std::byte(*)[32]>(step->a_bytes.data()),
              [&](int lane, int i) { return read(step->a_registers[lane].get(), i); });
  } else {
    step->a = decoded(of_all.a, shape.a, 64, "operand a", m.first);
    step->a_bytes = bytes_of_operand(home, *step->a, step->first_row, 16, "operand a", m.first);
  }
  if (watcher) {
    if (step->a) list_reads(home, *step, *step->a, step->first_row, 16);
    list_reads(home, *step, step->b, 0, shape.n);
    watcher->issue(*step, *step->issuer);
  }
  auto& sums = take_accumulators(m, s);
  step->adds_to = &sums;
  multiply(shape.type, 16, shape.n, reinterpret_cast<std::byte(*)[32]>(step->a_bytes.data()),
           reinterpret_cast<std::byte(*)[32]>(step->b_bytes.data()), sums.sums.data(), sums_of_e4m3());
  s.open.push_back(std::move(step));
}
constexpr collective wgmma_of_warp{"wgmma", issue_wgmma};

// --- wgmma: fence, commit, wait --------------------------------------------------------------------------------------------------------

void fence_of_warp(meeting const& m, block& home, warp& w) {
  same_in_group(home, w, {.what = "wgmma_fence", .shape = {}}, m.first);
  state(w).fenced = true;
}
constexpr collective wgmma_fence_of_warp{"wgmma_fence", fence_of_warp};

void commit_of_warp(meeting const& m, block& home, warp& w) {
  same_in_group(home, w, {.what = "wgmma_commit_group", .shape = {}}, m.first);
  auto& s = state(w);
  s.groups.push_back(std::move(s.open));
  s.open.clear();
}
constexpr collective wgmma_commit_of_warp{"wgmma_commit_group", commit_of_warp};

struct wait_arguments {
  int pending;
  std::vector<returned>* back;
};

/// A step has been waited for: what it read must still be what it was.
void look_again(meeting const& m, block& home, warp const& w, wgmma_step& step) {
  char const* const changed = "%s of wgmma at {1} was overwritten in shared memory before wgmma_wait_group at {2}";
  if (step.a) {
    if (bytes_of_operand(home, *step.a, step.first_row, 16, "operand a", step.asked) != step.a_bytes)
      report("model", text(changed, "operand a"), step.asked, m.first);
  } else if (!of_lane<wait_arguments>(m, 0).back) {
    std::byte now[16][32];
    tile_of_a(now, [&](int lane, int i) { return read(step.a_registers[lane].get(), i); });
    if (std::memcmp(now, step.a_bytes.data(), sizeof(now)) != 0)
      report("model", "registers of operand a of wgmma at {1} were written before wgmma_wait_group at {2}", step.asked, m.first);
  }
  if (bytes_of_operand(home, step.b, 0, step.b.extent, "operand b", step.asked) != step.b_bytes)
    report("model", text(changed, "operand b"), step.asked, m.first);
  step.done = true;
  if (watcher) {
    watcher->done(step);
    for (int lane = 0; lane < lanes; ++lane) watcher->waited(step, thread_of(home, w, lane));
  }
}

void give_back(meeting const& m, accumulators const& sums) {
  bool touched = false;
  for (int lane = 0; lane < lanes; ++lane) {
    auto* const back = of_lane<wait_arguments>(m, lane).back;
    auto const d = sums.of_lane[lane].get();
    for (int i = 0; i < sums.n / 2; ++i) {
      auto const value = sums.sums[static_cast<std::size_t>(place_of_sum(sums.n, lane, i))];
      if (back) {
        back->push_back({sums.signature(i), value});
      } else {
        touched |= read(d, i) != sums.signature(i);
        write(d, i, value);
      }
    }
  }
  if (touched) report("model", "accumulators of wgmma at {1} were written before wgmma_wait_group at {2}", sums.asked, m.first);
}

void wait_of_warp(meeting const& m, block& home, warp& w) {
  using arguments = wait_arguments;
  same_in_lanes<arguments>(m, "lanes of a warp wait for different numbers of groups at {1}", [](arguments const& a) { return a.pending; });
  int const pending = of_lane<arguments>(m, 0).pending;
  same_in_group(home, w, {.what = "wgmma_wait_group", .shape = {}, .pending = pending}, m.first);
  auto& s = state(w);
  bool came_back = false;
  while (s.groups.size() > static_cast<std::size_t>(pending)) {
    for (auto const& step : s.groups.front()) {
      look_again(m, home, w, *step);
      --step->adds_to->under_way;
      came_back |= !step->a;
    }
    s.groups.pop_front();
  }
  for (auto const& one : s.under_way)
    if (one->under_way == 0) {
      give_back(m, *one);
      came_back = true;
    }
  std::erase_if(s.under_way, [](auto const& one) { return one->under_way == 0; });
  if (came_back) s.fenced = false, s.came_back = true, s.returned = m.first;
}
constexpr collective wgmma_wait_of_warp{"wgmma_wait_group", wait_of_warp};

}  // namespace

void ldmatrix(int tiles, bool transposed, registers r, void const* row) {
  tiles_arguments mine{tiles, transposed, false, r, static_cast<std::byte*>(const_cast<void*>(row)), watcher ? here() : place{}};
  meet(ldmatrix_of_warp, device::all_lanes, &mine);
}
void stmatrix(int tiles, bool transposed, void* row, registers r) {
  tiles_arguments mine{tiles, transposed, true, r, static_cast<std::byte*>(row), watcher ? here() : place{}};
  meet(stmatrix_of_warp, device::all_lanes, &mine);
}

void mma_sync(dtype t, registers d, registers a, registers b) {
  mma_arguments mine{t, d, a, b};
  meet(mma_of_warp, device::all_lanes, &mine);
}

void wgmma_fence() { meet(wgmma_fence_of_warp, device::all_lanes, nullptr); }
void wgmma_commit_group() { meet(wgmma_commit_of_warp, device::all_lanes, nullptr); }
void wgmma_wait_group(int pending, std::vector<returned>* back) {
  wait_arguments mine{pending, back};
  meet(wgmma_wait_of_warp, device::all_lanes, &mine);
}
void wgmma(wgmma_shape const& s, registers d, std::uint64_t a, std::uint64_t b, bool add) {
  wgmma_arguments mine{s, d, false, {}, a, b, add};
  meet(wgmma_of_warp, device::all_lanes, &mine);
}
void wgmma(wgmma_shape const& s, registers d, registers a, std::uint64_t b, bool add) {
  wgmma_arguments mine{s, d, true, a, 0, b, add};
  meet(wgmma_of_warp, device::all_lanes, &mine);
}

void matrix_thread_end(thread& t) {
  auto& home = *t.home;
  if (auto const* const s = static_cast<warp_state const*>(home.warps[static_cast<std::size_t>(t.warp_index)].matrix)) {
    if (!s->open.empty()) report("model", "wgmma at {1} is not committed when the kernel ends", s->open.front()->asked);
    if (!s->groups.empty() && !s->groups.front().empty())
      report("model", "wgmma at {1} is not waited for when the kernel ends", s->groups.front().front()->asked);
  }
  for (auto const* const other : home.threads)
    if (other != &t && !other->ended) return;
  for (auto const& w : home.warps)
    if (auto const* const s = static_cast<warp_state const*>(w.matrix); s && !s->log.empty())
      report("model", text("%s at {1} by some warps of a warpgroup only", s->log.front().what.what), s->log.front().first);
}

void matrix_warp_end(warp& w) {
  delete static_cast<warp_state*>(w.matrix);
  w.matrix = nullptr;
}

}  // namespace moesaic::device_model::internal

namespace moesaic::device {

void wgmma_fence() { device_model::internal::wgmma_fence(); }
void wgmma_commit_group() { device_model::internal::wgmma_commit_group(); }

}  // namespace moesaic::device
