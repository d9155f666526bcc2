// Kernels over rows with fewer blocks than rows, as only batches beyond any test have them: a block goes on to its next row when it is done with the last.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/attention.hpp>
#include <moesaic/cuda/combine.hpp>
#include <moesaic/cuda/kv_cache.hpp>
#include <moesaic/cuda/logits.hpp>
#include <moesaic/cuda/norm.hpp>
#include <moesaic/cuda/special_experts.hpp>

#include "schedules.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

/// The kernel with one block for all rows gives what it gives with a block a row.
template <class Kernel, class T, class Params = typename Kernel::params>
void check_grids(Params const& params, view<T> Params::*result, unsigned blocks) {
  matrix<T> want((params.*result).rows, (params.*result).columns);
  std::vector<T> const before((params.*result).data, (params.*result).data + want.data.size());
  under_every_schedule([&](cuda::stream_ref& where) {
    auto whole = params, one = params;
    auto y = unwritten<T>(want.rows, want.columns), z = y;
    std::copy(before.begin(), before.end(), y.data.begin());
    std::copy(before.begin(), before.end(), z.data.begin());
    whole.*result = y.view(), one.*result = z.view();
    REQUIRE(cuda::launch<Kernel>(where, {.x = blocks, .early = true}, whole));
    REQUIRE(cuda::launch<Kernel>(where, {.x = 1, .early = true}, one));
    check_bits(z, y);
  });
}

}  // namespace

TEST_CASE("one block for all rows") {
  constexpr std::int64_t tokens = 9, width = 48;
  random_stream random(71);
  auto const x = random_matrix<float>(tokens, width, random), added = random_matrix<float>(tokens, width, random);
  auto const weight = random_matrix<float>(1, width, random);
  matrix<float> y(tokens, width), sum(tokens, width);
  for (auto const kind : {norm_kind::rms, norm_kind::layer}) {
    using norm = cuda::normalize_rows<float, 4, false>;
    check_grids<norm, float>({x.view(), {}, {}, y.view(), weight.data.data(), nullptr, 1e-5f, kind}, &norm::params::y, 9);
  }
  using head = cuda::normalize_each_head<float>;
  check_grids<head, float>({y.view(), weight.data.data(), 1e-5f, 3, 16}, &head::params::x, 7);
  using sums = cuda::add_rows<float, 4>;
  check_grids<sums, float>({x.view(), added.view(), y.view()}, &sums::params::y, 9);
  using logits = cuda::scale_and_cap_pieces;
  matrix<float> wide = random_matrix<float>(2, 2100, random);
  check_grids<logits, float>({wide.view(), 0.5f, 3.0f}, &logits::params::x, 6);
  std::vector<std::int32_t> position(tokens), sequence(tokens, 0);
  for (std::int32_t t = 0; t < tokens; ++t) position[static_cast<std::size_t>(t)] = 3 * t;
  std::vector<double> const frequency{1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003};
  using turn = cuda::rotate_rows<float>;
  check_grids<turn, float>({y.view(), position.data(), frequency.data(), 3, 8, 16, 1.0f, rope_layout::half_split}, &turn::params::x, 9);

  moesaic::buffer memory(1 << 14);
  cuda::kv_cache const cache{dtype::fp32, 1, 3, 16, 16, 32, memory.data(), nullptr};
  for (int i = 0; i < 3 * 16 * 32 * 2; ++i) reinterpret_cast<float*>(memory.data())[i] = random.normal();
  using attend = cuda::attend_simt<float, float, false>;
  check_grids<attend, float>({cache, x.view(), y.view(), sequence.data(), position.data(), 0.25f, 3, 1}, &attend::params::out, 7);
}

TEST_CASE("one block for all slots of experts that are no feed-forward") {
  constexpr std::int64_t width = 48;
  random_stream random(72);
  auto const x = random_matrix<float>(4, width, random), gate = random_matrix<float>(4, width, random), value = random_matrix<float>(2, width, random);
  std::vector<std::int32_t> const offsets{0, 1, 2, 4, 9}, token{0, 1, 2, 3, 0, 1, 2, 3, 1};
  matrix<float> y(9, width);
  using special = cuda::special_expert_rows<float>;
  check_grids<special, float>({x.view(), y.view(), offsets.data(), token.data(), gate.data.data(), value.data.data(), 1, 1, 2}, &special::params::y, 9);
}
