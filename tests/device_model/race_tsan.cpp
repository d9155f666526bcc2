// What a compiler calls in code built with -fsanitize=thread, in place of the runtime that it comes with: every access goes to the race detector.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "race_watch.hpp"

using moesaic::device_model::race::access_kind;
using moesaic::device_model::race::told;

#define PLACE __builtin_return_address(0)

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void** at, void*) { told(at, 8, access_kind::write, PLACE); }
void __tsan_vptr_read(void** at) { told(at, 8, access_kind::read, PLACE); }
void __tsan_read_range(void* at, unsigned long bytes) { told(at, bytes, access_kind::read, PLACE); }
void __tsan_write_range(void* at, unsigned long bytes) { told(at, bytes, access_kind::write, PLACE); }

#define ACCESSES(bytes)                                                                     \
  void __tsan_read##bytes(void* at) { told(at, bytes, access_kind::read, PLACE); }          \
  void __tsan_write##bytes(void* at) { told(at, bytes, access_kind::write, PLACE); }        \
  void __tsan_volatile_read##bytes(void* at) { told(at, bytes, access_kind::read, PLACE); } \
  void __tsan_volatile_write##bytes(void* at) { told(at, bytes, access_kind::write, PLACE); } \
  void __tsan_read_write##bytes(void* at) {                                                 \
    told(at, bytes, access_kind::read, PLACE);                                              \
    told(at, bytes, access_kind::write, PLACE);                                             \
  }
#define UNALIGNED(bytes)                                                                              \
  void __tsan_unaligned_read##bytes(void* at) { told(at, bytes, access_kind::read, PLACE); }          \
  void __tsan_unaligned_write##bytes(void* at) { told(at, bytes, access_kind::write, PLACE); }        \
  void __tsan_unaligned_volatile_read##bytes(void* at) { told(at, bytes, access_kind::read, PLACE); } \
  void __tsan_unaligned_volatile_write##bytes(void* at) { told(at, bytes, access_kind::write, PLACE); } \
  void __tsan_unaligned_read_write##bytes(void* at) {                                                 \
    told(at, bytes, access_kind::read, PLACE);                                                        \
    told(at, bytes, access_kind::write, PLACE);                                                       \
  }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
UNALIGNED(2)
UNALIGNED(4)
UNALIGNED(8)
UNALIGNED(16)

// Calls that the instrumented code makes by name: model.hpp renames them where the compiler does not.
void* __tsan_memcpy(void* to, void const* from, std::size_t bytes) {
  told(from, bytes, access_kind::read, PLACE);
  told(to, bytes, access_kind::write, PLACE);
  return std::memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, void const* from, std::size_t bytes) {
  told(from, bytes, access_kind::read, PLACE);
  told(to, bytes, access_kind::write, PLACE);
  return std::memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, std::size_t bytes) {
  told(to, bytes, access_kind::write, PLACE);
  return std::memset(to, value, bytes);
}

void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) {}

#define ATOMICS(bits, type)                                                                                                    \
  type __tsan_atomic##bits##_load(type const volatile* at, int) {                                                              \
    told(const_cast<type const*>(at), sizeof(type), access_kind::atomic, PLACE);                                               \
    return __atomic_load_n(at, __ATOMIC_SEQ_CST);                                                                              \
  }                                                                                                                            \
  void __tsan_atomic##bits##_store(type volatile* at, type value, int) {                                                       \
    told(const_cast<type const*>(at), sizeof(type), access_kind::write, PLACE);                                                \
    __atomic_store_n(at, value, __ATOMIC_SEQ_CST);                                                                             \
  }                                                                                                                            \
  type __tsan_atomic##bits##_exchange(type volatile* at, type value, int) {                                                    \
    told(const_cast<type const*>(at), sizeof(type), access_kind::atomic, PLACE);                                               \
    return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);                                                                   \
  }                                                                                                                            \
  bool __tsan_atomic##bits##_compare_exchange_strong(type volatile* at, type* expected, type value, int, int) {                \
    told(const_cast<type const*>(at), sizeof(type), access_kind::atomic, PLACE);                                               \
    return __atomic_compare_exchange_n(at, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                        \
  }                                                                                                                            \
  bool __tsan_atomic##bits##_compare_exchange_weak(type volatile* at, type* expected, type value, int, int) {                  \
    told(const_cast<type const*>(at), sizeof(type), access_kind::atomic, PLACE);                                               \
    return __atomic_compare_exchange_n(at, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                        \
  }                                                                                                                            \
  type __tsan_atomic##bits##_compare_exchange_val(type volatile* at, type expected, type value, int, int) {                    \
    told(const_cast<type const*>(at), sizeof(type), access_kind::atomic, PLACE);                                               \
    __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                              \
    return expected;                                                                                                           \
  }                                                                                                                            \
  ATOMIC_UPDATE(bits, type, add)                                                                                               \
  ATOMIC_UPDATE(bits, type, sub)                                                                                               \
  ATOMIC_UPDATE(bits, type, and)                                                                                               \
  ATOMIC_UPDATE(bits, type, or)                                                                                                \
  ATOMIC_UPDATE(bits, type, xor)                                                                                               \
  ATOMIC_UPDATE(bits, type, nand)
#define ATOMIC_UPDATE(bits, type, what)                                               \
  type __tsan_atomic##bits##_fetch_##what(type volatile* at, type value, int) {       \
    told(const_cast<type const*>(at), sizeof(type), access_kind::atomic, PLACE);      \
    return __atomic_fetch_##what(at, value, __ATOMIC_SEQ_CST);                        \
  }
ATOMICS(8, unsigned char)
ATOMICS(16, unsigned short)
ATOMICS(32, unsigned int)
ATOMICS(64, unsigned long)

}  // extern "C"
