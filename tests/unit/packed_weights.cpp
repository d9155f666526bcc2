// Packed weights saved and mapped again: the same bits come out, and a file for another configuration is refused.
// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
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

struct turned : small<dtype::int4> {
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
  CHECK_THROWS_AS((mapped_weights<block<turned>>(path)), error);
}

TEST_CASE("the fingerprint tells shapes and storage apart, and says what differs") {
  CHECK(fingerprint_of<block<small<dtype::int4>>>() != fingerprint_of<block<small<dtype::int8>>>());
  CHECK(fingerprint_of<decoder<model<dtype::int4>>>() != fingerprint_of<decoder<model<dtype::int4, false>>>());
  CHECK(fingerprint_of<decoder<model<dtype::int4>>>().find("gate_up int4:32 4x2x24x32") != std::string::npos);
}
