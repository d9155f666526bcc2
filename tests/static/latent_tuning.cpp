// Latent attention's tiles keep every limit of the architectures that get them, for every preset that attends to latents.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <moesaic/config/presets/deepseek.hpp>
#include <moesaic/config/presets/kimi.hpp>
#include <moesaic/config/presets/longcat.hpp>
#include <moesaic/cuda/latent.hpp>

using namespace moesaic;

namespace {

template <class Kernel>
constexpr bool within(int architecture) {
  auto const limits = cuda::limits_of(architecture);
  return static_cast<std::int64_t>(sizeof(typename Kernel::shared)) <= limits.shared_bytes && Kernel::threads <= limits.threads_of_block && Kernel::threads % 32 == 0;
}
/// Sums of a thread, and as many registers as addresses, fragments and scores need beside them.
template <int Rows, int Rank>
constexpr bool sums_fit(int architecture) {
  constexpr int threads = 32 * cuda::latent_tuning::warps;
  auto const limits = cuda::limits_of(architecture);
  int const each = limits.registers / threads, most = each < limits.registers_of_thread ? each : limits.registers_of_thread;
  return Rows * Rank / threads + 96 <= most;
}

template <class Model>
constexpr auto shape_of = latent_shape_of(Model::layer::config);
template <class Model>
constexpr int rows_of = cuda::latent_tuning::rows(shape_of<Model>.heads);

template <class Model>
constexpr bool runs(int architecture) {
  constexpr auto s = shape_of<Model>;
  static_assert(cuda::latent_tuning::has_tiles(s.rank, s.rope_dim) && cuda::attention_tuning::has_tiles(s.key_dim()) && cuda::attention_tuning::has_tiles(s.value_dim));
  using alone = cuda::attend_latents<rows_of<Model>, s.rank, s.rope_dim, 1>;
  using shared = cuda::attend_latents<rows_of<Model>, s.rank, s.rope_dim, cuda::latent_tuning::cluster>;
  return within<alone>(architecture) && within<shared>(architecture) && within<cuda::attend_expanded<s.key_dim(), s.value_dim>>(architecture) &&
         sums_fit<rows_of<Model>, s.rank>(architecture);
}
template <class Model>
constexpr bool runs_everywhere() { return runs<Model>(80) && runs<Model>(87) && runs<Model>(90) && runs<Model>(100); }

static_assert(runs_everywhere<presets::deepseek_v2_lite>() && runs_everywhere<presets::deepseek_v2>() && runs_everywhere<presets::deepseek_v3>() &&
              runs_everywhere<presets::kimi_k2>() && runs_everywhere<presets::longcat_flash>());
// Blocks of 99 KiB hold 16 heads; with more of them the op takes plain loads there.
static_assert(rows_of<presets::deepseek_v2_lite> == 16 && runs<presets::deepseek_v2_lite>(86) && runs<presets::deepseek_v2_lite>(120));
static_assert(rows_of<presets::deepseek_v3> == 64 && rows_of<presets::longcat_flash> == 64 && !runs<presets::deepseek_v3>(86));
static_assert(within<cuda::attend_latents_simt<float, float>>(75) && within<cuda::plan_latents>(70));

}  // namespace

TEST_CASE("latent attention's tiles keep every limit") {}
