// Scores of one token and its top-k, 16 experts at a time. Body file.
// SPDX-License-Identifier: Apache-2.0

/// The largest value in each lane, over the whole parts of a row of n numbers. Fewer than 16: −inf.
inline void lane_maxima(here, std::int64_t n, float const* x, float (&maxima)[packed::lanes]) {
  auto tops = set1(-std::numeric_limits<float>::infinity());
  for (std::int64_t i = 0; i + packed::lanes <= n; i += packed::lanes) tops = max(tops, load(x + i));
  store(maxima, tops);
}

/// p_i = exp(z_i − max z) / Σ over n of them. `in` and `out` may be the same.
inline void softmax_row(here level, std::int64_t n, float const* in, float* out) {
  float lane[packed::lanes];
  lane_maxima(level, n, in, lane);
  auto top = lane[0];
  for (auto const l : lane) top = l > top ? l : top;
  for (auto i = n - n % packed::lanes; i < n; ++i) top = in[i] > top ? in[i] : top;
  auto total = set1(0.0f);
  for_each_part(n, [&](std::int64_t i, auto count) {
    store_part(out + i, exp(sub(load_part(in + i, count), set1(top))), count);
    total = add(total, load_part(static_cast<float const*>(out + i), count));   // zeros beyond n
  });
  auto const whole = set1(sum(total));
  for_each_part(n, [&](std::int64_t i, auto count) { store_part(out + i, div(load_part(static_cast<float const*>(out + i), count), whole), count); });
}

inline void sigmoid_row(here, std::int64_t n, float const* in, float* out) {
  auto const one = set1(1.0f);
  for_each_part(n, [&](std::int64_t i, auto count) {
    store_part(out + i, div(one, add(one, exp(negate(load_part(in + i, count))))), count);
  });
}

/// out_i = in_i − factor · x_i, rounded twice. `in` and `out` may be the same.
inline void less_row(here, std::int64_t n, float const* in, float factor, float const* x, float* out) {
  auto const each = set1(factor);
  for_each_part(n, [&](std::int64_t i, auto count) { store_part(out + i, sub(load_part(in + i, count), mul(each, load_part(x + i, count))), count); });
}

/// How many of the `count` numbers come before each of them by falling value, of equals the earlier first: a row of whole parts, numbers
/// beyond `count` at −inf. In fp32, as the counts are small.
inline void ranks(here, std::int64_t count, float const* x, float* rank) {
  static constexpr float place[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  auto const none = set1(0.0f), one = set1(1.0f);
  for (std::int64_t first = 0; first < count; first += packed::lanes) {
    auto const mine = load(x + first), places = add(load(place), set1(static_cast<float>(first)));
    auto before = none;
    for (std::int64_t j = 0; j < count; ++j) {
      auto const other = set1(x[j]);
      auto const larger = select_less(mine, other, one, none), not_smaller = select_less(other, mine, none, one);
      before = add(before, select_less(set1(static_cast<float>(j)), places, not_smaller, larger));
    }
    store(rank + first, before);
  }
}

/// As moesaic::top_k, for slots <= 16 <= n: whoever reaches the slots-th largest of the lanes' maxima is ranked, few are not among the
/// chosen. −1, and nothing written, where too many reach it (they are alike) or fewer than `slots` lanes hold anything.
inline int top_k_row(here level, std::int64_t n, float const* choice, int slots, std::int32_t* ids) {
  constexpr int most = 4 * packed::lanes;
  float value[most + packed::lanes], rank[most + packed::lanes];
  std::int32_t expert[most + packed::lanes];
  float lane[packed::lanes];
  lane_maxima(level, n, choice, lane);
  ranks(level, packed::lanes, lane, rank);
  auto bound = std::numeric_limits<float>::infinity();
  for (int i = 0; i < packed::lanes; ++i) bound = rank[i] < static_cast<float>(slots) && lane[i] < bound ? lane[i] : bound;
  if (!(bound > -std::numeric_limits<float>::infinity())) return -1;

  int found = 0;
  for (std::int64_t first = 0; first < n; first += packed::lanes) {
    auto const end = first + packed::lanes < n ? first + packed::lanes : n;
    for (auto e = first; e < end; ++e) {
      value[found] = choice[e];
      expert[found] = static_cast<std::int32_t>(e);
      found += choice[e] >= bound;
    }
    if (found > most) return -1;
  }
  for (int i = 0; i < packed::lanes; ++i) value[found + i] = -std::numeric_limits<float>::infinity();
  ranks(level, found, value, rank);
  for (int i = 0; i < found; ++i)
    if (auto const at = static_cast<int>(rank[i]); at < slots) ids[at] = expert[i];
  return slots;
}
