// 16 float lanes as plain C++ loops, which compilers turn into whatever vectors the target has.
// SPDX-License-Identifier: Apache-2.0

struct here {};   // names this level: functions that take it are found in this namespace

inline constexpr int block_rows = 4, block_panels = 1;   // what a register block holds: rows of x, panels of weights
inline constexpr int wide_pairs = 1;                     // pairs of panels that one row meets at a time

struct f32 {
  float lane[16];
};
struct u32 {
  std::uint32_t lane[16];
};

template <class F>
MOESAIC_INLINE f32 each(F f) {
  f32 y;
  for (int i = 0; i < 16; ++i) y.lane[i] = f(i);
  return y;
}
template <class F>
MOESAIC_INLINE u32 each_bits(F f) {
  u32 y;
  for (int i = 0; i < 16; ++i) y.lane[i] = f(i);
  return y;
}

MOESAIC_INLINE f32 set1(float x) {
  return each([&](int) { return x; });
}
MOESAIC_INLINE u32 set1_bits(std::uint32_t x) {
  return each_bits([&](int) { return x; });
}

MOESAIC_INLINE f32 load(const float* p) {
  f32 y;
  std::memcpy(&y, p, sizeof y);
  return y;
}
MOESAIC_INLINE f32 load(const float* p, std::int64_t count) {
  return each([&](int i) { return i < count ? p[i] : 0.0f; });
}
MOESAIC_INLINE f32 load(const bf16* p) {
  return each([&](int i) { return static_cast<float>(p[i]); });
}
MOESAIC_INLINE f32 load(const bf16* p, std::int64_t count) {
  return each([&](int i) { return i < count ? static_cast<float>(p[i]) : 0.0f; });
}
MOESAIC_INLINE u32 load_bits(const std::byte* p) {
  u32 y;
  std::memcpy(&y, p, sizeof y);
  return y;
}
MOESAIC_INLINE u32 load_bytes(const std::byte* p) {
  return each_bits([&](int i) { return static_cast<std::uint32_t>(p[i]); });
}
MOESAIC_INLINE void store(float* p, f32 x) { std::memcpy(p, &x, sizeof x); }
MOESAIC_INLINE void store(float* p, f32 x, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) p[i] = x.lane[i];
}
MOESAIC_INLINE void store(bf16* p, f32 x) {
  for (int i = 0; i < 16; ++i) p[i] = bf16(x.lane[i]);
}
MOESAIC_INLINE void store(bf16* p, f32 x, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) p[i] = bf16(x.lane[i]);
}

// a · b + c, rounded once.
MOESAIC_INLINE float fma_lane(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__riscv_flen)
  return __builtin_fmaf(a, b, c);
#else
  // The product is exact in double. The sum is rounded to odd: where it is inexact, of the two doubles around it the one whose last
  // bit is set. That bit then stands for all that was cut off, and rounding to float cannot go wrong at a tie.
  double const product = static_cast<double>(a) * static_cast<double>(b), addend = static_cast<double>(c);
  double const sum = product + addend;
  double const part = sum - product;
  double const cut_off = (product - (sum - part)) + (addend - part);
  auto const bits = std::bit_cast<std::uint64_t>(sum);
  auto const inexact = static_cast<std::uint64_t>((cut_off < 0.0) | (cut_off > 0.0));   // false for NaN too
  auto const towards_zero = static_cast<std::uint64_t>((cut_off < 0.0) != (sum < 0.0));
  return static_cast<float>(std::bit_cast<double>((bits - (inexact & towards_zero)) | inexact));
#endif
}
MOESAIC_INLINE f32 fma(f32 a, f32 b, f32 c) {
  return each([&](int i) { return fma_lane(a.lane[i], b.lane[i], c.lane[i]); });
}
MOESAIC_INLINE f32 add(f32 a, f32 b) {
  return each([&](int i) { return a.lane[i] + b.lane[i]; });
}
MOESAIC_INLINE f32 sub(f32 a, f32 b) {
  return each([&](int i) { return a.lane[i] - b.lane[i]; });
}
MOESAIC_INLINE f32 mul(f32 a, f32 b) {
  return each([&](int i) { return uncontracted(a.lane[i] * b.lane[i]); });
}
MOESAIC_INLINE f32 div(f32 a, f32 b) {
  return each([&](int i) { return a.lane[i] / b.lane[i]; });
}
MOESAIC_INLINE f32 sqrt(f32 a) {
  return each([&](int i) { return std::sqrt(a.lane[i]); });
}
// The second operand where one is NaN, as x86 has it.
MOESAIC_INLINE f32 min(f32 a, f32 b) {
  return each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
MOESAIC_INLINE f32 max(f32 a, f32 b) {
  return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
// a < b ? yes : no
MOESAIC_INLINE f32 select_less(f32 a, f32 b, f32 yes, f32 no) {
  return each([&](int i) { return a.lane[i] < b.lane[i] ? yes.lane[i] : no.lane[i]; });
}

MOESAIC_INLINE f32 as_float(u32 a) { return std::bit_cast<f32>(a); }
MOESAIC_INLINE u32 as_bits(f32 a) { return std::bit_cast<u32>(a); }
template <int N>
MOESAIC_INLINE u32 shift_left(u32 a) {
  return each_bits([&](int i) { return a.lane[i] << N; });
}
template <int N>
MOESAIC_INLINE u32 shift_right(u32 a) {
  return each_bits([&](int i) { return a.lane[i] >> N; });
}
template <int N>
MOESAIC_INLINE u32 shift_right_signed(u32 a) {
  return each_bits([&](int i) { return static_cast<std::uint32_t>(static_cast<std::int32_t>(a.lane[i]) >> N); });
}
MOESAIC_INLINE u32 bit_and(u32 a, u32 b) {
  return each_bits([&](int i) { return a.lane[i] & b.lane[i]; });
}
MOESAIC_INLINE u32 bit_or(u32 a, u32 b) {
  return each_bits([&](int i) { return a.lane[i] | b.lane[i]; });
}
MOESAIC_INLINE u32 bit_xor(u32 a, u32 b) {
  return each_bits([&](int i) { return a.lane[i] ^ b.lane[i]; });
}
MOESAIC_INLINE u32 add_bits(u32 a, u32 b) {
  return each_bits([&](int i) { return a.lane[i] + b.lane[i]; });
}
// a == b ? yes : no
MOESAIC_INLINE u32 select_equal(u32 a, u32 b, u32 yes, u32 no) {
  return each_bits([&](int i) { return a.lane[i] == b.lane[i] ? yes.lane[i] : no.lane[i]; });
}
// Signed integers to float.
MOESAIC_INLINE f32 to_float(u32 a) {
  return each([&](int i) { return static_cast<float>(static_cast<std::int32_t>(a.lane[i])); });
}
// The lower 16 bits of each lane, as fp16.
MOESAIC_INLINE f32 half_to_float(u32 a) {
  return each([&](int i) { return static_cast<float>(fp16::from_bits(static_cast<std::uint16_t>(a.lane[i]))); });
}
// table[lower 4 bits of each lane]
MOESAIC_INLINE f32 lookup(const float (&table)[16], u32 a) {
  return each([&](int i) { return table[a.lane[i] & 15u]; });
}

// Far half onto near half, until one is left.
MOESAIC_INLINE float sum(f32 a) {
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.lane[i] += a.lane[i + half];
  return a.lane[0];
}

MOESAIC_INLINE void prefetch(const void*) {}
