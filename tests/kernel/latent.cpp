// Multi-head latent attention on the CUDA backend, against the host's absorbed form: whole layers, and slots that lie outside the cache.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/config/random_source.hpp>
#include <moesaic/cuda/cuda.hpp>
#include <moesaic/moesaic.hpp>

#include "schedules.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

// Queries from x and from a latent; heads that do and do not fill groups of eight; a latent that is and is not a multiple of the lanes; scaled latents.
template <dtype Activations, dtype Cache, dtype Weights>
struct narrow {
  static constexpr auto attention_form = latent_form::absorbed;
  static constexpr block_config config{
      .hidden = 32,
      .attention = {.heads = 3, .head_dim = 16, .value_dim = 16, .layout = rope_layout::interleaved, .latent = {.kv_rank = 48, .rope_dim = 8}},
      .expert = {.intermediate = 16},
      .storage = {.weights = Weights, .activations = Activations, .cache = Cache}};
};
template <dtype Activations, dtype Cache, dtype Weights>
struct scaled {
  static constexpr auto attention_form = latent_form::absorbed;
  static constexpr block_config config{
      .hidden = 48,
      .attention = {.heads = 9, .head_dim = 16, .value_dim = 32, .layout = rope_layout::half_split,
                    .latent = {.kv_rank = 64, .q_rank = 32, .rope_dim = 16, .q_scale = 1.25, .kv_scale = 0.75}},
      .expert = {.intermediate = 16},
      .storage = {.weights = Weights, .activations = Activations, .cache = Cache}};
};

struct step {
  std::vector<std::int32_t> sequence, position;
};
/// A prompt longer than a tile of slots and a piece of one, then single tokens.
std::vector<step> steps() {
  std::vector<step> all(3);
  for (std::int32_t i = 0; i < 19; ++i) all[0].sequence.push_back(0), all[0].position.push_back(i);
  for (std::int32_t i = 0; i < 3; ++i) all[0].sequence.push_back(1), all[0].position.push_back(i);
  all[1] = {{0, 1}, {19, 3}};
  all[2] = {{1}, {4}};
  return all;
}

template <class Spec, class Where>
auto run(Where& where) {
  using layer = attention_of<Spec>;
  using T = typename layer::scalar;
  auto const weights = block<Spec>::load(where, random_source{3}, "");
  block_weights const& w = weights;
  auto const cache = make_attention_cache<Spec>(where, 2, 24);
  std::vector<matrix<T>> results;
  random_stream random(61);
  for (auto const& s : steps()) {
    auto const tokens = static_cast<std::int64_t>(s.sequence.size());
    auto const x = random_matrix<T>(tokens, Spec::config.hidden, random);
    arena counting;
    layer::carve(counting, tokens);
    moesaic::buffer memory(counting.used());
    arena over(memory.data(), memory.size());
    auto const scratch = layer::carve(over, tokens);
    auto const done = layer::forward(where, w.attention, x.view(), {s.sequence, s.position}, cache, scratch);
    REQUIRE_MESSAGE(done, to_string(done));
    matrix<T> y(tokens, scratch.out.columns);
    std::copy(scratch.out.data, scratch.out.data + y.data.size(), y.data.begin());
    results.push_back(std::move(y));
  }
  return results;
}

template <class Spec>
void check_layer(int architecture) {
  using T = typename attention_of<Spec>::scalar;
  host::pool pool;
  auto const want = run<Spec>(pool);
  under_every_schedule([&](cuda::stream_ref& where) {
    auto const got = run<Spec>(where);
    for (std::size_t i = 0; i < want.size(); ++i) check_close(got[i], want[i], long_stage_tolerance<T>);
  }, architecture);
}

}  // namespace

TEST_CASE("latent attention of bf16, queries from x") { check_layer<narrow<dtype::bf16, dtype::bf16, dtype::bf16>>(90); }
TEST_CASE("latent attention of bf16, scaled latents, a cache of fp32, weights of four bits") { check_layer<scaled<dtype::bf16, dtype::fp32, dtype::int4>>(80); }
TEST_CASE("latent attention of fp32") { check_layer<scaled<dtype::fp32, dtype::bf16, dtype::bf16>>(75); }

TEST_CASE("a token without a slot attends to nothing, and is told of") {
  using spec = narrow<dtype::bf16, dtype::bf16, dtype::bf16>;
  using layer = block<spec>;
  under_every_schedule([&](cuda::stream_ref& where) {
    auto const weights = layer::load(where, random_source{3}, "");
    auto const cache = layer::make_cache(where, 2, 4);
    random_stream random(5);
    auto const x = random_matrix<bf16>(3, 32, random);
    auto y = unwritten<bf16>(3, 32);
    std::vector<std::int32_t> const sequence{0, 2, 1}, position{0, 0, 4};
    moesaic::buffer workspace(layer::workspace_bytes(3));
    list<std::byte> const bytes{workspace.data(), static_cast<std::int64_t>(workspace.size())};
    REQUIRE(layer::forward(where, weights, {x.view(), sequence, position}, cache, y.view(), bytes));
    CHECK(check(where, bytes).code == status_code::out_of_range);
    for (auto const value : y.data) CHECK(std::isfinite(static_cast<float>(value)));
  });
}
