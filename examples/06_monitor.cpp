// What do the routers do? A model decodes texts of several kinds while its routers are watched: a table, and JSON for a picture.
// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <moesaic/io/huggingface.hpp>
#include <moesaic/io/monitor.hpp>
#include <moesaic/moesaic.hpp>

// The decoder of 02_checkpoint.cpp: 4 layers of 32 experts, 4 of them a byte.
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
using monitors = moesaic::layer_monitors<moe::layers>;

int main(int count, char** arguments) try {
  std::vector<std::string> const kinds{"dictionary", "glossary", "scripture", "source"};
  constexpr int windows = 4, length = 256, sequences = 16;                      // windows of each kind, side by side

  moesaic::host::pool cpu{2};
  auto const weights = moesaic::load<moe>(cpu, moesaic::checkpoint{"examples/data/moe"});
  auto const caches = model::make_cache(cpu, sequences, length);
  moesaic::host::buffer workspace{model::workspace_bytes(sequences, 0)};

  // Monitors live in memory of the caller. Four kinds of text, and each step's rows beside those of the step before.
  static constexpr moesaic::monitor_options options{.domains = 4, .coactivation = true, .compared_rows = sequences};
  moesaic::host::buffer memory{monitors::bytes(options)};
  monitors seen{memory, options};

  std::vector<std::string> text;
  std::vector<std::int32_t> ids(sequences), sequence, position(sequences), kind_of_row;
  for (std::size_t kind = 0; kind < kinds.size(); ++kind) {
    std::ifstream file("examples/data/text/" + kinds[kind] + ".txt", std::ios::binary);
    std::string const all{std::istreambuf_iterator<char>(file), {}};
    for (int w = 0; w < windows; ++w) {
      text.push_back(all.substr(static_cast<std::size_t>(w) * length, length));
      if (text.back().size() < length) throw moesaic::error(kinds[kind] + ".txt: expected 1024 bytes; run this from the repository");
      sequence.push_back(static_cast<std::int32_t>(sequence.size()));
      kind_of_row.push_back(static_cast<std::int32_t>(kind));
    }
  }
  for (std::int32_t step = 0; step < length; ++step) {
    for (std::size_t s = 0; s < sequences; ++s) {
      ids[s] = static_cast<unsigned char>(text[s][static_cast<std::size_t>(step)]);
      position[s] = step;
    }
    auto const done =
        model::forward(cpu, weights, {ids, sequence, position}, caches, {}, {}, workspace, {}, seen.tap({.domain = kind_of_row}));
    if (!done) throw moesaic::error(to_string(done));
  }
  if (auto const counted = seen.counted(); !counted) throw moesaic::error(to_string(counted));

  std::printf("%s", to_table(routers_of(seen), kinds).c_str());
  if (seen.collapsed() >= 0) std::printf("layer %d has collapsed\n", seen.collapsed());
  if (count > 1) {
    std::ofstream file(arguments[1]);
    file << to_json(routers_of(seen), kinds);
    if (!file) throw moesaic::error(std::string(arguments[1]) + ": could not be written");
    std::printf("python3 cmake/draw_monitor.py %s load.svg draws it\n", arguments[1]);
  }
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
