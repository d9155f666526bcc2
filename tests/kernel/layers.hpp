// A layer on the CUDA backend against the host's: a prompt and a piece of one, then single tokens; expert ids exactly, values within the format's bound.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include <moesaic/config/random_source.hpp>
#include <moesaic/cuda/cuda.hpp>
#include <moesaic/moesaic.hpp>

#include "schedules.hpp"

namespace moesaic::test {

/// What a call showed: the ids that were chosen, and the output.
struct seen_ids {
  std::string ids;
  static constexpr bool wants(stage s) { return s == stage::topk_index || s == stage::attn_topk_index; }
  void operator()(tap_point at, view<const std::int32_t> v) {
    for (std::int64_t i = 0; wants(at.stage) && i < v.rows * v.columns; ++i) ids += std::to_string(v.data[i]) + " ";
  }
  template <class X>
  void operator()(tap_point, view<const X>) {}
};

struct layer_step {
  std::vector<std::int32_t> sequence, position;
};
/// A prompt and a piece of one, then single tokens.
inline std::vector<layer_step> layer_steps() {
  std::vector<layer_step> all(3);
  for (std::int32_t i = 0; i < 11; ++i) all[0].sequence.push_back(0), all[0].position.push_back(i);
  for (std::int32_t i = 0; i < 3; ++i) all[0].sequence.push_back(1), all[0].position.push_back(i);
  all[1] = {{0, 1}, {11, 3}};
  all[2] = {{1}, {4}};
  return all;
}

template <class Spec, class Where, class State>
std::vector<matrix<scalar_of<Spec::config.storage.activations>>> run_layer(Where& where, seen_ids& tap, State const& state, std::uint64_t seed) {
  using layer = block<Spec>;
  using T = typename layer::scalar;
  auto const weights = layer::load(where, random_source{3}, "");
  auto const cache = layer::make_cache(where, 2, 24);
  std::vector<matrix<T>> results;
  random_stream random(seed);
  for (auto const& s : layer_steps()) {
    auto const tokens = static_cast<std::int64_t>(s.sequence.size());
    auto const x = random_matrix<T>(tokens, Spec::config.hidden, random);
    auto y = unwritten<T>(tokens, Spec::config.hidden);
    auto carried = layer::opens ? unwritten<T>(tokens, Spec::config.hidden) : random_matrix<T>(tokens, Spec::config.hidden, random);
    moesaic::buffer workspace(layer::template workspace_bytes<seen_ids>(tokens));
    list<std::byte> const bytes{workspace.data(), static_cast<std::int64_t>(workspace.size())};
    auto const done = layer::forward(where, weights, {x.view(), s.sequence, s.position, carried.view()}, cache, y.view(), bytes, state, tap);
    REQUIRE_MESSAGE(done, to_string(done));
    REQUIRE(check(where, bytes));
    results.push_back(std::move(y));
    if constexpr (layer::opens) results.push_back(std::move(carried));
  }
  return results;
}

/// on_each(f, architecture) calls f(where) as often as it likes. `seed` draws x, such that no two experts are as close as roundings.
template <class Spec, class OnEach>
void check_layer(OnEach&& on_each, std::initializer_list<int> architectures, typename policy_of<Spec>::state const& state = {},
                 std::uint64_t seed = 61) {
  using T = typename block<Spec>::scalar;
  seen_ids wanted_ids;
  auto want = wanted<host::pool>([&](auto& where) { return run_layer<Spec>(where, wanted_ids, state, seed); });
  for (int const architecture : architectures)
    on_each([&](cuda::stream_ref& where) {
      CAPTURE(architecture);
      seen_ids ids;
      auto const got = run_layer<Spec>(where, ids, state, seed);
      if (want.empty()) want = got, wanted_ids = ids;
      CHECK(ids.ids == wanted_ids.ids);
      for (std::size_t i = 0; i < want.size(); ++i) check_close(got[i], want[i], long_stage_tolerance<T>);
    }, architecture);
}
template <class Spec>
void check_layer(typename policy_of<Spec>::state const& state = {}) {
  check_layer<Spec>([](auto&& f, int architecture) { under_every_schedule(f, architecture); }, {75, 80, 90}, state);
}

}  // namespace moesaic::test
