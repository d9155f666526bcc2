// Gives every register, constant and variable of a function a place in its frame, and every instruction the handler that its name asks for.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include <moesaic/base/status.hpp>

#include "decode.hpp"

namespace moesaic::device_model::ptx {
namespace {

constexpr std::uint64_t align_up(std::uint64_t n, std::uint64_t to) { return (n + to - 1) / to * to; }

struct named_element {
  std::string_view name;
  element is;
};
constexpr named_element elements[] = {
    {"pred", element::pred},     {"b8", element::b8},         {"b16", element::b16},   {"b32", element::b32}, {"b64", element::b64},
    {"u8", element::u8},         {"u16", element::u16},       {"u32", element::u32},   {"u64", element::u64}, {"s8", element::s8},
    {"s16", element::s16},       {"s32", element::s32},       {"s64", element::s64},   {"f16", element::f16}, {"f16x2", element::f16x2},
    {"bf16", element::bf16},     {"bf16x2", element::bf16x2}, {"tf32", element::tf32}, {"f32", element::f32}, {"f64", element::f64},
    {"e4m3x2", element::e4m3x2}, {"e5m2x2", element::e5m2x2}, {"b128", element::b128}};

}  // namespace

element element_of(std::string_view word) {
  for (auto const& e : elements)
    if (e.name == word) return e.is;
  return element::none;
}
int bytes_of(element e) {
  switch (e) {
    case element::b8:
    case element::u8:
    case element::s8: return 1;
    case element::b16:
    case element::u16:
    case element::s16:
    case element::f16:
    case element::bf16:
    case element::e4m3x2:
    case element::e5m2x2: return 2;
    case element::b64:
    case element::u64:
    case element::s64:
    case element::f64: return 8;
    case element::b128: return 16;
    default: return 4;
  }
}

decoder::decoder(text const& t, std::vector<std::byte*> const& globals, std::vector<std::uint64_t> const& shared_at, std::size_t index,
                 code& out)
    : t_(t), f_(t.functions[index]), globals_(globals), shared_at_(shared_at), out_(out) {
  out_.name = f_.name;
  out_.is_kernel = f_.is_kernel;
  lay_out_registers();
  lay_out_variables();
}

void decoder::lay_out_registers() {
  register_at_.assign(f_.registers.size(), 0);
  std::uint64_t end = place_registers;
  for (std::size_t r = 0; r < f_.registers.size(); ++r) {
    auto const bytes = static_cast<std::uint64_t>(std::max(f_.registers[r].bits / 8, f_.registers[r].kind == 'p' ? 4 : 2));
    end = align_up(end, bytes);
    register_at_[r] = static_cast<std::uint32_t>(end);
    end += bytes;
  }
  out_.constants_at = align_up(end, 8);
}

void decoder::lay_out_variables() {
  std::uint64_t in_area = 0, in_parameters = 0;
  for (std::size_t v = 0; v < f_.variables.size(); ++v) {
    auto const& variable = f_.variables[v];
    auto& end = f_.is_kernel && static_cast<int>(v) < f_.parameters ? in_parameters : in_area;
    end = align_up(end, static_cast<std::uint64_t>(variable.align));
    out_.offsets.push_back(end);
    end += variable.bytes;
  }
  out_.parameter_bytes = in_parameters;
  out_.frame_bytes = in_area;            // the rest is added when the constants are known
}

void decoder::run(table const& rules) {
  std::size_t count = 0;
  for (auto const& i : f_.body) {
    op_index_.push_back(count);
    count += i.name.starts_with("call") && !i.operands.empty() && i.operands[0].what == operand::kind::vector ? 2 : 1;
  }
  op_index_.push_back(count);
  out_.ops.resize(count + 1);
  instruction end;
  end.name = "ret", end.line = f_.line;
  for (std::size_t n = 0; n <= f_.body.size(); ++n) {
    now_ = n < f_.body.size() ? &f_.body[n] : &end;
    op_ = &out_.ops[op_index_[n]];
    op_->line = now_->line, op_->where = now_->where;
    modifiers_.clear();
    std::string_view rest = now_->name;
    auto const word = [&] {
      auto const dot = rest.find('.');
      auto const first = rest.substr(0, dot);
      rest = dot == std::string_view::npos ? std::string_view{} : rest.substr(dot + 1);
      return first;
    };
    auto const root = word();
    while (!rest.empty()) modifiers_.push_back(word());
    auto const known = rules.find(root);
    if (known == rules.end()) fail("an instruction that is not known");
    if (now_->guard.what == operand::kind::reg) {
      op_->guard = register_at_[static_cast<std::size_t>(now_->guard.index)];
      op_->unless = now_->guard.inverted ? 1 : 0;
    }
    known->second(*this);
    if (op_->run == nullptr) fail("a form that is not known");
    for (auto const left : modifiers_)
      if (!left.empty()) fail("a modifier that is not known here: ." + std::string(left));
  }
  out_.area_at = align_up(out_.constants_at + out_.constants.size() * 8, 64);
  out_.frame_bytes = align_up(out_.area_at + out_.frame_bytes, 64);
}

void decoder::after() {
  auto const& first = *op_++;
  op_->line = first.line, op_->where = first.where, op_->guard = first.guard, op_->unless = first.unless;
}

void decoder::fail(std::string const& what) const {
  throw error("PTX line " + std::to_string(now_ ? now_->line : f_.line) + ": " + (now_ ? std::string(now_->name) + ": " : "") + what);
}

bool decoder::take(std::string_view modifier) {
  for (auto& m : modifiers_)
    if (m == modifier) {
      m = {};
      return true;
    }
  return false;
}
int decoder::take_one(std::initializer_list<std::string_view> modifiers, int otherwise) {
  int index = 0;
  for (auto const m : modifiers) {
    if (take(m)) return index;
    ++index;
  }
  return otherwise;
}
element decoder::take_type() {
  for (auto& m : modifiers_)
    if (auto const e = element_of(m); e != element::none) {
      m = {};
      return e;
    }
  fail("a type is missing");
}
std::string_view decoder::take_beginning(std::string_view with) {
  for (auto& m : modifiers_)
    if (!m.empty() && m.starts_with(with)) return std::exchange(m, {});
  return {};
}
void decoder::take_hints() {
  for (auto& m : modifiers_)
    if (m.starts_with("L1::") || m.starts_with("L2::") || m == "ca" || m == "cg" || m == "cs" || m == "lu" || m == "cv" || m == "wb" ||
        m == "wt" || m == "cta" || m == "cluster" || m == "gpu" || m == "sys")
      m = {};
}

operand const& decoder::at(std::size_t n) const {
  if (n >= now_->operands.size()) fail("operand " + std::to_string(n + 1) + " is missing");
  return now_->operands[n];
}
std::int64_t decoder::immediate(std::size_t n) const {
  if (!is_immediate(n)) fail("operand " + std::to_string(n + 1) + " must be an immediate");
  return at(n).number;
}
std::uint32_t decoder::constant(std::uint64_t bits) {
  auto const [known, is_new] = constant_at_.try_emplace(bits, static_cast<std::uint32_t>(out_.constants_at + out_.constants.size() * 8));
  if (is_new) out_.constants.push_back(bits);
  return known->second;
}
std::uint32_t decoder::source(operand const& o, element e) {
  auto const bytes = e == element::pred ? 4 : bytes_of(e);
  switch (o.what) {
    case operand::kind::reg:
      if (o.inverted) fail("an inverted predicate where none can be");
      if (width(o) < bytes) fail("a register that is narrower than what is read of it");
      if ((e == element::pred) != (f_.registers[static_cast<std::size_t>(o.index)].kind == 'p'))
        fail("a predicate for a number, or the other way round");
      return register_at_[static_cast<std::size_t>(o.index)];
    case operand::kind::integer:
      if (e == element::f32) return constant(bit_cast<std::uint32_t>(static_cast<float>(o.number)));
      if (e == element::f64) return constant(bit_cast<std::uint64_t>(static_cast<double>(o.number)));
      return constant(static_cast<std::uint64_t>(o.number));
    case operand::kind::real:
      if (o.real_bits != 0) {
        // A bit pattern counts as the real it is: in an instruction of the other width it is converted.
        if (e == element::f64 && o.real_bits == 32)
          return constant(bit_cast<std::uint64_t>(static_cast<double>(bit_cast<float>(static_cast<std::uint32_t>(o.number)))));
        if (e == element::f32 && o.real_bits == 64)
          return constant(bit_cast<std::uint32_t>(static_cast<float>(bit_cast<double>(o.number))));
        return constant(static_cast<std::uint64_t>(o.number));
      }
      if (e == element::f64 || e == element::b64) return constant(bit_cast<std::uint64_t>(o.real));
      if (e == element::f32 || e == element::b32) return constant(bit_cast<std::uint32_t>(static_cast<float>(o.real)));
      fail("a real where none can be");
    case operand::kind::special:
      if (o.name == "WARP_SZ") return constant(32);
      fail("a special register that only mov can read: " + std::string(o.name));
    default: fail("an operand that is neither register nor number: " + std::string(o.name));
  }
}
std::uint32_t decoder::predicate(std::size_t n, bool& inverted) {
  auto o = at(n);
  inverted = std::exchange(o.inverted, false);
  return source(o, element::pred);
}
int decoder::width(operand const& o) const {
  if (o.what != operand::kind::reg) return 8;
  auto const& type = f_.registers[static_cast<std::size_t>(o.index)];
  return type.kind == 'p' ? 4 : std::max(type.bits / 8, 2);
}
std::uint32_t decoder::target(operand const& o, int bytes) {
  if (o.what == operand::kind::sink) return place_sink;
  if (o.what != operand::kind::reg) fail("a result that is not a register: " + std::string(o.name));
  if (bytes != 0 && width(o) != bytes) fail("a result in a register of another width");
  return register_at_[static_cast<std::size_t>(o.index)];
}
std::uint32_t decoder::symbol(operand const& o, std::int64_t& offset) {
  offset = o.number;
  auto const index = static_cast<std::size_t>(o.index);
  switch (o.of) {
    case space::local:
    case space::param:
      offset += static_cast<std::int64_t>(out_.offsets[index]);
      return f_.is_kernel && o.of == space::param && static_cast<int>(index) < f_.parameters ? place_parameters : place_area;
    case space::shared:
      if (t_.variables[index].open) return constant(internal::window_start);
      offset += static_cast<std::int64_t>(shared_at_[index]);
      return place_static_shared;
    default: return constant(reinterpret_cast<std::uint64_t>(globals_[index]));
  }
}
bool decoder::address(std::size_t n, int slot) { return address(at(n), slot); }
bool decoder::address(operand const& o, int slot) {
  if (o.what != operand::kind::address) fail("an operand that must be an address");
  auto const& base = o.parts[0];
  if (base.what == operand::kind::symbol) {
    std::int64_t offset = 0;
    op_->x[slot] = symbol(base, offset);
    op_->number = o.number + offset;
    return true;
  }
  op_->number = o.number;
  if (base.what == operand::kind::integer) {
    op_->x[slot] = constant(static_cast<std::uint64_t>(base.number));
    return true;
  }
  op_->x[slot] = source(base, element::b32);
  if (width(base) < 4) fail("an address in a register that is too narrow");
  return width(base) == 8;
}
void decoder::list(std::vector<std::uint32_t> const& places) {
  out_.lists.push_back(std::make_unique<std::uint32_t[]>(places.size()));
  std::copy(places.begin(), places.end(), out_.lists.back().get());
  op_->more = out_.lists.back().get();
  op_->count = static_cast<std::uint16_t>(places.size());
}

}  // namespace moesaic::device_model::ptx
