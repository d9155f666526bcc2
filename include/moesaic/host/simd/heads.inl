// Rows of projections and of heads' outputs, element by element. Body file.
// SPDX-License-Identifier: Apache-2.0

/// Each element to the nearest within ± limit; NaN stays.
template <class T>
void clip_row(here, accumulator<T> limit, T* x, std::int64_t columns) {
  auto const upper = set1(limit), lower = set1(-limit);
  for_each_part(columns, [&](std::int64_t c, auto count) { store_part(x + c, min(upper, max(lower, load_part(x + c, count))), count); });
}

template <class T>
void scale_row(here, accumulator<T> factor, T* x, std::int64_t columns) {
  for_each_part(columns, [&](std::int64_t c, auto count) { store_part(x + c, mul(set1(factor), load_part(x + c, count)), count); });
}

/// x times sigmoid(gate).
template <class T>
void gate_row(here, T const* gate, T* x, std::int64_t columns) {
  using scalar = accumulator<T>;
  for_each_part(columns, [&](std::int64_t c, auto count) {
    auto const away = exp(sub(set1(scalar(0)), load_part(gate + c, count)));
    store_part(x + c, div(load_part(x + c, count), add(set1(scalar(1)), away)), count);
  });
}
