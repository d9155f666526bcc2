// Rows gathered out of a packed table, of every weight format, against unpacking it weight by weight.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/host/embedding.hpp>
#include <moesaic/host/memory.hpp>
#include <support/matrix.hpp>

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
    for (std::int64_t r = 0; r < x.rows; ++r)
      for (std::int64_t c = 0; c < x.columns; ++c) {
        auto const weight = host::unpack(t.packed_table, 0, 0, ids[static_cast<std::size_t>(r)], c);
        CHECK(static_cast<float>(x(r, c)) == static_cast<float>(static_cast<T>(weight)));
        if (stored.type == dtype::fp32) CHECK(weight == rows(ids[static_cast<std::size_t>(r)], c));
      }
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
