// Every instruction of PTX that computes, one at a time, against plain C++; and what the interpreter says of what it does not know.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <moesaic/base/floats.hpp>
#include <moesaic/base/random.hpp>

#include "ptx.hpp"

#if defined(__SANITIZE_ADDRESS__)
#define MOESAIC_SEES_ADDRESSES
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MOESAIC_SEES_ADDRESSES
#endif
#endif

namespace {

using namespace moesaic;
using device_model::ptx::program;

/// A kernel whose threads load three words each to %rd1 .. %rd3 (their lower halves to %r1 .. and %h1 ..), run `body` and store %rd0.
std::string kernel_of(std::string const& body, std::string const& before = "") {
  return R"(.version 8.4
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
)" + before + R"(
.visible .entry k(.param .align 8 .b8 k_param_0[16])
{
  .reg .pred %p<8>;
  .reg .b16 %h<8>;
  .reg .b32 %r<16>;
  .reg .b64 %rd<8>;
  .reg .b64 %at, %in, %out;
  ld.param.v2.u64 {%in, %out}, [k_param_0];
  mov.u32 %r15, %tid.x;
  mul.wide.u32 %at, %r15, 24;
  add.s64 %in, %in, %at;
  mul.wide.u32 %at, %r15, 8;
  add.s64 %out, %out, %at;
  ld.global.u64 %rd1, [%in];
  ld.global.u64 %rd2, [%in+8];
  ld.global.u64 %rd3, [%in+16];
  mov.b64 {%r1, %r0}, %rd1;
  mov.b64 {%r2, %r0}, %rd2;
  mov.b64 {%r3, %r0}, %rd3;
  mov.b32 {%h1, %h0}, %r1;
  mov.b32 {%h2, %h0}, %r2;
  mov.b32 {%h3, %h0}, %r3;
  mov.u64 %rd0, 0;
)" + body + R"(
  st.global.u64 [%out], %rd0;
  ret;
}
)";
}
constexpr char const* of_32 = "cvt.u64.u32 %rd0, %r0;";
constexpr char const* of_16 = "cvt.u64.u16 %rd0, %h0;";
constexpr char const* of_predicate = "selp.u64 %rd0, 1, 0, %p0;";

using words = std::array<std::uint64_t, 3>;

struct params {
  std::uint64_t const* in;
  std::uint64_t* out;
};
std::vector<std::uint64_t> run(std::string const& text, std::vector<words> const& in, std::size_t shared_bytes = 256) {
  std::vector<std::uint64_t> out(in.size(), 0xdead);
  program p(text);
  params const all{in.data()->data(), out.data()};
  auto const done = p.run("k", {}, static_cast<int>(in.size()), shared_bytes, &all, sizeof all);
  CHECK_MESSAGE(done, to_string(done));
  for (auto const& finding : device_model::take_findings()) FAIL_CHECK(finding);
  return out;
}
std::uint64_t one(std::string const& body, words const& in) { return run(kernel_of(body), {in}).front(); }

std::uint64_t f(float x) { return bit_cast<std::uint32_t>(x); }
std::uint64_t d(double x) { return bit_cast<std::uint64_t>(x); }
std::uint64_t s32(std::int64_t x) { return static_cast<std::uint32_t>(x); }
std::uint64_t s64(std::int64_t x) { return static_cast<std::uint64_t>(x); }

struct expectation {
  char const* body;
  char const* store;
  words in;
  std::uint64_t out;
};

void check_all(std::vector<expectation> const& all) {
  for (auto const& e : all) {
    INFO(std::string(e.body));
    CHECK_EQ(one(std::string(e.body) + e.store, e.in), e.out);
  }
}

std::string refusal(std::string const& body) {
  try {
    program const p(kernel_of(body));
  } catch (error const& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("integers") {
  constexpr auto most = 0x7fff'ffff;
  check_all({
      {"add.s32 %r0, %r1, %r2;", of_32, {s32(most), 1, 0}, 0x8000'0000},
      {"add.s64 %rd0, %rd1, -5;", "", {3, 0, 0}, s64(-2)},
      {"add.s16 %h0, %h1, %h2;", of_16, {0xffff, 3, 0}, 2},
      {"sub.s32 %r0, %r1, %r2;", of_32, {1, 3, 0}, s32(-2)},
      {"mul.lo.s32 %r0, %r1, %r2;", of_32, {0x1'0001, 0x1'0001, 0}, 0x0002'0001},
      {"mul.lo.s16 %h0, %h1, %h2;", of_16, {0xffff, 0xffff, 0}, 1},
      {"mul.hi.u32 %r0, %r1, %r2;", of_32, {0xffff'ffff, 0xffff'ffff, 0}, 0xffff'fffe},
      {"mul.hi.s32 %r0, %r1, %r2;", of_32, {s32(-1), 2, 0}, 0xffff'ffff},
      {"mul.hi.u64 %rd0, %rd1, %rd2;", "", {~std::uint64_t{0}, 16, 0}, 15},
      {"mul.wide.s32 %rd0, %r1, %r2;", "", {s32(-3), 5, 0}, s64(-15)},
      {"mul.wide.u32 %rd0, %r1, %r2;", "", {s32(-3), 5, 0}, 0xffff'fffdull * 5},
      {"mul.wide.u16 %r0, %h1, %h2;", of_32, {0xffff, 0xffff, 0}, 0xfffe'0001},
      {"mul.wide.s16 %r0, %h1, %h2;", of_32, {0xffff, 7, 0}, s32(-7)},
      {"mad.lo.s32 %r0, %r1, %r2, %r3;", of_32, {7, 8, s32(-1)}, 55},
      {"mad.lo.s64 %rd0, %rd1, %rd2, %rd3;", "", {1ull << 40, 1ull << 20, 9}, (1ull << 60) + 9},
      {"mad.hi.u32 %r0, %r1, %r2, %r3;", of_32, {1u << 31, 8, 5}, 9},
      {"mad.wide.s32 %rd0, %r1, %r2, %rd3;", "", {s32(-1), 4, 10}, 6},
      {"mad.wide.u32 %rd0, %r1, %r2, %rd3;", "", {s32(-1), 4, 1ull << 40}, (1ull << 40) + 0xffff'ffffull * 4},
      {"div.s32 %r0, %r1, %r2;", of_32, {s32(-7), 2, 0}, s32(-3)},
      {"div.u32 %r0, %r1, %r2;", of_32, {s32(-7), 2, 0}, 0xffff'fff9u / 2},
      {"rem.s32 %r0, %r1, %r2;", of_32, {s32(-7), 2, 0}, s32(-1)},
      {"rem.u64 %rd0, %rd1, %rd2;", "", {s64(-7), 10, 0}, 9},
      {"div.s64 %rd0, %rd1, %rd2;", "", {s64(-100), 7, 0}, s64(-14)},
      {"min.s32 %r0, %r1, %r2;", of_32, {s32(-1), 1, 0}, s32(-1)},
      {"min.u32 %r0, %r1, %r2;", of_32, {s32(-1), 1, 0}, 1},
      {"max.s64 %rd0, %rd1, %rd2;", "", {s64(-1), 1, 0}, 1},
      {"max.u16 %h0, %h1, %h2;", of_16, {0xffff, 1, 0}, 0xffff},
      {"abs.s32 %r0, %r1;", of_32, {s32(-5), 0, 0}, 5},
      {"neg.s32 %r0, %r1;", of_32, {5, 0, 0}, s32(-5)},
      {"neg.s64 %rd0, %rd1;", "", {5, 0, 0}, s64(-5)},
      {"add.cc.u32 %r4, %r1, %r2; addc.u32 %r0, %r3, 0;", of_32, {0xffff'ffff, 1, 41}, 42},
      {"add.cc.u32 %r4, %r1, %r2; addc.cc.u32 %r5, %r1, 0; addc.u32 %r0, %r3, 0;", of_32, {0xffff'ffff, 1, 41}, 42},
      {"sub.cc.u32 %r4, %r1, %r2; subc.u32 %r0, %r3, 0;", of_32, {0, 1, 43}, 42},
      {"mad.lo.cc.u32 %r4, %r1, %r2, %r2; madc.hi.u32 %r0, %r1, %r2, %r3;", of_32, {0xffff'ffff, 0xffff'ffff, 7}, 6},
      {"mad.lo.cc.u32 %r4, %r1, %r2, %r1; madc.hi.u32 %r0, %r1, %r2, %r3;", of_32, {0x8000'0000, 3, 0}, 2},
  });
}

TEST_CASE("bits") {
  check_all({
      {"and.b32 %r0, %r1, 255;", of_32, {0x1234, 0, 0}, 0x34},
      {"or.b64 %rd0, %rd1, %rd2;", "", {1ull << 40, 3, 0}, (1ull << 40) | 3},
      {"xor.b16 %h0, %h1, -1;", of_16, {0x1234, 0, 0}, 0xedcb},
      {"not.b32 %r0, %r1;", of_32, {0, 0, 0}, 0xffff'ffff},
      {"cnot.b32 %r0, %r1;", of_32, {0, 0, 0}, 1},
      {"shl.b32 %r0, %r1, %r2;", of_32, {1, 31, 0}, 0x8000'0000},
      {"shl.b32 %r0, %r1, %r2;", of_32, {1, 32, 0}, 0},
      {"shr.u32 %r0, %r1, %r2;", of_32, {s32(-1), 31, 0}, 1},
      {"shr.u32 %r0, %r1, %r2;", of_32, {s32(-1), 40, 0}, 0},
      {"shr.s32 %r0, %r1, %r2;", of_32, {s32(-8), 1, 0}, s32(-4)},
      {"shr.s32 %r0, %r1, %r2;", of_32, {s32(-8), 70, 0}, s32(-1)},
      {"shr.s64 %rd0, %rd1, 2;", "", {s64(-8), 0, 0}, s64(-2)},
      {"popc.b32 %r0, %r1;", of_32, {0xff0f, 0, 0}, 12},
      {"popc.b64 %r0, %rd1;", of_32, {~std::uint64_t{0}, 0, 0}, 64},
      {"clz.b32 %r0, %r1;", of_32, {1, 0, 0}, 31},
      {"clz.b64 %r0, %rd1;", of_32, {0, 0, 0}, 64},
      {"bfind.u32 %r0, %r1;", of_32, {0x900, 0, 0}, 11},
      {"bfind.s32 %r0, %r1;", of_32, {s32(-3), 0, 0}, 1},
      {"bfind.shiftamt.u32 %r0, %r1;", of_32, {1, 0, 0}, 31},
      {"bfind.u32 %r0, %r1;", of_32, {0, 0, 0}, 0xffff'ffff},
      {"brev.b32 %r0, %r1;", of_32, {0x8000'0002, 0, 0}, 0x4000'0001},
      {"bfe.u32 %r0, %r1, %r2, %r3;", of_32, {0xabcd'1234, 8, 8}, 0x12},
      {"bfe.s32 %r0, %r1, %r2, %r3;", of_32, {0x0000'f000, 12, 4}, s32(-1)},
      {"bfe.s32 %r0, %r1, %r2, %r3;", of_32, {0x8000'0000, 28, 8}, 0xffff'fff8},
      {"bfe.u32 %r0, %r1, %r2, %r3;", of_32, {0xffff'ffff, 4, 0}, 0},
      {"bfe.u64 %rd0, %rd1, %r2, %r3;", "", {0xabcd'0000'0000'0000ull, 48, 16}, 0xabcd},
      {"bfi.b32 %r0, %r1, %r2, 8, 4;", of_32, {0x5, 0xffff'ffff, 0}, 0xffff'f5ff},
      {"bfi.b64 %rd0, %rd1, %rd2, 32, 32;", "", {0x1234, 0x5678, 0}, 0x1234'0000'5678ull},
      {"bmsk.clamp.b32 %r0, %r1, %r2;", of_32, {4, 8, 0}, 0xff0},
      {"bmsk.clamp.b32 %r0, %r1, %r2;", of_32, {4, 100, 0}, 0xffff'fff0},
      {"shf.l.wrap.b32 %r0, %r1, %r2, %r3;", of_32, {0x8000'0000, 1, 33}, 3},
      {"shf.r.clamp.b32 %r0, %r1, %r2, %r3;", of_32, {5, 9, 32}, 9},
      {"shf.r.wrap.b32 %r0, %r1, %r2, %r3;", of_32, {5, 9, 1}, 0x8000'0002},
      {"lop3.b32 %r0, %r1, %r2, %r3, 150;", of_32, {0xff00'00ff, 0x0ff0'0ff0, 0x1111'1111}, 0xff00'00ffu ^ 0x0ff0'0ff0u ^ 0x1111'1111u},
      {"lop3.b32 %r0, %r1, %r2, %r3, 0xea;", of_32, {0x0f0f, 0x3333, 0x8000}, (0x0f0f & 0x3333) | 0x8000},
      {"prmt.b32 %r0, %r1, %r2, 0x5410;", of_32, {0xaaaa'1234, 0xbbbb'5678, 0}, 0x5678'1234},
      {"prmt.b32 %r0, %r1, %r2, 0x8765;", of_32, {0x0000'0080, 0x4433'2211, 0}, 0xff44'3322},
      {"dp4a.s32.s32 %r0, %r1, %r2, %r3;", of_32, {0xff02'0304, 0x0101'01ff, 10}, s32(-1 + 2 + 3 - 4 + 10)},
  });
}

TEST_CASE("predicates, comparisons and selections") {
  auto const nan = f(std::nanf(""));
  check_all({
      {"setp.lt.s32 %p0, %r1, %r2;", of_predicate, {s32(-1), 1, 0}, 1},
      {"setp.lt.u32 %p0, %r1, %r2;", of_predicate, {s32(-1), 1, 0}, 0},
      {"setp.hi.u32 %p0, %r1, %r2;", of_predicate, {s32(-1), 1, 0}, 1},
      {"setp.eq.s16 %p0, %h1, 3;", of_predicate, {3, 0, 0}, 1},
      {"setp.ge.s64 %p0, %rd1, %rd2;", of_predicate, {s64(-1), 0, 0}, 0},
      {"setp.lt.f32 %p0, %r1, %r2;", of_predicate, {nan, f(1), 0}, 0},
      {"setp.ne.f32 %p0, %r1, %r2;", of_predicate, {nan, f(1), 0}, 0},
      {"setp.neu.f32 %p0, %r1, %r2;", of_predicate, {nan, f(1), 0}, 1},
      {"setp.geu.f32 %p0, %r1, %r2;", of_predicate, {f(0), f(1), 0}, 0},
      {"setp.nan.f32 %p0, %r1, %r1;", of_predicate, {nan, 0, 0}, 1},
      {"setp.num.f32 %p0, %r1, %r1;", of_predicate, {nan, 0, 0}, 0},
      {"setp.gt.f64 %p0, %rd1, 0d3FF0000000000000;", of_predicate, {d(1.5), 0, 0}, 1},
      {"setp.eq.s32 %p1|%p0, %r1, %r2;", of_predicate, {1, 2, 0}, 1},
      {"setp.eq.s32 %p1, %r1, 1; setp.lt.and.s32 %p0, %r1, %r2, %p1;", of_predicate, {1, 2, 0}, 1},
      {"setp.eq.s32 %p1, %r1, 1; setp.lt.and.s32 %p0, %r1, %r2, !%p1;", of_predicate, {1, 2, 0}, 0},
      {"setp.eq.s32 %p1, %r1, 0; setp.lt.or.s32 %p0, %r1, %r2, %p1;", of_predicate, {1, 2, 0}, 1},
      {"setp.eq.s32 %p1, %r1, 1; not.pred %p0, %p1;", of_predicate, {1, 2, 0}, 0},
      {"setp.eq.s32 %p1, %r1, 1; setp.eq.s32 %p2, %r2, 1; xor.pred %p0, %p1, %p2;", of_predicate, {1, 2, 0}, 1},
      {"setp.eq.s32 %p1, %r1, 1; mov.pred %p0, %p1; @!%p0 bra away; mov.u64 %rd4, 5; away:", "mov.u64 %rd0, %rd4;", {1, 0, 0}, 5},
      {"setp.eq.s32 %p1, %r1, 1; selp.b32 %r0, %r2, %r3, %p1;", of_32, {0, 5, 6}, 6},
      {"setp.eq.s32 %p1, %r1, 1; selp.f64 %rd0, 0d3FF0000000000000, %rd2, %p1;", "", {1, 0, 0}, d(1)},
      {"slct.b32.s32 %r0, %r1, %r2, %r3;", of_32, {5, 6, s32(-1)}, 6},
      {"slct.f32.f32 %r0, %r1, %r2, %r3;", of_32, {5, 6, f(-0.0f)}, 5},
      {"testp.finite.f32 %p0, %r1;", of_predicate, {f(INFINITY), 0, 0}, 0},
      {"testp.subnormal.f32 %p0, %r1;", of_predicate, {1, 0, 0}, 1},
  });
}

TEST_CASE("floating point") {
  float const tiny = 1e-40f, third = 1.0f / 3;
  check_all({
      {"add.f32 %r0, %r1, %r2;", of_32, {f(1.5f), f(2.25f), 0}, f(3.75f)},
      {"add.rn.f32 %r0, %r1, 0f3F800000;", of_32, {f(1.5f), 0, 0}, f(2.5f)},
      {"add.f32 %r0, %r1, 1.0;", of_32, {f(1.5f), 0, 0}, f(2.5f)},
      {"add.rz.f32 %r0, %r1, %r2;", of_32, {f(1), f(0x1.8p-24f), 0}, f(1)},
      {"add.rp.f32 %r0, %r1, %r2;", of_32, {f(1), f(0x1p-30f), 0}, f(1 + 0x1p-23f)},
      {"add.rm.f32 %r0, %r1, %r2;", of_32, {f(-1), f(-0x1p-30f), 0}, f(-1 - 0x1p-23f)},
      {"add.ftz.f32 %r0, %r1, %r2;", of_32, {f(tiny), f(0), 0}, f(0)},
      {"add.sat.f32 %r0, %r1, %r2;", of_32, {f(0.75f), f(0.5f), 0}, f(1)},
      {"sub.f64 %rd0, %rd1, %rd2;", "", {d(1), d(0.75), 0}, d(0.25)},
      {"mul.rn.f32 %r0, %r1, %r2;", of_32, {f(third), f(3), 0}, f(third * 3)},
      {"fma.rn.f32 %r0, %r1, %r2, %r3;", of_32, {f(third), f(3), f(-1)}, f(std::fma(third, 3.0f, -1.0f))},
      {"fma.rm.f32 %r0, %r1, %r2, %r3;", of_32, {f(1), f(-0x1p-30f), f(1)}, f(1 - 0x1p-24f)},
      {"fma.rn.f64 %rd0, %rd1, %rd2, %rd3;", "", {d(0.1), d(10), d(-1)}, d(std::fma(0.1, 10.0, -1.0))},
      {"div.rn.f32 %r0, %r1, %r2;", of_32, {f(1), f(3), 0}, f(third)},
      {"div.full.f32 %r0, %r1, %r2;", of_32, {f(6), f(3), 0}, f(2)},
      {"div.rn.f64 %rd0, %rd1, %rd2;", "", {d(1), d(3), 0}, d(1.0 / 3)},
      {"sqrt.rn.f32 %r0, %r1;", of_32, {f(2), 0, 0}, f(std::sqrt(2.0f))},
      {"rcp.rn.f32 %r0, %r1;", of_32, {f(3), 0, 0}, f(third)},
      {"rcp.approx.ftz.f32 %r0, %r1;", of_32, {f(4), 0, 0}, f(0.25f)},
      {"rsqrt.approx.ftz.f32 %r0, %r1;", of_32, {f(4), 0, 0}, f(0.5f)},
      {"rsqrt.approx.f32 %r0, %r1;", of_32, {f(16), 0, 0}, f(0.25f)},
      {"ex2.approx.ftz.f32 %r0, %r1;", of_32, {f(3), 0, 0}, f(8)},
      {"lg2.approx.f32 %r0, %r1;", of_32, {f(8), 0, 0}, f(3)},
      {"sin.approx.f32 %r0, %r1;", of_32, {f(0), 0, 0}, f(0)},
      {"min.f32 %r0, %r1, %r2;", of_32, {f(std::nanf("")), f(2), 0}, f(2)},
      {"max.f32 %r0, %r1, %r2;", of_32, {f(-0.0f), f(0.0f), 0}, f(0.0f)},
      {"min.f32 %r0, %r1, %r2;", of_32, {f(0.0f), f(-0.0f), 0}, f(-0.0f)},
      {"max.NaN.f32 %r0, %r1, %r2;", of_32, {f(std::nanf("")), f(2), 0}, f(std::numeric_limits<float>::quiet_NaN())},
      {"abs.f32 %r0, %r1;", of_32, {f(-2), 0, 0}, f(2)},
      {"neg.f32 %r0, %r1;", of_32, {f(0), 0, 0}, f(-0.0f)},
      {"neg.f64 %rd0, %rd1;", "", {d(1), 0, 0}, d(-1)},
      {"copysign.f32 %r0, %r1, %r2;", of_32, {f(-2), f(3), 0}, f(-3)},
      {"fma.rn.bf16x2 %r0, %r1, %r2, %r3;", of_32, {0x3f80'4000, 0x4040'4040, 0x3f80'0000}, 0x4080'40c0},   // (1, 2) · (3, 3) + (1, 0)
      {"mul.bf16x2 %r0, %r1, %r2;", of_32, {0x3f80'4000, 0x4040'4040, 0}, 0x4040'40c0},
      {"add.f16x2 %r0, %r1, %r2;", of_32, {0x3c00'4000, 0x3c00'3c00, 0}, 0x4000'4200},
      {"add.f16 %h0, %h1, %h2;", of_16, {0x3c00, 0x1000, 0}, 0x3c00},                                        // 1 + 2^-11: a tie, to even
      {"add.f16 %h0, %h1, %h2;", of_16, {0x3c01, 0x1000, 0}, 0x3c02},
      {"max.bf16x2 %r0, %r1, %r2;", of_32, {0xbf80'4000, 0x3f80'4040, 0}, 0x3f80'4040},
      {"neg.bf16x2 %r0, %r1;", of_32, {0x3f80'bf80, 0, 0}, 0xbf80'3f80},
  });
}

TEST_CASE("conversions") {
  check_all({
      {"cvt.s64.s32 %rd0, %r1;", "", {s32(-5), 0, 0}, s64(-5)},
      {"cvt.u64.u32 %rd0, %r1;", "", {s32(-5), 0, 0}, 0xffff'fffb},
      {"cvt.u32.u64 %r0, %rd1;", of_32, {0x1'2345'6789ull, 0, 0}, 0x2345'6789},
      {"cvt.s32.s8 %r0, %r1;", of_32, {0x80, 0, 0}, 0xffff'ff80},
      {"cvt.u16.u32 %h0, %r1;", of_16, {0x1'2345, 0, 0}, 0x2345},
      {"cvt.s8.s32 %r0, %r1;", of_32, {0x1ff, 0, 0}, 0xffff'ffff},
      {"cvt.sat.s8.s32 %r0, %r1;", of_32, {1000, 0, 0}, 127},
      {"cvt.u32.u8 %r0, %r1;", of_32, {0x1ff, 0, 0}, 0xff},
      {"cvt.rn.f32.s32 %r0, %r1;", of_32, {s32(-3), 0, 0}, f(-3)},
      {"cvt.rn.f32.u32 %r0, %r1;", of_32, {0xffff'ffff, 0, 0}, f(0x1p32f)},
      {"cvt.rz.f32.u32 %r0, %r1;", of_32, {0xffff'ffff, 0, 0}, f(0x1p32f - 256)},
      {"cvt.rn.f32.u64 %r0, %rd1;", of_32, {~std::uint64_t{0}, 0, 0}, f(0x1p64f)},
      {"cvt.rn.f64.s64 %rd0, %rd1;", "", {s64(-9), 0, 0}, d(-9)},
      {"cvt.rzi.s32.f32 %r0, %r1;", of_32, {f(-2.75f), 0, 0}, s32(-2)},
      {"cvt.rni.s32.f32 %r0, %r1;", of_32, {f(2.5f), 0, 0}, 2},
      {"cvt.rmi.s32.f32 %r0, %r1;", of_32, {f(-2.25f), 0, 0}, s32(-3)},
      {"cvt.rpi.s32.f32 %r0, %r1;", of_32, {f(2.25f), 0, 0}, 3},
      {"cvt.rzi.s32.f32 %r0, %r1;", of_32, {f(1e20f), 0, 0}, 0x7fff'ffff},
      {"cvt.rzi.u32.f32 %r0, %r1;", of_32, {f(-1), 0, 0}, 0},
      {"cvt.rzi.s32.f32 %r0, %r1;", of_32, {f(std::nanf("")), 0, 0}, 0},
      {"cvt.rzi.u64.f32 %rd0, %r1;", "", {f(1e30f), 0, 0}, ~std::uint64_t{0}},
      {"cvt.rni.f32.f32 %r0, %r1;", of_32, {f(3.5f), 0, 0}, f(4)},
      {"cvt.rmi.f64.f64 %rd0, %rd1;", "", {d(-0.5), 0, 0}, d(-1)},
      {"cvt.sat.f32.f32 %r0, %r1;", of_32, {f(1.5f), 0, 0}, f(1)},
      {"cvt.sat.f32.f32 %r0, %r1;", of_32, {f(std::nanf("")), 0, 0}, f(0)},
      {"cvt.f64.f32 %rd0, %r1;", "", {f(0.1f), 0, 0}, d(static_cast<double>(0.1f))},
      {"cvt.rn.f32.f64 %r0, %rd1;", of_32, {d(0.1), 0, 0}, f(0.1f)},
      {"cvt.rz.f32.f64 %r0, %rd1;", of_32, {d(1 + 0x1.8p-24), 0, 0}, f(1)},
      {"cvt.f32.bf16 %r0, %h1;", of_32, {0x3fc0, 0, 0}, f(1.5f)},
      {"cvt.rn.bf16.f32 %h0, %r1;", of_16, {f(1.00390625f), 0, 0}, 0x3f80},
      {"cvt.rz.bf16.f32 %h0, %r1;", of_16, {f(1.0077f), 0, 0}, 0x3f80},
      {"cvt.f32.f16 %r0, %h1;", of_32, {0x3e00, 0, 0}, f(1.5f)},
      {"cvt.rn.f16.f32 %h0, %r1;", of_16, {f(65520.0f), 0, 0}, 0x7c00},
      {"cvt.rn.bf16x2.f32 %r0, %r1, %r2;", of_32, {f(1), f(2), 0}, 0x3f80'4000},
      {"cvt.rn.f16x2.f32 %r0, %r1, %r2;", of_32, {f(1), f(2), 0}, 0x3c00'4000},
      {"cvt.rn.satfinite.e4m3x2.f32 %h0, %r1, %r2;", of_16, {f(1), f(1000), 0}, 0x387e},
      {"cvt.rn.f16x2.e4m3x2 %r0, %h1;", of_32, {0x387e, 0, 0}, 0x3c00'5f00},
      {"cvt.rna.tf32.f32 %r0, %r1;", of_32, {f(1) + 0x1000, 0, 0}, f(1) + 0x2000},
  });
}

TEST_CASE("moves, vectors and special registers") {
  CHECK_EQ(one("mov.b64 %rd0, {%r1, %r2};", {1, 2, 0}), 0x2'0000'0001ull);
  CHECK_EQ(one("mov.b32 %r0, {%h1, %h2}; cvt.u64.u32 %rd0, %r0;", {1, 2, 0}), 0x2'0001ull);
  CHECK_EQ(one("mov.b64 %rd0, {%h1, %h2, %h3, %h1};", {1, 2, 3}), 0x1'0003'0002'0001ull);
  CHECK_EQ(one("{ .reg .b32 %temp; mov.b64 {%temp, %r0}, %rd1; } cvt.u64.u32 %rd0, %r0;", {0x7'0000'0001ull, 0, 0}), 7);
  CHECK_EQ(one("mov.u32 %r0, WARP_SZ; cvt.u64.u32 %rd0, %r0;", {}), 32);
  std::vector<words> const in(40);
  auto const out = run(kernel_of("mov.u32 %r4, %tid.x; mov.u32 %r5, %laneid; mov.u32 %r6, %ntid.x; mad.lo.s32 %r0, %r4, 100, %r5; "
                                 "mad.lo.s32 %r0, %r6, 100000, %r0;"
                                 "cvt.u64.u32 %rd0, %r0;"),
                       in);
  for (std::uint64_t t = 0; t < in.size(); ++t) CHECK_EQ(out[t], 40 * 100000 + t * 100 + t % 32);
}

TEST_CASE("memory of every kind") {
  // Static shared memory lies behind the dynamic, constants are where they are named, .local is a thread's own.
  std::string const before = R"(
.shared .align 8 .b8 fixed[16];
.global .align 8 .u32 table[3] = {7, 8, 9};
.global .align 8 .u64 to_table[2] = {generic(table)+4, 5};
.const .align 4 .f32 half = 0f3F000000;
)";
  CHECK_EQ(run(kernel_of("ld.global.u32 %r0, [table+4]; ld.const.f32 %r4, [half]; add.f32 %r4, %r4, 0f3F000000; add.s32 %r0, %r0, %r4; "
                         "cvt.u64.u32 %rd0, %r0;",
                         before),
               {{}})
               .front(),
           8 + f(1));
  CHECK_EQ(run(kernel_of("ld.global.u64 %rd1, [to_table]; ld.u32 %r0, [%rd1]; cvt.u64.u32 %rd0, %r0;", before), {{}}).front(), 8);
  CHECK_EQ(
      run(kernel_of("mov.u32 %r4, fixed; st.shared.v2.u32 [%r4+8], {%r1, %r2}; mov.u64 %rd4, fixed; ld.shared.u64 %rd0, [%rd4+8];", before),
          {{1, 2, 0}})
          .front(),
      0x2'0000'0001ull);
  CHECK_EQ(
      one("mov.u64 %rd4, dynamic; st.shared.u32 [%rd4+4], %r1; cvta.shared.u64 %rd5, %rd4; ld.u32 %r0, [%rd5+4]; cvt.u64.u32 %rd0, %r0;",
          {42, 0, 0}),
      42);
  CHECK_EQ(one("mov.u64 %rd4, dynamic; cvta.shared.u64 %rd5, %rd4; st.u32 [%rd5+8], %r1; cvta.to.shared.u64 %rd6, %rd5; ld.shared.u32 %r0, "
               "[%rd6+8]; cvt.u64.u32 %rd0, %r0;",
               {42, 0, 0}),
           42);
  CHECK_EQ(one(".local .align 8 .b8 mine[16]; mov.u64 %rd4, mine; st.local.s16 [%rd4+2], %h1; ld.local.s16 %r0, [mine+2]; cvt.u64.u32 "
               "%rd0, %r0;",
               {0x8000, 0, 0}),
           0xffff'8000);
  CHECK_EQ(one("st.shared.u64 [dynamic], %rd1; ld.shared.u8 %rd0, [dynamic+1];", {0x8180, 0, 0}), 0x81);
  CHECK_EQ(one("st.shared.u64 [dynamic], %rd1; ld.shared.s8 %rd0, [dynamic+1];", {0x8180, 0, 0}), s64(-127));
  CHECK_EQ(one("st.shared.v4.u32 [dynamic+16], {%r1, %r2, %r3, %r1}; ld.shared.v2.u64 {%rd4, %rd0}, [dynamic+16];", {1, 2, 3}),
           0x1'0000'0003ull);
  CHECK_EQ(one("mov.u64 %rd4, dynamic; cvta.shared.u64 %rd5, %rd4; isspacep.shared %p0, %rd5; isspacep.shared %p1, %in; selp.u64 %rd0, 1, "
               "0, %p0; @%p1 mov.u64 %rd0, 2;",
               {}),
           1);
}

TEST_CASE("atomics") {
  std::vector<words> in;
  for (std::uint64_t t = 0; t < 64; ++t) in.push_back({t, 0, 0});
  auto const total = [&](std::string const& update) {
    return run(kernel_of("setp.eq.u32 %p0, %r15, 0; @%p0 st.shared.u32 [dynamic], 5; bar.sync 0;" + update +
                         "bar.sync 0; ld.shared.u32 %r0, [dynamic]; cvt.u64.u32 %rd0, %r0;"),
               in)
        .back();
  };
  CHECK_EQ(total("atom.shared.add.u32 %r4, [dynamic], %r1;"), 5 + 63 * 64 / 2);
  CHECK_EQ(total("red.shared.max.s32 [dynamic], %r1;"), 63);
  CHECK_EQ(total("red.relaxed.cta.shared.or.b32 [dynamic], %r1;"), 63);
  CHECK_EQ(total("atom.shared.inc.u32 %r4, [dynamic], 9;"), (5 + 64) % 10);
  CHECK_EQ(total("atom.shared.cas.b32 %r4, [dynamic], 5, 77;"), 77);
}

TEST_CASE("warps exchange and vote") {
  std::vector<words> in;
  for (std::uint64_t t = 0; t < 64; ++t) in.push_back({t, t % 3, 0});
  auto const expect = [&](char const* body, auto value) {
    INFO(std::string(body));
    auto const out = run(kernel_of(body), in);
    for (std::uint64_t t = 0; t < in.size(); ++t)
      CHECK_EQ(out[t], static_cast<std::uint64_t>(value(static_cast<int>(t / 32 * 32), static_cast<int>(t % 32))));
  };
  expect("shfl.sync.bfly.b32 %r0, %r1, 5, 31, -1; cvt.u64.u32 %rd0, %r0;", [](int w, int l) { return w + (l ^ 5); });
  expect("shfl.sync.idx.b32 %r0, %r1, 7, 31, -1; cvt.u64.u32 %rd0, %r0;", [](int w, int) { return w + 7; });
  expect("shfl.sync.up.b32 %r0|%p0, %r1, 3, 0, -1; cvt.u64.u32 %rd0, %r0; @!%p0 add.u64 %rd0, %rd0, 1000;",
         [](int w, int l) { return l >= 3 ? w + l - 3 : w + l + 1000; });
  expect("shfl.sync.down.b32 %r0|%p0, %r1, 3, 31, -1; cvt.u64.u32 %rd0, %r0; @!%p0 add.u64 %rd0, %rd0, 1000;",
         [](int w, int l) { return l < 29 ? w + l + 3 : w + l + 1000; });
  expect("shfl.sync.idx.b32 %r0, %r1, 1, 0x1c03, -1; cvt.u64.u32 %rd0, %r0;", [](int w, int l) { return w + l / 4 * 4 + 1; });
  expect("setp.eq.s32 %p0, %r2, 0; vote.sync.ballot.b32 %r0, %p0, -1; cvt.u64.u32 %rd0, %r0;", [](int w, int) {
    std::uint32_t bits = 0;
    for (int l = 0; l < 32; ++l) bits |= ((w + l) % 3 == 0 ? 1u : 0u) << l;
    return bits;
  });
  expect("setp.lt.u32 %p1, %r1, 32; vote.sync.all.pred %p0, %p1, -1; selp.u64 %rd0, 1, 0, %p0;", [](int w, int) { return w == 0; });
  expect("setp.eq.s32 %p1, %r1, 40; vote.sync.any.pred %p0, !%p1, -1; selp.u64 %rd0, 1, 0, %p0;", [](int, int) { return 1; });
  expect("match.any.sync.b32 %r0, %r2, -1; cvt.u64.u32 %rd0, %r0;", [](int w, int lane) {
    std::uint32_t bits = 0;
    for (int l = 0; l < 32; ++l) bits |= ((w + l) % 3 == (w + lane) % 3 ? 1u : 0u) << l;
    return bits;
  });
  expect("redux.sync.add.s32 %r0, %r1, -1; cvt.u64.u32 %rd0, %r0;", [](int w, int) { return w * 32 + 31 * 16; });
  expect("redux.sync.max.u32 %r0, %r1, -1; cvt.u64.u32 %rd0, %r0;", [](int w, int) { return w + 31; });
  expect("elect.sync _|%p0, -1; selp.u64 %rd0, 1, 0, %p0;", [](int, int l) { return l == 0; });
}

TEST_CASE("branches, loops, tables and calls") {
  CHECK_EQ(one("mov.u32 %r4, 0; again: add.s32 %r4, %r4, 3; setp.lt.s32 %p0, %r4, %r1; @%p0 bra again; cvt.u64.u32 %rd0, %r4;", {10, 0, 0}),
           12);
  // A label of a scope of inline assembly may be in every such scope.
  CHECK_EQ(one("{ bra done; done: } { add.u64 %rd0, %rd0, 1; bra done; add.u64 %rd0, %rd0, 1; done: } done: add.u64 %rd0, %rd0, 4;", {}),
           5);
  std::string const table =
      "ts: .branchtargets a, b, c; brx.idx %r1, ts; a: mov.u64 %rd0, 10; bra.uni end; b: mov.u64 %rd0, 20; bra.uni end; c: mov.u64 %rd0, "
      "30; end:";
  CHECK_EQ(one(table, {0, 0, 0}), 10);
  CHECK_EQ(one(table, {2, 0, 0}), 30);
  std::string const functions = R"(
.func (.param .b64 func_retval0) times_two(.param .b64 times_two_param_0);
.func (.param .align 8 .b8 func_retval0[16]) pair_of(.param .b64 pair_of_param_0, .param .b32 pair_of_param_1)
{
  .reg .b64 %rd<4>;
  .reg .b32 %r<2>;
  ld.param.u64 %rd0, [pair_of_param_0];
  ld.param.u32 %r0, [pair_of_param_1];
  cvt.u64.u32 %rd2, %r0;
  { .param .b64 param0; st.param.b64 [param0+0], %rd0; .param .b64 retval0;
    call.uni (retval0), times_two, (param0); ld.param.b64 %rd1, [retval0+0]; }
  st.param.v2.b64 [func_retval0+0], {%rd1, %rd2};
  ret;
}
.func (.param .b64 func_retval0) times_two(.param .b64 times_two_param_0)
{
  .reg .b64 %rd<2>;
  ld.param.u64 %rd0, [times_two_param_0];
  shl.b64 %rd1, %rd0, 1;
  st.param.b64 [func_retval0+0], %rd1;
  ret;
}
)";
  CHECK_EQ(run(kernel_of(R"({ // callseq 0, 0
    .reg .b32 temp_param_reg;
    .param .b64 param0;
    .param .b32 param1;
    st.param.b64 [param0+0], %rd1;
    st.param.b32 [param1+0], %r2;
    .param .align 8 .b8 retval0[16];
    call.uni (retval0),
    pair_of,
    (
    param0,
    param1
    );
    ld.param.b64 %rd4, [retval0+0];
    ld.param.b64 %rd5, [retval0+8];
  } // callseq 0
  add.s64 %rd0, %rd4, %rd5;)", functions), {{20, 2, 0}}).front(),
           42);
}

TEST_CASE("what is not known is refused with its line and name") {
  auto const says = [](std::string const& body, char const* what) {
    auto const said = refusal(body);
    INFO(said);
    CHECK(said.find("PTX line 29: ") == 0);
    CHECK(said.find(what) != std::string::npos);
  };
  says("frobnicate.b32 %r0, %r1;", "frobnicate.b32: an instruction that is not known");
  says("add.odd.s32 %r0, %r1, %r2;", "add.odd.s32: a modifier that is not known here: .odd");
  says("add.s64 %rd0, %r1, %rd2;", "narrower");
  says("add.s32 %rd0, %r1, %r2;", "another width");
  says("mov.u32 %r0, %nonsense;", "a special register that is not known: %nonsense");
  says("bra nowhere;", "a label that is not known: nowhere");
  says("wgmma.mma_async.sync.aligned.m64n7k16.f32.bf16.bf16 {%r0, %r1, %r2, %r3}, %rd1, %rd2, 1, 1, 1, 0, 0;",
       "a shape that does not exist");
  says("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%r0, %r1, %r2, %r3}, {%r0, %r1, %r2, %r3}, {%r0, %r1}, {%r0, %r1, %r2, %r3};",
       "not supported");
  says("mbarrier.try_wait.shared::cta.b64 %p0, [%r1], %rd1;", "only .parity is supported");
  says("call.uni absent, ();", "a call of a function that is not here: absent");
}

TEST_CASE("what goes wrong while a thread runs is told with its place") {
  auto const finding = [](std::string const& body, std::uint64_t limit = 10'000) {
    program p(kernel_of(body));
    p.most_instructions = limit;
    std::vector<std::uint64_t> const in{4096, 0, 0};
    std::vector<std::uint64_t> out(1);
    params const all{in.data(), out.data()};
    CHECK_FALSE(p.run("k", {}, 1, 256, &all, sizeof all));
    auto const told = device_model::take_findings();
    return told.empty() ? std::string() : told.front();
  };
  auto const says = [](std::string const& said, char const* what) {
    INFO(said);
    CHECK(said.find(what) == 0);
    CHECK(said.find("PTX line 29") != std::string::npos);
  };
  says(finding("ld.shared.u32 %r0, [dynamic+256];"), "model: ");
  says(finding("st.shared.u32 [dynamic+2], %r1;"), "model: store of 4 bytes");
  says(finding("ld.global.u32 %r0, [%rd2];"), "model: load of 4 bytes");
  says(finding("mov.u64 %rd4, dynamic; cvta.shared.u64 %rd5, %rd4; ld.global.u32 %r0, [%rd5];"),
       "model: load at PTX line 29: a shared address");
#if defined(MOESAIC_SEES_ADDRESSES)
  says(finding("st.global.u32 [%out+8], %r0;"), "model: store at PTX line 29: of 4 bytes of global memory the one at 0 is not addressable");
#endif
  says(finding("forever: bra forever;"), "hang: a thread does not come to an end");
  says(finding("trap;"), "model: trap");
}
