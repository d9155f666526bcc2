// A HuggingFace folder to text: load, run a batch of prompts of different lengths in one call, then decode them side by side.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include <moesaic/io/huggingface.hpp>
#include <moesaic/moesaic.hpp>

// `python3 cmake/config_from_hf.py examples/data/moe --activations fp32` prints these two: a decoder of bytes, 32 experts of which 4 a byte.
struct moe_layer {
  static constexpr moesaic::block_config config{
      .hidden = 128,
      .attention = {.heads = 4, .kv_heads = 2, .head_dim = 32, .qk_norm = moesaic::qk_norm::per_head},
      .router = {.experts = 32, .top_k = 4, .renormalize = true},
      .expert = {.intermediate = 64},
      .norm = {.epsilon = 1e-6},
      .storage = {.activations = moesaic::dtype::fp32}};
};
struct moe {
  static constexpr moesaic::decoder_config config{.vocabulary = 256, .norm = {.epsilon = 1e-6}, .tied_head = true};
  using layers = moesaic::layers<moesaic::repeat<moe_layer, 4>>;
};
using model = moesaic::decoder<moe>;

/// One of the ids, as likely as its logit says at this temperature; 0 = the likeliest.
std::int32_t sample(moesaic::list<const float> logits, float temperature, moesaic::random_stream& random) {
  std::int64_t best = 0;
  for (std::int64_t i = 1; i < logits.size; ++i)
    if (logits[i] > logits[best]) best = i;
  if (temperature == 0) return static_cast<std::int32_t>(best);
  double sum = 0;
  for (float const z : logits) sum += std::exp(static_cast<double>((z - logits[best]) / temperature));
  double left = random.uniform_double() * sum;
  for (std::int64_t i = 0; i < logits.size; ++i)
    if ((left -= std::exp(static_cast<double>((logits[i] - logits[best]) / temperature))) <= 0) return static_cast<std::int32_t>(i);
  return static_cast<std::int32_t>(best);
}

int main(int count, char** arguments) try {
  std::string const folder = count > 1 ? arguments[1] : "examples/data/moe";
  std::vector<std::string> const prompts{"And the king said unto ", "def __init__(self, ", "A hacker is a person who "};
  int const sequences = static_cast<int>(prompts.size()), generated = 100, room = 256;

  moesaic::host::pool cpu{2};
  moesaic::checkpoint const checkpoint{folder};                           // config.json, and tensors mapped from one file or many
  auto const weights = moesaic::load<moe>(cpu, checkpoint);               // throws where config.json says otherwise than the struct above
  auto const caches = model::make_cache(cpu, sequences, room);

  // All prompts are one batch: a row a byte, and which sequence and position it has. Logits are wanted after each prompt's last byte.
  std::vector<std::int32_t> ids, sequence, position, last;
  for (int s = 0; s < sequences; ++s) {
    for (std::size_t i = 0; i < prompts[static_cast<std::size_t>(s)].size(); ++i) {
      ids.push_back(static_cast<unsigned char>(prompts[static_cast<std::size_t>(s)][i]));
      sequence.push_back(s);
      position.push_back(static_cast<std::int32_t>(i));
    }
    last.push_back(static_cast<std::int32_t>(ids.size()) - 1);
  }
  moesaic::host::buffer workspace{model::workspace_bytes(static_cast<std::int64_t>(ids.size()), sequences)};
  std::vector<float> logits(static_cast<std::size_t>(sequences) * 256);
  moesaic::view<float> const out{logits.data(), sequences, 256};
  auto done = model::forward(cpu, weights, {ids, sequence, position}, caches, last, out, workspace);

  // Then one byte of every sequence a step: the same call.
  auto texts = prompts;
  moesaic::random_stream random(7);
  std::vector<std::int32_t> next(prompts.size()), place(prompts.size()), which(prompts.size());
  for (int step = 0; done && step < generated; ++step) {
    for (int s = 0; s < sequences; ++s) {
      auto const i = static_cast<std::size_t>(s);
      next[i] = sample({out.row(s), 256}, 0.6f, random);
      place[i] = static_cast<std::int32_t>(texts[i].size());
      which[i] = s;
      texts[i] += static_cast<char>(next[i]);
    }
    done = model::forward(cpu, weights, {next, which, place}, caches, moesaic::every_token, out, workspace);
  }
  if (!done) throw moesaic::error(to_string(done));
  for (auto const& text : texts) std::printf("---\n%s\n", text.c_str());
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
