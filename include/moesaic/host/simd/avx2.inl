// 16 float lanes as two AVX2 registers.
// SPDX-License-Identifier: Apache-2.0

struct here {};

inline constexpr int block_rows = 6, block_panels = 1;
inline constexpr int wide_pairs = 2;

struct f32 {
  __m256 low, high;
};
struct u32 {
  __m256i low, high;
};

MOESAIC_HOST f32 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
MOESAIC_HOST u32 set1_bits(std::uint32_t x) {
  auto const v = _mm256_set1_epi32(static_cast<int>(x));
  return {v, v};
}

// Lanes [first, first + 8) that lie below `count`.
MOESAIC_HOST __m256i below(std::int64_t count, int first) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count) - first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
MOESAIC_HOST __m256 widen_bf16(__m128i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)); }
MOESAIC_HOST __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
// To bf16 in the lower halves of lanes, nearest even.
MOESAIC_HOST __m256i narrow_bf16(__m256 x) {
  auto const bits = _mm256_castps_si256(x);
  auto const upper = _mm256_srli_epi32(bits, 16);
  auto const odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  auto const rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  auto const quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}
// The lower halves of 16 lanes, in order.
MOESAIC_HOST __m256i pack_halves(__m256i low, __m256i high) { return _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8); }

MOESAIC_HOST f32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
MOESAIC_HOST f32 load(const float* p, std::int64_t count) {
  return {_mm256_maskload_ps(p, below(count, 0)), _mm256_maskload_ps(p + 8, below(count, 8))};
}
MOESAIC_HOST f32 load(const bf16* p) { return {widen_bf16(load128(p)), widen_bf16(load128(p + 8))}; }
MOESAIC_HOST f32 load(const bf16* p, std::int64_t count) {
  bf16 whole[16] = {};
  std::memcpy(whole, p, static_cast<std::size_t>(count) * sizeof(bf16));
  return load(whole);
}
MOESAIC_HOST u32 load_bits(const std::byte* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
MOESAIC_HOST u32 load_bytes(const std::byte* p) {
  auto const x = load128(p);
  return {_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8))};
}
MOESAIC_HOST void store(float* p, f32 x) {
  _mm256_storeu_ps(p, x.low);
  _mm256_storeu_ps(p + 8, x.high);
}
MOESAIC_HOST void store(float* p, f32 x, std::int64_t count) {
  _mm256_maskstore_ps(p, below(count, 0), x.low);
  _mm256_maskstore_ps(p + 8, below(count, 8), x.high);
}
MOESAIC_HOST void store(bf16* p, f32 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), pack_halves(narrow_bf16(x.low), narrow_bf16(x.high)));
}
MOESAIC_HOST void store(bf16* p, f32 x, std::int64_t count) {
  bf16 whole[16];
  store(whole, x);
  std::memcpy(p, whole, static_cast<std::size_t>(count) * sizeof(bf16));
}

MOESAIC_HOST f32 fma(f32 a, f32 b, f32 c) { return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)}; }
MOESAIC_HOST f32 add(f32 a, f32 b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
MOESAIC_HOST f32 sub(f32 a, f32 b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
MOESAIC_HOST f32 mul(f32 a, f32 b) { return {uncontracted(_mm256_mul_ps(a.low, b.low)), uncontracted(_mm256_mul_ps(a.high, b.high))}; }
MOESAIC_HOST f32 div(f32 a, f32 b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
MOESAIC_HOST f32 sqrt(f32 a) { return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)}; }
MOESAIC_HOST f32 min(f32 a, f32 b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
MOESAIC_HOST f32 max(f32 a, f32 b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
MOESAIC_HOST f32 select_less(f32 a, f32 b, f32 yes, f32 no) {
  return {_mm256_blendv_ps(no.low, yes.low, _mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ)),
          _mm256_blendv_ps(no.high, yes.high, _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ))};
}

MOESAIC_HOST f32 as_float(u32 a) { return {_mm256_castsi256_ps(a.low), _mm256_castsi256_ps(a.high)}; }
MOESAIC_HOST u32 as_bits(f32 a) { return {_mm256_castps_si256(a.low), _mm256_castps_si256(a.high)}; }
template <int N>
MOESAIC_HOST u32 shift_left(u32 a) {
  return {_mm256_slli_epi32(a.low, N), _mm256_slli_epi32(a.high, N)};
}
template <int N>
MOESAIC_HOST u32 shift_right(u32 a) {
  return {_mm256_srli_epi32(a.low, N), _mm256_srli_epi32(a.high, N)};
}
template <int N>
MOESAIC_HOST u32 shift_right_signed(u32 a) {
  return {_mm256_srai_epi32(a.low, N), _mm256_srai_epi32(a.high, N)};
}
MOESAIC_HOST u32 bit_and(u32 a, u32 b) { return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)}; }
MOESAIC_HOST u32 bit_or(u32 a, u32 b) { return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)}; }
MOESAIC_HOST u32 bit_xor(u32 a, u32 b) { return {_mm256_xor_si256(a.low, b.low), _mm256_xor_si256(a.high, b.high)}; }
MOESAIC_HOST u32 add_bits(u32 a, u32 b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
MOESAIC_HOST u32 select_equal(u32 a, u32 b, u32 yes, u32 no) {
  return {_mm256_blendv_epi8(no.low, yes.low, _mm256_cmpeq_epi32(a.low, b.low)),
          _mm256_blendv_epi8(no.high, yes.high, _mm256_cmpeq_epi32(a.high, b.high))};
}
MOESAIC_HOST f32 to_float(u32 a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
MOESAIC_HOST f32 half_to_float(u32 a) {
  auto const mask = _mm256_set1_epi32(0xffff);
  auto const halves = pack_halves(_mm256_and_si256(a.low, mask), _mm256_and_si256(a.high, mask));
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))};
}
MOESAIC_HOST f32 lookup(const float (&table)[16], u32 a) {
  // A permute reads three bits; the fourth chooses between two.
  auto const lower = _mm256_loadu_ps(table), upper = _mm256_loadu_ps(table + 8);
  auto const eight = [&](__m256i i) {
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(lower, i), _mm256_permutevar8x32_ps(upper, i),
                            _mm256_castsi256_ps(_mm256_slli_epi32(i, 28)));
  };
  return {eight(a.low), eight(a.high)};
}

MOESAIC_HOST float sum(f32 a) {
  auto const eight = _mm256_add_ps(a.low, a.high);
  auto const four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  auto const two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

MOESAIC_HOST void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
