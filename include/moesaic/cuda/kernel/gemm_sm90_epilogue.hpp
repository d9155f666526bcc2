// Accumulators of wgmma to rows of y: bias, activation, rounding, and 16 bytes a store by exchanges inside a warp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include <moesaic/base/floats.hpp>
#include <moesaic/cuda/kernel/gemm.hpp>
#include <moesaic/cuda/kernel/math.hpp>
#include <moesaic/cuda/kernel/tile_schedule.hpp>

namespace moesaic::cuda::sm90 {

/// Word j of lane i becomes word i of lane j, over the four lanes whose numbers differ in the bits Low and High (i, j: High · 2 + Low).
template <int Low, int High>
MOESAIC_DEVICE void transpose(std::uint32_t (&word)[4]) {
  bool const low = (device::lane_id() & Low) != 0, high = (device::lane_id() & High) != 0;
  MOESAIC_UNROLL
  for (int i = 0; i < 4; i += 2) {
    std::uint32_t const other = device::shuffle_xor(low ? word[i] : word[i + 1], Low);
    low ? word[i] = other : word[i + 1] = other;
  }
  MOESAIC_UNROLL
  for (int i = 0; i < 2; ++i) {
    std::uint32_t const other = device::shuffle_xor(high ? word[i] : word[i + 2], High);
    high ? word[i] = other : word[i + 2] = other;
  }
}

/// `Words` words of two bf16 each, of which the first `count` elements are written.
template <int Words>
MOESAIC_DEVICE void store_words(bf16* to, std::uint32_t const (&word)[Words], int count) {
  if (count >= 2 * Words && reinterpret_cast<std::uintptr_t>(to) % (4 * Words) == 0) {
    if constexpr (Words == 4) *reinterpret_cast<device::words4*>(to) = {{word[0], word[1], word[2], word[3]}};
    else *reinterpret_cast<std::uint32_t*>(to) = word[0];
    return;
  }
  MOESAIC_UNROLL
  for (int i = 0; i < 2 * Words; ++i)
    if (i < count) to[i] = bf16::from_bits(static_cast<std::uint16_t>(word[i / 2] >> 16 * (i % 2)));
}

/// What becomes of a sum, with the activation known to the compiler: told apart once a tile, not once an element.
template <int Parts, bool Activated, activation Act = activation::relu>
struct finisher {
  float const* bias;       // of the expert, [Parts, outputs], or null
  int outputs;

  MOESAIC_DEVICE void load_bias(int output, float (&b)[2]) const {
    b[0] = bias != nullptr && output < outputs ? bias[output] : 0.0f;
    b[1] = Parts == 2 && bias != nullptr && output < outputs ? bias[outputs + output] : 0.0f;
  }
  MOESAIC_DEVICE float operator()(float sum, float up, float const (&b)[2]) const {
    float value = sum + b[0];
    if constexpr (Activated) value = activate(Act, value);
    if constexpr (Parts == 2) value *= up + b[1];
    return value;
  }
};
template <int Parts, class X, class Y, class F>
MOESAIC_DEVICE void with_finisher(gemm_params<X, Y> const& p, int expert, F&& f) {
  float const* const bias = p.bias != nullptr ? p.bias + static_cast<std::int64_t>(expert) * Parts * p.w.outputs : nullptr;
  if constexpr (Parts == 2) {
    if (p.act == activation::swiglu) f(finisher<2, true, activation::swiglu>{bias, p.w.outputs});
    else if (p.act == activation::geglu_tanh) f(finisher<2, true, activation::geglu_tanh>{bias, p.w.outputs});
    else f(finisher<2, true, activation::geglu_erf>{bias, p.w.outputs});
  } else {
    if (!p.activated) f(finisher<1, false>{bias, p.w.outputs});
    else if (p.act == activation::relu) f(finisher<1, true, activation::relu>{bias, p.w.outputs});
    else f(finisher<1, true, activation::gelu_tanh>{bias, p.w.outputs});
  }
}
/// What with_finisher knows of.
constexpr bool finishes(int parts, bool activated, activation act) {
  return parts == 2 ? activated && gated(act) : !activated || act == activation::relu || act == activation::gelu_tanh;
}

/// Calls f(turn) for every `Each` registers of d, which are its first ones then: a loop, where code for each register of its own would be large.
template <int Each, int Count, class F>
MOESAIC_DEVICE void by_turns(float (&d)[Count], F&& f) {
  constexpr int turns = (Count + Each - 1) / Each;
  MOESAIC_ROLLED
  for (int turn = 0; turn < turns; ++turn) {
    f(turn);
    MOESAIC_UNROLL
    for (int i = 0; i + Each < Count; ++i) d[i] = d[i + Each];
  }
}

/// d [slots, rows of weights] of a warpgroup whose first slot and row these are: a lane has two neighbouring outputs of slots g and g + 8.
template <int Parts, int N, class X, class Y>
MOESAIC_DEVICE void store_slots_on_m(gemm_params<X, Y> const& p, int expert, int first, int last, int row, float (&d)[N / 2]) {
  int const lane = device::lane_id(), quad = lane % 4;
  int const slot = first + device::warp_id() % 4 * 16 + lane / 4;
  constexpr int of_outputs = 4 * Parts, turn_registers = 4 * of_outputs;   // registers of 8 outputs, and of those of a turn
  with_finisher<Parts>(p, expert, [&](auto const& finish) {
    by_turns<turn_registers>(d, [&](int turn) {
      int const outputs = row / Parts + 32 * turn;
      [[maybe_unused]] std::uint32_t word[2][4];
      MOESAIC_UNROLL
      for (int i = 0; i < 4; ++i) {
        int const at = i * of_outputs, up = at + 4 * (Parts - 1), output = outputs + 8 * i + 2 * quad;
        float bias[2][2];
        finish.load_bias(output, bias[0]), finish.load_bias(output + 1, bias[1]);
        MOESAIC_UNROLL
        for (int half = 0; half < 2; ++half) {
          float const value[2] = {finish(d[at + 2 * half], d[up + 2 * half], bias[0]), finish(d[at + 2 * half + 1], d[up + 2 * half + 1], bias[1])};
          if constexpr (std::is_same_v<Y, bf16>) {
            word[half][i] = device::cvt_bf16x2(value[0], value[1]);
          } else {
            MOESAIC_UNROLL
            for (int c = 0; c < 2; ++c)
              if (slot + 8 * half < last && output + c < p.w.outputs) p.y[(slot + 8 * half) * p.y_stride + output + c] = value[c];
          }
        }
      }
      if constexpr (std::is_same_v<Y, bf16>) {
        int const output = outputs + 8 * quad;
        MOESAIC_UNROLL
        for (int half = 0; half < 2; ++half) {
          transpose<1, 2>(word[half]);
          if (slot + 8 * half < last) store_words(p.y + (slot + 8 * half) * p.y_stride + output, word[half], p.w.outputs - output);
        }
      }
    });
  });
}

/// d [rows of weights, slots] of a warpgroup whose first row and slot these are: a lane has rows g and g + 8 of two neighbouring slots, so gate and up
/// of one output, or outputs g and g + 8.
template <int Parts, int N, class X, class Y>
MOESAIC_DEVICE void store_weights_on_m(gemm_params<X, Y> const& p, int expert, int first, int last, int row, float (&d)[N / 2]) {
  int const lane = device::lane_id(), quad = lane % 4, odd = lane / 4 % 2, pair = lane / 8;
  constexpr int together = N >= 32 ? 4 : 1;        // eights of slots
  with_finisher<Parts>(p, expert, [&](auto const& finish) {
    by_turns<4 * together>(d, [&](int turn) {
      MOESAIC_UNROLL
      for (int half = 0; half < 3 - Parts; ++half) {
        int const outputs = (row + device::warp_id() % 4 * 16) / Parts + 8 * half, output = outputs + lane / 4;
        int const slots = first + 8 * together * turn + 2 * quad;
        float bias[2];
        finish.load_bias(output, bias);
        [[maybe_unused]] std::uint32_t word[together];
        MOESAIC_UNROLL
        for (int i = 0; i < together; ++i) {
          int const at = 4 * i + 2 * half, up = at + 2 * (Parts - 1);
          float const value[2] = {finish(d[at], d[up], bias), finish(d[at + 1], d[up + 1], bias)};
          if constexpr (std::is_same_v<Y, bf16>) {
            // An even output takes its neighbour's value of the first slot, an odd one of the second.
            float const other = device::shuffle_xor(odd ? value[0] : value[1], 4);
            word[i] = odd ? device::cvt_bf16x2(other, value[1]) : device::cvt_bf16x2(value[0], other);
          } else {
            MOESAIC_UNROLL
            for (int c = 0; c < 2; ++c)
              if (slots + 8 * i + c < last && output < p.w.outputs) p.y[(slots + 8 * i + c) * p.y_stride + output] = value[c];
          }
        }
        if constexpr (std::is_same_v<Y, bf16>) {
          // Four words of one pair of outputs become eight outputs of one slot.
          if constexpr (together == 4) transpose<8, 16>(word);
          int const slot = slots + odd + (together == 4 ? 8 * pair : 0), from = outputs + (together == 4 ? 0 : 2 * pair);
          if (slot < last) store_words(p.y + slot * p.y_stride + from, word, p.w.outputs - from);
        }
      }
    });
  });
}

}  // namespace moesaic::cuda::sm90
