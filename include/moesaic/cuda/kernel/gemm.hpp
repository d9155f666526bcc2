// What all matrix kernels are told, whatever their rung: weights, runs of slots that share a matrix, rows to gather, what is done with a sum.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <moesaic/base/packed.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/activation_rule.hpp>
#include <moesaic/cuda/layout.hpp>
#include <moesaic/device/device.hpp>

namespace moesaic::cuda {

/// `count` matrices of one shape in the layout of cuda/layout.hpp, with all that a kernel would have to divide for.
struct weight_view {
  std::byte const* data = nullptr;
  std::int64_t matrix_bytes = 0;         ///< from one to the next
  std::int64_t scales_at = 0, zeros_at = 0;
  std::int32_t count = 0;
  std::int32_t rows = 0;                 ///< layout::rows: parts · outputs
  std::int32_t outputs = 0;              ///< of one part
  std::int32_t parts = 0;
  std::int32_t inputs = 0;
  std::int32_t group = 0;                ///< inputs that share a scale; all of them for format{.group = 0}
  bool zero_point = false;

  weight_view() = default;
  explicit weight_view(packed_matrix const& m)
      : data(m.data), matrix_bytes(packed::matrix_bytes(m)), scales_at(layout::scales_at(m)), zeros_at(layout::zeros_at(m)),
        count(static_cast<std::int32_t>(m.count)), rows(static_cast<std::int32_t>(layout::rows(m))), outputs(static_cast<std::int32_t>(m.outputs)),
        parts(m.parts), inputs(static_cast<std::int32_t>(m.inputs)),
        group(m.stored.group == 0 ? static_cast<std::int32_t>(m.inputs) : m.stored.group), zero_point(m.stored.zero_point) {}

  MOESAIC_DEVICE std::byte const* of(int expert) const { return data + expert * matrix_bytes; }
};

/// y[s] = W_e x[r] + bias_e, or with the activation, for every slot s of expert e; r = token_of_slot[s], or s where that is null.
template <class X, class Y>
struct gemm_params {
  weight_view w;
  float const* bias = nullptr;                  ///< [count, parts, outputs] or null
  X const* x = nullptr;
  std::int64_t x_stride = 0;                    ///< in elements
  Y* y = nullptr;                               ///< [rows, outputs]
  std::int64_t y_stride = 0;
  std::int64_t rows = 0;                        ///< a bound of slots; all of them where offsets is null
  std::int32_t const* offsets = nullptr;        ///< [count + 1], on the device; null: one matrix, slots 0 .. rows − 1
  std::int32_t const* token_of_slot = nullptr;  ///< [rows], on the device, or null
  bool activated = false;
  activation_rule_in<float> act = activation::relu;

  MOESAIC_DEVICE X const* row(std::int64_t slot) const { return x + (token_of_slot != nullptr ? token_of_slot[slot] : slot) * x_stride; }
};

/// A run of slots of one expert, or a tile of it; empty (`expert` −1) beyond the last.
struct slot_tile {
  int expert = -1;
  std::int32_t first = 0, last = 0;
};

/// How many tiles of `height` slots there can be: a short one for every expert that has any.
constexpr std::int64_t tiles_at_most(std::int64_t rows, std::int64_t experts, std::int64_t height) {
  return (rows + (experts < rows ? experts : rows) * (height - 1)) / height;
}

/// Tile number `tile`, counted through the experts in order, each cut in tiles of `height` slots. Called by all lanes of a warp.
template <class X, class Y>
MOESAIC_DEVICE slot_tile find_tile(gemm_params<X, Y> const& p, int tile, int height) {
  int expert = 0, before = 0, first = 0, end = 0;
  if (p.offsets == nullptr) {
    end = static_cast<int>(p.rows);
    if (tile >= (end + height - 1) / height) return {};
  } else {
    // Each lane counts one expert's tiles; a scan finds the expert in whose tiles this one lies.
    int const lane = device::lane_id();
    bool found = false;
    for (int e0 = 0; e0 < p.w.count && !found; e0 += device::warp_size) {
      int const e = e0 + lane;
      int const from = e < p.w.count ? p.offsets[e] : 0, to = e < p.w.count ? p.offsets[e + 1] : 0;
      int const mine = (to - from + height - 1) / height;
      int const through = device::warp_inclusive_sum(mine);
      std::uint32_t const past = device::ballot(device::all_lanes, before + through > tile);
      if (past != 0) {
        int source = 0;
        while ((past >> source & 1u) == 0) ++source;
        expert = e0 + source;
        before += device::shuffle(through - mine, source);
        first = device::shuffle(from, source);
        end = device::shuffle(to, source);
        found = true;
      } else {
        before += device::shuffle(through, device::warp_size - 1);
      }
    }
    if (!found) return {};
  }
  int const begin = first + (tile - before) * height;
  return {expert, begin, begin + height < end ? begin + height : end};
}

}  // namespace moesaic::cuda
