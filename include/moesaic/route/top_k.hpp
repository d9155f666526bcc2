// The largest of a row of numbers, by value descending, then index ascending. Host and device alike; no memory of its own.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/bits.hpp>
#include <moesaic/base/macros.hpp>

namespace moesaic {

namespace detail {
/// A value that at least `slots` of a row reach, so that what is less need not be looked at twice: the slots-th largest maximum of 16 lanes of
/// it. −inf where the row is too short for that to pay.
template <class T>
MOESAIC_FN T reached_by(T const* choice, int experts, int slots) {
  constexpr int lanes = 16;
  constexpr T none = -infinity<T>;
  if (slots >= lanes || experts < 4 * lanes) return none;
  T most[lanes];
  for (int l = 0; l < lanes; ++l) most[l] = choice[l];
  for (int e = lanes; e + lanes <= experts; e += lanes)
    for (int l = 0; l < lanes; ++l) most[l] = choice[e + l] > most[l] ? choice[e + l] : most[l];
  T least = infinity<T>;
  for (int l = 0; l < lanes; ++l) {
    int better = 0;
    for (int other = 0; other < lanes; ++other) better += most[other] > most[l];
    least = better < slots && most[l] < least ? most[l] : least;
  }
  return least;
}
}  // namespace detail

/// The `slots` largest of `choice` [experts] into `ids`, by value descending, then index ascending; −inf is never chosen.
/// Answers how many were found; the rest of `ids` is −1.
template <class T>
MOESAIC_FN int top_k(T const* choice, int experts, int slots, std::int32_t* ids) {
  int found = 0;
  T const enough = detail::reached_by(choice, experts, slots);
  for (std::int32_t e = 0; e < experts && slots > 0; ++e) {
    T const value = choice[e];
    if (value < enough) continue;
    if (!(value > -infinity<T>)) continue;
    if (found == slots && !(value > choice[ids[found - 1]])) continue;
    int at = found < slots ? found++ : slots - 1;
    for (; at > 0 && value > choice[ids[at - 1]]; --at) ids[at] = ids[at - 1];   // strictly greater: of equals the lower index stays first
    ids[at] = e;
  }
  for (int i = found; i < slots; ++i) ids[i] = -1;
  return found;
}

}  // namespace moesaic
