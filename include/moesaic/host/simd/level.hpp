// The instruction sets that kernels are compiled for, and which of them this processor has.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <moesaic/base/status.hpp>

namespace moesaic::host {

/// Ascending: a processor that has a level has those before it.
///   portable      plain C++ with vector extensions of the compiler
///   avx2          AVX2, FMA, F16C
///   avx512        AVX-512 F, BW, DQ, VL
///   avx512_bf16   the same with BF16 dot products and byte permutes (VBMI)
enum class level : std::uint8_t { portable, avx2, avx512, avx512_bf16 };

constexpr const char* name(level l) {
  constexpr const char* names[] = {"portable", "avx2", "avx512", "avx512_bf16"};
  return names[static_cast<int>(l)];
}

/// The highest level of this processor and operating system.
inline level detected_level() {
#if defined(__x86_64__)
  static level const found = [] {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    bool const f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
    if (!f16c || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return level::portable;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl"))
      return level::avx2;
    if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vbmi")) return level::avx512;
    return level::avx512_bf16;
  }();
  return found;
#else
  return level::portable;
#endif
}

/// The level a pool uses unless told otherwise: the detected one, or a lower one named by the environment variable MOESAIC_LEVEL. Throws
/// `error` for a name that no level has.
inline level best_level() {
  auto const detected = detected_level();
  const char* const wanted = std::getenv("MOESAIC_LEVEL");
  if (wanted == nullptr || *wanted == '\0') return detected;
  for (auto const known : {level::portable, level::avx2, level::avx512, level::avx512_bf16})
    if (std::string_view{wanted} == name(known)) return known < detected ? known : detected;
  throw_error({"MOESAIC_LEVEL: expected portable, avx2, avx512 or avx512_bf16, found '", wanted, "'"});
}

}  // namespace moesaic::host
