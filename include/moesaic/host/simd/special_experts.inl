// One row of a constant expert. Body file.
// Lane l of 16 sums columns l, l + 16, ..., then the lanes are summed pairwise: the same order on every level.
// SPDX-License-Identifier: Apache-2.0

/// y = a1 x + a2 value, [a1, a2] = softmax(gate x). gate [2, columns], value [columns].
template <class T>
void constant_row(here, float const* gate, float const* value, T const* x, T* y, std::int64_t columns) {
  using scalar = accumulator<T>;
  auto of_x = set1(scalar(0)), of_value = of_x;
  for_each_part(columns, [&](std::int64_t c, auto count) {
    auto const part = load_part(x + c, count);
    of_x = fma(load_part(gate + c, count), part, of_x);
    of_value = fma(load_part(gate + columns + c, count), part, of_value);
  });
  scalar const z = sum(of_x) - sum(of_value);
  auto const a1 = set1(sigmoid(z)), a2 = set1(sigmoid(-z));                 // the softmax of two
  for_each_part(columns, [&](std::int64_t c, auto count) {
    store_part(y + c, fma(a2, load_part(value + c, count), mul(a1, load_part(x + c, count))), count);
  });
}
