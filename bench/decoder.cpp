// Rows of a whole decoder in the shape of SmolLM2-135M, weights random: a prompt of 512 tokens, and one token after it.
// SPDX-License-Identifier: Apache-2.0
#include <numeric>
#include <string>
#include <vector>

#include <moesaic/config/presets/llama.hpp>
#include <moesaic/config/random_source.hpp>
#include <moesaic/cost/bytes.hpp>
#include <moesaic/cost/flops.hpp>
#include <moesaic/host/host.hpp>
#include <moesaic/layer/decoder.hpp>

#include "products.hpp"

namespace moesaic::bench {
namespace {

constexpr int prompt = 512;

template <dtype Stored>
struct smollm2 {
  struct layer {
    static constexpr block_config config = [] {
      auto c = presets::smollm2_135m::layer::config;
      c.storage.weights = Stored;
      return c;
    }();
  };
  static constexpr decoder_config config = [] {
    auto c = presets::smollm2_135m::config;
    c.embedding = Stored;
    return c;
  }();
  using layers = moesaic::layers<repeat<layer, 30>>;
};

template <class Model>
void run(benchmark::State& state, int tokens) {
  using model = decoder<Model>;
  using T = typename model::scalar;
  host::pool pool(1);
  static auto const weights = model::load(pool, random_source(1));  // once for both rows

  auto const cache = model::make_cache(pool, 1, prompt + 1);
  random_stream random(2);
  std::vector<std::int32_t> ids(prompt + 1), position(prompt + 1);
  for (auto& id : ids) id = static_cast<std::int32_t>(random.below(model::config.vocabulary));
  std::iota(position.begin(), position.end(), 0);
  std::vector<std::int32_t> const sequence(prompt + 1, 0);
  std::vector<float> logits(static_cast<std::size_t>(model::config.vocabulary));
  host::buffer const workspace(model::workspace_bytes(prompt, 1));
  auto const forward = [&](std::int64_t first, std::int32_t rows) {
    std::int32_t const last[] = {rows - 1};
    return model::forward(pool, weights, {{ids.data() + first, rows}, {sequence.data(), rows}, {position.data() + first, rows}}, cache,
                          {last, 1}, view<float>(logits.data(), 1, model::config.vocabulary),
                          {workspace.data(), static_cast<std::int64_t>(workspace.size())});
  };
  if (auto const done = forward(0, prompt); !done) return state.SkipWithError(done.what);

  bool const decode = tokens == 1;
  auto const bytes = decode ? decode_bytes<Model>(1, prompt + 1, layout::packed).total()
                            : static_cast<double>(model::weights_bytes()) + static_cast<double>(prompt * cache_bytes<Model>());
  auto const price = flops<Model>(decode ? prompt + 1 : (prompt + 1) / 2);
  work const cost{bytes, static_cast<double>(tokens * price.layers.total() + price.head), static_cast<double>(tokens)};
  measure_cold(state, pool.level(), uses_bf16_dot<Model::config.embedding.type, T>(pool.level()), [&] {
    (void)forward(decode ? prompt : 0, tokens);
    return cost;
  });
}

template <class Model>
void add() {
  for (int const tokens : {1, prompt})
    benchmark::RegisterBenchmark(
        row_name("decoder", format_name(Model::config.embedding) + "_bf16" + (tokens == 1 ? "_decode" : "_prompt"), "smollm2_135m", tokens)
            .c_str(),
        [=](benchmark::State& state) { run<Model>(state, tokens); })
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
}

bool const added = (add<smollm2<dtype::bf16>>(), add<smollm2<dtype::int4>>(), true);

}  // namespace
}  // namespace moesaic::bench
