// Query rows against one head's cached keys and values, 16 lanes at a time: softmax(q Kᵀ · scale) V, in blocks of keys.
// Included once a level, inside the level's namespace and target region; templates on Vector, the level's 16 lanes (f32, or doubles).
// SPDX-License-Identifier: Apache-2.0

/// sums[r][p] += x[r] · lanes[p].
template <class Vector, int Rows, int Panels>
MOESAIC_INLINE void add_products(typename Vector::scalar const* x, std::int64_t x_stride, Vector const (&lanes)[Panels], Vector (&sums)[Rows][Panels]) {
  for (int r = 0; r < Rows; ++r) {
    auto const factor = Vector::set1(x[r * x_stride]);
    for (int p = 0; p < Panels; ++p) sums[r][p] = Vector::fma(lanes[p], factor, sums[r][p]);
  }
}

/// sums[r][p] += Σ x[r][i − first] · input i of panel p of a pair, i in [first, last) ascending, one chain a lane.
/// `first` is even where a lane holds two inputs.
template <class Vector, class Stored, int Rows, int Panels>
MOESAIC_INLINE void multiply_panels(const std::byte* pair, int panel, std::int64_t inputs, typename Vector::scalar const* x, std::int64_t x_stride,
                                    std::int64_t first, std::int64_t last, Vector (&sums)[Rows][Panels]) {
  constexpr std::int64_t in_lane = sizeof(Stored) == 2 ? 2 : 1;
  constexpr std::int64_t lane_width = sizeof(Stored) == 8 ? 2 : 1;          // in 32-bit lanes
  auto const total_rows = packed::ceil_div(inputs, in_lane), last_row = packed::ceil_div(last, in_lane);
  for (auto row = first / in_lane; row < last_row;) {
    auto const next_tile = (row / packed::tile_rows + 1) * packed::tile_rows;
    auto const until = next_tile < last_row ? next_tile : last_row;
    const std::byte* at[Panels];
    for (int p = 0; p < Panels; ++p) at[p] = pair + packed::row_offset(row, panel + p, total_rows) * lane_width;
    for (; row < until; ++row) {
      Vector lanes[Panels];
      auto const* const factors = x + (row * in_lane - first);
      if constexpr (in_lane == 1) {
        for (int p = 0; p < Panels; ++p) lanes[p] = Vector::load(reinterpret_cast<Stored const*>(at[p]));
        add_products(factors, x_stride, lanes, sums);
      } else {
        for (int p = 0; p < Panels; ++p) lanes[p] = Vector::load_low_bf16(at[p]);
        add_products(factors, x_stride, lanes, sums);
        if (2 * row + 1 < last) {
          for (int p = 0; p < Panels; ++p) lanes[p] = Vector::load_high_bf16(at[p]);
          add_products(factors + 1, x_stride, lanes, sums);
        }
      }
      for (int p = 0; p < Panels; ++p) at[p] += packed::row_bytes * lane_width;
    }
  }
}

/// Rows of queries that share a kv head; row r sees the first visible[r] keys, at least one, and leaves its sum of weighted values in
/// out[r] and what to divide it by in total[r]. Keys come in blocks: their scores, the largest so far, exponentials against it, then
/// the values, after shrinking what was summed against an earlier, smaller largest score (online softmax, arXiv:1805.02867).
/// All that a row adds are its own keys in their order, so its bits are the same whoever its neighbours are.
/// Products meet sums in fma only, lest a compiler contract them at one level and not at another.
template <class Vector, class Stored, int Rows>
void attend_rows(attention_head const& head, attention_rows<typename Vector::scalar>& rows) {
  using scalar = typename Vector::scalar;
  constexpr int panels = Vector::registers >= 32 ? 2 : 1;                   // Rows · panels sums, and room for operands
  constexpr std::int64_t lane_width = sizeof(Stored) == 8 ? 2 : 1;
  auto const key_pair = packed::pair_bytes(sizeof(Stored) == 2 ? dtype::bf16 : dtype::fp32, head.head_dim) * lane_width;
  auto const value_pair = packed::pair_bytes(sizeof(Stored) == 2 ? dtype::bf16 : dtype::fp32, head.max_tokens) * lane_width;
  auto const scale = Vector::set1(static_cast<scalar>(head.scale));
  auto const dims = packed::ceil_div(head.head_dim, 2 * packed::lanes) * 2 * packed::lanes;

  Vector total[Rows], top[Rows], shrink[Rows];
  std::int64_t longest = 0;
  for (int r = 0; r < Rows; ++r) {
    total[r] = Vector::set1(scalar(0));
    top[r] = Vector::set1(-std::numeric_limits<scalar>::infinity());
    longest = rows.visible[r] > longest ? rows.visible[r] : longest;
    for (std::int64_t d = 0; d < dims; d += packed::lanes) Vector::set1(scalar(0)).store(rows.out[r] + d);
  }

  for (std::int64_t first = 0; first < longest; first += attention_block) {
    auto const last = first + attention_block < longest ? first + attention_block : longest;

    for (auto key = first; key < last; key += packed::lanes * panels) {
      Vector scores[Rows][panels];
      for (int r = 0; r < Rows; ++r)
        for (int p = 0; p < panels; ++p) scores[r][p] = Vector::set1(scalar(0));
      multiply_panels<Vector, Stored>(head.keys + key / 32 * key_pair, static_cast<int>(key / 16 % 2), head.head_dim, rows.query[0], max_head_dim, 0,
                                      head.head_dim, scores);
      for (int r = 0; r < Rows; ++r)
        for (int p = 0; p < panels; ++p) scores[r][p].store(rows.weight[r] + (key - first) + p * packed::lanes);
    }

    std::int64_t count[Rows], shared = last - first;                        // keys of this block that a row sees, and that all of them see
    for (int r = 0; r < Rows; ++r) {
      count[r] = rows.visible[r] < last ? rows.visible[r] - first : last - first;
      count[r] = count[r] < 0 ? 0 : count[r];
      shared = count[r] < shared ? count[r] : shared;
      auto* const weight = rows.weight[r];
      auto const padded = packed::ceil_div(count[r], packed::lanes) * packed::lanes;
      for (auto i = count[r]; i < padded; ++i) weight[i] = -std::numeric_limits<scalar>::infinity();
      auto largest = top[r];
      for (std::int64_t i = 0; i < padded; i += packed::lanes) largest = Vector::max(largest, Vector::load(weight + i));
      largest = Vector::set1(largest.largest());
      shrink[r] = first == 0 ? Vector::set1(scalar(1)) : Vector::exp((top[r] - largest) * scale);
      top[r] = largest;
      auto sum = Vector::set1(scalar(0));
      for (std::int64_t i = 0; i < padded; i += packed::lanes) {
        auto const e = Vector::exp((Vector::load(weight + i) - largest) * scale);
        e.store(weight + i);
        sum = sum + e;
      }
      total[r] = Vector::fma(total[r], shrink[r], sum);
    }
    shared = shared / 2 * 2;                                                // a row's own rest begins a lane's inputs

    for (std::int64_t d = 0; d < dims; d += packed::lanes * panels) {
      auto const* const pair = head.values + d / 32 * value_pair;
      auto const panel = static_cast<int>(d / 16 % 2);
      Vector sums[Rows][panels];
      for (int r = 0; r < Rows; ++r)
        for (int p = 0; p < panels; ++p) sums[r][p] = Vector::load(rows.out[r] + d + p * packed::lanes) * shrink[r];
      multiply_panels<Vector, Stored>(pair, panel, head.max_tokens, rows.weight[0], attention_block, first, first + shared, sums);
      for (int r = 0; r < Rows; ++r) {
        Vector rest[1][panels];
        for (int p = 0; p < panels; ++p) rest[0][p] = sums[r][p];
        multiply_panels<Vector, Stored>(pair, panel, head.max_tokens, rows.weight[r] + shared, 0, first + shared, first + count[r], rest);
        for (int p = 0; p < panels; ++p) rest[0][p].store(rows.out[r] + d + p * packed::lanes);
      }
    }
  }
  for (int r = 0; r < Rows; ++r) rows.total[r] = total[r].sum();
}
