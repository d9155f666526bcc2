// A head's sums to logits: a factor, and a soft cap.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/base/view.hpp>
#include <moesaic/cuda/kernel/logits.hpp>
#include <moesaic/cuda/launch.hpp>

namespace moesaic::cuda {

/// In place: x = cap · tanh(scale · x / cap); of cap 0, x = scale · x. x [tokens, vocabulary].
template <class Tuning>
void scale_and_cap(basic_stream_ref<Tuning>& where, double scale, double cap, view<float> x) {
  constexpr std::int64_t piece = scale_and_cap_pieces::columns;
  auto const blocks = blocks_for(x.rows * ((x.columns + piece - 1) / piece));
  start<scale_and_cap_pieces>(where, {.x = blocks, .early = true}, {x, static_cast<float>(scale), static_cast<float>(cap)});
}

}  // namespace moesaic::cuda
