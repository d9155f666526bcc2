// Tiles of the matrix kernels: within shared memory, registers and threads of every architecture, for every format.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <moesaic/cuda/tuning/gemm.hpp>

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

TEST_CASE("tiles of the matrix kernels fit every architecture") {}
