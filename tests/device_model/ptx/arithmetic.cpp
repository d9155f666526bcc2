// Integer, bit and floating-point instructions of PTX.
// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <cfenv>
#include <cmath>
#include <limits>
#include <type_traits>

#include <moesaic/base/floats.hpp>

#include "decode.hpp"

namespace moesaic::device_model::ptx {
namespace {

template <class T>
using wrap = std::conditional_t<std::is_integral_v<T>, std::make_unsigned<T>, std::type_identity<T>>;
/// Unsigned and at least as wide as int, so that nothing overflows.
template <class T>
using word = std::conditional_t<(sizeof(T) < 4), std::uint32_t, typename wrap<T>::type>;
template <class T>
using twice = std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, std::int32_t, std::uint32_t>,
                                 std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, std::int64_t, std::uint64_t>,
                                                    std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>>>;

struct plus {
  template <class T>
  auto operator()(T a, T b) const { return static_cast<word<T>>(a) + static_cast<word<T>>(b); }
};
struct minus {
  template <class T>
  auto operator()(T a, T b) const { return static_cast<word<T>>(a) - static_cast<word<T>>(b); }
};
struct times {
  template <class T>
  auto operator()(T a, T b) const { return static_cast<word<T>>(a) * static_cast<word<T>>(b); }
};
struct times_high {
  template <class T>
  T operator()(T a, T b) const { return static_cast<T>(static_cast<twice<T>>(a) * static_cast<twice<T>>(b) >> (8 * sizeof(T))); }
};
struct multiply_add {
  template <class T>
  auto operator()(T a, T b, T c) const { return static_cast<word<T>>(a) * static_cast<word<T>>(b) + static_cast<word<T>>(c); }
};
struct multiply_high_add {
  template <class T>
  auto operator()(T a, T b, T c) const { return static_cast<word<T>>(times_high{}(a, b)) + static_cast<word<T>>(c); }
};
/// Division by zero has no defined result; all ones, as hardware gives.
struct divide {
  template <class T>
  T operator()(T a, T b) const {
    if (b == 0) return static_cast<T>(-1);
    if constexpr (std::is_signed_v<T>) {
      if (b == -1) return static_cast<T>(word<T>{0} - static_cast<word<T>>(a));
    }
    return static_cast<T>(a / b);
  }
};
struct remainder {
  template <class T>
  T operator()(T a, T b) const {
    if (b == 0) return a;
    if constexpr (std::is_signed_v<T>) {
      if (b == -1) return 0;
    }
    return static_cast<T>(a % b);
  }
};
struct least {
  template <class T>
  T operator()(T a, T b) const { return b < a ? b : a; }
};
struct most {
  template <class T>
  T operator()(T a, T b) const { return a < b ? b : a; }
};
struct magnitude {
  template <class T>
  auto operator()(T a) const { return a < 0 ? word<T>{0} - static_cast<word<T>>(a) : static_cast<word<T>>(a); }
};
struct negate {
  template <class T>
  auto operator()(T a) const { return word<T>{0} - static_cast<word<T>>(a); }
};
struct both {
  template <class T>
  auto operator()(T a, T b) const { return a & b; }
};
struct either {
  template <class T>
  auto operator()(T a, T b) const { return a | b; }
};
struct one_of {
  template <class T>
  auto operator()(T a, T b) const { return a ^ b; }
};
struct complement {
  template <class T>
  auto operator()(T a) const { return ~a; }
};
struct is_zero {
  template <class T>
  T operator()(T a) const { return a == 0; }
};
struct select {
  template <class T>
  static void run(state& t, op const& o) { t.set(o.x[0], t.get<T>(((t.get<std::uint32_t>(o.x[3]) ^ o.flags) & 1) != 0 ? o.x[1] : o.x[2])); }
};

// d, b 32 bits wide whatever a is.
struct shift_left {
  template <class T>
  static void run(state& t, op const& o) {
    auto const by = t.get<std::uint32_t>(o.x[2]);
    t.set(o.x[0], by >= 8 * sizeof(T) ? T{0} : static_cast<T>(t.get<T>(o.x[1]) << by));
  }
};
struct shift_right {
  template <class T>
  static void run(state& t, op const& o) {
    auto const by = t.get<std::uint32_t>(o.x[2]), width = static_cast<std::uint32_t>(8 * sizeof(T));
    auto const a = t.get<T>(o.x[1]);
    t.set(o.x[0], by < width ? static_cast<T>(a >> by) : static_cast<T>(a < 0 ? -1 : 0));
  }
};
struct count_ones {
  template <class T>
  static void run(state& t, op const& o) { t.set(o.x[0], static_cast<std::uint32_t>(std::popcount(t.get<T>(o.x[1])))); }
};
struct leading_zeros {
  template <class T>
  static void run(state& t, op const& o) { t.set(o.x[0], static_cast<std::uint32_t>(std::countl_zero(t.get<T>(o.x[1])))); }
};
/// bfind: place of the highest bit that differs from the sign; all ones where there is none. flags: as a shift from the top.
struct find_highest {
  template <class T>
  static void run(state& t, op const& o) {
    auto const a = t.get<T>(o.x[1]);
    auto const bits = static_cast<std::make_unsigned_t<T>>(a < 0 ? ~a : a);
    auto const zeros = static_cast<std::uint32_t>(std::countl_zero(bits));
    auto const width = static_cast<std::uint32_t>(8 * sizeof(T));
    t.set(o.x[0], zeros == width ? 0xffff'ffffu : o.flags != 0 ? zeros : width - 1 - zeros);
  }
};
struct reverse_bits {
  template <class T>
  T operator()(T a) const {
    T r = 0;
    for (std::size_t i = 0; i < 8 * sizeof(T); ++i) r = static_cast<T>(r | (a >> i & 1) << (8 * sizeof(T) - 1 - i));
    return r;
  }
};
struct extract {
  template <class T>
  static void run(state& t, op const& o) {
    auto const width = static_cast<std::uint32_t>(8 * sizeof(T));
    auto const from = t.get<std::uint32_t>(o.x[2]) & 0xff, count = t.get<std::uint32_t>(o.x[3]) & 0xff;
    auto const a = t.get<T>(o.x[1]);
    // Bits past the end are copies of the sign, or zero.
    std::make_unsigned_t<T> r = 0;
    auto const bit = [&](std::uint32_t at) { return at < width ? a >> at & 1 : std::is_signed_v<T> ? a >> (width - 1) & 1 : 0; };
    auto const fill = std::is_signed_v<T> && count != 0 ? bit(std::min(from + count - 1, width - 1)) : 0;
    for (std::uint32_t i = 0; i < width; ++i)
      r = static_cast<std::make_unsigned_t<T>>(r | static_cast<std::make_unsigned_t<T>>(i < count ? bit(from + i) : fill) << i);
    t.set(o.x[0], r);
  }
};
struct insert {
  template <class T>
  static void run(state& t, op const& o) {
    auto const width = static_cast<std::uint32_t>(8 * sizeof(T));
    auto const to = t.get<std::uint32_t>(o.x[3]) & 0xff, count = t.get<std::uint32_t>(o.x[4]) & 0xff;
    auto const a = t.get<T>(o.x[1]), b = t.get<T>(o.x[2]);
    auto const mask = to >= width ? T{0} : static_cast<T>((count >= width ? ~T{0} : (T{1} << count) - 1) << to);
    t.set(o.x[0], static_cast<T>((b & ~mask) | ((to >= width ? T{0} : static_cast<T>(a << to)) & mask)));
  }
};
template <bool Clamp>
void bit_mask(state& t, op const& o) {
  std::uint64_t from = t.get<std::uint32_t>(o.x[1]), count = t.get<std::uint32_t>(o.x[2]);
  if (Clamp) from = std::min<std::uint64_t>(from, 32), count = std::min<std::uint64_t>(count, 32);
  else from &= 31, count &= 31;
  t.set(o.x[0], static_cast<std::uint32_t>(((std::uint64_t{1} << count) - 1) << from));
}
/// flags: 1 to the right, 2 wrapping.
void funnel(state& t, op const& o) {
  auto const low = t.get<std::uint32_t>(o.x[1]), high = t.get<std::uint32_t>(o.x[2]);
  auto by = t.get<std::uint32_t>(o.x[3]);
  by = (o.flags & 2) != 0 ? by & 31 : std::min(by, 32u);
  auto const both_words = static_cast<std::uint64_t>(high) << 32 | low;
  t.set(o.x[0], (o.flags & 1) != 0 ? static_cast<std::uint32_t>(both_words >> by) : static_cast<std::uint32_t>(both_words << by >> 32));
}
void table3(state& t, op const& o) {
  t.set(o.x[0], internal::lop3(t.get<std::uint32_t>(o.x[1]), t.get<std::uint32_t>(o.x[2]), t.get<std::uint32_t>(o.x[3]),
                               static_cast<int>(o.number)));
}
void permute(state& t, op const& o) {
  t.set(o.x[0], device::prmt(t.get<std::uint32_t>(o.x[1]), t.get<std::uint32_t>(o.x[2]), t.get<std::uint32_t>(o.x[3])));
}
/// flags: bit 0 a signed, bit 1 b signed.
void dot4(state& t, op const& o) {
  auto const a = t.get<std::uint32_t>(o.x[1]), b = t.get<std::uint32_t>(o.x[2]);
  auto sum = t.get<std::uint32_t>(o.x[3]);
  for (int i = 0; i < 32; i += 8) {
    auto const part = [i](std::uint32_t v, bool is_signed) {
      auto const byte = static_cast<std::uint8_t>(v >> i);
      return is_signed ? static_cast<std::int32_t>(static_cast<std::int8_t>(byte)) : static_cast<std::int32_t>(byte);
    };
    sum += static_cast<std::uint32_t>(part(a, (o.flags & 1) != 0) * part(b, (o.flags & 2) != 0));
  }
  t.set(o.x[0], sum);
}
struct wide_product {
  template <class T>
  static void run(state& t, op const& o) {
    t.set(o.x[0], static_cast<twice<T>>(static_cast<twice<T>>(t.get<T>(o.x[1])) * static_cast<twice<T>>(t.get<T>(o.x[2]))));
  }
};
struct wide_product_add {
  template <class T>
  static void run(state& t, op const& o) {
    using U = word<twice<T>>;
    t.set(o.x[0], static_cast<twice<T>>(static_cast<U>(static_cast<twice<T>>(t.get<T>(o.x[1])) * static_cast<twice<T>>(t.get<T>(o.x[2]))) +
                                        static_cast<U>(t.get<twice<T>>(o.x[3]))));
  }
};

// With the carry bit. flags: 1 reads it, 2 writes it.
template <class T>
T add_carry(state& t, int flags, T a, T b) {
  T const in = (flags & 1) != 0 && t.carry ? 1 : 0;
  T sum = static_cast<T>(a + b);
  bool out = sum < a;
  sum = static_cast<T>(sum + in);
  out = out || sum < in;
  if ((flags & 2) != 0) t.carry = out;
  return sum;
}
struct carrying_add {
  template <class T>
  static void run(state& t, op const& o) { t.set(o.x[0], add_carry<T>(t, o.flags, t.get<T>(o.x[1]), t.get<T>(o.x[2]))); }
};
struct borrowing_subtract {
  template <class T>
  static void run(state& t, op const& o) {
    T const a = t.get<T>(o.x[1]), b = t.get<T>(o.x[2]);
    T const in = (o.flags & 1) != 0 && t.carry ? 1 : 0;
    if ((o.flags & 2) != 0) t.carry = a < b || static_cast<T>(a - b) < in;
    t.set(o.x[0], static_cast<T>(a - b - in));
  }
};
template <bool High>
struct carrying_multiply_add {
  template <class T>
  static void run(state& t, op const& o) {
    T const a = t.get<T>(o.x[1]), b = t.get<T>(o.x[2]);
    T const product = High ? times_high{}(a, b) : static_cast<T>(a * b);
    t.set(o.x[0], add_carry<T>(t, o.flags, product, t.get<T>(o.x[3])));
  }
};

// Floating point. The usual case (to nearest, subnormal numbers kept, not clamped) has handlers of its own; the rest goes through flags.

enum : std::uint16_t { round_zero = 1, round_down = 2, round_up = 3, flush = 4, clamp = 8 };

template <class T>
T flushed(T x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(T{0}, x) : x; }
template <class T>
T clamped(T x) { return x > 0 ? (x < 1 ? x : T{1}) : T{0}; }       // a NaN becomes 0

/// In the way that flags say; `f` must not be computed before.
template <class T, class F>
T in_mode(std::uint16_t flags, F f) {
  constexpr int modes[4] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
  auto const mode = modes[flags & 3];
  if (mode != FE_TONEAREST) std::fesetround(mode);
  T volatile result = f();
  if (mode != FE_TONEAREST) std::fesetround(FE_TONEAREST);
  T r = result;
  if ((flags & flush) != 0) r = flushed(r);
  if ((flags & clamp) != 0) r = clamped(r);
  return r;
}
struct fused {
  template <class T>
  auto operator()(T a, T b, T c) const { return std::fma(a, b, c); }
};
struct quotient {
  template <class T>
  auto operator()(T a, T b) const { return a / b; }
};
struct f_plus {
  template <class T>
  auto operator()(T a, T b) const { return a + b; }
};
struct f_minus {
  template <class T>
  auto operator()(T a, T b) const { return a - b; }
};
struct f_times {
  template <class T>
  auto operator()(T a, T b) const { return a * b; }
};
struct reciprocal {
  template <class T>
  auto operator()(T a) const { return T{1} / a; }
};
struct root {
  template <class T>
  auto operator()(T a) const { return std::sqrt(a); }
};
template <class T>
T input(state const& t, op const& o, int n) {
  T const a = t.get<T>(o.x[n]);
  return (o.flags & flush) != 0 ? flushed(a) : a;
}
template <class F>
struct mode_unary {
  template <class T>
  static void run(state& t, op const& o) {
    T volatile a = input<T>(t, o, 1);
    t.set(o.x[0], in_mode<T>(o.flags, [&] { return F{}(static_cast<T>(a)); }));
  }
};
template <class F>
struct mode_binary {
  template <class T>
  static void run(state& t, op const& o) {
    T volatile a = input<T>(t, o, 1), b = input<T>(t, o, 2);
    t.set(o.x[0], in_mode<T>(o.flags, [&] { return F{}(static_cast<T>(a), static_cast<T>(b)); }));
  }
};
struct mode_fused {
  template <class T>
  static void run(state& t, op const& o) {
    T volatile a = input<T>(t, o, 1), b = input<T>(t, o, 2), c = input<T>(t, o, 3);
    t.set(o.x[0], in_mode<T>(o.flags, [&] { return std::fma(static_cast<T>(a), static_cast<T>(b), static_cast<T>(c)); }));
  }
};
// min and max: −0 is below +0, and a NaN loses, unless .NaN (flags: 2) says that it wins.
template <bool Max>
struct extreme {
  template <class T>
  static void run(state& t, op const& o) {
    T const a = t.get<T>(o.x[1]), b = t.get<T>(o.x[2]);
    T r;
    if (std::isnan(a) || std::isnan(b)) r = (o.flags & 2) != 0 ? std::numeric_limits<T>::quiet_NaN() : std::isnan(a) ? b : a;
    else if (a == b) r = std::signbit(a) == Max ? b : a;
    else r = (a < b) == Max ? b : a;
    t.set(o.x[0], (o.flags & flush) != 0 ? flushed(r) : r);
  }
};
struct f_magnitude {
  template <class T>
  static void run(state& t, op const& o) {
    t.set(o.x[0], static_cast<T>(t.get<T>(o.x[1]) & static_cast<T>(static_cast<T>(~T{0}) >> 1)));
  }
};
struct f_negate {
  template <class T>
  static void run(state& t, op const& o) { t.set(o.x[0], static_cast<T>(t.get<T>(o.x[1]) ^ static_cast<T>(T{1} << (8 * sizeof(T) - 1)))); }
};
void negate_pair(state& t, op const& o) { t.set(o.x[0], t.get<std::uint32_t>(o.x[1]) ^ 0x8000'8000u); }
void magnitude_pair(state& t, op const& o) { t.set(o.x[0], t.get<std::uint32_t>(o.x[1]) & 0x7fff'7fffu); }
struct copy_sign {                       // the sign of a on b
  template <class T>
  static void run(state& t, op const& o) { t.set(o.x[0], std::copysign(t.get<T>(o.x[2]), t.get<T>(o.x[1]))); }
};

// Approximations: what the seam has, the seam computes, so that both legs agree.
template <float (*F)(float)>
void approximate(state& t, op const& o) { t.set(o.x[0], F(t.get<float>(o.x[1]))); }
float ex2_exact(float x) { return std::exp2(x); }
float lg2(float x) { return std::log2(x); }
float sine(float x) { return std::sin(x); }
float cosine(float x) { return std::cos(x); }
float tangent_h(float x) { return std::tanh(x); }
/// Of f64: the upper word of a good guess, the lower is zero.
void rcp_f64(state& t, op const& o) { t.set(o.x[0], bit_cast<std::uint64_t>(1.0 / t.get<double>(o.x[1])) & 0xffff'ffff'0000'0000u); }
void rsqrt_f64(state& t, op const& o) {
  t.set(o.x[0], bit_cast<std::uint64_t>(1.0 / std::sqrt(t.get<double>(o.x[1]))) & 0xffff'ffff'0000'0000u);
}

// Numbers of 16 bits, one or two in a register.
enum half_operation : std::uint16_t { h_add, h_sub, h_mul, h_min, h_max, h_fma };

/// A double as float, so that rounding that to fewer bits is as if the double was rounded: what is cut off leaves an odd last bit.
float to_odd(double x) {
  auto f = static_cast<float>(x);
  if (static_cast<double>(f) == x || std::isnan(x) || std::isinf(f)) return f;
  if (std::fabs(static_cast<double>(f)) > std::fabs(x)) f = std::nextafter(f, 0.0f);
  return bit_cast<float>(bit_cast<std::uint32_t>(f) | 1u);
}
template <class H>
H half_result(op const& o, H a, H b, H c) {
  // One operation in double and one rounding; a sum of halves may lose bits in a double too, but none that to_odd does not stand for.
  double const x = static_cast<float>(a), y = static_cast<float>(b), z = static_cast<float>(c);
  switch (o.flags & 7) {
    case h_add: return H(to_odd(x + y));
    case h_sub: return H(to_odd(x - y));
    case h_mul: return H(to_odd(x * y));
    case h_fma: return H(to_odd(std::fma(x, y, z)));
    default: break;
  }
  bool const most = (o.flags & 7) == h_max;
  if (std::isnan(x) || std::isnan(y)) return o.number != 0 ? H(std::numeric_limits<float>::quiet_NaN()) : std::isnan(x) ? b : a;
  if (x == y) return std::signbit(x) == most ? b : a;
  return (x < y) == most ? b : a;
}
template <class H, int Lanes>
void half_op(state& t, op const& o) {
  auto const get = [&](std::uint32_t at) {
    return Lanes == 2 ? t.get<std::uint32_t>(at) : static_cast<std::uint32_t>(t.get<std::uint16_t>(at));
  };
  auto const a = get(o.x[1]), b = get(o.x[2]), c = get(o.x[3]);
  std::uint32_t r = 0;
  for (int i = 0; i < Lanes; ++i) {
    auto const part = [i](std::uint32_t v) { return H::from_bits(static_cast<std::uint16_t>(v >> 16 * i)); };
    r |= static_cast<std::uint32_t>(half_result(o, part(a), part(b), part(c)).bits) << 16 * i;
  }
  if constexpr (Lanes == 2) t.set(o.x[0], r);
  else t.set(o.x[0], static_cast<std::uint16_t>(r));
}
void fma_bf16x2(state& t, op const& o) {
  t.set(o.x[0], device::fma_bf16x2(t.get<std::uint32_t>(o.x[1]), t.get<std::uint32_t>(o.x[2]), t.get<std::uint32_t>(o.x[3])));
}

// Comparisons.

enum comparison : std::uint16_t { c_eq, c_ne, c_lt, c_le, c_gt, c_ge, c_equ, c_neu, c_ltu, c_leu, c_gtu, c_geu, c_num, c_nan };

template <class T>
bool holds(int how, T a, T b) {
  bool unordered = false;
  if constexpr (std::is_floating_point_v<T>) unordered = std::isnan(a) || std::isnan(b);
  if (unordered) return how >= c_equ && how != c_num;
  switch (how) {
    case c_eq:
    case c_equ: return a == b;
    case c_ne:
    case c_neu: return a != b;
    case c_lt:
    case c_ltu: return a < b;
    case c_le:
    case c_leu: return a <= b;
    case c_gt:
    case c_gtu: return a > b;
    case c_ge:
    case c_geu: return a >= b;
    default: return how == c_num;
  }
}
template <int How>
struct compare {
  template <class T>
  static void run(state& t, op const& o) { t.set(o.x[0], static_cast<std::uint32_t>(holds(How, t.get<T>(o.x[2]), t.get<T>(o.x[3])))); }
};
/// number: comparison. flags: bits 0, 1 join with x[4] (1 and, 2 or, 3 xor), 4 its inverse, 8 flushes subnormal numbers, 16 halves of bf16.
struct compare_joined {
  template <class T>
  static void run(state& t, op const& o) {
    T a = t.get<T>(o.x[2]), b = t.get<T>(o.x[3]);
    if constexpr (std::is_floating_point_v<T>) {
      if ((o.flags & 8) != 0) a = flushed(a), b = flushed(b);
    }
    finish(t, o, holds(static_cast<int>(o.number), a, b));
  }
  static void finish(state& t, op const& o, bool is) {
    bool is_not = !is;
    if ((o.flags & 3) != 0) {
      bool const with = ((t.get<std::uint32_t>(o.x[4]) ^ ((o.flags & 4) != 0 ? 1u : 0u)) & 1) != 0;
      auto const join = [&](bool v) { return (o.flags & 3) == 1 ? v && with : (o.flags & 3) == 2 ? v || with : v != with; };
      is = join(is), is_not = join(is_not);
    }
    t.set(o.x[1], static_cast<std::uint32_t>(is_not));
    t.set(o.x[0], static_cast<std::uint32_t>(is));
  }
};
void compare_f16(state& t, op const& o) {
  auto const f = [&](std::uint32_t at) { return static_cast<float>(fp16::from_bits(t.get<std::uint16_t>(at))); };
  compare_joined::finish(t, o, holds(static_cast<int>(o.number), f(o.x[2]), f(o.x[3])));
}
void compare_bf16(state& t, op const& o) {
  auto const f = [&](std::uint32_t at) { return static_cast<float>(bf16::from_bits(t.get<std::uint16_t>(at))); };
  compare_joined::finish(t, o, holds(static_cast<int>(o.number), f(o.x[2]), f(o.x[3])));
}
/// slct: a where c >= 0, else b.
template <class C>
struct select_sign {
  template <class T>
  static void run(state& t, op const& o) { t.set(o.x[0], t.get<T>(t.get<C>(o.x[3]) >= 0 ? o.x[1] : o.x[2])); }
};
enum : std::uint16_t { t_finite, t_infinite, t_number, t_nan, t_normal, t_subnormal };
struct test_property {
  template <class T>
  static void run(state& t, op const& o) {
    T const a = t.get<T>(o.x[1]);
    bool const is[] = {std::isfinite(a), std::isinf(a),    !std::isnan(a),
                       std::isnan(a),    std::isnormal(a), std::fpclassify(a) == FP_SUBNORMAL};
    t.set(o.x[0], static_cast<std::uint32_t>(is[o.flags]));
  }
};

// Rules.

bool is_real(element e) { return e == element::f32 || e == element::f64; }
bool is_half(element e) { return e == element::f16 || e == element::f16x2 || e == element::bf16 || e == element::bf16x2; }

template <class Op>
handler of_real(element e) {
  return e == element::f64 ? &Op::template run<double> : &Op::template run<float>;
}

/// Operands 0 .. inputs to x, all of type e.
void all_of(decoder& d, element e, int inputs) {
  d.out().x[0] = d.target(std::size_t{0}, e == element::pred ? 4 : bytes_of(e));
  for (int n = 1; n <= inputs; ++n) d.out().x[n] = d.source(static_cast<std::size_t>(n), e);
}
/// Rounding, .ftz and .sat.
std::uint16_t take_mode(decoder& d) {
  auto const rounding = d.take_one({"rn", "rz", "rm", "rp"}, 0);
  return static_cast<std::uint16_t>(rounding | (d.take("ftz") ? flush : 0) | (d.take("sat") ? clamp : 0));
}
handler of_half(element e) {
  return e == element::f16     ? &half_op<fp16, 1>
         : e == element::f16x2 ? &half_op<fp16, 2>
         : e == element::bf16  ? &half_op<bf16, 1>
                               : &half_op<bf16, 2>;
}
void half(decoder& d, element e, half_operation what, int inputs) {
  d.take("rn");
  all_of(d, e, inputs);
  d.out().flags = what;
  d.out().number = d.take("NaN") ? 1 : 0;
  d.out().run = of_half(e);
}

template <class Plain, class Real>
void rule_sum(decoder& d, half_operation with_halves) {
  bool const carries = d.take("cc");
  auto const mode = take_mode(d);
  auto const e = d.take_type();
  if (is_half(e)) return half(d, e, with_halves, 2);
  all_of(d, e, 2);
  auto& o = d.out();
  if (is_real(e)) {
    o.flags = mode;
    o.run = mode == 0 ? of_real<binary<Real>>(e) : of_real<mode_binary<Real>>(e);
  } else if (carries) {
    o.flags = 2;
    o.run = with_halves == h_add ? (bytes_of(e) == 8 ? &carrying_add::run<std::uint64_t> : &carrying_add::run<std::uint32_t>)
                                 : (bytes_of(e) == 8 ? &borrowing_subtract::run<std::uint64_t> : &borrowing_subtract::run<std::uint32_t>);
  } else if (mode == 0) {
    o.run = of_integer<binary<Plain>>(d, e);
  }
}
template <class Op>
void rule_carrying(decoder& d) {
  d.out().flags = static_cast<std::uint16_t>(1 | (d.take("cc") ? 2 : 0));
  auto const e = d.take_type();
  all_of(d, e, 2);
  d.out().run = bytes_of(e) == 8 ? &Op::template run<std::uint64_t> : &Op::template run<std::uint32_t>;
}
element doubled(decoder const& d, element e) {
  switch (e) {
    case element::u16: return element::u32;
    case element::s16: return element::s32;
    case element::u32: return element::u64;
    case element::s32: return element::s64;
    default: d.fail("a product of this type cannot be twice as wide");
  }
}
template <class Op>
handler of_narrow(element e) {
  return e == element::u16 ? &Op::template run<std::uint16_t> : e == element::s16 ? &Op::template run<std::int16_t>
         : e == element::u32 ? &Op::template run<std::uint32_t> : &Op::template run<std::int32_t>;
}
void rule_mul(decoder& d) {
  auto const mode = take_mode(d);
  auto const part = d.take_one({"lo", "hi", "wide"}, 3);
  auto const e = d.take_type();
  if (is_half(e)) return half(d, e, h_mul, 2);
  auto& o = d.out();
  if (is_real(e)) {
    all_of(d, e, 2);
    o.flags = mode;
    o.run = mode == 0 ? of_real<binary<f_times>>(e) : of_real<mode_binary<f_times>>(e);
  } else if (part == 2) {
    o.x[0] = d.target(std::size_t{0}, bytes_of(doubled(d, e))), o.x[1] = d.source(1, e), o.x[2] = d.source(2, e);
    o.run = of_narrow<wide_product>(e);
  } else if (part != 3 && mode == 0) {
    all_of(d, e, 2);
    o.run = part == 0 ? of_integer<binary<times>>(d, e) : of_integer<binary<times_high>>(d, e);
  }
}
void rule_fma(decoder& d);
void rule_mad(decoder& d) {
  bool const carries = d.take("cc");
  auto const part = d.take_one({"lo", "hi", "wide"}, 3);
  if (part == 3) return rule_fma(d);
  auto const e = d.take_type();
  auto& o = d.out();
  if (part == 2) {
    auto const wide = doubled(d, e);
    o.x[0] = d.target(std::size_t{0}, bytes_of(wide)), o.x[1] = d.source(1, e), o.x[2] = d.source(2, e), o.x[3] = d.source(3, wide);
    o.run = of_narrow<wide_product_add>(e);
    return;
  }
  all_of(d, e, 3);
  if (carries) {
    o.flags = 2;
    o.run =
        part == 1
            ? (bytes_of(e) == 8 ? &carrying_multiply_add<true>::run<std::uint64_t> : &carrying_multiply_add<true>::run<std::uint32_t>)
            : (bytes_of(e) == 8 ? &carrying_multiply_add<false>::run<std::uint64_t> : &carrying_multiply_add<false>::run<std::uint32_t>);
    return;
  }
  o.run = part == 1 ? of_integer<ternary<multiply_high_add>>(d, e) : of_integer<ternary<multiply_add>>(d, e);
}
void rule_madc(decoder& d) {
  d.out().flags = static_cast<std::uint16_t>(1 | (d.take("cc") ? 2 : 0));
  bool const high = d.take("hi");
  if (!high) d.take("lo");
  auto const e = d.take_type();
  all_of(d, e, 3);
  d.out().run =
      high ? (bytes_of(e) == 8 ? &carrying_multiply_add<true>::run<std::uint64_t> : &carrying_multiply_add<true>::run<std::uint32_t>)
           : (bytes_of(e) == 8 ? &carrying_multiply_add<false>::run<std::uint64_t> : &carrying_multiply_add<false>::run<std::uint32_t>);
}
void rule_fma(decoder& d) {
  auto const mode = take_mode(d);
  auto const e = d.take_type();
  if (e == element::bf16x2 && mode == 0) {
    all_of(d, e, 3);
    d.out().run = &fma_bf16x2;
    return;
  }
  if (is_half(e)) return half(d, e, h_fma, 3);
  all_of(d, e, 3);
  d.out().flags = mode;
  if (is_real(e)) d.out().run = mode == 0 ? of_real<ternary<fused>>(e) : of_real<mode_fused>(e);
}
void rule_div(decoder& d) {
  auto const mode = take_mode(d);
  auto const kind = d.take_one({"approx", "full"}, 2);
  auto const e = d.take_type();
  all_of(d, e, 2);
  d.out().flags = mode;
  if (is_real(e)) d.out().run = mode == 0 ? of_real<binary<quotient>>(e) : of_real<mode_binary<quotient>>(e);
  else if (kind == 2) d.out().run = of_integer<binary<divide>>(d, e);
}
template <class Plain, bool Max>
void rule_extreme(decoder& d) {
  bool const ftz = d.take("ftz");
  auto const e = d.take_type();
  if (is_half(e)) return half(d, e, Max ? h_max : h_min, 2);
  bool const nan = d.take("NaN");
  all_of(d, e, 2);
  d.out().flags = static_cast<std::uint16_t>((ftz ? flush : 0) | (nan ? 2 : 0));
  d.out().run = is_real(e) ? of_real<extreme<Max>>(e) : of_integer<binary<Plain>>(d, e);
}
template <class Plain, class Real, handler Pair>
void rule_sign(decoder& d) {
  bool const ftz = d.take("ftz");
  auto const e = d.take_type();
  all_of(d, e, 1);
  if (e == element::f16x2 || e == element::bf16x2) d.out().run = Pair;
  else if (is_real(e) || is_half(e)) d.out().run = of_word<Real>(d, e);
  else d.out().run = of_integer<unary<Plain>>(d, e);
  if (ftz && e == element::f32) d.out().run = nullptr;
}
template <class F>
void rule_bits(decoder& d, int inputs) {
  auto const e = d.take_type();
  all_of(d, e, inputs);
  if (e == element::pred) d.out().run = &binary<F>::template run<std::uint32_t>;
  else d.out().run = of_word<binary<F>>(d, e);
}
void rule_not(decoder& d) {
  auto const e = d.take_type();
  all_of(d, e, 1);
  if (e == element::pred) d.out().run = [](state& t, op const& o) { t.set(o.x[0], ~t.get<std::uint32_t>(o.x[1]) & 1u); };
  else d.out().run = of_word<unary<complement>>(d, e);
}
template <class Op>
void rule_shift(decoder& d) {
  auto const e = d.take_type();
  d.out().x[0] = d.target(std::size_t{0}, bytes_of(e)), d.out().x[1] = d.source(1, e), d.out().x[2] = d.source(2, element::u32);
  d.out().run = of_integer<Op>(d, e);
}
template <class Op>
void rule_count(decoder& d) {
  auto const e = d.take_type();
  d.out().x[0] = d.target(std::size_t{0}, 4), d.out().x[1] = d.source(1, e);
  d.out().run = bytes_of(e) == 8 ? &Op::template run<std::uint64_t> : &Op::template run<std::uint32_t>;
}
void rule_setp(decoder& d) {
  auto& o = d.out();
  auto how = d.take_one({"eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"}, -1);
  if (how < 0) {                         // unsigned comparisons have names of their own
    auto const unsigned_how = d.take_one({"lo", "ls", "hi", "hs"}, -1);
    if (unsigned_how < 0) d.fail("a comparison that is not known");
    constexpr int same_as[4] = {c_lt, c_le, c_gt, c_ge};
    how = same_as[unsigned_how];
  }
  auto const join = d.take_one({"and", "or", "xor"}, -1);
  bool const ftz = d.take("ftz");
  auto const e = d.take_type();
  auto first = d.at(0);
  auto const second = first.parts;
  first.parts.clear();
  o.x[0] = d.target(first, 4);
  o.x[1] = second.empty() ? static_cast<std::uint32_t>(place_sink) : d.target(second[0], 4);
  o.x[2] = d.source(1, e), o.x[3] = d.source(2, e);
  if (join >= 0) {
    bool inverted = false;
    o.x[4] = d.predicate(3, inverted);
    o.flags = static_cast<std::uint16_t>((join + 1) | (inverted ? 4 : 0));
  }
  if (ftz) o.flags |= 8;
  o.number = how;
  if (e == element::f16 || e == element::bf16) {
    o.run = e == element::f16 ? &compare_f16 : &compare_bf16;
    return;
  }
  if (o.flags == 0 && second.empty() && how <= c_ge) {
    auto const plain = [&]<int How>(std::integral_constant<int, How>) {
      return is_real(e) ? of_real<compare<How>>(e) : of_integer<compare<How>>(d, e);
    };
    o.run = how == c_eq ? plain(std::integral_constant<int, c_eq>{}) : how == c_ne ? plain(std::integral_constant<int, c_ne>{})
            : how == c_lt ? plain(std::integral_constant<int, c_lt>{}) : how == c_le ? plain(std::integral_constant<int, c_le>{})
            : how == c_gt ? plain(std::integral_constant<int, c_gt>{}) : plain(std::integral_constant<int, c_ge>{});
    return;
  }
  o.run = is_real(e) ? of_real<compare_joined>(e) : of_integer<compare_joined>(d, e);
}
void rule_selp(decoder& d) {
  auto const e = d.take_type();
  auto& o = d.out();
  all_of(d, e, 2);
  bool inverted = false;
  o.x[3] = d.predicate(3, inverted);
  o.flags = inverted ? 1 : 0;
  o.run = of_word<select>(d, e);
}
void rule_slct(decoder& d) {
  d.take("ftz");
  auto const e = d.take_type(), c = d.take_type();
  all_of(d, e, 2);
  d.out().x[3] = d.source(3, c);
  d.out().run = c == element::f32 ? of_word<select_sign<float>>(d, e) : of_word<select_sign<std::int32_t>>(d, e);
}
template <float (*Fast)(float), float (*Exact)(float)>
void rule_approximate(decoder& d) {
  d.take("approx");
  bool const ftz = d.take("ftz");
  auto const e = d.take_type();
  all_of(d, e, 1);
  if (e == element::f32) d.out().run = ftz ? &approximate<Fast> : &approximate<Exact>;
}
void rule_rcp(decoder& d) {
  bool const approx = d.take("approx");
  auto const mode = take_mode(d);
  auto const e = d.take_type();
  all_of(d, e, 1);
  d.out().flags = mode;
  if (e == element::f64 && approx) d.out().run = &rcp_f64;
  else if (e == element::f32 && approx && mode == flush) d.out().run = &approximate<&device::rcp_approx>;
  else if (is_real(e)) d.out().run = of_real<mode_unary<reciprocal>>(e);
}
void rule_sqrt(decoder& d) {
  d.take("approx");
  auto const mode = take_mode(d);
  auto const e = d.take_type();
  all_of(d, e, 1);
  d.out().flags = mode;
  if (is_real(e)) d.out().run = mode == 0 ? of_real<unary<root>>(e) : of_real<mode_unary<root>>(e);
}
float rsqrt_exact(float x) { return device::rsqrt_approx(x); }
void rule_rsqrt(decoder& d) {
  d.take("approx"), d.take("ftz");
  auto const e = d.take_type();
  all_of(d, e, 1);
  d.out().run = e == element::f64 ? &rsqrt_f64 : e == element::f32 ? &approximate<&rsqrt_exact> : nullptr;
}
template <class Op>
void rule_field(decoder& d) {
  auto const e = d.take_type();
  bool const is_insert = std::is_same_v<Op, insert>;
  all_of(d, e, is_insert ? 2 : 1);
  d.out().x[is_insert ? 3 : 2] = d.source(is_insert ? 3 : 2, element::u32);
  d.out().x[is_insert ? 4 : 3] = d.source(is_insert ? 4 : 3, element::u32);
  if constexpr (std::is_same_v<Op, insert>) d.out().run = bytes_of(e) == 8 ? &insert::run<std::uint64_t> : &insert::run<std::uint32_t>;
  else d.out().run = of_integer<Op>(d, e);
}

}  // namespace

void add_arithmetic(decoder::table& rules) {
  rules["add"] = [](decoder& d) { rule_sum<plus, f_plus>(d, h_add); };
  rules["sub"] = [](decoder& d) { rule_sum<minus, f_minus>(d, h_sub); };
  rules["addc"] = &rule_carrying<carrying_add>;
  rules["subc"] = &rule_carrying<borrowing_subtract>;
  rules["mul"] = &rule_mul;
  rules["mad"] = &rule_mad;
  rules["madc"] = &rule_madc;
  rules["fma"] = &rule_fma;
  rules["div"] = &rule_div;
  rules["rem"] = [](decoder& d) {
    auto const e = d.take_type();
    all_of(d, e, 2);
    d.out().run = of_integer<binary<remainder>>(d, e);
  };
  rules["min"] = &rule_extreme<least, false>;
  rules["max"] = &rule_extreme<most, true>;
  rules["abs"] = &rule_sign<magnitude, f_magnitude, &magnitude_pair>;
  rules["neg"] = &rule_sign<negate, f_negate, &negate_pair>;
  rules["copysign"] = [](decoder& d) {
    auto const e = d.take_type();
    all_of(d, e, 2);
    d.out().run = of_real<copy_sign>(e);
  };
  rules["and"] = [](decoder& d) { rule_bits<both>(d, 2); };
  rules["or"] = [](decoder& d) { rule_bits<either>(d, 2); };
  rules["xor"] = [](decoder& d) { rule_bits<one_of>(d, 2); };
  rules["not"] = &rule_not;
  rules["cnot"] = [](decoder& d) {
    auto const e = d.take_type();
    all_of(d, e, 1);
    d.out().run = of_word<unary<is_zero>>(d, e);
  };
  rules["shl"] = &rule_shift<shift_left>;
  rules["shr"] = &rule_shift<shift_right>;
  rules["popc"] = &rule_count<count_ones>;
  rules["clz"] = &rule_count<leading_zeros>;
  rules["bfind"] = [](decoder& d) {
    d.out().flags = d.take("shiftamt") ? 1 : 0;
    auto const e = d.take_type();
    d.out().x[0] = d.target(std::size_t{0}, 4), d.out().x[1] = d.source(1, e);
    d.out().run = of_integer<find_highest>(d, e);
  };
  rules["brev"] = [](decoder& d) {
    auto const e = d.take_type();
    all_of(d, e, 1);
    d.out().run = of_word<unary<reverse_bits>>(d, e);
  };
  rules["bfe"] = &rule_field<extract>;
  rules["bfi"] = &rule_field<insert>;
  rules["bmsk"] = [](decoder& d) {
    bool const clamps = d.take("clamp");
    if (!clamps) d.take("wrap");
    all_of(d, d.take_type(), 2);
    d.out().run = clamps ? &bit_mask<true> : &bit_mask<false>;
  };
  rules["shf"] = [](decoder& d) {
    bool const right = d.take("r");
    if (!right) d.take("l");
    bool const wraps = d.take("wrap");
    if (!wraps) d.take("clamp");
    all_of(d, d.take_type(), 3);
    d.out().flags = static_cast<std::uint16_t>((right ? 1 : 0) | (wraps ? 2 : 0));
    d.out().run = &funnel;
  };
  rules["lop3"] = [](decoder& d) {
    all_of(d, d.take_type(), 3);
    d.out().number = d.immediate(4);
    d.out().run = &table3;
  };
  rules["prmt"] = [](decoder& d) {
    all_of(d, d.take_type(), 3);
    d.out().run = &permute;
  };
  rules["dp4a"] = [](decoder& d) {
    auto const a = d.take_type(), b = d.take_type();
    all_of(d, element::u32, 3);
    d.out().flags = static_cast<std::uint16_t>((a == element::s32 ? 1 : 0) | (b == element::s32 ? 2 : 0));
    d.out().run = &dot4;
  };
  rules["setp"] = &rule_setp;
  rules["selp"] = &rule_selp;
  rules["slct"] = &rule_slct;
  rules["testp"] = [](decoder& d) {
    auto const what = d.take_one({"finite", "infinite", "number", "notanumber", "normal", "subnormal"}, -1);
    auto const e = d.take_type();
    d.out().x[0] = d.target(std::size_t{0}, 4), d.out().x[1] = d.source(1, e);
    d.out().flags = static_cast<std::uint16_t>(what);
    if (what >= 0) d.out().run = of_real<test_property>(e);
  };
  rules["ex2"] = &rule_approximate<&device::ex2_approx, &ex2_exact>;
  rules["lg2"] = &rule_approximate<&lg2, &lg2>;
  rules["sin"] = &rule_approximate<&sine, &sine>;
  rules["cos"] = &rule_approximate<&cosine, &cosine>;
  rules["tanh"] = &rule_approximate<&tangent_h, &tangent_h>;
  rules["rcp"] = &rule_rcp;
  rules["sqrt"] = &rule_sqrt;
  rules["rsqrt"] = &rule_rsqrt;
}

}  // namespace moesaic::device_model::ptx
