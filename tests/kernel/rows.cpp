// Kernels over rows with fewer blocks than rows, as only batches beyond any test have them: a block goes on to its next row when it is done with the last.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/attention.hpp>
#include <moesaic/cuda/combine.hpp>
#include <moesaic/cuda/cosine.hpp>
#include <moesaic/cuda/embedding.hpp>
#include <moesaic/cuda/kv_cache.hpp>
#include <moesaic/cuda/latent.hpp>
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
/// The same where results are no view among the parameters: what bind(memory) has it write, one launch after another.
template <class Kernel, class T, class... Bind>
void check_grids_of(matrix<T> const& before, unsigned blocks, Bind const&... bind) {
  under_every_schedule([&](cuda::stream_ref& where) {
    auto y = before, z = before;
    auto const go = [&](unsigned x, auto const& params) { REQUIRE(cuda::launch<Kernel>(where, {.x = x, .early = true}, params)); };
    (go(blocks, bind(y.view())), ...);
    (go(1, bind(z.view())), ...);
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
  using weights = cuda::attention_weights_simt<float, float>;
  matrix<float> probabilities(3 * tokens, 32);
  check_grids<weights, float>({{cache, x.view(), {}, sequence.data(), position.data(), 0.25f, 3, 1}, probabilities.view()}, &weights::params::probabilities, 7);

  // The cache is a result too: its bytes, as rows.
  using append = cuda::append_rows<float, float>;
  auto const appended = [&](unsigned blocks) {
    matrix<float> bytes(3 * 2, 16 * 32);
    auto to = cache;
    to.data = reinterpret_cast<std::byte*>(bytes.data.data());
    cuda::stream_ref where;
    REQUIRE(cuda::launch<append>(where, {.x = blocks, .early = true}, {to, x.view(), added.view(), sequence.data(), position.data(), nullptr}));
    return bytes;
  };
  check_bits(appended(1), appended(9));
  CHECK(device_model::take_findings().empty());
}

TEST_CASE("one block for all rows between tokens and experts, ids and rows, products and cosines") {
  constexpr std::int64_t tokens = 5, top_k = 2, width = 48;
  random_stream random(73);
  auto const x = random_matrix<float>(tokens, width, random), expert_out = random_matrix<float>(tokens * top_k, width, random);
  auto const weight = random_matrix<float>(tokens, top_k, random), gate = random_matrix<float>(1, tokens, random);
  std::vector<std::int32_t> const slot{9, 0, -1, 8, 3, 2, -1, -1, 1, 7};
  view<std::int32_t const> const slots(slot.data(), tokens, top_k);
  matrix<float> y(tokens, width), of_slots(tokens * top_k, width);
  using mix = cuda::combine_rows<float, 4>;
  check_grids<mix, float>({expert_out.view(), slots, weight.view(), x.view(), gate.data.data(), x.view(), y.view(), {}, 0.5f, {}, nullptr}, &mix::params::y, 5);
  using weigh = cuda::weigh_rows<float, 4>;
  check_grids<weigh, float>({x.view(), slots, weight.view(), of_slots.view()}, &weigh::params::y, 10);
  using gather = cuda::gather_rows<float>;
  check_grids<gather, float>({expert_out.view(), slot.data(), of_slots.view(), nullptr}, &gather::params::y, 10);
  std::vector<std::int32_t> const ids{4, 0, 3, 3, 1};
  using embed = cuda::embed_rows<dtype::fp32, float>;
  packed_matrix const table{.stored = dtype::fp32, .outputs = tokens, .inputs = width, .data = reinterpret_cast<std::byte const*>(x.data.data())};
  check_grids<embed, float>({cuda::weight_view(table), ids.data(), y.view(), nullptr, 2.0f}, &embed::params::x, 5);
  std::vector<double> const length(7, 1.5);
  auto products = random_matrix<float>(tokens, 7, random);
  using cosine = cuda::cosines_of_rows<float>;
  check_grids<cosine, float>({x.view(), length.data(), 0.5, products.view()}, &cosine::params::y, 2);
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

TEST_CASE("one block for all rows of latent attention") {
  constexpr int rank = 32, rope_dim = 16, slot_dim = rank + rope_dim, key_dim = 16 + rope_dim, value_dim = 16, heads = 3, tokens = 5, max_tokens = 100;
  random_stream random(73);
  auto const latent = random_matrix<float>(tokens, rank, random), key = random_matrix<float>(tokens, rope_dim, random);
  auto slots = random_matrix<float>(2 * max_tokens, slot_dim, random);
  cuda::latent_cache const cache{dtype::fp32, 2, rank, rope_dim, max_tokens, reinterpret_cast<std::byte*>(slots.data.data()), nullptr};
  std::vector<std::int32_t> const sequence{1, 0, 0, 0, 1}, position{70, 1, 2, 3, 99};

  check_grids_of<cuda::append_latents<float, float>>(slots, tokens, [&](view<float> memory) {
    auto there = cache;
    there.data = reinterpret_cast<std::byte*>(memory.data);
    return cuda::append_latents<float, float>::params{there, latent.view(), key.view(), sequence.data(), position.data(), nullptr};
  });
  check_grids_of<cuda::multiply_rows<float>>(slots, 2 * max_tokens, [](view<float> x) { return cuda::multiply_rows<float>::params{x, 1.25f}; });

  constexpr int many = 17;                               // heads of three blocks
  auto const query = random_matrix<float>(tokens, many * slot_dim, random), q = random_matrix<float>(tokens, many * key_dim, random);
  cuda::latent_params<float, float> const absorbed{cache, query.view(), q.view(), {}, sequence.data(), position.data(), nullptr, 0.1f, many, slot_dim, key_dim, rank};
  using attend = cuda::attend_latents_simt<float, float>;
  check_grids_of<attend>(matrix<float>(tokens, many * rank), 3 * tokens, [&](view<float> out) {
    auto p = absorbed;
    p.out = out;
    return p;
  });
  using weights = cuda::latent_weights_simt<float, float>;
  check_grids_of<weights>(matrix<float>(many * tokens, max_tokens), 22, [&](view<float> probabilities) { return weights::params{absorbed, probabilities, 0, tokens}; });

  // Two runs of expanded tokens, and one between them that is not: four blocks of slots in two passes of 128 rows.
  std::int32_t first_token[] = {0, 1, 4, 5}, run_slots[] = {71, -1, 100}, block[] = {0, 2, 2}, block_of_token[] = {0, -1, -1, -1, 2};
  std::int32_t absorbed_rows[] = {0, 0}, runs = 3, blocks = 4, pass[] = {0, 128};
  cuda::latent_plan const plan{first_token, run_slots, block, block_of_token, absorbed_rows, &runs, &blocks, pass};
  constexpr std::int64_t window = 128;                   // of a pass
  using gather = cuda::gather_latents<float, float>;
  check_grids_of<gather>(matrix<float>(1, window * (rank + heads * key_dim)), window, [&](view<float> memory) {
    return gather::params{cache, plan, sequence.data(), {memory.data, window, rank}, memory.data + window * rank, 0, heads, key_dim};
  });
  // The last run begins in the first pass and ends in the second: what it has by then waits beside the result.
  std::vector<std::int32_t> const late{50, 1, 2, 3, 99};
  std::int32_t const in_both[] = {0, -1, -1, -1, 1};
  auto const of_pass = random_matrix<float>(heads * window, key_dim, random), values = random_matrix<float>(heads * window, value_dim, random);
  constexpr auto state_width = latent_memory<float>::state_width(value_dim);
  using expand = cuda::attend_expanded_simt<float>;
  auto const from = [&](std::int64_t first) {
    return [&, first](view<float> memory) {
      cuda::attention_params<float> a{};
      a.cache.sequences = cache.sequences, a.cache.max_tokens = cache.max_tokens, a.cache.first_position = cache.first_position;
      a.q = view<const float>(q.data.data(), tokens, heads * key_dim, q.columns), a.out = view<float>(memory.data, tokens, heads * value_dim, memory.stride);
      a.sequence = sequence.data(), a.position = late.data(), a.scale = 0.1f, a.heads = heads, a.group = 1;
      view<float> const state(memory.data + heads * value_dim, tokens, heads * state_width, memory.stride);
      return expand::params{a, of_pass.data.data(), values.data.data(), in_both, pass, first, window, state, static_cast<int>(state_width), key_dim, value_dim};
    };
  };
  check_grids_of<expand>(matrix<float>(tokens, heads * (value_dim + state_width)), 4, from(0));
  check_grids_of<expand>(matrix<float>(tokens, heads * (value_dim + state_width)), 4, from(0), from(window));

  auto const x = random_matrix<float>(tokens, 48, random), weight = random_matrix<float>(tokens, 2, random);
  std::int32_t const slot_of_choice[] = {3, 0, 1, 2, -1, 4, 5, 6, 8, 7};
  using weigh = cuda::weigh_rows<float, 4>;
  matrix<float> y(9, 48);
  check_grids<weigh, float>({x.view(), {slot_of_choice, tokens, 2}, weight.view(), y.view()}, &weigh::params::y, 10);
}
