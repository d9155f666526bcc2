// Packed weights saved and mapped again: the same bits come out, and a file for another configuration is refused.
// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/config/random_source.hpp>
#include <moesaic/io/packed_weights.hpp>
#include <moesaic/moesaic.hpp>
#include <support/temporary_folder.hpp>

using namespace moesaic;

namespace {

template <dtype Ffn>
struct small {
  static constexpr block_config config{.hidden = 32,
                                       .attention = {.heads = 2},
                                       .router = {.experts = 4, .top_k = 2},
                                       .expert = {.intermediate = 24},
                                       .storage = {.weights = dtype::bf16, .ffn = Ffn}};
};
template <dtype Ffn, bool tied = true>
struct model {
  static constexpr decoder_config config{.vocabulary = 50, .tied_head = tied};
  using layers = moesaic::layers<repeat<small<Ffn>, 3>>;
};

std::vector<float> logits(host::pool& where, decoder_weights const& weights) {
  using net = decoder<model<dtype::int4>>;
  auto const cache = net::make_cache(where, 1, 4);
  host::buffer workspace{net::workspace_bytes(3, 3)};
  std::vector<std::int32_t> ids{5, 49, 0}, sequence{0, 0, 0}, position{0, 1, 2};
  std::vector<float> y(150);
  REQUIRE(net::forward(where, weights, {ids, sequence, position}, cache, every_token, {y.data(), 3, 50}, workspace));
  return y;
}

}  // namespace

TEST_CASE("a mapped model answers as the loaded one") {
  using net = decoder<model<dtype::int4>>;
  temporary_folder folder;
  auto const path = folder / "model.packed";
  host::pool where;
  auto const weights = net::load(where, random_source{3});
  save_weights<net>(path, weights);
  mapped_weights<net> const mapped(path);
  mapped.verify();
  CHECK(logits(where, weights) == logits(where, mapped));
  CHECK_THROWS_AS((mapped_weights<decoder<model<dtype::int8>>>(path)), error);
}

TEST_CASE("damage among the weights is found by verify, and by nothing before") {
  using layer = block<small<dtype::bf16>>;
  temporary_folder folder;
  auto const path = folder / "layer.packed";
  host::pool where;
  save_weights<layer>(path, layer::load(where, random_source{3}, ""));
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-100, std::ios::end).put('!');
  file.close();
  mapped_weights<layer> const mapped(path);
  CHECK_THROWS_AS(mapped.verify(), error);
}

namespace {

struct turned_model : small<dtype::int4> {
  static constexpr block_config config = [] {
    auto c = small<dtype::int4>::config;
    c.attention.rope_theta = 5e5;
    return c;
  }();
};

}  // namespace

TEST_CASE("a file whose layer rotates otherwise is refused") {
  temporary_folder folder;
  auto const path = folder / "layer.packed";
  host::pool where;
  save_weights<block<small<dtype::int4>>>(path, block<small<dtype::int4>>::load(where, random_source{3}, ""));
  CHECK_NOTHROW((mapped_weights<block<small<dtype::int4>>>(path)));
  CHECK_THROWS_AS((mapped_weights<block<turned_model>>(path)), error);
}

namespace {

template <int LastWidth, int Constant>
struct unequal : small<dtype::int4> {
  static constexpr block_config config = [] {
    auto c = small<dtype::int4>::config;
    c.router.experts = 9;
    c.expert = {.widths = {{3, 24}, {2, LastWidth}}, .zero = 1, .copy = 3 - Constant, .constant = Constant};
    return c;
  }();
};

}  // namespace

TEST_CASE("a layer of unequal experts is mapped as it was saved, and only as itself") {
  using layer = block<unequal<40, 2>>;
  temporary_folder folder;
  auto const path = folder / "layer.packed";
  host::pool where;
  auto const weights = layer::load(where, random_source{3}, "");
  save_weights<layer>(path, weights);
  mapped_weights<layer> const mapped(path);
  mapped.verify();
  block_weights const &loaded = weights, &views = mapped;
  auto const same = [](auto const& a, auto const& b, std::int64_t bytes) { return std::memcmp(a.data, b.data, static_cast<std::size_t>(bytes)) == 0; };
  CHECK(same(loaded.ffn.more_experts[0].down, views.ffn.more_experts[0].down, packed::bytes(loaded.ffn.more_experts[0].down)));
  CHECK(same(loaded.ffn.constant.value, views.ffn.constant.value, 2 * 32 * 4));
  CHECK(loaded.ffn.constant.gate.size == 2 * 2 * 32);
  CHECK_THROWS_AS((mapped_weights<block<unequal<48, 2>>>(path)), error);
  CHECK_THROWS_AS((mapped_weights<block<unequal<40, 1>>>(path)), error);
  CHECK_THROWS_AS((mapped_weights<block<small<dtype::int4>>>(path)), error);
}

TEST_CASE("a layer of equal experts has the text it always had") {
  CHECK(fingerprint_of<block<small<dtype::int4>>>() ==
        "attention_norm 32, ffn_norm 32, qkv bf16 1x1x96x32, out bf16 1x1x32x32, rope 21, gate_up int4:32 4x2x24x32, down int4:32 4x1x32x24, "
        "router fp32 1x1x4x32, ");
}

TEST_CASE("the fingerprint tells shapes and storage apart, and says what differs") {
  CHECK(fingerprint_of<block<small<dtype::int4>>>() != fingerprint_of<block<small<dtype::int8>>>());
  CHECK(fingerprint_of<decoder<model<dtype::int4>>>() != fingerprint_of<decoder<model<dtype::int4, false>>>());
  CHECK(fingerprint_of<decoder<model<dtype::int4>>>().find("gate_up int4:32 4x2x24x32") != std::string::npos);
}
