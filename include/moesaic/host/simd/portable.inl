// 16 float lanes as plain C++ loops, which compilers turn into whatever vectors the target has.
// SPDX-License-Identifier: Apache-2.0

struct here {};   // names this level: functions that take it are found in this namespace

inline constexpr int block_rows = 4, block_panels = 1;   // what a register block holds: rows of x, panels of weights
inline constexpr int wide_pairs = 1;                     // pairs of panels that one row meets at a time

using float4 = float __attribute__((vector_size(16)));
using int4 = std::int32_t __attribute__((vector_size(16)));
using uint4 = std::uint32_t __attribute__((vector_size(16)));

struct f32 {
  float4 part[4];
};
struct u32 {
  uint4 part[4];
};

template <class F>
MOESAIC_HOST f32 each(F f) {
  return {f(0), f(1), f(2), f(3)};
}
template <class F>
MOESAIC_HOST u32 each_bits(F f) {
  return {f(0), f(1), f(2), f(3)};
}

MOESAIC_HOST f32 set1(float x) {
  return each([&](int) { return float4{x, x, x, x}; });
}
MOESAIC_HOST u32 set1_bits(std::uint32_t x) {
  return each_bits([&](int) { return uint4{x, x, x, x}; });
}

MOESAIC_HOST f32 load(const float* p) {
  f32 y;
  std::memcpy(&y, p, sizeof y);
  return y;
}
MOESAIC_HOST u32 load_bits(const std::byte* p) {
  u32 y;
  std::memcpy(&y, p, sizeof y);
  return y;
}
MOESAIC_HOST void store(float* p, f32 x) { std::memcpy(p, &x, sizeof x); }

// What has no vector operation goes lane by lane through memory.
template <class F>
MOESAIC_HOST f32 each_lane(F f) {
  float lane[16];
  for (int i = 0; i < 16; ++i) lane[i] = f(i);
  return load(lane);
}
MOESAIC_HOST f32 load(const float* p, std::int64_t count) {
  return each_lane([&](int i) { return i < count ? p[i] : 0.0f; });
}
MOESAIC_HOST f32 load(const bf16* p) {
  return each_lane([&](int i) { return static_cast<float>(p[i]); });
}
MOESAIC_HOST f32 load(const bf16* p, std::int64_t count) {
  return each_lane([&](int i) { return i < count ? static_cast<float>(p[i]) : 0.0f; });
}
MOESAIC_HOST u32 load_bytes(const std::byte* p) {
  std::uint32_t lane[16];
  for (int i = 0; i < 16; ++i) lane[i] = static_cast<std::uint32_t>(p[i]);
  return load_bits(reinterpret_cast<const std::byte*>(lane));
}
template <class T>
MOESAIC_HOST void store(T* p, f32 x, std::int64_t count) {
  float lane[16];
  store(lane, x);
  for (std::int64_t i = 0; i < count; ++i) p[i] = static_cast<T>(lane[i]);
}
MOESAIC_HOST void store(bf16* p, f32 x) { store(p, x, 16); }

// a · b + c, rounded once.
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__riscv_flen)
MOESAIC_HOST f32 fma(f32 a, f32 b, f32 c) {
  return each_lane([&](int i) { return __builtin_fmaf(a.part[i / 4][i % 4], b.part[i / 4][i % 4], c.part[i / 4][i % 4]); });
}
#else
// Long, and a kernel has many: a call.
[[gnu::noinline]] inline f32 fma(f32 const& a, f32 const& b, f32 const& c) {
  // The product is exact in double. The sum is rounded to odd: where it is inexact, of the two doubles around it the one whose last
  // bit is set. That bit then stands for all that was cut off, and rounding to float cannot go wrong at a tie.
  using float2 = float __attribute__((vector_size(8)));
  using double2 = double __attribute__((vector_size(16)));
  using long2 = std::int64_t __attribute__((vector_size(16)));
  float2 x[8], y[8], z[8];
  std::memcpy(x, &a, sizeof a);
  std::memcpy(y, &b, sizeof b);
  std::memcpy(z, &c, sizeof c);
  for (int i = 0; i < 8; ++i) {
    auto const product = __builtin_convertvector(x[i], double2) * __builtin_convertvector(y[i], double2);
    auto const addend = __builtin_convertvector(z[i], double2);
    auto const sum = product + addend, part = sum - product;
    auto const cut_off = (product - (sum - part)) + (addend - part);
    // Masks are -1 where true, and false for NaN.
    long2 const inexact = (cut_off < 0.0) | (cut_off > 0.0), towards_zero = (cut_off < 0.0) ^ (sum < 0.0);
    auto const odd = (std::bit_cast<long2>(sum) + (inexact & towards_zero)) | (inexact & 1);
    z[i] = __builtin_convertvector(std::bit_cast<double2>(odd), float2);
  }
  f32 result;
  std::memcpy(&result, z, sizeof z);
  return result;
}
#endif
MOESAIC_HOST f32 add(f32 a, f32 b) {
  return each([&](int i) { return a.part[i] + b.part[i]; });
}
MOESAIC_HOST f32 sub(f32 a, f32 b) {
  return each([&](int i) { return a.part[i] - b.part[i]; });
}
MOESAIC_HOST f32 mul(f32 a, f32 b) {
  return each([&](int i) { return uncontracted(a.part[i] * b.part[i]); });
}
MOESAIC_HOST f32 div(f32 a, f32 b) {
  return each([&](int i) { return a.part[i] / b.part[i]; });
}
MOESAIC_HOST f32 sqrt(f32 a) {
  return each_lane([&](int i) { return std::sqrt(a.part[i / 4][i % 4]); });
}
// The second operand where one is NaN, as x86 has it.
MOESAIC_HOST f32 min(f32 a, f32 b) {
  return each([&](int i) { return a.part[i] < b.part[i] ? a.part[i] : b.part[i]; });
}
MOESAIC_HOST f32 max(f32 a, f32 b) {
  return each([&](int i) { return a.part[i] > b.part[i] ? a.part[i] : b.part[i]; });
}
// a < b ? yes : no
MOESAIC_HOST f32 select_less(f32 a, f32 b, f32 yes, f32 no) {
  return each([&](int i) { return a.part[i] < b.part[i] ? yes.part[i] : no.part[i]; });
}

MOESAIC_HOST f32 as_float(u32 a) { return std::bit_cast<f32>(a); }
MOESAIC_HOST u32 as_bits(f32 a) { return std::bit_cast<u32>(a); }
template <int N>
MOESAIC_HOST u32 shift_left(u32 a) {
  return each_bits([&](int i) { return a.part[i] << N; });
}
template <int N>
MOESAIC_HOST u32 shift_right(u32 a) {
  return each_bits([&](int i) { return a.part[i] >> N; });
}
template <int N>
MOESAIC_HOST u32 shift_right_signed(u32 a) {
  return each_bits([&](int i) { return std::bit_cast<uint4>(std::bit_cast<int4>(a.part[i]) >> N); });
}
MOESAIC_HOST u32 bit_and(u32 a, u32 b) {
  return each_bits([&](int i) { return a.part[i] & b.part[i]; });
}
MOESAIC_HOST u32 bit_or(u32 a, u32 b) {
  return each_bits([&](int i) { return a.part[i] | b.part[i]; });
}
MOESAIC_HOST u32 bit_xor(u32 a, u32 b) {
  return each_bits([&](int i) { return a.part[i] ^ b.part[i]; });
}
MOESAIC_HOST u32 add_bits(u32 a, u32 b) {
  return each_bits([&](int i) { return a.part[i] + b.part[i]; });
}
// a == b ? yes : no
MOESAIC_HOST u32 select_equal(u32 a, u32 b, u32 yes, u32 no) {
  return each_bits([&](int i) { return a.part[i] == b.part[i] ? yes.part[i] : no.part[i]; });
}
// Signed integers to float.
MOESAIC_HOST f32 to_float(u32 a) {
  return each([&](int i) { return __builtin_convertvector(std::bit_cast<int4>(a.part[i]), float4); });
}
// The lower 16 bits of each lane, as fp16.
MOESAIC_HOST f32 half_to_float(u32 a) {
  return each_lane([&](int i) { return static_cast<float>(fp16::from_bits(static_cast<std::uint16_t>(a.part[i / 4][i % 4]))); });
}
// table[lower 4 bits of each lane]
MOESAIC_HOST f32 lookup(const float (&table)[16], u32 a) {
  return each_lane([&](int i) { return table[a.part[i / 4][i % 4] & 15u]; });
}

// Far half onto near half, until one is left.
MOESAIC_HOST float sum(f32 a) {
  auto const four = (a.part[0] + a.part[2]) + (a.part[1] + a.part[3]);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

MOESAIC_HOST void prefetch(const void*) {}
