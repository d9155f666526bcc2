// Multi-head latent attention on the CUDA backend, against the host's: whole layers in either form, and slots that lie outside the cache.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include <moesaic/config/random_source.hpp>
#include <moesaic/cuda/cuda.hpp>
#include <moesaic/host/host.hpp>
#include <moesaic/layer/latent_attention.hpp>

#include "schedules.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

// Queries from x and from a latent; heads that do and do not fill groups of eight; a latent that is and is not a multiple of the lanes; scaled latents.
template <dtype Activations, dtype Cache, dtype Weights>
struct narrow {
  static constexpr auto attention_form = latent_form::expanded;
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

/// What a call gives, and shows a tap that has memory for all of it.
template <class T>
struct shown {
  static constexpr std::int64_t keys = 24;
  matrix<T> y, up;
  matrix<float> probabilities;

  template <class X>
  void operator()(tap_point, view<const X>) const {}
  view<T> expanded_latents(std::int64_t tokens, std::int64_t columns) { return (up = unwritten<T>(tokens, columns)).view(); }
  view<float> attention_probabilities(int heads, std::int64_t tokens) { return (probabilities = unwritten<float>(heads * tokens, keys)).view(); }
};

/// The attention of one layer where it runs: weights, and a call with memory of its own.
template <class Spec, class Where>
struct layer_on {
  using kind = attention_of<Spec>;
  using T = typename kind::scalar;
  Where& where;
  decltype(move_staged(where, allocate_staging(where, std::size_t{}))) memory;
  attention_weights w;

  explicit layer_on(Where& on) : where(on), memory(loaded_on(on)), w(bound(memory)) {}

  static auto loaded_on(Where& on) {
    auto staged = allocate_staging(on, bytes());
    random_source const source{3};
    tensor_names const names;
    loader from(on, source, "", names);
    kind::load(bound(staged), from);
    return move_staged(on, std::move(staged));
  }
  template <class Memory>
  static attention_weights bound(Memory const& memory) {
    arena over(const_cast<std::byte*>(memory.data()), bytes());
    return kind::carve_weights(over);
  }
  static std::size_t bytes() {
    arena counting;
    kind::carve_weights(counting);
    return counting.used();
  }
  template <class Cache>
  shown<T> operator()(matrix<T> const& x, list<const std::int32_t> sequence, list<const std::int32_t> position, Cache const& cache, call_flags* flags = nullptr) const {
    arena counting;
    kind::carve(counting, x.rows);
    moesaic::buffer scratch(counting.used());
    arena over(scratch.data(), scratch.size());
    auto const s = kind::carve(over, x.rows);
    shown<T> all;
    auto const done = kind::forward(where, w, x.view(), {sequence, position, flags}, cache, s, all);
    REQUIRE_MESSAGE(done, to_string(done));
    REQUIRE(finish(where));
    all.y = matrix<T>(x.rows, s.out.columns);
    std::copy(s.out.data, s.out.data + all.y.data.size(), all.y.data.begin());
    return all;
  }
};

template <class Spec, class Where>
auto run(Where& where) {
  layer_on<Spec, Where> const attend(where);
  using T = typename layer_on<Spec, Where>::T;
  auto const cache = make_attention_cache<Spec>(where, 2, static_cast<int>(shown<T>::keys));
  std::vector<shown<T>> results;
  random_stream random(61);
  for (auto const& s : steps()) {
    auto const tokens = static_cast<std::int64_t>(s.sequence.size());
    auto const x = random_matrix<T>(tokens, Spec::config.hidden, random);
    results.push_back(attend(x, s.sequence, s.position, cache));
  }
  return results;
}

template <class Spec>
void check_layer(int architecture) {
  using T = typename attention_of<Spec>::scalar;
  auto want = wanted<host::pool>([](auto& where) { return run<Spec>(where); });
  under_every_schedule([&](cuda::stream_ref& where) {
    auto const got = run<Spec>(where);
    if (want.empty()) want = got;
    for (std::size_t i = 0; i < want.size(); ++i) {
      check_close(got[i].y, want[i].y, long_stage_tolerance<T>);
      check_close(got[i].up, want[i].up, long_stage_tolerance<T>);
      check_close(got[i].probabilities, want[i].probabilities, long_stage_tolerance<T>);
    }
  }, architecture);
}

}  // namespace

TEST_CASE("latent attention of bf16, queries from x") { check_layer<narrow<dtype::bf16, dtype::bf16, dtype::bf16>>(90); }
TEST_CASE("latent attention of bf16, scaled latents, a cache of fp32, weights of four bits") { check_layer<scaled<dtype::bf16, dtype::fp32, dtype::int4>>(80); }

TEST_CASE("a token without a slot attends to nothing, and is told of") {
  using spec = narrow<dtype::bf16, dtype::bf16, dtype::bf16>;
  under_every_schedule([&](cuda::stream_ref& where) {
    layer_on<spec, cuda::stream_ref> const attend(where);
    auto const cache = make_attention_cache<spec>(where, 2, 4);
    random_stream random(5);
    auto const x = random_matrix<bf16>(3, 32, random);
    std::vector<std::int32_t> const sequence{0, 2, 1}, position{0, 0, 4};
    std::vector<call_flags> flags(1);
    auto const y = attend(x, sequence, position, cache, flags.data()).y;
    CHECK(flags[0].site != 0);
    for (int c = 0; c < 32; ++c) {
      CHECK(std::isfinite(static_cast<float>(y(0, c))));
      CHECK(static_cast<float>(y(1, c)) == 0);
      CHECK(static_cast<float>(y(2, c)) == 0);
    }
  });
}
