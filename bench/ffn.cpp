// Rows of both expert GEMMs: experts with few and with many slots each, weights cold, as every token brings other experts.
// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <vector>

#include <moesaic/host/ffn.hpp>

#include "products.hpp"

namespace moesaic::bench {
namespace {

constexpr std::int64_t hidden = 2048, intermediate = 768, experts = 8;  // Qwen3-30B-A3B, the experts of one token

template <dtype W, class T>
void run(benchmark::State& state, format f, host::level level, std::int64_t tokens) {
  host::pool pool(1, level);
  auto const gate_up = shared_rotation({.stored = f, .outputs = intermediate, .inputs = hidden, .parts = 2, .count = experts});
  auto const down = shared_rotation({.stored = f, .outputs = hidden, .inputs = intermediate, .count = experts});
  random_stream random(1);
  auto const slots = tokens * experts;
  std::vector<T> x(static_cast<std::size_t>(tokens * hidden)), h(static_cast<std::size_t>(slots * intermediate)),
      y(static_cast<std::size_t>(slots * hidden));
  for (auto& v : x) v = static_cast<T>(0.02f * random.normal());
  std::vector<std::int32_t> offsets, token_of_slot;
  for (std::int32_t e = 0; e <= experts; ++e) offsets.push_back(e * static_cast<std::int32_t>(tokens));
  for (std::int32_t s = 0; s < slots; ++s) token_of_slot.push_back(s % static_cast<std::int32_t>(tokens));
  work const cost{static_cast<double>(packed::bytes(gate_up->shape) + packed::bytes(down->shape)),
                  6.0 * static_cast<double>(slots * intermediate * hidden), static_cast<double>(tokens), experts};
  measure_cold(state, level, uses_bf16_dot<W, T>(level), [&] {
    host::expert_gate_up<W, T>(pool, activation::swiglu, gate_up->cold(), {}, view<const T>(x.data(), tokens, hidden), offsets,
                               token_of_slot.data(), view<T>(h.data(), slots, intermediate));
    host::expert_down<W, T>(pool, down->cold(), {}, view<const T>(h.data(), slots, intermediate), offsets,
                            view<T>(y.data(), slots, hidden));
    return cost;
  });
}

template <dtype W, class T>
void add(format f) {
  for (auto const level : {host::level::avx2, host::level::avx512, host::level::avx512_bf16}) {
    if (level > host::detected_level()) continue;
    if (level == host::level::avx512_bf16 && !uses_bf16_dot<W, T>(level)) continue;
    for (std::int64_t const tokens : {1, 8, 64})
      benchmark::RegisterBenchmark(
          row_name("ffn", std::string(host::name(level)) + "_" + name(dtype_of<T>), format_name(f) + "_8x768x2048_cold", tokens).c_str(),
          [=](benchmark::State& state) { run<W, T>(state, f, level, tokens); })
          ->UseManualTime();
  }
}

bool const added = (add<dtype::bf16, float>(dtype::bf16), add<dtype::bf16, bf16>(dtype::bf16), add<dtype::int4, bf16>(dtype::int4),
                    add<dtype::e4m3, bf16>(dtype::e4m3), true);

}  // namespace
}  // namespace moesaic::bench
