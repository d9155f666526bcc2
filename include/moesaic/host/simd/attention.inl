// Query rows against one head's cached keys and values, 16 lanes at a time: softmax(scores(q Kᵀ)) V, in blocks of keys. Body file.
// Products meet sums in fma only, each output is one chain over ascending inputs: levels and neighbours do not change a bit.
// SPDX-License-Identifier: Apache-2.0

/// 16 lanes of this namespace.
template <class Scalar>
using lanes_of = decltype(set1(Scalar(0)));

/// Input `Half` of the 16 lanes at `at`. (Byte is a parameter because doubles have no load_bits.)
template <class Stored, int Half, class Byte>
MOESAIC_HOST auto load_input(Byte const* at) {
  if constexpr (sizeof(Stored) != 2)
    return load(reinterpret_cast<Stored const*>(at));
  else if constexpr (Half == 0)
    return as_float(shift_left<16>(load_bits(at)));
  else
    return as_float(shift_left<16>(shift_right<16>(load_bits(at))));
}

template <class Scalar>
MOESAIC_HOST Scalar largest_lane(lanes_of<Scalar> x) {
  alignas(64) Scalar lane[packed::lanes];
  store(lane, x);
  auto y = lane[0];
  for (auto const l : lane) y = l > y ? l : y;
  return y;
}

/// sums[r] += Σ x[r][i − first] · input i, inputs i in [first, last) ascending, for the 16 · block_panels outputs from panel `panel` of a
/// pair on; one chain an output. At least one input.
template <class Stored, int Rows, class Scalar>
[[gnu::noinline]] void multiply_panels(std::byte const* pair, int panel, std::int64_t inputs, Scalar const* x, std::int64_t x_stride,
                                       std::int64_t first, std::int64_t last, Scalar* sums, std::int64_t sums_stride) {
  using lanes = lanes_of<Scalar>;
  constexpr int panels = block_panels, block = Rows * panels;  // a flat list: g++ keeps it in registers only where one loop runs over it
  constexpr std::int64_t in_lane = sizeof(Stored) == 2 ? 2 : 1;
  constexpr std::int64_t row_bytes = packed::row_bytes * (sizeof(Stored) == 8 ? 2 : 1);
  auto const total_rows = packed::ceil_div(inputs, in_lane), last_row = packed::ceil_div(last, in_lane);
  lanes sum[block], weights[panels];
#pragma GCC unroll 16
  for (int i = 0; i < block; ++i) sum[i] = load(sums + i / panels * sums_stride + i % panels * packed::lanes);

  auto row = first / in_lane;
  if (first % in_lane != 0) {  // the second input of a lane, without the first
#pragma GCC unroll 2
    for (int p = 0; p < panels; ++p)
      weights[p] = load_input<Stored, 1>(pair + packed::row_offset(row, panel + p, total_rows) / packed::row_bytes * row_bytes);
#pragma GCC unroll 16
    for (int i = 0; i < block; ++i) sum[i] = fma(weights[i % panels], set1(x[i / panels * x_stride]), sum[i]);
    ++row;
  }
  while (row < last_row) {
    auto const next_tile = (row / packed::tile_rows + 1) * packed::tile_rows;
    auto const until = next_tile < last_row ? next_tile : last_row;
    std::byte const* at[panels];
    for (int p = 0; p < panels; ++p) at[p] = pair + packed::row_offset(row, panel + p, total_rows) / packed::row_bytes * row_bytes;
    for (; row < until; ++row) {
      auto const* const factors = x + (row * in_lane - first);
#pragma GCC unroll 2
      for (int p = 0; p < panels; ++p) weights[p] = load_input<Stored, 0>(at[p]);
#pragma GCC unroll 16
      for (int i = 0; i < block; ++i) sum[i] = fma(weights[i % panels], set1(factors[i / panels * x_stride]), sum[i]);
      if (in_lane == 2 && 2 * row + 1 < last) {
#pragma GCC unroll 2
        for (int p = 0; p < panels; ++p) weights[p] = load_input<Stored, 1>(at[p]);
#pragma GCC unroll 16
        for (int i = 0; i < block; ++i) sum[i] = fma(weights[i % panels], set1(factors[i / panels * x_stride + 1]), sum[i]);
      }
#pragma GCC unroll 2
      for (int p = 0; p < panels; ++p) at[p] += row_bytes;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < block; ++i) store(sums + i / panels * sums_stride + i % panels * packed::lanes, sum[i]);
}

/// A row's scores of one block become exponentials against the largest score so far; what was summed before, against a smaller one, is to
/// be multiplied by `shrink`. `total` holds the sums of 16 lanes.
template <class Scalar>
[[gnu::noinline]] void weigh(Scalar* scores, std::int64_t count, Scalar scale, Scalar& top, Scalar& shrink, Scalar* total) {
  auto const padded = packed::ceil_div(count, packed::lanes) * packed::lanes;
  for (auto i = count; i < padded; ++i) scores[i] = -std::numeric_limits<Scalar>::infinity();
  auto largest = set1(top);
  for (std::int64_t i = 0; i < padded; i += packed::lanes) largest = max(largest, load(scores + i));
  auto const now = largest_lane<Scalar>(largest);
  largest = set1(now);
  shrink = largest_lane<Scalar>(exp(set1((top - now) * scale)));  // 0 in the first block
  top = now;
  auto added = set1(Scalar(0));
  for (std::int64_t i = 0; i < padded; i += packed::lanes) {
    auto const e = exp(mul(sub(load(scores + i), largest), set1(scale)));
    store(scores + i, e);
    added = add(added, e);
  }
  store(total, fma(load(total), set1(shrink), added));
}

/// Scores to cap · tanh(score · scale / cap).
template <class Scalar>
[[gnu::noinline]] void cap_scores(Scalar* scores, std::int64_t count, Scalar scale, Scalar cap) {
  for (std::int64_t i = 0; i < count; i += packed::lanes)
    store(scores + i, mul(set1(cap), tanh(mul(load(scores + i), set1(scale / cap)))));
}

/// Rows of queries that share a kv head; row r sees keys [from[r], until[r]), at least one, and leaves its sum of weighted values in
/// out[r] and what to divide it by in total[r][0]. Keys come in blocks: their scores, the largest so far, exponentials against it, then
/// the values (online softmax, arXiv:1805.02867). A sink is the largest of a row before its first key. Blocks begin at multiples of their
/// size, and all that a row adds are its own keys in their order, so its bits are the same whoever its neighbours are; keys that none of
/// them sees are not read. All rows together, or the first alone.
template <class Stored, class Scalar>
void attend_rows(here, attention_head const& head, attention_rows<Scalar>& rows, bool together) {
  constexpr auto map = sizeof(Stored) == 2 ? dtype::bf16 : dtype::fp32;  // doubles: lanes twice as wide
  constexpr std::int64_t lane_width = sizeof(Stored) == 8 ? 2 : 1;
  constexpr std::int64_t step = packed::lanes * block_panels;  // outputs of one multiply_panels
  auto const key_pair = packed::pair_bytes(map, head.key_dim) * lane_width,
             value_pair = packed::pair_bytes(map, head.max_tokens) * lane_width;
  auto const scale = static_cast<Scalar>(head.softcap != 0 ? 1.0 : head.scale);  // of scores that no cap has scaled
  auto const dims = packed::ceil_div(head.value_dim, step) * step;
  auto const used = together ? attention_row_count : 1;
  auto const multiply = together ? &multiply_panels<Stored, attention_row_count, Scalar> : &multiply_panels<Stored, 1, Scalar>;
  auto const within = [](std::int64_t key, std::int64_t count) { return key < 0 ? 0 : key < count ? key : count; };

  std::int64_t earliest = rows.from[0], longest = 0;
  for (int r = 0; r < used; ++r) {
    earliest = rows.from[r] < earliest ? rows.from[r] : earliest;
    longest = rows.until[r] > longest ? rows.until[r] : longest;
    rows.top[r] = rows.sink[r] / scale;
    for (auto& lane : rows.total[r]) lane = 0;
    rows.total[r][0] = rows.sink[r] > -std::numeric_limits<Scalar>::infinity() ? Scalar(1) : Scalar(0);
    for (std::int64_t d = 0; d < dims; ++d) rows.out[r][d] = 0;
  }

  auto const first_block = earliest / attention_block * attention_block;
  for (auto first = first_block; first < longest; first += attention_block) {
    auto const last = first + attention_block < longest ? first + attention_block : longest, count = last - first;
    auto const unseen = first == first_block ? (earliest - first) / step * step : 0, padded = packed::ceil_div(count, step) * step;
    for (int r = 0; r < used; ++r)
      for (auto i = unseen; i < padded; ++i) rows.weight[r][i] = 0;
    for (auto key = first + unseen; key < last; key += step)
      multiply(head.keys + key / 32 * key_pair, static_cast<int>(key / 16 % 2), head.key_dim, rows.query[0], max_head_dim, 0,
               head.key_dim, rows.weight[0] + (key - first), attention_block);

    std::int64_t from[attention_row_count], until[attention_row_count];  // keys of this block that a row sees
    std::int64_t shared_from = 0, shared_until = count;                  // and that all of them see
    for (int r = 0; r < used; ++r) {
      from[r] = within(rows.from[r] - first, count), until[r] = within(rows.until[r] - first, count);
      shared_from = from[r] > shared_from ? from[r] : shared_from;
      shared_until = until[r] < shared_until ? until[r] : shared_until;
      if (from[r] >= until[r]) continue;
      auto const whole = from[r] / packed::lanes * packed::lanes;
      auto* const scores = rows.weight[r] + whole;
      if (head.softcap != 0) cap_scores(scores, until[r] - whole, static_cast<Scalar>(head.scale), static_cast<Scalar>(head.softcap));
      for (auto i = whole; i < from[r]; ++i) rows.weight[r][i] = -std::numeric_limits<Scalar>::infinity();
      weigh(scores, until[r] - whole, scale, rows.top[r], rows.shrink[r], rows.total[r]);
      if (first != first_block)
        for (std::int64_t d = 0; d < dims; ++d) rows.out[r][d] *= rows.shrink[r];
    }
    if (shared_from >= shared_until) shared_from = shared_until = count;  // none: each row by itself

    for (std::int64_t d = 0; d < dims; d += step) {
      auto const* const pair = head.values + d / 32 * value_pair;
      auto const panel = static_cast<int>(d / 16 % 2);
      auto const alone = [&](int r, std::int64_t begin, std::int64_t end) {
        if (begin < end)
          multiply_panels<Stored, 1>(pair, panel, head.max_tokens, rows.weight[r] + begin, 0, first + begin, first + end, rows.out[r] + d, 0);
      };
      for (int r = 0; r < used; ++r) alone(r, from[r], until[r] < shared_from ? until[r] : shared_from);
      if (shared_from < shared_until)
        multiply(pair, panel, head.max_tokens, rows.weight[0] + shared_from, attention_block, first + shared_from, first + shared_until,
                 rows.out[0] + d, max_head_dim);
      for (int r = 0; r < used; ++r) alone(r, from[r] > shared_until ? from[r] : shared_until, until[r]);
    }
  }
  for (int r = 0; r < used; ++r) rows.total[r][0] = sum(load(rows.total[r]));
}
