// Compiles the body file named by MOESAIC_BODY once for each level, in the level's namespace and for its instructions.
// A body includes nothing: whatever it needs has been included before.
// SPDX-License-Identifier: Apache-2.0

// Functions of many steps: part of their caller where a step is an instruction.
#define MOESAIC_STEPS [[gnu::noinline]] inline
namespace moesaic::host::portable {
#include MOESAIC_BODY
}
#undef MOESAIC_STEPS

#if defined(__x86_64__)
#define MOESAIC_STEPS MOESAIC_HOST

#include <moesaic/host/simd/target_avx2.inl>
namespace moesaic::host::avx2 {
#include MOESAIC_BODY
}
#include <moesaic/host/simd/target_end.inl>

#include <moesaic/host/simd/target_avx512.inl>
namespace moesaic::host::avx512 {
#include MOESAIC_BODY
}
#include <moesaic/host/simd/target_end.inl>

#undef MOESAIC_STEPS
#endif

#undef MOESAIC_BODY
