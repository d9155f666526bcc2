// What does a cache of latents save? DeepSeek's multi-head latent attention beside the caches it replaces, from configurations alone; and a layer of it
// run both ways.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include <moesaic/config/random_source.hpp>
#include <moesaic/moesaic.hpp>

#include "published_models.hpp"

using namespace moesaic;

// DeepSeek-V2 with keys and values of every head's own (the paper leaves the rotated elements out of this count).
struct every_head_for_itself {
  static constexpr block_config config = [] {
    auto c = presets::deepseek_v2::layer::config;
    c.attention.latent = {};
    return c;
  }();
};

template <class Model>
constexpr double of_a_token = static_cast<double>(cache_bytes<Model>());

// The 6 bits an element that DeepSeek-V2 was served with are no storage of this library: counted, not run.
constexpr double in_6_bits = 6.0 / 16;

/// One sum a reader can check, and the digits that were published; false where they differ.
bool row(char const* what, double kept, double instead_of, double published) {
  auto const saved = 100 * (1 - kept / instead_of);
  std::printf("  %-62s %8.0f of %8.0f bytes: saves %.2f %%\n", what, kept, instead_of, saved);
  return std::fabs(saved - published) < 0.005;
}

// A small layer, to be seen running: the same weights, tokens one by one, in each form.
template <latent_form Form>
struct small {
  static constexpr auto attention_form = Form;
  static constexpr block_config config{
      .hidden = 64,
      .attention = {.heads = 4, .head_dim = 16, .layout = rope_layout::interleaved, .latent = {.kv_rank = 32, .q_rank = 48, .rope_dim = 8}},
      .expert = {.intermediate = 128},
      .storage = {.weights = dtype::fp32, .activations = dtype::fp64}};
};
template <latent_form Form>
std::vector<double> run(host::pool& cpu) {
  using layer = block<small<Form>>;
  constexpr int tokens = 16;
  auto const weights = layer::load(cpu, random_source(1), "");
  auto const cache = layer::make_cache(cpu, 1, tokens);
  host::buffer workspace(layer::template workspace_bytes<no_tap, host::pool>(1));   // of a call on a CPU: a device works on more slots at once
  std::vector<double> x(tokens * 64), y(tokens * 64);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<double>(i));
  for (std::int32_t t = 0; t < tokens; ++t) {
    std::int32_t const sequence = 0;
    auto const done = layer::forward(cpu, weights, {{x.data() + t * 64, 1, 64}, {&sequence, 1}, {&t, 1}}, cache, {y.data() + t * 64, 1, 64}, workspace);
    if (!done) {
      std::printf("%s\n", to_string(done).c_str());
      std::exit(1);
    }
  }
  return y;
}

int main() {
  std::printf("What a cache keeps of a token, in all layers:\n");
  bool good = row("DeepSeek-V2 in 6 bits, for DeepSeek-67B in 16", of_a_token<presets::deepseek_v2> * in_6_bits, of_a_token<deepseek_67b>, 93.34);
  good &= row("DeepSeek-V2 in 16 bits, for DeepSeek-67B in 16", of_a_token<presets::deepseek_v2>, of_a_token<deepseek_67b>, 82.24);
  good &= row("DeepSeek-V3 in 16 bits, for DeepSeek-67B in 16", of_a_token<presets::deepseek_v3>, of_a_token<deepseek_67b>, 81.94);
  auto const of_heads = static_cast<double>(layer_count<presets::deepseek_v2::layers> * cache_bytes<every_head_for_itself>());
  good &= row("DeepSeek-V2 in 16 bits, for keys and values of its own 128 heads", of_a_token<presets::deepseek_v2>, of_heads, 98.24);

  std::printf("\nGFLOPs of attention in a layer of DeepSeek-V2, by how many tokens a sequence brings and how many it sees:\n");
  constexpr auto shape = latent_shape_of(presets::deepseek_v2::layer::config);
  for (auto const& [tokens, slots] : {std::pair{1, 4096}, std::pair{64, 4096}, std::pair{1024, 4096}, std::pair{4096, 4096}})
    std::printf("  %4d of %d  expanded %9.2f  absorbed %9.2f  computed %s\n", tokens, slots, 1e-9 * latent_flops(shape, latent_form::expanded, tokens, slots),
                1e-9 * latent_flops(shape, latent_form::absorbed, tokens, slots), name(latent_form_of(shape, latent_form::by_shape, tokens, slots)));

  host::pool cpu(1);
  auto const one = run<latent_form::expanded>(cpu), other = run<latent_form::absorbed>(cpu);
  double apart = 0;
  for (std::size_t i = 0; i < one.size(); ++i) apart = std::fmax(apart, std::fabs(one[i] - other[i]));
  std::printf("\nA small layer of 16 tokens, expanded and absorbed: at most %.1e apart\n", apart);
  return good && apart < 1e-12 ? 0 : 1;
}
