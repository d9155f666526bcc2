// Turns rows of fp32 weights into the packed layout of base/packed.hpp, quantising on the way, and single weights back.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
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
#include <moesaic/base/view.hpp>

namespace moesaic::host {

namespace pack_detail {

// Part of a message.
struct piece {
  const char* text = nullptr;
  std::int64_t number = 0;   // without a text
  piece(const char* t) : text(t) {}
  piece(std::int64_t n) : number(n) {}
};
[[noreturn, gnu::noinline, gnu::cold]] inline void fail(std::initializer_list<piece> pieces) {
  std::string message = "packing: ";
  for (auto const& p : pieces) message += p.text != nullptr ? p.text : std::to_string(p.number);
  throw error(message);
}

// Where an output lives: which pair of panels of its matrix, which panel of the pair, which lane of the panel.
struct place {
  std::int64_t pair;
  int panel, lane;
};

inline place place_of(packed_matrix const& m, int part, std::int64_t output) {
  auto const lane = static_cast<int>(output % packed::lanes);
  if (m.parts == 2) return {output / packed::lanes, part, lane};
  return {output / (2 * packed::lanes), static_cast<int>(output / packed::lanes % 2), lane};
}

// The first output of a panel, and the part it belongs to: the way back.
inline std::int64_t first_output(packed_matrix const& m, std::int64_t pair, int panel) {
  return m.parts == 2 ? pair * packed::lanes : (2 * pair + panel) * packed::lanes;
}
inline int part_of(packed_matrix const& m, int panel) { return m.parts == 2 ? panel : 0; }

// Byte offsets inside a pair.
inline std::int64_t scales_at(packed_matrix const& m) { return packed::tile_bytes(m.stored.type, m.inputs); }
inline std::int64_t zeros_at(packed_matrix const& m) { return scales_at(m) + packed::scale_bytes(m.stored, m.inputs); }
// Index of a scale or zero point among those of its pair.
inline std::int64_t scale_index(std::int64_t group, int panel, int lane) { return (group * 2 + panel) * packed::lanes + lane; }

inline std::int64_t group_inputs(packed_matrix const& m) { return m.stored.group == 0 ? m.inputs : m.stored.group; }

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

// How far the code of input i of a lane is shifted.
template <dtype D>
constexpr int shift_of(int i) {
  return bits(D) == 4 ? 4 * packed::nibble_of(i) : bits(D) * i;
}

// Whether a matrix can be stored so.
constexpr bool packs(dtype t) { return t == dtype::fp32 || t == dtype::bf16 || t == dtype::fp16 || has_scales(t); }

// Calls f with the stored type as a compile-time constant.
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

// A caller's row source without its type, so that the rest is compiled once.
struct row_source {
  void* self;
  void (*read)(void* self, int part, std::int64_t output, float* row);
};

inline void check(packed_matrix const& m, std::int64_t index, std::int64_t first_pair, std::int64_t last_pair) {
  if (m.outputs < 1 || m.inputs < 1)
    fail({"expected a matrix of at least one output and one input, found [", m.outputs, ", ", m.inputs, "]"});
  if (m.parts != 1 && m.parts != 2) fail({"expected 1 part, or 2 (gate and up), found ", m.parts});
  if (index < 0 || index >= m.count) fail({"expected a matrix among 0 .. ", m.count - 1, ", found ", index});
  if (first_pair < 0 || last_pair > packed::pairs(m) || first_pair > last_pair)
    fail({"expected pairs within 0 .. ", packed::pairs(m), ", found ", first_pair, " .. ", last_pair});

  auto const f = m.stored;
  if (f.zero_point && f.type != dtype::int4) fail({"only int4 has zero points, found them with ", name(f.type)});
  // A lane must not hold inputs of two groups; a panel must not hold outputs of two blocks.
  if (f.type == dtype::e4m3 && (f.group < 1 || f.group % packed::lanes != 0))
    fail({"expected a group that is a multiple of 16 for e4m3, found ", f.group});
  if (f.type == dtype::mxfp4 && f.group != 32) fail({"expected a group of 32 for mxfp4, found ", f.group});
  if ((f.type == dtype::int8 || f.type == dtype::int4) && (f.group < 0 || f.group % packed::per_lane(f.type) != 0))
    fail({"expected a group that is a multiple of ", packed::per_lane(f.type), ", or 0 for the whole row, for ", name(f.type), ", found ",
          f.group});
}

// The largest weight that the format holds.
inline float largest_of(format f) {
  if (f.type == dtype::fp16) return 65504.0f;
  if (f.type == dtype::bf16) return 0x1.fep127f;
  return f.zero_point ? 0x1p126f : 0x1.fffffep127f;   // with a zero point the scale is of a difference
}

class packer {
 public:
  packer(packed_matrix const& m, std::int64_t index, row_source source)
      : m_(m), index_(index), source_(source), row_(static_cast<std::size_t>(m.inputs)), largest_(largest_of(m.stored)) {}

  // Pair `pair` into its `out`, which is zero on entry.
  template <dtype D>
  void pack(std::int64_t pair, std::byte* out) {
    for (int panel = 0; panel < 2; ++panel) {
      auto const first = first_output(m_, pair, panel);
      if (first >= m_.outputs) continue;
      auto const part = part_of(m_, panel);
      if constexpr (D == dtype::e4m3) measure_block(part, first / m_.stored.group);
      for (int lane = 0; lane < packed::lanes && first + lane < m_.outputs; ++lane) {
        read(part, first + lane);
        if constexpr (has_scales(D) && D != dtype::e4m3) measure_row<D>();
        write_lane<D>(panel, lane, out);
        if constexpr (has_scales(D)) write_scales<D>(panel, lane, out);
      }
    }
  }

 private:
  void read(int part, std::int64_t output) {
    source_.read(source_.self, part, output, row_.data());
    auto fits = true;
    for (auto const w : row_) fits &= w <= largest_ && w >= -largest_;   // false for NaN
    if (!fits) refuse(part, output);
  }

  [[noreturn]] void refuse(int part, std::int64_t output) const {
    std::size_t k = 0;
    while (row_[k] <= largest_ && row_[k] >= -largest_) ++k;
    fail({"expected finite weights that ", name(m_.stored.type), " can hold, found ", std::to_string(row_[k]).c_str(), " in matrix ",
          index_, " of ", m_.count, ", part ", part, ", output ", output, ", input ", static_cast<std::int64_t>(k)});
  }

  // Calls f(group, first input, end input).
  template <class F>
  void for_each_group(F f) const {
    auto const wide = group_inputs(m_);
    for (std::int64_t k = 0, g = 0; k < m_.inputs; k += wide, ++g) f(g, k, k + wide < m_.inputs ? k + wide : m_.inputs);
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

  template <dtype D>
  void measure_row() {
    forget();
    widen();
    take_scales<D>();
  }

  // A block has more outputs than a panel: its rows are read here once more, and only when the next block begins.
  void measure_block(int part, std::int64_t block) {
    auto& known = blocks_[part];
    if (known.block != block) {
      forget();
      for (auto n = block * m_.stored.group; n < (block + 1) * m_.stored.group && n < m_.outputs; ++n) {
        read(part, n);
        widen();
      }
      take_scales<dtype::e4m3>();
      known = {block, scales_};
    }
    scales_ = known.scales;
  }

  template <dtype D>
  void write_lane(int panel, int lane, std::byte* out) const {
    constexpr auto per_lane = packed::per_lane(D);
    auto const total_rows = packed::rows(D, m_.inputs);
    for_each_group([&](auto g, auto k0, auto k1) {
      auto const s = scales_.empty() ? group_scale{} : scales_[static_cast<std::size_t>(g)];
      for (auto k = k0; k < k1; k += per_lane) {
        std::uint32_t word = 0;
        if (k + per_lane <= k1) {
          for (int i = 0; i < per_lane; ++i) word |= encode<D>(row(k + i), s, m_.stored.zero_point) << shift_of<D>(i);
        } else {
          for (int i = 0; i < k1 - k; ++i) word |= encode<D>(row(k + i), s, m_.stored.zero_point) << shift_of<D>(i);
        }
        std::memcpy(out + packed::row_offset(k / per_lane, panel, total_rows) + 4 * lane, &word, 4);
      }
    });
  }

  template <dtype D>
  void write_scales(int panel, int lane, std::byte* out) const {
    for_each_group([&](auto g, auto, auto) {
      auto const at = scale_index(g, panel, lane);
      auto const s = scales_[static_cast<std::size_t>(g)];
      if constexpr (D == dtype::mxfp4) out[scales_at(m_) + at] = static_cast<std::byte>(e8m0(s.scale).bits);
      else std::memcpy(out + scales_at(m_) + 4 * at, &s.scale, 4);
      if (m_.stored.zero_point) out[zeros_at(m_) + at] = static_cast<std::byte>(s.zero);
    });
  }

  float row(std::int64_t k) const { return row_[static_cast<std::size_t>(k)]; }

  struct range {
    float least = 0, most = 0;   // 0 is in every range: no scale depends on less
  };
  struct known_block {
    std::int64_t block = -1;
    std::vector<group_scale> scales;
  };

  packed_matrix m_;
  std::int64_t index_;
  row_source source_;
  std::vector<float> row_;             // [inputs], the output at hand
  std::vector<range> ranges_;          // [groups], of its weights
  std::vector<group_scale> scales_;    // [groups]
  known_block blocks_[2];              // e4m3, one a part
  float largest_;
};

template <dtype Promised>
void pack_pairs(packed_matrix const& m, std::int64_t index, row_source source, std::byte* out, std::int64_t first_pair,
                std::int64_t last_pair) {
  check(m, index, first_pair, last_pair);
  with_type<Promised>(m, [&](auto type) {
    auto const bytes = packed::pair_bytes(m.stored, m.inputs);
    packer p(m, index, source);
    for (auto pair = first_pair; pair < last_pair; ++pair) {
      auto* const at = out + index * packed::matrix_bytes(m) + pair * bytes;
      std::memset(at, 0, static_cast<std::size_t>(bytes));
      p.template pack<type()>(pair, at);
    }
  });
}

// One weight, of a lane of a pair that begins at `pair`.
template <dtype D>
float weight(packed_matrix const& m, const std::byte* pair, int panel, int lane, std::int64_t input) {
  constexpr auto per_lane = packed::per_lane(D);
  std::uint32_t word;
  std::memcpy(&word, pair + packed::row_offset(input / per_lane, panel, packed::rows(D, m.inputs)) + 4 * lane, 4);
  auto const code = (word >> shift_of<D>(static_cast<int>(input % per_lane))) & (0xffff'ffffu >> (32 - bits(D)));
  group_scale s;
  if constexpr (has_scales(D)) {
    auto const at = scale_index(input / group_inputs(m), panel, lane);
    if constexpr (D == dtype::mxfp4) s.scale = e8m0::from_bits(static_cast<std::uint8_t>(pair[scales_at(m) + at]));
    else std::memcpy(&s.scale, pair + scales_at(m) + 4 * at, 4);
    if (m.stored.zero_point) s.zero = static_cast<int>(pair[zeros_at(m) + at]);
  }
  return decode<D>(code, s, m.stored.zero_point);
}

}  // namespace pack_detail

/// Packs pairs [first_pair, last_pair) of matrix `index` (0 .. count - 1); pairs are independent, so threads may share a matrix.
/// `source(part, output, float* row)` writes the inputs of one output, [inputs], and may be asked for a row twice.
/// `out` holds all `count` matrices, packed::bytes(m); m.data is not used. Formats narrower than fp32 are rounded or quantised as
/// base/groups.hpp says. What lies beyond the matrix becomes zero.
/// Throws `error` for a matrix that cannot be packed and for a weight that is NaN, infinite or too large for the format.
/// Promised: the stored type where it is known, so that only code for that is made.
template <dtype Promised = dtype::same, class RowSource>
void pack_pairs(packed_matrix const& m, std::int64_t index, RowSource&& source, std::byte* out, std::int64_t first_pair,
                std::int64_t last_pair) {
  using plain = std::remove_reference_t<RowSource>;
  auto const read = [](void* self, int part, std::int64_t output, float* row) { (*static_cast<plain*>(self))(part, output, row); };
  pack_detail::row_source const any{const_cast<void*>(static_cast<const void*>(std::addressof(source))), read};
  pack_detail::pack_pairs<Promised>(m, index, any, out, first_pair, last_pair);
}

/// Packs all of matrix `index`; see pack_pairs.
template <dtype Promised = dtype::same, class RowSource>
void pack(packed_matrix const& m, std::int64_t index, RowSource&& source, std::byte* out) {
  pack_pairs<Promised>(m, index, source, out, 0, packed::pairs(m));
}

/// The weight of (part, output, input) of matrix `index`, dequantised as the fp32 kernels do: code · scale, rounded to float once.
inline float unpack(packed_matrix const& m, std::int64_t index, int part, std::int64_t output, std::int64_t input) {
  auto const at = pack_detail::place_of(m, part, output);
  auto const* pair = m.data + index * packed::matrix_bytes(m) + at.pair * packed::pair_bytes(m.stored, m.inputs);
  return pack_detail::with_type<dtype::same>(m, [&](auto type) { return pack_detail::weight<type()>(m, pair, at.panel, at.lane, input); });
}

/// All inputs of one output, into row [inputs].
inline void unpack_row(packed_matrix const& m, std::int64_t index, int part, std::int64_t output, float* row) {
  auto const at = pack_detail::place_of(m, part, output);
  auto const* pair = m.data + index * packed::matrix_bytes(m) + at.pair * packed::pair_bytes(m.stored, m.inputs);
  pack_detail::with_type<dtype::same>(m, [&](auto type) {
    for (std::int64_t k = 0; k < m.inputs; ++k) row[k] = pack_detail::weight<type()>(m, pair, at.panel, at.lane, k);
  });
}

}  // namespace moesaic::host
