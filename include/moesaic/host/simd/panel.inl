// Rows of x times panels of packed weights, in every weight format, 16 outputs a vector. Body file.
// Each output is one chain of fma over ascending inputs, so neither level nor number of rows nor cutting into chunks changes a bit.
// SPDX-License-Identifier: Apache-2.0

inline constexpr std::int64_t chunk_inputs = 128;   // a pair's chunk is 16 KiB as fp32: it stays in L1 while the rows of x pass by
inline constexpr std::int64_t row_inputs = 1024;    // of a single row that has to be widened to float

// A chunk of rows of x is copied so that rows lie a fixed distance apart, one address serves all, and no two rows of a block share cache
// sets: rows that lie 4 KiB or a multiple of it apart, as they often do, would push each other out of L1.
template <class X>
inline constexpr std::int64_t staged_stride = (512 + 64) / static_cast<std::int64_t>(sizeof(X));

inline constexpr float int4_values[16] = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};
inline constexpr float uint4_values[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
inline constexpr float mxfp4_values[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

// A byte in the upper bits of each lane, as e4m3, over 256: its exponent and mantissa are those of an fp16 with another bias.
MOESAIC_HOST f32 e4m3_over_256(u32 byte_on_top) {
  auto const half = bit_and(shift_right_signed<17>(byte_on_top), set1_bits(0xbf80u));
  auto const is_nan = bit_and(byte_on_top, set1_bits(0x7f00'0000u));
  return as_float(select_equal(is_nan, set1_bits(0x7f00'0000u), set1_bits(0x7fc0'0000u), as_bits(half_to_float(half))));
}

// The codes of the inputs of a row of lanes as floats, exactly (e4m3: over 256). four_bits: what 4-bit codes mean, less zero.
template <dtype W>
MOESAIC_HOST void widen(u32 row, [[maybe_unused]] const float (&four_bits)[16], [[maybe_unused]] f32 zero,
                          f32 (&w)[packed::per_lane(W)]) {
  if constexpr (W == dtype::fp32) w[0] = as_float(row);
  if constexpr (W == dtype::bf16) {
    w[0] = as_float(shift_left<16>(row));
    w[1] = as_float(bit_and(row, set1_bits(0xffff'0000u)));
  }
  if constexpr (W == dtype::fp16) {
    w[0] = half_to_float(row);
    w[1] = half_to_float(shift_right<16>(row));
  }
  if constexpr (bits(W) == 8) {
    u32 const on_top[] = {shift_left<24>(row), shift_left<16>(row), shift_left<8>(row), row};
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) w[i] = W == dtype::e4m3 ? e4m3_over_256(on_top[i]) : to_float(shift_right_signed<24>(on_top[i]));
  }
  if constexpr (bits(W) == 4) {
    u32 const nibble[] = {row,                 shift_right<16>(row), shift_right<4>(row),  shift_right<20>(row),
                          shift_right<8>(row), shift_right<24>(row), shift_right<12>(row), shift_right<28>(row)};
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) w[i] = W == dtype::int4 ? sub(lookup(four_bits, nibble[i]), zero) : lookup(four_bits, nibble[i]);
  }
}

// Reads alternate between two panels, 1 KiB apart, which hardware prefetchers do not follow. So, beside row `row` of panel 0, two lines of
// the tile after next are asked for, in the order in which they lie in memory.
MOESAIC_HOST void prefetch_later_tile(const std::byte* at, std::int64_t row) {
  constexpr auto distance = 2 * packed::tile_rows * packed::row_bytes;
  auto const* const line = at + distance + row % packed::tile_rows * packed::row_bytes;
  prefetch(line);
  prefetch(line + packed::row_bytes);
}

// One pair of panels: where its rows, scales and zero points are.
template <dtype W>
struct panel_pair {
  static constexpr int per_lane = packed::per_lane(W);

  const std::byte* data;
  std::int64_t inputs;          // of the layout
  std::int64_t group;           // inputs that share a scale
  const std::byte* scales;
  const std::byte* zeros;       // null without zero points
  std::int64_t edge;            // first input of the last tile, if that is not full
  std::int64_t edge_height;     // its rows

  MOESAIC_HOST panel_pair(const std::byte* pair, format f, std::int64_t inputs_) : data(pair), inputs(inputs_) {
    auto const rows = packed::rows(W, inputs);
    group = has_scales(W) && f.group != 0 ? f.group : inputs;
    scales = pair + packed::tile_bytes(W, inputs);
    zeros = W == dtype::int4 && f.zero_point ? scales + packed::scale_bytes(f, inputs) : nullptr;
    edge = rows / packed::tile_rows * packed::tile_rows * per_lane;
    edge_height = rows % packed::tile_rows;
  }
  // The end of the run of inputs from k on that share scales and height of tile.
  MOESAIC_HOST std::int64_t run_end(std::int64_t k, std::int64_t end) const {
    auto const of_group = has_scales(W) ? (k / group + 1) * group : end;
    auto const of_tiles = k < edge ? edge : end;
    return of_group < of_tiles ? (of_group < end ? of_group : end) : (of_tiles < end ? of_tiles : end);
  }
  // Byte offset of the row of panel 0 that holds input k, and from there to panel 1.
  MOESAIC_HOST static std::int64_t row_at(std::int64_t k) {
    auto const row = k / per_lane;
    return (row + row / packed::tile_rows * packed::tile_rows) * packed::row_bytes;
  }
  MOESAIC_HOST std::int64_t panel_distance(std::int64_t k) const {
    return (k < edge ? packed::tile_rows : edge_height) * packed::row_bytes;
  }

  MOESAIC_HOST f32 scale(std::int64_t k, int panel, std::int64_t pair_offset = 0) const {
    auto const at = (k / group * 2 + panel) * packed::lanes;
    if constexpr (W == dtype::mxfp4) {
      // e8m0 is the exponent of a float, but 2^-127 is a subnormal, and 255 is NaN.
      auto const code = load_bytes(scales + pair_offset + at);
      auto const finite = select_equal(code, set1_bits(0), set1_bits(0x0040'0000u), shift_left<23>(code));
      return as_float(select_equal(code, set1_bits(255), set1_bits(0x7fc0'0000u), finite));
    } else if constexpr (has_scales(W)) {
      auto const s = load(reinterpret_cast<const float*>(scales + pair_offset + at * 4));
      return W == dtype::e4m3 ? mul(s, set1(256.0f)) : s;
    } else {
      return set1(1.0f);
    }
  }
  MOESAIC_HOST const float (&four_bits() const)[16] {
    return W == dtype::mxfp4 ? mxfp4_values : zeros != nullptr ? uint4_values : int4_values;
  }
  MOESAIC_HOST f32 zero(std::int64_t k, int panel, std::int64_t pair_offset = 0) const {
    if (W != dtype::int4 || zeros == nullptr) return set1(0.0f);
    return to_float(load_bytes(zeros + pair_offset + (k / group * 2 + panel) * packed::lanes));
  }
};

template <class X, class Staged>
MOESAIC_HOST void stage_row(const X* x, std::int64_t count, Staged* y) {
  if constexpr (std::is_same_v<X, Staged>) {
    std::memcpy(y, x, static_cast<std::size_t>(count) * sizeof(X));
  } else {
    std::int64_t i = 0;
    for (; i + 16 <= count; i += 16) store(y + i, load(x + i));
    if (i < count) store(y + i, load(x + i, count - i), count - i);
  }
}
// Inputs [begin, begin + count) of all rows, and below them the rows of zeros that fill the last block.
template <class X, class Staged>
[[gnu::noinline]] void stage(const X* const* x, std::int64_t rows, std::int64_t begin, std::int64_t count, Staged* y) {
  constexpr auto stride = staged_stride<Staged>;
  for (std::int64_t r = 0; r < rows; ++r) stage_row(x[r] + begin, count, y + r * stride);
  if (begin == 0) std::memset(y + rows * stride, 0, block_rows * stride * sizeof(Staged));
}

// Inputs [begin, end) of a pair as fp32 tiles: what a packed fp32 matrix would hold there. begin is the first of a tile of fp32.
template <dtype W>
inline void expand(panel_pair<W> const& pair, std::int64_t begin, std::int64_t end, float* out) {
  constexpr auto per_lane = packed::per_lane(W);
  for (int panel = 0; panel < 2; ++panel)
    for (auto k = begin; k < end;) {
      auto const stop = pair.run_end(k, end);
      auto const scale = pair.scale(k, panel), zero = pair.zero(k, panel);
      auto const* const data = pair.data + panel * pair.panel_distance(k);
      for (; k < stop; k += per_lane) {
        f32 w[per_lane];
        if (panel == 0) prefetch_later_tile(data + pair.row_at(k), k / per_lane);
        widen<W>(load_bits(data + pair.row_at(k)), pair.four_bits(), zero, w);
        auto* const to = out + panel_pair<dtype::fp32>::row_at(k - begin) / 4 + panel * packed::tile_rows * packed::lanes;
#pragma GCC unroll 8
        for (int i = 0; i < per_lane; ++i) store(to + i * packed::lanes, has_scales(W) ? mul(w[i], scale) : w[i]);
      }
    }
}

// x [Rows, inputs], rows staged_stride<float> apart, times fp32 tiles, onto y [rows][32]; where `first`, y starts at zero.
// Rows of x beyond `rows` are readable, and their results are dropped. `left`: inputs from here to the end of the tiles' layout.
template <int Rows>
inline void block(const float* x, std::int64_t rows, const std::byte* tiles, std::int64_t inputs, std::int64_t left, bool first, float* y) {
  // Sums are a flat list: g++ keeps it in registers where one loop runs over it, and two nested ones do not.
  constexpr auto panels = block_panels, sums = Rows * panels;
  for (int side = 0; side < 2; side += panels) {
    auto const at = [&](int i) { return y + i / panels * 2 * packed::lanes + (side + i % panels) * packed::lanes; };
    f32 sum[sums];
#pragma GCC unroll 32
    for (int i = 0; i < sums; ++i) sum[i] = first || i / panels >= rows ? set1(0.0f) : load(at(i));
    for (std::int64_t k = 0; k < inputs; k += packed::tile_rows) {
      auto const height = (left - k < packed::tile_rows ? left - k : packed::tile_rows) * packed::row_bytes;
      auto const* const stop = x + (inputs - k < packed::tile_rows ? inputs : k + packed::tile_rows);
      auto const* row = tiles + k * 2 * packed::row_bytes + side * height;
      for (auto const* value = x + k; value < stop; ++value, row += packed::row_bytes) {
        if (side == 0) prefetch_later_tile(row, value - x);
        f32 const w[2] = {as_float(load_bits(row)), as_float(load_bits(row + (panels - 1) * height))};
#pragma GCC unroll 32
        for (int i = 0; i < sums; ++i) sum[i] = fma(w[i % panels], set1(value[i / panels * staged_stride<float>]), sum[i]);
      }
    }
#pragma GCC unroll 32
    for (int i = 0; i < sums; ++i)
      if (i / panels < rows) store(at(i), sum[i]);
  }
}

// Calls f<Rows>() with the least block that holds `rows` rows.
template <class F>
MOESAIC_HOST void with_block(std::int64_t rows, F&& f) {
  if constexpr (block_rows >= 12) {
    if (rows > 8) return f.template operator()<12>();
    if (rows > 6) return f.template operator()<8>();
  }
  if constexpr (block_rows >= 6)
    if (rows > 4) return f.template operator()<6>();
  if (rows > 2) return f.template operator()<4>();
  f.template operator()<2>();
}

// All rows of x, `step` at a time; arguments as of block(). Not inlined: the same for every format.
[[gnu::noinline]] inline void blocks(const float* x, std::int64_t rows, std::int64_t step, const std::byte* tiles, std::int64_t inputs,
                                     std::int64_t left, bool first, float* y) {
  for (std::int64_t r = 0; r < rows; r += step)
    with_block(step, [&]<int Rows>() {
      block<Rows>(x + r * staged_stride<float>, rows - r < step ? rows - r : step, tiles, inputs, left, first, y + r * 2 * packed::lanes);
    });
}

// Inputs [begin, end) of one row, x[0] being input `begin`, times wide_pairs pairs, pair_bytes apart, onto y [wide_pairs][32].
// Weights become floats in registers. So many outputs at a time that the chains of fma hide each other's latency.
template <dtype W>
inline void wide(const float* x, panel_pair<W> const& pair, std::int64_t pair_bytes, std::int64_t begin, std::int64_t end, bool first,
                 float* y) {
  constexpr auto per_lane = packed::per_lane(W);
  constexpr auto panels = 2 * wide_pairs;
  f32 sum[panels];
#pragma GCC unroll 8
  for (int p = 0; p < panels; ++p) sum[p] = first ? set1(0.0f) : load(y + p * packed::lanes);
  for (auto k = begin; k < end;) {
    auto const stop = pair.run_end(k, end);
    auto const distance = pair.panel_distance(k);
    f32 scale[panels], zero[panels];
#pragma GCC unroll 8
    for (int p = 0; p < panels; ++p) {
      scale[p] = pair.scale(k, p % 2, p / 2 * pair_bytes);
      zero[p] = pair.zero(k, p % 2, p / 2 * pair_bytes);
    }
    auto const* at = pair.data + pair.row_at(k);
    for (; k + per_lane <= stop; k += per_lane) {
      auto const* const value = x + (k - begin);
      unrolled<panels>([&](auto p) __attribute__((always_inline)) {
        auto const* const row = at + p / 2 * pair_bytes + p % 2 * distance;
        if (p % 2 == 0) prefetch_later_tile(row, k / per_lane);
        f32 w[per_lane];
        widen<W>(load_bits(row), pair.four_bits(), zero[p], w);
#pragma GCC unroll 8
        for (int i = 0; i < per_lane; ++i) sum[p] = fma(has_scales(W) ? mul(w[i], scale[p]) : w[i], set1(value[i]), sum[p]);
      });
      at = pair.data + pair.row_at(k + per_lane);
    }
    if (k == stop) continue;
    // The last lanes are not full.
    unrolled<panels>([&](auto p) __attribute__((always_inline)) {
      f32 w[per_lane];
      widen<W>(load_bits(at + p / 2 * pair_bytes + p % 2 * distance), pair.four_bits(), zero[p], w);
      for (int i = 0; i < stop - k; ++i) sum[p] = fma(has_scales(W) ? mul(w[i], scale[p]) : w[i], set1(x[k - begin + i]), sum[p]);
    });
    k = stop;
  }
#pragma GCC unroll 8
  for (int p = 0; p < panels; ++p) store(y + p * packed::lanes, sum[p]);
}

// From a pair to the next of the `wide_pairs` that one row meets. One alone is met twice, which costs no more than the latency of its fma.
MOESAIC_HOST std::int64_t next_pair(std::int64_t pairs, format f, std::int64_t inputs) {
  return pairs == wide_pairs ? packed::pair_bytes(f, inputs) : 0;
}

/// y [wide_pairs][32] = one row x [inputs] times `pairs` neighbouring pairs of panels from `data` on: 1 or wide_pairs.
template <dtype W, class X>
inline void row_dot(here, const X* x, const std::byte* data, std::int64_t pairs, format f, std::int64_t inputs, float* y) {
  panel_pair<W> const pair(data, f, inputs);
  auto const pair_bytes = next_pair(pairs, f, inputs);
  if constexpr (std::is_same_v<X, float>) {
    wide<W>(x, pair, pair_bytes, 0, inputs, true, y);
  } else {
    float row[row_inputs];
    for (std::int64_t k = 0; k < inputs; k += row_inputs) {
      auto const count = inputs - k < row_inputs ? inputs - k : row_inputs;
      stage_row(x + k, count, row);
      wide<W>(row, pair, pair_bytes, k, k + count, k == 0, y);
    }
  }
}

/// y[p][r] [32] = rows of x [rows][inputs] times pair p of `pairs` neighbours; at most product_rows rows, product_rows of y to a pair.
template <dtype W, class X>
inline void pairs_dot(here, const X* const* x, std::int64_t rows, const std::byte* data, std::int64_t pairs, format f, std::int64_t inputs,
                      float* y) {
  alignas(64) float staged[(product_rows + block_rows) * staged_stride<float>];
  alignas(64) float expanded[W == dtype::fp32 ? 1 : chunk_inputs * 2 * packed::lanes];
  auto const block_count = packed::ceil_div(rows, block_rows), step = packed::ceil_div(rows, block_count);
  for (std::int64_t k = 0; k < inputs; k += chunk_inputs) {
    auto const count = inputs - k < chunk_inputs ? inputs - k : chunk_inputs;
    stage(x, rows, k, count, staged);
    for (std::int64_t p = 0; p < pairs; ++p) {
      auto const* const pair = data + p * packed::pair_bytes(f, inputs);
      auto const* tiles = reinterpret_cast<const std::byte*>(expanded);
      if constexpr (W == dtype::fp32) tiles = pair + k * 2 * packed::row_bytes;
      else expand<W>(panel_pair<W>(pair, f, inputs), k, k + count, expanded);
      auto const left = W == dtype::fp32 ? inputs - k : chunk_inputs;
      blocks(staged, rows, step, tiles, count, left, k == 0, y + p * product_rows * 2 * packed::lanes);
    }
  }
}

// Up to so many rows go one by one, since to expand weights would cost more.
template <dtype W, class X>
inline constexpr std::int64_t single_rows = W == dtype::fp32 ? 1 : W == dtype::bf16 ? 8 : 3;
