// A product, pair after pair of panels. Body file; row_dot and pairs_dot are those of the level it is compiled for.
// SPDX-License-Identifier: Apache-2.0

/// Pairs [first, last) of a product: a few at a time with all rows, so that weights come from memory once.
template <dtype W, class T, class Out>
inline void multiply_pairs(here tag, product<T, Out> const& p, std::int64_t first, std::int64_t last) {
  auto const& m = p.matrix;
  constexpr std::int64_t of_sums = product_rows * 2 * packed::lanes;   // of a pair
  alignas(64) float sums[wide_pairs * of_sums];
  const T* x[product_rows];
  for (auto pair = first; pair < last;) {
    auto const* const data = m.data + pair * packed::pair_bytes(m.stored, m.inputs);
    auto const pairs = last - pair >= wide_pairs ? wide_pairs : 1;
    if (p.rows <= single_rows<W, T>) {
      for (std::int64_t r = 0; r < p.rows; ++r) {
        row_dot<W>(tag, p.row(r), data, pairs, m.stored, m.inputs, sums);
        for (std::int64_t i = 0; i < pairs; ++i) finish(p, pair + i, sums + i * 2 * packed::lanes, r, 1);
      }
    } else {
      for (std::int64_t done = 0; done < p.rows; done += product_rows) {
        auto const rows = p.rows - done < product_rows ? p.rows - done : product_rows;
        for (std::int64_t r = 0; r < rows; ++r) x[r] = p.row(done + r);
        pairs_dot<W>(tag, x, rows, data, pairs, m.stored, m.inputs, sums);
        for (std::int64_t i = 0; i < pairs; ++i) finish(p, pair + i, sums + i * of_sums, done, rows);
      }
    }
    pair += pairs;
  }
}
