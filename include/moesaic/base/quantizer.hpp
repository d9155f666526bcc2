// Rows of fp32 weights into codes and scales, row by row: what every backend's packing does before it lays them out. Set-up only: it throws.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include <moesaic/base/dtype.hpp>
#include <moesaic/base/floats.hpp>
#include <moesaic/base/groups.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/base/status.hpp>

namespace moesaic::packing {

[[noreturn, gnu::noinline, gnu::cold]] inline void fail(std::initializer_list<text_piece> pieces) { throw error(joined({"packing: ", joined(pieces)})); }

constexpr std::int64_t group_inputs(packed_matrix const& m) { return m.stored.group == 0 ? m.inputs : m.stored.group; }

/// Bits of a weight, in the low bits(D), and back: one rounding to float, of code · scale.
template <dtype D>
constexpr std::uint32_t encode(float w, [[maybe_unused]] group_scale s, [[maybe_unused]] bool zero_point) {
  if constexpr (D == dtype::fp32) return std::bit_cast<std::uint32_t>(w);
  else if constexpr (D == dtype::bf16) return bf16(w).bits;
  else if constexpr (D == dtype::fp16) return fp16(w).bits;
  else return groups::encode<D>(w, s, zero_point);
}
template <dtype D>
constexpr float decode(std::uint32_t code, [[maybe_unused]] group_scale s, [[maybe_unused]] bool zero_point) {
  if constexpr (D == dtype::fp32) return std::bit_cast<float>(code);
  else if constexpr (D == dtype::bf16) return bf16::from_bits(static_cast<std::uint16_t>(code));
  else if constexpr (D == dtype::fp16) return fp16::from_bits(static_cast<std::uint16_t>(code));
  else return groups::decode<D>(code, s, zero_point);
}

/// Whether a matrix can be stored so.
constexpr bool packs(dtype t) { return t == dtype::fp32 || t == dtype::bf16 || t == dtype::fp16 || has_scales(t); }

/// Calls f with the stored type as a compile-time constant.
template <dtype Promised, class F>
auto with_type(packed_matrix const& m, F f) {
  auto const type = m.stored.type;
  if constexpr (Promised != dtype::same) {
    if (type != Promised) fail({"expected a matrix of ", name(Promised), ", found ", name(type)});
    return f(std::integral_constant<dtype, Promised>{});
  } else {
    switch (type) {
      case dtype::fp32: return f(std::integral_constant<dtype, dtype::fp32>{});
      case dtype::bf16: return f(std::integral_constant<dtype, dtype::bf16>{});
      case dtype::fp16: return f(std::integral_constant<dtype, dtype::fp16>{});
      case dtype::int8: return f(std::integral_constant<dtype, dtype::int8>{});
      case dtype::int4: return f(std::integral_constant<dtype, dtype::int4>{});
      case dtype::e4m3: return f(std::integral_constant<dtype, dtype::e4m3>{});
      case dtype::mxfp4: return f(std::integral_constant<dtype, dtype::mxfp4>{});
      default: fail({"expected fp32, bf16, fp16, e4m3, int8, int4 or mxfp4, found ", name(type)});
    }
  }
}

/// A caller's `source(part, output, float* row)`, which writes the inputs of one output, without its type, so that the rest is compiled once.
/// Where weights are code · scale already, in e4m3 or mxfp4, `source.scales(part, output, group_scale* scales)` writes those of that output's
/// groups and answers true: codes and scales then stay what they were.
struct row_source {
  void* self;
  void (*read)(void* self, int part, std::int64_t output, float* row);
  bool (*scales)(void* self, int part, std::int64_t output, group_scale* scales) = nullptr;
};
template <class RowSource>
row_source as_row_source(RowSource& source) {
  using plain = std::remove_const_t<RowSource>;
  row_source r{const_cast<void*>(static_cast<const void*>(std::addressof(source))),
               [](void* self, int part, std::int64_t output, float* row) { (*static_cast<plain*>(self))(part, output, row); }};
  if constexpr (requires(plain& p, group_scale* s) { p.scales(0, std::int64_t{}, s); })
    r.scales = [](void* self, int part, std::int64_t output, group_scale* s) { return (*static_cast<plain*>(self)).scales(part, output, s); };
  return r;
}

/// Throws where matrix `index` of m cannot be packed.
inline void check(packed_matrix const& m, std::int64_t index) {
  if (m.outputs < 1 || m.inputs < 1)
    fail({"expected a matrix of at least one output and one input, found [", m.outputs, ", ", m.inputs, "]"});
  if (m.parts != 1 && m.parts != 2) fail({"expected 1 part, or 2 (gate and up), found ", m.parts});
  if (index < 0 || index >= m.count) fail({"expected a matrix among 0 .. ", m.count - 1, ", found ", index});

  auto const f = m.stored;
  if (f.zero_point && f.type != dtype::int4) fail({"only int4 has zero points, found them with ", name(f.type)});
  // A lane of 32 bits must not hold inputs of two groups; a panel must not hold outputs of two blocks.
  if (f.type == dtype::e4m3 && (f.group < 1 || f.group % packed::lanes != 0))
    fail({"expected a group that is a multiple of 16 for e4m3, found ", f.group});
  if (f.type == dtype::mxfp4 && f.group != 32) fail({"expected a group of 32 for mxfp4, found ", f.group});
  if ((f.type == dtype::int8 || f.type == dtype::int4) && (f.group < 0 || f.group % packed::per_lane(f.type) != 0))
    fail({"expected a group that is a multiple of ", packed::per_lane(f.type), ", or 0 for the whole row, for ", name(f.type), ", found ",
          f.group});
}

/// One row at a time with the scales of its groups.
class quantizer {
 public:
  /// scales_by_row: the layout holds scales of each row for e4m3 too, so that blocks which begin at any row can be kept.
  quantizer(packed_matrix const& m, std::int64_t index, row_source source, bool scales_by_row = false)
      : m_(m), index_(index), source_(source), row_(static_cast<std::size_t>(m.inputs)), largest_(largest_of(m.stored)),
        scales_by_row_(scales_by_row) {}

  /// Reads an output's row and finds its scales; a block of rows that share scales is read once more, when its first row comes.
  /// Throws for a weight that is NaN, infinite or too large for the format.
  template <dtype D>
  void take(int part, std::int64_t output) {
    if constexpr (D == dtype::e4m3 || D == dtype::mxfp4)
      if (source_.scales != nullptr && keep<D>(part, output)) return read(part, output);
    if constexpr (D == dtype::e4m3) measure_block(part, output / m_.stored.group);
    read(part, output);
    if constexpr (has_scales(D) && D != dtype::e4m3) {
      forget();
      widen();
      take_scales<D>();
    }
  }

  /// Calls f(group, first input, end input); all inputs are one group where there are no scales.
  template <class F>
  void for_each_group(F f) const {
    auto const wide = group_inputs(m_);
    for (std::int64_t k = 0, g = 0; k < m_.inputs; k += wide, ++g) f(g, k, k + wide < m_.inputs ? k + wide : m_.inputs);
  }

  /// Of the row taken last.
  group_scale scale(std::int64_t group) const { return scales_.empty() ? group_scale{} : scales_[static_cast<std::size_t>(group)]; }
  template <dtype D>
  std::uint32_t code(std::int64_t input, group_scale s) const {
    return encode<D>(row(input), s, m_.stored.zero_point);
  }

 private:
  struct range {
    float least = 0, most = 0;   // 0 is in every range: no scale depends on less
  };
  struct known_block {
    std::int64_t block = -1;
    bool kept = false;           // as the source gave them
    std::vector<group_scale> scales;
  };

  // The largest weight that the format holds.
  static float largest_of(format f) {
    if (f.type == dtype::fp16) return 65504.0f;
    if (f.type == dtype::bf16) return 0x1.fep127f;
    return f.zero_point ? 0x1p126f : 0x1.fffffep127f;   // with a zero point the scale is of a difference
  }

  float row(std::int64_t k) const { return row_[static_cast<std::size_t>(k)]; }

  void read(int part, std::int64_t output) {
    source_.read(source_.self, part, output, row_.data());
    auto fits = true;
    for (auto const w : row_) fits &= w <= largest_ && w >= -largest_;   // false for NaN
    if (!fits) refuse(part, output);
  }

  [[noreturn]] void refuse(int part, std::int64_t output) const {
    std::size_t k = 0;
    while (row_[k] <= largest_ && row_[k] >= -largest_) ++k;
    fail({"expected finite weights that ", name(m_.stored.type), " can hold, found ", std::to_string(row_[k]), " in matrix ",
          index_, " of ", m_.count, ", part ", part, ", output ", output, ", input ", static_cast<std::int64_t>(k)});
  }

  // Widens the range of every group of inputs by the row at hand.
  void widen() {
    for_each_group([&](auto g, auto k0, auto k1) {
      auto& seen = ranges_[static_cast<std::size_t>(g)];
      auto least = seen.least, most = seen.most;
      for (auto k = k0; k < k1; ++k) {
        least = groups::smaller(least, row(k));
        most = groups::larger(most, row(k));
      }
      seen = {least, most};
    });
  }
  void forget() { ranges_.assign(static_cast<std::size_t>(packed::groups(m_.stored, m_.inputs)), {}); }

  template <dtype D>
  void take_scales() {
    scales_.clear();
    for (auto const seen : ranges_) scales_.push_back(groups::scale_for<D>(seen.least, seen.most, m_.stored.zero_point));
  }

  // Takes the scales that the source has of a row, if it has, and the layout has a place for them.
  template <dtype D>
  bool keep(int part, std::int64_t output) {
    if constexpr (D == dtype::e4m3)
      if (!scales_by_row_) {
        auto& known = blocks_[part];
        if (auto const block = output / m_.stored.group; known.block != block) {
          known.kept = shared(part, block);
          if (!known.kept) return false;
          known = {block, true, scales_};
        }
        scales_ = known.scales;
        return known.kept;
      }
    return given(part, output);
  }
  bool given(int part, std::int64_t output) {
    scales_.assign(static_cast<std::size_t>(packed::groups(m_.stored, m_.inputs)), {});
    if (!source_.scales(source_.self, part, output, scales_.data())) return false;
    // By scales so small that code · scale may be rounded codes cannot be found again; and these are as good as 0.
    for (auto& s : scales_)
      if (s.scale < 0x1p-100f && s.scale > -0x1p-100f && m_.stored.type == dtype::e4m3) s = groups::scale_for<dtype::e4m3>(0, 0);
    return true;
  }
  // Whether all rows of a block are given the same scales.
  bool shared(int part, std::int64_t block) {
    auto const first = block * m_.stored.group;
    if (!given(part, first)) return false;
    auto const of_first = scales_;
    for (auto n = first + 1; n < first + m_.stored.group && n < m_.outputs; ++n) {
      if (!given(part, n)) return false;
      for (std::size_t g = 0; g < scales_.size(); ++g)
        if (scales_[g].scale != of_first[g].scale) return false;
    }
    return true;
  }

  void measure_block(int part, std::int64_t block) {
    auto& known = blocks_[part];
    if (known.block != block) {
      forget();
      for (auto n = block * m_.stored.group; n < (block + 1) * m_.stored.group && n < m_.outputs; ++n) {
        read(part, n);
        widen();
      }
      take_scales<dtype::e4m3>();
      known = {block, false, scales_};
    }
    scales_ = known.scales;
  }

  packed_matrix m_;
  std::int64_t index_;
  row_source source_;
  std::vector<float> row_;             // [inputs], the output at hand
  std::vector<range> ranges_;          // [groups], of its weights
  std::vector<group_scale> scales_;    // [groups]
  known_block blocks_[2];              // e4m3, one a part
  float largest_;
  bool scales_by_row_;
};

}  // namespace moesaic::packing
