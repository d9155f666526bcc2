// Rows of bf16 times panels of packed weights by bf16 dot products, where codes are exact in bf16. Body file of level avx512_bf16.
// Per output and group of inputs one chain of dot products over ascending pairs of inputs, then sum = fma(chain, scale, sum): neither
// number of rows nor cutting into chunks changes a bit. The instruction takes subnormal inputs for zero.
// SPDX-License-Identifier: Apache-2.0

using namespace avx512;
struct here {};

inline constexpr std::int64_t dot_chunk_inputs = 256;   // a pair's chunk is 16 KiB as bf16: it stays in L1 while the rows of x pass by

// Lanes of two bf16: sum + w[0] x[0] + w[1] x[1].
MOESAIC_HOST f32 dot(f32 sum, u32 w, u32 x) { return {_mm512_dpbf16_ps(sum.v, (__m512bh)w.v, (__m512bh)x.v)}; }
MOESAIC_HOST u32 set1_two(const bf16* x) {
  std::uint32_t two;
  std::memcpy(&two, x, sizeof two);
  return set1_bits(two);
}

// bf16 of all codes of a format, for permutes: bytes apart for 8 bits, [0] of codes below 128 and [1] of the others; words for 4 bits.
struct byte_tables {
  std::uint8_t upper[2][128], lower[2][128];
};
template <dtype W>
consteval byte_tables make_byte_tables() {
  byte_tables t{};
  for (int i = 0; i < 256; ++i) {
    auto const code = static_cast<std::uint8_t>(i);
    auto const number = W == dtype::int8 ? static_cast<float>(static_cast<std::int8_t>(code)) : static_cast<float>(e4m3::from_bits(code));
    auto const value = bf16(number).bits;
    t.upper[i / 128][i % 128] = static_cast<std::uint8_t>(value >> 8);
    t.lower[i / 128][i % 128] = static_cast<std::uint8_t>(value & 0xff);
  }
  return t;
}
struct word_table {
  std::uint16_t word[32];
};
// A permute reads five bits: codes repeat; with zero points the index is code + 16 - zero.
template <dtype W>
consteval word_table make_word_table(bool zero_point) {
  word_table t{};
  for (int i = 0; i < 32; ++i)
    t.word[i] = bf16(W == dtype::mxfp4 ? mxfp4_values[i % 16] : zero_point ? static_cast<float>(i - 16) : int4_values[i % 16]).bits;
  return t;
}
struct interleave_table {
  std::uint8_t first[64], second[64];
};
// Of bytes [lower][upper]: inputs 0 and 1 of every lane, and inputs 2 and 3.
consteval interleave_table make_interleave_table() {
  interleave_table t{};
  for (int i = 0; i < 64; ++i) {
    t.first[i] = static_cast<std::uint8_t>(i % 2 * 64 + i / 4 * 4 + i % 4 / 2);
    t.second[i] = static_cast<std::uint8_t>(t.first[i] + 2);
  }
  return t;
}

MOESAIC_HOST __m512i load_table(const void* p) { return _mm512_loadu_si512(p); }
MOESAIC_HOST __m512i lookup_bytes(__m512i codes, const std::uint8_t (&table)[2][128], bool sign_only) {
  auto const below = _mm512_permutex2var_epi8(load_table(table[0]), codes, load_table(table[0] + 64));
  if (sign_only) return below;
  auto const above = _mm512_permutex2var_epi8(load_table(table[1]), codes, load_table(table[1] + 64));
  return _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes), below, above);
}

// The codes of a row of lanes as pairs of bf16. offset: 16 - zero in both halves of a lane.
template <dtype W, bool ZeroPoint>
MOESAIC_HOST void widen_to_pairs(u32 row, [[maybe_unused]] u32 offset, u32 (&two)[packed::per_lane(W) / 2]) {
  if constexpr (W == dtype::bf16) two[0] = row;
  if constexpr (bits(W) == 8) {
    static constexpr auto tables = make_byte_tables<W>();
    static constexpr auto interleave = make_interleave_table();
    constexpr auto sign_only = W == dtype::e4m3;   // the upper half of the codes differs in the sign
    auto upper = lookup_bytes(row.v, tables.upper, sign_only);
    if (sign_only) upper = _mm512_or_si512(upper, _mm512_and_si512(row.v, _mm512_set1_epi8(static_cast<char>(0x80))));
    auto const lower = lookup_bytes(row.v, tables.lower, sign_only);
    two[0] = {_mm512_permutex2var_epi8(lower, load_table(interleave.first), upper)};
    two[1] = {_mm512_permutex2var_epi8(lower, load_table(interleave.second), upper)};
  }
  if constexpr (bits(W) == 4) {
    static constexpr auto table = make_word_table<W>(ZeroPoint);
    constexpr auto every = static_cast<__mmask32>(-1);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      auto code = i == 0 ? row.v : _mm512_maskz_srli_epi16(every, row.v, 4 * i);
      if (ZeroPoint) code = _mm512_add_epi16(_mm512_and_si512(code, _mm512_set1_epi16(15)), offset.v);
      two[i] = {_mm512_maskz_permutexvar_epi16(every, code, load_table(table.word))};
    }
  }
}

template <dtype W>
MOESAIC_HOST u32 zero_offset(panel_pair<W> const& pair, std::int64_t k, int panel, std::int64_t pair_offset = 0) {
  if (W != dtype::int4 || pair.zeros == nullptr) return set1_bits(0);
  auto const zero = load_bytes(pair.zeros + pair_offset + (k / pair.group * 2 + panel) * packed::lanes).v;
  auto const offset = _mm512_sub_epi32(_mm512_set1_epi32(16), zero);
  return u32{_mm512_or_si512(offset, _mm512_maskz_slli_epi32(all, offset, 16))};
}

// Calls f<ZeroPoint>(): one of two loops, rather than a question at every weight.
template <dtype W, class F>
MOESAIC_HOST void with_zero_point(bool zero_point, F&& f) {
  if constexpr (W == dtype::int4)
    if (zero_point) return f.template operator()<true>();
  f.template operator()<false>();
}

// Inputs [begin, end) of a pair as bf16 tiles, without scales.
template <dtype W, bool ZeroPoint>
inline void expand_to_pairs(panel_pair<W> const& pair, std::int64_t begin, std::int64_t end, std::byte* out) {
  constexpr auto per_lane = packed::per_lane(W);
  for (int panel = 0; panel < 2; ++panel)
    for (auto k = begin; k < end;) {
      auto const stop = pair.run_end(k, end);
      auto const offset = zero_offset(pair, k, panel);
      auto const* const data = pair.data + panel * pair.panel_distance(k);
      for (; k < stop; k += per_lane) {
        if (panel == 0) prefetch_later_tile(data + pair.row_at(k), k / per_lane);
        u32 two[per_lane / 2];
        widen_to_pairs<W, ZeroPoint>(load_bits(data + pair.row_at(k)), offset, two);
        auto* const to = out + panel_pair<dtype::bf16>::row_at(k - begin) + panel * packed::tile_rows * packed::row_bytes;
#pragma GCC unroll 4
        for (int i = 0; i < per_lane / 2; ++i) _mm512_storeu_si512(to + i * packed::row_bytes, two[i].v);
      }
    }
}

// A run of inputs that share a scale, of rows of x that share a pass.
struct dot_run {
  std::int64_t rows;          // of x
  std::int64_t begin, end;    // inputs, counted from the start of the tiles; both even
  const std::byte* tiles;     // bf16
  std::int64_t left;          // inputs from the start of the tiles to the end of their layout
  bool opens, closes;         // whether the group starts and ends with this run
  bool scaled;
  f32 scale[2];
};

// One run of x [Rows, inputs], rows staged_stride<bf16> apart, onto y [rows][32]; chains [rows][32] keeps what a run leaves open.
template <int Rows>
inline void dot_block(const bf16* x, dot_run const& run, float* chains, float* y) {
  constexpr auto sums = 2 * Rows;   // a flat list, as in block()
  auto* const open = run.scaled ? chains : y;
  f32 chain[sums];
#pragma GCC unroll 32
  for (int i = 0; i < sums; ++i)
    chain[i] = run.opens || i / 2 >= run.rows ? set1(0.0f) : load(open + i * packed::lanes);
  for (auto k = run.begin; k < run.end;) {
    auto const tile = k / 32 * 32;
    auto const height = packed::ceil_div(run.left - tile < 32 ? run.left - tile : 32, 2) * packed::row_bytes;
    auto const stop = run.end < tile + 32 ? run.end : tile + 32;
    auto const* row = run.tiles + tile * packed::row_bytes + (k - tile) / 2 * packed::row_bytes;
    auto const* const end = x + stop;
    for (auto const* value = x + k; value < end; value += 2, row += packed::row_bytes) {
      prefetch_later_tile(row, (value - x) / 2);
      u32 const w[2] = {load_bits(row), load_bits(row + height)};
#pragma GCC unroll 32
      for (int i = 0; i < sums; ++i) chain[i] = dot(chain[i], w[i % 2], set1_two(value + i / 2 * staged_stride<bf16>));
    }
    k = stop;
  }
  if (run.scaled && run.closes) {
#pragma GCC unroll 32
    for (int i = 0; i < sums; ++i)
      if (i / 2 < run.rows) {
        auto* const to = y + i * packed::lanes;
        store(to, fma(chain[i], run.scale[i % 2], load(to)));
      }
  } else {
#pragma GCC unroll 32
    for (int i = 0; i < sums; ++i)
      if (i / 2 < run.rows) store(open + i * packed::lanes, chain[i]);
  }
}

// As row_dot of the other levels.
template <dtype W>
inline void row_dot(here, const bf16* x, const std::byte* data, std::int64_t pairs, format f, std::int64_t inputs, float* y) {
  constexpr auto per_lane = packed::per_lane(W);
  constexpr auto panels = 2 * wide_pairs;
  panel_pair<W> const pair(data, f, inputs);
  auto const pair_bytes = next_pair(pairs, f, inputs);
  bf16 tail[per_lane] = {};
  auto const whole = inputs / per_lane * per_lane;
  std::memcpy(tail, x + whole, static_cast<std::size_t>(inputs - whole) * sizeof(bf16));
  f32 sum[panels], chain[panels];
#pragma GCC unroll 8
  for (int p = 0; p < panels; ++p) sum[p] = chain[p] = set1(0.0f);
  for (std::int64_t k = 0; k < inputs;) {
    auto const stop = pair.run_end(k, inputs);
    auto const begin = k, distance = pair.panel_distance(k);
    u32 offset[panels];
#pragma GCC unroll 8
    for (int p = 0; p < panels; ++p) offset[p] = zero_offset(pair, k, p % 2, p / 2 * pair_bytes);
    with_zero_point<W>(f.zero_point, [&]<bool ZeroPoint>() __attribute__((always_inline)) {
      for (; k < stop; k += per_lane) {
        auto const* const from = k < whole ? x + k : tail;
        auto const* const row = pair.data + pair.row_at(k);
        unrolled<panels>([&](auto p) __attribute__((always_inline)) {
          auto const* const at = row + p / 2 * pair_bytes + p % 2 * distance;
          if (p % 2 == 0) prefetch_later_tile(at, k / per_lane);
          u32 two[per_lane / 2];
          widen_to_pairs<W, ZeroPoint>(load_bits(at), offset[p], two);
#pragma GCC unroll 4
          for (int i = 0; i < per_lane / 2; ++i) chain[p] = dot(chain[p], two[i], set1_two(from + 2 * i));
        });
      }
    });
    if (has_scales(W) && (stop % pair.group == 0 || stop == inputs))
#pragma GCC unroll 8
      for (int p = 0; p < panels; ++p) {
        auto const scale = pair.scale(begin, p % 2, p / 2 * pair_bytes);
        sum[p] = fma(chain[p], W == dtype::e4m3 ? mul(scale, set1(0x1p-8f)) : scale, sum[p]);
        chain[p] = set1(0.0f);
      }
  }
#pragma GCC unroll 8
  for (int p = 0; p < panels; ++p) store(y + p * packed::lanes, has_scales(W) ? sum[p] : chain[p]);
}

// As pairs_dot of the other levels.
template <dtype W, class X>
inline void pairs_dot(here, const X* const* x, std::int64_t rows, const std::byte* data, std::int64_t pairs, format f, std::int64_t inputs,
                      float* y) {
  constexpr auto per_lane = packed::per_lane(W);
  constexpr std::int64_t of_pair = product_rows * 2 * packed::lanes;
  alignas(64) bf16 staged[(product_rows + block_rows) * staged_stride<bf16>];
  alignas(64) std::byte expanded[W == dtype::bf16 ? 1 : dot_chunk_inputs * 4 * packed::lanes];
  alignas(64) float chains[has_scales(W) ? wide_pairs * of_pair : 1];
  auto const block_count = packed::ceil_div(rows, block_rows), step = packed::ceil_div(rows, block_count);
  if (has_scales(W))
    for (std::int64_t p = 0; p < pairs; ++p)
      std::memset(y + p * of_pair, 0, static_cast<std::size_t>(rows * 2 * packed::lanes) * sizeof(float));
  for (std::int64_t begin = 0; begin < inputs; begin += dot_chunk_inputs) {
    auto const end = inputs - begin < dot_chunk_inputs ? inputs : begin + dot_chunk_inputs;
    stage(x, rows, begin, end - begin, staged);
    for (std::int64_t r = 0; end % per_lane != 0 && r < rows; ++r)   // the last lanes are not full: x goes on with zeros
      std::memset(staged + r * staged_stride<bf16> + (end - begin), 0, static_cast<std::size_t>(per_lane - end % per_lane) * sizeof(bf16));
    for (std::int64_t p = 0; p < pairs; ++p) {
      panel_pair<W> const pair(data + p * packed::pair_bytes(f, inputs), f, inputs);
      auto const* tiles = expanded;
      if constexpr (W == dtype::bf16) tiles = pair.data + begin * packed::row_bytes;
      else with_zero_point<W>(f.zero_point, [&]<bool ZeroPoint>() { expand_to_pairs<W, ZeroPoint>(pair, begin, end, expanded); });
      dot_run run{.rows = 0, .begin = 0, .end = 0, .tiles = tiles, .left = W == dtype::bf16 ? inputs - begin : dot_chunk_inputs,
                  .opens = false, .closes = false, .scaled = has_scales(W), .scale = {}};
      for (auto k = begin; k < end; k = begin + run.end) {
        auto const group_end = has_scales(W) ? (k / pair.group + 1) * pair.group : inputs;
        auto const stop = group_end < end ? group_end : end;
        run.begin = k - begin;
        run.end = packed::ceil_div(stop - begin, per_lane) * per_lane;
        run.opens = has_scales(W) ? k % pair.group == 0 : k == 0;
        run.closes = stop == group_end || stop == inputs;
        for (int side = 0; has_scales(W) && side < 2; ++side)
          run.scale[side] = W == dtype::e4m3 ? mul(pair.scale(k, side), set1(0x1p-8f)) : pair.scale(k, side);
        for (std::int64_t r = 0; r < rows; r += step) {
          run.rows = rows - r < step ? rows - r : step;
          auto const at = p * of_pair + r * 2 * packed::lanes;
          auto* const open = chains + (has_scales(W) ? at : 0);
          with_block(step, [&]<int Rows>() { dot_block<Rows>(staged + r * staged_stride<bf16>, run, open, y + at); });
        }
      }
    }
  }
}

// Up to so many rows go one by one, since to expand weights would cost more.
template <dtype W, class X>
inline constexpr std::int64_t single_rows = W == dtype::bf16 ? 1 : bits(W) == 4 ? 4 : 2;
