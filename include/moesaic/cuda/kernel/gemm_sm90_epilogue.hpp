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

// What is done with a sum is much code, and registers have no index: so loops turn the registers past code that is there once.

/// Calls f(turn) for every `Each` registers of d, which are its first ones then.
template <int Each, int Count, class F>
MOESAIC_DEVICE void by_turns(float (&d)[Count], F&& f) {
  static_assert(Count % Each == 0);
  MOESAIC_ROLLED
  for (int turn = 0; turn < Count / Each; ++turn) {
    f(turn);
    MOESAIC_UNROLL
    for (int i = 0; i + Each < Count; ++i) d[i] = d[i + Each];
  }
}

/// The activation of each, a few at a time.
template <int Count>
MOESAIC_DEVICE void activate_each(activation_rule_in<float> const& rule, float (&x)[Count]) {
  constexpr int few = Count < 4 ? Count : 4;
  float done[few];
  auto const each = [&](auto f) {
    MOESAIC_UNROLL
    for (int i = 0; i < few; ++i) done[i] = f(x[i]);
  };
  MOESAIC_ROLLED
  for (int turn = 0; turn < Count / few; ++turn) {
    auto const act = rule.act;
    if (act == activation::swiglu) each([&](float v) { return silu(v, rule.alpha); });
    else if (act == activation::geglu_erf) each([](float v) { return gelu_erf(v); });
    else if (act == activation::relu) each([](float v) { return relu(v); });
    else if (act == activation::relu_squared) each([](float v) { return relu_squared(v); });
    else each([](float v) { return gelu_tanh(v); });
    MOESAIC_UNROLL
    for (int i = 0; i + few < Count; ++i) x[i] = x[i + few];
    MOESAIC_UNROLL
    for (int i = 0; i < few; ++i) x[Count - few + i] = done[i];
  }
}

/// Sums with their bias, twice as many as a lane writes at a time: gates and what they meet (two parts), or outputs and further outputs (one). Activates,
/// and calls write(values, 0), and for one part write(values, 1).
template <int Count, class F>
MOESAIC_DEVICE void finish(bool gated, bool activated, activation_rule_in<float> const& act, float (&lower)[Count], float (&upper)[Count], F&& write) {
  auto const exchange = [&] {
    MOESAIC_UNROLL
    for (int i = 0; i < Count; ++i) {
      float const kept = lower[i];
      lower[i] = upper[i], upper[i] = kept;
    }
  };
  MOESAIC_ROLLED
  for (int turn = 0; turn < (gated ? 1 : 2); ++turn) {
    if (gated) {
      MOESAIC_UNROLL
      for (int i = 0; i < Count; ++i) lower[i] = limited_gate(act, lower[i]);
    }
    if (activated) activate_each(act, lower);
    if (gated) {
      MOESAIC_UNROLL
      for (int i = 0; i < Count; ++i) lower[i] *= limited_up(act, upper[i]);
    }
    write(lower, turn);
    exchange();
  }
}

/// The biases of an expert's outputs: of gate, or of all there is, and of up.
struct expert_bias {
  float const* bias;       // [parts, outputs] or null
  int outputs;

  template <class X, class Y>
  MOESAIC_DEVICE expert_bias(gemm_params<X, Y> const& p, int expert)
      : bias(p.bias != nullptr ? p.bias + static_cast<std::int64_t>(expert) * p.w.parts * p.w.outputs : nullptr), outputs(p.w.outputs) {}
  MOESAIC_DEVICE float operator()(int part, int output) const { return bias != nullptr && output < outputs ? bias[part * outputs + output] : 0.0f; }
};

/// d [slots, rows of weights] of a warpgroup whose first slot and row these are: a lane has two neighbouring outputs of slots g and g + 8. Of 64 rows,
/// eights of outputs lie as gate, up, gate, ... or in order.
template <int N, class X, class Y>
MOESAIC_DEVICE void store_slots_on_m(gemm_params<X, Y> const& p, int expert, int first, int last, int row, float (&d)[N / 2]) {
  int const lane = device::lane_id(), quad = lane % 4;
  int const slot = first + device::warp_id() % 4 * 16 + lane / 4;
  bool const gated = p.w.parts == 2;
  expert_bias const bias(p, expert);
  by_turns<32>(d, [&](int turn) {
    int const outputs = gated ? row / 2 + 32 * turn : row + 64 * turn, further = gated ? outputs : outputs + 32, part = gated ? 1 : 0;
    float lower[16], upper[16];                    // [slot, eight of outputs, output]
    MOESAIC_UNROLL
    for (int i = 0; i < 16; ++i) {
      int const half = i / 8, eight = i / 2 % 4, c = i % 2, at = 2 * half + c, output = 8 * eight + 2 * quad + c;
      lower[i] = (gated ? d[8 * eight + at] : d[4 * eight + at]) + bias(0, outputs + output);
      upper[i] = (gated ? d[8 * eight + 4 + at] : d[16 + 4 * eight + at]) + bias(part, further + output);
    }
    finish(gated, p.activated, p.act, lower, upper, [&](float const (&value)[16], int more) {
      int const from = outputs + 32 * more;
      MOESAIC_UNROLL
      for (int half = 0; half < 2; ++half) {
        bool const there = slot + 8 * half < last;
        Y* const to = p.y + (slot + 8 * half) * p.y_stride;
        if constexpr (std::is_same_v<Y, bf16>) {
          std::uint32_t word[4];
          MOESAIC_UNROLL
          for (int i = 0; i < 4; ++i) word[i] = device::cvt_bf16x2(value[half * 8 + 2 * i], value[half * 8 + 2 * i + 1]);
          transpose<1, 2>(word);
          if (there) store_words(to + from + 8 * quad, word, p.w.outputs - from - 8 * quad);
        } else {
          MOESAIC_UNROLL
          for (int i = 0; i < 8; ++i) {
            int const output = from + i / 2 * 8 + 2 * quad + i % 2;
            if (there && output < p.w.outputs) to[output] = value[half * 8 + i];
          }
        }
      }
    });
  });
}

/// d [rows of weights, slots] of a warpgroup whose first row and slot these are: a lane has rows g and g + 8 of two neighbouring slots, so gate and up
/// of one output, or outputs g and g + 8.
template <int N, class X, class Y>
MOESAIC_DEVICE void store_weights_on_m(gemm_params<X, Y> const& p, int expert, int first, int last, int row, float (&d)[N / 2]) {
  int const lane = device::lane_id(), quad = lane % 4, odd = lane / 4 % 2, pair = lane / 8;
  auto const odd_mask = static_cast<std::uint32_t>(-odd);
  bool const gated = p.w.parts == 2;
  expert_bias const bias(p, expert);
  int const outputs = (row + device::warp_id() % 4 * 16) / p.w.parts, output = outputs + lane / 4;
  float const lower_bias = bias(0, output), upper_bias = gated ? bias(1, output) : bias(0, output + 8);
  constexpr int together = N >= 32 ? 4 : 1;        // eights of slots
  by_turns<4 * together>(d, [&](int turn) {
    int const slots = first + 8 * together * turn + 2 * quad;
    float lower[2 * together], upper[2 * together];   // [eight of slots, slot]
    MOESAIC_UNROLL
    for (int i = 0; i < 2 * together; ++i) lower[i] = d[i / 2 * 4 + i % 2] + lower_bias, upper[i] = d[i / 2 * 4 + 2 + i % 2] + upper_bias;
    finish(gated, p.activated, p.act, lower, upper, [&](float const (&value)[2 * together], int more) {
      if constexpr (std::is_same_v<Y, bf16>) {
        std::uint32_t word[together];
        MOESAIC_UNROLL
        for (int i = 0; i < together; ++i) {
          // An even output takes its neighbour's value of the first slot, an odd one of the second; chosen by bits, since nvcc else chooses between
          // their places, which puts all of them into memory.
          auto const first_bits = bit_cast<std::uint32_t>(value[2 * i]), second_bits = bit_cast<std::uint32_t>(value[2 * i + 1]);
          float const other = device::shuffle_xor(bit_cast<float>((first_bits & odd_mask) | (second_bits & ~odd_mask)), 4);
          word[i] = odd ? device::cvt_bf16x2(other, value[2 * i + 1]) : device::cvt_bf16x2(value[2 * i], other);
        }
        // Four words of one pair of outputs become eight outputs of one slot.
        if constexpr (together == 4) transpose<8, 16>(word);
        int const slot = slots + odd + (together == 4 ? 8 * pair : 0), from = outputs + 8 * more + (together == 4 ? 0 : 2 * pair);
        if (slot < last) store_words(p.y + slot * p.y_stride + from, word, p.w.outputs - from);
      } else {
        MOESAIC_UNROLL
        for (int i = 0; i < 2 * together; ++i) {
          int const slot = slots + i / 2 * 8 + i % 2;
          if (slot < last && output + 8 * more < p.w.outputs) p.y[slot * p.y_stride + output + 8 * more] = value[i];
        }
      }
    });
  });
}

}  // namespace moesaic::cuda::sm90
