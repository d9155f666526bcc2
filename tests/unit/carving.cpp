// The checkpoint demo's pieces: routing rules against brute force, a planted structure found again, a carved layer equal to its dense one.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <set>
#include <vector>

#include <doctest/doctest.h>

#include <moesaic/base/random.hpp>
#include <moesaic/host/route.hpp>

#include "../../examples/demo/carved_model.hpp"
#include "../../examples/demo/carved_policies.hpp"
#include "../../examples/demo/text.hpp"

namespace {

using demo::index;
using moesaic::view;

constexpr int experts = 4;
constexpr moesaic::router_config router{
    .experts = experts, .top_k = experts, .score = moesaic::score::identity, .bias = true, .weights = moesaic::combine_weight::ones};

struct routed {
  std::vector<std::int32_t> ids, count;
  std::vector<float> weights;

  bool uses(std::int64_t token, int expert) const {
    for (int i = 0; i < count[index(token)]; ++i)
      if (ids[index(token * experts + i)] == expert) return true;
    return false;
  }
};

template <class Policy>
routed route(typename Policy::state const& state, std::vector<float> const& logits) {
  auto const tokens = std::ssize(logits) / experts;
  routed out{std::vector<std::int32_t>(logits.size()), std::vector<std::int32_t>(index(tokens)), std::vector<float>(logits.size())};
  std::vector<float> scores(logits.size()), choice(logits.size());
  std::int32_t not_finite = 0;
  std::vector<std::byte> memory(index(moesaic::batch_bytes_of<Policy>(router, tokens)));
  moesaic::host::pool where;
  auto const rows = [&](auto& values) { return view(values.data(), tokens, experts); };
  moesaic::host::route<Policy>(where, router, state, rows(logits), {}, rows(scores), rows(choice),
                               moesaic::routing_slots<float>{rows(out.ids), rows(out.weights), out.count}, memory, &not_finite);
  return out;
}

std::vector<float> random_logits(std::uint64_t seed, int tokens) {
  moesaic::random_stream random(seed);
  std::vector<float> logits(index(tokens * experts));
  for (auto& z : logits) z = random.normal();
  return logits;
}

}  // namespace

TEST_CASE("priced: every expert worth its price, best first, weight one, none if none is") {
  auto const got = route<demo::priced>({.price = 2}, {0, 1, 2, 0.5f, -1, -2, -3, -4, 0.7f, 0.69f, 5, 0.7f});
  CHECK(got.count == std::vector<std::int32_t>{2, 0, 3});
  CHECK(got.ids == std::vector<std::int32_t>{2, 1, -1, -1, -1, -1, -1, -1, 2, 0, 3, -1});   // log 2 = 0.693
  CHECK(got.weights == std::vector<float>{1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0});
}

TEST_CASE("priced by width: what a wide expert adds must be worth more") {
  std::vector<float> const width{0.5f, 1, 2, 1};
  auto const got = route<demo::priced_by_width>({2, width}, {0, 1, 2, 0.5f, 0.1f, 1, 1, 1});
  CHECK(got.count == std::vector<std::int32_t>{2, 3});
  CHECK(got.ids == std::vector<std::int32_t>{2, 1, -1, -1, 1, 3, 0, -1});   // exp(logit) against 1, 2, 4, 2
}

TEST_CASE("supplied scores: one row for all tokens, or one a token; by price too") {
  std::vector<float> const logits(index(2 * experts)), energy{3, 1, 2, 1, 0, -1, 4, 9};
  demo::supplied_scores::state same{{energy.data(), 2, experts, 0}}, each{{energy.data(), 2, experts}};
  CHECK(route<demo::supplied_scores>(same, logits).ids == std::vector<std::int32_t>{0, 2, 1, 3, 0, 2, 1, 3});
  CHECK(route<demo::supplied_scores>(each, logits).ids == std::vector<std::int32_t>{0, 2, 1, 3, 3, 2, 0, 1});
  CHECK(route<demo::supplied_and_priced>({each, 5}, logits).count == std::vector<std::int32_t>{2, 2});   // log 5 = 1.61
}

TEST_CASE("two prices: the best of all subsets") {
  constexpr int tokens = 3, pairs = tokens * experts;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    auto const logits = random_logits(seed, tokens);
    auto const prices = demo::prices_of(0.6f, 0.9f);
    auto const value = [&](auto const& uses) {
      double sum = 0;
      for (int e = 0; e < experts; ++e) {
        bool read = false;
        for (int t = 0; t < tokens; ++t)
          if (uses(t, e)) {
            sum += std::exp(static_cast<double>(logits[index(t * experts + e)])) - 0.6;
            read = true;
          }
        if (read) sum -= 0.9;
      }
      return sum;
    };
    double best = 0;
    for (unsigned subset = 0; subset < 1u << pairs; ++subset)
      best = std::max(best, value([&](int t, int e) { return (subset >> (t * experts + e) & 1) != 0; }));
    auto const got = route<demo::two_prices>(prices, logits);
    CHECK(value([&](int t, int e) { return got.uses(t, e); }) == doctest::Approx(best).epsilon(1e-5));
  }
}

TEST_CASE("two prices: a read price of 0 is the rule of one price, and steps of a call do not see each other") {
  constexpr int tokens = 12;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    auto const logits = random_logits(seed, tokens);
    auto const one = route<demo::priced>({.price = 0.8f}, logits);
    auto const two = route<demo::two_prices>(demo::prices_of(0.8f, 0), logits);
    CHECK(two.ids == one.ids);
    CHECK(two.count == one.count);

    auto const call = route<demo::two_prices>(demo::prices_of(0.5f, 1, 4), logits);
    std::vector<std::int32_t> alone;
    for (int first = 0; first < tokens; first += 4) {
      std::vector<float> const rows(logits.begin() + first * experts, logits.begin() + (first + 4) * experts);
      auto const step = route<demo::two_prices>(demo::prices_of(0.5f, 1), rows);
      alone.insert(alone.end(), step.ids.begin(), step.ids.end());
    }
    CHECK(call.ids == alone);
  }
}

namespace {

// A layer whose neurons fire in planted teams: team g fires where input g is large. Neurons 0 .. shared−1 fire always.
struct planted {
  static constexpr int hidden = 6, teams = 5, width = 8, shared = 8, intermediate = shared + teams * width;
  static constexpr std::int64_t tokens = 3000;
  static constexpr float offset = 3;                                   // inputs need not be centred
  std::vector<float> x = std::vector<float>(index(tokens * hidden)), strength = std::vector<float>(index(tokens * intermediate));

  planted() {
    moesaic::random_stream random(7);
    for (auto& value : x) value = offset + random.normal();
    for (std::int64_t t = 0; t < tokens; ++t)
      for (int i = 0; i < intermediate; ++i) {
        float const drive = i < shared ? 2 : x[index(t * hidden + team(i))] - offset;
        strength[index(t * intermediate + i)] = std::exp(2 * drive + 0.5f * random.normal());
      }
  }
  static int team(int neuron) { return (neuron - shared) % teams; }   // not neighbours, so that order alone does not find them

  demo::carved_layer carve(int threads, demo::carving const& how) const {
    moesaic::host::pool where(threads);
    auto inputs = x;
    demo::ridge const fit(where, {inputs.data(), tokens, hidden});
    return demo::carve_layer(fit, {strength.data(), tokens, intermediate}, 1.0, how);
  }
};

}  // namespace

TEST_CASE("a learned split finds planted teams and predicts their energy; its bits do not depend on threads") {
  planted const layer;
  demo::carving const how{std::vector<int>(planted::teams, planted::width), planted::shared};
  auto const got = layer.carve(1, how);
  for (int e = 0; e < planted::teams; ++e) {
    std::set<int> teams;
    for (int i = 0; i < planted::width; ++i) teams.insert(planted::team(got.neurons[index(e * planted::width + i)]));
    CHECK(teams.size() == 1);
    // ln Σ exp(4 x + noise) grows by 4 a unit of x; the penalty of a tenth shrinks it to 4 / 1.1
    auto const team = *teams.begin();
    for (int k = 0; k < planted::hidden; ++k)
      CHECK(got.router_weight[index(e * planted::hidden + k)] == doctest::Approx(k == team ? 4 / 1.1 : 0).epsilon(0.03).scale(4));
  }
  // Regression goes through the means: with all inputs at theirs, the logit is the mean log energy, that of its eight neurons.
  for (int e = 0; e < planted::teams; ++e) {
    double logit = got.router_bias[index(e)], mean = 0;
    for (int k = 0; k < planted::hidden; ++k) logit += planted::offset * double{got.router_weight[index(e * planted::hidden + k)]};
    for (std::int64_t t = 0; t < planted::tokens; ++t) {
      double energy = 0;
      for (int i = 0; i < planted::width; ++i)
        energy += std::pow(layer.strength[index(t * planted::intermediate + got.neurons[index(e * planted::width + i)])], 2);
      mean += std::log(energy) / planted::tokens;
    }
    CHECK(logit == doctest::Approx(mean).epsilon(0.1));                // the sample's mean is not quite the offset
  }
  for (int i = 0; i < planted::shared; ++i) CHECK(got.neurons[index(planted::teams * planted::width + i)] == i);

  auto const again = layer.carve(3, how);
  CHECK(again.neurons == got.neurons);
  CHECK(again.router_weight == got.router_weight);
  CHECK(again.router_bias == got.router_bias);
  CHECK(again.mean_energy == got.mean_energy);
}

TEST_CASE("blind splits: every neuron once; contiguous in order, random by its seed") {
  planted const layer;
  demo::carving how{{8, 16, 16}, planted::shared, demo::split::contiguous};
  auto const in_order = layer.carve(1, how);
  CHECK(in_order.neurons.front() == planted::shared);
  CHECK(in_order.neurons.back() == planted::shared - 1);
  how.by = demo::split::random;
  auto const shuffled = layer.carve(1, how);
  CHECK(std::set<int>(shuffled.neurons.begin(), shuffled.neurons.end()).size() == planted::intermediate);
  CHECK(shuffled.neurons != in_order.neurons);
  CHECK(layer.carve(2, how).neurons == shuffled.neurons);
  how.seed = 1;
  CHECK(layer.carve(1, how).neurons != shuffled.neurons);
}

TEST_CASE("a full cluster takes no more: the undecided go to their next choice") {
  demo::detail::matrix feature(2, 6);
  feature.row(0) << 1, 0, 1, 1, 0.8, 0;
  feature.row(1) << 0, 1, 0, 0, 0.6, 1;
  CHECK(demo::detail::balanced_clusters(feature, {3, 3}) == std::vector<int>{0, 1, 0, 0, 1, 1});
}

namespace {

struct one_layer_source {
  static constexpr std::int64_t hidden = 3, intermediate = 8;
  std::vector<float> gate, up, down;
  std::vector<std::int64_t> wide{intermediate, hidden}, tall{hidden, intermediate};
  moesaic::tensor tensors[3];

  one_layer_source() {
    moesaic::random_stream random(3);
    for (auto* const matrix : {&gate, &up, &down})
      for (int i = 0; i < hidden * intermediate; ++i) matrix->push_back(random.normal());
    auto const stored = [](std::vector<float> const& m, std::vector<std::int64_t> const& shape) {
      return moesaic::tensor{moesaic::dtype::fp32, shape, reinterpret_cast<const std::byte*>(m.data()), std::ssize(m) * 4};
    };
    tensors[0] = stored(gate, wide), tensors[1] = stored(up, wide), tensors[2] = stored(down, tall);
  }
  const moesaic::tensor* find(std::string_view name) const {
    if (name == "model.layers.0.mlp.gate_proj.weight") return &tensors[0];
    if (name == "model.layers.0.mlp.up_proj.weight") return &tensors[1];
    if (name == "model.layers.0.mlp.down_proj.weight") return &tensors[2];
    return nullptr;
  }
  std::string where(std::string_view) const { return "memory"; }
};

}  // namespace

TEST_CASE("a carving survives its file, and its experts hold the dense layer's neurons") {
  auto const path = (std::filesystem::temp_directory_path() / ("moesaic.carving." + std::to_string(std::rand()) + ".safetensors")).string();
  demo::carved_model model{{3, 3}, {{{5, 1, 0, 7, 2, 3, 6, 4}, {1, 2, 3, 4, 5, 6}, {0.5f, 0.25f}, {1, 2}, 3}}};
  demo::save(path, model);
  auto const read = demo::load_carved(path);
  std::filesystem::remove(path);
  REQUIRE(read.layers.size() == 1);
  CHECK(read.widths == model.widths);
  CHECK(read.layers[0].neurons == model.layers[0].neurons);
  CHECK(read.layers[0].router_weight == model.layers[0].router_weight);
  CHECK(read.layers[0].router_bias == model.layers[0].router_bias);
  CHECK(read.layers[0].mean_energy == model.layers[0].mean_energy);
  CHECK(read.layers[0].unit == 3);

  one_layer_source const dense;
  moesaic::host::pool where;
  demo::carved_source const carved(where, dense, read);
  std::string const mlp = "model.layers.0.mlp.";
  CHECK(demo::elements<float>(carved, mlp + "gate.weight") == model.layers[0].router_weight);
  CHECK(demo::elements<float>(carved, mlp + "gate.bias") == model.layers[0].router_bias);
  std::size_t slot = 0;
  for (std::string const name : {"experts.0", "experts.1", "shared_experts"}) {
    CAPTURE(name);
    int const width = name == "shared_experts" ? 2 : 3;
    auto const matrix = [&](const char* which) { return demo::elements<float>(carved, mlp + name + which); };
    auto const gate = matrix(".gate_proj.weight"), up = matrix(".up_proj.weight"), down = matrix(".down_proj.weight");
    auto const shape = carved.find(mlp + name + ".down_proj.weight")->shape;
    REQUIRE(shape.size == 2);
    CHECK(shape[0] == dense.hidden);
    CHECK(shape[1] == width);
    for (int i = 0; i < width; ++i, ++slot) {
      auto const neuron = index(model.layers[0].neurons[slot]);
      for (std::size_t k = 0; k < 3; ++k) {
        CHECK(gate[index(i) * 3 + k] == dense.gate[neuron * 3 + k]);
        CHECK(up[index(i) * 3 + k] == dense.up[neuron * 3 + k]);
        CHECK(down[k * index(width) + index(i)] == dense.down[k * 8 + neuron]);
      }
    }
  }
  CHECK(carved.find("model.layers.0.mlp.down_proj.weight") == &dense.tensors[2]);
  CHECK(carved.find("no such name") == nullptr);
  CHECK_THROWS_WITH_AS(demo::elements<float>(carved, "no such name"), doctest::Contains("no such name"), moesaic::error);
}

TEST_CASE("windows: every eighth of a text, whole ones only") {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 2 * 8 * 3 + 2; ++i) ids.push_back(i);                    // 16 windows of 3, and a piece
  CHECK(demo::windows(ids, demo::part::calibration, 9, 3) == std::vector<std::int32_t>{0, 1, 2, 24, 25, 26});
  CHECK(demo::windows(ids, demo::part::evaluation, 1, 3) == std::vector<std::int32_t>{12, 13, 14});
}
