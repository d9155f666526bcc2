// Sizes of the wgmma kernels by format and rows per expert, and what they take of a multiprocessor: numbers only, checked by any compiler.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>

#include <moesaic/base/dtype.hpp>
#include <moesaic/cuda/tuning/tuning.hpp>

namespace moesaic::cuda {

/// What a block of a wgmma kernel does at a time. One warpgroup of 64 rows on the side M is a consumer; one more warpgroup brings operands.
struct gemm_sm90_sizes {
  bool weights_on_m = true;      ///< rows of weights on M and slots on N, for few slots and for weights through registers; else the other way round
  int consumers = 1;             ///< warpgroups: M is 64 times as many
  int n = 8;
  int stages = 8;                ///< of the ring of operands
  int blocks = 1;                ///< of a multiprocessor
  int cluster = 1;               ///< blocks that work at the same rows of weights, which the copy engine brings to all of them at once
  int producer_registers = 0;    ///< a thread, by setmaxnreg; 0: all threads have what the launch gives
  int consumer_registers = 0;

  friend constexpr bool operator==(gemm_sm90_sizes const&, gemm_sm90_sizes const&) = default;
  MOESAIC_FN constexpr int m() const { return 64 * consumers; }
  MOESAIC_FN constexpr int slots() const { return weights_on_m ? n : m(); }
  MOESAIC_FN constexpr int rows() const { return weights_on_m ? m() : n; }
  MOESAIC_FN constexpr int threads() const { return 128 * (1 + consumers); }
};

/// What one stage of the ring holds, in bytes from its start: rows of weights, slots, scales and zero points of weights, scales of slots.
struct gemm_sm90_stage {
  int inputs = 64;                  ///< of K
  int weight_bytes = 0, slot_bytes = 0, scale_bytes = 0, zero_bytes = 0, slot_scale_bytes = 0;

  MOESAIC_FN constexpr int slots_at() const { return weight_bytes; }
  MOESAIC_FN constexpr int scales_at() const { return slots_at() + slot_bytes; }
  MOESAIC_FN constexpr int zeros_at() const { return scales_at() + padded(scale_bytes, 128); }
  MOESAIC_FN constexpr int slot_scales_at() const { return zeros_at() + padded(zero_bytes, 128); }
  MOESAIC_FN constexpr int bytes() const { return padded(slot_scales_at() + slot_scale_bytes, 1024); }

 private:
  MOESAIC_FN static constexpr int padded(int bytes, int to) { return (bytes + to - 1) / to * to; }
};

/// Weights of type `w`, activations bf16 or e4m3; a scale for each `interval` inputs at most.
MOESAIC_FN constexpr gemm_sm90_stage stage_of(dtype w, dtype x, int interval, gemm_sm90_sizes const& s) {
  gemm_sm90_stage stage;
  stage.inputs = w == dtype::bf16 ? 64 : 128;
  stage.weight_bytes = s.rows() * stage.inputs * bits(w) / 8;
  stage.slot_bytes = s.slots() * stage.inputs * bits(x) / 8;
  if (w == dtype::int8 || w == dtype::int4) stage.scale_bytes = s.rows() * 4 * (stage.inputs / interval);
  if (w == dtype::mxfp4) stage.scale_bytes = s.rows() * (stage.inputs / interval);
  if (w == dtype::int4) stage.zero_bytes = s.rows() * (stage.inputs / interval);
  if (x == dtype::e4m3) stage.slot_scale_bytes = s.slots() * 4;
  return stage;
}
/// Dynamic shared memory of a block: the ring, and two barriers a stage.
MOESAIC_FN constexpr std::int64_t shared_bytes(gemm_sm90_stage const& stage, gemm_sm90_sizes const& s) {
  return (std::int64_t{s.stages} * (stage.bytes() + 16) + 1023) / 1024 * 1024;
}

/// What is expected of the runs of slots that share a matrix.
enum class run_length : std::uint8_t { few, some, many, long_runs, longest };
/// At most so many slots a tile for each; beyond the last, the kernels of long runs.
MOESAIC_FN constexpr int slots_of(run_length r) {
  return r == run_length::few ? 8 : r == run_length::some ? 32 : r == run_length::many ? 64 : r == run_length::long_runs ? 128 : 256;
}

/// `bound`: slots that an expert can have; `mean`: that it will have. Few slots more than a tile cost a second look at the weights, in L2; a tile
/// that is too wide costs its share of shared memory and of the tensor cores whatever it holds.
constexpr run_length run_length_of(std::int64_t bound, std::int64_t mean) {
  for (auto const r : {run_length::few, run_length::some, run_length::many})
    if (bound <= slots_of(r) || 2 * mean <= slots_of(r)) return r;
  // Tiles of two blocks, of which a run's last is half empty now and then.
  return mean < 4 * slots_of(run_length::longest) ? run_length::long_runs : run_length::longest;
}

/// The shortest interval of inputs that kernels of these weights scale.
MOESAIC_FN constexpr int sm90_interval(dtype w) { return w == dtype::bf16 || w == dtype::e4m3 ? 128 : 32; }

/// Whether sizes keep within a multiprocessor of architecture 90: shared memory (of which each block costs one KiB more than it has), threads, registers.
constexpr bool sm90_fits(dtype w, dtype x, int interval, gemm_sm90_sizes const& s) {
  auto const limits = limits_of(90);
  auto const shared = shared_bytes(stage_of(w, x, interval, s), s);
  if (s.stages < 2 || s.n % 8 != 0 || s.n > 256 || shared > limits.shared_bytes || s.blocks * (shared + 1024) > limits.shared_bytes + 1024) return false;
  if (s.blocks * s.threads() > 2048 || s.threads() > limits.threads_of_block) return false;
  // What the launch gives a thread; setmaxnreg moves registers from the producer to the consumers.
  int const given = limits.registers / (s.threads() * s.blocks) / 8 * 8;
  bool const moves = s.producer_registers != 0;
  if (moves && (s.producer_registers < 24 || s.consumer_registers > 232 || s.producer_registers + s.consumers * s.consumer_registers > (1 + s.consumers) * given))
    return false;
  // Sums, those of a group where they wait for a scale, and 64 inputs of weights on their way through registers, twice.
  bool const codes = w != x, scaled = (codes && w != dtype::mxfp4) || x == dtype::e4m3;
  int const waiting = !scaled ? 0 : codes && interval == 32 && s.n <= 64 ? 2 : 1;
  int const registers = (1 + waiting) * s.n / 2 + (codes ? 32 : 0) + 48;
  return registers <= (moves ? s.consumer_registers : given < limits.registers_of_thread ? given : limits.registers_of_thread);
}

/// Default sizes. Bytes under way decide for short runs: as many stages as two blocks of a multiprocessor hold, 64 KiB of weights and more. Registers
/// decide for long ones: sums of 64 × n a warpgroup, twice where those of a group wait for their scale.
struct gemm_sm90_tuning {
  static constexpr gemm_sm90_sizes sizes(dtype w, dtype x, run_length r) {
    gemm_sm90_sizes s{.n = slots_of(r), .blocks = 2};
    if (r == run_length::many) s.producer_registers = 40, s.consumer_registers = 208;
    if (r >= run_length::long_runs)
      s = {.weights_on_m = w != x, .consumers = 2, .n = w == dtype::bf16 ? 256 : 128, .cluster = w == x && r == run_length::longest ? 2 : 1,
           .producer_registers = 64, .consumer_registers = 216};
    constexpr int most_stages = 12;
    for (s.stages = most_stages; s.stages > 2 && !sm90_fits(w, x, sm90_interval(w), s);) --s.stages;
    return s;
  }
};

}  // namespace moesaic::cuda
