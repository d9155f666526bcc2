// Rows against rows as they lie in memory, 16 elements at a time: scores of queries, and sums of weighted values. Body file, after attention.inl.
// A score is one chain of fma a lane, then the lanes' sum; an output is one chain over ascending slots: neighbours do not change a bit.
// SPDX-License-Identifier: Apache-2.0

/// scores[r][j] = before + Σ_d query[r][d] · rows[j][d], before: 0, or what stands there.
template <int Queries, int Rows, class Stored, class Scalar>
MOESAIC_HOST void dot_block(Scalar const* const* query, Stored const* rows, std::int64_t stride, std::int64_t dims, bool onto, Scalar* scores, std::int64_t scores_stride) {
  using lanes = lanes_of<Scalar>;
  constexpr int block = Queries * Rows;
  lanes sum_of[block], row[Rows];
#pragma GCC unroll 16
  for (int i = 0; i < block; ++i) sum_of[i] = set1(Scalar(0));
  std::int64_t d = 0;
  for (; d + packed::lanes <= dims; d += packed::lanes) {
#pragma GCC unroll 2
    for (int j = 0; j < Rows; ++j) row[j] = load(rows + j * stride + d);
#pragma GCC unroll 16
    for (int i = 0; i < block; ++i) sum_of[i] = fma(load(query[i / Rows] + d), row[i % Rows], sum_of[i]);
  }
  if (d < dims)
#pragma GCC unroll 16
    for (int i = 0; i < block; ++i) sum_of[i] = fma(load(query[i / Rows] + d, dims - d), load(rows + i % Rows * stride + d, dims - d), sum_of[i]);
#pragma GCC unroll 16
  for (int i = 0; i < block; ++i) {
    auto& score = scores[i / Rows * scores_stride + i % Rows];
    score = onto ? score + sum(sum_of[i]) : sum(sum_of[i]);
  }
}
template <int Queries, class Stored, class Scalar>
[[gnu::noinline]] void dot_rows(Scalar const* const* query, Stored const* rows, std::int64_t stride, std::int64_t count, std::int64_t dims, bool onto, Scalar* scores,
                                std::int64_t scores_stride) {
  constexpr int at_once = 2;
  std::int64_t j = 0;
  for (; j + at_once <= count; j += at_once) dot_block<Queries, at_once>(query, rows + j * stride, stride, dims, onto, scores + j, scores_stride);
  for (; j < count; ++j) dot_block<Queries, 1>(query, rows + j * stride, stride, dims, onto, scores + j, scores_stride);
}

/// out[r][d] = out[r][d] · shrink[r] + Σ_j weight[r][j] · rows[j][d], j in [first, last) ascending; out has room for whole vectors.
template <int Outs, class Stored, class Scalar>
[[gnu::noinline]] void add_rows(Scalar const* weight, std::int64_t weight_stride, Stored const* rows, std::int64_t stride, std::int64_t first, std::int64_t last,
                                std::int64_t dims, Scalar const* shrink, Scalar* const* out) {
  using lanes = lanes_of<Scalar>;
  constexpr int parts = Outs == 1 ? 4 : 2 * block_panels, block = Outs * parts;   // side by side, so that fma do not wait for each other
  auto const go = [&](std::int64_t d, auto part_count, auto load_row) __attribute__((always_inline)) {
    constexpr int count = part_count();
    lanes sum_of[block], row[parts];
#pragma GCC unroll 16
    for (int i = 0; i < Outs * count; ++i) sum_of[i] = mul(load(out[i / count] + d + i % count * packed::lanes), set1(shrink[i / count]));
    for (auto j = first; j < last; ++j) {
#pragma GCC unroll 4
      for (int p = 0; p < count; ++p) row[p] = load_row(rows + j * stride + d + p * packed::lanes);
#pragma GCC unroll 16
      for (int i = 0; i < Outs * count; ++i) sum_of[i] = fma(row[i % count], set1(weight[i / count * weight_stride + j]), sum_of[i]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < Outs * count; ++i) store(out[i / count] + d + i % count * packed::lanes, sum_of[i]);
  };
  auto const whole = [](Stored const* p) __attribute__((always_inline)) { return load(p); };
  std::int64_t d = 0;
  for (; d + parts * packed::lanes <= dims; d += parts * packed::lanes) go(d, std::integral_constant<int, parts>{}, whole);
  for (; d + packed::lanes <= dims; d += packed::lanes) go(d, std::integral_constant<int, 1>{}, whole);
  if (d < dims) go(d, std::integral_constant<int, 1>{}, [&](Stored const* p) __attribute__((always_inline)) { return load(p, dims - d); });
}

/// Goes on by one block of slots, of which row r sees the first visible[r]: scores of up to two parts of the keys, weights, sums.
template <class Key, class Rope, class Value, class Scalar>
void latent_visit(here, latent_rows<Scalar>& rows, int used, latent_keys<Key> const& keys, latent_keys<Rope> const& more, latent_keys<Value> const& values) {
  std::int64_t most = 0, shared = latent_slots;
  for (int r = 0; r < used; ++r) {
    most = rows.visible[r] > most ? rows.visible[r] : most;
    shared = rows.visible[r] < shared ? rows.visible[r] : shared;
  }
  Scalar const* rest[latent_row_count];
  for (int r = 0; r < used; ++r) rest[r] = rows.query[r] + keys.dims;
  if (used == latent_row_count) {
    dot_rows<latent_row_count>(rows.query, keys.data, keys.stride, most, keys.dims, false, rows.weight[0], latent_slots);
    if (more.dims != 0) dot_rows<latent_row_count>(rest, more.data, more.stride, most, more.dims, true, rows.weight[0], latent_slots);
  } else {
    for (int r = 0; r < used; ++r) {
      dot_rows<1>(rows.query + r, keys.data, keys.stride, rows.visible[r], keys.dims, false, rows.weight[r], latent_slots);
      if (more.dims != 0) dot_rows<1>(rest + r, more.data, more.stride, rows.visible[r], more.dims, true, rows.weight[r], latent_slots);
    }
  }
  constexpr Scalar one = 1;
  Scalar shrink[latent_row_count] = {};
  for (int r = 0; r < used; ++r) {
    auto* const total = rows.state[r] + packed::ceil_div(values.dims, packed::lanes) * packed::lanes;
    if (rows.visible[r] > 0) weigh(rows.weight[r], rows.visible[r], rows.scale, total[packed::lanes], shrink[r], total);
    else shrink[r] = one;
  }
  if (used == latent_row_count) {
    add_rows<latent_row_count>(rows.weight[0], latent_slots, values.data, values.stride, 0, shared, values.dims, shrink, rows.state);
    for (int r = 0; r < used; ++r)
      if (shared < rows.visible[r])
        add_rows<1>(rows.weight[r], 0, values.data, values.stride, shared, rows.visible[r], values.dims, &one, rows.state + r);
  } else {
    for (int r = 0; r < used; ++r)
      add_rows<1>(rows.weight[r], 0, values.data, values.stride, 0, rows.visible[r], values.dims, shrink + r, rows.state + r);
  }
}
