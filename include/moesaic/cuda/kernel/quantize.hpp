// Rows of float or bf16 to codes of e4m3 and a scale for every 128 inputs of a row, or to what these say.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include <moesaic/base/floats.hpp>
#include <moesaic/base/groups.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/cuda/launch.hpp>
#include <moesaic/device/device.hpp>

namespace moesaic::cuda {

/// A warp has a group: lane l elements 4 l .. 4 l + 3. Grid: x = blocks of `warps` groups. Written: codes and scales, or, for kernels that do not multiply
/// codes with codes, the numbers that these are, of type Written (base/math.hpp: coded).
template <class X, class Written = std::uint8_t>
struct quantize_rows {
  static constexpr int warps = 8, threads = 32 * warps;
  static constexpr rung needs = rung::simt;
  static constexpr int group = groups::input_group;
  static constexpr bool writes_codes = std::is_same_v<Written, std::uint8_t>;
  struct params {
    view<X const> x;
    view<Written> codes;
    view<float> scales{};                                ///< with codes alone
    std::int32_t const* rows = nullptr;                  ///< where those that are used end, on the device; null: x.rows
    std::int32_t const* first = nullptr;                 ///< where they begin, on the device; null: 0
    input_codes kind = input_codes::e4m3;
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    auto const groups_of_row = (p.x.columns + group - 1) / group;
    auto const number = static_cast<std::int64_t>(device::block_x()) * warps + device::warp_id();
    auto const row = number / groups_of_row, g = number % groups_of_row, k = g * group + device::lane_id() * 4;
    if (row >= (p.rows != nullptr ? *p.rows : p.x.rows) || (p.first != nullptr && row < *p.first)) return;
    float x[4] = {};
    float largest = 0;
    MOESAIC_UNROLL
    for (int i = 0; i < 4; ++i)
      if (k + i < p.x.columns) {
        x[i] = static_cast<float>(p.x(row, k + i));
        largest = groups::larger(largest, x[i] < 0 ? -x[i] : x[i]);
      }
    auto const scale = groups::input_scale(p.kind, device::warp_max(largest));
    auto* const to = p.codes.row(row) + k;
    struct alignas(4 * sizeof(Written)) four {
      Written of[4];
    } all;
    MOESAIC_UNROLL
    for (int i = 0; i < 4; ++i) {
      auto const code = groups::encode<dtype::e4m3>(x[i], scale);
      if constexpr (writes_codes) all.of[i] = static_cast<std::uint8_t>(code);
      else all.of[i] = static_cast<Written>(groups::decode<dtype::e4m3>(code, scale));
    }
    if constexpr (writes_codes)
      if (device::lane_id() == 0) p.scales(row, g) = scale.scale;
    if (k + 4 <= p.x.columns && reinterpret_cast<std::uintptr_t>(to) % sizeof(four) == 0) {
      *reinterpret_cast<four*>(to) = all;
    } else {
      MOESAIC_UNROLL
      for (int i = 0; i < 4; ++i)
        if (k + i < p.x.columns) to[i] = all.of[i];
    }
  }
};

}  // namespace moesaic::cuda
