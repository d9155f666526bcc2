// Switching stacks: 14 instructions on x86-64, ucontext elsewhere.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace moesaic::device_model::internal {

/// Saves the running stack's pointer in `from` and goes on where `to` was saved.
extern "C" void moesaic_device_model_switch(void** from, void* to);
/// A stack pointer to switch to for the first time; `entry` never returns.
void* fresh_stack(std::byte* top, void (*entry)());
/// Where a switched-from stack goes on, and the frame pointer that it was saved with; nulls where the machine is not known. Functions that end in a
/// call leave no frame, so the first may be all that is left of the innermost ones.
struct saved_place {
  void* address;
  void* frame;
};
saved_place saved(void* stack_pointer);

}  // namespace moesaic::device_model::internal
