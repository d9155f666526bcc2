// Balance and z-losses with their gradients, and the gradient of combine weights, against automatic differentiation of the published classes.
// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/io/safetensors.hpp>
#include <moesaic/route/gradient.hpp>
#include <support/compare.hpp>
#include <support/tolerance.hpp>

#include "batch.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

struct family {
  std::string name, router;
  router_config config;
  bool has_balance, has_z;
};

std::vector<family> const families{
    {"mixtral", "mlp.gate.weight", {.experts = 6, .top_k = 2, .renormalize = true}, true, true},
    {"olmoe", "mlp.gate.weight", {.experts = 7, .top_k = 3}, true, true},
    {"qwen2_moe", "mlp.gate.weight", {.experts = 6, .top_k = 3}, true, false},
    {"switch", "mlp.router.classifier.weight", {.experts = 6, .top_k = 1}, true, true},
    {"deepseek_v3", "mlp.gate.weight", {.experts = 9, .top_k = 3, .score = score::sigmoid, .renormalize = true, .routed_scale = 2.5}, false, false},
    {"gpt_oss", "mlp.router.weight", {.experts = 5, .top_k = 3, .position = score_position::after_top_k}, false, false}};

void check_close(std::string const& what, matrix<double> const& got, matrix<double> const& want, double allowed = stage_tolerance<double>) {
  auto const far = compare<double, double>(got.view(), want.view());
  CHECK_MESSAGE(far.worst <= allowed, what << ": " << to_string(far));
}

/// d loss / d weight [experts, hidden] of logits = weight · x: dzᵀ x.
template <class T>
matrix<double> by_router(matrix<T> const& by_logits, matrix<double> const& x) {
  matrix<double> w(by_logits.columns, x.columns);
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t e = 0; e < w.rows; ++e)
      for (std::int64_t h = 0; h < w.columns; ++h) w(e, h) += static_cast<double>(by_logits(t, e)) * x(t, h);
  return w;
}

template <class T>
void check_losses(family const& f) {
  INFO(f.name);
  safetensors const file(oracle_path(f.name + ".gradient"));
  auto const x = read_matrix<double>(file, "expect.ffn_norm"), exact = read_matrix<double>(file, "expect.router_logits");
  auto const logits = convert<T>(exact);
  owning_scratch const memory(f.config.experts, f.config.top_k);
  auto const allowed = stage_tolerance<T>;
  auto const check = [&](std::string const& loss, T value, matrix<T> const& gradient) {
    matrix<double> got(1, 1), want = read_matrix<double>(file, "expect." + loss);
    got(0, 0) = static_cast<double>(value);
    check_close(f.name + " " + loss, got, want, allowed);
    auto const by = [&](std::string const& name) { return read_matrix<double>(file, "grad_" + loss + "." + name); };
    check_close(f.name + " " + loss + " by logits", convert<double>(gradient), by("stage.router_logits"), allowed);
    check_close(f.name + " " + loss + " by router", by_router(gradient, x), by(f.router), allowed);
  };
  if (f.has_balance) {
    matrix<T> gradient(logits.rows, logits.columns);
    std::vector<view<const T>> const layers{logits.view()};
    std::vector<view<T>> const gradients{gradient.view()};
    std::vector<std::int64_t> counts(static_cast<std::size_t>(f.config.experts));
    balance::choices chosen{counts};
    REQUIRE(balance::count_top_k<T>(logits.view(), {}, f.config.top_k, chosen, memory.of));
    auto const loss = f.name == "switch" ? balance::switch_balance<T>(logits.view(), {}, logits.rows, T(1), gradient.view(), memory.of)
                                         : balance::pooled_balance<T>(layers, {}, chosen, T(1), gradients);
    REQUIRE(loss.done);
    check("load_balance", loss.value, gradient);
  }
  if (f.has_z) {
    matrix<T> gradient(logits.rows, logits.columns);
    auto const loss = balance::z_loss<T>(logits.view(), {}, T(1), gradient.view());
    REQUIRE(loss.done);
    if (file.find("expect.z") != nullptr) {
      check("z", loss.value, gradient);
    } else {
      check_close(f.name + " z by logits", convert<double>(gradient), read_matrix<double>(file, "grad_z.stage.router_logits"), allowed);
    }
  }
}

}  // namespace

TEST_CASE("load balance and z-loss: values, gradients by logits and by the router's weight") {
  for (auto const& f : families) check_losses<double>(f), check_losses<float>(f);
}

TEST_CASE("combine weights by the logits and by the router's weight, the experts as chosen there") {
  for (auto const& f : families) {
    INFO(f.name);
    safetensors const file(oracle_path(f.name + ".gradient"));
    auto const logits = read_matrix<double>(file, "expect.router_logits"), by_weight = read_matrix<double>(file, "grad.stage.topk_weight");
    matrix<std::int32_t> ids(logits.rows, f.config.top_k);
    ids.data = read<std::int32_t>(file, "expect.topk_index");
    matrix<double> gradient(logits.rows, logits.columns);
    REQUIRE(router_gradient<double>(f.config, logits.view(), ids.view(), by_weight.view(), gradient.view()));
    check_close(f.name + " by logits", gradient, read_matrix<double>(file, "grad.stage.router_logits"));
    auto const x = read_matrix<double>(file, "expect.ffn_norm");
    check_close(f.name + " by router", by_router(gradient, x), read_matrix<double>(file, "grad." + f.router));
  }
}
