// Scaling laws and the powers they are made of, against published figures and against their own definitions.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include <moesaic/base/random.hpp>
#include <moesaic/config/presets/mixtral.hpp>
#include <moesaic/cost/savings.hpp>

#include "static/printed.hpp"

using namespace moesaic;
using namespace moesaic::krajewski;

// ---- the paper's models: 64 × 100 M on 4.37 G tokens at granularity 8, and 64 × 1 B on 28.94 G at 16

static_assert(prints(moe_loss(total_of(100e6), 4.37e9, 8), 3.11, 2));
static_assert(prints(moe_loss(total_of(1e9), 28.94e9, 16), 2.47, 2));
static_assert(total_of(12) == 4 + 8 * 64 && total_of(1e9) == 43e9);

// The trap: with active parameters the mixture would lose to the dense model of its FLOPs; with all of them it wins.
constexpr bool trap(double active, double tokens) {
  return moe_loss(active, tokens, 16) > dense_loss(active, tokens) && moe_loss(total_of(active), tokens, 16) < dense_loss(active, tokens);
}
static_assert(trap(30e6, 10e9) && trap(100e6, 4.37e9) && trap(1e9, 28.94e9) && trap(3.7e9, 100e9));

// ---- the same loss by a dense model

constexpr auto saved = saved_training(total_of(100e6), 100e6, 4.37e9, 8);
static_assert(prints(dense_loss(saved.dense_parameters, 4.37e9), saved.loss, 9) && saved.dense_parameters > 100e6);
static_assert(prints(saved.at_same_tokens * 100e6 / saved.dense_parameters, 1, 12) && prints(saved.expansion, 64, 9) && saved.extrapolated);
static_assert(!saved_training(total_of(20e6), 20e6, 4e9, 8).extrapolated && saved_training(total_of(20e6, 8), 20e6, 4e9, 2).extrapolated);
static_assert(dense_parameters(irreducible + 0.1, 1e9) ==
              std::numeric_limits<double>::infinity());  // no size makes up for text that is missing

// No other size gets there with fewer FLOPs than the best one.
constexpr bool is_best(double loss) {
  auto const best = dense_flops(loss);
  double least = std::numeric_limits<double>::infinity();
  for (double tokens = 1e8; tokens < 1e14; tokens *= 1.1)
    if (auto const flops = 6 * dense_parameters(loss, tokens) * tokens; flops < least) least = flops;
  return best <= least * (1 + 1e-9) && least < best * 1.01;
}
static_assert(is_best(3.2) && is_best(2.6) && is_best(2.2));

// ---- the paper's headline: a mixture trained with 1e20 FLOPs matches a dense model of 20 times as many. At 1e25 it says over 40, and the
// law as printed, with three digits a coefficient, gives 32: five orders of magnitude beyond what it was fitted on.

constexpr double saved_at(double flops) { return dense_flops(moe_optimum(flops).loss) / flops; }
static_assert(prints(saved_at(1e20) * 0.1, 2.1, 1));
static_assert(prints(saved_at(1e25), 32, 0));
constexpr auto best = moe_optimum(1e20);
static_assert(prints(best.tokens * best.width / 64 * krajewski::block_flops(best.width, 64, best.granularity) * 1e-20, 1, 9) &&
              best.granularity == 16);

// ---- routing's share of a block, in percent

constexpr double share(double d, double expansion, double granularity) { return 100 * router_share(d, expansion, granularity); }
static_assert(prints(share(64, 8, 1), 2.4, 1) && prints(share(64, 64, 8), 61, 0));
static_assert(prints(share(256, 8, 1), 0.6, 1) && prints(share(256, 64, 8), 28, 0));
static_assert(prints(share(1024, 8, 1), 0.2, 1) && prints(share(1024, 64, 8), 8.9, 1));
static_assert(prints(share(4096, 8, 1), 0.04, 2) && prints(share(4096, 64, 8), 2.4, 1));

// Of a model: all of the layers' parameters, and those a token uses.
constexpr auto mixtral = saved_training<presets::mixtral_8x7b>(2e12);
static_assert(mixtral.extrapolated && mixtral.expansion < 6 &&
              prints(mixtral.loss, moe_loss(static_cast<double>(parameters<presets::mixtral_8x7b>().layers), 2e12, 2), 12));

// ---- powers as constant expressions

static_assert(prints(constant_math::pow(2, 10), 1024, 10) && prints(constant_math::pow(2, 0.5), 1.41421356237, 11));
static_assert(constant_math::exp(0) == 1 && constant_math::log(1) == 0 && constant_math::pow(0, 2) == 0 && constant_math::pow(0, 0) == 1);
static_assert(constant_math::log(0) == -std::numeric_limits<double>::infinity() && constant_math::log(-1) != constant_math::log(-1));
static_assert(constant_math::exp(1000) == std::numeric_limits<double>::infinity() && constant_math::exp(-1000) == 0);

TEST_CASE("exp, log and pow are the standard library's") {
  CAPTURE("seed 4");
  random_stream random(4);
  auto const near = [](double value, double expected, double times) {
    return std::abs(value - expected) <= times * 0x1p-52 * std::abs(expected);
  };
  for (int i = 0; i < 20'000; ++i) {
    auto const x = (random.uniform_double() - 0.5) * 1400, y = std::exp2((random.uniform_double() - 0.5) * 2040);
    CAPTURE(x);
    CAPTURE(y);
    CHECK(near(constant_math::exp(x), std::exp(x), 4));
    CHECK(near(constant_math::log(y), std::log(y), 4));
    auto const e = random.uniform_double() * 2 - 1;
    CHECK(near(constant_math::pow(y, e), std::pow(y, e), 4 * (1 + std::abs(e * std::log(y)))));
  }
  CHECK(constant_math::log(5e-324) == doctest::Approx(std::log(5e-324)).epsilon(1e-14));
  CHECK(constant_math::exp(-740.0) == doctest::Approx(std::exp(-740.0)).epsilon(0.2));   // a few bits are left of a subnormal number
}
