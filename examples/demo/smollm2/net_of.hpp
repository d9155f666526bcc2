// A Model type -> a net: its weights, caches and memory, and a tap that counts what its routers choose.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>
#include <utility>

#include <moesaic/moesaic.hpp>

#include "models.hpp"

namespace demo::smollm2 {

/// The preset's layer with fp32 activations and weights, but for the feed-forward's, and for what its products read.
template <moesaic::format Ffn = moesaic::dtype::fp32, moesaic::input_codes Inputs = moesaic::input_codes::none>
struct dense_layer {
  static constexpr moesaic::block_config config = [] {
    auto c = moesaic::presets::smollm2_135m::layer::config;
    c.storage = {.weights = moesaic::dtype::fp32, .ffn = Ffn, .activations = moesaic::dtype::fp32, .inputs = Inputs};
    return c;
  }();
};

/// Of the routed experts where they are of three widths.
inline constexpr moesaic::width_runs mixed_widths{{10, 32}, {6, 64}, {5, 128}};

/// The preset with another layer, and its embedding in fp32.
template <class Layer>
struct model : moesaic::presets::smollm2_135m {
  static constexpr moesaic::decoder_config config = [] {
    auto c = moesaic::presets::smollm2_135m::config;
    c.embedding = moesaic::dtype::fp32;
    return c;
  }();
  using layers = moesaic::layers<moesaic::repeat<Layer, moesaic::layer_count<moesaic::presets::smollm2_135m::layers>>>;
};

/// Shows a tap what it wants to see, and counts the experts chosen.
template <class Tap>
struct counting {
  Tap& inner;
  choices& seen;

  static constexpr bool wants(moesaic::stage s) { return s == moesaic::stage::topk_index || moesaic::wants<Tap>(s); }
  template <class X>
  void operator()(moesaic::tap_point at, view<const X> values) {
    inner(at, values);
    if constexpr (std::is_same_v<X, std::int32_t>)
      if (at.stage == moesaic::stage::topk_index) seen.count(values);
  }
};

/// `states` as decoder::forward takes them. `weights` must outlive this.
template <class Model, class States = moesaic::no_states, class Tap = moesaic::no_tap>
class net_of : public net {
 public:
  using decoder = moesaic::decoder<Model>;

  net_of(host::pool& where, moesaic::decoder_weights const& weights, States states = {}, Tap tap = {})
      : where_(where), weights_(weights), states_(std::move(states)), tap_(std::move(tap)),
        workspace_(decoder::template workspace_bytes<counting<Tap>>(window, window)), caches_(decoder::make_cache(where, 1, 1)) {}

  void start(int sequences, int length) override { caches_ = decoder::make_cache(where_, sequences, length); }

  void forward(moesaic::token_batch const& tokens, list<const std::int32_t> rows, view<float> logits, choices& seen) override {
    auto const memory = list<std::byte>{workspace_.data(), static_cast<std::int64_t>(workspace_.size())};
    auto const done = decoder::forward(where_, weights_, tokens, caches_, rows, logits, memory, states_, counting<Tap>{tap_, seen});
    if (!done) throw moesaic::error(to_string(done));
    if (auto const finite = moesaic::check(where_, memory); !finite) throw moesaic::error(to_string(finite));
  }

  ffn_cost cost() const override {
    constexpr auto config = moesaic::first_spec<typename Model::layers>::config;
    constexpr auto operations = moesaic::flops(config, 1);
    constexpr auto bytes = moesaic::weight_bytes(config);
    constexpr bool dense = config.router.experts == 0;
    auto const all_layers = [](std::int64_t one) { return static_cast<double>(one * decoder::layers); };
    if constexpr (dense) return {all_layers(operations.ffn()), all_layers(bytes.shared + bytes.expert)};
    ffn_cost cost{all_layers(operations.shared), all_layers(bytes.shared)};
    for (int e = 0; e < config.router.experts; ++e) {
      cost.expert_flops.push_back(all_layers(moesaic::expert_flops(config, e)));
      cost.expert_bytes.push_back(all_layers(moesaic::expert_bytes(config, e)));
    }
    return cost;
  }

 private:
  host::pool& where_;
  moesaic::decoder_weights const& weights_;
  States states_;
  Tap tap_;
  host::buffer workspace_;
  decltype(decoder::make_cache(std::declval<host::pool&>(), 1, 1)) caches_;
};

/// A dense model that owns its weights.
template <class Model>
class dense_net : public net {
 public:
  dense_net(host::pool& where, moesaic::checkpoint const& folder)
      : weights_(moesaic::load<Model>(where, folder)), run_(where, weights_) {}

  void start(int sequences, int length) override { run_.start(sequences, length); }
  void forward(moesaic::token_batch const& tokens, list<const std::int32_t> rows, view<float> logits, choices& seen) override {
    run_.forward(tokens, rows, logits, seen);
  }
  ffn_cost cost() const override { return run_.cost(); }

 private:
  decltype(moesaic::load<Model>(std::declval<host::pool&>(), std::declval<moesaic::checkpoint const&>())) weights_;
  net_of<Model> run_;
};

template <moesaic::format Ffn>
any_net dense(host::pool& where, moesaic::checkpoint const& folder) {
  return std::make_unique<dense_net<model<dense_layer<Ffn>>>>(where, folder);
}

}  // namespace demo::smollm2
