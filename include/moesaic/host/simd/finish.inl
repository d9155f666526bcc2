// Sums of a pair of panels to rows of y: bias, activation and rounding. Body file.
// SPDX-License-Identifier: Apache-2.0

// Sums [rows, 32] of pair `pair` into y from row `first_row` on.
template <class T, class Out>
inline void finish(product<T, Out> const& p, std::int64_t pair, const float* sums, std::int64_t first_row, std::int64_t rows) {
  auto const outputs = p.matrix.outputs;
  auto const bias_of = [&](std::int64_t at, std::int64_t count) { return p.bias != nullptr ? load(p.bias + at, count) : set1(0.0f); };
  auto const save = [](Out* y, f32 value, std::int64_t count) { count == packed::lanes ? store(y, value) : store(y, value, count); };
  auto const both = p.matrix.parts == 2;
  for (int panel = 0; panel < (both ? 1 : 2); ++panel) {
    auto const output = both ? pair * packed::lanes : (2 * pair + panel) * packed::lanes;
    auto const count = outputs - output < packed::lanes ? outputs - output : packed::lanes;
    if (count <= 0) break;
    auto const bias = bias_of(output, count), up_bias = both ? bias_of(outputs + output, count) : bias;
    for (std::int64_t r = 0; r < rows; ++r) {
      auto const* const from = sums + r * 2 * packed::lanes + panel * packed::lanes;
      auto value = load(from), up = set1(1.0f);
      if (p.bias != nullptr) value = add(value, bias);
      if (both) {
        // min and max give their second argument where one is NaN.
        auto const limit = set1(p.act.limit);
        up = load(from + packed::lanes);
        if (p.bias != nullptr) up = add(up, up_bias);
        up = add(max(negate(limit), min(limit, up)), set1(p.act.up_offset));
        value = min(limit, value);
      }
      if (both || p.activated) value = activate(p.act, value);   // here alone: all activations are part of it
      if (both) value = mul(value, up);
      save(p.y + (first_row + r) * p.y_stride + output, value, count);
    }
  }
}
