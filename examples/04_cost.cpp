// What would it cost? A model of one's own beside published ones: known before a weight exists, and held to a budget by the compiler.
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include <moesaic/config/presets/deepseek.hpp>
#include <moesaic/config/presets/llama.hpp>
#include <moesaic/config/presets/mixtral.hpp>
#include <moesaic/config/presets/olmoe.hpp>
#include <moesaic/config/presets/qwen.hpp>
#include <moesaic/cost/bytes.hpp>
#include <moesaic/cost/flops.hpp>
#include <moesaic/cost/parameters.hpp>

using namespace moesaic;

// 24 layers of 64 narrow experts, six a token, beside a shared one; experts in four bits, keys and values in bf16.
struct pocket {
  struct layer {
    static constexpr block_config config{
        .hidden = 1536,
        .attention = {.heads = 12, .kv_heads = 2, .head_dim = 128, .rope_theta = 1e6, .qk_norm = qk_norm::per_head},
        .router = {.experts = 64, .top_k = 6, .renormalize = true},
        .expert = {.intermediate = 512},
        .shared = {.intermediate = 1024},
        .storage = {.weights = dtype::int8, .ffn = {dtype::int4, 64}, .cache = dtype::bf16}};
  };
  static constexpr decoder_config config{.vocabulary = 65536, .tied_head = true, .embedding = dtype::int8};
  using layers = moesaic::layers<repeat<layer, 24>>;
};

constexpr int keys = 2048;  // how far back a token looks, for the table below

// The budget: change the configuration beyond it, and this file no longer compiles.
constexpr double GB = 1e9;
constexpr double packed_size = static_cast<double>(weight_bytes<pocket>(layout::packed).total());
static_assert(packed_size < 2.5 * GB, "the packed weights must leave room for other programs in 4 GB of memory");
static_assert(decode_bytes<pocket>(1, keys).total() < 0.6 * GB, "50 tokens a second at 30 GB/s are 0.6 GB a step");
static_assert(flops<pocket>(keys).total() < 2e9, "50 tokens a second at 100 GFLOP/s are 2 GFLOP a token");

template <class Model>
void row(const char* name) {
  constexpr auto count = parameters<Model>();
  constexpr auto work = flops<Model>(keys);
  constexpr auto alone = decode_bytes<Model>(1, keys), sixteen = decode_bytes<Model>(16, keys);
  std::printf("%-18s %9.3f %9.3f %11.2f %10.2f %12.2f %13.2f %11.1f\n", name, static_cast<double>(count.total()) / 1e9,
              static_cast<double>(count.active()) / 1e9, static_cast<double>(work.total()) / 1e9,
              static_cast<double>(weight_bytes<Model>().total()) / GB, alone.total() / GB, sixteen.total() / GB,
              static_cast<double>(cache_bytes<Model>()) / 1e3);
}

int main() {
  std::printf("A token after %d others. A step reads each weight it needs once: of a batch's experts, the distinct ones.\n\n", keys - 1);
  std::printf("%-18s %9s %9s %11s %10s %12s %13s %11s\n", "", "params B", "active B", "GFLOP/token", "weights GB", "GB/step of 1",
              "GB/step of 16", "KV kB/token");
  row<pocket>("pocket (yours)");
  row<presets::smollm2_135m>("SmolLM2-135M");
  row<presets::llama2_7b>("Llama-2-7B");
  row<presets::llama3_8b>("Llama-3-8B");
  row<presets::olmoe_1b_7b>("OLMoE-1B-7B");
  row<presets::qwen1_5_moe_a2_7b>("Qwen1.5-MoE-A2.7B");
  row<presets::deepseek_moe_16b>("DeepSeekMoE-16B");
  row<presets::qwen3_30b_a3b>("Qwen3-30B-A3B");
  row<presets::mixtral_8x7b>("Mixtral-8x7B");
  row<presets::mixtral_8x22b>("Mixtral-8x22B");
  row<presets::qwen3_235b_a22b>("Qwen3-235B-A22B");
}
