// The levels that tests loop over: those of this processor, and a word about those it lacks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/host/simd/level.hpp>

namespace moesaic::test {

/// Under a sanitizer, which takes ten times as long and looks at memory, not at numbers: a case of every kind, fewer of each.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool sanitized = true;
#elif defined(__has_feature)
inline constexpr bool sanitized = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
inline constexpr bool sanitized = false;
#endif

/// The levels this processor has, lowest first. The others are named, once a program: a pool would lower them in silence.
inline std::vector<host::level> const& levels() {
  static auto const found = [] {
    std::vector<host::level> has;
    for (auto const l : {host::level::portable, host::level::avx2, host::level::avx512, host::level::avx512_bf16})
      if (l <= host::detected_level()) has.push_back(l);
      else MESSAGE("not tested, this processor lacks " << std::string(host::name(l)));
    return has;
  }();
  return found;
}

}  // namespace moesaic::test
