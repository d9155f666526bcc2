// Every preset's layers are of a form that is run here.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

#include <doctest/doctest.h>

#include "families.hpp"

namespace {

using namespace moesaic;
using test::families::dense_form, test::families::form;

#define MOESAIC_FORM_OF(layer) form(presets::layer::config),
block_config const run[] = {MOESAIC_FAMILIES_OF_HEADS(MOESAIC_FORM_OF) MOESAIC_FAMILIES_OF_LATENTS(MOESAIC_FORM_OF)};

bool is_run(block_config const& c) {
  return std::any_of(std::begin(run), std::end(run), [&](block_config const& r) {
    return r == form(c) || (c.router.experts == 0 && c.shortcut == shortcut::none && dense_form(r) == dense_form(c));
  });
}

#define MOESAIC_MODELS(X)                                                                                                                          \
  X(dbrx) X(deepseek_moe_16b) X(deepseek_v2) X(deepseek_v2_lite) X(deepseek_v3) X(deepseek_v3_1) X(ernie_4_5_21b_a3b) X(glm_4_5) X(glm_4_5_air) X(gpt_oss_120b)     \
  X(gpt_oss_20b) X(granite_3_0_3b_a800m) X(grok_1) X(hunyuan_a13b) X(jetmoe_8b) X(kimi_k2) X(ling_mini_2_0) X(llama2_7b) X(llama3_8b)              \
  X(llama_4_maverick) X(llama_4_scout) X(longcat_flash) X(minimax_m2) X(mixtral_8x22b) X(mixtral_8x7b) X(olmoe_1b_7b) X(phi_3_5_moe)               \
  X(qwen1_5_moe_a2_7b) X(qwen3_235b_a22b) X(qwen3_30b_a3b) X(smollm2_135m)

template <class Model>
void check_model(char const* name) {
  for_each_layer<typename Model::layers>([&]<class Layer>(int index) {
    CHECK_MESSAGE(is_run(Layer::config), name, ": no layer in tests/kernel/families has the form of layer ", index);
  });
}

}  // namespace

TEST_CASE("every layer of a preset has a form that is run") {
#define MOESAIC_CHECK_MODEL(model) check_model<presets::model>(#model);
  MOESAIC_MODELS(MOESAIC_CHECK_MODEL)
  CHECK(is_run(presets::switch_base<256>::dense_layer::config));
  CHECK(is_run(presets::switch_base<256>::layer::config));
}

TEST_CASE("a form that is not run is told") {
  auto c = presets::mixtral_8x7b::layer::config;
  c.router.top_k = 1;
  CHECK(!is_run(c));
  c = presets::llama3_8b::layer::config;
  CHECK(is_run(c));
  c.attention.out_bias = true;
  CHECK(!is_run(c));
  c = presets::llama3_8b::layer::config;
  c.expert.activation = activation::gelu_tanh;
  CHECK(!is_run(c));
  c = presets::llama3_8b::layer::config;
  c.expert.bias = true;
  CHECK(!is_run(c));
}

TEST_CASE("every model of config/presets is looked at") {
#define MOESAIC_NAME_OF(model) #model,
  std::set<std::string> const looked{MOESAIC_MODELS(MOESAIC_NAME_OF) "switch_base"};
  std::set<std::string> all;
  static std::regex const opens("^struct (\\w+) \\{");
  for (auto const& file : std::filesystem::directory_iterator(MOESAIC_SOURCE_DIR "/include/moesaic/config/presets")) {
    std::ifstream in(file.path());
    std::smatch found;
    for (std::string line; std::getline(in, line);)
      if (std::regex_search(line, found, opens)) all.insert(found[1]);
  }
  for (auto const& name : all) CHECK_MESSAGE(looked.contains(name), name, " has no layer in tests/kernel/families/families.hpp");
  CHECK(all.size() >= looked.size());
}
