// Rows gathered out of a packed table, of every weight format, against unpacking it weight by weight; and the factor and cap of logits.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/host/embedding.hpp>
#include <moesaic/host/logits.hpp>
#include <moesaic/host/memory.hpp>
#include <support/matrix.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

struct table {
  packed_matrix packed_table;
  host::buffer memory;
};

table make_table(format stored, matrix<float> const& rows) {
  table t;
  t.packed_table = {.stored = stored, .outputs = rows.rows, .inputs = rows.columns};
  t.memory = host::buffer(static_cast<std::size_t>(packed::bytes(t.packed_table)));
  t.packed_table.data = t.memory.data();
  host::pack(
      t.packed_table, 0, [&](int, std::int64_t n, float* row) { std::copy_n(&rows(n, 0), rows.columns, row); }, t.memory.data());
  return t;
}

}  // namespace

TEST_CASE_TEMPLATE("every format: exactly the unpacked weights, rounded to T", T, double, float, bf16) {
  random_stream random(6);
  auto const rows = random_matrix<float>(37, 45, random);
  std::vector<std::int32_t> const ids = {36, 0, 5, 5, 16, 31, 32};
  for (format const stored : {format(dtype::fp32), format(dtype::bf16), format(dtype::fp16), format(dtype::e4m3), format(dtype::int8),
                              format(dtype::int4), format(dtype::int4, 32, true), format(dtype::mxfp4)}) {
    CAPTURE(name(stored.type));
    auto const t = make_table(stored, rows);
    host::pool pool(2);
    matrix<T> x(static_cast<std::int64_t>(ids.size()), rows.columns);
    REQUIRE(host::embed<T>(pool, t.packed_table, ids, x.view()));
    auto scaled = x;
    REQUIRE(host::embed<T>(pool, t.packed_table, ids, scaled.view(), nullptr, 6.928203230275509));
    for (std::int64_t r = 0; r < x.rows; ++r)
      for (std::int64_t c = 0; c < x.columns; ++c) {
        auto const weight = host::unpack(t.packed_table, 0, 0, ids[static_cast<std::size_t>(r)], c);
        CHECK(static_cast<float>(x(r, c)) == static_cast<float>(static_cast<T>(weight)));
        auto const product = static_cast<accumulator<T>>(6.928203230275509) * static_cast<accumulator<T>>(weight);
        CHECK(scaled(r, c) == static_cast<T>(product));                // rounded once, not the rounded row again
        if (stored.type == dtype::fp32) CHECK(weight == rows(ids[static_cast<std::size_t>(r)], c));
      }
  }
}

TEST_CASE_TEMPLATE("logits: a factor, then a soft cap, in place", T, double, float) {
  random_stream random(8);
  auto before = random_matrix<T>(3, 9001, random);
  for (auto& z : before.data) z *= 20;
  for (auto const& [scale, cap] : {std::pair{0.5, 0.0}, {1.0, 30.0}, {0.577, 5.0}}) {
    host::pool pool(2);
    auto x = before;
    host::scale_and_cap(pool, scale, cap, x.view());
    std::int64_t wrong = 0;
    for (std::size_t i = 0; i < x.data.size(); ++i) {
      auto const z = scale * static_cast<double>(before.data[i]);
      auto const want = cap == 0 ? z : cap * std::tanh(z / cap);
      wrong += !(std::fabs(static_cast<double>(x.data[i]) - want) <= sum_tolerance<T>(8) * std::fabs(z));
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("an id outside the vocabulary, and a shape that does not fit, are refused with numbers; nothing is written") {
  random_stream random(7);
  auto const t = make_table(dtype::fp32, random_matrix<float>(37, 8, random));
  host::pool pool;
  matrix<float> x(2, 8);
  for (std::int32_t const id : {37, -1}) {
    auto const done = host::embed<float>(pool, t.packed_table, std::vector<std::int32_t>{0, id}, x.view());
    CHECK(done.code == status_code::out_of_range);
    CHECK(done.expected == 37);
    CHECK(done.found == id);
  }
  CHECK(host::embed<float>(pool, t.packed_table, std::vector<std::int32_t>{0}, x.view()).code == status_code::invalid_argument);
  CHECK(std::all_of(x.data.begin(), x.data.end(), [](float v) { return v == 0.0f; }));
}
