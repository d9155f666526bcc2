// Matrix instructions of the device model: descriptors, sums of 14 bits, groups under way, and what is found when they are misused. That
// products and layouts are right is shown by tests/conformance.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include <moesaic/base/floats.hpp>
#include <moesaic/base/random.hpp>

#include "matrix.hpp"
#include "matrix_operand.hpp"
#include "matrix_product.hpp"
#include "threads.hpp"

namespace {

using namespace moesaic;
using namespace moesaic::device;
using namespace moesaic::device_model;

constexpr char const* file = "matrix_test.cpp";

// --- descriptors ----------------------------------------------------------------------------------------------------------------------

std::string wrong(std::uint64_t descriptor, major m = major::k, int extent = 64) {
  operand o;
  return decode(descriptor, m, extent, o);
}
bool says(std::string const& text, char const* part) { return text.find(part) != std::string::npos; }

TEST_CASE("a descriptor is taken apart into what it was made of") {
  for (auto const s : {swizzle::none, swizzle::b32, swizzle::b64, swizzle::b128}) {
    operand o;
    CHECK(decode(wgmma_descriptor(0x2'0000, 4096, 2048, s), major::mn, 128, o).empty());
    CHECK(o == operand{0x2'0000, 4096, 2048, s, major::mn, 128});
  }
}

TEST_CASE("descriptors that no layout has are refused") {
  auto const good = wgmma_descriptor(2048, 16, 1024, swizzle::b128);
  CHECK(wrong(good).empty());
  for (int const bit : {14, 15, 30, 31, 46, 47, 48, 52, 61}) CHECK(says(wrong(good | 1ull << bit), "bits set that have no meaning"));
  CHECK(says(wrong(good | 1ull << 49), "base offset"));
  CHECK(says(wrong(wgmma_descriptor(2048 + 128, 16, 1024, swizzle::b128)), "not in the first row of a swizzle's tile of 1024"));
  CHECK(says(wrong(wgmma_descriptor(2048 + 64, 16, 512, swizzle::b64)), "not in the first row of a swizzle's tile of 512"));
  CHECK(says(wrong(wgmma_descriptor(2048 + 112, 16, 1024, swizzle::b128)), "step of K leaves"));
  CHECK(wrong(wgmma_descriptor(2048 + 96, 16, 1024, swizzle::b128)).empty());
  CHECK(says(wrong(wgmma_descriptor(2048, 16, 1008, swizzle::b128)), "stride of 1008 bytes is not whole tiles"));
  CHECK(wrong(wgmma_descriptor(2048, 16, 1008, swizzle::b128), major::k, 8).empty());
  CHECK(says(wrong(wgmma_descriptor(2048, 128, 1024, swizzle::b128), major::mn, 128), "leading offset of 128 bytes is not whole tiles"));
  CHECK(wrong(wgmma_descriptor(2048, 128, 1024, swizzle::b128), major::mn, 64).empty());
  CHECK(says(wrong(wgmma_descriptor(2048 + 16, 1024, 1024, swizzle::b128), major::mn, 64), "rows leave the swizzle's width"));
  CHECK(wrong(wgmma_descriptor(2048 + 16, 1024, 1024, swizzle::b128), major::mn, 56).empty());
}

// --- sums -----------------------------------------------------------------------------------------------------------------------------

TEST_CASE("e4m3 can be summed as Hopper does it, in 14 bits") {
  std::byte a[16][32] = {}, b[8][32] = {};
  auto const one_row = [&](float first, float others, float sum, e4m3_sums how) {
    for (int k = 0; k < 32; ++k) {
      a[0][k] = std::byte{e4m3(k == 0 ? first : others).bits};
      b[0][k] = std::byte{e4m3(1.0f).bits};
    }
    std::uint32_t d[16 * 8] = {bit_cast<std::uint32_t>(sum)};
    multiply(dtype::e4m3, 16, 8, a, b, d, how);
    return bit_cast<float>(d[0]);
  };
  // 2^-6 lies below the last of 14 bits of 256; 2^-5 is that bit.
  CHECK(one_row(256, 0x1p-6f, 0, e4m3_sums::fp32) == 256 + 31 * 0x1p-6f);
  CHECK(one_row(256, 0x1p-6f, 0, e4m3_sums::bits14) == 256);
  CHECK(one_row(256, 0x1p-5f, 0, e4m3_sums::bits14) == 256 + 31 * 0x1p-5f);
  CHECK(one_row(1, 1, 8192, e4m3_sums::bits14) == 8192 + 32);
  CHECK(one_row(1, 1, 16384, e4m3_sums::bits14) == 16384);
  CHECK(one_row(1, 1, 16384, e4m3_sums::fp32) == 16384 + 32);
  CHECK(one_row(-1, -1, -16384, e4m3_sums::bits14) == -16384);
  CHECK(one_row(448, -448, 448, e4m3_sums::bits14) == 448 - 30 * 448);
  CHECK(one_row(1, -1, 30, e4m3_sums::bits14) == 0);
  CHECK(std::isnan(one_row(std::numeric_limits<float>::quiet_NaN(), 1, 0, e4m3_sums::bits14)));
}

// --- wgmma under way --------------------------------------------------------------------------------------------------------------------

// Operands of bf16, 64 by 64 each, rows along K: a at 0, all ones, b at 8192, all twos. One step of K adds 32.
constexpr std::size_t room = 16384;
constexpr float step_of_k = 32;

void fill(int threads = 128) {
  auto* const words = reinterpret_cast<std::uint32_t*>(shared_memory());
  for (int i = thread_id(); i < 4096; i += threads) words[i] = i < 2048 ? 0x3f80'3f80u : 0x4000'4000u;
  fence_proxy_async();
  block_sync();
}
std::uint64_t of_a() { return wgmma_descriptor(shared_address(shared_memory()), 16, 1024, swizzle::b128); }
std::uint64_t of_b() { return wgmma_descriptor(shared_address(shared_memory() + 8192), 16, 1024, swizzle::b128); }
constexpr int in_product = __LINE__ + 1;
[[gnu::noinline]] void product(float (&d)[32], bool add = true) { device::wgmma<dtype::bf16, 64>(d, of_a(), of_b(), add); }
constexpr shape one_group{{}, 128, room}, two_groups{{}, 256, room};

/// Registers that hold the same, in one piece.
bool all_are(float const (&d)[32], float value) {
  for (float const x : d)
    if (x != value) return false;
  return true;
}

TEST_CASE("groups come back in order, and sums of several steps together") {
  check_right(one_group, [] {
    fill();
    float d[32], e[32];
    for (int i = 0; i < 32; ++i) d[i] = 1, e[i] = 5;
    device::wgmma_fence();
    product(d);
    product(d);
    device::wgmma_commit_group();
    product(e, false);
    device::wgmma_commit_group();
    wgmma_wait_group<1>();
    CHECK(all_are(d, 1 + 2 * step_of_k));
    CHECK(!all_are(e, 5));
    CHECK(!all_are(e, step_of_k));
    wgmma_wait_group<0>();
    CHECK(all_are(e, step_of_k));
    // Sums under way in two groups come back when the second has been waited for.
    device::wgmma_fence();
    product(d, false);
    device::wgmma_commit_group();
    product(d);
    device::wgmma_commit_group();
    wgmma_wait_group<1>();
    product(d);
    device::wgmma_commit_group();
    wgmma_wait_group<0>();
    CHECK(all_are(d, 3 * step_of_k));
  });
}

TEST_CASE("two warpgroups have groups of their own") {
  check_right(two_groups, [] {
    fill(256);
    float d[32] = {};
    device::wgmma_fence();
    product(d);
    if (warpgroup_id() == 1) product(d);
    device::wgmma_commit_group();
    wgmma_wait_group<0>();
    CHECK(all_are(d, step_of_k * static_cast<float>(1 + warpgroup_id())));
  });
}

TEST_CASE("an interpreter's registers lie anywhere and may be copied under way") {
  check_right(one_group, [] {
    fill();
    constexpr internal::wgmma_shape shape{dtype::bf16, 64};
    std::uint32_t first[64], second[64];
    void *of_first[32], *of_second[32];
    for (int i = 0; i < 32; ++i) of_first[i] = &first[63 - 2 * i], of_second[i] = &second[2 * i], first[63 - 2 * i] = 0;
    internal::wgmma_fence();
    internal::wgmma(shape, {nullptr, of_first}, of_a(), of_b(), true);
    for (int i = 0; i < 32; ++i) second[2 * i] = first[63 - 2 * i];
    internal::wgmma(shape, {nullptr, of_second}, of_a(), of_b(), true);
    internal::wgmma_commit_group();
    std::vector<internal::returned> back;
    internal::wgmma_wait_group(0, &back);
    CHECK(back.size() == 32);
    for (std::size_t i = 0; i < back.size(); ++i) {
      CHECK(back[i].signature == second[2 * i]);
      CHECK(back[i].value == bit_cast<std::uint32_t>(2 * step_of_k));
    }
    std::vector<internal::returned>().swap(back);
  });
}

TEST_CASE("wgmma without a fence is found") {
  check_found(findings_of(one_group, {}, [] {
                fill();
                float d[32] = {};
                product(d);
                device::wgmma_commit_group();
                wgmma_wait_group<0>();
              }),
              "without wgmma_fence before the kernel's first one", file, in_product);
  int const line = __LINE__ + 7;
  check_found(findings_of(one_group, {}, [] {
                fill();
                float d[32] = {};
                device::wgmma_fence();
                product(d);
                device::wgmma_commit_group();
                wgmma_wait_group<0>();
                for (float& x : d) x *= 2;
                product(d);
                device::wgmma_commit_group();
                wgmma_wait_group<0>();
              }),
              "without wgmma_fence since wgmma_wait_group at", file, in_product, line);
}

TEST_CASE("wgmma that nobody waits for is found") {
  check_found(findings_of(one_group, {}, [] {
                fill();
                float d[32] = {};
                device::wgmma_fence();
                product(d);
              }),
              "is not committed when the kernel ends", file, in_product);
  check_found(findings_of(one_group, {}, [] {
                fill();
                float d[32] = {};
                device::wgmma_fence();
                product(d);
                device::wgmma_commit_group();
                wgmma_wait_group<1>();
              }),
              "is not waited for when the kernel ends", file, in_product);
}

TEST_CASE("touching what wgmma has under way is found, under every delivery") {
  for (auto const when : deliveries) {
    int line = __LINE__ + 7;
    check_found(findings_of(one_group, {.when = when}, [] {
                  fill();
                  float d[32] = {};
                  device::wgmma_fence();
                  product(d);
                  device::wgmma_commit_group();
                  if (thread_id() == 77) d[31] += 1;
                  wgmma_wait_group<0>();
                }),
                "accumulators of wgmma at", file, in_product, line + 1);
    check_found(findings_of(one_group, {.when = when}, [] {
                  fill();
                  float d[32] = {};
                  device::wgmma_fence();
                  product(d);
                  for (float& x : d) x *= 0.5f;
                  product(d);
                  device::wgmma_commit_group();
                  wgmma_wait_group<0>();
                }),
                "seen by wgmma at", file, in_product);
    line = __LINE__ + 6;
    check_found(findings_of(one_group, {.when = when}, [] {
                  fill();
                  float d[32] = {};
                  std::uint32_t a[4] = {0x3f80'3f80u, 0x3f80'3f80u, 0x3f80'3f80u, 0x3f80'3f80u};
                  device::wgmma_fence();
                  device::wgmma<dtype::bf16, 64>(d, a, of_b(), true);
                  device::wgmma_commit_group();
                  a[2] = 0;
                  wgmma_wait_group<0>();
                }),
                "registers of operand a of wgmma at", file, line, line + 3);
    for (int const at : {0, 8192}) {
      line = __LINE__ + 8;
      check_found(findings_of(one_group, {.when = when}, [at] {
                    fill();
                    float d[32] = {};
                    device::wgmma_fence();
                    product(d);
                    device::wgmma_commit_group();
                    if (lane_id() == 0) shared_memory()[at + 1024 * (at == 0 ? 2 * warp_id() : 0)] = std::byte{1};
                    wgmma_wait_group<0>();
                  }),
                  at == 0 ? "operand a of wgmma at" : "operand b of wgmma at", file, in_product, line);
    }
  }
}

TEST_CASE("sums under way are neither operands nor sums of another shape") {
  check_found(findings_of(one_group, {}, [] {
                fill();
                float d[32] = {}, e[16] = {};
                device::wgmma_fence();
                product(d);
                for (int i = 0; i < 16; ++i) e[i] = d[i + 16];
                device::wgmma<dtype::bf16, 32>(e, of_a(), of_b(), true);
                device::wgmma_commit_group();
                wgmma_wait_group<0>();
              }),
              "what it adds to is an accumulator that wgmma at");
  check_found(findings_of(one_group, {}, [] {
                fill();
                float d[32] = {};
                device::wgmma_fence();
                product(d);
                internal::wgmma({dtype::fp16, 64}, {d}, of_a(), of_b(), true);
              }),
              "of another shape, before wgmma_wait_group");
  check_found(findings_of(one_group, {}, [] {
                fill();
                float d[32] = {}, e[32] = {};
                std::uint32_t a[4] = {};
                device::wgmma_fence();
                product(d);
                for (int i = 0; i < 4; ++i) a[i] = bit_cast<std::uint32_t>(d[i]);
                device::wgmma<dtype::bf16, 64>(e, a, of_b(), true);
                device::wgmma_commit_group();
                wgmma_wait_group<0>();
              }),
              "operand a is an accumulator that wgmma at");
}

TEST_CASE("lanes and warps that ask for different products are found") {
  check_found(findings_of(one_group, {}, [] {
                fill();
                float d[32] = {};
                device::wgmma_fence();
                device::wgmma<dtype::bf16, 64>(d, of_a() + (thread_id() == 9 ? 2u : 0u), of_b(), true);
              }),
              "lanes of a warp give wgmma at");
  check_found(findings_of(one_group, {}, [] {
                fill();
                float d[32] = {};
                device::wgmma_fence();
                device::wgmma<dtype::bf16, 64>(d, of_a() + (warp_id() == 2 ? 2u : 0u), of_b(), true);
              }),
              "warps of a warpgroup give different shapes or descriptors");
  check_found(findings_of(one_group, {}, [] {
                fill();
                float d[32] = {};
                device::wgmma_fence();
                if (warp_id() != 3) product(d);
                device::wgmma_commit_group();
                wgmma_wait_group<0>();
              }),
              "warps of a warpgroup do different things: one");
  check_found(findings_of(one_group, {}, [] {
                fill();
                if (warp_id() == 3) return;
                float d[32] = {};
                device::wgmma_fence();
                product(d);
                device::wgmma_commit_group();
                wgmma_wait_group<0>();
              }),
              "by some warps of a warpgroup only");
  check_found(findings_of({{}, 96, room}, {}, [] {
                fill(96);
                device::wgmma_fence();
              }),
              "by a warpgroup of fewer than four warps");
  check_found(findings_of({}, {}, [] {
                std::uint32_t r[4] = {};
                if (lane_id() < 30) ldmatrix<4>(r, shared_memory());
                else ldmatrix_trans<4>(r, shared_memory());
              }),
              "lanes of a warp ask for different ldmatrix or stmatrix");
}

TEST_CASE("operands that are not there and shapes that do not exist are found") {
  check_found(findings_of(one_group, {}, [] {
                fill();
                float d[32] = {};
                device::wgmma_fence();
                device::wgmma<dtype::bf16, 64>(d, of_a(), wgmma_descriptor(shared_address(shared_memory() + 9216), 16, 1024, swizzle::b128),
                                               true);
              }),
              "operand b reaches out of the block's shared memory");
  check_found(findings_of(one_group, {}, [] {
                fill();
                float d[32] = {};
                device::wgmma_fence();
                device::wgmma<dtype::bf16, 64>(d, of_a() + 8, of_b(), true);
              }),
              "operand a: matrix descriptor starts at");
  check_found(findings_of(one_group, {}, [] {
                fill();
                std::uint32_t d[20] = {};
                internal::wgmma_fence();
                internal::wgmma({dtype::int8, 40}, {d}, of_a(), of_b(), true);
              }),
              "with N of 40, which int8 has not");
  check_found(findings_of(one_group, {}, [] {
                fill();
                std::uint32_t d[32] = {};
                internal::wgmma_fence();
                internal::wgmma({dtype::e4m3, 64, major::k, major::mn}, {d}, of_a(), of_b(), true);
              }),
              "of 8-bit types with rows along M or N");
  int const line = __LINE__ + 3;
  check_found(findings_of({{}, 32, 1024}, {}, [] {
                std::uint32_t r[1] = {};
                ldmatrix<1>(r, shared_memory() + 8);
              }),
              "ldmatrix", file, line);
  check_found(findings_of({{}, 32, 1024}, {}, [] {
                std::uint32_t r[2] = {};
                stmatrix<2>(shared_memory() + 1024, r);
              }),
              "stmatrix");
}

TEST_CASE("sums of 14 bits are an option of a launch") {
  for (bool const cut : {false, true}) {
    auto const found = findings_of({}, {.e4m3_14_bits = cut}, [cut] {
      std::uint32_t const ones = 0x3838'3838u;
      std::uint32_t const a[4] = {ones, ones, ones, ones}, b[2] = {ones, ones};
      float d[4] = {16384, 16384, 16384, 16384};
      mma_sync<dtype::e4m3>(d, a, b);
      for (float const x : d) CHECK(x == (cut ? 16384.0f : 16416.0f));
    });
    CHECK_MESSAGE(found.empty(), found);
  }
}

}  // namespace
