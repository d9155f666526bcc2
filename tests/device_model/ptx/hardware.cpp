// Instructions of PTX beyond a thread's own arithmetic and memory: each calls the function of the model that the host leg's kernels call.
// SPDX-License-Identifier: Apache-2.0
#include <bit>

#include "decode.hpp"

namespace moesaic::device_model::ptx {
namespace {

void nothing(state&, op const&) {}
int number_at(state const& t, std::uint32_t at) { return static_cast<int>(t.get<std::uint32_t>(at)); }

// Barriers and warps.

void block_barrier(state& t, op const& o) { internal::bar_sync(number_at(t, o.x[0]), o.flags != 0 ? number_at(t, o.x[1]) : -1); }
void block_arrive(state& t, op const& o) { internal::bar_arrive(number_at(t, o.x[0]), number_at(t, o.x[1])); }
void warp_barrier(state& t, op const& o) { device::warp_sync(t.get<std::uint32_t>(o.x[0])); }
template <internal::shuffle_kind Kind>
void shuffle(state& t, op const& o) {
  bool inside = true;
  auto const value = internal::shfl(Kind, t.get<std::uint32_t>(o.x[5]), t.get<std::uint32_t>(o.x[2]), t.get<std::uint32_t>(o.x[3]),
                                    t.get<std::uint32_t>(o.x[4]), &inside);
  t.set(o.x[0], value);
  t.set(o.x[1], static_cast<std::uint32_t>(inside));
}
/// flags: the predicate is inverted. number: kind.
void vote(state& t, op const& o) {
  bool const mine = ((t.get<std::uint32_t>(o.x[1]) ^ o.flags) & 1) != 0;
  t.set(o.x[0], internal::vote(static_cast<internal::vote_kind>(o.number), t.get<std::uint32_t>(o.x[2]), mine));
}
void match(state& t, op const& o) { t.set(o.x[0], device::match_any(t.get<std::uint32_t>(o.x[2]), t.get<std::uint32_t>(o.x[1]))); }
void reduce(state& t, op const& o) {
  t.set(o.x[0], internal::redux(static_cast<internal::redux_kind>(o.number), t.get<std::uint32_t>(o.x[2]), t.get<std::uint32_t>(o.x[1])));
}
void active(state& t, op const& o) {
  auto const in_warp = t.thread->home->threads.size() - static_cast<std::size_t>(t.thread->warp_index) * 32;
  t.set(o.x[0], in_warp >= 32 ? 0xffff'ffffu : (1u << in_warp) - 1);
}
void elect(state& t, op const& o) {
  auto const lanes = t.get<std::uint32_t>(o.x[2]);
  internal::vote(internal::vote_kind::ballot, lanes, true);
  auto const leader = std::countr_zero(lanes);
  t.set(o.x[0], static_cast<std::uint32_t>(leader));
  t.set(o.x[1], static_cast<std::uint32_t>(leader == t.thread->lane));
}

void rule_bar(decoder& d) {
  auto& o = d.out();
  if (d.take("cluster")) {
    bool const arrive = d.take("arrive");
    if (!arrive && !d.take("wait")) d.fail("arrive or wait is missing");
    d.take_one({"release", "acquire"}, -1), d.take("aligned");
    o.run = arrive ? [](state&, op const&) { device::cluster_arrive(); } : +[](state&, op const&) { device::cluster_wait(); };
    return;
  }
  d.take("cta");
  if (d.take("warp")) {
    if (!d.take("sync")) d.fail("sync is missing");
    o.x[0] = d.source(std::size_t{0}, element::b32);
    o.run = &warp_barrier;
    return;
  }
  bool const arrive = d.take("arrive");
  if (!arrive && !d.take("sync")) d.fail("only sync and arrive are supported");
  d.take("aligned");
  o.x[0] = d.source(std::size_t{0}, element::b32);
  o.flags = d.operands() > 1 ? 1 : 0;
  if (o.flags != 0) o.x[1] = d.source(1, element::b32);
  else if (arrive) d.fail("the number of threads is missing");
  o.run = arrive ? &block_arrive : &block_barrier;
}
/// d|p of operand 0 to x[0] and x[1].
void pair(decoder& d, int bytes) {
  auto first = d.at(0);
  auto const second = first.parts;
  first.parts.clear();
  d.out().x[0] = d.target(first, bytes);
  d.out().x[1] = second.empty() ? static_cast<std::uint32_t>(place_sink) : d.target(second[0], 4);
}
void rule_shfl(decoder& d) {
  if (!d.take("sync")) d.fail("only .sync is supported");
  auto const kind = d.take_one({"up", "down", "bfly", "idx"}, -1);
  if (bytes_of(d.take_type()) != 4 || kind < 0) d.fail("a form that is not known");
  pair(d, 4);
  for (int n = 1; n <= 4; ++n) d.out().x[n + 1] = d.source(static_cast<std::size_t>(n), element::b32);
  using enum internal::shuffle_kind;
  constexpr handler runs[] = {&shuffle<up>, &shuffle<down>, &shuffle<bfly>, &shuffle<idx>};
  d.out().run = runs[kind];
}
void rule_vote(decoder& d) {
  if (!d.take("sync")) d.fail("only .sync is supported");
  auto const kind = d.take_one({"ballot", "all", "any", "uni"}, -1);
  d.take_type();
  auto& o = d.out();
  bool inverted = false;
  o.x[0] = d.target(std::size_t{0}, 4), o.x[1] = d.predicate(1, inverted), o.x[2] = d.source(2, element::b32);
  o.flags = inverted ? 1 : 0, o.number = kind;
  if (kind >= 0) o.run = &vote;
}
void rule_redux(decoder& d) {
  if (!d.take("sync")) d.fail("only .sync is supported");
  auto const kind = d.take_one({"add", "min", "max", "and", "or", "xor"}, -1);
  bool const is_signed = d.take_type() == element::s32;
  using enum internal::redux_kind;
  internal::redux_kind const kinds[] = {add, is_signed ? min_s : min_u, is_signed ? max_s : max_u, and_, or_, xor_};
  auto& o = d.out();
  o.x[0] = d.target(std::size_t{0}, 4), o.x[1] = d.source(1, element::b32), o.x[2] = d.source(2, element::b32);
  if (kind >= 0) o.number = static_cast<std::int64_t>(kinds[kind]), o.run = &reduce;
}

// Fences and launches.

void rule_fence(decoder& d) {
  auto& o = d.out();
  if (d.take("proxy")) {
    if (!d.take("async")) d.fail("only fence.proxy.async is supported");
    // Of global memory alone it says nothing about shared memory.
    o.run = d.take("global") ? &nothing : +[](state&, op const&) { device::fence_proxy_async(); };
    d.take("shared::cta"), d.take("shared::cluster");
  } else if (d.take("mbarrier_init")) {
    d.take("release"), d.take_hints();
    o.run = [](state&, op const&) { device::fence_mbarrier_init(); };
  } else {
    d.take_one({"acq_rel", "sc", "acquire", "release"}, -1);
    bool const of_block = d.take("cta");
    d.take_hints(), d.take("gl");
    o.run = of_block ? &nothing : +[](state&, op const&) { device::fence_gpu(); };
  }
}
void rule_setmaxnreg(decoder& d) {
  bool const more = d.take("inc");
  if (!more && !d.take("dec")) d.fail("inc or dec is missing");
  if (!d.take("sync") || !d.take("aligned")) d.fail("only .sync.aligned is supported");
  d.take_type();
  d.out().number = d.immediate(0), d.out().flags = more ? 1 : 0;
  d.out().run = [](state&, op const& o) { internal::setmaxnreg(static_cast<int>(o.number), o.flags != 0); };
}
void rule_griddepcontrol(decoder& d) {
  if (d.take("wait")) d.out().run = [](state&, op const&) { device::griddepcontrol_wait(); };
  else if (d.take("launch_dependents")) d.out().run = [](state&, op const&) { device::griddepcontrol_launch_dependents(); };
}

// mbarriers. Addresses of several operands would need an offset each: `number` is the first's, others must have none.

/// Place of an address operand without offset.
std::uint32_t bare_address(decoder& d, std::size_t n, bool& wide) {
  auto& o = d.out();
  auto const before = o.number;
  auto const kept = o.x[5];
  wide = d.address(n, 5);
  if (o.number != 0) d.fail("an address with an offset where none is supported");
  o.number = before;
  return std::exchange(o.x[5], kept);
}
std::uint32_t shared_at(state const& t, op const& o, int slot, bool wide) {
  return static_cast<std::uint32_t>(wide ? t.get<std::uint64_t>(o.x[slot]) : t.get<std::uint32_t>(o.x[slot]));
}
/// flags of these: bit 15 the address has 64 bits.
constexpr std::uint16_t wide_flag = 0x8000;
device::mbarrier* barrier_at(state const& t, op const& o, int slot, char const* name) {
  auto const address = shared_at(t, o, slot, (o.flags & wide_flag) != 0) + static_cast<std::uint32_t>(o.number);
  if (address % 8 != 0) fail(t, "model", std::string(name) + " at {1}: an mbarrier lies at multiples of 8 bytes");
  return reinterpret_cast<device::mbarrier*>(internal::shared_pointer(address, 8, name));
}
void barrier_init(state& t, op const& o) { device::mbarrier_init(barrier_at(t, o, 0, "mbarrier.init"), t.get<std::uint32_t>(o.x[1])); }
void barrier_inval(state& t, op const& o) { device::mbarrier_inval(barrier_at(t, o, 0, "mbarrier.inval")); }
void barrier_arrive(state& t, op const& o) {
  internal::mbarrier_arrive(barrier_at(t, o, 0, "mbarrier.arrive"), t.get<std::uint32_t>(o.x[1]));
}
void barrier_arrive_remote(state& t, op const& o) {
  auto* const b = reinterpret_cast<std::byte*>(barrier_at(t, o, 0, "mbarrier.arrive"));
  auto* const of = internal::block_of(b);
  auto& home = *t.thread->home;
  auto* const own = home.shared + (b - of->shared);
  internal::mbarrier_arrive(reinterpret_cast<device::mbarrier*>(own), t.get<std::uint32_t>(o.x[1]), of);
}
void barrier_arrive_expect(state& t, op const& o) {
  device::mbarrier_arrive_expect_tx(barrier_at(t, o, 0, "mbarrier.arrive.expect_tx"), t.get<std::uint32_t>(o.x[1]));
}
void barrier_expect(state& t, op const& o) {
  device::mbarrier_expect_tx(barrier_at(t, o, 0, "mbarrier.expect_tx"), t.get<std::uint32_t>(o.x[1]));
}
/// flags: 1 try, 2 for the cluster.
void barrier_wait(state& t, op const& o) {
  auto* const b = barrier_at(t, o, 0, "mbarrier.try_wait");
  auto const parity = t.get<std::uint32_t>(o.x[1]);
  bool const over = (o.flags & 1) == 0   ? internal::mbarrier_test(b, parity, false)
                    : (o.flags & 2) != 0 ? device::mbarrier_try_wait_parity_cluster(b, parity)
                                         : device::mbarrier_try_wait_parity(b, parity);
  t.set(o.x[2], static_cast<std::uint32_t>(over));
}
void copies_arrive(state& t, op const& o) { device::cp_async_mbarrier_arrive_noinc(barrier_at(t, o, 0, "cp.async.mbarrier.arrive")); }

void take_shared(decoder& d) { d.take("shared") || d.take("shared::cta") || d.take("shared::cluster"); }

void rule_mbarrier(decoder& d) {
  auto& o = d.out();
  bool const expect = d.take("expect_tx");
  auto const what = d.take_one({"init", "inval", "arrive", "try_wait", "test_wait"}, expect ? 5 : -1);
  bool const of_cluster = d.take("shared::cluster");
  bool const cluster_scope = d.take("cluster");
  bool const parity = d.take("parity");
  d.take_one({"release", "acquire", "relaxed"}, -1), d.take("cta");
  if (!of_cluster) take_shared(d);
  if (d.take_type() != element::b64) d.fail("only .b64 is supported");
  auto const address = [&](std::size_t n) {
    if (d.address(n, 0)) o.flags |= wide_flag;
  };
  auto const value = [&](std::size_t n) { return d.operands() > n ? d.source(n, element::u32) : d.constant(1); };
  switch (what) {
    case 0:
      address(0), o.x[1] = d.source(1, element::u32), o.run = &barrier_init;
      break;
    case 1: address(0), o.run = &barrier_inval; break;
    case 2:
      // Without a state that is wanted: the first operand is `_`, or a register that nobody may read.
      if (d.at(0).what != operand::kind::sink && d.at(0).what != operand::kind::reg) d.fail("the state or _ is missing");
      address(1);
      if (expect && d.operands() < 3) d.fail("the number of bytes is missing");
      if (expect && of_cluster) d.fail("expect_tx of another block is not supported");
      o.x[1] = value(2);
      o.run = expect ? &barrier_arrive_expect : of_cluster ? &barrier_arrive_remote : &barrier_arrive;
      break;
    case 3:
    case 4:
      if (!parity) d.fail("only .parity is supported");
      o.x[2] = d.target(std::size_t{0}, 4), address(1), o.x[1] = d.source(2, element::u32);
      o.flags = static_cast<std::uint16_t>(o.flags | (what == 3 ? 1 : 0) | (cluster_scope ? 2 : 0));
      o.run = &barrier_wait;
      break;
    case 5: address(0), o.x[1] = d.source(1, element::u32), o.run = &barrier_expect; break;
    default: break;
  }
}

// Copies. x: 0 first address, 1 second, 2 bytes or mask, 3 mbarrier. flags: bits 0, 1, 3 whether those addresses have 64 bits.

void* shared_bytes(state const& t, op const& o, int slot, std::size_t bytes, char const* name) {
  return internal::shared_pointer(shared_at(t, o, slot, (o.flags >> slot & 1) != 0), bytes, name);
}
template <class T>
T* global_at(state const& t, op const& o, int slot) {
  return reinterpret_cast<T*>(t.get<std::uint64_t>(o.x[slot]));
}
/// number: bytes; x[2] how many of them are read.
void copy_async(state& t, op const& o) {
  internal::cp_async(shared_bytes(t, o, 0, static_cast<std::size_t>(o.number), "cp.async"), global_at<void const>(t, o, 1),
                     static_cast<int>(o.number), number_at(t, o.x[2]));
}
void copy_wait(state&, op const& o) { internal::cp_async_wait(static_cast<int>(o.number)); }
void copy_wait_all(state&, op const&) {
  device::cp_async_commit_group();
  internal::cp_async_wait(0);
}
void bulk_wait(state&, op const& o) { internal::bulk_wait(static_cast<int>(o.number), o.flags != 0); }
void bulk_load(state& t, op const& o) {
  auto const bytes = t.get<std::uint32_t>(o.x[2]);
  auto* const b = reinterpret_cast<device::mbarrier*>(shared_bytes(t, o, 3, 8, "cp.async.bulk"));
  internal::bulk_load(shared_bytes(t, o, 0, bytes, "cp.async.bulk"), global_at<void const>(t, o, 1), bytes, b);
}
void bulk_store(state& t, op const& o) {
  auto const bytes = t.get<std::uint32_t>(o.x[2]);
  internal::bulk_store(global_at<void>(t, o, 0), shared_bytes(t, o, 1, bytes, "cp.async.bulk"), bytes);
}
/// more: coordinates. flags bit 4: x[2] is a mask of blocks.
void coordinates(state const& t, op const& o, int (&at)[5]) {
  for (int i = 0; i < o.count; ++i) at[i] = number_at(t, o.more[i]);
}
void tensor_load(state& t, op const& o) {
  int at[5];
  coordinates(t, o, at);
  // How much of shared memory is written depends on the map: the model checks it.
  auto* const b = reinterpret_cast<device::mbarrier*>(shared_bytes(t, o, 3, 8, "cp.async.bulk.tensor"));
  internal::tma_load(shared_bytes(t, o, 0, 16, "cp.async.bulk.tensor"), global_at<device::tensor_map const>(t, o, 1), b, o.count, at,
                     (o.flags & 16) != 0 ? t.get<std::uint32_t>(o.x[2]) & 0xffffu : 0);
}
void tensor_store(state& t, op const& o) {
  int at[5];
  coordinates(t, o, at);
  internal::tma_store(global_at<device::tensor_map const>(t, o, 0), shared_bytes(t, o, 1, 16, "cp.async.bulk.tensor"), o.count, at);
}

void address_to(decoder& d, std::size_t n, int slot) {
  bool wide = false;
  d.out().x[slot] = bare_address(d, n, wide);
  if (wide) d.out().flags = static_cast<std::uint16_t>(d.out().flags | 1 << slot);
}
void global_to(decoder& d, std::size_t n, int slot) {
  address_to(d, n, slot);
  if ((d.out().flags >> slot & 1) == 0) d.fail("a global address has 64 bits");
}

void rule_bulk_tensor(decoder& d) {
  auto& o = d.out();
  auto const dimensions = d.take_one({"1d", "2d", "3d", "4d", "5d"}, -1) + 1;
  if (dimensions == 0) d.fail("the number of dimensions is missing");
  d.take("tile");
  if (d.take("L2::cache_hint")) d.fail("cache hints are not supported");
  bool const prefetch = d.take("prefetch");
  bool const loads = d.take("mbarrier::complete_tx::bytes");
  bool const multicast = d.take("multicast::cluster");
  d.take("global");
  if (prefetch) {
    d.take("L2");
    o.run = &nothing;
    return;
  }
  std::size_t const map_at = loads ? 1 : 0;
  auto map = d.at(map_at);
  if (map.what != operand::kind::address || map.parts.size() != 2 || map.parts[1].parts.size() != static_cast<std::size_t>(dimensions))
    d.fail("a tensor map and as many coordinates as dimensions are asked for");
  std::vector<std::uint32_t> places;
  for (auto const& c : map.parts[1].parts) places.push_back(d.source(c, element::s32));
  global_to(d, map_at, static_cast<int>(map_at));
  address_to(d, loads ? 0 : 1, loads ? 0 : 1);
  d.list(places);
  if (loads) {
    d.take("shared::cluster") || d.take("shared::cta");
    address_to(d, 2, 3);
    if (multicast) o.x[2] = d.source(3, element::u16), o.flags |= 16;
    else if (d.operands() != 3) d.fail("operands that are not supported");
    o.run = multicast ? [](state& t, op const& p) {
      // The mask has 16 bits in a register that may have no more.
      auto const mask = t.get<std::uint16_t>(p.x[2]);
      t.set<std::uint32_t>(place_sink, mask);
      op q = p;
      q.x[2] = place_sink;
      tensor_load(t, q);
    } : &tensor_load;
    return;
  }
  if (!d.take("bulk_group") || !d.take("shared::cta")) d.fail("a store goes from shared::cta, in a bulk_group");
  if (d.operands() != 2) d.fail("operands that are not supported");
  o.run = &tensor_store;
}

void rule_bulk(decoder& d) {
  auto& o = d.out();
  if (d.take("commit_group")) {
    o.run = [](state&, op const&) { device::cp_async_bulk_commit_group(); };
  } else if (d.take("wait_group")) {
    o.flags = d.take("read") ? 1 : 0, o.number = d.immediate(0);
    o.run = &bulk_wait;
  } else if (d.take("tensor")) {
    rule_bulk_tensor(d);
  } else if (d.take("prefetch")) {
    d.take("L2"), d.take("global");
    global_to(d, 0, 0);
    o.x[2] = d.source(1, element::u32);
    o.run = [](state& t, op const& p) { device::bulk_prefetch(global_at<void const>(t, p, 0), t.get<std::uint32_t>(p.x[2])); };
  } else if (d.take("mbarrier::complete_tx::bytes")) {
    if (!d.take("global") || !(d.take("shared::cluster") || d.take("shared::cta"))) d.fail("a load goes from global to shared memory");
    if (d.operands() != 4) d.fail("operands that are not supported");
    address_to(d, 0, 0), global_to(d, 1, 1), address_to(d, 3, 3);
    o.x[2] = d.source(2, element::u32);
    o.run = &bulk_load;
  } else if (d.take("bulk_group")) {
    if (!d.take("global") || !d.take("shared::cta")) d.fail("a store goes from shared::cta to global memory");
    if (d.operands() != 3) d.fail("operands that are not supported");
    global_to(d, 0, 0), address_to(d, 1, 1);
    o.x[2] = d.source(2, element::u32);
    o.run = &bulk_store;
  }
}

void rule_cp(decoder& d) {
  if (!d.take("async")) d.fail("only cp.async is supported");
  if (d.take("bulk")) return rule_bulk(d);
  auto& o = d.out();
  if (d.take("mbarrier")) {
    if (!d.take("arrive") || !d.take("noinc")) d.fail("only arrive.noinc is supported");
    take_shared(d), d.take_type();
    if (d.address(0, 0)) o.flags |= wide_flag;
    o.run = &copies_arrive;
  } else if (d.take("commit_group")) {
    o.run = [](state&, op const&) { device::cp_async_commit_group(); };
  } else if (d.take("wait_group")) {
    o.number = d.immediate(0);
    o.run = &copy_wait;
  } else if (d.take("wait_all")) {
    o.run = &copy_wait_all;
  } else {
    bool const cg = d.take("cg");
    if (!cg && !d.take("ca")) d.fail("ca or cg is missing");
    take_shared(d), d.take("global");
    d.take_beginning("L2::");
    address_to(d, 0, 0), global_to(d, 1, 1);
    o.number = d.immediate(2);
    if (o.number != 16 && (cg || (o.number != 4 && o.number != 8))) d.fail("a number of bytes that it does not copy");
    o.x[2] = d.operands() > 3 ? d.source(3, element::u32) : d.constant(static_cast<std::uint64_t>(o.number));
    o.run = &copy_async;
  }
}

}  // namespace

void add_hardware(decoder::table& rules) {
  rules["bar"] = &rule_bar;
  rules["barrier"] = &rule_bar;
  rules["shfl"] = &rule_shfl;
  rules["vote"] = &rule_vote;
  rules["redux"] = &rule_redux;
  rules["match"] = [](decoder& d) {
    if (!d.take("any") || !d.take("sync") || bytes_of(d.take_type()) != 4) d.fail("only match.any.sync.b32 is supported");
    d.out().x[0] = d.target(std::size_t{0}, 4), d.out().x[1] = d.source(1, element::b32), d.out().x[2] = d.source(2, element::b32);
    d.out().run = &match;
  };
  rules["activemask"] = [](decoder& d) {
    d.take_type();
    d.out().x[0] = d.target(std::size_t{0}, 4);
    d.out().run = &active;
  };
  rules["elect"] = [](decoder& d) {
    d.take("sync");
    pair(d, 4);
    d.out().x[2] = d.source(1, element::b32);
    d.out().run = &elect;
  };
  rules["fence"] = &rule_fence;
  rules["membar"] = &rule_fence;
  rules["setmaxnreg"] = &rule_setmaxnreg;
  rules["griddepcontrol"] = &rule_griddepcontrol;
  rules["nanosleep"] = [](decoder& d) {
    d.take_type();
    d.out().x[0] = d.source(std::size_t{0}, element::u32);
    d.out().run = [](state& t, op const& o) { device::nanosleep(t.get<std::uint32_t>(o.x[0])); };
  };
  rules["mbarrier"] = &rule_mbarrier;
  rules["cp"] = &rule_cp;
}

}  // namespace moesaic::device_model::ptx
