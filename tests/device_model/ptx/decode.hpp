// What PTX becomes before it runs: operations with a handler and places of their operands in a thread's frame, and the thread.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "../internal.hpp"
#include "text.hpp"

namespace moesaic::device_model::ptx {

struct op;
struct state;
using handler = void (*)(state&, op const&);

struct op {
  handler run = nullptr;
  std::uint32_t x[6] = {};               ///< places of operands in the frame
  std::uint32_t guard = 0;               ///< place of the predicate: runs where bit 0 of it differs from `unless`
  std::uint32_t unless = 0;
  std::int64_t number = 0;               ///< offset of an address, target of a branch, an immediate
  std::uint32_t const* more = nullptr;   ///< places of vectors
  std::uint16_t count = 0;               ///< of them
  std::uint16_t flags = 0;               ///< of the handler
  std::int32_t line = 0, where = -1;     ///< in the text, in text::locations
};

/// A function, decoded. Its frame: four words that every frame has, registers, constants; then `area`, its .local and .param variables.
struct code {
  std::string_view name;
  bool is_kernel = false;
  std::vector<op> ops;
  std::vector<std::unique_ptr<std::uint32_t[]>> lists;   ///< what op::more points into
  std::vector<std::uint64_t> constants;
  std::vector<std::uint64_t> offsets;    ///< of variables, in the area or, of a kernel's parameters, from their start
  std::uint64_t constants_at = 0, area_at = 0, frame_bytes = 0;
  std::uint64_t stack_bytes = 0;         ///< of it and all that it may call
  std::uint64_t parameter_bytes = 0;
  std::vector<std::size_t> calls;        ///< functions
};

/// The words at the start of every frame.
enum fixed_place : std::uint32_t {
  place_true = 0, place_parameters = 8, place_area = 16, place_static_shared = 24, place_sink = 32, place_registers = 64
};

/// A thread that runs PTX. Without destructor: a launch that fails leaves its threads where they stand.
struct state {
  static constexpr int deepest = 8;

  std::byte* frame = nullptr;
  op const* next = nullptr;
  code const* running = nullptr;
  code const* const* functions = nullptr;
  internal::thread* thread = nullptr;
  void const* parameters = nullptr;
  std::uint64_t static_shared = 0;       ///< address in the window
  std::uint64_t left = 0;                ///< instructions until it counts as hung
  bool carry = false;
  int depth = 0;
  struct {
    std::byte* frame;
    op const* next;
    code const* running;
  } stack[deepest];

  template <class T>
  T get(std::uint32_t at) const {
    T value;
    std::memcpy(&value, frame + at, sizeof(T));
    return value;
  }
  template <class T>
  void set(std::uint32_t at, T value) {
    std::memcpy(frame + at, &value, sizeof(T));
  }
  /// Makes `c` the running function, with its frame at `at`.
  void enter(code const& c, std::byte* at) {
    frame = at;
    running = &c;
    std::memset(frame, 0xff, c.constants_at);
    if (!c.constants.empty()) std::memcpy(frame + c.constants_at, c.constants.data(), c.constants.size() * 8);
    set<std::uint64_t>(place_true, 1);
    set(place_parameters, parameters);
    set(place_area, frame + c.area_at);
    set(place_static_shared, static_shared);
    next = c.ops.data();
  }
  op const& current() const { return next[-1]; }
};

/// Types of operands.
enum class element : std::uint8_t {
  none, pred, b8, b16, b32, b64, u8, u16, u32, u64, s8, s16, s32, s64, f16, f16x2, bf16, bf16x2, tf32, f32, f64, e4m3x2, e5m2x2, b128
};
element element_of(std::string_view word);
int bytes_of(element e);

/// Turns the instructions of one function into operations.
class decoder {
 public:
  using rule = void (*)(decoder&);
  using table = std::unordered_map<std::string_view, rule>;

  decoder(text const& t, std::vector<std::byte*> const& globals, std::vector<std::uint64_t> const& shared_at, std::size_t index, code& out);
  void run(table const& rules);

  // For rules, about the instruction at hand.

  [[noreturn]] void fail(std::string const& what) const;
  /// The operation that it becomes.
  op& out() { return *op_; }
  /// Takes a modifier, such as "ftz"; what no rule takes is an error.
  bool take(std::string_view modifier);
  /// Takes the first modifier that is there and answers its index.
  int take_one(std::initializer_list<std::string_view> modifiers, int otherwise);
  /// Takes the first modifier that is a type; an error where there is none.
  element take_type();
  /// Takes modifiers that concern caches alone, and a scope.
  void take_hints();
  /// Takes the first modifier that is left and begins so; empty where there is none.
  std::string_view take_beginning(std::string_view with);

  std::size_t operands() const { return now_->operands.size(); }
  operand const& at(std::size_t n) const;
  bool is_vector(std::size_t n) const { return at(n).what == operand::kind::vector; }
  bool is_immediate(std::size_t n) const { return at(n).what == operand::kind::integer; }
  std::int64_t immediate(std::size_t n) const;
  /// Where operand `o` lies in the frame, read as `e`.
  std::uint32_t source(operand const& o, element e);
  std::uint32_t source(std::size_t n, element e) { return source(at(n), e); }
  /// A predicate and whether it is inverted (!p).
  std::uint32_t predicate(std::size_t n, bool& inverted);
  /// Where a result of `bytes` goes; 0 bytes: a register of any width.
  std::uint32_t target(operand const& o, int bytes);
  std::uint32_t target(std::size_t n, int bytes) { return target(at(n), bytes); }
  int width(operand const& o) const;       ///< bytes of a register; 8 for a constant
  /// Base and offset of operand n, an address, to out().x[slot] and out().number; whether the base has 64 bits.
  bool address(std::size_t n, int slot);
  bool address(operand const& o, int slot);
  /// A register or constant for an integer.
  std::uint32_t constant(std::uint64_t bits);
  /// Places that out().more points to.
  void list(std::vector<std::uint32_t> const& places);
  /// Place of the word that a symbol's address begins at, and its offset to that.
  std::uint32_t symbol(operand const& o, std::int64_t& offset);
  bool in_kernel() const { return f_.is_kernel; }

  std::vector<function> const& functions() const { return t_.functions; }
  /// The operation that follows a label.
  std::size_t label(int index) const { return op_index_[f_.labels[static_cast<std::size_t>(index)]]; }
  void call_of(std::size_t function) { out_.calls.push_back(function); }
  /// Goes on to a second operation of the same instruction, with the same guard.
  void after();
  std::vector<std::uint64_t> const& offsets() const { return out_.offsets; }

 private:
  void lay_out_registers();
  void lay_out_variables();

  text const& t_;
  function const& f_;
  std::vector<std::byte*> const& globals_;
  std::vector<std::uint64_t> const& shared_at_;
  code& out_;
  std::vector<std::uint32_t> register_at_;
  std::unordered_map<std::uint64_t, std::uint32_t> constant_at_;
  instruction const* now_ = nullptr;
  op* op_ = nullptr;
  std::vector<std::string_view> modifiers_;
  std::vector<std::size_t> op_index_;    ///< of each instruction
};

void add_arithmetic(decoder::table& rules);
void add_conversions(decoder::table& rules);
void add_memory(decoder::table& rules);
void add_control(decoder::table& rules);
void add_hardware(decoder::table& rules);
void add_matrix(decoder::table& rules);

/// The place of the instruction that the running thread is at.
inline internal::place place_of(state const& t) {
  internal::place p;
  p.at[0] = &t.current();
  return p;
}
[[noreturn]] void fail(state const& t, char const* kind, std::string const& what);

// Handlers over types.

/// Op::run<T> for the integer that `e` names: signed for s, unsigned for b and u.
template <class Op>
handler of_integer(decoder const& d, element e) {
  switch (e) {
    case element::b16:
    case element::u16: return &Op::template run<std::uint16_t>;
    case element::s16: return &Op::template run<std::int16_t>;
    case element::b32:
    case element::u32: return &Op::template run<std::uint32_t>;
    case element::s32: return &Op::template run<std::int32_t>;
    case element::b64:
    case element::u64: return &Op::template run<std::uint64_t>;
    case element::s64: return &Op::template run<std::int64_t>;
    default: d.fail("an integer type that this instruction does not have");
  }
}
/// Op::run<T> for words of 16, 32 and 64 bits.
template <class Op>
handler of_word(decoder const& d, element e) {
  switch (bytes_of(e)) {
    case 2: return &Op::template run<std::uint16_t>;
    case 4: return &Op::template run<std::uint32_t>;
    case 8: return &Op::template run<std::uint64_t>;
    default: d.fail("a width that this instruction does not have");
  }
}
template <class F>
struct unary {
  template <class T>
  static void run(state& t, op const& o) {
    t.set(o.x[0], static_cast<T>(F{}(t.get<T>(o.x[1]))));
  }
};
template <class F>
struct binary {
  template <class T>
  static void run(state& t, op const& o) {
    t.set(o.x[0], static_cast<T>(F{}(t.get<T>(o.x[1]), t.get<T>(o.x[2]))));
  }
};
template <class F>
struct ternary {
  template <class T>
  static void run(state& t, op const& o) {
    t.set(o.x[0], static_cast<T>(F{}(t.get<T>(o.x[1]), t.get<T>(o.x[2]), t.get<T>(o.x[3]))));
  }
};

}  // namespace moesaic::device_model::ptx
