// wgmma for every N, operand type and place of A. An asm statement must spell its 4 to 128 registers, so one table holds the lists.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/device/mma.hpp>

namespace moesaic::device {

/// Operand numbers of an asm statement: d's registers first, then the inputs. MOESAIC_TO_N(f, x) is f(x, ...) of d's numbers after the first four, by fours.

#define MOESAIC_TO_8(f, x)
#define MOESAIC_TO_16(f, x) f(x, 4, 5, 6, 7)
#define MOESAIC_TO_24(f, x) MOESAIC_TO_16(f, x) f(x, 8, 9, 10, 11)
#define MOESAIC_TO_32(f, x) MOESAIC_TO_24(f, x) f(x, 12, 13, 14, 15)
#define MOESAIC_TO_40(f, x) MOESAIC_TO_32(f, x) f(x, 16, 17, 18, 19)
#define MOESAIC_TO_48(f, x) MOESAIC_TO_40(f, x) f(x, 20, 21, 22, 23)
#define MOESAIC_TO_56(f, x) MOESAIC_TO_48(f, x) f(x, 24, 25, 26, 27)
#define MOESAIC_TO_64(f, x) MOESAIC_TO_56(f, x) f(x, 28, 29, 30, 31)
#define MOESAIC_TO_72(f, x) MOESAIC_TO_64(f, x) f(x, 32, 33, 34, 35)
#define MOESAIC_TO_80(f, x) MOESAIC_TO_72(f, x) f(x, 36, 37, 38, 39)
#define MOESAIC_TO_88(f, x) MOESAIC_TO_80(f, x) f(x, 40, 41, 42, 43)
#define MOESAIC_TO_96(f, x) MOESAIC_TO_88(f, x) f(x, 44, 45, 46, 47)
#define MOESAIC_TO_104(f, x) MOESAIC_TO_96(f, x) f(x, 48, 49, 50, 51)
#define MOESAIC_TO_112(f, x) MOESAIC_TO_104(f, x) f(x, 52, 53, 54, 55)
#define MOESAIC_TO_120(f, x) MOESAIC_TO_112(f, x) f(x, 56, 57, 58, 59)
#define MOESAIC_TO_128(f, x) MOESAIC_TO_120(f, x) f(x, 60, 61, 62, 63)
#define MOESAIC_TO_136(f, x) MOESAIC_TO_128(f, x) f(x, 64, 65, 66, 67)
#define MOESAIC_TO_144(f, x) MOESAIC_TO_136(f, x) f(x, 68, 69, 70, 71)
#define MOESAIC_TO_152(f, x) MOESAIC_TO_144(f, x) f(x, 72, 73, 74, 75)
#define MOESAIC_TO_160(f, x) MOESAIC_TO_152(f, x) f(x, 76, 77, 78, 79)
#define MOESAIC_TO_168(f, x) MOESAIC_TO_160(f, x) f(x, 80, 81, 82, 83)
#define MOESAIC_TO_176(f, x) MOESAIC_TO_168(f, x) f(x, 84, 85, 86, 87)
#define MOESAIC_TO_184(f, x) MOESAIC_TO_176(f, x) f(x, 88, 89, 90, 91)
#define MOESAIC_TO_192(f, x) MOESAIC_TO_184(f, x) f(x, 92, 93, 94, 95)
#define MOESAIC_TO_200(f, x) MOESAIC_TO_192(f, x) f(x, 96, 97, 98, 99)
#define MOESAIC_TO_208(f, x) MOESAIC_TO_200(f, x) f(x, 100, 101, 102, 103)
#define MOESAIC_TO_216(f, x) MOESAIC_TO_208(f, x) f(x, 104, 105, 106, 107)
#define MOESAIC_TO_224(f, x) MOESAIC_TO_216(f, x) f(x, 108, 109, 110, 111)
#define MOESAIC_TO_232(f, x) MOESAIC_TO_224(f, x) f(x, 112, 113, 114, 115)
#define MOESAIC_TO_240(f, x) MOESAIC_TO_232(f, x) f(x, 116, 117, 118, 119)
#define MOESAIC_TO_248(f, x) MOESAIC_TO_240(f, x) f(x, 120, 121, 122, 123)
#define MOESAIC_TO_256(f, x) MOESAIC_TO_248(f, x) f(x, 124, 125, 126, 127)

#define MOESAIC_NAMES(x, a, b, c, e) ", %" #a ", %" #b ", %" #c ", %" #e
#define MOESAIC_D(kind, a, b, c, e) , kind(d[a]), kind(d[b]), kind(d[c]), kind(d[e])

// scale-d is a predicate, which no asm statement can be given: the first input, a register, is made one inside. The instruction reads shared
// memory later than it is issued; wgmma_fence and wgmma_wait_group, which clobber memory, order it.
#define MOESAIC_WGMMA_ASM(N, kind, types, number, inputs, ...)                                                                                   \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #number ", 0;\n"                                                                         \
               "wgmma.mma_async.sync.aligned.m64n" #N types " {%0, %1, %2, %3" MOESAIC_TO_##N(MOESAIC_NAMES, ) "}, " inputs ";\n}"               \
               : kind(d[0]), kind(d[1]), kind(d[2]), kind(d[3]) MOESAIC_TO_##N(MOESAIC_D, kind) : "r"(add), __VA_ARGS__)

#define MOESAIC_WGMMA(N, n0, n1, n2, n3, n4, n5, n6)                                                                                             \
  template <>                                                                                                                                    \
  struct wgmma_of<N> {                                                                                                                           \
    template <dtype T, int A, int B>                                                                                                             \
    MOESAIC_DEVICE static void issue(mma_accumulator<T> (&d)[N / 2], std::uint64_t a, std::uint64_t b, int add) {                                \
      if constexpr (T == dtype::bf16)                                                                                                            \
        MOESAIC_WGMMA_ASM(N, "+f", "k16.f32.bf16.bf16", n0, MOESAIC_SS(n1, n2, ", 1, 1, %" #n3 ", %" #n4), "l"(a), "l"(b), "n"(A), "n"(B));      \
      else if constexpr (T == dtype::fp16)                                                                                                       \
        MOESAIC_WGMMA_ASM(N, "+f", "k16.f32.f16.f16", n0, MOESAIC_SS(n1, n2, ", 1, 1, %" #n3 ", %" #n4), "l"(a), "l"(b), "n"(A), "n"(B));        \
      else if constexpr (T == dtype::e4m3)                                                                                                       \
        MOESAIC_WGMMA_ASM(N, "+f", "k32.f32.e4m3.e4m3", n0, MOESAIC_SS(n1, n2, ", 1, 1"), "l"(a), "l"(b));                                       \
      else                                                                                                                                       \
        MOESAIC_WGMMA_ASM(N, "+r", "k32.s32.s8.s8", n0, MOESAIC_SS(n1, n2, ""), "l"(a), "l"(b));                                                 \
    }                                                                                                                                            \
    template <dtype T, int B>                                                                                                                    \
    MOESAIC_DEVICE static void issue(mma_accumulator<T> (&d)[N / 2], std::uint32_t const (&a)[4], std::uint64_t b, int add) {                    \
      if constexpr (T == dtype::bf16)                                                                                                            \
        MOESAIC_WGMMA_ASM(N, "+f", "k16.f32.bf16.bf16", n0, MOESAIC_RS(n1, n2, n3, n4, n5, ", 1, 1, %" #n6), MOESAIC_A, "l"(b), "n"(B));         \
      else if constexpr (T == dtype::fp16)                                                                                                       \
        MOESAIC_WGMMA_ASM(N, "+f", "k16.f32.f16.f16", n0, MOESAIC_RS(n1, n2, n3, n4, n5, ", 1, 1, %" #n6), MOESAIC_A, "l"(b), "n"(B));           \
      else if constexpr (T == dtype::e4m3)                                                                                                       \
        MOESAIC_WGMMA_ASM(N, "+f", "k32.f32.e4m3.e4m3", n0, MOESAIC_RS(n1, n2, n3, n4, n5, ", 1, 1"), MOESAIC_A, "l"(b));                        \
      else                                                                                                                                       \
        MOESAIC_WGMMA_ASM(N, "+r", "k32.s32.s8.s8", n0, MOESAIC_RS(n1, n2, n3, n4, n5, ""), MOESAIC_A, "l"(b));                                  \
    }                                                                                                                                            \
  };
#define MOESAIC_SS(a, b, rest) "%" #a ", %" #b ", p" rest
#define MOESAIC_RS(a, b, c, e, f, rest) "{%" #a ", %" #b ", %" #c ", %" #e "}, %" #f ", p" rest
#define MOESAIC_A "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])

template <int N>
struct wgmma_of;

MOESAIC_WGMMA(8, 4, 5, 6, 7, 8, 9, 10)
MOESAIC_WGMMA(16, 8, 9, 10, 11, 12, 13, 14)
MOESAIC_WGMMA(24, 12, 13, 14, 15, 16, 17, 18)
MOESAIC_WGMMA(32, 16, 17, 18, 19, 20, 21, 22)
MOESAIC_WGMMA(40, 20, 21, 22, 23, 24, 25, 26)
MOESAIC_WGMMA(48, 24, 25, 26, 27, 28, 29, 30)
MOESAIC_WGMMA(56, 28, 29, 30, 31, 32, 33, 34)
MOESAIC_WGMMA(64, 32, 33, 34, 35, 36, 37, 38)
MOESAIC_WGMMA(72, 36, 37, 38, 39, 40, 41, 42)
MOESAIC_WGMMA(80, 40, 41, 42, 43, 44, 45, 46)
MOESAIC_WGMMA(88, 44, 45, 46, 47, 48, 49, 50)
MOESAIC_WGMMA(96, 48, 49, 50, 51, 52, 53, 54)
MOESAIC_WGMMA(104, 52, 53, 54, 55, 56, 57, 58)
MOESAIC_WGMMA(112, 56, 57, 58, 59, 60, 61, 62)
MOESAIC_WGMMA(120, 60, 61, 62, 63, 64, 65, 66)
MOESAIC_WGMMA(128, 64, 65, 66, 67, 68, 69, 70)
MOESAIC_WGMMA(136, 68, 69, 70, 71, 72, 73, 74)
MOESAIC_WGMMA(144, 72, 73, 74, 75, 76, 77, 78)
MOESAIC_WGMMA(152, 76, 77, 78, 79, 80, 81, 82)
MOESAIC_WGMMA(160, 80, 81, 82, 83, 84, 85, 86)
MOESAIC_WGMMA(168, 84, 85, 86, 87, 88, 89, 90)
MOESAIC_WGMMA(176, 88, 89, 90, 91, 92, 93, 94)
MOESAIC_WGMMA(184, 92, 93, 94, 95, 96, 97, 98)
MOESAIC_WGMMA(192, 96, 97, 98, 99, 100, 101, 102)
MOESAIC_WGMMA(200, 100, 101, 102, 103, 104, 105, 106)
MOESAIC_WGMMA(208, 104, 105, 106, 107, 108, 109, 110)
MOESAIC_WGMMA(216, 108, 109, 110, 111, 112, 113, 114)
MOESAIC_WGMMA(224, 112, 113, 114, 115, 116, 117, 118)
MOESAIC_WGMMA(232, 116, 117, 118, 119, 120, 121, 122)
MOESAIC_WGMMA(240, 120, 121, 122, 123, 124, 125, 126)
MOESAIC_WGMMA(248, 124, 125, 126, 127, 128, 129, 130)
MOESAIC_WGMMA(256, 128, 129, 130, 131, 132, 133, 134)

#undef MOESAIC_NAMES
#undef MOESAIC_D
#undef MOESAIC_WGMMA_ASM
#undef MOESAIC_WGMMA
#undef MOESAIC_SS
#undef MOESAIC_RS
#undef MOESAIC_A
#undef MOESAIC_TO_8
#undef MOESAIC_TO_16
#undef MOESAIC_TO_24
#undef MOESAIC_TO_32
#undef MOESAIC_TO_40
#undef MOESAIC_TO_48
#undef MOESAIC_TO_56
#undef MOESAIC_TO_64
#undef MOESAIC_TO_72
#undef MOESAIC_TO_80
#undef MOESAIC_TO_88
#undef MOESAIC_TO_96
#undef MOESAIC_TO_104
#undef MOESAIC_TO_112
#undef MOESAIC_TO_120
#undef MOESAIC_TO_128
#undef MOESAIC_TO_136
#undef MOESAIC_TO_144
#undef MOESAIC_TO_152
#undef MOESAIC_TO_160
#undef MOESAIC_TO_168
#undef MOESAIC_TO_176
#undef MOESAIC_TO_184
#undef MOESAIC_TO_192
#undef MOESAIC_TO_200
#undef MOESAIC_TO_208
#undef MOESAIC_TO_216
#undef MOESAIC_TO_224
#undef MOESAIC_TO_232
#undef MOESAIC_TO_240
#undef MOESAIC_TO_248
#undef MOESAIC_TO_256

template <dtype T, int N>
MOESAIC_FN constexpr bool wgmma_has() {
  static_assert(T == dtype::bf16 || T == dtype::fp16 || T == dtype::e4m3 || T == dtype::int8, "wgmma multiplies bf16, fp16, e4m3 or int8");
  static_assert(N % 8 == 0 && N >= 8 && N <= 256, "N of wgmma is a multiple of 8, 8 to 256");
  static_assert(T != dtype::int8 || N <= 32 || N % 16 == 0, "above 32, N of wgmma over int8 is a multiple of 16");
  return true;
}

template <dtype T, int N, major A, major B>
MOESAIC_PRIMITIVE void wgmma(mma_accumulator<T> (&d)[N / 2], std::uint64_t a, std::uint64_t b, bool add) {
  static_assert(wgmma_has<T, N>());
  static_assert((A == major::k && B == major::k) || bits(T) == 16, "operands of 8 bits lie along K");
  wgmma_of<N>::template issue<T, static_cast<int>(A), static_cast<int>(B)>(d, a, b, add);
}
template <dtype T, int N, major B>
MOESAIC_PRIMITIVE void wgmma(mma_accumulator<T> (&d)[N / 2], std::uint32_t const (&a)[4], std::uint64_t b, bool add) {
  static_assert(wgmma_has<T, N>());
  static_assert(B == major::k || bits(T) == 16, "operands of 8 bits lie along K");
  wgmma_of<N>::template issue<T, static_cast<int>(B)>(d, a, b, add);
}

}  // namespace moesaic::device
