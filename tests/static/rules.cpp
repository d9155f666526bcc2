// Rules read at run time, and what a spec may leave to others. That a wrong spec does not compile is tests/compile_fail's matter.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include <moesaic/config/spec.hpp>

using namespace moesaic;

constexpr block_config sound{.hidden = 8, .attention = {.heads = 2}, .expert = {.intermediate = 4}};
constexpr block_config wider = [] {
  auto c = sound;
  c.hidden = 16;
  return c;
}();
static_assert(explain(sound) == nullptr && validated<named_value<sound>>::config == sound);

// A dense layer like a mixture of every kind: what is of experts alone is gone, what is not stays.
static_assert([] {
  block_config mixture = sound, dense = sound;
  dense.attention.router = {.experts = 4, .top_k = 1};
  dense.expert = {.intermediate = 12, .activation = activation::swiglu, .limit = 7, .alpha = 1.702, .up_offset = 1, .bias = true};
  dense.norms = norm_placement::sandwich;
  mixture.attention = dense.attention, mixture.expert = dense.expert, mixture.norms = dense.norms;
  mixture.router = {.experts = 7, .top_k = 2}, mixture.shared = {4}, mixture.shortcut = shortcut::opens;
  mixture.expert.intermediate = 0, mixture.expert.widths = {{2, 4}, {2, 8}}, mixture.expert.latent = 4, mixture.expert.mixture_bias = true;
  mixture.expert.zero = mixture.expert.copy = mixture.expert.constant = 1;
  return dense_of(mixture, 12) == dense && explain(dense_of(mixture, 12)) == nullptr;
}());

struct plain : named_value<sound> {};
struct custom : plain {
  using routing = int;
};
static_assert(std::is_same_v<routing_of<plain, char>, char> && std::is_same_v<routing_of<custom, char>, int>);
static_assert(block_spec<plain> && !decoder_spec<plain> && !block_spec<int>);

struct model {
  static constexpr decoder_config config{.vocabulary = 5};
  using layers = moesaic::layers<plain, repeat<custom, 2>>;
};
static_assert(decoder_spec<model> && !block_spec<model> && validated<model>::config.vocabulary == 5 && layer_configs<model>.size() == 3);

TEST_CASE("explain says the first broken rule, or each of them") {
  auto c = sound;
  c.attention.kv_heads = 3;
  c.norm.epsilon = 0;
  std::vector<std::string> said;
  explain(c, [&](const char* sentence) { said.emplace_back(sentence); });
  REQUIRE(said.size() == 2);
  CHECK(said[0] == explain(c));
  CHECK(said[0] == rules::kv_heads_divide_heads::sentence);
  CHECK(said[1] == rules::epsilon_is_positive::sentence);
}

TEST_CASE("an empty configuration is answered by what is missing, and by nothing else") {
  std::vector<std::string> said;
  explain(block_config{}, [&](const char* sentence) { said.emplace_back(sentence); });
  CHECK(said == std::vector<std::string>{rules::hidden_is_positive::sentence, rules::heads_are_positive::sentence,
                                         rules::intermediate_is_positive::sentence});
  CHECK(explain(decoder_config{}) == std::string(rules::vocabulary_is_positive::sentence));
}

TEST_CASE("kinds and widths of experts are explained") {
  auto c = sound;
  c.router = {.experts = 8, .top_k = 2};
  c.expert = {.widths = {{4, 16}, {2, 32}}, .zero = 1, .copy = 1};
  CHECK(explain(c) == nullptr);
  c.expert.constant = 1;
  CHECK(explain(c) == std::string(rules::widths_cover_the_feed_forwards::sentence));
  c.expert.intermediate = 4;
  std::vector<std::string> said;
  explain(c, [&](const char* sentence) { said.emplace_back(sentence); });
  CHECK(said == std::vector<std::string>{rules::widths_stand_for_intermediate::sentence, rules::widths_cover_the_feed_forwards::sentence});
  c.expert = {.intermediate = 4, .copy = 8};
  CHECK(explain(c) == std::string(rules::feed_forwards_are_left::sentence));
}

TEST_CASE("layers must fit together") {
  block_config const same[] = {sound, sound}, different[] = {sound, sound, wider};
  CHECK(explain(layer_stack(same)) == nullptr);
  CHECK(explain(layer_stack(different)) == std::string(rules::layers_share_hidden::sentence));
  CHECK(layer_stack(different).odd == wider);
  CHECK(explain(layer_stack{}) == std::string(rules::there_are_layers::sentence));
}

TEST_CASE("messages spell every value of every setting by its own name") {
  auto const spelled = [](auto... values) {
    std::vector<std::string> all{name(values)...};
    for (auto const& one : all) CHECK_FALSE(one.empty());
    std::sort(all.begin(), all.end());
    CHECK(std::adjacent_find(all.begin(), all.end()) == all.end());
  };
  spelled(purpose::inference, purpose::batch_invariant, purpose::training);
  spelled(score::softmax, score::sigmoid, score::identity, score::sqrt_softplus, score::relu);
  spelled(score_position::before_top_k, score_position::after_top_k);
  spelled(combine_weight::scores, combine_weight::ones);
  spelled(group_worth::max, group_worth::top2_sum);
  spelled(group_mask::minus_infinity, group_mask::zero);
  CHECK(std::string(name(score::sqrt_softplus)) == "sqrt_softplus");
  CHECK(std::string(name(group_mask::zero)) == "zero");
}

TEST_CASE("no sentence stands twice, and each says why") {
  std::vector<std::string> all;
  auto const collect = [&]<class... Rules>(rules::list<Rules...>) { (all.emplace_back(Rules::sentence), ...); };
  collect(rules::of_block{});
  collect(rules::of_decoder{});
  collect(rules::of_stack{});
  CHECK(all.size() > 30);
  for (std::size_t i = 0; i < all.size(); ++i) {
    CHECK_MESSAGE(all[i].find(", because ") != std::string::npos, all[i]);
    for (std::size_t j = 0; j < i; ++j) CHECK(all[i] != all[j]);
  }
}
