// Exponential and activation functions of 16 lanes: the same bits on every level, since every step is a correctly rounded operation.
// SPDX-License-Identifier: Apache-2.0

// p(x) with coefficients from the constant upwards.
template <int N>
MOESAIC_STEPS f32 polynomial(f32 x, const float (&c)[N]) {
  auto y = set1(c[N - 1]);
  for (int i = N - 2; i >= 0; --i) y = fma(y, x, set1(c[i]));
  return y;
}

// Within 1 ulp. Subnormal results are kept; beyond the range infinity and zero; NaN stays NaN.
MOESAIC_STEPS f32 exp(f32 x) {
  // x = n ln 2 + r with |r| <= ln 2 / 2; adding `anchor`, whose last place is 1, rounds to the whole number n.
  constexpr float anchor = 0x1.8p23f, log2_e = 0x1.715476p0f, ln2_upper = 0x1.62e4p-1f, ln2_lower = 0x1.7f7d1cp-20f;
  constexpr float c[] = {0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558f2p-5f, 0x1.1239ep-7f, 0x1.6a2436p-10f};
  x = min(set1(89.0f), max(set1(-104.0f), x));
  auto const anchored = fma(x, set1(log2_e), set1(anchor));
  auto const n = sub(anchored, set1(anchor));
  auto const r = fma(n, set1(-ln2_lower), fma(n, set1(-ln2_upper), x));
  auto const y = add(fma(mul(r, r), polynomial(r, c), r), set1(1.0f));
  // 2^n in two factors, each a normal float for every n that occurs.
  auto const whole = add_bits(as_bits(anchored), set1_bits(0u - 0x4b40'0000u));
  auto const half = shift_right_signed<1>(whole), other_half = shift_right_signed<1>(add_bits(whole, set1_bits(1)));
  auto const power = [](u32 e) { return as_float(shift_left<23>(add_bits(e, set1_bits(127)))); };
  return mul(mul(y, power(half)), power(other_half));
}

MOESAIC_HOST f32 negate(f32 x) { return as_float(bit_xor(as_bits(x), set1_bits(0x8000'0000u))); }
MOESAIC_HOST f32 absolute(f32 x) { return as_float(bit_and(as_bits(x), set1_bits(0x7fff'ffffu))); }

// Within 2 ulp: 1 − 2 / (1 + e^2|x|), or near zero, where that cancels, x + x³ p(x²) with p fitted to 2^-25 of the result.
MOESAIC_STEPS f32 tanh(f32 x) {
  constexpr float near = 0.625f;
  constexpr float c[] = {-0x1.555552p-2f, 0x1.110dd8p-3f, -0x1.b91582p-5f, 0x1.576e3p-6f, -0x1.8c2d0ap-8f};
  auto const a = absolute(x), square = mul(x, x), small = fma(mul(x, square), polynomial(square, c), x);
  auto const large = sub(set1(1.0f), div(set1(2.0f), add(set1(1.0f), exp(add(a, a)))));
  return select_less(a, set1(near), small, select_less(x, set1(0.0f), negate(large), large));
}

// x · sigmoid(z), of −z.
MOESAIC_HOST f32 times_sigmoid(f32 x, f32 minus_z) { return div(x, add(set1(1.0f), exp(minus_z))); }

// For x · sigmoid(2 u), u = √(2/π) (x + 0.044715 x³): −2u.
MOESAIC_HOST f32 of_gelu_tanh(f32 x) { return mul(x, fma(mul(x, x), set1(-2.0f * 0.79788456f * 0.044715f), set1(-2.0f * 0.79788456f))); }

// x · Φ(x). Φ(-a) = exp(-a²/2) q(t), t = 1 / (1 + a/4): q is a polynomial fitted to 2^-26, and a² carries its rounding error along.
MOESAIC_HOST f32 gelu_erf(f32 x) {
  constexpr float q[] = {-0x1.4d1f98p-16f, 0x1.9a6676p-4f,  0x1.85864p-4f,   0x1.ec9d7ep-4f,  -0x1.1014ap-6f,
                         0x1.308a32p-2f,   -0x1.4cacd4p-2f, 0x1.8dd1d4p-2f, -0x1.8c0b6cp-3f, 0x1.11d3aep-5f};
  auto const a = min(set1(20.0f), absolute(x));   // beyond, Φ(-a) is zero
  auto const t = div(set1(1.0f), fma(a, set1(0.25f), set1(1.0f)));
  auto const square = mul(a, a), rest = fma(a, a, negate(square));
  auto const tail = mul(mul(exp(mul(square, set1(-0.5f))), fma(rest, set1(-0.5f), set1(1.0f))), polynomial(t, q));
  return mul(x, select_less(x, set1(0.0f), tail, sub(set1(1.0f), tail)));
}

MOESAIC_HOST f32 relu(f32 x) { return select_less(x, set1(0.0f), set1(0.0f), x); }

// act(gate), which for a gated activation meets the up projection next.
MOESAIC_HOST f32 activate(activation_rule_in<float> const& rule, f32 x) {
  switch (rule.act) {
    case activation::swiglu:
    case activation::geglu_tanh:
    case activation::gelu_tanh: return times_sigmoid(x, rule.act == activation::swiglu ? negate(mul(set1(rule.alpha), x)) : of_gelu_tanh(x));
    case activation::geglu_erf: return gelu_erf(x);
    case activation::relu: return relu(x);
    case activation::relu_squared: return mul(relu(x), relu(x));
  }
  return x;
}
