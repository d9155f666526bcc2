// The largest of a row of numbers, by value descending, then index ascending. Host and device alike; no memory of its own.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>

#include <moesaic/base/macros.hpp>

namespace moesaic {

/// The `slots` largest of `choice` [experts] into `ids`, by value descending, then index ascending; −inf is never chosen.
/// Answers how many were found; the rest of `ids` is −1.
template <class T>
MOESAIC_FN int top_k(T const* choice, int experts, int slots, std::int32_t* ids) {
  int found = 0;
  for (std::int32_t e = 0; e < experts && slots > 0; ++e) {
    T const value = choice[e];
    if (!(value > -std::numeric_limits<T>::infinity())) continue;
    if (found == slots && !(value > choice[ids[found - 1]])) continue;
    int at = found < slots ? found++ : slots - 1;
    for (; at > 0 && value > choice[ids[at - 1]]; --at) ids[at] = ids[at - 1];   // strictly greater: of equals the lower index stays first
    ids[at] = e;
  }
  for (int i = found; i < slots; ++i) ids[i] = -1;
  return found;
}

}  // namespace moesaic
