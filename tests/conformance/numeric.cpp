// Arithmetic whose bits an instruction defines: conversions over every upper half of a float, permutations, logic, fused
// sums; and approximations.
// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <cmath>
#include <utility>

#include "case.hpp"

namespace moesaic::conformance {

/// One word out of each; blocks of 256 threads.
template <class Each>
struct map_kernel {
  static constexpr int threads = 256;
  static constexpr cuda::rung needs = Each::needs;
  struct params : buffers {
    word count = 0;
  };
  struct shared {};
  MOESAIC_DEVICE void operator()(params const& p) const {
    auto const i = static_cast<word>(device::block_x() * threads + device::thread_id());
    if (i < p.count) p.out[i] = Each::of(p.in, i);
  }
};
template <class Each>
words map(words const& in, word count) {
  using kernel = map_kernel<Each>;
  return launch<kernel>({.x = (count + 255) / 256}, in, words(count, untouched), [&](buffers const& b) {
    return typename kernel::params{b, count};
  });
}

// --- conversions -----------------------------------------------------------------------------------------------------------------------

/// Every upper half of a float with each of these lower halves: on both sides of every tie.
inline constexpr word lower_halves[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
words every_float() {
  words to;
  for (word upper = 0; upper < 0x1'0000; ++upper)
    for (auto const lower : lower_halves) to.push_back(upper << 16 | lower);
  return to;
}
bool is_nan(word w) { return (w & 0x7fff'ffffu) > 0x7f80'0000u; }

struct to_bf16 {
  static constexpr cuda::rung needs = cuda::rung::sm80;
  MOESAIC_DEVICE static word of(word const* in, word i) { return device::cvt_bf16x2(bit_cast<float>(in[i]), bit_cast<float>(in[i ^ 1u])); }
  static word half(word w) { return is_nan(w) ? 0x7fffu : bf16(bit_cast<float>(w)).bits; }
  static constexpr int bits = 16;
};
struct to_fp16 {
  static constexpr cuda::rung needs = cuda::rung::sm80;
  MOESAIC_DEVICE static word of(word const* in, word i) { return device::cvt_f16x2(bit_cast<float>(in[i]), bit_cast<float>(in[i ^ 1u])); }
  static word half(word w) { return is_nan(w) ? 0x7fffu : fp16(bit_cast<float>(w)).bits; }
  static constexpr int bits = 16;
};
struct to_e4m3 {
  static constexpr cuda::rung needs = cuda::rung::sm90;
  MOESAIC_DEVICE static word of(word const* in, word i) { return device::cvt_e4m3x2(bit_cast<float>(in[i]), bit_cast<float>(in[i ^ 1u])); }
  static word half(word w) { return is_nan(w) ? 0x7fu : e4m3(bit_cast<float>(w)).bits; }
  static constexpr int bits = 8;
};
template <class To>
struct conversion_case {
  static words run(std::uint64_t) { return map<To>(every_float(), 6 * 0x1'0000); }
  static words expected(std::uint64_t) {
    auto const in = every_float();
    words to(in.size());
    for (std::size_t i = 0; i < in.size(); ++i) to[i] = To::half(in[i]) | To::half(in[i ^ 1u]) << To::bits;
    return to;
  }
};

// --- bits ------------------------------------------------------------------------------------------------------------------------------

constexpr word triples = 4096;

struct permuted {
  static constexpr cuda::rung needs = cuda::rung::simt;
  MOESAIC_DEVICE static word of(word const* in, word i) { return device::prmt(in[3 * i], in[3 * i + 1], in[3 * i + 2] & 0xffffu); }
};
struct prmt_case {
  static words run(std::uint64_t seed) { return map<permuted>(random_words(seed, 3 * triples), triples); }
  static words expected(std::uint64_t seed) {
    auto const in = random_words(seed, 3 * triples);
    words to;
    for (std::size_t i = 0; i < triples; ++i) {
      word result = 0;
      for (word n = 0; n < 4; ++n) {
        word const pick = in[3 * i + 2] >> 4 * n & 0xfu;
        word byte = in[3 * i + (pick & 4u) / 4] >> 8 * (pick & 3u) & 0xffu;
        if (pick & 8u) byte = byte & 0x80u ? 0xffu : 0;
        result |= byte << 8 * n;
      }
      to.push_back(result);
    }
    return to;
  }
};

/// All 256 tables, folded.
struct logic {
  static constexpr cuda::rung needs = cuda::rung::simt;
  template <int... Tables>
  MOESAIC_DEVICE static word all(word a, word b, word c, std::integer_sequence<int, Tables...>) {
    word folded = 0;
    ((folded = folded * 3u + device::lop3<Tables>(a, b, c)), ...);
    return folded;
  }
  MOESAIC_DEVICE static word of(word const* in, word i) {
    return all(in[3 * i], in[3 * i + 1], in[3 * i + 2], std::make_integer_sequence<int, 256>{});
  }
};
struct lop3_case {
  static words run(std::uint64_t seed) { return map<logic>(random_words(seed, 3 * 256), 256); }
  static words expected(std::uint64_t seed) {
    auto const in = random_words(seed, 3 * 256);
    words to;
    for (std::size_t i = 0; i < 256; ++i) {
      word folded = 0;
      for (word table = 0; table < 256; ++table) {
        word result = 0;
        for (word bit = 0; bit < 32; ++bit) {
          auto const of = [&](std::size_t operand) { return in[3 * i + operand] >> bit & 1u; };
          result |= (table >> (of(0) * 4 + of(1) * 2 + of(2)) & 1u) << bit;
        }
        folded = folded * 3u + result;
      }
      to.push_back(folded);
    }
    return to;
  }
};

// --- fused sums ------------------------------------------------------------------------------------------------------------------------

struct fused_bf16 {
  static constexpr cuda::rung needs = cuda::rung::sm80;
  MOESAIC_DEVICE static word of(word const* in, word i) { return device::fma_bf16x2(in[3 * i], in[3 * i + 1], in[3 * i + 2]); }
};
/// a · b + c of bf16 rounded once: the exact value in integers of 2^-400 would be long, so magnitudes are kept near 1, where 64 bits
/// hold it.
struct fma_bf16_case {
  static words input(std::uint64_t seed) {
    random_stream r(seed);
    words in(3 * triples);
    auto const half = [&] { return static_cast<word>(r.below(2) << 15 | (112 + r.below(16)) << 7 | r.below(128)); };
    for (auto& w : in) w = half() | half() << 16;
    return in;
  }
  static words run(std::uint64_t seed) { return map<fused_bf16>(input(seed), triples); }
  static words expected(std::uint64_t seed) {
    auto const in = input(seed);
    auto const exact = [](word w) {
      return static_cast<std::int64_t>(
          std::ldexp(static_cast<double>(static_cast<float>(bf16::from_bits(static_cast<std::uint16_t>(w)))), 22));
    };
    auto const rounded = [](std::int64_t sum) {   // of sum · 2^-44, nearest, ties to even
      word const sign = sum < 0 ? 0x8000u : 0;
      auto left = static_cast<std::uint64_t>(sum < 0 ? -sum : sum);
      if (left == 0) return word{0};
      int exponent = 0;
      while (left >> exponent > 1) ++exponent;
      if (exponent > 7) {
        std::uint64_t const unit = std::uint64_t{1} << (exponent - 7), rest = left % unit;
        left -= rest;
        if (2 * rest > unit || (2 * rest == unit && (left / unit & 1u) != 0)) left += unit;
      }
      return sign | bit_cast<word>(static_cast<float>(std::ldexp(static_cast<double>(left), -44))) >> 16;
    };
    words to;
    for (std::size_t i = 0; i < triples; ++i) {
      word pair = 0;
      for (word shift = 0; shift < 32; shift += 16) {
        auto const a = exact(in[3 * i] >> shift), b = exact(in[3 * i + 1] >> shift), c = exact(in[3 * i + 2] >> shift);
        pair |= rounded(a * b + c * (std::int64_t{1} << 22)) << shift;
      }
      to.push_back(pair);
    }
    return to;
  }
};
/// Over raw bits, infinities and subnormals among them: only hardware says what a NaN becomes, so bits of NaN are dropped.
struct fma_bf16_bits_case {
  static words run(std::uint64_t seed) {
    auto to = map<fused_bf16>(random_words(seed, 3 * triples), triples);
    for (auto& w : to)
      for (word const shift : {0u, 16u})
        if ((w >> shift & 0x7fffu) > 0x7f80u) w |= 0xffffu << shift;
    return to;
  }
};

struct fused {
  static constexpr cuda::rung needs = cuda::rung::simt;
  MOESAIC_DEVICE static word of(word const* in, word i) {
    return bit_cast<word>(device::fma(bit_cast<float>(in[3 * i]), bit_cast<float>(in[3 * i + 1]), bit_cast<float>(in[3 * i + 2])));
  }
};
struct fma_case {
  static words input(std::uint64_t seed) {
    auto in = random_words(seed, 3 * triples);
    for (auto& w : in) w = (w & 0x807f'ffffu) | (((w >> 23 & 0xffu) % 16u + 120u) << 23);
    return in;
  }
  static words run(std::uint64_t seed) { return map<fused>(input(seed), triples); }
  static words expected(std::uint64_t seed) {
    auto const in = input(seed);
    words to;
    for (std::size_t i = 0; i < triples; ++i)
      to.push_back(bit_cast<word>(std::fma(bit_cast<float>(in[3 * i]), bit_cast<float>(in[3 * i + 1]), bit_cast<float>(in[3 * i + 2]))));
    return to;
  }
};

// --- approximations --------------------------------------------------------------------------------------------------------------------

// Their last bits are the hardware's own: what is compared is every special value exactly, and of the others whether they are
// as near as PTX promises.

struct power {
  static constexpr cuda::rung needs = cuda::rung::simt;
  MOESAIC_DEVICE static word of(word const* in, word i) { return bit_cast<word>(device::ex2_approx(bit_cast<float>(in[i]))); }
  static double exact(double x) { return std::exp2(x); }
  static constexpr double error = 0x1p-22;   // relative
};
struct reciprocal {
  static constexpr cuda::rung needs = cuda::rung::simt;
  MOESAIC_DEVICE static word of(word const* in, word i) { return bit_cast<word>(device::rcp_approx(bit_cast<float>(in[i]))); }
  static double exact(double x) { return 1 / x; }
  static constexpr double error = 0x1p-23;
};
struct reciprocal_root {
  static constexpr cuda::rung needs = cuda::rung::simt;
  MOESAIC_DEVICE static word of(word const* in, word i) { return bit_cast<word>(device::rsqrt_approx(bit_cast<float>(in[i]))); }
  static double exact(double x) { return 1 / std::sqrt(x); }
  static constexpr double error = 0x1.84p-23;   // 2^-22.4
};
template <class Of>
struct approximation_case {
  static constexpr word near_enough = 1, too_far = 2;
  static words input(std::uint64_t seed) {
    auto in = every_float();
    auto const more = random_words(seed, 0x1'0000);
    in.insert(in.end(), more.begin(), more.end());
    return in;
  }
  /// Judged: 0, infinity and NaN as they are (NaN without its bits), others near_enough or too_far.
  static words judged(words const& in, words const& out) {
    words to;
    for (std::size_t i = 0; i < in.size(); ++i) {
      auto const got = bit_cast<float>(out[i]);
      auto x = bit_cast<float>(in[i]);
      if (std::fabs(x) < 0x1p-126f) x = std::copysign(0.0f, x);   // .ftz
      double const want = Of::exact(static_cast<double>(x));
      if (std::isnan(got) || std::isnan(want)) to.push_back(std::isnan(got) ? 0x7fc0'0000u : too_far);
      else if (std::fabs(want) < 0x1p-126 || std::fabs(got) < 0x1p-126f)
        to.push_back(std::fabs(want) < 0x1p-126 * (1 + Of::error) ? out[i] & 0x8000'0000u : too_far);
      else if (std::isinf(got)) to.push_back(std::fabs(want) > 0x1.fffffep127 * (1 - Of::error) ? out[i] : too_far);
      else to.push_back(std::fabs(static_cast<double>(got) - want) <= Of::error * std::fabs(want) ? near_enough : too_far);
    }
    return to;
  }
  static words run(std::uint64_t seed) {
    auto const in = input(seed);
    return judged(in, map<Of>(in, static_cast<word>(in.size())));
  }
  static words expected(std::uint64_t seed) {
    auto const in = input(seed);
    words exact;
    for (auto const w : in) {
      auto const x = bit_cast<float>(w);
      exact.push_back(
          bit_cast<word>(static_cast<float>(Of::exact(static_cast<double>(std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x)))));
    }
    return judged(in, exact);
  }
};

cases numeric_cases() {
  cases to;
  add<conversion_case<to_bf16>>(to, "cvt.bf16x2");
  add<conversion_case<to_fp16>>(to, "cvt.f16x2");
  add<conversion_case<to_e4m3>>(to, "cvt.e4m3x2");
  add<prmt_case>(to, "prmt");
  add<lop3_case>(to, "lop3");
  add<fma_bf16_case>(to, "fma.bf16x2");
  add<fma_bf16_bits_case>(to, "fma.bf16x2.any_bits");
  add<fma_case>(to, "fma");
  add<approximation_case<power>>(to, "ex2.approx");
  add<approximation_case<reciprocal>>(to, "rcp.approx");
  add<approximation_case<reciprocal_root>>(to, "rsqrt.approx");
  return to;
}

}  // namespace moesaic::conformance
