// Prints docs/models.md: every published mixture in a table, from its preset; and those that a configuration cannot say, each with what is missing.
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include <moesaic/config/presets/dbrx.hpp>
#include <moesaic/config/presets/deepseek.hpp>
#include <moesaic/config/presets/ernie.hpp>
#include <moesaic/config/presets/glm.hpp>
#include <moesaic/config/presets/gpt_oss.hpp>
#include <moesaic/config/presets/granite.hpp>
#include <moesaic/config/presets/grok.hpp>
#include <moesaic/config/presets/hunyuan.hpp>
#include <moesaic/config/presets/jetmoe.hpp>
#include <moesaic/config/presets/kimi.hpp>
#include <moesaic/config/presets/ling.hpp>
#include <moesaic/config/presets/llama.hpp>
#include <moesaic/config/presets/longcat.hpp>
#include <moesaic/config/presets/minimax.hpp>
#include <moesaic/config/presets/mixtral.hpp>
#include <moesaic/config/presets/olmoe.hpp>
#include <moesaic/config/presets/phi.hpp>
#include <moesaic/config/presets/qwen.hpp>
#include <moesaic/config/presets/switch.hpp>
#include <moesaic/cost/bytes.hpp>
#include <moesaic/cost/flops.hpp>
#include <moesaic/cost/parameters.hpp>

using namespace moesaic;

constexpr int keys = 4096;   // that a token has, itself among them

char const* spelled(format f) {
  switch (f.type) {
    case dtype::bf16: return "bf16";
    case dtype::e4m3: return "e4m3";
    case dtype::mxfp4: return "mxfp4";
    default: return "other";
  }
}

template <class Model>
void row(char const* name) {
  (void)sizeof(validated<Model>);                            // every rule holds
  constexpr auto billion = [](std::int64_t n) { return static_cast<double>(n) * 1e-9; };
  auto const count = parameters<Model>();
  auto const& layers = layer_configs<Model>;
  auto mixture = layers[0];
  for (auto const& layer : layers)
    if (layer.router.experts != 0) mixture = layer;
  if (mixture.router.experts == 0) std::printf("| %s | dense | |", name);
  else std::printf("| %s | %d%s | %d |", name, mixture.router.experts, mixture.shared.intermediate > 0 ? " + shared" : "", mixture.router.top_k);
  std::printf(" %zu | %.2f | %.2f | %.2f | %lld | %.1f | %s | %.1f | %.1f |\n", layers.size(), billion(count.total()), billion(count.active()),
              billion(count.active_without_embedding()), static_cast<long long>(cache_bytes<Model>()), billion(flops<Model>(keys).total()),
              spelled(shapes(mixture).ffn_format), decode_bytes<Model>(1, keys).total() * 1e-9,
              decode_bytes<Model>(16, keys).total() * 1e-9);
}

template <int Experts>
void encoder_row() {
  using layer = typename presets::switch_base<Experts>::layer;
  auto const one = parameters<layer>();
  auto const step = [](int tokens) { return weight_bytes<layer>().with_experts(distinct_experts(layer::config.router, tokens), 0) * 1e-9; };
  std::printf("| %d | 1 | %.4f | %.4f | %.4f | %.3f | %.3f |\n", Experts, static_cast<double>(one.total()) * 1e-9, static_cast<double>(one.active()) * 1e-9,
              static_cast<double>(flops<layer>(512).total()) * 1e-9, step(1), step(16));
}

void expressed() {
  std::printf(
      "# Published models as configurations\n\n"
      "Printed by [examples/09_models.cpp](../examples/09_models.cpp) from the presets of `include/moesaic/config/presets/`; a test compares. Every rule of "
      "`config/rules.hpp` holds for each.\n\n"
      "- **Parameters** in billions, as a checkpoint holds them: with biases that balance the load, without prediction layers. **Active**: those that a token uses "
      "(with the input embedding, and without: it is looked up and not multiplied). Experts that compute nothing make it a mean of even routing.\n"
      "- **KV**: bytes of a cached token in bf16, in all layers. Of latent attention: the latent and the key that all heads share.\n"
      "- **GFLOP**: of a token that has %d keys, its logits among them; latent attention in the absorbed form; behind a window, the keys that it sees.\n"
      "- **GB a step**: what decoding reads for 1 sequence and for 16 of %d keys each, in the published storage (column: of the experts): of the experts "
      "the distinct ones of even routing, and keys and values.\n\n"
      "| model | experts | k | layers | parameters | active | without embedding | KV | GFLOP | stored | GB a step of 1 | of 16 |\n"
      "|---|---|---|---|---|---|---|---|---|---|---|---|\n",
      keys, keys);
  row<presets::smollm2_135m>("SmolLM2-135M");
  row<presets::llama2_7b>("Llama-2-7B");
  row<presets::llama3_8b>("Llama-3-8B");
  row<presets::granite_3_0_3b_a800m>("Granite-3.0-3B-A800M");
  row<presets::olmoe_1b_7b>("OLMoE-1B-7B");
  row<presets::jetmoe_8b>("JetMoE-8B");
  row<presets::qwen1_5_moe_a2_7b>("Qwen1.5-MoE-A2.7B");
  row<presets::deepseek_v2_lite>("DeepSeek-V2-Lite");
  row<presets::ling_mini_2_0>("Ling-mini-2.0");
  row<presets::deepseek_moe_16b>("DeepSeekMoE-16B");
  row<presets::gpt_oss_20b>("gpt-oss-20b");
  row<presets::ernie_4_5_21b_a3b>("ERNIE-4.5-21B-A3B");
  row<presets::qwen3_30b_a3b>("Qwen3-30B-A3B");
  row<presets::phi_3_5_moe>("Phi-3.5-MoE");
  row<presets::mixtral_8x7b>("Mixtral-8x7B");
  row<presets::hunyuan_a13b>("Hunyuan-A13B");
  row<presets::glm_4_5_air>("GLM-4.5-Air");
  row<presets::llama_4_scout>("Llama-4-Scout");
  row<presets::gpt_oss_120b>("gpt-oss-120b");
  row<presets::dbrx>("DBRX");
  row<presets::mixtral_8x22b>("Mixtral-8x22B");
  row<presets::minimax_m2>("MiniMax-M2");
  row<presets::qwen3_235b_a22b>("Qwen3-235B-A22B");
  row<presets::deepseek_v2>("DeepSeek-V2");
  row<presets::grok_1>("Grok-1");
  row<presets::glm_4_5>("GLM-4.5");
  row<presets::llama_4_maverick>("Llama-4-Maverick");
  row<presets::longcat_flash>("LongCat-Flash");
  row<presets::deepseek_v3>("DeepSeek-V3, R1, V3.1");
  row<presets::kimi_k2>("Kimi-K2");
  std::printf(
      "\nLongCat-Flash: each of its 28 layers is two here, and 256 of its 768 experts return their input. Llama 4: the text model. JetMoE: eight experts of attention, two a token, chosen by a router of their own. Phi-3.5-MoE: routed by "
      "`routing::sparse_mixer`, and its LongRoPE factors are in its release's config.json.\n");
}

void encoders() {
  std::printf(
      "\n## Switch-Base\n\n"
      "A mixture layer of the encoder. The whole model cannot be said (below), so these are no models: parameters, active ones and GFLOP of one layer, with 512 "
      "keys; GB of weights that 1 and 16 tokens read in bf16.\n\n"
      "| experts | k | parameters | active | GFLOP | GB of 1 | of 16 |\n|---|---|---|---|---|---|---|\n");
  encoder_row<8>(), encoder_row<16>(), encoder_row<32>(), encoder_row<64>(), encoder_row<128>(), encoder_row<256>();
}

struct absent_model {
  char const* name;
  char const* experts;   // E/k/shared as published; "" = not looked up
  char const* missing;
};
constexpr absent_model absent[] = {
    {"Switch-Base-8 to -256, whole", "8 to 256/1/0", "a bias of the relative position on attention scores; attention to an encoder's output; attention without a causal mask"},
    {"Qwen3-Next", "512/10/1", "linear attention (gated delta rule) in three layers of four; its gated attention, partial rotation and zero-centred norms can be said"},
    {"DeepSeek-V3.2", "256/8/1", "sparse attention: an indexer that picks the keys a token sees (equal to DeepSeek-V3 up to 2048 keys)"},
    {"DeepSeek-V4", "", "several residual streams (hyper-connections); compressed attention. Its scores, hashed layers and clamped experts can be said"},
    {"Kimi Linear, K3", "896/16", "linear attention (KDA); a norm within latent experts; a SiTU gate"},
    {"MiniMax-Text-01", "32/2/0", "linear (lightning) attention in seven layers of eight; a factor on the stream itself (DeepNorm)"},
    {"Snowflake Arctic", "128/2/dense", "a mixture that reads the layer's input while attention and a dense feed-forward run beside it, with a norm of its own"},
    {"Jamba", "16/2/0", "state-space layers (Mamba)"},
    {"Step-3.5", "", "a limit on the gate after its activation"},
    {"Klear", "", "a softmax of two that mixes shared and routed experts"},
    {"Nemotron-H", "", "state-space layers (Mamba-2); its experts (squared ReLU without gate, latents) can be said"},
    {"Gemma-4 MoE", "", "a norm of the router's input; a factor an expert; norms of their own for a dense feed-forward and the experts beside it"},
    {"Laguna", "", "a softplus gate a head"},
    {"MiMo-V2-Flash", "256/8", "a factor on values (its windows, sinks and values narrower than keys can be said)"},
    {"LFM2-MoE", "32/4", "layers of short convolutions"},
};
constexpr absent_model reached[] = {
    {"dots1", "", "sigmoid scores with a bias, shared experts, queries and keys normalised a head"},
    {"EXAONE-MoE", "", "the same, with windows and layers without rotation"},
    {"Solar-open", "", "sigmoid scores with a bias, groups, shared experts"},
    {"AfMoE (Trinity)", "", "norms on both sides, an output gate of attention, no rotation in layers that see all, a factor on the embedding"},
    {"Qwen2-57B-A14B", "64/8/1", "Qwen1.5-MoE's layer in other sizes"},
};

void rest() {
  std::printf("\n## What block_config cannot say yet\n\nE / k / shared experts as published; empty where they were not looked up.\n\n| model | experts | missing |\n|---|---|---|\n");
  for (auto const& m : absent) std::printf("| %s | %s | %s |\n", m.name, m.experts, m.missing);
  std::printf(
      "\n## What it can say, without a preset\n\nTheir axes are all there; no preset is, because no published count was at hand to hold one to.\n\n"
      "| model | experts | made of |\n|---|---|---|\n");
  for (auto const& m : reached) std::printf("| %s | %s | %s |\n", m.name, m.experts, m.missing);
}

int main() {
  expressed();
  encoders();
  rest();
}
