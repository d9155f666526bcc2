// The levels that tests loop over: those of this processor, and a word about those it lacks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/host/simd/level.hpp>

namespace moesaic::test {

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
