// Switching stacks: the few machine words behind fibre.hpp.
// SPDX-License-Identifier: Apache-2.0
#include "fibre.hpp"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__ELF__) && !defined(MOESAIC_DEVICE_MODEL_UCONTEXT)

// Saved words, lowest first: r15 r14 r13 r12 rbx rbp, address to go on at.
asm(R"(
  .text
  .globl moesaic_device_model_switch
  .type moesaic_device_model_switch, @function
  .p2align 4
moesaic_device_model_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size moesaic_device_model_switch, .-moesaic_device_model_switch
)");

namespace moesaic::device_model::internal {

void* fresh_stack(std::byte* top, void (*entry)()) {
  // At entry, as after a call, the stack pointer is 8 off a multiple of 16, and the word there is a return address that is never used.
  auto const aligned = reinterpret_cast<std::uintptr_t>(top) & ~std::uintptr_t{15};
  auto* const words = reinterpret_cast<void**>(aligned - 16 - 6 * 8);
  std::memset(words, 0, 6 * 8 + 16);
  words[6] = reinterpret_cast<void*>(entry);
  return words;
}
saved_place saved(void* stack_pointer) { return {static_cast<void**>(stack_pointer)[6], static_cast<void**>(stack_pointer)[5]}; }

}  // namespace moesaic::device_model::internal

#else

#include <ucontext.h>

namespace moesaic::device_model::internal {

// `from` and `to` are ucontexts that live on the stacks they belong to.
extern "C" void moesaic_device_model_switch(void** from, void* to) {
  ucontext_t here;
  *from = &here;
  swapcontext(&here, static_cast<ucontext_t*>(to));
}
void* fresh_stack(std::byte* top, void (*entry)()) {
  constexpr std::size_t stack = 128 * 1024;
  auto* const c = reinterpret_cast<ucontext_t*>((reinterpret_cast<std::uintptr_t>(top) - sizeof(ucontext_t)) & ~std::uintptr_t{63});
  getcontext(c);
  c->uc_stack.ss_sp = reinterpret_cast<std::byte*>(c) - stack;
  c->uc_stack.ss_size = stack;
  c->uc_link = nullptr;
  makecontext(c, entry, 0);
  return c;
}
saved_place saved(void*) { return {nullptr, nullptr}; }

}  // namespace moesaic::device_model::internal

#endif
