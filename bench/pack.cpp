// Rows of packing: fp32 rows of a matrix into each stored format, quantised on the way; bytes are those read and those written.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>
#include <vector>

#include <moesaic/host/memory.hpp>
#include <moesaic/host/pack.hpp>

#include "products.hpp"

namespace moesaic::bench {
namespace {

constexpr std::int64_t outputs = 768, inputs = 2048;  // an expert's gate projection of Qwen3-30B-A3B

void run(benchmark::State& state, format f) {
  packed_matrix const m{.stored = f, .outputs = outputs, .inputs = inputs};
  std::vector<float> weights(static_cast<std::size_t>(outputs * inputs));
  random_stream random(1);
  for (auto& w : weights) w = 0.02f * random.normal();
  host::buffer const out(static_cast<std::size_t>(packed::bytes(m)));
  auto const source = [&](int, std::int64_t output, float* row) { std::copy_n(weights.data() + output * inputs, inputs, row); };
  for (auto _ : state) {
    host::pack(m, 0, source, out.data());
    benchmark::ClobberMemory();
  }
  report(state, static_cast<double>(outputs * inputs * 4 + packed::bytes(m)), 0, host::level::portable);
  state.counters["weights/s"] = benchmark::Counter(static_cast<double>(outputs * inputs), benchmark::Counter::kIsIterationInvariantRate);
}

bool const added = [] {
  for (format const f : {format(dtype::fp32), format(dtype::bf16), format(dtype::fp16), format(dtype::e4m3), format(dtype::int8),
                         format(dtype::int4), format(dtype::int4, 128, true), format(dtype::mxfp4)})
    benchmark::RegisterBenchmark(row_name("pack", "fp32", format_name(f) + "_768x2048", outputs).c_str(),
                                 [=](benchmark::State& state) { run(state, f); });
  return true;
}();

}  // namespace
}  // namespace moesaic::bench
