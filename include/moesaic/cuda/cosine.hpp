// Products of rows -> cosines of the angles between them, for routers that score by direction.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <string>

#include <moesaic/base/math.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/cuda/kernel/cosine.hpp>
#include <moesaic/cuda/kernel/rows.hpp>
#include <moesaic/cuda/launch.hpp>
#include <moesaic/cuda/layout.hpp>

namespace moesaic::cuda {

/// length[n] = |row n of w|, Euclidean. length [outputs]. Set-up: both lie on the host, where weights are staged. w is fp32 and of one part, as routers are.
inline void row_lengths(stream&, packed_matrix const& w, list<double> length) {
  if (w.stored.type != dtype::fp32 || w.parts != 1) throw error(std::string("row lengths: expected one fp32 matrix, found ") + name(w.stored.type));
  auto const* row = reinterpret_cast<float const*>(w.data);
  for (std::int64_t n = 0; n < w.outputs; ++n, row += w.inputs) {
    double sum = 0;
    for (std::int64_t k = 0; k < w.inputs; ++k) sum += static_cast<double>(row[k]) * static_cast<double>(row[k]);
    length[n] = std::sqrt(sum);
  }
}

/// y[t][n] *= scale / (|x[t]| · length[n]): products become cosines (Chi et al., arXiv 2204.09179). A row without a length, of x or of the
/// weights, has the cosine 0 with every other: lengths count as 1e-12 at least. x [tokens, hidden], y [tokens, outputs], length [outputs].
template <class X, class Tuning>
void to_cosines(basic_stream_ref<Tuning>& where, view<const X> x, list<const double> length, double scale, view<accumulator<X>> y) {
  using kernel = cosines_of_rows<X>;
  start<kernel>(where, {.x = blocks_for(x.rows, kernel::threads / 32), .early = true}, {x, length.data, scale, y});
}

}  // namespace moesaic::cuda
