// A whole model on the CUDA backend, token ids to logits: against the host's, prompts and single tokens; what only the device can see is told by check.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/config/random_source.hpp>
#include <moesaic/cuda/cuda.hpp>
#include <moesaic/moesaic.hpp>

#include "schedules.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr storage_config stored{.weights = dtype::bf16, .ffn = {dtype::int8, 32}, .activations = dtype::bf16};
constexpr attention_config attention_of_all{.heads = 2, .head_dim = 16};
struct sandwiched {
  static constexpr block_config config{.hidden = 32, .attention = attention_of_all, .expert = {.intermediate = 48},
                                       .norm = {.cast = norm_cast::after_weight, .weight_offset = 0.5}, .norms = norm_placement::sandwich,
                                       .residual_scale = 0.7, .storage = stored};
};
struct opening {
  static constexpr block_config config{.hidden = 32, .attention = attention_of_all, .router = {.experts = 6, .top_k = 2},
                                       .expert = {.intermediate = 32, .zero = 1, .copy = 1}, .shared = {.intermediate = 48},
                                       .shortcut = shortcut::opens, .storage = stored};
};
struct closing {
  static constexpr block_config config{.hidden = 32, .attention = attention_of_all, .expert = {.intermediate = 48},
                                       .norm = {.kind = norm_kind::layer, .bias = true}, .residual_scale = 0.7,
                                       .shortcut = shortcut::closes, .storage = stored};
};
struct model {
  static constexpr decoder_config config{.vocabulary = 57, .norm = {.kind = norm_kind::layer}, .tied_head = true, .embedding_scale = 5.656854249492381,
                                         .logit_scale = 0.5773502691896257, .logit_softcap = 4, .embedding = dtype::bf16};
  using layers = moesaic::layers<sandwiched, opening, closing>;
};
using network = decoder<model>;

/// A call of the model: logits of the tokens in `rows`, or the status of `check`.
template <class Where, class Weights, class Cache>
matrix<float> call(Where& where, Weights const& weights, Cache const& cache, std::vector<std::int32_t> const& ids,
                   std::vector<std::int32_t> const& sequence, std::vector<std::int32_t> const& position, list<const std::int32_t> rows,
                   status_code expected = status_code::ok) {
  auto const tokens = static_cast<std::int64_t>(ids.size()), wanted = rows.size < 0 ? tokens : rows.size;
  auto logits = unwritten<float>(wanted, 57);
  moesaic::buffer workspace(network::workspace_bytes(tokens, wanted));
  list<std::byte> const bytes{workspace.data(), static_cast<std::int64_t>(workspace.size())};
  auto const done = network::forward(where, weights, {ids, sequence, position}, cache, rows, logits.view(), bytes);
  CHECK_MESSAGE(done, to_string(done));
  CHECK(check(where, bytes).code == expected);
  return logits;
}

}  // namespace

TEST_CASE("a model of dense and expert layers, with every kind of norm, factor and way into the stream") {
  auto const run = [](auto& where) {
    auto const weights = network::load(where, random_source{5});
    auto const cache = network::make_cache(where, 2, 16);
    std::vector<std::int32_t> const last{8};
    std::vector<matrix<float>> logits;
    logits.push_back(call(where, weights, cache, {1, 50, 3, 7, 9, 11, 3, 2, 56, 4}, {0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 0}, every_token));
    logits.push_back(call(where, weights, cache, {8, 8}, {0, 1}, {9, 1}, every_token));
    logits.push_back(call(where, weights, cache, {1, 50, 3, 7, 9, 11, 3, 2, 56}, {1, 1, 1, 1, 1, 1, 1, 1, 1}, {0, 1, 2, 3, 4, 5, 6, 7, 8}, last));
    return logits;
  };
  auto want = wanted<host::pool>(run);
  for (int const architecture : {80, 90})
    under_every_schedule([&](cuda::stream_ref& where) {
      auto const got = run(where);
      if (want.empty()) want = got;
      for (std::size_t i = 0; i < want.size(); ++i) check_close(got[i], want[i], run_tolerance<bf16>(3));
      check_close(got[2], matrix<float>(1, 57), infinity<double>);          // finite
    }, architecture);
}

TEST_CASE("ids, sites and rows outside their tables are flagged") {
  cuda::stream_ref where;
  auto const weights = network::load(where, random_source{5});
  auto const cache = network::make_cache(where, 1, 4);
  call(where, weights, cache, {57}, {0}, {0}, every_token, status_code::out_of_range);
  call(where, weights, cache, {3}, {0}, {4}, every_token, status_code::out_of_range);
  call(where, weights, cache, {3}, {1}, {0}, every_token, status_code::out_of_range);
  std::vector<std::int32_t> const beyond{1};
  call(where, weights, cache, {3}, {0}, {0}, beyond, status_code::out_of_range);
  call(where, weights, cache, {3}, {0}, {1}, every_token);                   // and nothing of it stays
  CHECK(device_model::take_findings().empty());
}
