// Named tensors -> packed weights. Finds each under its published names, checks shape and type, converts, packs for this machine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <deque>
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
constexpr packed_matrix take_matrix(arena& memory, format stored, std::int64_t outputs, std::int64_t inputs, int parts = 1, std::int64_t count = 1) {
  packed_matrix m{stored, outputs, inputs, parts, count, nullptr};
  m.data = memory.take<std::byte>(packed::bytes(m)).data;
  return m;
}

/// Throws where packed weights cannot lie in `memory`.
inline void check_memory(list<const std::byte> memory, std::size_t bytes) {
  if (memory.size < static_cast<std::int64_t>(bytes))
    throw error("packed weights: expected " + std::to_string(bytes) + " bytes, found " + std::to_string(memory.size));
  if (reinterpret_cast<std::uintptr_t>(memory.data) % arena::alignment != 0)
    throw error("packed weights: expected memory aligned to 64 bytes, found an address that is not");
}

/// Reads one layer's (or a model's) tensors. Throws moesaic::error: what was expected, what was found, in which file.
/// A matrix of e4m3 has its scales in a tensor NAME_scale_inv, [⌈rows / 128⌉, ⌈inputs / 128⌉]; one of mxfp4 is two tensors, NAME_blocks
/// [..., rows, inputs / 32, 16] and NAME_scales [..., rows, inputs / 32], for the NAME that others have. They keep codes and scales where they
/// are stored in the same format, and become numbers otherwise.
template <class Where, tensor_source Source>
class loader {
 public:
  tensor_names const& names;

  loader(Where& where, Source const& source, std::string_view prefix, tensor_names const& spelled, int sublayer = 0)
      : names(spelled), where_(where), source_(source), prefix_(prefix), sublayer_(std::to_string(sublayer)) {}

  /// `rows` rows of a stored matrix, from `first` on, as inputs of a packed one: side by side, or `run` of them every `period` rows.
  struct rows_of {
    tensor const* stored;
    std::int64_t rows;
    std::int64_t first = 0, run = 0, period = 0;

    std::int64_t row(std::int64_t i) const { return first + (run != 0 ? i / run * period + i % run : i); }
  };

  /// A tensor of this shape under one of its names, or an error.
  rows_of find(spellings const& name, const char* suffix, std::initializer_list<std::int64_t> shape, int expert = 0) {
    auto const seen = look(name, suffix, expert);
    auto const* stored = seen.first;
    auto const& full = seen.second;
    if constexpr (requires { source_.make(full, shape); })                  // a source that makes what is asked for
      if (stored == nullptr) stored = source_.make(full, shape);
    list<const std::int64_t> const wanted(shape.begin(), static_cast<std::int64_t>(shape.size()));
    if (stored == nullptr)
      throw error(source_.where(full) + ": expected a tensor '" + full + "' " + text(wanted) + ", found none of that name");
    if (full.ends_with("_blocks")) stored = &mxfp4_of(*stored, full);
    auto shape_of = stored->shape;                                          // a vector may be stored as [1, n] (ERNIE-4.5)
    while (shape_of.size > wanted.size && shape_of[0] == 1) shape_of = {shape_of.data + 1, shape_of.size - 1};
    bool same = shape_of.size == wanted.size;
    for (std::int64_t i = 0; same && i < wanted.size; ++i) same = shape_of[i] == wanted[i];
    if (!same) refuse(full, "shape " + text(wanted), text(stored->shape));
    if (stored->type == dtype::e4m3 && stored->shape.size == 2) stored = &e4m3_of(*stored, full);
    else if (stored->type == dtype::e4m3 && source_.find(full + "_scale_inv") != nullptr)
      refuse(full, "a matrix, where e4m3 has scales", "shape " + text(stored->shape));
    if (!widens(stored->type) && stored->scales == nullptr) refuse(full, "a floating-point type", moesaic::name(stored->type));
    return {stored, wanted[0]};
  }
  bool has(spellings const& name, const char* suffix, int expert = 0) { return look(name, suffix, expert).first != nullptr; }

  /// A vector of fp32 from a tensor of that many elements; a piece of it where `into` is part of a longer list.
  void vector(spellings const& name, const char* suffix, list<const float> into, int expert = 0) {
    values(name, suffix, into, {into.size}, expert);
  }
  /// The same from a tensor of any shape.
  void values(spellings const& name, const char* suffix, list<const float> into, std::initializer_list<std::int64_t> shape, int expert = 0) {
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
    part.stored = find(name, suffix, {size}).stored;
    for (std::int64_t i = 0; i < into.size; ++i) widen(*part.stored, part.row(i), 1, const_cast<float*>(into.data) + i);
    check_finite(name, suffix, into);
  }

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
  void matrix(packed_matrix const& into, std::int64_t index, std::initializer_list<rows_of> pieces) {
    pack<Stored>(where_, into, index, rows_of_pieces{into, pieces});
  }

  /// A stored matrix of which each row is an input, [inputs, outputs] from row `first` on, as one of fp32 [outputs, inputs] in `memory`.
  static tensor turned(tensor const& stored, std::int64_t first, std::int64_t inputs, std::int64_t outputs, std::vector<float>& memory) {
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
  /// Matrix `index` of `into` [outputs, inputs] from a piece of `inputs` stored rows of `outputs`: its transpose, with the weights that the piece has in `of`,
  /// which is of type Stored.
  template <dtype Stored>
  void transposed(packed_matrix const& into, packed_matrix const& of, std::int64_t index, rows_of piece) {
    std::vector<float> memory;
    tensor upright;
    if constexpr (moesaic::turned(Stored) == Stored) {
      upright = turned(*piece.stored, piece.first, into.inputs, into.outputs, memory);
    } else {
      memory.resize(static_cast<std::size_t>(into.outputs * into.inputs));
      std::initializer_list<rows_of> const pieces{piece};
      rows_of_pieces const source{of, pieces};
      packing::quantizer rows(of, index, packing::as_row_source(source));
      for (std::int64_t k = 0; k < into.inputs; ++k) {
        rows.template take<Stored>(0, k);
        rows.for_each_group([&](auto group, auto first, auto end) {
          auto const scale = rows.scale(group);
          for (auto n = first; n < end; ++n)
            memory[static_cast<std::size_t>(n * into.inputs + k)] =
                packing::decode<Stored>(rows.template code<Stored>(n, scale), scale, of.stored.zero_point);
        });
      }
      upright = {dtype::fp32, {}, reinterpret_cast<std::byte const*>(memory.data()), into.outputs * into.inputs * 4};
    }
    pack<moesaic::turned(Stored)>(where_, into, index, turned_rows{into, piece, upright});
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

  // A tensor of codes and the scales found for it.
  struct coded {
    std::vector<std::int64_t> shape;
    tensor value;
  };
  tensor const& with_scales(tensor const& codes, dtype type, std::vector<std::int64_t> shape, std::string const& codes_name, std::string const& name,
                            std::vector<std::int64_t> const& wanted) {
    auto const* const scales = source_.find(name);
    if (scales == nullptr) throw error(source_.where(name) + ": expected a tensor '" + name + "' of the scales of '" + codes_name + "', found none of that name");
    bool same = scales->shape.size == static_cast<std::int64_t>(wanted.size());
    for (std::size_t i = 0; same && i < wanted.size(); ++i) same = scales->shape[static_cast<std::int64_t>(i)] == wanted[i];
    if (!same) refuse(name, "shape " + text(wanted), text(scales->shape));
    bool const exponents = scales->type == dtype::uint8 || scales->type == dtype::e8m0;
    if (!exponents && (type == dtype::mxfp4 || scales->type != dtype::fp32))
      refuse(name, type == dtype::mxfp4 ? "bytes of exponents" : "fp32 or e8m0", moesaic::name(scales->type));
    std::int64_t count = 1;
    for (auto const n : wanted) count *= n;
    for (std::int64_t i = 0; i < count; ++i)
      if (auto const scale = scale_of(*scales, i); !(std::fabs(scale) <= std::numeric_limits<float>::max()))
        refuse(name, "finite numbers", std::to_string(scale) + " at " + std::to_string(i));
    auto& made = coded_.emplace_back(coded{std::move(shape), {}});
    made.value = {type, made.shape, codes.data, codes.bytes, scales};
    return made.value;
  }
  tensor const& e4m3_of(tensor const& codes, std::string const& name) {
    auto const extent = groups::scales_of(codes.shape[0], codes.shape[1], groups::extent_of(dtype::e4m3));
    return with_scales(codes, dtype::e4m3, {codes.shape[0], codes.shape[1]}, name, name + "_scale_inv", {extent.rows, extent.inputs});
  }
  tensor const& mxfp4_of(tensor const& blocks, std::string const& name) {
    auto const last = blocks.shape.size - 1;
    if (blocks.type != dtype::uint8) refuse(name, "bytes", moesaic::name(blocks.type));
    if (last < 2 || blocks.shape[last] != 16) refuse(name, "shape [..., rows, inputs / 32, 16]", text(blocks.shape));
    std::vector<std::int64_t> shape(blocks.shape.begin(), blocks.shape.end() - 1);
    auto const of_scales = shape;
    shape.back() *= 32;
    return with_scales(blocks, dtype::mxfp4, std::move(shape), name, name.substr(0, name.size() - 6) + "scales", of_scales);
  }

  // The first spelling that the source has; else the first spelling, for the message.
  std::pair<tensor const*, std::string> look(spellings const& name, const char* suffix, int expert) {
    std::string first;
    for (auto const* option : name.options) {
      if (option == nullptr) break;
      auto full = prefix_ + option + suffix;
      if (auto const hole = full.find("{}"); hole != std::string::npos) full.replace(hole, 2, std::to_string(expert));
      constexpr std::string_view sublayer = "{sublayer}";
      if (auto const hole = full.find(sublayer); hole != std::string::npos) full.replace(hole, sublayer.size(), sublayer_);
      if (auto const* stored = source_.find(full)) return {stored, full};
      if (auto const* stored = source_.find(full + "_blocks")) return {stored, full + "_blocks"};
      if (first.empty()) first = std::move(full);
    }
    return {nullptr, std::move(first)};
  }

  void check_finite(spellings const& name, const char* suffix, list<const float> values, int expert = 0) {
    for (std::int64_t i = 0; i < values.size; ++i)
      if (!(std::fabs(values[i]) <= std::numeric_limits<float>::max()))
        refuse(look(name, suffix, expert).second, "finite numbers", std::to_string(values[i]) + " at " + std::to_string(i));
  }

  [[noreturn]] void refuse(std::string const& name, std::string const& expected, std::string const& found) const {
    throw error(source_.where(name) + ": '" + name + "': expected " + expected + ", found " + found);
  }
  static std::string text(list<const std::int64_t> shape) {
    std::string s;
    for (auto const n : shape) s += (s.empty() ? "[" : ", ") + std::to_string(n);
    return s + "]";
  }

  Where& where_;
  Source const& source_;
  std::string prefix_, sublayer_;
  std::deque<coded> coded_;                                // stay where they are: pieces point at them
};

}  // namespace moesaic
