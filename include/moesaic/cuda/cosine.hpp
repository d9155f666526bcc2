// Products of rows -> cosines of the angles between them, for routers that score by direction.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/math.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/cuda/kernel/cosine.hpp>
#include <moesaic/cuda/kernel/rows.hpp>
#include <moesaic/cuda/launch.hpp>
#include <moesaic/cuda/layout.hpp>

namespace moesaic::cuda {

/// length[n] = |row n of w|, Euclidean. length [outputs]. w is fp32 and of one part, as routers are.
template <class Tuning>
void row_lengths(basic_stream_ref<Tuning>& where, packed_matrix const& w, list<double> length) {
  if (w.stored.type != dtype::fp32 || w.parts != 1) return where.record(invalid("lengths are of the rows of one fp32 matrix", 1, w.parts));
  start<lengths_of_rows>(where, {.x = blocks_for(w.outputs, lengths_of_rows::threads / 32), .early = true},
                         {{reinterpret_cast<float const*>(w.data), w.outputs, w.inputs}, length.data});
}

/// y[t][n] *= scale / (|x[t]| · length[n]): products become cosines (Chi et al., arXiv 2204.09179). A row without a length, of x or of the
/// weights, has the cosine 0 with every other: lengths count as 1e-12 at least. x [tokens, hidden], y [tokens, outputs], length [outputs].
template <class X, class Tuning>
void to_cosines(basic_stream_ref<Tuning>& where, view<const X> x, list<const double> length, double scale, view<accumulator<X>> y) {
  using kernel = cosines_of_rows<X>;
  start<kernel>(where, {.x = blocks_for(x.rows, kernel::threads / 32), .early = true}, {x, length.data, scale, y});
}

}  // namespace moesaic::cuda
