// Products of rows -> cosines of the angles between them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <moesaic/base/view.hpp>
#include <moesaic/device/device.hpp>
#include <moesaic/cuda/tuning/tuning.hpp>

namespace moesaic::cuda {

/// Σ of squares of a row, in double, in every lane of the warp.
template <class T>
MOESAIC_DEVICE double square_of(T const* row, std::int64_t columns) {
  double sum = 0;
  for (std::int64_t i = device::lane_id(); i < columns; i += device::warp_size) {
    auto const value = static_cast<double>(static_cast<float>(row[i]));
    sum += value * value;
  }
  return device::warp_sum(sum);
}

/// y[t][n] *= scale / (|x[t]| · length[n]), a warp a row.
template <class X>
struct cosines_of_rows {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::simt;
  struct params {
    view<const X> x;                     // [tokens, hidden]
    double const* length;                // [outputs]
    double scale;
    view<float> y;                       // [tokens, outputs]
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    constexpr int warps = threads / device::warp_size;
    auto const at_least = [](double value) { return value < 1e-12 ? 1e-12 : value; };        // NaN stays NaN
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    for (std::int64_t t = static_cast<std::int64_t>(device::block_x()) * warps + device::warp_id(); t < p.x.rows;
         t += static_cast<std::int64_t>(device::grid_x()) * warps) {
      double const of_x = p.scale / at_least(std::sqrt(square_of(p.x.row(t), p.x.columns)));
      for (std::int64_t n = device::lane_id(); n < p.y.columns; n += device::warp_size)
        p.y(t, n) = static_cast<float>(static_cast<double>(p.y(t, n)) * (of_x / at_least(p.length[n])));
    }
  }
};

}  // namespace moesaic::cuda
