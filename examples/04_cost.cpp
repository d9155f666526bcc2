// What would it cost? A model of one's own, held to a budget by the compiler, beside published ones; and what is said of those, recomputed.
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include <moesaic/config/presets/deepseek.hpp>
#include <moesaic/config/presets/grok.hpp>
#include <moesaic/config/presets/kimi.hpp>
#include <moesaic/config/presets/llama.hpp>
#include <moesaic/config/presets/mixtral.hpp>
#include <moesaic/config/presets/olmoe.hpp>
#include <moesaic/config/presets/phi.hpp>
#include <moesaic/config/presets/qwen.hpp>
#include <moesaic/cost/advise.hpp>

#include "published_models.hpp"

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

constexpr int keys = 2048;  // how far back a token looks, for the tables below

// The budget: change the configuration beyond it, and this file no longer compiles.
constexpr double GB = 1e9;
constexpr double packed_size = static_cast<double>(weight_bytes<pocket>(layout::packed).total());
static_assert(packed_size < 2.5 * GB, "the packed weights must leave room for other programs in 4 GB of memory");
constexpr machine laptop{.name = "a laptop", .capacity = 4 * GB, .bandwidth = 30e9, .peak = {.fp32 = 200e9}};
static_assert(decode_time<pocket>(laptop, 1, keys) < 1.0 / 50, "50 tokens a second on a laptop");
static_assert(microseconds(decode_time<presets::qwen3_30b_a3b::layer>(devices::h200, 16, keys)) < 200,
              "a layer of Qwen3-30B-A3B on an H200");

constexpr double billions(double number) { return number * 1e-9; }
constexpr double billions(std::int64_t number) { return static_cast<double>(number) * 1e-9; }

template <class Model>
void row(char const* name) {
  static constexpr auto one = advise<Model>(devices::h200, decoding(1, keys)), some = advise<Model>(devices::h200, decoding(16, keys)),
                        many = advise<Model>(devices::h200, decoding(256, keys));
  std::printf("%-18s %8.2f %8.2f %8.1f %7.1f  %4.0f/%-4.0f %6.2f %7.2f %7.2f   %6.2f %7.2f %7.0f\n", name, billions(one.parameters),
              billions(one.active_parameters), one.weight_bytes / GB, one.cache_bytes / keys / 1e3, some.distinct, some.experts,
              milliseconds(one.seconds), milliseconds(some.seconds), milliseconds(many.seconds), milliseconds(some.dense_of_active),
              milliseconds(some.dense_of_all), some.compute_bound_rows);
}

void table() {
  std::printf("Dense against mixture on an H200 (4.8 TB/s, 989 TFLOP/s in bf16), each token after %d others, as if all fitted one device.\n"
              "A step reads each weight it needs once: of a batch's experts, the distinct ones. No kernel is faster than this roofline.\n\n",
              keys - 1);
  std::printf("%-18s %8s %8s %8s %7s  %9s %6s %7s %7s   %14s %7s\n", "", "params", "active", "weights", "KV", "experts", "ms a", "ms a",
              "ms a", "16, if dense", "rows to");
  std::printf("%-18s %8s %8s %8s %7s  %9s %6s %7s %7s   %6s %7s %7s\n", "", "B", "B", "GB", "kB/tok", "read by16", "step", "of 16",
              "of 256", "active", "all", "compute");
  row<pocket>("pocket (yours)");
  row<presets::smollm2_135m>("SmolLM2-135M");
  row<presets::llama2_7b>("Llama-2-7B");
  row<presets::llama3_8b>("Llama-3-8B");
  row<deepseek_67b>("DeepSeek-67B");
  row<presets::olmoe_1b_7b>("OLMoE-1B-7B");
  row<presets::qwen1_5_moe_a2_7b>("Qwen1.5-MoE-A2.7B");
  row<presets::deepseek_moe_16b>("DeepSeekMoE-16B");
  row<presets::qwen3_30b_a3b>("Qwen3-30B-A3B");
  row<presets::phi_3_5_moe>("Phi-3.5-MoE");
  row<presets::mixtral_8x7b>("Mixtral-8x7B");
  row<presets::mixtral_8x22b>("Mixtral-8x22B");
  row<presets::qwen3_235b_a22b>("Qwen3-235B-A22B");
  row<presets::grok_1>("Grok-1");
  row<presets::deepseek_v2>("DeepSeek-V2");
  row<presets::deepseek_v3>("DeepSeek-V3");
  row<presets::kimi_k2>("Kimi-K2");
}

// A sentence as articles have it; what comes out; from what; whether it holds.
struct claim {
  char const* said;
  char const* verdict;
  char const* from;
  template <class... Values>
  void is(char const* computed, Values... values) const {
    std::printf("\n\"%s\"\n  computed  ", said);
    std::printf(computed, values...);
    std::printf("\n  from      %s\n  verdict   %s\n", from, verdict);
  }
};

void claims() {
  using presets::mixtral_8x7b, presets::deepseek_moe_16b, presets::phi_3_5_moe, presets::qwen1_5_moe_a2_7b;
  std::printf(
      "\n\nWhat articles say of them. Every number beside a configuration is computed here; training results are the papers' own.\n");

  constexpr auto mixtral = parameters<mixtral_8x7b>();
  claim{"8 experts of 7B: 56 B parameters", "wrong: experts share attention, embeddings and norms; 47 B in all and 13 B a token are right",
        "the shapes of Mixtral 8x7B"}
      .is("%.2f B parameters, %.2f B of them for a token, %.2f GB in bf16", billions(mixtral.total()), billions(mixtral.active()),
          2 * billions(mixtral.total()));

  constexpr auto one = advise<mixtral_8x7b>(devices::h100, decoding(1, 0)), eight = advise<mixtral_8x7b>(devices::h100, decoding(8, 0)),
                 sixteen = advise<mixtral_8x7b>(devices::h100, decoding(16, 0));
  claim{"it decodes at the speed of a 13B model",
        "true of one sequence, or of batches beyond some 1200 tokens; at 8 it reads nearly all experts",
        "distinct experts of even routing, 8 (1 - (3/4)^batch); an H100's 3.35 TB/s and 989 TFLOP/s; no keys"}
      .is("a step of 1: %.2f ms, %.1f GB (dense 13 B: %.2f ms); of 8: %.1f ms, %.1f GB, the bytes of %.0f B (dense %.2f ms);\n"
          "            of 16: %.1f ms (dense 47 B: %.1f ms); arithmetic takes over at %.0f tokens",
          milliseconds(one.seconds), one.bytes / GB, milliseconds(one.dense_of_active), milliseconds(eight.seconds), eight.bytes / GB,
          eight.bytes / GB / 2, milliseconds(eight.dense_of_active), milliseconds(sixteen.seconds), milliseconds(sixteen.dense_of_all),
          sixteen.compute_bound_rows);

  constexpr auto of_67b = static_cast<double>(cache_bytes<deepseek_67b>());
  constexpr auto v2 = static_cast<double>(cache_bytes<presets::deepseek_v2>()) / 2, v3 = static_cast<double>(cache_bytes<presets::deepseek_v3>()) / 2;
  claim{"DeepSeek-V3's latent attention cuts the KV cache by 93 %",
        "wrong model: it is V2's report, and V2 in six bits against the 67B model in sixteen; 82 % at equal precision, for both",
        "numbers a token: 67B 95 x 2 x 8 x 128, V2 60 x (512 + 64), V3 61 x (512 + 64); own heads 128 x (128 or 192, + 128) a layer"}
      .is("V2 in 6 bits against DeepSeek-67B in bf16: %.2f %%; both in bf16: V2 %.2f %%, V3 %.2f %%;\n"
          "            against all heads of the model itself: V2 %.2f %%, V3 %.2f %%",
          100 * (1 - v2 * 6 / 8 / of_67b), 100 * (1 - 2 * v2 / of_67b), 100 * (1 - 2 * v3 / of_67b),
          100 * (1 - v2 / static_cast<double>(cache_of_all_heads<presets::deepseek_v2>(128))),
          100 * (1 - v3 / static_cast<double>(cache_of_all_heads<presets::deepseek_v3>(192))));

  constexpr auto at_1e20 = krajewski::dense_flops(krajewski::moe_optimum(1e20).loss) / 1e20;
  constexpr auto at_1e25 = krajewski::dense_flops(krajewski::moe_optimum(1e25).loss) / 1e25;
  claim{"studies of 2025 find that mixtures save 4 to 16 times the compute",
        "unsupported as said: 4 is Artetxe et al. of 2021 (arXiv 2112.10684), for modest budgets, shrinking with scale; 2.5 to 7 is usual",
        "DeepSeekMoE (2401.06066): TFLOPs at equal loss, 24.6 / 4.3, 183.5 / 74.4, 2057.5 / 585.6, 2057.5 / 374.6"}
      .is("%.1f, %.1f, %.1f and %.1f times", 24.6 / 4.3, 183.5 / 74.4, 2057.5 / 585.6, 2057.5 / 374.6);
  claim{"fine-grained experts save 20 times at 1e20 FLOPs, over 40 at 1e25",
        "EXTRAPOLATION: 20 follows from the law, 40 does not from its printed coefficients; it was fitted on models up to 3.7 B",
        "the scaling law of Krajewski et al. (2402.07871), 64 times the feed-forward's parameters, best width, tokens and granularity"}
      .is("%.1f times at 1e20, %.1f at 1e25", at_1e20, at_1e25);

  claim{"Switch Transformers train 7 times faster",
        "holds as measured, to a fixed quality against T5-Base on the same 32 TPUs; 2.5 against T5-Large",
        "arXiv 2101.03961: T5-Base's quality of 450 k steps after 60 k, with 64 experts; the wall clock is the paper's"}
      .is("%.1f times in steps (7 in time, since a step takes longer)", 450.0 / 60);

  constexpr double hours = 2664e3 + 119e3 + 5e3, of_pretraining = 6 * 37e9 * 14.8e12 / (2664e3 * 3600);
  claim{"DeepSeek-V3 was trained for $5.6 M",
        "the last run alone, at an assumed $2 an hour; research, trials and data are left out, as the report says",
        "H800 hours: 2664 k pre-training, 119 k longer context, 5 k after; 6 x 37 B x 14.8 T FLOPs"}
      .is("$%.3f M for %.3f M hours; %.0f TFLOP/s a GPU in pre-training, %.0f %% of its bf16 peak", hours * 2 * 1e-6, hours * 1e-6,
          of_pretraining * 1e-12, 100 * of_pretraining / devices::h100.peak.bf16);

  claim{"EAC-MoE needs 4.9 times less memory, by quantising routers and pruning experts",
        "4.9 for the two largest of four, by three bits alone: routers stay in 16, and pruning is for a prompt and frees nothing",
        "shapes; feed-forwards in 3 bits, attention in 4, the rest in 16, scale and zero point for each 128 (arXiv 2508.01625)"}
      .is("Mixtral %.2f GB, %.2f times; Phi-3.5-MoE %.2f; DeepSeekMoE-16B %.2f; Qwen1.5-MoE %.2f", eac_moe_bytes<mixtral_8x7b>(3) / GB,
          eac_moe_ratio<mixtral_8x7b>(3), eac_moe_ratio<phi_3_5_moe>(3), eac_moe_ratio<deepseek_moe_16b>(3),
          eac_moe_ratio<qwen1_5_moe_a2_7b>(3));
  claim{"... and loses less than 1.25 %", "true of the mean of four models, in points; not of two of them",
        "the paper's accuracies before and after"}
      .is("Mixtral %.2f, Phi %.2f, DeepSeekMoE %.2f, Qwen %.2f; mean %.2f points", 72.64 - 71.68, 69.62 - 68.31, 61.38 - 61.09,
          64.72 - 62.73, ((72.64 - 71.68) + (69.62 - 68.31) + (61.38 - 61.09) + (64.72 - 62.73)) / 4);
}

int main() {
  table();
  claims();
}
