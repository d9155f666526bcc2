// 16 double lanes as plain C++ loops, under the façade's names: what a body file needs to serve as its own reference.
// SPDX-License-Identifier: Apache-2.0

struct here {};

inline constexpr int block_rows = 4, block_panels = 1;

struct f64 {
  double lane[16];
};

template <class F>
MOESAIC_INLINE f64 each(F f) {
  f64 y;
  for (int i = 0; i < 16; ++i) y.lane[i] = f(i);
  return y;
}

MOESAIC_INLINE f64 set1(double x) {
  return each([&](int) { return x; });
}
MOESAIC_INLINE f64 load(const double* p) {
  f64 y;
  std::memcpy(&y, p, sizeof y);
  return y;
}
MOESAIC_INLINE void store(double* p, f64 const& x) { std::memcpy(p, &x, sizeof x); }

// Rounded twice, or once where the compiler contracts it: either is within the reference's bound.
MOESAIC_INLINE f64 fma(f64 const& a, f64 const& b, f64 const& c) {
  return each([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
}
MOESAIC_INLINE f64 add(f64 const& a, f64 const& b) {
  return each([&](int i) { return a.lane[i] + b.lane[i]; });
}
MOESAIC_INLINE f64 sub(f64 const& a, f64 const& b) {
  return each([&](int i) { return a.lane[i] - b.lane[i]; });
}
MOESAIC_INLINE f64 mul(f64 const& a, f64 const& b) {
  return each([&](int i) { return a.lane[i] * b.lane[i]; });
}
// The second operand where one is NaN, as in the other façades.
MOESAIC_INLINE f64 max(f64 const& a, f64 const& b) {
  return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
MOESAIC_INLINE f64 exp(f64 const& a) {
  return each([&](int i) { return std::exp(a.lane[i]); });
}
// Far half onto near half, until one is left.
MOESAIC_INLINE double sum(f64 a) {
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.lane[i] += a.lane[i + half];
  return a.lane[0];
}
