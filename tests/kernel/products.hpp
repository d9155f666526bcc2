// linear on the device model against the host's: what its tests share.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include <moesaic/cuda/linear.hpp>
#include <moesaic/host/linear.hpp>
#include <support/products.hpp>

#include "both_packed.hpp"
#include "schedules.hpp"

namespace moesaic::test {

struct product_case {
  std::int64_t outputs, inputs, tokens;
  bool bias = false;
};

/// One product on an architecture; 70 has the simt kernels alone, 80 mma.sync. The same bits whatever the schedule. `whole`: of small whole numbers, whose
/// sums are exact in every order.
template <dtype W, class X, class Y>
void check_product(format f, product_case const& c, int architecture, bool whole = false) {
  INFO(text(f), " [", c.outputs, ", ", c.inputs, "], ", c.tokens, " tokens, architecture ", architecture);
  cuda::stream nowhere;
  both_packed const w(nowhere, {f, c.outputs, c.inputs}, 5, whole);
  random_stream random(6);
  auto x = random_matrix<X>(c.tokens, c.inputs, random);
  auto bias = random_matrix<float>(1, c.outputs, random);
  if (whole) {
    for (auto& v : x.data) v = static_cast<X>(static_cast<float>(random.below(9)) - 4.0f);
    for (auto& v : bias.data) v = static_cast<float>(random.below(9)) - 4.0f;
  }
  auto const biases = c.bias ? list<const float>(bias.data) : list<const float>{};
  host::pool pool;
  matrix<Y> want(c.tokens, c.outputs), first;
  host::linear<W>(pool, w.host, x.view(), biases, want.view());
  under_every_schedule(
      [&](cuda::stream_ref& where) {
        auto y = unwritten<Y>(c.tokens, c.outputs);
        with_sm80(where, [&](auto& stream) { cuda::linear<W>(stream, w.device, x.view(), biases, y.view()); });
        check_close(y, want, whole ? 0 : sum_tolerance<Y>(c.inputs) * 4);
        if (first.data.empty()) first = y;
        check_bits(y, first);
      },
      architecture);
}

/// Few tokens and many, ragged in both directions, on both.
template <dtype W, class X, class Y>
void check_products(format f) {
  for (int const architecture : {70, 80})
    for (auto const& c : {product_case{16, 16, 1}, {48, 80, 3, true}, {176, 272, 20, true}, {144, 48, 67}}) check_product<W, X, Y>(f, c, architecture);
}

}  // namespace moesaic::test
