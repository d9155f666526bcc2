// 16 float lanes as one AVX-512 register.
// SPDX-License-Identifier: Apache-2.0

struct here {};

inline constexpr int block_rows = 12, block_panels = 2;
inline constexpr int wide_pairs = 2;   // more would be more streams from memory than prefetchers follow

struct f32 {
  __m512 v;
};
struct u32 {
  __m512i v;
};

// g++ 12 warns of the undefined operand inside some unmasked intrinsics: these are written with a full mask, which costs nothing.
inline constexpr __mmask16 all = 0xffff;

MOESAIC_HOST f32 set1(float x) { return {_mm512_set1_ps(x)}; }
MOESAIC_HOST u32 set1_bits(std::uint32_t x) { return {_mm512_set1_epi32(static_cast<int>(x))}; }

MOESAIC_HOST __mmask16 below(std::int64_t count) { return static_cast<__mmask16>((1u << count) - 1u); }
MOESAIC_HOST f32 widen_bf16(__m256i x) {
  return {_mm512_castsi512_ps(_mm512_maskz_slli_epi32(all, _mm512_maskz_cvtepu16_epi32(all, x), 16))};
}
// To bf16, nearest even.
MOESAIC_HOST __m256i narrow_bf16(f32 x) {
  auto const bits = _mm512_castps_si512(x.v);
  auto const upper = _mm512_maskz_srli_epi32(all, bits, 16);
  auto const odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  auto const rounded = _mm512_maskz_srli_epi32(all, _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  auto const nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  return _mm512_maskz_cvtepi32_epi16(all, _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40)));
}

MOESAIC_HOST f32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
MOESAIC_HOST f32 load(const float* p, std::int64_t count) { return {_mm512_maskz_loadu_ps(below(count), p)}; }
MOESAIC_HOST f32 load(const bf16* p) { return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
MOESAIC_HOST f32 load(const bf16* p, std::int64_t count) { return widen_bf16(_mm256_maskz_loadu_epi16(below(count), p)); }
MOESAIC_HOST u32 load_bits(const std::byte* p) { return {_mm512_loadu_si512(p)}; }
MOESAIC_HOST u32 load_bytes(const std::byte* p) {
  return {_mm512_maskz_cvtepu8_epi32(all, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
MOESAIC_HOST void store(float* p, f32 x) { _mm512_storeu_ps(p, x.v); }
MOESAIC_HOST void store(float* p, f32 x, std::int64_t count) { _mm512_mask_storeu_ps(p, below(count), x.v); }
MOESAIC_HOST void store(bf16* p, f32 x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16(x)); }
MOESAIC_HOST void store(bf16* p, f32 x, std::int64_t count) { _mm256_mask_storeu_epi16(p, below(count), narrow_bf16(x)); }

MOESAIC_HOST f32 fma(f32 a, f32 b, f32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
MOESAIC_HOST f32 add(f32 a, f32 b) { return {_mm512_add_ps(a.v, b.v)}; }
MOESAIC_HOST f32 sub(f32 a, f32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
// Masked, so that g++ does not contract it; its barrier for that takes a register of 512 bits apart and puts it together again.
MOESAIC_HOST f32 mul(f32 a, f32 b) { return {_mm512_maskz_mul_ps(all, a.v, b.v)}; }
MOESAIC_HOST f32 div(f32 a, f32 b) { return {_mm512_div_ps(a.v, b.v)}; }
MOESAIC_HOST f32 sqrt(f32 a) { return {_mm512_maskz_sqrt_ps(all, a.v)}; }
MOESAIC_HOST f32 min(f32 a, f32 b) { return {_mm512_maskz_min_ps(all, a.v, b.v)}; }
MOESAIC_HOST f32 max(f32 a, f32 b) { return {_mm512_maskz_max_ps(all, a.v, b.v)}; }
MOESAIC_HOST f32 select_less(f32 a, f32 b, f32 yes, f32 no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
}

MOESAIC_HOST f32 as_float(u32 a) { return {_mm512_castsi512_ps(a.v)}; }
MOESAIC_HOST u32 as_bits(f32 a) { return {_mm512_castps_si512(a.v)}; }
template <int N>
MOESAIC_HOST u32 shift_left(u32 a) {
  return u32{_mm512_maskz_slli_epi32(all, a.v, N)};
}
template <int N>
MOESAIC_HOST u32 shift_right(u32 a) {
  return u32{_mm512_maskz_srli_epi32(all, a.v, N)};
}
template <int N>
MOESAIC_HOST u32 shift_right_signed(u32 a) {
  return u32{_mm512_maskz_srai_epi32(all, a.v, N)};
}
MOESAIC_HOST u32 bit_and(u32 a, u32 b) { return {_mm512_and_si512(a.v, b.v)}; }
MOESAIC_HOST u32 bit_or(u32 a, u32 b) { return {_mm512_or_si512(a.v, b.v)}; }
MOESAIC_HOST u32 bit_xor(u32 a, u32 b) { return {_mm512_xor_si512(a.v, b.v)}; }
MOESAIC_HOST u32 add_bits(u32 a, u32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
MOESAIC_HOST u32 select_equal(u32 a, u32 b, u32 yes, u32 no) {
  return {_mm512_mask_blend_epi32(_mm512_cmpeq_epi32_mask(a.v, b.v), no.v, yes.v)};
}
MOESAIC_HOST f32 to_float(u32 a) { return {_mm512_maskz_cvtepi32_ps(all, a.v)}; }
MOESAIC_HOST f32 half_to_float(u32 a) { return {_mm512_maskz_cvtph_ps(all, _mm512_maskz_cvtepi32_epi16(all, a.v))}; }
MOESAIC_HOST f32 lookup(const float (&table)[16], u32 a) { return {_mm512_maskz_permutexvar_ps(all, a.v, _mm512_loadu_ps(table))}; }

MOESAIC_HOST float sum(f32 a) {
  auto const eight = _mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xff, a.v, 0), _mm512_maskz_extractf32x8_ps(0xff, a.v, 1));
  auto const four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  auto const two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

MOESAIC_HOST void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
