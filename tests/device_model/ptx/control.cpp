// Instructions of PTX that move values and choose what runs next.
// SPDX-License-Identifier: Apache-2.0
#include "decode.hpp"

namespace moesaic::device_model::ptx {
namespace {

void move_1(state& t, op const& o) { t.set(o.x[0], t.get<std::uint32_t>(o.x[1]) & 1); }
struct same {
  template <class T>
  T operator()(T a) const {
    return a;
  }
};
void move_address(state& t, op const& o) { t.set(o.x[0], t.get<std::uint64_t>(o.x[1]) + static_cast<std::uint64_t>(o.number)); }
void move_address_32(state& t, op const& o) {
  t.set(o.x[0], static_cast<std::uint32_t>(t.get<std::uint64_t>(o.x[1]) + static_cast<std::uint64_t>(o.number)));
}
template <class Part>
void pack(state& t, op const& o) {
  std::uint64_t whole = 0;
  for (int i = 0; i < o.count; ++i) whole |= static_cast<std::uint64_t>(t.get<Part>(o.more[i])) << (i * 8 * static_cast<int>(sizeof(Part)));
  if (sizeof(Part) * o.count == 8) t.set(o.x[0], whole);
  else if (sizeof(Part) * o.count == 4) t.set(o.x[0], static_cast<std::uint32_t>(whole));
  else t.set(o.x[0], static_cast<std::uint16_t>(whole));
}
template <class Part>
void unpack(state& t, op const& o) {
  auto whole = o.flags == 8 ? t.get<std::uint64_t>(o.x[1]) : o.flags == 4 ? t.get<std::uint32_t>(o.x[1]) : t.get<std::uint16_t>(o.x[1]);
  for (int i = 0; i < o.count; ++i) t.set(o.more[i], static_cast<Part>(whole >> (i * 8 * static_cast<int>(sizeof(Part)))));
}

// Special registers: number is which.
enum : std::int64_t {
  tid_x, zero, one, ntid_x, ctaid_x, ctaid_y, ctaid_z, nctaid_x, nctaid_y, nctaid_z, laneid, warpid, cluster_ctarank, cluster_nctarank,
  clusterid_x, nclusterid_x, clock, lanemask_eq, lanemask_lt, lanemask_le, lanemask_gt, lanemask_ge,
  dynamic_smem, total_smem, is_explicit_cluster
};
struct special_register {
  std::string_view name;
  std::int64_t is;
};
constexpr special_register special_registers[] = {
    {"%tid.x", tid_x}, {"%tid.y", zero}, {"%tid.z", zero}, {"%ntid.x", ntid_x}, {"%ntid.y", one}, {"%ntid.z", one},
    {"%ctaid.x", ctaid_x}, {"%ctaid.y", ctaid_y}, {"%ctaid.z", ctaid_z},
    {"%nctaid.x", nctaid_x}, {"%nctaid.y", nctaid_y}, {"%nctaid.z", nctaid_z},
    {"%laneid", laneid}, {"%warpid", warpid}, {"%cluster_ctarank", cluster_ctarank}, {"%cluster_nctarank", cluster_nctarank},
    {"%cluster_ctaid.x", cluster_ctarank}, {"%cluster_ctaid.y", zero}, {"%cluster_ctaid.z", zero},
    {"%cluster_nctaid.x", cluster_nctarank}, {"%cluster_nctaid.y", one}, {"%cluster_nctaid.z", one},
    {"%clusterid.x", clusterid_x}, {"%clusterid.y", ctaid_y}, {"%clusterid.z", ctaid_z},
    {"%nclusterid.x", nclusterid_x}, {"%nclusterid.y", nctaid_y}, {"%nclusterid.z", nctaid_z},
    {"%is_explicit_cluster", is_explicit_cluster}, {"%smid", zero}, {"%clock", clock}, {"%clock64", clock},
    {"%globaltimer", clock}, {"%globaltimer_lo", clock},
    {"%lanemask_eq", lanemask_eq}, {"%lanemask_lt", lanemask_lt}, {"%lanemask_le", lanemask_le}, {"%lanemask_gt", lanemask_gt},
    {"%lanemask_ge", lanemask_ge}, {"%dynamic_smem_size", dynamic_smem}, {"%total_smem_size", total_smem}};

std::uint64_t special(state& t, std::int64_t which) {
  auto const& b = *t.thread->home;
  auto const bit = std::uint32_t{1} << t.thread->lane;
  auto const number = [](int n) { return static_cast<std::uint64_t>(n); };
  switch (which) {
    case tid_x: return number(t.thread->id);
    case zero: return 0;
    case one: return 1;
    case ntid_x: return b.threads.size();
    case ctaid_x: return number(device::block_x());
    case ctaid_y: return number(device::block_y());
    case ctaid_z: return number(device::block_z());
    case nctaid_x: return number(device::grid_x());
    case nctaid_y: return number(device::grid_y());
    case nctaid_z: return number(device::grid_z());
    case laneid: return number(t.thread->lane);
    case warpid: return number(t.thread->warp_index);
    case cluster_ctarank: return number(device::cluster_rank());
    case cluster_nctarank: return number(device::cluster_blocks());
    case clusterid_x: return number(device::block_x() / device::cluster_blocks());
    case nclusterid_x: return number(device::grid_x() / device::cluster_blocks());
    case is_explicit_cluster: return number(device::cluster_blocks() > 1 ? 1 : 0);
    case clock: return ~t.left;
    case lanemask_eq: return bit;
    case lanemask_lt: return bit - 1;
    case lanemask_le: return bit | (bit - 1);
    case lanemask_gt: return ~(bit | (bit - 1));
    case lanemask_ge: return ~(bit - 1);
    case dynamic_smem: return t.static_shared - internal::window_start;
    default: return b.shared_bytes;
  }
}
template <class T>
void move_special(state& t, op const& o) {
  t.set(o.x[0], static_cast<T>(special(t, o.number)));
}

void rule_mov(decoder& d) {
  auto const e = d.take_type();
  auto& o = d.out();
  if (e == element::pred) {
    o.x[0] = d.target(0, 4), o.x[1] = d.source(1, e), o.run = &move_1;
    return;
  }
  auto const bytes = bytes_of(e);
  if (d.is_vector(0) || d.is_vector(1)) {
    auto const& parts = d.at(d.is_vector(0) ? 0 : 1).parts;
    if (parts.empty() || bytes % static_cast<int>(parts.size()) != 0) d.fail("a vector that does not divide the type");
    auto const part = bytes / static_cast<int>(parts.size());
    std::vector<std::uint32_t> places;
    auto const type = part == 4 ? element::b32 : part == 2 ? element::b16 : element::b8;
    for (auto const& p : parts) places.push_back(d.is_vector(0) ? d.target(p, part) : d.source(p, type));
    d.list(places);
    o.flags = static_cast<std::uint16_t>(bytes);
    if (d.is_vector(0)) {
      o.x[1] = d.source(1, e);
      o.run = part == 4 ? &unpack<std::uint32_t> : part == 2 ? &unpack<std::uint16_t> : nullptr;
    } else {
      o.x[0] = d.target(0, bytes);
      o.run = part == 4 ? &pack<std::uint32_t> : part == 2 ? &pack<std::uint16_t> : &pack<std::uint8_t>;
    }
    return;
  }
  o.x[0] = d.target(0, bytes);
  auto const& from = d.at(1);
  if (from.what == operand::kind::symbol) {
    o.x[1] = d.symbol(from, o.number);
    o.run = bytes == 8 ? &move_address : bytes == 4 ? &move_address_32 : nullptr;
  } else if (from.what == operand::kind::special && from.name != "WARP_SZ") {
    for (auto const& s : special_registers)
      if (s.name == from.name) {
        o.number = s.is;
        o.run = bytes == 8 ? &move_special<std::uint64_t> : bytes == 4 ? &move_special<std::uint32_t> : &move_special<std::uint16_t>;
        return;
      }
    d.fail("a special register that is not known: " + std::string(from.name));
  } else {
    o.x[1] = d.source(1, e);
    o.run = of_word<unary<same>>(d, e);
  }
}

// Branches: number is the target's distance from the start of the function.

void branch(state& t, op const& o) { t.next = t.running->ops.data() + o.number; }
void branch_table(state& t, op const& o) {
  auto const index = t.get<std::uint32_t>(o.x[0]);
  if (index >= o.count)
    fail(t, "model", "brx.idx with an index of " + std::to_string(index) + ", past its " + std::to_string(o.count) + " targets");
  t.next = t.running->ops.data() + o.more[index];
}
void leave(state& t, op const&) {
  if (t.depth == 0) {
    t.next = nullptr;
    return;
  }
  auto const& back = t.stack[--t.depth];
  t.frame = back.frame, t.next = back.next, t.running = back.running;
}
void end_thread(state& t, op const&) { t.next = nullptr; }
void trap(state& t, op const&) { fail(t, "model", "trap, at {1}"); }
void nothing(state&, op const&) {}

/// number: which function. more: of each argument, offset in the caller's area, offset in the callee's, bytes; flags: how many.
void call(state& t, op const& o) {
  if (t.depth == state::deepest) fail(t, "model", "calls that nest too deeply, at {1}");
  auto const& callee = *t.functions[o.number];
  auto* const from = t.frame + t.running->area_at;
  auto& back = t.stack[t.depth++];
  back = {t.frame, t.next, t.running};
  t.enter(callee, t.frame + t.running->frame_bytes);
  for (int i = 0; i < o.flags; ++i) std::memcpy(t.frame + callee.area_at + o.more[3 * i + 1], from + o.more[3 * i], o.more[3 * i + 2]);
}
/// After a call: its results, of the frame that lies above.
void fetch_results(state& t, op const& o) {
  auto const& callee = *t.functions[o.number];
  auto* const to = t.frame + t.running->area_at;
  auto const* const from = t.frame + t.running->frame_bytes + callee.area_at;
  for (int i = 0; i < o.count / 3; ++i) std::memcpy(to + o.more[3 * i], from + o.more[3 * i + 1], o.more[3 * i + 2]);
}

std::int64_t target_of(decoder& d, operand const& o) {
  if (o.what != operand::kind::label || o.index < 0) d.fail("a label that is not known: " + std::string(o.name));
  return static_cast<std::int64_t>(d.label(o.index));
}
void rule_bra(decoder& d) {
  d.take("uni");
  d.out().number = target_of(d, d.at(0));
  d.out().run = &branch;
}
void rule_brx(decoder& d) {
  d.take("idx"), d.take("uni");
  d.out().x[0] = d.source(0, element::u32);
  std::vector<std::uint32_t> targets;
  for (std::size_t n = 1; n < d.operands(); ++n) targets.push_back(static_cast<std::uint32_t>(target_of(d, d.at(n))));
  d.list(targets);
  d.out().run = &branch_table;
}
void rule_call(decoder& d) {
  d.take("uni");
  auto const with_results = d.is_vector(0);
  auto const& name = d.at(with_results ? 1 : 0).name;
  auto const arguments_at = with_results ? std::size_t{2} : std::size_t{1};
  auto const& all = d.functions();
  std::size_t index = 0;
  while (index < all.size() && all[index].name != name) ++index;
  if (index == all.size() || !all[index].defined) {
    if (name == "__assertfail") {
      d.out().run = &trap;
      return;
    }
    d.fail("a call of a function that is not here: " + std::string(name));
  }
  auto const& callee = all[index];
  auto const places = [&](std::size_t n, int first, int count) {
    std::vector<std::uint32_t> result;
    if (n >= d.operands()) {
      if (count != 0) d.fail("a call with too few arguments");
      return result;
    }
    auto const& parts = d.at(n).parts;
    if (static_cast<int>(parts.size()) != count) d.fail("a call with another number of arguments than the function has");
    std::uint64_t offset = 0;
    for (int v = 0; v < first + count; ++v) {
      auto const& variable = callee.variables[static_cast<std::size_t>(v)];
      auto const align = static_cast<std::uint64_t>(variable.align);
      offset = (offset + align - 1) / align * align;
      if (v >= first) {
        auto const& argument = parts[static_cast<std::size_t>(v - first)];
        if (argument.what != operand::kind::symbol || argument.of != space::param) d.fail("an argument that is not a .param");
        result.insert(result.end(), {static_cast<std::uint32_t>(d.offsets()[static_cast<std::size_t>(argument.index)]),
                                     static_cast<std::uint32_t>(offset), static_cast<std::uint32_t>(variable.bytes)});
      }
      offset += variable.bytes;
    }
    return result;
  };
  auto& o = d.out();
  o.number = static_cast<std::int64_t>(index);
  auto const results = with_results ? places(0, 0, callee.results) : std::vector<std::uint32_t>{};
  auto const arguments = places(arguments_at, callee.results, callee.parameters);
  d.list(arguments);
  o.flags = static_cast<std::uint16_t>(arguments.size() / 3);
  o.run = &call;
  d.call_of(index);
  if (!results.empty()) {
    d.after();                           // a second operation, where the call comes back to
    d.out().number = static_cast<std::int64_t>(index);
    d.list(results);
    d.out().run = &fetch_results;
  }
}

}  // namespace

void add_control(decoder::table& rules) {
  rules["mov"] = &rule_mov;
  rules["bra"] = &rule_bra;
  rules["brx"] = &rule_brx;
  rules["call"] = &rule_call;
  rules["ret"] = [](decoder& d) { d.take("uni"), d.out().run = &leave; };
  rules["exit"] = [](decoder& d) { d.out().run = &end_thread; };
  rules["trap"] = [](decoder& d) { d.out().run = &trap; };
  rules["brkpt"] = rules["trap"];
  rules["pmevent"] = [](decoder& d) { d.take("mask"), d.out().run = &nothing; };
}

}  // namespace moesaic::device_model::ptx
