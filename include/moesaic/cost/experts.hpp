// A batch into how many different experts it uses: what decoding has to read.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/view.hpp>
#include <moesaic/config/block_config.hpp>

namespace moesaic {

namespace detail {

constexpr double power(double base, std::int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent /= 2, base *= base)
    if (exponent % 2 == 1) result *= base;
  return result;
}

}  // namespace detail

/// Expected number of different experts that `tokens` tokens use, each choosing top_k of `experts` at random and by itself:
/// E (1 − (1 − k/E)^tokens). Routing that prefers some experts uses fewer.
constexpr double distinct_experts(int experts, int top_k, std::int64_t tokens) {
  return experts * (1 - detail::power(1 - static_cast<double>(top_k) / experts, tokens));
}

/// The same for the router of a layer, or of its attention; 1 where there is none.
constexpr double distinct_experts(router_config const& router, std::int64_t tokens) {
  return router.experts == 0 ? (tokens > 0 ? 1 : 0) : distinct_experts(router.experts, router.top_k, tokens);
}

/// The same where a token chooses expert i with probability chosen[i] (which sum to top_k): Σ 1 − (1 − chosen[i])^tokens.
constexpr double distinct_experts(list<const double> chosen, std::int64_t tokens) {
  double sum = 0;
  for (double const p : chosen) sum += 1 - detail::power(1 - p, tokens);
  return sum;
}

}  // namespace moesaic
