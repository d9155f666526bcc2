// From a sum to an element of y: bias, activation, rounding.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include <moesaic/base/floats.hpp>
#include <moesaic/cuda/kernel/gemm.hpp>
#include <moesaic/cuda/kernel/math.hpp>

namespace moesaic::cuda {

/// Value of an output from its sum, or its sums of gate and up (up is not read with one part), as the host's finish. Not rounded yet.
template <class X, class Y>
MOESAIC_DEVICE float finish_sum(gemm_params<X, Y> const& p, int expert, int output, float sum, float up) {
  float const* const bias = p.bias != nullptr ? p.bias + static_cast<std::int64_t>(expert) * p.w.parts * p.w.outputs + output : nullptr;
  float value = bias != nullptr ? sum + bias[0] : sum;
  if (p.activated) value = activate(p.act, value);
  if (p.w.parts == 2) value *= bias != nullptr ? up + bias[p.w.outputs] : up;
  return value;
}

/// Writes `count` (1 .. 8) neighbouring outputs: as one store of 16 bytes or two where y allows it.
template <class Y>
MOESAIC_DEVICE void store_outputs(Y* to, float const (&value)[8], int count) {
  static_assert(std::is_same_v<Y, float> || std::is_same_v<Y, bf16>, "results are float or bf16");
  if (count == 8 && reinterpret_cast<std::uintptr_t>(to) % 16 == 0) {
    auto* const wide = reinterpret_cast<device::words4*>(to);
    if constexpr (std::is_same_v<Y, bf16>) {
      *wide = {{device::cvt_bf16x2(value[0], value[1]), device::cvt_bf16x2(value[2], value[3]), device::cvt_bf16x2(value[4], value[5]),
                device::cvt_bf16x2(value[6], value[7])}};
    } else {
      wide[0] = {{bit_cast<std::uint32_t>(value[0]), bit_cast<std::uint32_t>(value[1]), bit_cast<std::uint32_t>(value[2]), bit_cast<std::uint32_t>(value[3])}};
      wide[1] = {{bit_cast<std::uint32_t>(value[4]), bit_cast<std::uint32_t>(value[5]), bit_cast<std::uint32_t>(value[6]), bit_cast<std::uint32_t>(value[7])}};
    }
    return;
  }
  MOESAIC_UNROLL
  for (int i = 0; i < 8; ++i)
    if (i < count) to[i] = static_cast<Y>(value[i]);
}

/// A tile's sums, in shared memory since a block_sync, to rows of y: [Copies][Slots][Pitch] floats, weight row `first_row` + r of slot t.first + s at
/// [s][r], 16-byte aligned; copies are added up in order. All `Threads` threads of the block call. Rows is a power of two from 16 on, Pitch Rows + 4.
template <int Rows, int Slots, int Copies, int Pitch, int Threads, class X, class Y>
MOESAIC_DEVICE void finish_tile(gemm_params<X, Y> const& p, slot_tile const& t, int first_row, float const* sums) {
  struct alignas(16) floats4 {
    float of[4];
  };
  auto const eight_sums = [&](float(&sum)[8], int slot, int row) {
    MOESAIC_UNROLL
    for (int c = 0; c < Copies; ++c)
      MOESAIC_UNROLL
      for (int half = 0; half < 2; ++half) {
        auto const four = *reinterpret_cast<floats4 const*>(sums + (c * Slots + slot) * Pitch + row + half * 4);
        MOESAIC_UNROLL
        for (int i = 0; i < 4; ++i) sum[half * 4 + i] = c == 0 ? four.of[i] : sum[half * 4 + i] + four.of[i];
      }
  };
  // Eight outputs of a slot a thread and turn: with two parts their gates are eight rows, and the ups the next eight. Four neighbours fill whole sectors
  // of y, and the next slot's sums lie four banks further.
  int const rows_of_turn = 8 * p.w.parts, turns_of_slot = Rows / rows_of_turn, together = turns_of_slot < 4 ? turns_of_slot : 4;
  for (int turn = device::thread_id(); turn < Slots * turns_of_slot; turn += Threads) {
    int const slot = turn / together % Slots, row = (turn / (together * Slots) * together + turn % together) * rows_of_turn;
    int const output = (first_row + row) / p.w.parts;
    if (slot >= t.last - t.first || output >= p.w.outputs) continue;
    float sum[8], up[8] = {};
    eight_sums(sum, slot, row);
    if (p.w.parts == 2) eight_sums(up, slot, row + 8);
    int const count = p.w.outputs - output < 8 ? p.w.outputs - output : 8;
    MOESAIC_UNROLL
    for (int i = 0; i < 8; ++i)
      if (i < count) sum[i] = finish_sum(p, t.expert, output + i, sum[i], up[i]);
    store_outputs(p.y + (t.first + slot) * p.y_stride + output, sum, count);
  }
}

}  // namespace moesaic::cuda
