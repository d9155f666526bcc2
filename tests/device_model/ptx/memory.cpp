// Loads, stores, atomics and addresses of PTX. Generic addresses are those of the program; shared ones are of the model's window.
// SPDX-License-Identifier: Apache-2.0
#include <type_traits>

#include "decode.hpp"

namespace moesaic::device_model::ptx {
namespace {

/// In flags of loads and stores, above the bytes of a register: the instruction says that its address is global.
constexpr std::uint16_t global_flag = 0x100;

/// The bytes that an access of `bytes` means. Shared: in the window; else an address of this program.
template <bool Shared, bool Wide>
std::byte* locate(state& t, op const& o, int slot, std::size_t bytes, bool write) {
  std::uint64_t const base = Wide ? t.get<std::uint64_t>(o.x[slot]) : t.get<std::uint32_t>(o.x[slot]);
  auto const address = base + static_cast<std::uint64_t>(o.number);
  std::byte* p;
  if constexpr (Shared) p = internal::shared_pointer(static_cast<std::uint32_t>(address), bytes, write ? "st.shared" : "ld.shared");
  else p = reinterpret_cast<std::byte*>(address);
  if (address % bytes != 0)
    fail(t, "model", internal::text("%s of %zu bytes at {1}: the address is not a multiple of that", write ? "store" : "load", bytes));
  if constexpr (!Shared) {
    if (address < 4096)
      fail(t, "model",
           internal::text("%s of %zu bytes at {1}: address %llu is no memory", write ? "store" : "load", bytes,
                          static_cast<unsigned long long>(address)));
    if ((o.flags & global_flag) != 0 || !t.thread->home->holds(p, bytes)) {
      internal::check_global(p, bytes, 1, write ? "store" : "load");
      return p;
    }
  }
  if (internal::watcher != nullptr) internal::watcher->access(*t.thread, p, bytes, write, false, place_of(t));
  return p;
}

/// x[0] address; more: results, each of as many bytes as flags say.
template <bool Shared, bool Wide>
struct load {
  template <class T>
  static void run(state& t, op const& o) {
    auto const* const p = locate<Shared, Wide>(t, o, 0, sizeof(T) * o.count, false);
    T values[8];
    for (int i = 0; i < o.count; ++i) std::memcpy(&values[i], p + sizeof(T) * static_cast<std::size_t>(i), sizeof(T));
    for (int i = 0; i < o.count; ++i) {
      auto const wide =
          static_cast<std::uint64_t>(static_cast<std::conditional_t<std::is_signed_v<T>, std::int64_t, std::uint64_t>>(values[i]));
      if ((o.flags & 0xff) == 4) t.set(o.more[i], static_cast<std::uint32_t>(wide));
      else if ((o.flags & 0xff) == 8) t.set(o.more[i], wide);
      else t.set(o.more[i], static_cast<std::uint16_t>(wide));
    }
  }
};
template <bool Shared, bool Wide>
struct store {
  template <class T>
  static void run(state& t, op const& o) {
    auto* const p = locate<Shared, Wide>(t, o, 0, sizeof(T) * o.count, true);
    for (int i = 0; i < o.count; ++i) {
      auto const value = t.get<T>(o.more[i]);
      std::memcpy(p + sizeof(T) * static_cast<std::size_t>(i), &value, sizeof(T));
    }
  }
};
template <template <bool, bool> class Op>
handler of_memory(decoder const& d, element e, bool shared, bool wide) {
  auto const pick = [&]<class O>(std::type_identity<O>) -> handler {
    switch (e) {
      case element::b8:
      case element::u8: return &O::template run<std::uint8_t>;
      case element::s8: return &O::template run<std::int8_t>;
      case element::s16: return &O::template run<std::int16_t>;
      case element::s32: return &O::template run<std::int32_t>;
      case element::s64: return &O::template run<std::int64_t>;
      default: return of_word<O>(d, e);
    }
  };
  if (shared) return wide ? pick(std::type_identity<Op<true, true>>{}) : pick(std::type_identity<Op<true, false>>{});
  return wide ? pick(std::type_identity<Op<false, true>>{}) : pick(std::type_identity<Op<false, false>>{});
}

void load_acquire(state& t, op const& o) {
  t.set(o.more[0],
        device::load_acquire(reinterpret_cast<std::uint32_t const*>(t.get<std::uint64_t>(o.x[0]) + static_cast<std::uint64_t>(o.number))));
}
void store_release(state& t, op const& o) {
  device::store_release(reinterpret_cast<std::uint32_t*>(t.get<std::uint64_t>(o.x[0]) + static_cast<std::uint64_t>(o.number)),
                        t.get<std::uint32_t>(o.more[0]));
}

/// What is only read, as the seam's load_nc reads it: that the kernel does not write it is the model's to see.
template <bool Wide>
void load_read_only(state& t, op const& o) {
  auto const words = device::load_nc(reinterpret_cast<device::words4 const*>(
      (Wide ? t.get<std::uint64_t>(o.x[0]) : t.get<std::uint32_t>(o.x[0])) + static_cast<std::uint64_t>(o.number)));
  for (int i = 0; i < 4; ++i) t.set(o.more[i], words.word[i]);
}

/// Takes the state space; whether it is shared memory.
bool take_space(decoder& d) {
  if (d.take("shared") || d.take("shared::cta") || d.take("shared::cluster")) return true;
  d.take_one({"global", "local", "const", "param", "param::entry", "param::func"}, -1);
  return false;
}

void rule_access(decoder& d, bool write) {
  auto const order = d.take_one({"weak", "relaxed", "acquire", "release", "volatile", "mmio"}, 0);
  bool const read_only = d.take("nc");
  d.take_hints();
  bool const global = d.take("global");
  bool const shared = !global && take_space(d);
  auto const lanes = d.take_one({"v2", "v4", "v8"}, -1);
  auto const e = d.take_type();
  auto& o = d.out();
  std::size_t const address_at = write ? 0 : 1, value_at = write ? 1 : 0;
  bool const wide = d.address(address_at, 0);
  std::vector<operand> values{d.at(value_at)};
  if (lanes >= 0) {
    values = d.at(value_at).parts;
    if (values.size() != std::size_t{2} << lanes) d.fail("a vector of another length than it says");
  }
  std::vector<std::uint32_t> places;
  o.flags = static_cast<std::uint16_t>(std::max(bytes_of(e), 2));
  for (auto const& v : values) {
    if (write) {
      places.push_back(d.source(v, bytes_of(e) == 1 ? element::b8 : e));
    } else {
      if (v.what == operand::kind::reg) o.flags = static_cast<std::uint16_t>(d.width(v));
      if (o.flags < bytes_of(e)) d.fail("a register that is too narrow for what is loaded");
      places.push_back(d.target(v, o.flags));
    }
  }
  d.list(places);
  if (global) o.flags = static_cast<std::uint16_t>(o.flags | global_flag);
  if (read_only && bytes_of(e) == 4 && o.flags == (4 | global_flag) && lanes == 1) {
    o.run = wide ? &load_read_only<true> : &load_read_only<false>;
    return;
  }
  if (order == 2 || order == 3) {
    if (shared || bytes_of(e) != 4 || lanes >= 0 || !wide) d.fail("acquire and release are known of 4 bytes of global memory alone");
    o.run = write ? &store_release : &load_acquire;
    return;
  }
  o.run = write ? of_memory<store>(d, e, shared, wide) : of_memory<load>(d, e, shared, wide);
}

// Atomics: x[1] address, x[2] value, x[3] second value. flags: bits 0 .. 3 bytes, 16 acquires, 32 releases. number is the address's offset,
// so the kind is a template parameter.

template <internal::atomic_kind Kind, bool Shared, bool Wide>
void atomic_op(state& t, op const& o) {
  std::uint64_t const base = Wide ? t.get<std::uint64_t>(o.x[1]) : t.get<std::uint32_t>(o.x[1]);
  auto const address = base + static_cast<std::uint64_t>(o.number);
  int const bytes = o.flags & 15;
  auto* const p = Shared ? internal::shared_pointer(static_cast<std::uint32_t>(address), static_cast<std::size_t>(bytes), "atom.shared")
                         : reinterpret_cast<std::byte*>(address);
  if (address < static_cast<std::uint64_t>(Shared ? 0 : 4096)) fail(t, "model", "atomic at {1}: the address is no memory");
  auto const word = [&](std::uint32_t at) { return bytes == 8 ? t.get<std::uint64_t>(at) : t.get<std::uint32_t>(at); };
  // cas compares with the first value and writes the second.
  bool const compares = Kind == internal::atomic_kind::cas;
  // Of another block of the cluster: what device/ has of it, an addition to 4 bytes.
  bool const afar = Shared && bytes == 4 && Kind == internal::atomic_kind::add && internal::block_of(p) != internal::self()->home;
  auto const old = afar ? device::atomic_add_cluster(static_cast<std::uint32_t>(address), static_cast<std::uint32_t>(word(o.x[2])))
                        : internal::atomic(Kind, bytes, p, word(o.x[compares ? 3 : 2]), compares ? word(o.x[2]) : 0, (o.flags & 16) != 0,
                                           (o.flags & 32) != 0);
  if (bytes == 8) t.set(o.x[0], old);
  else t.set(o.x[0], static_cast<std::uint32_t>(old));
}
template <internal::atomic_kind Kind>
handler of_atomic(bool shared, bool wide) {
  if (shared) return wide ? &atomic_op<Kind, true, true> : &atomic_op<Kind, true, false>;
  return wide ? &atomic_op<Kind, false, true> : &atomic_op<Kind, false, false>;
}

void rule_atomic(decoder& d, bool with_result) {
  auto const order = d.take_one({"relaxed", "acquire", "release", "acq_rel"}, 0);
  d.take_hints();
  bool const shared = take_space(d);
  auto const kind = d.take_one({"add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"}, -1);
  auto const e = d.take_type();
  if (e == element::f32 || e == element::f64 || bytes_of(e) < 4) d.fail("an atomic of a type that is not supported");
  auto& o = d.out();
  std::size_t const first = with_result ? 1 : 0;
  o.x[0] = with_result ? d.target(std::size_t{0}, bytes_of(e)) : static_cast<std::uint32_t>(place_sink);
  bool const wide = d.address(first, 1);
  o.x[2] = d.source(first + 1, e);
  if (kind == 7) o.x[3] = d.source(first + 2, e);
  o.flags = static_cast<std::uint16_t>(bytes_of(e) | (order == 1 || order == 3 ? 16 : 0) | (order >= 2 ? 32 : 0));
  bool const is_signed = e == element::s32 || e == element::s64;
  using enum internal::atomic_kind;
  switch (kind) {
    case 0: o.run = of_atomic<add>(shared, wide); break;
    case 1: o.run = is_signed ? of_atomic<min_s>(shared, wide) : of_atomic<min_u>(shared, wide); break;
    case 2: o.run = is_signed ? of_atomic<max_s>(shared, wide) : of_atomic<max_u>(shared, wide); break;
    case 3: o.run = of_atomic<and_>(shared, wide); break;
    case 4: o.run = of_atomic<or_>(shared, wide); break;
    case 5: o.run = of_atomic<xor_>(shared, wide); break;
    case 6: o.run = of_atomic<exch>(shared, wide); break;
    case 7: o.run = of_atomic<cas>(shared, wide); break;
    case 8: o.run = of_atomic<inc>(shared, wide); break;
    case 9: o.run = of_atomic<dec>(shared, wide); break;
    default: break;
  }
}

// Addresses from one kind to another.

void same_address(state& t, op const& o) { t.set(o.x[0], t.get<std::uint64_t>(o.x[1]) + static_cast<std::uint64_t>(o.number)); }
void to_shared(state& t, op const& o) {
  t.set(o.x[0], static_cast<std::uint64_t>(internal::shared_address(reinterpret_cast<void const*>(t.get<std::uint64_t>(o.x[1])))));
}
void from_shared(state& t, op const& o) {
  // A pointer may be one past the end or, before an offset is added, anywhere: loads and stores are checked, not this.
  auto const offset =
      static_cast<std::uint32_t>(t.get<std::uint64_t>(o.x[1]) + static_cast<std::uint64_t>(o.number)) - internal::window_start;
  t.set(o.x[0], reinterpret_cast<std::uint64_t>(t.thread->home->shared) +
                    static_cast<std::uint64_t>(static_cast<std::int64_t>(static_cast<std::int32_t>(offset))));
}
void map_block(state& t, op const& o) {
  auto const* const p = t.thread->home->shared + (t.get<std::uint32_t>(o.x[1]) - internal::window_start);
  t.set(o.x[0], device::mapa(p, static_cast<int>(t.get<std::uint32_t>(o.x[2]))));
}
/// flags: 1 shared, 0 anything else.
void is_space(state& t, op const& o) {
  bool const in_shared = internal::block_of(reinterpret_cast<void const*>(t.get<std::uint64_t>(o.x[1]))) != nullptr;
  t.set(o.x[0], static_cast<std::uint32_t>(in_shared == (o.flags == 1)));
}

void rule_cvta(decoder& d) {
  bool const to = d.take("to");
  bool const shared = take_space(d);
  if (d.take_type() != element::u64) d.fail("addresses of 64 bits alone are supported");
  auto& o = d.out();
  o.x[0] = d.target(std::size_t{0}, 8);
  if (d.at(1).what == operand::kind::symbol) {
    if (to) d.fail("the name of a variable is not a generic address");
    o.x[1] = d.symbol(d.at(1), o.number);
  } else {
    o.x[1] = d.source(1, element::b64);
  }
  o.run = !shared ? &same_address : to ? &to_shared : &from_shared;
}

void prefetch_map(state& t, op const& o) {
  device::prefetch_tensormap(
      reinterpret_cast<device::tensor_map const*>(t.get<std::uint64_t>(o.x[0]) + static_cast<std::uint64_t>(o.number)));
}
void nothing(state&, op const&) {}

}  // namespace

void add_memory(decoder::table& rules) {
  rules["ld"] = [](decoder& d) { rule_access(d, false); };
  rules["ldu"] = rules["ld"];
  rules["st"] = [](decoder& d) { rule_access(d, true); };
  rules["atom"] = [](decoder& d) { rule_atomic(d, true); };
  rules["red"] = [](decoder& d) { rule_atomic(d, false); };
  rules["cvta"] = &rule_cvta;
  rules["mapa"] = [](decoder& d) {
    if (!d.take("shared::cluster") || d.take_type() != element::u32) d.fail("only .shared::cluster.u32 is supported");
    d.out().x[0] = d.target(std::size_t{0}, 4), d.out().x[1] = d.source(1, element::u32), d.out().x[2] = d.source(2, element::u32);
    d.out().run = &map_block;
  };
  rules["isspacep"] = [](decoder& d) {
    d.out().flags = take_space(d) ? 1 : 0;
    d.out().x[0] = d.target(std::size_t{0}, 4), d.out().x[1] = d.source(1, element::u64);
    d.out().run = &is_space;
  };
  rules["prefetch"] = [](decoder& d) {
    d.take_hints(), take_space(d);
    bool const map = d.take("tensormap");
    if (!map && !d.take("L1") && !d.take("L2")) d.fail("a level is missing");
    if (map && !d.address(0, 0)) d.fail("the address of a tensor map has 64 bits");
    d.out().run = map ? &prefetch_map : &nothing;
  };
  rules["prefetchu"] = [](decoder& d) { d.take("L1"), d.out().run = &nothing; };
}

}  // namespace moesaic::device_model::ptx
