// Rows of x times panels of packed weights, in every weight format, 16 outputs a vector. Body file.
// Each output is one chain of fma over ascending inputs, so neither level nor number of rows nor cutting into chunks changes a bit.
// SPDX-License-Identifier: Apache-2.0

inline constexpr std::int64_t chunk_inputs = 128;     // a pair's chunk is 16 KiB as fp32: it stays in L1 while the rows of x pass by
inline constexpr std::int64_t staged_inputs = 1024;   // of a single row, when it has to be widened to float first

inline constexpr float int4_values[16] = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};
inline constexpr float uint4_values[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
inline constexpr float mxfp4_values[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

// A byte in the upper bits of each lane, as e4m3, over 256: its exponent and mantissa are those of an fp16 with another bias.
MOESAIC_INLINE f32 e4m3_over_256(u32 byte_on_top) {
  auto const half = bit_and(shift_right_signed<17>(byte_on_top), set1_bits(0xbf80u));
  auto const is_nan = bit_and(byte_on_top, set1_bits(0x7f00'0000u));
  return as_float(select_equal(is_nan, set1_bits(0x7f00'0000u), set1_bits(0x7fc0'0000u), as_bits(half_to_float(half))));
}

// The codes of the inputs of a row of lanes as floats, exactly (e4m3: over 256). zero: of int4 with zero points, else 0.
template <dtype W>
MOESAIC_INLINE void widen(u32 row, [[maybe_unused]] bool zero_point, [[maybe_unused]] f32 zero, f32 (&w)[packed::per_lane(W)]) {
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
    for (int i = 0; i < 4; ++i) w[i] = W == dtype::e4m3 ? e4m3_over_256(on_top[i]) : to_float(shift_right_signed<24>(on_top[i]));
  }
  if constexpr (bits(W) == 4) {
    u32 const nibble[] = {row,                 shift_right<16>(row), shift_right<4>(row),  shift_right<20>(row),
                          shift_right<8>(row), shift_right<24>(row), shift_right<12>(row), shift_right<28>(row)};
    for (int i = 0; i < 8; ++i) {
      if (W == dtype::mxfp4) w[i] = lookup(mxfp4_values, nibble[i]);
      else if (!zero_point) w[i] = lookup(int4_values, nibble[i]);
      else w[i] = sub(lookup(uint4_values, nibble[i]), zero);
    }
  }
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

  MOESAIC_INLINE panel_pair(const std::byte* pair, format f, std::int64_t inputs_) : data(pair), inputs(inputs_) {
    auto const rows = packed::rows(W, inputs);
    group = has_scales(W) && f.group != 0 ? f.group : inputs;
    scales = pair + packed::tile_bytes(W, inputs);
    zeros = f.zero_point ? scales + packed::scale_bytes(f, inputs) : nullptr;
    edge = rows / packed::tile_rows * packed::tile_rows * per_lane;
    edge_height = rows % packed::tile_rows;
  }
  // The end of the run of inputs from k on that share scales and height of tile.
  MOESAIC_INLINE std::int64_t run_end(std::int64_t k, std::int64_t end) const {
    auto const of_group = has_scales(W) ? (k / group + 1) * group : end;
    auto const of_tiles = k < edge ? edge : end;
    return of_group < of_tiles ? (of_group < end ? of_group : end) : (of_tiles < end ? of_tiles : end);
  }
  // Byte offset of the row of panel 0 that holds input k, and from there to panel 1.
  MOESAIC_INLINE static std::int64_t row_at(std::int64_t k) {
    auto const row = k / per_lane;
    return (row + row / packed::tile_rows * packed::tile_rows) * packed::row_bytes;
  }
  MOESAIC_INLINE std::int64_t panel_distance(std::int64_t k) const { return (k < edge ? packed::tile_rows : edge_height) * packed::row_bytes; }

  MOESAIC_INLINE f32 scale(std::int64_t k, int panel, std::int64_t pair_offset = 0) const {
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
  MOESAIC_INLINE f32 zero(std::int64_t k, int panel, std::int64_t pair_offset = 0) const {
    if (W != dtype::int4 || zeros == nullptr) return set1(0.0f);
    return to_float(load_bytes(zeros + pair_offset + (k / group * 2 + panel) * packed::lanes));
  }
};

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
        widen<W>(load_bits(data + pair.row_at(k)), pair.zeros != nullptr, zero, w);
        auto* const to = out + panel_pair<dtype::fp32>::row_at(k - begin) / 4 + panel * packed::tile_rows * packed::lanes;
        for (int i = 0; i < per_lane; ++i) store(to + i * packed::lanes, has_scales(W) ? mul(w[i], scale) : w[i]);
      }
    }
}

// x [Rows pointers to `inputs` values] times fp32 tiles, onto y [rows][32], rows `stride` apart; where `first`, y starts at zero.
// Of Rows pointers those from `rows` on repeat others, and their results are dropped. `left`: inputs from here to the layout's end.
template <int Rows>
inline void block(const float* const* x, std::int64_t rows, const std::byte* tiles, std::int64_t inputs, std::int64_t left, bool first, float* y,
                  std::int64_t stride) {
  constexpr auto panels = block_panels;
  for (int side = 0; side < 2; side += panels) {
    f32 sum[Rows][panels];
    for (int r = 0; r < Rows; ++r)
      for (int p = 0; p < panels; ++p) sum[r][p] = first || r >= rows ? set1(0.0f) : load(y + r * stride + (side + p) * packed::lanes);
    for (std::int64_t k = 0; k < inputs; k += packed::tile_rows) {
      auto const height = (left - k < packed::tile_rows ? left - k : packed::tile_rows) * packed::row_bytes;
      auto const used = inputs - k < packed::tile_rows ? inputs - k : packed::tile_rows;
      auto const* row = tiles + k * 2 * packed::row_bytes + side * height;
      for (auto i = k; i < k + used; ++i, row += packed::row_bytes) {
        f32 w[panels];
        for (int p = 0; p < panels; ++p) w[p] = as_float(load_bits(row + p * height));
        for (int r = 0; r < Rows; ++r) {
          auto const value = set1(x[r][i]);
          for (int p = 0; p < panels; ++p) sum[r][p] = fma(w[p], value, sum[r][p]);
        }
      }
    }
    for (int r = 0; r < Rows; ++r)
      for (int p = 0; p < panels; ++p)
        if (r < rows) store(y + r * stride + (side + p) * packed::lanes, sum[r][p]);
  }
}

inline void any_block(const float* const* x, std::int64_t rows, const std::byte* tiles, std::int64_t inputs, std::int64_t left, bool first, float* y,
                      std::int64_t stride) {
  if (block_rows >= 12 && rows > 8) block<12>(x, rows, tiles, inputs, left, first, y, stride);
  else if (block_rows >= 8 && rows > 6) block<8>(x, rows, tiles, inputs, left, first, y, stride);
  else if (block_rows >= 6 && rows > 4) block<6>(x, rows, tiles, inputs, left, first, y, stride);
  else if (rows > 2) block<4>(x, rows, tiles, inputs, left, first, y, stride);
  else block<2>(x, rows, tiles, inputs, left, first, y, stride);
}

// Inputs [begin, end) of one row, x[0] being input `begin`, times `Pairs` neighbouring pairs, onto y [Pairs][32].
// Weights become floats in registers. So many outputs at a time that the chains of fma hide each other's latency.
template <dtype W, int Pairs>
inline void wide(const float* x, panel_pair<W> const& pair, std::int64_t pair_bytes, std::int64_t begin, std::int64_t end, bool first, float* y) {
  constexpr auto per_lane = packed::per_lane(W);
  constexpr auto panels = 2 * Pairs;
  f32 sum[panels];
  for (int p = 0; p < panels; ++p) sum[p] = first ? set1(0.0f) : load(y + p * packed::lanes);
  for (auto k = begin; k < end;) {
    auto const stop = pair.run_end(k, end);
    auto const distance = pair.panel_distance(k);
    f32 scale[panels], zero[panels];
    for (int p = 0; p < panels; ++p) {
      scale[p] = pair.scale(k, p % 2, p / 2 * pair_bytes);
      zero[p] = pair.zero(k, p % 2, p / 2 * pair_bytes);
    }
    auto const row = [&](std::int64_t at, auto const& take) {
      auto const* const data = pair.data + pair.row_at(at);
      for (int p = 0; p < panels; ++p) {
        f32 w[per_lane];
        widen<W>(load_bits(data + p / 2 * pair_bytes + p % 2 * distance), pair.zeros != nullptr, zero[p], w);
        for (int i = 0; i < per_lane; ++i) take(p, i, has_scales(W) ? mul(w[i], scale[p]) : w[i]);
      }
    };
    for (; k + per_lane <= stop; k += per_lane)
      row(k, [&](int p, int i, f32 w) { sum[p] = fma(w, set1(x[k - begin + i]), sum[p]); });
    if (k < stop) {   // the last lanes are not full
      row(k, [&](int p, int i, f32 w) {
        if (k + i < stop) sum[p] = fma(w, set1(x[k - begin + i]), sum[p]);
      });
      k = stop;
    }
  }
  for (int p = 0; p < panels; ++p) store(y + p * packed::lanes, sum[p]);
}

/// y [Pairs][32] = one row x [used] times `Pairs` neighbouring pairs of panels. Arguments as in panel_dot.
template <dtype W, int Pairs, class X>
inline void row_dot(here, const X* x, const std::byte* pair, format f, std::int64_t inputs, std::int64_t used, float* y) {
  panel_pair<W> const panels(pair, f, inputs);
  auto const pair_bytes = packed::pair_bytes(f, inputs);
  if constexpr (std::is_same_v<X, float>) {
    wide<W, Pairs>(x, panels, pair_bytes, 0, used, true, y);
  } else {
    float staged[staged_inputs];
    std::int64_t k = 0;
    do {
      auto const count = used - k < staged_inputs ? used - k : staged_inputs;
      widen_row(x + k, count, staged);
      wide<W, Pairs>(staged, panels, pair_bytes, k, k + count, k == 0, y);
      k += staged_inputs;
    } while (k < used);
  }
}

/// y[r][0 .. 32) = Σ_k w[·][k] x[r][k] over the first `used` inputs of a pair of panels whose layout has `inputs`.
/// x: `rows` pointers to `used` values, of any alignment; y [rows, 32], rows `stride` apart. Nothing beyond `used` inputs has any effect.
template <dtype W, class X>
inline void panel_dot(here tag, const X* const* x, std::int64_t rows, const std::byte* pair, format f, std::int64_t inputs, std::int64_t used, float* y,
                      std::int64_t stride) {
  if (rows == 1) return row_dot<W, 1>(tag, x[0], pair, f, inputs, used, y);
  panel_pair<W> const panels(pair, f, inputs);
  alignas(64) float expanded[W == dtype::fp32 ? 1 : chunk_inputs * 2 * packed::lanes];
  float staged[std::is_same_v<X, float> ? 1 : block_rows][chunk_inputs];
  std::int64_t k = 0;
  do {
    auto const count = used - k < chunk_inputs ? used - k : chunk_inputs;
    auto const* tiles = reinterpret_cast<const std::byte*>(expanded);
    if constexpr (W == dtype::fp32) tiles = pair + k * 2 * packed::row_bytes;
    else expand<W>(panels, k, k + count, expanded);
    for (std::int64_t r = 0; r < rows; r += block_rows) {
      const float* row[block_rows];
      for (int i = 0; i < block_rows; ++i) {
        auto const* const from = x[r + i < rows ? r + i : rows - 1] + k;
        if constexpr (std::is_same_v<X, float>) {
          row[i] = from;
        } else {
          if (r + i < rows) widen_row(from, count, staged[i]);
          row[i] = staged[r + i < rows ? i : 0];
        }
      }
      any_block(row, rows - r < block_rows ? rows - r : block_rows, tiles, count, W == dtype::fp32 ? inputs - k : chunk_inputs, k == 0, y + r * stride,
                stride);
    }
    k += chunk_inputs;
  } while (k < used);
}
