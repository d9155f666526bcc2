// Rows of float or bf16 to codes of e4m3 and a scale for every 128 inputs of a row.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/floats.hpp>
#include <moesaic/base/groups.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/cuda/launch.hpp>
#include <moesaic/device/device.hpp>

namespace moesaic::cuda {

/// A warp has a group: lane l elements 4 l .. 4 l + 3. Grid: x = blocks of `warps` groups.
template <class X>
struct quantize_rows {
  static constexpr int warps = 8, threads = 32 * warps;
  static constexpr rung needs = rung::simt;
  static constexpr int group = 128;
  struct params {
    view<X const> x;
    view<std::uint8_t> codes;
    view<float> scales;
    std::int32_t const* rows = nullptr;                  ///< how many of them there are, on the device; null: x.rows
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    auto const groups_of_row = (p.x.columns + group - 1) / group;
    auto const number = static_cast<std::int64_t>(device::block_x()) * warps + device::warp_id();
    auto const row = number / groups_of_row, g = number % groups_of_row, k = g * group + device::lane_id() * 4;
    if (row >= (p.rows != nullptr ? *p.rows : p.x.rows)) return;
    float x[4] = {};
    float largest = 0;
    MOESAIC_UNROLL
    for (int i = 0; i < 4; ++i)
      if (k + i < p.x.columns) {
        x[i] = static_cast<float>(p.x(row, k + i));
        largest = groups::larger(largest, x[i] < 0 ? -x[i] : x[i]);
      }
    auto const scale = groups::scale_for<dtype::e4m3>(0, device::warp_max(largest));
    if (device::lane_id() == 0) p.scales(row, g) = scale.scale;
    std::uint32_t word = 0;
    MOESAIC_UNROLL
    for (int i = 0; i < 4; ++i) word |= groups::encode<dtype::e4m3>(x[i], scale) << i * 8;
    auto* const to = p.codes.row(row) + k;
    if (k + 4 <= p.x.columns && reinterpret_cast<std::uintptr_t>(to) % 4 == 0) {
      *reinterpret_cast<std::uint32_t*>(to) = word;
    } else {
      MOESAIC_UNROLL
      for (int i = 0; i < 4; ++i)
        if (k + i < p.x.columns) to[i] = static_cast<std::uint8_t>(word >> i * 8);
    }
  }
};

}  // namespace moesaic::cuda
