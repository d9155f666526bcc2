// host/pack.hpp: what comes out of the packed layout is what base/groups.hpp makes of the weights, for every format and ragged shape.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <moesaic/base/floats.hpp>
#include <moesaic/base/groups.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/base/random.hpp>
#include <moesaic/host/pack.hpp>
#include <moesaic/host/set_up.hpp>

using namespace moesaic;

namespace {

format const formats[] = {dtype::fp32,       dtype::bf16,      dtype::fp16,         dtype::e4m3,
                          {dtype::e4m3, 16}, {dtype::e4m3, 48}, dtype::int8,        {dtype::int8, 128},
                          {dtype::int8, 0},  dtype::int4,      {dtype::int4, 64},   {dtype::int4, 0},
                          {dtype::int4, 32, true},             {dtype::int4, 0, true}, dtype::mxfp4};

std::string text_of(packed_matrix const& m) {
  return std::string(name(m.stored.type)) + " group " + std::to_string(m.stored.group) + (m.stored.zero_point ? " zero point" : "") + ", " +
         std::to_string(m.count) + " of " + std::to_string(m.parts) + " parts [" + std::to_string(m.outputs) + ", " +
         std::to_string(m.inputs) + "]";
}

// All weights of `count` matrices: [count, parts, outputs, inputs], no zeros.
struct weights {
  packed_matrix m;
  std::vector<float> values;

  explicit weights(packed_matrix const& shape)
      : m(shape), values(static_cast<std::size_t>(shape.count * shape.parts * shape.outputs * shape.inputs)) {
    random_stream random(static_cast<std::uint64_t>(shape.outputs * 1000 + shape.inputs));
    for (auto& w : values) w = (random.below(2) == 0 ? -1.0f : 1.0f) * (0.01f + random.uniform());
  }
  float* part(std::int64_t index, int which) { return values.data() + (index * m.parts + which) * m.outputs * m.inputs; }
  auto source(std::int64_t index) {
    return [this, index](int which, std::int64_t output, float* row) {
      std::memcpy(row, part(index, which) + output * m.inputs, static_cast<std::size_t>(m.inputs) * sizeof(float));
    };
  }
  std::vector<std::byte> packed_bytes() {
    std::vector<std::byte> out(static_cast<std::size_t>(packed::bytes(m)), std::byte{0xa5});
    for (std::int64_t i = 0; i < m.count; ++i) host::pack(m, i, source(i), out.data());
    return out;
  }
};

template <dtype D>
void quantize_and_back(format f, view<float> w) {
  auto const group = groups::extent_of(f);
  auto const shape = groups::scales_of(w.rows, w.columns, group);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(w.rows * w.columns));
  std::vector<group_scale> scales(static_cast<std::size_t>(shape.rows * shape.inputs));
  view<std::uint8_t> const c(codes.data(), w.rows, w.columns);
  view<group_scale> const s(scales.data(), shape.rows, shape.inputs);
  groups::quantize<D>(view<const float>(w), group, c, s, f.zero_point);
  groups::dequantize<D>(view<const std::uint8_t>(c), view<const group_scale>(s), group, w, f.zero_point);
}

// What storing does to a part [outputs, inputs].
void store(format f, view<float> w) {
  switch (f.type) {
    case dtype::e4m3: return quantize_and_back<dtype::e4m3>(f, w);
    case dtype::int8: return quantize_and_back<dtype::int8>(f, w);
    case dtype::int4: return quantize_and_back<dtype::int4>(f, w);
    case dtype::mxfp4: return quantize_and_back<dtype::mxfp4>(f, w);
    default: break;
  }
  for (std::int64_t i = 0; i < w.rows * w.columns; ++i)
    w.data[i] = f.type == dtype::bf16 ? bf16(w.data[i]) : f.type == dtype::fp16 ? fp16(w.data[i]) : w.data[i];
}

template <class F>
void for_each_shape(F f) {
  for (auto const& stored : formats)
    for (std::int64_t inputs : {1, 31, 33, 100, 130})
      for (std::int64_t outputs : {1, 17, 40, 130})
        for (int parts : {1, 2})
          for (std::int64_t count : {1, 3}) f(packed_matrix{stored, outputs, inputs, parts, count, nullptr});
}

// The sentence of the error that packing throws.
std::string error_of(packed_matrix const& m, std::int64_t index = 0, float weight = 1, std::int64_t first = 0, std::int64_t last = -1) {
  auto safe = m;
  safe.stored = dtype::fp32;   // the largest format: `out` is never too small
  std::vector<std::byte> out(static_cast<std::size_t>(std::max<std::int64_t>(packed::bytes(safe), 1)));
  auto const source = [&](int part, std::int64_t output, float* row) {
    for (std::int64_t k = 0; k < m.inputs; ++k) row[k] = part == m.parts - 1 && output == 5 && k == 3 ? weight : 1.0f;
  };
  try {
    host::pack_pairs(m, index, source, out.data(), first, last < 0 ? packed::pairs(safe) : last);
  } catch (error const& e) {
    return e.what();
  }
  return "";
}

bool has(std::string const& text, std::string const& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("rows of a pair of panels: the index map reaches every 64 bytes once") {
  for (std::int64_t rows = 1; rows <= 100; ++rows) {
    std::vector<int> seen(static_cast<std::size_t>(2 * rows), 0);
    for (int panel = 0; panel < 2; ++panel)
      for (std::int64_t r = 0; r < rows; ++r) {
        auto const at = packed::row_offset(r, panel, rows);
        REQUIRE(at % packed::row_bytes == 0);
        REQUIRE(at >= 0);
        REQUIRE(at < 2 * rows * packed::row_bytes);
        ++seen[static_cast<std::size_t>(at / packed::row_bytes)];
      }
    REQUIRE(std::count(seen.begin(), seen.end(), 1) == 2 * rows);
  }
  std::vector<int> nibbles;
  for (int i = 0; i < 8; ++i) nibbles.push_back(packed::nibble_of(i));
  CHECK(nibbles == std::vector<int>{0, 4, 1, 5, 2, 6, 3, 7});
}

TEST_CASE("packing and unpacking gives what quantising and dequantising gives") {
  for_each_shape([](packed_matrix m) {
    weights w(m);
    auto const out = w.packed_bytes();
    m.data = out.data();
    INFO(text_of(m));
    std::int64_t wrong = 0;
    std::vector<float> row(static_cast<std::size_t>(m.inputs));
    for (std::int64_t i = 0; i < m.count; ++i)
      for (int part = 0; part < m.parts; ++part) {
        view<float> const expected(w.part(i, part), m.outputs, m.inputs);
        store(m.stored, expected);
        for (std::int64_t n = 0; n < m.outputs; ++n) {
          host::unpack_row(m, i, part, n, row.data());
          for (std::int64_t k = 0; k < m.inputs; ++k) {
            auto const bits = std::bit_cast<std::uint32_t>(expected(n, k));
            wrong += std::bit_cast<std::uint32_t>(host::unpack(m, i, part, n, k)) != bits;
            wrong += std::bit_cast<std::uint32_t>(row[static_cast<std::size_t>(k)]) != bits;
          }
        }
      }
    CHECK(wrong == 0);
  });
}

TEST_CASE("weights and scales lie where base/packed.hpp says, and everything else is zero") {
  for_each_shape([](packed_matrix m) {
    weights w(m);
    auto out = w.packed_bytes();
    INFO(text_of(m));
    auto const width = bits(m.stored.type), per_lane = 32 / width;
    auto const rows = packed::rows(m.stored.type, m.inputs), groups = packed::groups(m.stored, m.inputs);
    auto const pair_bytes = packed::pair_bytes(m.stored, m.inputs);
    REQUIRE(static_cast<std::int64_t>(out.size()) == m.count * packed::pairs(m) * pair_bytes);
    REQUIRE(pair_bytes % 64 == 0);

    // Every code and scale is counted when it is not zero, then wiped; nothing may remain.
    std::int64_t codes = 0, scales = 0;
    for (std::int64_t i = 0; i < m.count; ++i)
      for (int part = 0; part < m.parts; ++part)
        for (std::int64_t n = 0; n < m.outputs; ++n) {
          auto const pair = m.parts == 2 ? n / 16 : n / 32;
          auto const panel = m.parts == 2 ? part : static_cast<int>(n % 32 / 16);
          auto* const base = out.data() + (i * packed::pairs(m) + pair) * pair_bytes;
          for (std::int64_t k = 0; k < m.inputs; ++k) {
            std::uint32_t lane;
            auto* const at = base + packed::row_offset(k / per_lane, panel, rows) + n % 16 * 4;
            std::memcpy(&lane, at, 4);
            auto const place = static_cast<int>(k % per_lane);
            auto const shift = width == 4 ? 4 * (place % 2 == 0 ? place / 2 : 4 + place / 2) : width * place;
            auto const mask = (width == 32 ? 0xffffffffu : (1u << width) - 1u) << shift;
            codes += (lane & mask) != 0;
            lane &= ~mask;
            std::memcpy(at, &lane, 4);
          }
          auto* const after = base + rows * 128;
          for (std::int64_t g = 0; g < groups; ++g) {
            auto const index = g * 32 + panel * 16 + n % 16;
            auto const size = m.stored.type == dtype::mxfp4 ? 1 : 4;
            scales += std::any_of(after + index * size, after + (index + 1) * size, [](std::byte b) { return b != std::byte{0}; });
            std::fill(after + index * size, after + (index + 1) * size, std::byte{0});
            if (m.stored.zero_point) after[packed::scale_bytes(m.stored, m.inputs) + index] = std::byte{0};
          }
        }
    CHECK(scales == m.count * m.parts * m.outputs * groups);
    if (!has_scales(m.stored.type)) CHECK(codes == static_cast<std::int64_t>(w.values.size()));
    CHECK(codes > 0);
    CHECK(std::all_of(out.begin(), out.end(), [](std::byte b) { return b == std::byte{0}; }));
  });
}

TEST_CASE("bytes of one pair, by hand") {
  // 100 inputs: rows of 16 lanes, two panels; scales [groups][2][16], padded to 64 bytes.
  CHECK(packed::pair_bytes(dtype::fp32, 100) == 100 * 128);
  CHECK(packed::pair_bytes(dtype::bf16, 100) == 50 * 128);
  CHECK(packed::pair_bytes(dtype::int8, 100) == 25 * 128 + 4 * 128);
  CHECK(packed::pair_bytes(dtype::int4, 100) == 13 * 128 + 4 * 128);
  CHECK(packed::pair_bytes({dtype::int4, 0, true}, 100) == 13 * 128 + 128 + 64);
  CHECK(packed::pair_bytes({dtype::int4, 32, true}, 100) == 13 * 128 + 4 * 128 + 4 * 32);
  CHECK(packed::pair_bytes(dtype::mxfp4, 100) == 13 * 128 + 4 * 32);
  CHECK(packed::pair_bytes(dtype::mxfp4, 32) == 4 * 128 + 64);
  CHECK(packed::pair_bytes(dtype::e4m3, 130) == 33 * 128 + 2 * 128);
  CHECK(packed::bytes({dtype::bf16, 33, 2, 1, 5, nullptr}) == 5 * 2 * 128);
  CHECK(packed::bytes({dtype::bf16, 33, 2, 2, 5, nullptr}) == 5 * 3 * 128);
}

TEST_CASE("pairs may be packed one by one, in any order, and touch nothing else") {
  for (auto const& stored : formats)
    for (int parts : {1, 2}) {
      packed_matrix const m{stored, 130, 70, parts, 2, nullptr};
      weights w(m);
      auto const whole = w.packed_bytes();
      std::vector<std::byte> single(whole.size(), std::byte{0x3c});
      auto const pairs = packed::pairs(m), bytes = packed::pair_bytes(stored, m.inputs);
      INFO(text_of(m));
      for (auto index : {1, 0})
        for (auto pair = pairs - 1; pair >= 0; --pair) {
          auto before = single;
          host::pack_pairs(m, index, w.source(index), single.data(), pair, pair + 1);
          auto const at = (index * pairs + pair) * bytes;
          std::copy(single.begin() + at, single.begin() + at + bytes, before.begin() + at);
          CHECK(before == single);
        }
      CHECK(single == whole);
    }
}

TEST_CASE("an error says what was expected, what was found, and where") {
  constexpr auto nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  packed_matrix const m{dtype::bf16, 40, 33, 2, 3, nullptr};
  CHECK(error_of(m) == "");
  for (auto const& stored : formats) {
    auto any = m;
    any.stored = stored;
    CHECK(error_of(any) == "");
    auto const text = error_of(any, 2, nan);
    CHECK(has(text, "found nan in matrix 2 of 3, part 1, output 5, input 3"));
    CHECK(has(text, name(stored.type)));
    CHECK(has(error_of(any, 0, -infinity), "found -inf in matrix 0 of 3, part 1, output 5, input 3"));
  }
  auto half = m;
  half.stored = dtype::fp16;
  CHECK(error_of(half, 0, 65504) == "");
  CHECK(has(error_of(half, 0, 65520), "fp16 can hold, found 65520"));
  CHECK(has(error_of(m, 0, std::numeric_limits<float>::max()), "bf16 can hold"));

  auto const with = [&](format stored) {
    auto wrong = m;
    wrong.stored = stored;
    return error_of(wrong);
  };
  CHECK(has(with({dtype::e4m3, 40}), "multiple of 16 for e4m3, found 40"));
  CHECK(has(with({dtype::e4m3, 0}), "multiple of 16 for e4m3, found 0"));
  CHECK(has(with({dtype::mxfp4, 16}), "group of 32 for mxfp4, found 16"));
  CHECK(has(with({dtype::int8, 30}), "multiple of 4, or 0 for the whole row, for int8, found 30"));
  CHECK(has(with({dtype::int4, 12}), "multiple of 8, or 0 for the whole row, for int4, found 12"));
  CHECK(has(with({dtype::int4, -8}), "found -8"));
  CHECK(has(with({dtype::int8, 32, true}), "only int4 has zero points, found them with int8"));
  CHECK(has(with(dtype::fp64), "found fp64"));
  CHECK(has(with(dtype::e5m2), "found e5m2"));

  CHECK(has(error_of(m, 3), "among 0 .. 2, found 3"));
  CHECK(has(error_of(m, -1), "found -1"));
  CHECK(has(error_of(m, 0, 1, 0, 4), "within 0 .. 3, found 0 .. 4"));
  auto wrong = m;
  wrong.parts = 3;
  CHECK(has(error_of(wrong), "found 3"));
  wrong = m;
  wrong.inputs = 0;
  CHECK(has(error_of(wrong), "found [40, 0]"));
}

TEST_CASE("packing by threads: a failure that passes leaves no row unpacked, one that stays is said of the first rows") {
  packed_matrix m{dtype::bf16, 1100, 20, 1, 1, nullptr};   // five tasks
  std::vector<std::byte> alone(static_cast<std::size_t>(packed::bytes(m))), shared(alone.size());
  auto const row_of = [&](std::int64_t output, float* row) {
    for (std::int64_t k = 0; k < m.inputs; ++k) row[k] = static_cast<float>(output + k);
  };
  host::pack(m, 0, [&](int, std::int64_t output, float* row) { row_of(output, row); }, alone.data());
  m.data = shared.data();
  for (int const threads : {1, 3}) {
    CAPTURE(threads);
    host::pool where(threads);
    std::fill(shared.begin(), shared.end(), std::byte{0xa5});
    std::vector<std::atomic<bool>> asked(static_cast<std::size_t>(m.outputs));
    host::pack(where, m, 0, [&](int, std::int64_t output, float* row) {
      if (output % 300 == 299 && !asked[static_cast<std::size_t>(output)].exchange(true)) throw std::bad_alloc();
      row_of(output, row);
    });
    CHECK(shared == alone);

    std::string said;
    try {
      host::pack(where, m, 0, [&](int, std::int64_t output, float* row) {
        row_of(output, row);
        if (output % 300 == 299) row[7] = std::numeric_limits<float>::quiet_NaN();
      });
    } catch (error const& e) {
      said = e.what();
    }
    CHECK(has(said, "output 299, input 7"));
  }
}
