// Named tensors -> packed weights. Finds each under its published names, checks shape and type, converts, packs for this machine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <forward_list>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <moesaic/base/arena.hpp>
#include <moesaic/base/groups.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/base/quantizer.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/config/shapes.hpp>
#include <moesaic/config/tensor.hpp>
#include <moesaic/config/weights.hpp>

namespace moesaic {

/// Weights and the memory they lie in. Converts to the views that forward calls take.
template <class Weights, class Buffer>
struct loaded {
  Buffer memory;
  Weights views;
  operator Weights const&() const& { return views; }
  operator Weights const&() && = delete;                   // the views would outlive their memory
};

/// A packed matrix over memory of its own; in a counting arena, its size.
[[gnu::noinline]] constexpr packed_matrix take_matrix(arena& memory, format stored, std::int64_t outputs, std::int64_t inputs, int parts = 1, std::int64_t count = 1) {
  packed_matrix m{stored, outputs, inputs, parts, count, nullptr};
  m.data = memory.take<std::byte>(packed::bytes(m)).data;
  return m;
}

/// Throws where packed weights cannot lie in `memory`.
inline void check_memory(list<const std::byte> memory, std::size_t bytes) {
  if (memory.size < static_cast<std::int64_t>(bytes)) throw_error({"packed weights: expected ", bytes, " bytes, found ", memory.size});
  if (reinterpret_cast<std::uintptr_t>(memory.data) % arena::alignment != 0)
    throw_error({"packed weights: expected memory aligned to 64 bytes, found an address that is not"});
}

/// Finds one layer's (or a model's) tensors in a source, whatever the source's type: that is known to three functions only, so all here is compiled
/// once. Throws moesaic::error: what was expected, what was found, in which file.
/// A matrix of e4m3 has its scales in a tensor NAME_scale_inv, [⌈rows / 128⌉, ⌈inputs / 128⌉]; one of mxfp4 is two tensors, NAME_blocks
/// [..., rows, inputs / 32, 16] and NAME_scales [..., rows, inputs / 32], for the NAME that others have.
class tensor_finder {
 public:
  tensor_names const& names;

  template <tensor_source Source>
  tensor_finder(Source const& source, std::string_view prefix, tensor_names const& spelled, int sublayer)
      : names(spelled), source_(&source), prefix_(prefix), sublayer_(sublayer) {
    find_ = [](void const* self, std::string const& name) -> tensor const* { return static_cast<Source const*>(self)->find(name); };
    where_ = [](void const* self, std::string const& name) -> std::string { return static_cast<Source const*>(self)->where(name); };
    if constexpr (requires(std::string const& name, std::initializer_list<std::int64_t> shape) { source.make(name, shape); })
      make_ = [](void const* self, std::string const& name, std::initializer_list<std::int64_t> shape) -> tensor const* {
        return static_cast<Source const*>(self)->make(name, shape);
      };
  }

  /// `rows` rows of a stored matrix, from `first` on, as inputs of a packed one: side by side, or `run` of them every `period` rows.
  struct rows_of {
    tensor const* stored;
    std::int64_t rows;
    std::int64_t first = 0, run = 0, period = 0;

    std::int64_t row(std::int64_t i) const { return first + (run != 0 ? i / run * period + i % run : i); }
  };

  /// A tensor of this shape under one of its names, or an error.
  rows_of find(spellings const& name, const char* suffix, std::initializer_list<std::int64_t> shape, int expert = 0) {
    std::string full;
    auto const* stored = look(name, suffix, expert, full);
    if (stored == nullptr && make_ != nullptr) stored = make_(source_, full, shape);
    list<const std::int64_t> const wanted(shape.begin(), static_cast<std::int64_t>(shape.size()));
    if (stored == nullptr) missing(full, {"'", full, "' ", text(wanted)});
    if (full.ends_with("_blocks")) stored = &mxfp4_of(*stored, full);
    auto shape_of = stored->shape;                                          // a vector may be stored as [1, n] (ERNIE-4.5)
    while (shape_of.size > wanted.size && shape_of[0] == 1) shape_of = {shape_of.data + 1, shape_of.size - 1};
    if (!same(shape_of, wanted)) refuse(full, {"shape ", text(wanted)}, text(stored->shape));
    if (stored->type == dtype::e4m3 && stored->shape.size == 2) stored = &e4m3_of(*stored, full);
    else if (stored->type == dtype::e4m3 && find_(source_, joined({full, "_scale_inv"})) != nullptr)
      refuse(full, {"a matrix, where e4m3 has scales"}, joined({"shape ", text(stored->shape)}));
    if (!widens(stored->type) && stored->scales == nullptr) refuse(full, {"a floating-point type"}, moesaic::name(stored->type));
    return {stored, wanted[0]};
  }
  bool has(spellings const& name, const char* suffix, int expert = 0) {
    std::string full;
    return look(name, suffix, expert, full) != nullptr;
  }

  /// A vector of fp32 from a tensor of that many elements; a piece of it where `into` is part of a longer list.
  void vector(spellings const& name, const char* suffix, list<const float> into, int expert = 0) {
    values(name, suffix, into, {into.size}, expert);
  }
  /// The same from a tensor of any shape.
  [[gnu::noinline]] void values(spellings const& name, const char* suffix, list<const float> into, std::initializer_list<std::int64_t> shape,
                                int expert = 0) {
    auto const found = find(name, suffix, shape, expert);
    widen(*found.stored, 0, into.size, const_cast<float*>(into.data));      // carved from the loader's own memory
    check_finite(name, suffix, into, expert);
  }
  /// The same, element i being the tensor's order(i).
  template <std::invocable<std::int64_t> Order>
  void values(spellings const& name, const char* suffix, list<const float> into, std::initializer_list<std::int64_t> shape, Order&& order) {
    auto const found = find(name, suffix, shape);
    for (std::int64_t i = 0; i < into.size; ++i) widen(*found.stored, order(i), 1, const_cast<float*>(into.data) + i);
    check_finite(name, suffix, into);
  }
  /// Of a tensor of `size` elements those that `part` says, whose tensor is found here.
  void vector(spellings const& name, const char* suffix, list<const float> into, std::int64_t size, rows_of part) {
    values(name, suffix, into, {size}, [&](std::int64_t i) { return part.row(i); });
  }

  /// A stored matrix of which each row is an input, [inputs, outputs] from row `first` on, as one of fp32 [outputs, inputs] in `memory`.
  [[gnu::noinline]] static tensor turned(tensor const& stored, std::int64_t first, std::int64_t inputs, std::int64_t outputs, std::vector<float>& memory) {
    constexpr std::int64_t together = 16;                                   // rows: a line of `memory` is then written at once
    memory.resize(static_cast<std::size_t>(inputs * outputs));
    std::vector<float> rows(static_cast<std::size_t>(together * outputs));
    for (std::int64_t k = 0; k < inputs; k += together) {
      auto const count = inputs - k < together ? inputs - k : together;
      widen(stored, (first + k) * outputs, count * outputs, rows.data());
      for (std::int64_t n = 0; n < outputs; ++n)
        for (std::int64_t i = 0; i < count; ++i)
          memory[static_cast<std::size_t>(n * inputs + k + i)] = rows[static_cast<std::size_t>(i * outputs + n)];
    }
    return {dtype::fp32, {}, reinterpret_cast<std::byte const*>(memory.data()), inputs * outputs * 4};
  }

 private:
  // A tensor of codes and the scales found for it.
  struct coded {
    std::vector<std::int64_t> shape;
    tensor value;
  };
  tensor const& with_scales(tensor const& codes, dtype type, std::vector<std::int64_t> shape, std::string const& codes_name, std::string const& name,
                            list<const std::int64_t> wanted) {
    auto const* const scales = find_(source_, name);
    if (scales == nullptr) missing(name, {"'", name, "' of the scales of '", codes_name, "'"});
    if (!same(scales->shape, wanted)) refuse(name, {"shape ", text(wanted)}, text(scales->shape));
    bool const exponents = scales->type == dtype::uint8 || scales->type == dtype::e8m0;
    if (!exponents && (type == dtype::mxfp4 || scales->type != dtype::fp32))
      refuse(name, {type == dtype::mxfp4 ? "bytes of exponents" : "fp32 or e8m0"}, moesaic::name(scales->type));
    std::int64_t count = 1;
    for (auto const n : wanted) count *= n;
    for (std::int64_t i = 0; i < count; ++i) check_finite(name, scale_of(*scales, i), i);
    auto& made = coded_.emplace_front(coded{std::move(shape), {}});
    made.value = {type, made.shape, codes.data, codes.bytes, scales};
    return made.value;
  }
  tensor const& e4m3_of(tensor const& codes, std::string const& name) {
    auto const extent = groups::scales_of(codes.shape[0], codes.shape[1], groups::extent_of(dtype::e4m3));
    std::int64_t const of_scales[] = {extent.rows, extent.inputs};
    return with_scales(codes, dtype::e4m3, {codes.shape[0], codes.shape[1]}, name, joined({name, "_scale_inv"}), of_scales);
  }
  tensor const& mxfp4_of(tensor const& blocks, std::string const& name) {
    auto const last = blocks.shape.size - 1;
    if (blocks.type != dtype::uint8) refuse(name, {"bytes"}, moesaic::name(blocks.type));
    if (last < 2 || blocks.shape[last] != 16) refuse(name, {"shape [..., rows, inputs / 32, 16]"}, text(blocks.shape));
    std::vector<std::int64_t> shape(blocks.shape.begin(), blocks.shape.end() - 1);
    shape.back() *= 32;
    auto const stem = std::string_view(name).substr(0, name.size() - 6);
    return with_scales(blocks, dtype::mxfp4, std::move(shape), name, joined({stem, "scales"}), {blocks.shape.data, last});
  }

  // The first spelling that the source has, and its `full` name; else null and the first spelling, for the message.
  tensor const* look(spellings const& name, const char* suffix, int expert, std::string& full) {
    for (auto const* option : name.options) {
      if (option == nullptr) break;
      auto spelled = joined({prefix_, option, suffix});
      fill(spelled, "{}", expert);
      fill(spelled, "{sublayer}", sublayer_);
      if (full.empty()) full = spelled;
      for (auto const* form : {"", "_blocks"}) {
        auto const stored_name = joined({spelled, form});
        if (auto const* stored = find_(source_, stored_name)) {
          full = stored_name;
          return stored;
        }
      }
    }
    return nullptr;
  }
  [[gnu::noinline]] static void fill(std::string& name, std::string_view hole, int number) {
    std::string_view const all = name;
    if (auto const at = all.find(hole); at != all.npos) name = joined({all.substr(0, at), number, all.substr(at + hole.size())});
  }

  void check_finite(spellings const& name, const char* suffix, list<const float> values, int expert = 0) {
    std::string full;
    for (std::int64_t i = 0; i < values.size; ++i)
      if (!is_finite(values[i])) {
        look(name, suffix, expert, full);
        check_finite(full, values[i], i);
      }
  }
  void check_finite(std::string const& name, float value, std::int64_t i) const {
    if (!is_finite(value)) refuse(name, {"finite numbers"}, joined({std::to_string(value), " at ", i}));
  }
  static bool is_finite(float value) { return std::fabs(value) <= std::numeric_limits<float>::max(); }

  [[noreturn]] void missing(std::string const& name, std::initializer_list<text_piece> what) const {
    throw_error({where_(source_, name), ": expected a tensor ", joined(what), ", found none of that name"});
  }
  [[noreturn]] void refuse(std::string const& name, std::initializer_list<text_piece> expected, std::string_view found) const {
    throw_error({where_(source_, name), ": '", name, "': expected ", joined(expected), ", found ", found});
  }
  static bool same(list<const std::int64_t> a, list<const std::int64_t> b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }
  static std::string text(list<const std::int64_t> shape) {
    std::string s;
    for (auto const n : shape) s = joined({s, s.empty() ? "[" : ", ", n});
    return joined({s, "]"});
  }

  void const* source_;
  tensor const* (*find_)(void const* self, std::string const& name);
  std::string (*where_)(void const* self, std::string const& name);
  tensor const* (*make_)(void const* self, std::string const& name, std::initializer_list<std::int64_t> shape) = nullptr;   // a source that makes what is asked for
  std::string prefix_;
  int sublayer_;
  std::forward_list<coded> coded_;                         // stay where they are: pieces point at them
};

/// Reads one layer's (or a model's) tensors, and packs for where they will be used. Codes keep themselves and their scales where they are stored in the
/// same format, and become numbers otherwise.
template <class Where>
class loader : public tensor_finder {
 public:
  template <tensor_source Source>
  loader(Where& where, Source const& source, std::string_view prefix, tensor_names const& spelled, int sublayer = 0)
      : tensor_finder(source, prefix, spelled, sublayer), where_(where) {}

  /// Frequencies of the rotary embedding: no tensor, but the configuration says them.
  void rotary(attention_config const& config, int turning, list<const double> into) {
    auto* const out = const_cast<double*>(into.data);
    auto const parameters = rope_parameters_of(config);
    for (int i = 0; i < rope_parameter_count; ++i) out[i] = parameters.value[i];
    if (turning > 0) rope_frequencies(where_, config, turning, {out + rope_parameter_count, into.size - rope_parameter_count});
  }

  /// Euclidean lengths of the rows of a packed matrix: [outputs].
  void lengths(packed_matrix const& of, list<const double> into) { row_lengths(where_, of, {const_cast<double*>(into.data), into.size}); }

  /// Matrix `index` of `into` from stored rows, one piece after another: first the rows of part 0, then of part 1.
  /// Stored: its type where that is known, so that only code for that is made.
  template <dtype Stored = dtype::same>
  [[gnu::noinline]] void matrix(packed_matrix const& into, std::int64_t index, std::initializer_list<rows_of> pieces) {
    pack<Stored>(where_, into, index, rows_of_pieces{into, pieces});
  }

  /// Matrix `index` of `into` [outputs, inputs], of type Stored, from stored rows; and of `transpose` [inputs, outputs] its transpose, with the same weights.
  template <dtype Stored>
  void matrix_and_transpose(packed_matrix const& into, packed_matrix const& transpose, std::int64_t index, rows_of piece) {
    std::initializer_list<rows_of> const pieces{piece};
    rows_of_pieces const rows{into, pieces};
    std::vector<float> memory;
    tensor upright;
    turned_rows const columns{transpose, piece, upright};
    if constexpr (moesaic::turned(Stored) == Stored) {
      upright = turned(*piece.stored, piece.first, into.outputs, into.inputs, memory);
      std::vector<group_scale> unused(static_cast<std::size_t>(packed::groups(transpose.stored, transpose.inputs)));
      // Blocks that the transpose cannot keep are kept by neither, but measured anew.
      if (piece.stored->scales != nullptr && !columns.scales(0, 0, unused.data()))
        pack<Stored>(where_, into, index, [&](int part, std::int64_t output, float* row) { rows(part, output, row); });
      else
        pack<Stored>(where_, into, index, rows);
    } else {
      memory.resize(static_cast<std::size_t>(into.outputs * into.inputs));
      packing::quantizer quantized(into, index, packing::as_row_source(rows));
      for (std::int64_t n = 0; n < into.outputs; ++n) {
        quantized.template take<Stored>(0, n);
        quantized.for_each_group([&](auto group, auto first, auto end) {
          auto const scale = quantized.scale(group);
          for (auto k = first; k < end; ++k)
            memory[static_cast<std::size_t>(k * into.outputs + n)] =
                packing::decode<Stored>(quantized.template code<Stored>(k, scale), scale, into.stored.zero_point);
        });
      }
      upright = {dtype::fp32, {}, reinterpret_cast<std::byte const*>(memory.data()), into.outputs * into.inputs * 4};
      pack<Stored>(where_, into, index, rows);
    }
    pack<moesaic::turned(Stored)>(where_, transpose, index, columns);
  }

 private:
  // What packing reads: a row, and its scales where stored codes are of the packed format.
  struct rows_of_pieces {
    packed_matrix const& into;
    std::initializer_list<rows_of> pieces;

    void operator()(int part, std::int64_t output, float* row) const {
      auto const [stored, first] = find(part, output);
      widen(*stored, first, into.inputs, row);
    }
    bool scales(int part, std::int64_t output, group_scale* out) const {
      auto const [stored, first] = find(part, output);
      if (stored->scales == nullptr || into.stored != format(stored->type)) return false;
      for_each_scale(*stored, first, into.inputs, [&](float scale, std::int64_t, std::int64_t) { *out++ = {scale, 0}; });
      return true;
    }
    std::pair<tensor const*, std::int64_t> find(int part, std::int64_t output) const {
      auto at = part * into.outputs + output;
      auto piece = pieces.begin();
      for (; at >= piece->rows; ++piece) at -= piece->rows;
      return {piece->stored, piece->row(at) * into.inputs};
    }
  };

  // The same of a transpose, which only blocks of e4m3 have scales for, and where a group's inputs are rows of one block.
  struct turned_rows {
    packed_matrix const& into;
    rows_of piece;
    tensor const& upright;

    void operator()(int, std::int64_t output, float* row) const { widen(upright, output * into.inputs, into.inputs, row); }
    bool scales(int, std::int64_t output, group_scale* out) const {
      auto const& stored = *piece.stored;
      constexpr auto block = groups::extent_of(dtype::e4m3);
      if (stored.scales == nullptr || stored.type != dtype::e4m3 || into.stored != format(dtype::e4m3)) return false;
      auto const along = groups::scales_of(1, into.outputs, block).inputs;
      for (std::int64_t k = 0; k < into.inputs; k += block.inputs) {
        auto const first = piece.first + k, last = piece.first + (k + block.inputs < into.inputs ? k + block.inputs : into.inputs) - 1;
        if (first / block.rows != last / block.rows) return false;
        *out++ = {scale_of(*stored.scales, first / block.rows * along + output / block.inputs), 0};
      }
      return true;
    }
  };

  Where& where_;
};

}  // namespace moesaic
