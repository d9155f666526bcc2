// Tiles of the matrix kernels: within shared memory, registers and threads of every architecture, for every format.
// SPDX-License-Identifier: Apache-2.0
#include <initializer_list>

#include <doctest/doctest.h>

#include <moesaic/cuda/tuning/gemm.hpp>
#include <moesaic/cuda/tuning/gemm_sm90.hpp>

using namespace moesaic;
using namespace moesaic::cuda;

constexpr dtype formats[] = {dtype::bf16, dtype::int8, dtype::e4m3, dtype::int4, dtype::mxfp4};
constexpr gemm_load loads[] = {gemm_load::few, gemm_load::some, gemm_load::many};
constexpr int architectures[] = {80, 86, 87, 89, 90, 100, 103, 120};

constexpr bool all_fit() {
  for (auto const w : formats)
    for (auto const load : loads)
      for (int const architecture : architectures)
        if (!sm80_multiplies(w) || !sm80_fits(w, sm80_tile(w, load), limits_of(architecture))) return false;
  return true;
}
static_assert(all_fit());
static_assert(!sm80_multiplies(dtype::fp32) && !sm80_multiplies(dtype::fp16));

// The check refuses what does not fit.
constexpr gemm_tile plain{.rows = 64, .slots = 32, .warps_rows = 2, .stages = 3};
constexpr auto with = [](auto change) {
  auto t = plain;
  change(t);
  return sm80_fits(dtype::bf16, t, limits_of(80));
};
static_assert(sm80_fits(dtype::bf16, plain, limits_of(80)));
static_assert(!with([](gemm_tile& t) { t.stages = 64; }) && !with([](gemm_tile& t) { t.stages = 1; }));
static_assert(!with([](gemm_tile& t) { t.rows = 48; }) && !with([](gemm_tile& t) { t.slots = 20; }));
static_assert(!with([](gemm_tile& t) { t.rows = 256, t.slots = 256; }) && !with([](gemm_tile& t) { t.warps_inputs = 32; }));

// Loads change where tiles are full.
static_assert(gemm_load_of(1) == gemm_load::few && gemm_load_of(8) == gemm_load::few && gemm_load_of(9) == gemm_load::some);
static_assert(gemm_load_of(48) == gemm_load::some && gemm_load_of(49) == gemm_load::many);

// wgmma: every format and length of runs keeps within a multiprocessor, and short runs have 64 KiB of weights under way.
constexpr run_length runs[] = {run_length::few, run_length::some, run_length::many, run_length::long_runs, run_length::longest};
constexpr bool all_sm90_fit() {
  for (auto const r : runs)
    for (auto const w : formats)
      for (auto const x : {dtype::bf16, dtype::e4m3}) {
        if (x == dtype::e4m3 && w != dtype::e4m3) continue;
        auto const s = gemm_sm90_tuning::sizes(w, x, r);
        if (!sm90_fits(w, x, sm90_interval(w), s)) return false;
        auto const weights = s.blocks * s.stages * stage_of(w, x, sm90_interval(w), s).weight_bytes;
        if (r == run_length::few && weights < 64 * 1024) return false;
      }
  return true;
}
static_assert(all_sm90_fit());
constexpr gemm_sm90_sizes cooperative{.weights_on_m = false, .consumers = 2, .n = 256, .stages = 4, .producer_registers = 56, .consumer_registers = 224};
constexpr auto with_sm90 = [](auto change) {
  auto s = cooperative;
  change(s);
  return sm90_fits(dtype::bf16, dtype::bf16, 128, s);
};
static_assert(with_sm90([](gemm_sm90_sizes&) {}));
static_assert(!with_sm90([](gemm_sm90_sizes& s) { s.stages = 5; }) && !with_sm90([](gemm_sm90_sizes& s) { s.stages = 1; }));
static_assert(!with_sm90([](gemm_sm90_sizes& s) { s.blocks = 2; }) && !with_sm90([](gemm_sm90_sizes& s) { s.consumer_registers = 232; }));
static_assert(!with_sm90([](gemm_sm90_sizes& s) { s.producer_registers = s.consumer_registers = 0; }) && !with_sm90([](gemm_sm90_sizes& s) { s.n = 260; }));
static_assert(run_length_of(1, 1) == run_length::few && run_length_of(512, 4) == run_length::few && run_length_of(512, 5) == run_length::some);
static_assert(run_length_of(64, 64) == run_length::many && run_length_of(65, 33) == run_length::long_runs);
static_assert(run_length_of(4096, 1023) == run_length::long_runs && run_length_of(4096, 1024) == run_length::longest);

TEST_CASE("tiles of the matrix kernels fit every architecture") {}
