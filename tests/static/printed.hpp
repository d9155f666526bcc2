// Whether a number is the one that was printed with so many digits after the point.
// SPDX-License-Identifier: Apache-2.0
#pragma once

constexpr bool prints(double value, double printed, int digits) {
  double half = 0.5;
  for (int i = 0; i < digits; ++i) half /= 10;
  double const difference = value > printed ? value - printed : printed - value;
  return difference <= half * (1 + 1e-9);
}
static_assert(prints(1.2345, 1.235, 3) && prints(1.2345, 1.23, 2) && !prints(1.236, 1.235, 3));
