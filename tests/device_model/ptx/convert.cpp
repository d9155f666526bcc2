// cvt of PTX, and cvta's kin are in memory.cpp: numbers from one type to another.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>
#include <type_traits>

#include <moesaic/base/floats.hpp>

#include "decode.hpp"

namespace moesaic::device_model::ptx {
namespace {

enum : std::uint16_t {
  to_nearest_integer = 1,
  to_zero_integer = 2,
  down_integer = 3,
  up_integer = 4,
  flush = 8,
  saturate = 16,
  to_zero = 32,
  relu = 64
};

template <class F>
F integral(F x, int how) {
  switch (how) {
    case to_nearest_integer: return std::nearbyint(x);
    case to_zero_integer: return std::trunc(x);
    case down_integer: return std::floor(x);
    case up_integer: return std::ceil(x);
    default: return x;
  }
}
template <class F>
F flushed(F x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(F{0}, x) : x; }

/// A 16-bit number in a register, as the float it is.
template <class T>
auto value_of(T x) {
  if constexpr (std::is_same_v<T, bf16> || std::is_same_v<T, fp16>) return static_cast<float>(x);
  else return x;
}

template <class D, class S>
D converted(S from, std::uint16_t flags) {
  auto x = value_of(from);
  using X = decltype(x);
  if constexpr (std::is_floating_point_v<X>) {
    if ((flags & flush) != 0) x = flushed(x);
    x = integral(x, flags & 7);
    if constexpr (std::is_integral_v<D>) {
      // Out of range: the nearest integer there is. A NaN becomes 0, or the top bit alone where 64 bits take part.
      if (std::isnan(x)) return sizeof(D) == 8 || sizeof(X) == 8 ? static_cast<D>(std::uint64_t{1} << (8 * sizeof(D) - 1)) : D{0};
      constexpr auto low = std::numeric_limits<D>::min(), high = std::numeric_limits<D>::max();
      auto const beyond = std::ldexp(X{1}, static_cast<int>(8 * sizeof(D)) - (std::is_signed_v<D> ? 1 : 0));
      if (x >= beyond) return high;
      if (x <= static_cast<X>(low)) return low;
      return static_cast<D>(x);
    } else {
      if ((flags & saturate) != 0) x = x > 0 ? (x < 1 ? x : X{1}) : X{0};
      if ((flags & relu) != 0 && !(x > 0) && !std::isnan(x)) x = 0;
      if constexpr (std::is_floating_point_v<D>) {
        auto r = static_cast<D>(x);
        if (sizeof(D) < sizeof(X) && (flags & to_zero) != 0 && std::fabs(static_cast<X>(r)) > std::fabs(x)) r = std::nextafter(r, D{0});
        return (flags & flush) != 0 && sizeof(D) == 4 ? flushed(r) : r;
      } else {
        auto f = static_cast<float>(x);
        if ((flags & to_zero) != 0) {
          auto r = D(f);
          while (std::fabs(static_cast<float>(r)) > std::fabs(f)) r = D::from_bits(static_cast<std::uint16_t>(r.bits - 1));
          return r;
        }
        return D(f);
      }
    }
  } else if constexpr (std::is_integral_v<D>) {
    if ((flags & saturate) != 0) {
      auto const wide = static_cast<__int128>(x);
      auto const low = static_cast<__int128>(std::numeric_limits<D>::min()), high = static_cast<__int128>(std::numeric_limits<D>::max());
      return static_cast<D>(wide < low ? low : wide > high ? high : wide);
    }
    return static_cast<D>(x);
  } else if constexpr (std::is_floating_point_v<D>) {
    auto r = static_cast<D>(x);
    if ((flags & to_zero) != 0) {
      auto const exact = static_cast<long double>(x);
      if (std::fabs(static_cast<long double>(r)) > std::fabs(exact)) r = std::nextafter(r, D{0});
    }
    return r;
  } else {
    return D(static_cast<float>(x));
  }
}

template <class T>
T read(state const& t, std::uint32_t at) {
  if constexpr (std::is_same_v<T, bf16> || std::is_same_v<T, fp16>) return T::from_bits(t.get<std::uint16_t>(at));
  else return t.get<T>(at);
}
/// number: bytes of the register. A wider register than the type is filled with the sign, or zero.
template <class D, class S>
void convert(state& t, op const& o) {
  auto const r = converted<D, S>(read<S>(t, o.x[1]), o.flags);
  if constexpr (std::is_same_v<D, bf16> || std::is_same_v<D, fp16>) t.set(o.x[0], r.bits);
  else if constexpr (std::is_floating_point_v<D>) t.set(o.x[0], r);
  else if (o.number == 8)
    t.set(o.x[0], static_cast<std::uint64_t>(static_cast<std::conditional_t<std::is_signed_v<D>, std::int64_t, std::uint64_t>>(r)));
  else if (o.number == 4)
    t.set(o.x[0], static_cast<std::uint32_t>(static_cast<std::conditional_t<std::is_signed_v<D>, std::int64_t, std::uint64_t>>(r)));
  else t.set(o.x[0], static_cast<std::uint16_t>(r));
}
template <class D>
handler convert_from(element s) {
  switch (s) {
    case element::u8: return &convert<D, std::uint8_t>;
    case element::s8: return &convert<D, std::int8_t>;
    case element::u16: return &convert<D, std::uint16_t>;
    case element::s16: return &convert<D, std::int16_t>;
    case element::u32: return &convert<D, std::uint32_t>;
    case element::s32: return &convert<D, std::int32_t>;
    case element::u64: return &convert<D, std::uint64_t>;
    case element::s64: return &convert<D, std::int64_t>;
    case element::f16: return &convert<D, fp16>;
    case element::bf16: return &convert<D, bf16>;
    case element::f32: return &convert<D, float>;
    case element::f64: return &convert<D, double>;
    default: return nullptr;
  }
}
handler convert_to(element d, element s) {
  switch (d) {
    case element::u8: return convert_from<std::uint8_t>(s);
    case element::s8: return convert_from<std::int8_t>(s);
    case element::u16: return convert_from<std::uint16_t>(s);
    case element::s16: return convert_from<std::int16_t>(s);
    case element::u32: return convert_from<std::uint32_t>(s);
    case element::s32: return convert_from<std::int32_t>(s);
    case element::u64: return convert_from<std::uint64_t>(s);
    case element::s64: return convert_from<std::int64_t>(s);
    case element::f16: return convert_from<fp16>(s);
    case element::bf16: return convert_from<bf16>(s);
    case element::f32: return convert_from<float>(s);
    case element::f64: return convert_from<double>(s);
    default: return nullptr;
  }
}

// Pairs: the first source goes to the upper half.

template <std::uint32_t (*F)(float, float)>
void pair_32(state& t, op const& o) { t.set(o.x[0], F(t.get<float>(o.x[2]), t.get<float>(o.x[1]))); }
void pair_e4m3(state& t, op const& o) { t.set(o.x[0], device::cvt_e4m3x2(t.get<float>(o.x[2]), t.get<float>(o.x[1]))); }
void pair_e5m2(state& t, op const& o) {
  t.set(o.x[0], static_cast<std::uint16_t>(e5m2(t.get<float>(o.x[1])).bits << 8 | e5m2(t.get<float>(o.x[2])).bits));
}
/// Two numbers of 8 bits to two of fp16: exact.
template <class E>
void widen_pair(state& t, op const& o) {
  auto const two = t.get<std::uint16_t>(o.x[1]);
  auto const half = [](int bits) {
    return static_cast<std::uint32_t>(fp16(static_cast<float>(E::from_bits(static_cast<std::uint8_t>(bits)))).bits);
  };
  t.set(o.x[0], half(two >> 8) << 16 | half(two & 0xff));
}
template <class E>
void narrow_pair(state& t, op const& o) {
  auto const two = t.get<std::uint32_t>(o.x[1]);
  auto const byte = [](std::uint32_t bits) { return E(static_cast<float>(fp16::from_bits(static_cast<std::uint16_t>(bits)))).bits; };
  t.set(o.x[0], static_cast<std::uint16_t>(byte(two >> 16) << 8 | byte(two & 0xffff)));
}
void to_tf32(state& t, op const& o) {    // to nearest, ties away from zero
  auto const bits = t.get<std::uint32_t>(o.x[1]);
  t.set(o.x[0], (bits & 0x7fff'ffffu) >= 0x7f80'0000u ? bits : (bits + 0x1000u) & ~0x1fffu);
}

void rule_cvt(decoder& d) {
  auto& o = d.out();
  constexpr std::uint16_t integer_modes[] = {to_nearest_integer, to_zero_integer, down_integer, up_integer, 0};
  o.flags = integer_modes[d.take_one({"rni", "rzi", "rmi", "rpi"}, 4)];
  auto const rounding = d.take_one({"rn", "rz", "rna"}, 0);
  if (rounding == 1) o.flags |= to_zero;
  if (d.take("ftz")) o.flags |= flush;
  if (d.take("sat")) o.flags |= saturate;
  if (d.take("relu")) o.flags |= relu;
  bool const finite = d.take("satfinite");
  auto const to = d.take_type(), from = d.take_type();
  if (d.operands() == 3) {
    if (from != element::f32 || rounding != 0 || o.flags != 0) d.fail("a pair of this kind is not supported");
    o.x[0] = d.target(std::size_t{0}, bytes_of(to)), o.x[1] = d.source(1, from), o.x[2] = d.source(2, from);
    o.run = to == element::bf16x2 && !finite ? &pair_32<&device::cvt_bf16x2>
            : to == element::f16x2 && !finite ? &pair_32<&device::cvt_f16x2> : to == element::e4m3x2 && finite ? &pair_e4m3
            : to == element::e5m2x2 && finite ? &pair_e5m2 : nullptr;
    return;
  }
  auto const bytes = bytes_of(to);
  o.x[1] = d.source(1, from);
  o.number = d.width(d.at(0));
  if (d.at(0).what == operand::kind::sink) o.number = bytes;
  o.x[0] = d.target(std::size_t{0}, 0);
  if (o.number < bytes) d.fail("a result in a register that is too narrow");
  if (to == element::f16x2) o.run = from == element::e4m3x2 ? &widen_pair<e4m3> : from == element::e5m2x2 ? &widen_pair<e5m2> : nullptr;
  else if (from == element::f16x2 && finite)
    o.run = to == element::e4m3x2 ? &narrow_pair<e4m3> : to == element::e5m2x2 ? &narrow_pair<e5m2> : nullptr;
  else if (to == element::tf32) o.run = &to_tf32;
  else o.run = convert_to(to, from);
}

}  // namespace

void add_conversions(decoder::table& rules) { rules["cvt"] = &rule_cvt; }

}  // namespace moesaic::device_model::ptx
