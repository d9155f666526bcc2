// PTX text as a tree: functions, variables, and instructions whose registers, labels and places are found, whose meaning is not yet.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moesaic::device_model::ptx {

/// Of a register, a parameter or a variable.
struct data_type {
  char kind = 'b';                       ///< b, u, s, f; p for predicates
  int bits = 32;                         ///< 1 for predicates
};

enum class space : std::uint8_t { generic, reg, local, param, shared, global };

/// A place in the source of the kernel, and which one it was inlined into.
struct location {
  int file = 0, line = 0, column = 0;
  int inlined_at = -1;                   ///< index into text::locations
};

struct operand {
  enum class kind : std::uint8_t { reg, integer, real, vector, address, symbol, label, special, sink };
  kind what = kind::sink;
  bool inverted = false;                 ///< !p
  int index = -1;                        ///< reg: of function::registers; symbol: see `of`; label: of function::labels
  space of = space::generic;             ///< symbol: local, param (of function::variables), shared, global (of text::variables)
  std::int64_t number = 0;               ///< integer, offset of an address or a symbol; bits of a real written in hex
  double real = 0;
  int real_bits = 0;                     ///< 32 or 64 where a real is written as bits, 0 where in decimal
  std::string_view name;                 ///< special register; symbol
  std::vector<operand> parts;            ///< vector: its elements; address: base, then what follows it in brackets; reg of a pair p|q: q
};

struct instruction {
  std::string_view name;                 ///< all of it, such as add.s32
  operand guard;                         ///< sink where there is none
  std::vector<operand> operands;
  int line = 0;                          ///< of the text
  int where = -1;                        ///< of text::locations
};

struct variable {
  std::string_view name;
  space of = space::global;
  std::uint64_t bytes = 0;
  int align = 1;
  int element_bytes = 1;
  bool open = false;                     ///< extern and without a size: dynamic shared memory
  std::vector<std::uint64_t> values;     ///< of elements, the rest is zero
  std::vector<std::pair<std::size_t, std::string_view>> addresses;   ///< elements that are the address of another variable
};

struct function {
  std::string_view name;
  bool is_kernel = false, defined = false;
  std::vector<data_type> registers;
  std::vector<variable> variables;       ///< .local and .param: results, parameters, then those of scopes
  int results = 0, parameters = 0;
  int most_threads = 0, least_blocks = 1;   ///< of a block, as compiled for; of a multiprocessor
  std::vector<std::size_t> labels;       ///< index of the instruction that follows
  std::vector<instruction> body;
  int line = 0;
};

struct text {
  std::shared_ptr<std::string const> source;   ///< what every string_view here points into
  std::vector<function> functions;
  std::vector<variable> variables;       ///< .global, .const and .shared
  std::vector<location> locations;
  std::vector<std::string_view> files;   ///< by number
};

/// Throws moesaic::error with the line for what is not PTX as nvcc writes it.
text parse(std::string source);

}  // namespace moesaic::device_model::ptx
