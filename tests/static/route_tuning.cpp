// The router's tuning keeps every limit of architectures 80 and later, for every preset and for the largest routers there are.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <moesaic/config/presets/deepseek.hpp>
#include <moesaic/config/presets/mixtral.hpp>
#include <moesaic/config/presets/olmoe.hpp>
#include <moesaic/config/presets/qwen.hpp>
#include <moesaic/cuda/route.hpp>
#include <moesaic/route/two_prices.hpp>

using namespace moesaic;

namespace {

template <router_config Router>
struct fixed {
  static constexpr router_config config = Router;
};

template <class Kernel>
constexpr bool within(int architecture) {
  auto const limits = cuda::limits_of(architecture);
  return static_cast<std::int64_t>(sizeof(typename Kernel::shared)) <= limits.shared_bytes && Kernel::threads <= limits.threads_of_block &&
         Kernel::threads % 32 == 0 && Kernel::threads >= 32;
}
/// As the ops choose them.
template <class Policy, class Config>
constexpr bool runs() {
  constexpr int threads = cuda::default_route_tuning::rows(cuda::experts_of<Config>(), cuda::slots_of<Policy, Config>()).threads;
  bool all = true;
  for (int const architecture : {80, 86, 90, 100, 120})
    all = all && within<cuda::route_logits<Policy, Config, threads, cuda::rung::sm80>>(architecture) &&
          (!cuda::rows_fit_fused<cuda::default_tuning, Policy, Config>() || within<cuda::route_fused<Policy, Config, bf16, cuda::rung::sm80>>(architecture));
  return all;
}
template <class Model>
constexpr bool preset_runs() { return runs<routing::standard, fixed<Model::layer::config.router>>(); }

static_assert(preset_runs<presets::mixtral_8x7b>() && preset_runs<presets::mixtral_8x22b>() && preset_runs<presets::olmoe_1b_7b>() &&
              preset_runs<presets::qwen3_30b_a3b>() && preset_runs<presets::qwen3_235b_a22b>() && preset_runs<presets::qwen1_5_moe_a2_7b>() &&
              preset_runs<presets::deepseek_moe_16b>());
static_assert(runs<routing::standard, fixed<router_config{.experts = 512, .top_k = 10}>>() && runs<routing::standard, fixed<router_config{.experts = 2048, .top_k = 64}>>());
static_assert(runs<routing::two_prices<>, fixed<router_config{.experts = 256, .top_k = 8}>>() && runs<routing::standard, router_config>());
static_assert(within<cuda::plan_choices<cuda::default_route_tuning::plan_threads>>(86));
// Where it fits, as many warps as make a plan of 4096 tokens short.
static_assert(cuda::default_route_tuning::rows(256, 8).threads == 512 && cuda::default_route_tuning::rows(2048, 64).threads == 128);
// Presets compute their logits in the launch that routes.
static_assert(cuda::rows_fit_fused<cuda::default_tuning, routing::standard, fixed<presets::qwen3_235b_a22b::layer::config.router>>());

}  // namespace

TEST_CASE("the router's tuning keeps every limit") {}
