// Exponential and activation functions of one number in device code.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/bits.hpp>
#include <moesaic/base/macros.hpp>
#include <moesaic/config/activation_rule.hpp>
#include <moesaic/device/thread.hpp>

namespace moesaic::cuda {

// The same steps as the host's (host/simd/math.inl), each a correctly rounded operation: so the values have the host's bits, and what nvcc makes has
// the bits of what g++ makes, which std::exp (another algorithm in each library) and ex2.approx (2 ulp of its own) have not. In an epilogue they cost
// nothing that shows. nvcc joins a product and a sum to one operation: where that would change bits, device::fma stands for the sum.

/// e^x within 1 ulp. Beyond the range of float infinity and zero; NaN stays NaN.
MOESAIC_DEVICE float exp(float x) {
  // x = n ln 2 + r with |r| <= ln 2 / 2; adding `anchor`, whose last place is 1, rounds to the whole number n.
  constexpr float anchor = 0x1.8p23f, log2_e = 0x1.715476p0f, ln2_upper = 0x1.62e4p-1f, ln2_lower = 0x1.7f7d1cp-20f;
  x = x < -104.0f ? -104.0f : x > 89.0f ? 89.0f : x;
  float const anchored = device::fma(x, log2_e, anchor);
  float const n = anchored - anchor;
  float const r = device::fma(n, -ln2_lower, device::fma(n, -ln2_upper, x));
  float p = 0x1.6a2436p-10f;
  p = device::fma(p, r, 0x1.1239ep-7f);
  p = device::fma(p, r, 0x1.5558f2p-5f);
  p = device::fma(p, r, 0x1.555492p-3f);
  p = device::fma(p, r, 0x1.fffffcp-2f);
  float const y = device::fma(r * r, p, r) + 1.0f;
  // 2^n in two factors, each a normal float for every n that occurs.
  auto const whole = static_cast<std::int32_t>(bit_cast<std::uint32_t>(anchored) - 0x4b40'0000u);
  std::int32_t const half = whole >> 1, other_half = (whole + 1) >> 1;
  return y * bit_cast<float>(static_cast<std::uint32_t>(half + 127) << 23) * bit_cast<float>(static_cast<std::uint32_t>(other_half + 127) << 23);
}

MOESAIC_DEVICE float sigmoid(float x) { return 1.0f / device::fma(exp(-x), 1.0f, 1.0f); }
/// NaN stays NaN.
MOESAIC_DEVICE float relu(float x) { return x < 0.0f ? 0.0f : x; }
MOESAIC_DEVICE float relu_squared(float x) { return x < 0.0f ? 0.0f : x * x; }
/// x · sigmoid(alpha x).
MOESAIC_DEVICE float silu(float x, float alpha) { return x / device::fma(exp(-(alpha * x)), 1.0f, 1.0f); }

/// x · sigmoid(2 u), u = √(2/π) (x + 0.044715 x³).
MOESAIC_DEVICE float gelu_tanh(float x) {
  constexpr float linear = -2.0f * 0.79788456f, cubic = -2.0f * 0.79788456f * 0.044715f;
  return x / device::fma(exp(x * device::fma(x * x, cubic, linear)), 1.0f, 1.0f);
}

/// x · Φ(x). Φ(−a) = exp(−a²/2) q(t), t = 1 / (1 + a/4): q is a polynomial fitted to 2^-26, and a² carries its rounding error along.
MOESAIC_DEVICE float gelu_erf(float x) {
  float const magnitude = x < 0.0f ? -x : x;
  float const a = magnitude > 20.0f ? 20.0f : magnitude;   // beyond, Φ(−a) is zero
  float const t = 1.0f / device::fma(a, 0.25f, 1.0f);
  float q = 0x1.11d3aep-5f;
  q = device::fma(q, t, -0x1.8c0b6cp-3f);
  q = device::fma(q, t, 0x1.8dd1d4p-2f);
  q = device::fma(q, t, -0x1.4cacd4p-2f);
  q = device::fma(q, t, 0x1.308a32p-2f);
  q = device::fma(q, t, -0x1.1014ap-6f);
  q = device::fma(q, t, 0x1.ec9d7ep-4f);
  q = device::fma(q, t, 0x1.85864p-4f);
  q = device::fma(q, t, 0x1.9a6676p-4f);
  q = device::fma(q, t, -0x1.4d1f98p-16f);
  float const square = a * a, rest = device::fma(a, a, -square);
  float const tail = exp(square * -0.5f) * device::fma(rest, -0.5f, 1.0f) * q;
  return x * (x < 0.0f ? tail : device::fma(tail, -1.0f, 1.0f));
}

/// act(gate), which for a gated activation meets the up projection next.
MOESAIC_DEVICE float activate(activation_rule_in<float> const& rule, float x) {
  switch (rule.act) {
    case activation::swiglu: return silu(x, rule.alpha);
    case activation::geglu_tanh:
    case activation::gelu_tanh: return gelu_tanh(x);
    case activation::geglu_erf: return gelu_erf(x);
    case activation::relu: return relu(x);
    case activation::relu_squared: return relu_squared(x);
  }
  return x;
}

/// Gate and up as the rule lets them in; NaN stays NaN.
MOESAIC_DEVICE float limited_gate(activation_rule_in<float> const& rule, float gate) { return gate > rule.limit ? rule.limit : gate; }
MOESAIC_DEVICE float limited_up(activation_rule_in<float> const& rule, float up) {
  return (up > rule.limit ? rule.limit : up < -rule.limit ? -rule.limit : up) + rule.up_offset;
}

}  // namespace moesaic::cuda
