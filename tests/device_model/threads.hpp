// Runs a lambda as every thread of a grid on the device model, for tests of the model itself.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "model.hpp"

namespace moesaic::device_model {

inline constexpr delivery deliveries[] = {delivery::eager, delivery::late, delivery::random};

struct shape {
  cuda::grid blocks = {};
  int threads = 32;
  std::size_t shared_bytes = 0;
};

/// What was found wrong, in one string; empty: nothing.
template <class Body>
std::string findings_of(shape const& s, options const& how, Body const& body) {
  scope const on(how);
  take_findings();
  auto const done = run(s.blocks, s.threads, s.shared_bytes, [](void const* p) { (*static_cast<Body const*>(p))(); }, &body, "test");
  std::string all;
  for (auto const& one : take_findings()) all += one + "\n";
  if (!done && all.empty()) all = to_string(done);
  if (done && !all.empty()) all += "but the launch succeeded\n";
  return all;
}

/// Checks that nothing is wrong, under every delivery and a few orders.
template <class Body>
void check_right(shape const& s, Body const& body) {
  for (auto const when : deliveries) {
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
      auto const found = findings_of(s, {.when = when, .seed = seed}, body);
      CHECK_MESSAGE(found.empty(), "delivery " << static_cast<int>(when) << ", seed " << seed << ": " << found);
    }
  }
}

/// Checks that `body` is found to do `what`, at these lines of the test's file (0: none).
inline void check_found(std::string const& found, std::string const& what, std::string const& file = {}, int first = 0, int second = 0) {
  CHECK_MESSAGE(found.find(what) != std::string::npos, "expected \"" << what << "\", found: " << found);
  for (int const line : {first, second})
    if (line != 0)
      CHECK_MESSAGE(found.find(file + ":" + std::to_string(line)) != std::string::npos, "expected line " << line << ", found: " << found);
}

}  // namespace moesaic::device_model
