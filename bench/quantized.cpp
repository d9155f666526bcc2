// Rows of products of codes with codes, e4m3 both: how far from exact sums they are ("error", relative, root mean square) by how they are added:
// exactly in blocks of 128, or in an accumulator of 14 bits, promoted to fp32 every 128 inputs or never. Plain loops: the times are not those of a
// fast path.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <moesaic/base/random.hpp>
#include <moesaic/host/memory.hpp>
#include <moesaic/host/pack.hpp>
#include <moesaic/host/quantized.hpp>

#include "report.hpp"

namespace moesaic::bench {
namespace {

constexpr std::int64_t outputs = 64, inputs = 4096, tokens = 4;  // the inputs of the report's example

// x and w of one sign let sums grow as they do where all tokens share a feature; else sums stay about as large as the root of their length.
void run(benchmark::State& state, host::code_sums sums, bool one_sign) {
  host::pool pool(1);
  random_stream random(1);
  auto const number = [&] { return one_sign ? std::fabs(random.normal()) : random.normal(); };
  std::vector<float> weights(static_cast<std::size_t>(outputs * inputs)), x(static_cast<std::size_t>(tokens * inputs));
  for (auto& w : weights) w = 0.02f * number();
  for (auto& v : x) v = number();
  packed_matrix m{.stored = dtype::e4m3, .outputs = outputs, .inputs = inputs};
  host::buffer const memory(static_cast<std::size_t>(packed::bytes(m)));
  host::pack(m, 0, [&](int, std::int64_t output, float* row) { std::copy_n(weights.data() + output * inputs, inputs, row); }, memory.data());
  m.data = memory.data();

  std::vector<std::uint8_t> codes(x.size());
  std::vector<float> scales(static_cast<std::size_t>(tokens * inputs / 128)), y(static_cast<std::size_t>(tokens * outputs)), exact(y.size());
  view<std::uint8_t> const of_codes(codes.data(), tokens, inputs);
  view<float> const of_scales(scales.data(), tokens, inputs / 128);
  auto const multiply = [&](host::code_sums how, std::vector<float>& into) {
    host::quantize(pool, view<const float>(x.data(), tokens, inputs), of_codes, of_scales);
    host::linear(pool, m, {of_codes, of_scales}, list<const float>{}, view<float>(into.data(), tokens, outputs), how);
  };
  for (auto _ : state) {
    multiply(sums, y);
    benchmark::ClobberMemory();
  }
  multiply({}, exact);
  double off = 0, size = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    auto const d = static_cast<double>(y[i]) - static_cast<double>(exact[i]);
    off += d * d, size += static_cast<double>(exact[i]) * static_cast<double>(exact[i]);
  }
  state.counters["error"] = std::sqrt(off / size);
  report(state, static_cast<double>(packed::bytes(m)), 2.0 * static_cast<double>(tokens * outputs * inputs), host::level::portable);
}

bool const added = [] {
  struct way {
    char const* name;
    host::code_sums sums;
  };
  for (auto const& w : {way{"exact", {}}, way{"14_bits_promoted", {14, true}}, way{"14_bits", {14, false}}})
    for (bool const one_sign : {false, true})
      benchmark::RegisterBenchmark(row_name("linear_codes", w.name, std::string("e4m3_64x4096_") + (one_sign ? "one_sign" : "normal"), tokens).c_str(),
                                   [=, sums = w.sums](benchmark::State& state) { run(state, sums, one_sign); });
  return true;
}();

}  // namespace
}  // namespace moesaic::bench
