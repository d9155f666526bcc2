// What every level's lanes are written with. Body file.
// SPDX-License-Identifier: Apache-2.0

// A product that the compiler must not contract with a sum into an fma, which it would do on some levels only.
template <class V>
MOESAIC_HOST V uncontracted(V product) {
#if defined(__GNUC__) && !defined(__clang__)   // clang contracts within one expression only
#if defined(__x86_64__)
  asm("" : "+v"(product));
#else
  product = __builtin_assoc_barrier(product);
#endif
#endif
  return product;
}

// f(0), ..., f(N - 1) with constants: arrays indexed by them become registers, where g++ would keep those of nested loops in memory.
template <class F, int... I>
MOESAIC_HOST void unrolled(std::integer_sequence<int, I...>, F const& f) {
  (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F>
MOESAIC_HOST void unrolled(F const& f) {
  unrolled(std::make_integer_sequence<int, N>{}, f);
}
