// Matrix instructions of PTX, on the model's.
// SPDX-License-Identifier: Apache-2.0
#include <charconv>

#include "../matrix.hpp"
#include "decode.hpp"

namespace moesaic::device_model::ptx {
namespace {

constexpr int most_registers = 128;

/// Where `count` registers lie, from more[first] on.
void pointers(state& t, op const& o, int first, int count, void** to) {
  for (int i = 0; i < count; ++i) to[i] = t.frame + o.more[first + i];
}
std::vector<std::uint32_t> registers_of(decoder& d, std::size_t n, bool written) {
  std::vector<std::uint32_t> places;
  if (!d.is_vector(n)) d.fail("a list of registers is missing");
  for (auto const& p : d.at(n).parts) places.push_back(written ? d.target(p, 4) : d.source(p, element::b32));
  return places;
}

// x[0] address, flags: 1 transposed, 2 the address has 64 bits.
std::byte* row_at(state const& t, op const& o, char const* name) {
  auto const base = (o.flags & 2) != 0 ? t.get<std::uint64_t>(o.x[0]) : t.get<std::uint32_t>(o.x[0]);
  return internal::shared_pointer(static_cast<std::uint32_t>(base + static_cast<std::uint64_t>(o.number)), 16, name);
}
void load_tiles(state& t, op const& o) {
  void* each[4];
  pointers(t, o, 0, o.count, each);
  internal::ldmatrix(o.count, (o.flags & 1) != 0, {nullptr, each}, row_at(t, o, "ldmatrix"));
}
void store_tiles(state& t, op const& o) {
  void* each[4];
  pointers(t, o, 0, o.count, each);
  internal::stmatrix(o.count, (o.flags & 1) != 0, row_at(t, o, "stmatrix"), {nullptr, each});
}
void rule_tiles(decoder& d, bool store) {
  if (!d.take("sync") || !d.take("aligned") || !d.take("m8n8")) d.fail("only .sync.aligned.m8n8 is supported");
  auto const tiles = d.take("x1") ? 1 : d.take("x2") ? 2 : d.take("x4") ? 4 : 0;
  auto& o = d.out();
  o.flags = d.take("trans") ? 1 : 0;
  d.take("shared") || d.take("shared::cta");
  if (bytes_of(d.take_type()) != 2) d.fail("only .b16 is supported");
  if (d.address(store ? 0 : 1, 0)) o.flags |= 2;
  auto const places = registers_of(d, store ? 1 : 0, !store);
  if (static_cast<int>(places.size()) != tiles) d.fail("another number of registers than tiles");
  d.list(places);
  o.run = store ? &store_tiles : &load_tiles;
}

/// The type of both factors, and of the sum, as modifiers name them.
dtype take_types(decoder& d) {
  auto const type = d.take("bf16")   ? dtype::bf16
                    : d.take("f16")  ? dtype::fp16
                    : d.take("e4m3") ? dtype::e4m3
                    : d.take("s8")   ? dtype::int8
                                     : dtype::same;
  auto const again = type == dtype::bf16   ? d.take("bf16")
                     : type == dtype::fp16 ? d.take("f16")
                     : type == dtype::e4m3 ? d.take("e4m3")
                                           : type == dtype::int8 && d.take("s8");
  if (!again) d.fail("types of factors that are not supported");
  if (!d.take(type == dtype::int8 ? "s32" : "f32")) d.fail("a type of the sum that is not supported");
  return type;
}

/// more: 4 results, 4 of a, 2 of b, 4 to add to.
void product(state& t, op const& o) {
  std::uint32_t sum[4], a[4], b[2];
  for (int i = 0; i < 4; ++i) sum[i] = t.get<std::uint32_t>(o.more[10 + i]), a[i] = t.get<std::uint32_t>(o.more[4 + i]);
  for (int i = 0; i < 2; ++i) b[i] = t.get<std::uint32_t>(o.more[8 + i]);
  internal::mma_sync(static_cast<dtype>(o.number), {sum}, {a}, {b});
  for (int i = 0; i < 4; ++i) t.set(o.more[i], sum[i]);
}
void rule_mma(decoder& d) {
  if (!d.take("sync") || !d.take("aligned") || !d.take("row") || !d.take("col")) d.fail("only .sync.aligned and .row.col are supported");
  auto const type = take_types(d);
  if (!d.take(type == dtype::int8 ? "s32" : "f32")) d.fail("a type of the sum that is not supported");
  if (!d.take(bits(type) == 8 ? "m16n8k32" : "m16n8k16")) d.fail("a shape that is not supported");
  std::vector<std::uint32_t> all;
  constexpr std::size_t sizes[4] = {4, 4, 2, 4};
  for (std::size_t n = 0; n < 4; ++n) {
    auto const some = registers_of(d, n, n == 0);
    if (some.size() != sizes[n]) d.fail("another number of registers than the shape has");
    all.insert(all.end(), some.begin(), some.end());
  }
  d.list(all);
  d.out().number = static_cast<std::int64_t>(type);
  d.out().run = &product;
}

// wgmma. more: accumulators, then 4 registers of a where it lies in registers. x: 0 descriptor a, 1 descriptor b, 2 the predicate that
// adds. number: type, n << 8, major a << 20, major b << 21, a in registers << 22, add inverted << 23.

void async_product(state& t, op const& o) {
  internal::wgmma_shape const shape{static_cast<dtype>(o.number & 0xff), static_cast<int>(o.number >> 8 & 0xfff),
                                    static_cast<device::major>(o.number >> 20 & 1), static_cast<device::major>(o.number >> 21 & 1)};
  bool const add = ((t.get<std::uint32_t>(o.x[2]) ^ static_cast<std::uint32_t>(o.number >> 23)) & 1) != 0;
  void* sums[most_registers];
  pointers(t, o, 0, shape.n / 2, sums);
  if ((o.number >> 22 & 1) != 0) {
    void* a[4];
    pointers(t, o, shape.n / 2, 4, a);
    internal::wgmma(shape, {nullptr, sums}, internal::registers{nullptr, a}, t.get<std::uint64_t>(o.x[1]), add);
  } else {
    internal::wgmma(shape, {nullptr, sums}, t.get<std::uint64_t>(o.x[0]), t.get<std::uint64_t>(o.x[1]), add);
  }
}
/// The compiler may have copied accumulators that are under way: wherever a signature lies in a register, its value belongs.
void wait_products(state& t, op const& o) {
  std::vector<internal::returned> back;
  internal::wgmma_wait_group(static_cast<int>(o.number), &back);
  if (back.empty()) return;
  std::unordered_map<std::uint32_t, std::pair<std::uint32_t, int>> values;
  for (auto const& r : back) values[r.signature] = {r.value, 0};
  auto const end = static_cast<std::uint32_t>(t.running->constants_at);
  for (std::uint32_t at = place_registers; at + 4 <= end; at += 4) {
    auto const known = values.find(t.get<std::uint32_t>(at));
    if (known == values.end()) continue;
    t.set(at, known->second.first);
    ++known->second.second;
  }
  for (auto const& [signature, value] : values)
    if (value.second == 0) {
      internal::report("model", "an accumulator of wgmma was written while the product was under way, before the wait at {1}", place_of(t));
      return;
    }
}
void rule_wgmma(decoder& d) {
  auto& o = d.out();
  if (d.take("fence")) {
    d.take("sync"), d.take("aligned");
    o.run = [](state&, op const&) { internal::wgmma_fence(); };
    return;
  }
  if (d.take("commit_group")) {
    d.take("sync"), d.take("aligned");
    o.run = [](state&, op const&) { internal::wgmma_commit_group(); };
    return;
  }
  if (d.take("wait_group")) {
    d.take("sync"), d.take("aligned");
    o.number = d.immediate(0);
    o.run = &wait_products;
    return;
  }
  if (!d.take("mma_async") || !d.take("sync") || !d.take("aligned")) d.fail("a form that is not known");
  auto const shape = d.take_beginning("m64n");
  auto const type = take_types(d);
  int n = 0, k = 0;
  auto const* const end = shape.data() + shape.size();
  auto const after_n = shape.empty() ? std::from_chars_result{} : std::from_chars(shape.data() + 4, end, n);
  if (shape.empty() || after_n.ptr == end || *after_n.ptr != 'k' || std::from_chars(after_n.ptr + 1, end, k).ptr != end ||
      k != device::mma_k<dtype::bf16> * 16 / bits(type) || !device::wgmma_takes(type, n))
    d.fail("a shape that does not exist");
  auto places = registers_of(d, 0, true);
  if (static_cast<int>(places.size()) != n / 2) d.fail("another number of accumulators than the shape has");
  bool const from_registers = d.is_vector(1);
  if (from_registers) {
    auto const a = registers_of(d, 1, false);
    if (a.size() != 4) d.fail("four registers of a are asked for");
    places.insert(places.end(), a.begin(), a.end());
  } else {
    o.x[0] = d.source(1, element::b64);
  }
  d.list(places);
  o.x[1] = d.source(2, element::b64);
  bool inverted = false;
  if (d.is_immediate(3)) o.x[2] = d.constant(static_cast<std::uint64_t>(d.immediate(3)));
  else o.x[2] = d.predicate(3, inverted);
  std::size_t next = 4;
  if (type != dtype::int8)
    for (int i = 0; i < 2; ++i)
      if (d.immediate(next++) != 1) d.fail("factors that are negated are not supported");
  std::int64_t a_mn = 0, b_mn = 0;
  if (bits(type) == 16) {
    if (!from_registers) a_mn = d.immediate(next++);
    b_mn = d.immediate(next++);
  }
  if (d.operands() != next) d.fail("operands that are not supported");
  o.number = static_cast<std::int64_t>(type) | static_cast<std::int64_t>(n) << 8 | (a_mn & 1) << 20 | (b_mn & 1) << 21 |
             std::int64_t{from_registers} << 22 | std::int64_t{inverted} << 23;
  o.run = &async_product;
}

}  // namespace

void add_matrix(decoder::table& rules) {
  rules["ldmatrix"] = [](decoder& d) { rule_tiles(d, false); };
  rules["stmatrix"] = [](decoder& d) { rule_tiles(d, true); };
  rules["mma"] = &rule_mma;
  rules["wgmma"] = &rule_wgmma;
}

}  // namespace moesaic::device_model::ptx
