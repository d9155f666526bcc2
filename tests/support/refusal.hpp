// What a call that throws says.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <moesaic/base/status.hpp>

/// The text of the moesaic::error that f() throws, or "no error".
template <class F>
std::string refusal(F&& f) {
  try {
    f();
  } catch (moesaic::error const& refused) {
    return refused.what();
  }
  return "no error";
}
