// cuda/pack.hpp: what comes out of the layout for CUDA is what host::pack stores, element by element, in the bytes that the host's layout takes.
// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <moesaic/base/packed.hpp>
#include <moesaic/base/random.hpp>
#include <moesaic/cuda/layout.hpp>
#include <moesaic/cuda/pack.hpp>
#include <support/products.hpp>

#include "both_packed.hpp"

using namespace moesaic;
namespace places = cuda::layout;

namespace {

constexpr format formats[] = {dtype::fp32,       dtype::bf16,       dtype::fp16,       dtype::e4m3,
                              {dtype::e4m3, 16}, {dtype::e4m3, 48}, dtype::int8,       {dtype::int8, 128},
                              {dtype::int8, 0},  dtype::int4,       {dtype::int4, 64}, {dtype::int4, 48},
                              {dtype::int4, 0},  {dtype::int4, 32, true},              {dtype::int4, 0, true},
                              dtype::mxfp4};

// What the kernels take fits where the host's layout does, for every format.
constexpr bool fits() {
  for (auto const f : formats)
    for (int parts = 1; parts <= 2; ++parts)
      for (std::int64_t const outputs : {1, 2, 7, 8, 15, 16, 17, 24, 31, 32, 33, 100, 128, 129, 2880, 151936})
        for (std::int64_t const inputs : {16, 32, 48, 64, 80, 96, 112, 128, 144, 768, 2880, 7168}) {
          packed_matrix const m{f, outputs, inputs, parts};
          if (places::takes(m) && places::used_bytes(m) > packed::matrix_bytes(m)) return false;
        }
  return true;
}
static_assert(fits());

// Rows of both parts are numbered once each, and the way back is one.
constexpr bool rows_are_numbered(int parts, std::int64_t outputs) {
  for (int part = 0; part < parts; ++part)
    for (std::int64_t output = 0; output < outputs; ++output) {
      auto const row = places::row_of(parts, part, output);
      if (row < 0 || row >= parts * outputs || places::part_of(parts, row) != part || places::output_of(parts, row) != output) return false;
    }
  return true;
}
static_assert(rows_are_numbered(1, 40) && rows_are_numbered(2, 40));

// Every nibble of a stripe belongs to one element, also where fewer than four steps are left.
constexpr bool nibbles_are_numbered(std::int64_t inputs) {
  bool taken[32 * 144] = {};
  for (std::int64_t row = 0; row < 32; ++row)
    for (std::int64_t k = 0; k < inputs; ++k) {
      auto const n = places::nibble_of(static_cast<int>(row % 16), static_cast<int>(k % 16));
      auto const at = places::word_at(inputs, row / 16, k / 16, n.lane) * 2 + n.index;
      if (at < 0 || at >= 32 * inputs || taken[at]) return false;
      taken[at] = true;
    }
  return true;
}
static_assert(nibbles_are_numbered(16) && nibbles_are_numbered(48) && nibbles_are_numbered(64) && nibbles_are_numbered(144));

std::string text_of(packed_matrix const& m) {
  return test::text(m.stored) + ", " + std::to_string(m.count) + " of " + std::to_string(m.parts) + " parts [" + std::to_string(m.outputs) + ", " +
         std::to_string(m.inputs) + "]";
}

}  // namespace

TEST_CASE("a matrix holds what the host's holds") {
  struct {
    std::int64_t outputs, inputs;
    int parts;
    std::int64_t count;
  } const shapes[] = {{1, 16, 1, 1}, {17, 48, 1, 2}, {40, 80, 2, 2}, {33, 144, 1, 1}, {8, 2880, 2, 1}, {136, 128, 2, 1}};
  std::uint64_t seed = 1;
  for (auto const f : formats)
    for (auto const& s : shapes) {
      cuda::stream where;
      test::both_packed const packed_twice(where, {f, s.outputs, s.inputs, s.parts, s.count}, seed++);
      auto const& want = packed_twice.host;
      auto const& got = packed_twice.device;
      CAPTURE(text_of(want));

      std::int64_t unlike = 0;
      for (std::int64_t e = 0; e < s.count; ++e)
        for (int part = 0; part < s.parts; ++part)
          for (std::int64_t output = 0; output < s.outputs; ++output) {
            std::vector<float> row(static_cast<std::size_t>(s.inputs));
            host::unpack_row(want, e, part, output, row.data());
            for (std::int64_t k = 0; k < s.inputs; ++k) unlike += cuda::unpack(got, e, part, output, k) != row[static_cast<std::size_t>(k)];
          }
      CHECK(unlike == 0);
      for (std::int64_t e = 0; e < s.count; ++e)
        for (auto at = places::used_bytes(want); at < packed::matrix_bytes(want); ++at)
          unlike += got.data[e * packed::matrix_bytes(want) + at] != std::byte{0};
      CHECK(unlike == 0);
    }
}

TEST_CASE("int4 codes are stored with 8 added, codes with a zero point as they are") {
  for (bool const zero_point : {false, true}) {
    packed_matrix m{{dtype::int4, 16, zero_point}, 1, 16};
    std::vector<std::byte> bytes(static_cast<std::size_t>(packed::bytes(m)));
    m.data = bytes.data();
    cuda::stream where;
    cuda::pack<dtype::int4>(where, m, 0, [](int, std::int64_t, float* row) {
      for (int k = 0; k < 16; ++k) row[k] = static_cast<float>(k == 0 ? 7 : k == 1 ? -7 : k == 9 ? 3 : 0);
    });
    // Lane 0 holds inputs 0, 1, 8 and 9 of row 0 in nibbles 0, 4, 2 and 6.
    auto const nibble = [&](int n) { return static_cast<int>(bytes[static_cast<std::size_t>(n / 2)]) >> n % 2 * 4 & 15; };
    int const plus = zero_point ? static_cast<int>(bytes[static_cast<std::size_t>(places::zeros_at(m))]) : 8;
    auto const step = cuda::unpack(m, 0, 0, 0, 0) / static_cast<float>(nibble(0) - plus);
    CHECK(cuda::unpack(m, 0, 0, 0, 1) == doctest::Approx(step * static_cast<float>(nibble(4) - plus)));
    CHECK(nibble(2) == plus);
    CHECK(cuda::unpack(m, 0, 0, 0, 9) == doctest::Approx(step * static_cast<float>(nibble(6) - plus)));
  }
}

TEST_CASE("what cannot be packed is refused") {
  float const infinite = std::numeric_limits<float>::infinity();
  auto const zeros = [](int, std::int64_t, float* row) { row[0] = 0; };
  std::vector<std::byte> bytes(1 << 16);
  cuda::stream where;
  auto const refused = [&](packed_matrix m, std::int64_t index) {
    m.data = bytes.data();
    try {
      cuda::pack(where, m, index, zeros);
    } catch (error const& e) {
      return std::string(e.what());
    }
    return std::string("taken");
  };
  CHECK(refused({dtype::bf16, 8, 24}, 0) == "packing: expected inputs that are a multiple of 16 for CUDA, found 24");
  CHECK(refused({dtype::bf16, 12, 32, 2}, 0) == "packing: expected outputs of gate and up that are a multiple of 8 for CUDA, found 12");
  CHECK(refused({dtype::bf16, 8, 32, 1, 2}, 2) == "packing: expected a matrix among 0 .. 1, found 2");
  CHECK(refused({{dtype::mxfp4, 16}, 8, 32}, 0) == "packing: expected a group of 32 for mxfp4, found 16");
  CHECK(refused({dtype::int32, 8, 32}, 0).find("found int32") != std::string::npos);

  packed_matrix m{dtype::bf16, 2, 16};
  m.data = bytes.data();
  CHECK_THROWS_WITH(cuda::pack(where, m, 0, [&](int, std::int64_t output, float* row) {
    for (int k = 0; k < 16; ++k) row[k] = output == 1 && k == 5 ? infinite : 0.0f;
  }), "packing: expected finite weights that bf16 can hold, found inf in matrix 0 of 1, part 0, output 1, input 5");
  CHECK_THROWS_WITH(cuda::pack<dtype::int8>(where, m, 0, zeros), "packing: expected a matrix of int8, found bf16");
}
