// 16 float lanes under one set of names, once for each level: namespaces portable, avx2, avx512 of moesaic::host.
// An op writes its inner loops once, in a body file, and levels.inl compiles them for every level:
//   #define MOESAIC_BODY <moesaic/host/my_op.inl>
//   #include <moesaic/host/simd/levels.inl>
// A function of the body takes the level's tag `here` first, so that at_level() finds it by argument-dependent look-up.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <moesaic/base/floats.hpp>
#include <moesaic/base/macros.hpp>
#include <moesaic/config/activation_rule.hpp>
#include <moesaic/host/simd/level.hpp>

#if defined(__CUDACC__)
#pragma nv_diag_suppress 1675   // "unrecognized GCC pragma": nvcc hands it on to GCC, which knows it
#endif

namespace moesaic::host::portable {
#include <moesaic/host/simd/basics.inl>
#include <moesaic/host/simd/portable.inl>
}

#if defined(__x86_64__)

#include <moesaic/host/simd/target_avx2.inl>
namespace moesaic::host::avx2 {
#include <moesaic/host/simd/basics.inl>
#include <moesaic/host/simd/avx2.inl>
}
#include <moesaic/host/simd/target_end.inl>

#include <moesaic/host/simd/target_avx512.inl>
namespace moesaic::host::avx512 {
#include <moesaic/host/simd/basics.inl>
#include <moesaic/host/simd/avx512.inl>
}
#include <moesaic/host/simd/target_end.inl>

#endif

#define MOESAIC_BODY <moesaic/host/simd/math.inl>
#include <moesaic/host/simd/levels.inl>

namespace moesaic::host {

/// f(here) with the tag of a level's namespace. avx512_bf16 is avx512 to all but the bf16 dot kernels.
template <class F>
decltype(auto) at_level(level l, F&& f) {
#if defined(__x86_64__)
  if (l >= level::avx512) return f(avx512::here{});
  if (l == level::avx2) return f(avx2::here{});
#endif
  static_cast<void>(l);
  return f(portable::here{});
}

}  // namespace moesaic::host
