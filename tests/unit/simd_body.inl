// Lanes through memory, for the test of every level. Body file.
// SPDX-License-Identifier: Apache-2.0

template <class F>
inline void each_lanes(std::int64_t count, F f) {
  for (std::int64_t i = 0; i < count; i += 16) f(i);
}
inline void run_exp(here, const float* x, float* y, std::int64_t count) {
  each_lanes(count, [=](std::int64_t i) { store(y + i, exp(load(x + i))); });
}
inline void run_tanh(here, const float* x, float* y, std::int64_t count) {
  each_lanes(count, [=](std::int64_t i) { store(y + i, tanh(load(x + i))); });
}
inline void run_activation(here, activation a, const float* x, float* y, std::int64_t count) {
  each_lanes(count, [=](std::int64_t i) { store(y + i, activate(a, load(x + i))); });
}
inline void run_fma(here, const float* a, const float* b, const float* c, float* y, std::int64_t count) {
  each_lanes(count, [=](std::int64_t i) { store(y + i, fma(load(a + i), load(b + i), load(c + i))); });
}
// A product and a sum, rounded twice.
inline void run_mul_add(here, const float* a, const float* b, const float* c, float* y, std::int64_t count) {
  each_lanes(count, [=](std::int64_t i) { store(y + i, add(mul(load(a + i), load(b + i)), load(c + i))); });
}
inline void run_half(here, const float* a, float* y, std::int64_t count) {
  each_lanes(count, [=](std::int64_t i) { store(y + i, half_to_float(as_bits(load(a + i)))); });
}
inline void run_bf16(here, const float* a, bf16* y, float* back, std::int64_t count, std::int64_t lanes) {
  each_lanes(count, [=](std::int64_t i) {
    store(y + i, load(a + i), lanes);
    store(back + i, load(y + i, lanes));
  });
}
inline float run_sum(here, const float* a) { return sum(load(a)); }
