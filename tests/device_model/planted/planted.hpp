// Runs a kernel with a planted bug under every delivery and several orders of threads, and says in how many of the runs it was noticed and by what.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <moesaic/base/floats.hpp>
#include <moesaic/base/random.hpp>

#include "../model.hpp"

namespace moesaic::planted {

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool sees_addresses = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
inline constexpr bool sees_addresses = true;
#else
inline constexpr bool sees_addresses = false;
#endif
#else
inline constexpr bool sees_addresses = false;
#endif

struct shape {
  int m, n, k;
};

/// Small integers, whose products and sums are exact in fp32 in any order.
inline std::vector<bf16> integers(std::int64_t count, std::uint64_t seed) {
  random_stream random(seed);
  std::vector<bf16> x(static_cast<std::size_t>(count));
  for (auto& v : x) v = bf16(static_cast<float>(random.below(5) - 2));
  return x;
}
inline float at(std::vector<bf16> const& x, int i) { return static_cast<float>(x[static_cast<std::size_t>(i)]); }
inline unsigned tiles(int count, int of) { return static_cast<unsigned>((count + of - 1) / of); }
template <class T>
std::vector<T> not_numbers(std::int64_t count) {
  return std::vector<T>(static_cast<std::size_t>(count), T(std::nanf("")));
}

struct outcome {
  int runs = 0, noticed = 0;             ///< by a finding, or by a wrong result
  int wrong = 0;                         ///< results
  std::vector<std::string> findings;
  bool says(std::string const& text) const {
    for (auto const& f : findings)
      if (f.find(text) != std::string::npos) return true;
    return false;
  }
  std::string all() const {
    std::string text = std::to_string(noticed) + " of " + std::to_string(runs) + " runs noticed, " + std::to_string(wrong) + " results wrong";
    for (auto const& f : findings) text += "\n  " + f;
    return text;
  }
};

/// `run` starts the kernel once and answers whether its result is right.
template <class Run>
outcome everywhere(Run run) {
  using device_model::delivery;
  outcome all;
  for (auto const when : {delivery::eager, delivery::late, delivery::random})
    for (std::uint64_t seed = 0; seed < 3; ++seed) {
      device_model::scope const here({.when = when, .seed = seed});
      bool const right = run();
      auto const findings = device_model::take_findings();
      ++all.runs;
      all.wrong += !right;
      all.noticed += !right || !findings.empty();
      for (auto const& f : findings) all.findings.push_back(f);
    }
  return all;
}

/// What a planted bug must lead to.
struct expectation {
  char const* by_races;                  ///< in a sentence of the race flavour; empty: a wrong result is what tells of it
  bool without_races = true;             ///< whether some run of the plain flavour notices
  char const* plainly = "";              ///< in a sentence of the plain flavour, where one is sure
};

inline void check(outcome const& found, expectation const& want, char const* file) {
  INFO(found.all());
  if (device_model::sees_races()) {
    REQUIRE(found.noticed == found.runs);
    std::string const text = want.by_races;
    if (text.empty()) {
      REQUIRE(found.wrong == found.runs);
    } else {
      REQUIRE(found.says(text));
      // The sentence names a line of the kernel.
      bool placed = false;
      for (auto const& f : found.findings) placed = placed || (f.find(text) != std::string::npos && f.find(std::string(file) + ":") != std::string::npos);
      REQUIRE(placed);
    }
  } else {
    REQUIRE((found.noticed > 0) == want.without_races);
    if (*want.plainly != 0) REQUIRE(found.says(want.plainly));
  }
}

}  // namespace moesaic::planted
