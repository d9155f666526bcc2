// What is said of published models, recomputed from their shapes: sizes, caches, training costs, quantised bytes.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <moesaic/config/presets/deepseek.hpp>
#include <moesaic/config/presets/mixtral.hpp>
#include <moesaic/config/presets/qwen.hpp>
#include <moesaic/cost/bytes.hpp>

#include "../../examples/published_models.hpp"
#include "static/printed.hpp"

using namespace moesaic;
using namespace moesaic::presets;

// ---- sizes: exact where a checkpoint was counted

static_assert(deepseek_v2.total() == 235'741'434'880 && deepseek_v3.total() == 671'026'404'352 && kimi_k2.total() == 1'026'408'209'408);
static_assert(prints(static_cast<double>(deepseek_v2.active()) * 1e-9, 21.38, 2) &&
              prints(static_cast<double>(deepseek_v3.active()) * 1e-9, 37.55, 2));
static_assert(prints(static_cast<double>(kimi_k2.active()) * 1e-9, 32.86, 2));
static_assert(prints(static_cast<double>(deepseek_v3.active() - 129280ll * 7168) * 1e-9, 36.6, 1));   // without the input embedding
static_assert(parameters<phi_3_5_moe>().total() == 41'873'153'344);
static_assert(prints(static_cast<double>(parameters<grok_1>().total() + grok_1::norms_after) * 1e-9, 315.685, 3) &&
              prints(static_cast<double>(parameters<grok_1>().active() + grok_1::norms_after) * 1e-9, 83.76, 2));
static_assert(prints(static_cast<double>(parameters<mixtral_8x7b>().total()) * 1e-9, 46.703, 3) &&
              prints(static_cast<double>(parameters<mixtral_8x7b>().active()) * 1e-9, 12.880, 3) &&
              parameters<mixtral_8x7b::layer>().expert == 176'160'768 &&
              prints(2e-9 * static_cast<double>(parameters<mixtral_8x7b>().total()), 93.41, 2));

// ---- caches: a saving of 93 % is that of V2 at six bits over the 67B model at sixteen

constexpr auto numbers_67b = static_cast<double>(cache_bytes<deepseek_67b>()) / 2;
constexpr double saved(double numbers, double bits, double of, double of_bits) { return 100 * (1 - numbers * bits / (of * of_bits)); }
constexpr auto v2 = static_cast<double>(deepseek_v2.cache()), v3 = static_cast<double>(deepseek_v3.cache());
static_assert(numbers_67b == 194'560 && v2 == 34'560 && v3 == 35'136);
static_assert(prints(saved(v2, 6, numbers_67b, 16), 93.34, 2));
static_assert(prints(saved(v2, 16, numbers_67b, 16), 82.24, 2) && prints(saved(v3, 16, numbers_67b, 16), 81.94, 2));
static_assert(prints(saved(v2, 16, static_cast<double>(deepseek_v2.cache_of_all_heads(128)), 16), 98.24, 2) &&
              prints(saved(v3, 16, static_cast<double>(deepseek_v3.cache_of_all_heads(192)), 16), 98.59, 2));
static_assert(576 / (2.0 * 128) == 2.25);                   // as a grouped query attention of 2.25 groups
static_assert(prints(100 * (1 - 172.8 / 300.6), 42.5, 1));  // V2's training against the 67B model's

// ---- DeepSeek-V3's 5.576 million dollars, and what the GPUs did in those hours

constexpr auto hours = 2664e3 + 119e3 + 5e3;
static_assert(prints(hours * 2 * 1e-6, 5.576, 3) && prints(180e3 * 14.8 * 1e-3, 2664, 0) && prints(180e3 / 2048 / 24, 3.7, 1));
static_assert(prints(6 * 37e9 * 14.8e12 * 1e-24, 3.29, 2) && prints(6 * 37e9 * 14.8e12 / (2664e3 * 3600) * 1e-12, 343, 0) &&
              prints(343 / 989.0, 0.35, 2));

// ---- EAC-MoE: bytes at three bits, and 4.9 times less for the two largest of its four models

static_assert(prints(eac_moe_bytes<mixtral_8x7b>(3) * 1e-9, 18.97, 2) && prints(eac_moe_bytes<phi_3_5_moe>(3) * 1e-9, 17.075, 3) &&
              prints(eac_moe_bytes<deepseek_moe_16b>(3) * 1e-9, 7.18, 2) && prints(eac_moe_bytes<qwen1_5_moe_a2_7b>(3) * 1e-9, 6.69, 2));
static_assert(prints(eac_moe_ratio<mixtral_8x7b>(3), 4.92, 2) && prints(eac_moe_ratio<phi_3_5_moe>(3), 4.90, 1) &&
              prints(eac_moe_ratio<deepseek_moe_16b>(3), 4.56, 2) && prints(eac_moe_ratio<qwen1_5_moe_a2_7b>(3), 4.28, 2));
static_assert(prints(((72.64 - 71.68) + (69.62 - 68.31) + (61.38 - 61.09) + (64.72 - 62.73)) / 4, 1.14,
                     2));  // points lost, mean of the four

// ---- savings at matched loss

static_assert(prints(24.6 / 4.3, 5.7, 1) && prints(183.5 / 74.4, 2.5, 1) && prints(2057.5 / 585.6, 3.5, 1) &&
              prints(2057.5 / 374.6, 5.5, 1));
static_assert(prints(450 / 60.0, 7.5, 1));                                                           // Switch-Base, in steps

TEST_CASE("published figures follow from shapes") { CHECK(deepseek_v3.total() > deepseek_v2.total()); }
