// A mixture of experts of one's own: a configuration, random weights, a prompt, and one more token from the cache.
// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <cstdio>
#include <vector>

#include <moesaic/config/random_source.hpp>
#include <moesaic/moesaic.hpp>

struct my_layer {
  static constexpr moesaic::block_config config{
      .hidden = 256,
      .attention = {.heads = 8, .kv_heads = 2, .head_dim = 32},
      .router = {.experts = 16, .top_k = 2, .renormalize = true},
      .expert = {.intermediate = 128, .activation = moesaic::activation::swiglu},
      .shared = {.intermediate = 64},
      .storage = {.weights = moesaic::dtype::bf16, .ffn = moesaic::dtype::int4}};
};
using layer = moesaic::block<my_layer>;

int main() {
  constexpr int prompt = 12, room = 64;
  moesaic::host::pool cpu{2};                                                     // where it runs: two threads of this machine
  auto const weights = layer::load(cpu, moesaic::random_source{1}, "");           // a checkpoint goes here; packed for this machine
  auto const cache = layer::make_cache(cpu, /*sequences*/ 1, /*max_tokens*/ room);
  moesaic::host::buffer workspace{layer::workspace_bytes(prompt)};                // any memory will do; calls allocate nothing

  std::vector<float> x(prompt * 256), y(x.size());
  moesaic::random_stream numbers(2);
  for (auto& value : x) value = numbers.normal();
  std::vector<std::int32_t> sequence(prompt, 0), position(prompt);
  for (int t = 0; t < prompt; ++t) position[static_cast<std::size_t>(t)] = t;

  // The prompt: x [tokens, hidden] -> y [tokens, hidden]; keys and values stay in the cache.
  auto done = layer::forward(cpu, weights, {{x.data(), prompt, 256}, sequence, position}, cache, {y.data(), prompt, 256}, workspace);

  // One token more, at the position after the prompt: the same call with one row.
  std::int32_t const next_position = prompt, next_sequence = 0;
  if (done)
    done = layer::forward(cpu, weights, {{y.data(), 1, 256}, {&next_sequence, 1}, {&next_position, 1}}, cache, {y.data(), 1, 256}, workspace);
  if (!done) {
    std::fprintf(stderr, "%s\n", moesaic::to_string(done).c_str());
    return 1;
  }
  std::printf("packed weights %.2f MB, workspace %.2f MB, y[0] = %.5f %.5f %.5f ...\n", static_cast<double>(layer::weights_bytes()) * 1e-6,
              static_cast<double>(layer::workspace_bytes(prompt)) * 1e-6, static_cast<double>(y[0]), static_cast<double>(y[1]),
              static_cast<double>(y[2]));
}
