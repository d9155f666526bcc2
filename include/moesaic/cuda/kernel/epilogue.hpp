// From sums in shared memory to rows of y: bias, activation, rounding.
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
  bool const gated = p.w.parts == 2;
  if (gated) value = limited_gate(p.act, value);
  if (p.activated) value = activate(p.act, value);
  if (gated) value *= limited_up(p.act, bias != nullptr ? up + bias[p.w.outputs] : up);
  return value;
}

/// Two neighbouring outputs, of which the second may lie beyond the row: in one store where y allows it.
template <class Y>
MOESAIC_DEVICE void store_outputs(Y* to, float first, float second, bool both) {
  static_assert(std::is_same_v<Y, float> || std::is_same_v<Y, bf16>, "results are float or bf16");
  if (both && reinterpret_cast<std::uintptr_t>(to) % (2 * sizeof(Y)) == 0) {
    if constexpr (std::is_same_v<Y, bf16>) {
      *reinterpret_cast<std::uint32_t*>(to) = device::cvt_bf16x2(first, second);
    } else {
      struct alignas(8) floats2 {
        float of[2];
      };
      *reinterpret_cast<floats2*>(to) = {{first, second}};
    }
  } else {
    to[0] = static_cast<Y>(first);
    if (both) to[1] = static_cast<Y>(second);
  }
}

/// A tile's sums, in shared memory since a block_sync, to rows of y: [Copies][Slots][Pitch] floats, weight row `first_row` + r of slot t.first + s at
/// [s][r], 8-byte aligned; copies are added up in order. All `Threads` threads of the block call. Rows is 16, 32, 64 or 128, Pitch even.
template <int Rows, int Slots, int Copies, int Pitch, int Threads, class X, class Y>
MOESAIC_DEVICE void finish_tile(gemm_params<X, Y> const& p, slot_tile const& t, int first_row, float const* sums) {
  static_assert((Rows == 16 || Rows == 32 || Rows == 64 || Rows == 128) && Pitch % 2 == 0);
  struct alignas(8) floats2 {
    float of[2];
  };
  // As one word of 8 bytes: two loads of 4, into which a compiler may split a pair, would meet banks twice.
  auto const load = [&](int at) { return bit_cast<floats2>(*reinterpret_cast<std::uint64_t const*>(sums + at)); };
  auto const read = [&](int slot, int row) {
    floats2 all = load(slot * Pitch + row);
    MOESAIC_UNROLL
    for (int c = 1; c < Copies; ++c) {
      auto const more = load((c * Slots + slot) * Pitch + row);
      all.of[0] += more.of[0];
      all.of[1] += more.of[1];
    }
    return all;
  };
  // Two outputs a thread and turn, so that a warp fills lines of y. No more: each holds the code of every activation. With two parts a slot's outputs
  // are half as many; eight rows of gates are followed by the ups of the same.
  constexpr int log_rows = Rows == 16 ? 4 : Rows == 32 ? 5 : Rows == 64 ? 6 : 7;
  int const halves = p.w.parts - 1, log_pairs = log_rows - 1 - halves;
  for (int turn = device::thread_id(); turn < Slots << log_pairs; turn += Threads) {
    int const slot = turn >> log_pairs, in_slot = (turn - (slot << log_pairs)) * 2;
    int const row = halves != 0 ? in_slot / 8 * 16 + in_slot % 8 : in_slot, output = (halves != 0 ? first_row / 2 : first_row) + in_slot;
    if (slot >= t.last - t.first || output >= p.w.outputs) continue;
    auto const sum = read(slot, row);
    auto const up = halves != 0 ? read(slot, row + 8) : floats2{};
    bool const both = output + 1 < p.w.outputs;
    float const first = finish_sum(p, t.expert, output, sum.of[0], up.of[0]);
    float const second = both ? finish_sum(p, t.expert, output + 1, sum.of[1], up.of[1]) : 0.0f;
    store_outputs(p.y + (t.first + slot) * p.y_stride + output, first, second, both);
  }
}

}  // namespace moesaic::cuda
