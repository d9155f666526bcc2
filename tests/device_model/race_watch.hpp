// Plain loads and stores of kernels that the compiler instrumented, on their way to the race detector.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "race.hpp"

namespace moesaic::device_model::race {

/// Where shared memory of all blocks lies, in a launch; outside of launches, where nothing does. Two instructions turn down any other address.
struct window {
  std::uintptr_t start, bytes;
};
extern constinit thread_local window shared_window;

/// An access of the running thread to an address in the window. `pc`: where the compiler put the call that tells of it.
void plain_access(std::uintptr_t at, std::size_t bytes, access_kind kind, void const* pc);

inline void told(void const* at, std::size_t bytes, access_kind kind, void const* pc) {
  auto const address = reinterpret_cast<std::uintptr_t>(at);
  if (address - shared_window.start < shared_window.bytes) [[unlikely]]
    plain_access(address, bytes, kind, pc);
}

}  // namespace moesaic::device_model::race
