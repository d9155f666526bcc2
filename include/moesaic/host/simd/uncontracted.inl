// A product that the compiler must not contract with a sum into an fma, which it would do on some levels only.
// SPDX-License-Identifier: Apache-2.0

template <class V>
MOESAIC_INLINE V uncontracted(V product) {
#if defined(__GNUC__) && !defined(__clang__)
  return __builtin_assoc_barrier(product);
#else
  return product;   // clang contracts within one expression only
#endif
}
