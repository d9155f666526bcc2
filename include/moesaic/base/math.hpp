// Which type sums a type, which type a dtype names, and the scalar activation functions.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include <moesaic/base/dtype.hpp>
#include <moesaic/base/floats.hpp>
#include <moesaic/base/macros.hpp>

namespace moesaic {

/// What sums of T are kept in.
template <class T>
using accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// What holds code · scale of activations of T: T itself where scales are powers of two, since codes have four bits.
template <input_codes Codes, class T>
using coded = std::conditional_t<Codes == input_codes::e4m3_power_of_two, T, accumulator<T>>;

namespace math_detail {
// 4-bit formats have no element type: two of them share a byte.
template <dtype D> struct scalar;
template <> struct scalar<dtype::fp64> { using type = double; };
template <> struct scalar<dtype::fp32> { using type = float; };
template <> struct scalar<dtype::bf16> { using type = bf16; };
template <> struct scalar<dtype::fp16> { using type = fp16; };
template <> struct scalar<dtype::e4m3> { using type = e4m3; };
template <> struct scalar<dtype::e5m2> { using type = e5m2; };
template <> struct scalar<dtype::e8m0> { using type = e8m0; };
template <> struct scalar<dtype::int8> { using type = std::int8_t; };

template <class T> struct name_of;
template <> struct name_of<double> { static constexpr dtype value = dtype::fp64; };
template <> struct name_of<float> { static constexpr dtype value = dtype::fp32; };
template <> struct name_of<bf16> { static constexpr dtype value = dtype::bf16; };
template <> struct name_of<fp16> { static constexpr dtype value = dtype::fp16; };
template <> struct name_of<e4m3> { static constexpr dtype value = dtype::e4m3; };
template <> struct name_of<e5m2> { static constexpr dtype value = dtype::e5m2; };
template <> struct name_of<e8m0> { static constexpr dtype value = dtype::e8m0; };
template <> struct name_of<std::int8_t> { static constexpr dtype value = dtype::int8; };
}  // namespace math_detail

/// The C++ type of an element: scalar_of<dtype::bf16> is bf16.
template <dtype D>
using scalar_of = typename math_detail::scalar<D>::type;

/// The name of an element type: dtype_of<float> is dtype::fp32.
template <class T>
inline constexpr dtype dtype_of = math_detail::name_of<std::remove_cv_t<T>>::value;

// T is float or double below.

template <class T>
MOESAIC_FN T sigmoid(T x) {
  return T(1) / (T(1) + std::exp(-x));
}

/// x · sigmoid(x); also called swish.
template <class T>
MOESAIC_FN T silu(T x) {
  return x / (T(1) + std::exp(-x));
}

/// x · Φ(x), Φ the normal distribution. By erfc, which keeps its digits in the left tail, where 1 + erf cancels.
template <class T>
MOESAIC_FN T gelu_erf(T x) {
  return T(0.5) * x * std::erfc(-x * T(0.70710678118654752440));
}

/// 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))) (Hendrycks and Gimpel 2016), as x · sigmoid(2 u): the same, without the cancellation.
template <class T>
MOESAIC_FN T gelu_tanh(T x) {
  auto const u = T(0.79788456080286535588) * (x + T(0.044715) * x * x * x);
  return x / (T(1) + std::exp(T(-2) * u));
}

/// NaN stays NaN.
template <class T>
MOESAIC_FN constexpr T relu(T x) {
  return x < T(0) ? T(0) : x;
}

}  // namespace moesaic
