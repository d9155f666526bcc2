// Rows of a whole mixture: router, plan, expert GEMMs, combine. Weights beyond every cache, other experts in every run.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>
#include <vector>

#include <moesaic/cost/bytes.hpp>
#include <moesaic/cost/flops.hpp>
#include <moesaic/host/host.hpp>
#include <moesaic/layer/moe.hpp>

#include "products.hpp"
#include "routes.hpp"

namespace moesaic::bench {
namespace {

/// Routes by logits drawn beforehand, so that popularity is what the row says. The router's product is computed all the same.
struct drawn_routing : routing::standard {
  struct state {
    view<const float> logits;
  };
  template <class T, class Group>
  static void score(router_config const& c, Group const& g, state const& s, std::int64_t token, T const*, T* scores) {
    standard::score(c, g, s, token, s.logits.row(token), scores);
  }
};

template <int Hidden, int Intermediate, int Experts, int TopK, dtype Stored, dtype Activations>
struct slice {
  static constexpr block_config config{.hidden = Hidden,
                                       .attention = {.heads = Hidden / 128, .head_dim = 128},
                                       .router = {.experts = Experts, .top_k = TopK, .renormalize = true},
                                       .expert = {.intermediate = Intermediate},
                                       .storage = {.weights = Stored, .activations = Activations}};
  using routing = drawn_routing;
};
// An eighth of each Mixtral 8x7B expert, as one of eight devices holds it; half the experts of Qwen3-30B-A3B.
template <dtype Stored, dtype Activations>
using mixtral = slice<4096, 1792, 8, 2, Stored, Activations>;
template <dtype Stored, dtype Activations>
using qwen3 = slice<2048, 768, 64, 8, Stored, Activations>;

template <class Spec>
void run(benchmark::State& state, popularity p, std::int64_t tokens) {
  using layer = moe<Spec>;
  using T = typename layer::scalar;
  constexpr auto shape = shapes(Spec::config);
  host::pool pool(1);
  random_stream random(1);
  auto const gate_up = shared_rotation(
      {.stored = shape.ffn_format, .outputs = shape.intermediate, .inputs = shape.hidden, .parts = 2, .count = shape.experts});
  auto const down =
      shared_rotation({.stored = shape.ffn_format, .outputs = shape.hidden, .inputs = shape.intermediate, .count = shape.experts});
  packed_matrix router{.stored = dtype::fp32, .outputs = shape.experts, .inputs = shape.hidden};
  host::buffer const router_memory(static_cast<std::size_t>(packed::bytes(router)));
  router.data = router_memory.data();
  host::pack(
      router, 0, [&](int, std::int64_t, float* row) { std::generate_n(row, shape.hidden, [&] { return 0.02f * random.normal(); }); },
      router_memory.data());

  drawn_logits logits(p, shape.experts, tokens);
  std::vector<T> x(static_cast<std::size_t>(tokens * shape.hidden)), y(x.size());
  for (auto& v : x) v = static_cast<T>(0.02f * random.normal());
  arena counting;
  layer::carve(counting, tokens);
  host::buffer const memory(counting.used() + arena::alignment);
  arena workspace(memory.data(), memory.size());
  auto const scratch = layer::carve(workspace, tokens);
  call_flags flags;
  auto const bytes = [&](packed_matrix const& m) { return static_cast<double>(packed::matrix_bytes(m)); };
  constexpr auto one = flops(Spec::config, 1);

  measure_cold(state, pool.level(), uses_bf16_dot<shape.ffn_format.type, T>(pool.level()), [&] {
    moe_weights const w{.router = {router, {}, {}, {}}, .experts = {gate_up->cold(), down->cold(), {}, {}}, .shared = {}, .shared_gate = {}};
    auto const done = layer::forward(pool, w, view<const T>(x.data(), tokens, shape.hidden), view<const T>(x.data(), tokens, shape.hidden),
                                     view<T>(y.data(), tokens, shape.hidden), {logits.next()}, scratch, &flags);
    if (!done) state.SkipWithError(done.what);
    auto const used = distinct(scratch.plan.expert_offsets);
    return work{bytes(w.router.weight) + used * (bytes(w.experts.gate_up) + bytes(w.experts.down)),
                static_cast<double>(tokens * (one.router + one.experts)), static_cast<double>(tokens), static_cast<double>(used)};
  });
  if (flags.not_finite != 0) state.SkipWithError("router logits are not finite");
}

template <class Spec>
void add(std::string const& config) {
  auto const variant = [](popularity p) {
    constexpr auto s = shapes(Spec::config);
    return format_name(s.ffn_format) + "_" + name(s.activations) + "_" + name(p);
  };
  for (std::int64_t const tokens : {1, 16, 128, 512})
    for (auto const p : {popularity::uniform, popularity::zipf}) {
      if (tokens == 1 && p == popularity::zipf) continue;
      benchmark::RegisterBenchmark(row_name("moe", variant(p), config, tokens).c_str(),
                                   [=](benchmark::State& state) { run<Spec>(state, p, tokens); })
          ->UseManualTime()
          ->Unit(benchmark::kMillisecond);
    }
}

bool const added =
    (add<mixtral<dtype::bf16, dtype::bf16>>("mixtral_2of8_1792x4096"), add<mixtral<dtype::int4, dtype::bf16>>("mixtral_2of8_1792x4096"),
     add<qwen3<dtype::bf16, dtype::bf16>>("qwen3_8of64_768x2048"), add<qwen3<dtype::int4, dtype::bf16>>("qwen3_8of64_768x2048"), true);

}  // namespace
}  // namespace moesaic::bench
