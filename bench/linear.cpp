// Rows of linear layers: every format, decoding (one token, weights from memory) and prompts (weights in cache).
// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <vector>

#include <moesaic/host/linear.hpp>

#include "products.hpp"

namespace moesaic::bench {
namespace {

constexpr std::int64_t outputs = 1408, inputs = 2048;  // an expert of Qwen1.5-MoE and DeepSeek-V2-Lite

template <dtype W, class T>
void run(benchmark::State& state, format f, host::level level, std::int64_t tokens, bool cold) {
  host::pool pool(1, level);
  auto const weights = shared_rotation({.stored = f, .outputs = outputs, .inputs = inputs});
  random_stream random(1);
  std::vector<T> x(static_cast<std::size_t>(tokens * inputs)), y(static_cast<std::size_t>(tokens * outputs));
  for (auto& v : x) v = static_cast<T>(random.normal());
  auto const hot = weights->hot();
  work const cost{static_cast<double>(packed::bytes(hot)), 2.0 * static_cast<double>(tokens * outputs * inputs),
                  static_cast<double>(tokens)};
  auto const multiply = [&](packed_matrix const& m) {
    host::linear<W>(pool, m, view<const T>(x.data(), tokens, inputs), list<const float>{}, view<T>(y.data(), tokens, outputs));
    return cost;
  };
  auto const read_hot = [&](std::int64_t bytes) {
    return processor_seconds([&] { read_bandwidth(hot.data, static_cast<std::size_t>(bytes), 1); });
  };
  if (cold)
    measure_cold(state, level, uses_bf16_dot<W, T>(level), [&] { return multiply(weights->cold()); });
  else
    measure(state, level, uses_bf16_dot<W, T>(level), read_hot, [&] { return multiply(hot); });
}

template <dtype W, class T>
void add(format f) {
  for (auto const level : {host::level::avx2, host::level::avx512, host::level::avx512_bf16}) {
    if (level > host::detected_level()) continue;
    if (level == host::level::avx512_bf16 && !uses_bf16_dot<W, T>(level)) continue;  // the same kernels as avx512
    auto const variant = std::string(host::name(level)) + "_" + name(dtype_of<T>);
    for (std::int64_t const tokens : {1, 4, 16, 64, 256})
      for (bool const cold : {false, true}) {
        if (cold ? tokens > 16 : tokens == 4) continue;
        auto const config = format_name(f) + "_1408x2048_" + (cold ? "cold" : "hot");
        benchmark::RegisterBenchmark(row_name("linear", variant, config, tokens).c_str(), [=](benchmark::State& state) {
          run<W, T>(state, f, level, tokens, cold);
        })->UseManualTime();
      }
  }
}
template <dtype W>
void add(format f) {
  add<W, float>(f);
  add<W, bf16>(f);
}

bool const added = (add<dtype::fp32>(dtype::fp32), add<dtype::bf16>(dtype::bf16), add<dtype::fp16>(dtype::fp16),
                    add<dtype::int8>(dtype::int8), add<dtype::int4>(dtype::int4), add<dtype::int4>({dtype::int4, 128, true}),
                    add<dtype::e4m3>(dtype::e4m3), add<dtype::mxfp4>(dtype::mxfp4), true);

}  // namespace
}  // namespace moesaic::bench
