// Whole layers and a whole model on the CUDA backend, against the host's: expert ids exactly, values within the format's bound.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/config/random_source.hpp>
#include <moesaic/cuda/cuda.hpp>
#include <moesaic/moesaic.hpp>

#include "schedules.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

template <dtype Activations, dtype Weights>
constexpr storage_config storage{.weights = Weights, .activations = Activations};

template <storage_config Storage>
struct dense {
  static constexpr block_config config{.hidden = 64, .attention = {.heads = 4, .kv_heads = 2, .head_dim = 16}, .expert = {.intermediate = 96}, .storage = Storage};
};
/// Attention by more than a scale, of heads that turn in part and are changed before and after.
struct ruled {
  static constexpr block_config config{.hidden = 64,
                                       .attention = {.heads = 4,
                                                     .kv_heads = 2,
                                                     .head_dim = 16,
                                                     .value_dim = 32,
                                                     .tiled_kv = true,
                                                     .rotary_dim = 8,
                                                     .scaling = {.kind = rope_scaling_kind::yarn, .factor = 4, .original_positions = 16, .rounded = false},
                                                     .qk_norm = qk_norm::weightless,
                                                     .qk_norm_after_rope = true,
                                                     .qkv_clip = 0.75,
                                                     .softcap = 3,
                                                     .window = 6,
                                                     .chunk = 8,
                                                     .sinks = true,
                                                     .output_gate = true,
                                                     .temperature = {0.3, 4}},
                                       .expert = {.intermediate = 96},
                                       .storage = storage<dtype::bf16, dtype::bf16>};
};
template <storage_config Storage>
struct mixtral {
  static constexpr block_config config{.hidden = 64, .attention = {.heads = 4, .kv_heads = 2, .head_dim = 16, .rope_theta = 1e6},
                                       .router = {.experts = 8, .top_k = 2, .renormalize = true}, .expert = {.intermediate = 80}, .storage = Storage};
};
template <storage_config Storage>
struct qwen3 {
  static constexpr block_config config{.hidden = 48, .attention = {.heads = 4, .kv_heads = 1, .head_dim = 32, .qk_norm = qk_norm::per_head},
                                       .router = {.experts = 16, .top_k = 4, .renormalize = true}, .expert = {.intermediate = 32},
                                       .shared = {.intermediate = 64, .sigmoid_gate = true}, .norm = {.epsilon = 1e-6}, .storage = Storage};
};
/// Experts with weights on their input, which is a projection of x, and whose gates are clamped.
struct weighed {
  static constexpr block_config config{.hidden = 64,
                                       .attention = {.heads = 4, .kv_heads = 2, .head_dim = 16},
                                       .router = {.experts = 8, .top_k = 2, .score = score::sigmoid, .position = score_position::after_top_k,
                                                  .weights = combine_weight::on_input},
                                       .expert = {.intermediate = 48, .limit = 0.5, .alpha = 1.702, .up_offset = 1, .bias = true, .mixture_bias = true, .latent = 32},
                                       .shared = {.intermediate = 32},
                                       .storage = storage<dtype::bf16, dtype::bf16>};
};
/// OLMoE, with experts that cost.
template <storage_config Storage>
struct olmoe {
  static constexpr block_config config{.hidden = 64, .attention = {.heads = 4, .head_dim = 16, .qk_norm = qk_norm::full_width},
                                       .router = {.experts = 16, .top_k = 4}, .expert = {.intermediate = 48}, .storage = Storage};
  using routing = moesaic::routing::cost_aware<moesaic::costs::table>;
};

/// What a call showed: the ids that were chosen, and the output.
template <class T>
struct seen {
  std::vector<std::vector<std::int32_t>> ids;
  static constexpr bool wants(stage s) { return s == stage::topk_index; }
  void operator()(tap_point at, view<const std::int32_t> v) {
    if (at.stage == stage::topk_index) ids.emplace_back(v.data, v.data + v.rows * v.columns);
  }
  template <class X>
  void operator()(tap_point, view<const X>) {}
};

struct step {
  std::vector<std::int32_t> sequence, position;
};
/// A prompt and a piece of one, then single tokens.
std::vector<step> steps() {
  std::vector<step> all(3);
  for (std::int32_t i = 0; i < 11; ++i) all[0].sequence.push_back(0), all[0].position.push_back(i);
  for (std::int32_t i = 0; i < 3; ++i) all[0].sequence.push_back(1), all[0].position.push_back(i);
  all[1] = {{0, 1}, {11, 3}};
  all[2] = {{1}, {4}};
  return all;
}

template <class Spec, class Where, class State>
std::vector<matrix<scalar_of<Spec::config.storage.activations>>> run(Where& where, seen<float>& tap, State const& state) {
  using layer = block<Spec>;
  using T = typename layer::scalar;
  auto const weights = layer::load(where, random_source{3}, "");
  auto const cache = layer::make_cache(where, 2, 24);
  std::vector<matrix<T>> results;
  random_stream random(61);
  for (auto const& s : steps()) {
    auto const tokens = static_cast<std::int64_t>(s.sequence.size());
    auto const x = random_matrix<T>(tokens, Spec::config.hidden, random);
    auto y = unwritten<T>(tokens, Spec::config.hidden);
    moesaic::buffer workspace(layer::template workspace_bytes<seen<float>>(tokens));
    list<std::byte> const bytes{workspace.data(), static_cast<std::int64_t>(workspace.size())};
    auto const done = layer::forward(where, weights, {x.view(), s.sequence, s.position}, cache, y.view(), bytes, state, tap);
    REQUIRE_MESSAGE(done, to_string(done));
    REQUIRE(check(where, bytes));
    results.push_back(std::move(y));
  }
  return results;
}

template <class Spec>
void check_layer(typename policy_of<Spec>::state const& state = {}) {
  using T = typename block<Spec>::scalar;
  host::pool pool;
  seen<float> wanted_ids;
  auto const want = run<Spec>(pool, wanted_ids, state);
  for (int const architecture : {75, 80, 90})
    under_every_schedule([&](cuda::stream_ref& where) {
      CAPTURE(architecture);
      seen<float> ids;
      auto const got = run<Spec>(where, ids, state);
      CHECK(ids.ids == wanted_ids.ids);
      for (std::size_t i = 0; i < want.size(); ++i) check_close(got[i], want[i], long_stage_tolerance<T>);
    }, architecture);
}

}  // namespace

TEST_CASE("a dense layer") {
  check_layer<dense<storage<dtype::bf16, dtype::bf16>>>();
  check_layer<dense<storage<dtype::fp32, dtype::bf16>>>();
}
TEST_CASE("a layer whose attention has a rule") { check_layer<ruled>(); }
TEST_CASE("a layer whose experts read a weighed projection of x") { check_layer<weighed>(); }
TEST_CASE("a Mixtral layer") {
  check_layer<mixtral<storage<dtype::bf16, dtype::bf16>>>();
  check_layer<mixtral<storage<dtype::bf16, dtype::int4>>>();
}
TEST_CASE("a Qwen3 layer with a gated shared expert") { check_layer<qwen3<storage<dtype::bf16, dtype::bf16>>>(); }
TEST_CASE("an OLMoE layer with experts that cost") {
  using spec = olmoe<storage<dtype::bf16, dtype::bf16>>;
  std::vector<float> const cost{1, 2, 1, 3, 1, 1, 4, 1, 1, 2, 1, 1, 1, 1, 5, 1};
  typename policy_of<spec>::state state{};
  state.cost = moesaic::costs::table::of_experts(cost);
  state.price = 0.02f;
  check_layer<spec>(state);
}
