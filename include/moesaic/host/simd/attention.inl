// Query rows against one head's cached keys and values, 16 lanes at a time: softmax(q Kᵀ · scale) V, in blocks of keys. Body file.
// Products meet sums in fma only, each output is one chain over ascending inputs: levels and neighbours do not change a bit.
// SPDX-License-Identifier: Apache-2.0

/// 16 lanes of this namespace.
template <class Scalar>
using lanes_of = decltype(set1(Scalar(0)));

template <class Scalar>
MOESAIC_INLINE Scalar largest_lane(lanes_of<Scalar> x) {
  alignas(64) Scalar lane[packed::lanes];
  store(lane, x);
  auto y = lane[0];
  for (auto const l : lane) y = l > y ? l : y;
  return y;
}

// Blocks of Rows × Panels sums are flat lists, since g++ keeps a list in registers only where one loop runs over it.

/// sums[r, p] += x[r] · lanes[p].
template <int Rows, int Panels, class Scalar, class Lanes>
MOESAIC_INLINE void add_products(Scalar const* x, std::int64_t x_stride, Lanes const (&lanes)[Panels], Lanes (&sums)[Rows * Panels]) {
#pragma GCC unroll 16
  for (int i = 0; i < Rows * Panels; ++i) sums[i] = fma(lanes[i % Panels], set1(x[i / Panels * x_stride]), sums[i]);
}

/// sums[r, p] += Σ x[r][i − first] · input i of panel p of a pair, i in [first, last) ascending, one chain a lane.
/// `first` is even where a lane holds two inputs.
template <class Stored, int Rows, int Panels, class Scalar, class Lanes>
MOESAIC_INLINE void multiply_panels(const std::byte* pair, int panel, std::int64_t inputs, Scalar const* x, std::int64_t x_stride, std::int64_t first,
                                    std::int64_t last, Lanes (&sums)[Rows * Panels]) {
  constexpr std::int64_t in_lane = sizeof(Stored) == 2 ? 2 : 1;
  constexpr std::int64_t row_bytes = packed::row_bytes * (sizeof(Stored) == 8 ? 2 : 1);
  auto const total_rows = packed::ceil_div(inputs, in_lane), last_row = packed::ceil_div(last, in_lane);
  for (auto row = first / in_lane; row < last_row;) {
    auto const next_tile = (row / packed::tile_rows + 1) * packed::tile_rows;
    auto const until = next_tile < last_row ? next_tile : last_row;
    const std::byte* at[Panels];
    for (int p = 0; p < Panels; ++p) at[p] = pair + packed::row_offset(row, panel + p, total_rows) / packed::row_bytes * row_bytes;
    for (; row < until; ++row) {
      Lanes lanes[Panels];
      auto const* const factors = x + (row * in_lane - first);
      if constexpr (in_lane == 1) {
#pragma GCC unroll 2
        for (int p = 0; p < Panels; ++p) lanes[p] = load(reinterpret_cast<Stored const*>(at[p]));
        add_products<Rows, Panels>(factors, x_stride, lanes, sums);
      } else {
#pragma GCC unroll 2
        for (int p = 0; p < Panels; ++p) lanes[p] = as_float(shift_left<16>(load_bits(at[p])));
        add_products<Rows, Panels>(factors, x_stride, lanes, sums);
        if (2 * row + 1 == last) return;
#pragma GCC unroll 2
        for (int p = 0; p < Panels; ++p) lanes[p] = as_float(shift_left<16>(shift_right<16>(load_bits(at[p]))));
        add_products<Rows, Panels>(factors + 1, x_stride, lanes, sums);
      }
#pragma GCC unroll 2
      for (int p = 0; p < Panels; ++p) at[p] += row_bytes;
    }
  }
}

/// Rows of queries that share a kv head; row r sees the first visible[r] keys, at least one, and leaves its sum of weighted values in
/// out[r] and what to divide it by in total[r]. Keys come in blocks: their scores, the largest so far, exponentials against it, then
/// the values, after shrinking what was summed against an earlier, smaller largest score (online softmax, arXiv:1805.02867).
/// All that a row adds are its own keys in their order, so its bits are the same whoever its neighbours are.
template <class Stored, int Rows, class Scalar>
void attend_rows(here, attention_head const& head, attention_rows<Scalar>& rows) {
  using lanes = lanes_of<Scalar>;
  constexpr int panels = block_panels;
  constexpr auto map = sizeof(Stored) == 2 ? dtype::bf16 : dtype::fp32;     // doubles: lanes twice as wide
  constexpr std::int64_t lane_width = sizeof(Stored) == 8 ? 2 : 1;
  auto const key_pair = packed::pair_bytes(map, head.head_dim) * lane_width, value_pair = packed::pair_bytes(map, head.max_tokens) * lane_width;
  auto const scale = set1(static_cast<Scalar>(head.scale));
  auto const zero = set1(Scalar(0));
  auto const dims = packed::ceil_div(head.head_dim, 2 * packed::lanes) * 2 * packed::lanes;

  lanes total[Rows], top[Rows], shrink[Rows];
  std::int64_t longest = 0;
  for (int r = 0; r < Rows; ++r) {
    total[r] = zero;
    top[r] = set1(-std::numeric_limits<Scalar>::infinity());
    longest = rows.visible[r] > longest ? rows.visible[r] : longest;
    for (std::int64_t d = 0; d < dims; d += packed::lanes) store(rows.out[r] + d, zero);
  }

  for (std::int64_t first = 0; first < longest; first += attention_block) {
    auto const last = first + attention_block < longest ? first + attention_block : longest;

    for (auto key = first; key < last; key += packed::lanes * panels) {
      lanes scores[Rows * panels];
#pragma GCC unroll 16
      for (auto& score : scores) score = zero;
      multiply_panels<Stored, Rows, panels>(head.keys + key / 32 * key_pair, static_cast<int>(key / 16 % 2), head.head_dim, rows.query[0], max_head_dim, 0,
                                            head.head_dim, scores);
#pragma GCC unroll 16
      for (int i = 0; i < Rows * panels; ++i) store(rows.weight[i / panels] + (key - first) + i % panels * packed::lanes, scores[i]);
    }

    std::int64_t count[Rows], shared = last - first;                        // keys of this block that a row sees, and that all of them see
    for (int r = 0; r < Rows; ++r) {
      count[r] = rows.visible[r] < last ? rows.visible[r] - first : last - first;
      count[r] = count[r] < 0 ? 0 : count[r];
      shared = count[r] < shared ? count[r] : shared;
      auto* const weight = rows.weight[r];
      auto const padded = packed::ceil_div(count[r], packed::lanes) * packed::lanes;
      for (auto i = count[r]; i < padded; ++i) weight[i] = -std::numeric_limits<Scalar>::infinity();
      auto largest = top[r];
      for (std::int64_t i = 0; i < padded; i += packed::lanes) largest = max(largest, load(weight + i));
      largest = set1(largest_lane<Scalar>(largest));
      shrink[r] = first == 0 ? set1(Scalar(1)) : exp(mul(sub(top[r], largest), scale));
      top[r] = largest;
      auto added = zero;
      for (std::int64_t i = 0; i < padded; i += packed::lanes) {
        auto const e = exp(mul(sub(load(weight + i), largest), scale));
        store(weight + i, e);
        added = add(added, e);
      }
      total[r] = fma(total[r], shrink[r], added);
    }
    shared = shared / 2 * 2;                                                // a row's own rest begins a lane's inputs

    for (std::int64_t d = 0; d < dims; d += packed::lanes * panels) {
      auto const* const pair = head.values + d / 32 * value_pair;
      auto const panel = static_cast<int>(d / 16 % 2);
      lanes sums[Rows * panels];
#pragma GCC unroll 16
      for (int i = 0; i < Rows * panels; ++i) sums[i] = mul(load(rows.out[i / panels] + d + i % panels * packed::lanes), shrink[i / panels]);
      multiply_panels<Stored, Rows, panels>(pair, panel, head.max_tokens, rows.weight[0], attention_block, first, first + shared, sums);
#pragma GCC unroll 16
      for (int i = 0; i < Rows * panels; ++i) store(rows.out[i / panels] + d + i % panels * packed::lanes, sums[i]);
      for (int r = 0; r < Rows; ++r) {
        if (count[r] == shared) continue;
        lanes rest[panels];
#pragma GCC unroll 2
        for (int p = 0; p < panels; ++p) rest[p] = load(rows.out[r] + d + p * packed::lanes);
        multiply_panels<Stored, 1, panels>(pair, panel, head.max_tokens, rows.weight[r] + shared, 0, first + shared, first + count[r], rest);
#pragma GCC unroll 2
        for (int p = 0; p < panels; ++p) store(rows.out[r] + d + p * packed::lanes, rest[p]);
      }
    }
  }
  for (int r = 0; r < Rows; ++r) rows.total[r] = sum(total[r]);
}
