// Rows of one layer, attention and feed-forward: a prompt of 512 tokens, and one token after 512 others with weights from memory.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include <moesaic/config/presets/llama.hpp>
#include <moesaic/config/presets/qwen.hpp>
#include <moesaic/config/random_source.hpp>
#include <moesaic/cost/bytes.hpp>
#include <moesaic/cost/flops.hpp>
#include <moesaic/host/host.hpp>
#include <moesaic/layer/block.hpp>

#include "products.hpp"

namespace moesaic::bench {
namespace {

constexpr int prompt = 512;

template <dtype Stored>
struct smollm2 {
  static constexpr block_config config = [] {
    auto c = presets::smollm2_135m::layer::config;
    c.storage.weights = Stored;
    return c;
  }();
};
/// A sixteenth of the experts: eight of which a token uses all. What a layer costs where routing brings no surprise.
template <dtype Stored>
struct qwen3_8_experts {
  static constexpr block_config config = [] {
    auto c = presets::qwen3_30b_a3b::layer::config;
    c.router.experts = 8;
    c.storage.weights = Stored;
    return c;
  }();
};

template <class Spec>
void run(benchmark::State& state, int tokens) {
  using layer = block<Spec>;
  using T = typename layer::scalar;
  constexpr auto shape = layer::shape;
  host::pool pool(1);
  // One loaded layer, and copies of it until no cache holds them.
  auto const loaded = layer::load(pool, random_source(1), "layer.");
  auto const bytes = static_cast<std::int64_t>(layer::weights_bytes());
  auto const copies = tokens == 1 ? std::max<std::int64_t>(1, beyond_caches / bytes) : 1;
  host::buffer const memory(static_cast<std::size_t>(copies * bytes));
  std::vector<block_weights> weights;
  for (std::int64_t i = 0; i < copies; ++i) {
    std::memcpy(memory.data() + i * bytes, loaded.memory.data(), loaded.memory.size());
    weights.push_back(layer::bind({memory.data() + i * bytes, bytes}));
  }

  auto const cache = layer::make_cache(pool, 1, prompt + 1);
  std::vector<T> x(static_cast<std::size_t>(prompt * shape.hidden)), y(x.size());
  random_stream random(2);
  for (auto& v : x) v = static_cast<T>(random.normal());
  std::vector<std::int32_t> const sequence(prompt, 0);
  std::vector<std::int32_t> position(prompt + 1);
  std::iota(position.begin(), position.end(), 0);
  host::buffer const workspace(layer::workspace_bytes(prompt));
  std::size_t turn = 0;
  auto const forward = [&](std::int64_t first, std::int64_t rows) {
    return layer::forward(pool, weights[turn++ % weights.size()],
                          {view<const T>(x.data(), rows, shape.hidden), {sequence.data(), rows}, {position.data() + first, rows}}, cache,
                          view<T>(y.data(), rows, shape.hidden), {workspace.data(), static_cast<std::int64_t>(workspace.size())});
  };
  if (auto const done = forward(0, prompt); !done) return state.SkipWithError(done.what);

  bool const decode = tokens == 1;
  std::int64_t const keys = decode ? prompt + 1 : prompt;
  work const cost{static_cast<double>(bytes + keys * cache_bytes(Spec::config)),
                  static_cast<double>(tokens) * static_cast<double>(flops(Spec::config, decode ? keys : (keys + 1) / 2).total()),
                  static_cast<double>(tokens), shape.dense ? 0.0 : static_cast<double>(shape.experts)};
  measure_cold(state, pool.level(), uses_bf16_dot<Spec::config.storage.weights.type, T>(pool.level()), [&] {
    (void)forward(decode ? prompt : 0, tokens);
    return cost;
  });
}

template <class Spec>
void add(std::string const& config) {
  constexpr auto s = shapes(Spec::config);
  for (int const tokens : {1, prompt})
    benchmark::RegisterBenchmark(
        row_name("block", format_name(s.ffn_format) + "_" + name(s.activations) + (tokens == 1 ? "_decode" : "_prompt"), config, tokens)
            .c_str(),
        [=](benchmark::State& state) { run<Spec>(state, tokens); })
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
}

bool const added = (add<smollm2<dtype::bf16>>("smollm2"), add<smollm2<dtype::int4>>("smollm2"),
                    add<qwen3_8_experts<dtype::bf16>>("qwen3_8of8"), add<qwen3_8_experts<dtype::int4>>("qwen3_8of8"), true);

}  // namespace
}  // namespace moesaic::bench
