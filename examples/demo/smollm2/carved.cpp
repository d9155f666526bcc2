// The carved model under every rule of the demo.
// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <utility>

#include "../carved_policies.hpp"
#include "../true_energy.hpp"
#include "net_of.hpp"

namespace demo::smollm2 {

namespace {

constexpr int width = dense_layer<>::config.expert.intermediate / experts;
constexpr int routed = experts - shared_experts;
static_assert(width == 64, "prices are of experts of 64 neurons");

/// The dense layer as experts that count by one, and an expert that always runs.
template <class Rule>
struct carved_layer {
  using routing = Rule;
  static constexpr moesaic::block_config config = [] {
    auto c = dense_layer<>::config;
    c.router = {.experts = routed, .top_k = routed, .score = moesaic::score::identity, .bias = true, .weights = moesaic::combine_weight::ones};
    c.expert.intermediate = width;
    c.shared.intermediate = shared_experts * width;
    return c;
  }();
};

/// The same with experts of three widths.
template <class Rule>
struct mixed_layer : carved_layer<Rule> {
  static constexpr moesaic::block_config config = [] {
    auto c = carved_layer<Rule>::config;
    static_assert(mixed_widths.experts() == routed);
    c.expert.intermediate = 0;
    c.expert.widths = mixed_widths;
    return c;
  }();
};
constexpr auto widths_of_64 = [] {
  std::array<float, index(routed)> of_64{};
  std::size_t e = 0;
  for (auto const& run : mixed_widths)
    for (int i = 0; i < run.experts; ++i) of_64[e++] = static_cast<float>(run.intermediate) / 64;
  return of_64;
}();

/// The first k of any other rule. A k that is known at compile time is top_k in the configuration; here one program compares many.
template <class Rule>
struct first : Rule {
  struct state : Rule::state {
    int k = 0;
  };
  template <class T>
  MOESAIC_FN static int cut(moesaic::router_config const&, state const& s, std::int64_t, T const*, T const*, std::int32_t const*, int found) {
    return found < s.k ? found : s.k;
  }
};

using top_k = model<carved_layer<first<moesaic::routing::standard>>>;
using top_k_of_supplied = model<carved_layer<first<supplied_scores>>>;
using by_price = model<carved_layer<priced>>;
using by_prices = model<carved_layer<two_prices>>;
using true_tap = true_energy<top_k_of_supplied>;
using mixed_by_price = model<mixed_layer<priced>>;
using mixed_by_width = model<mixed_layer<priced_by_width>>;

/// Weights that any rule may use, loaded as Model's.
template <class Model>
struct parts_of {
  host::pool& where;
  carved_model model;
  carved_source<moesaic::checkpoint> source;
  decltype(moesaic::decoder<Model>::load(std::declval<host::pool&>(), std::declval<carved_source<moesaic::checkpoint> const&>())) weights;

  parts_of(host::pool& w, moesaic::checkpoint const& folder, carved_model const& m)
      : where(w), model(m), source(w, folder, model), weights(moesaic::decoder<Model>::load(w, source)) {}

  template <class Other, class States, class Tap = moesaic::no_tap>
  any_net net(States states, Tap tap = {}) {
    return std::make_unique<net_of<Other, States, Tap>>(where, weights, std::move(states), std::move(tap));
  }
};

}  // namespace

struct carved::parts : parts_of<top_k> {
  using parts_of::parts_of;
};

carved::carved(host::pool& where, moesaic::checkpoint const& folder, carved_model const& model)
    : parts_(std::make_unique<parts>(where, folder, model)) {}
carved::~carved() = default;

any_net carved::top(int k) const { return parts_->net<top_k>(first<moesaic::routing::standard>::state{{}, k}); }

any_net carved::price(float of_64) const { return parts_->net<by_price>(priced::state{of_64}); }

any_net carved::fixed(int k) const {
  return parts_->net<top_k_of_supplied>([this, k](int layer) {
    auto const& energy = parts_->model.layers[index(layer)].mean_energy;
    return first<supplied_scores>::state{{view<const float>(energy.data(), window, routed, 0)}, k};
  });
}

any_net carved::true_top(int k) const {
  true_tap tap(parts_->where, parts_->source, parts_->model, parts_->weights, window);
  auto const energies = tap.energies();              // in memory that moves along
  return parts_->net<top_k_of_supplied>(first<supplied_scores>::state{{energies}, k}, std::move(tap));
}

any_net carved::prices(float compute, float read, int together) const { return parts_->net<by_prices>(prices_of(compute, read, together)); }

struct mixed::parts : parts_of<mixed_by_price> {
  using parts_of::parts_of;
};

mixed::mixed(host::pool& where, moesaic::checkpoint const& folder, carved_model const& model)
    : parts_(std::make_unique<parts>(where, folder, model)) {}
mixed::~mixed() = default;

any_net mixed::price(float of_64) const { return parts_->net<mixed_by_width>(priced_by_width::state{of_64, widths_of_64}); }
any_net mixed::flat_price(float price) const { return parts_->net<mixed_by_price>(priced::state{price}); }

}  // namespace demo::smollm2
