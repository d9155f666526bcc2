// A product, pair after pair of panels. Body file; row_dot and panel_dot are those of the level it is compiled for.
// SPDX-License-Identifier: Apache-2.0

/// Pairs [first, last) of a product.
template <dtype W, class T, class Out>
inline void multiply_pairs(here tag, product<T, Out> const& p, std::int64_t first, std::int64_t last) {
  auto const& m = p.matrix;
  auto const pair_bytes = packed::pair_bytes(m.stored, m.inputs);
  alignas(64) float sums[product_rows * 2 * packed::lanes];
  if (p.rows == 1) {
    static_assert(wide_pairs <= product_rows);
    auto const* const x = p.row(0);
    for (auto pair = first; pair < last;) {
      auto const* const data = m.data + pair * pair_bytes;
      auto const pairs = last - pair >= wide_pairs ? wide_pairs : 1;
      if (pairs == 1) row_dot<W, 1>(tag, x, data, m.stored, m.inputs, m.inputs, sums);
      else row_dot<W, wide_pairs>(tag, x, data, m.stored, m.inputs, m.inputs, sums);
      for (auto end = pair + pairs, i = std::int64_t{0}; pair < end; ++pair, ++i) finish(p, pair, sums + i * 2 * packed::lanes, 0, 1);
    }
    return;
  }
  const T* x[product_rows];
  for (std::int64_t done = 0; done < p.rows; done += product_rows) {
    auto const rows = p.rows - done < product_rows ? p.rows - done : product_rows;
    for (std::int64_t r = 0; r < rows; ++r) x[r] = p.row(done + r);
    for (auto pair = first; pair < last; ++pair) {
      panel_dot<W>(tag, x, rows, m.data + pair * pair_bytes, m.stored, m.inputs, m.inputs, sums, std::int64_t{2 * packed::lanes});
      finish(p, pair, sums, done, rows);
    }
  }
}
