// What a spec is: a type that names its configuration, checked by the rules, and whatever behaviour of its own.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <concepts>
#include <type_traits>

#include <moesaic/config/layers.hpp>
#include <moesaic/config/rules.hpp>

namespace moesaic {

namespace detail {
// A constant of this type, which a member of each object is not, nor a variable that is not constexpr.
template <class Spec, class Config>
concept has_config = std::same_as<std::remove_cv_t<decltype(Spec::config)>, Config> &&
                     requires { typename std::bool_constant<Config(Spec::config) == Config{}>; };
}  // namespace detail

/// One layer: `struct mine { static constexpr moesaic::block_config config{...}; };`, and optionally `using routing = a_policy;`.
template <class Spec>
concept block_spec = detail::has_config<Spec, block_config>;

/// A whole model: a decoder_config named config, and `using layers = moesaic::layers<...>;` of block specs.
template <class Model>
concept decoder_spec = detail::has_config<Model, decoder_config> && requires { typename Model::layers; };

/// A configuration as a type, where a value is at hand: block<named_value<block_config{...}>>. Sugar for tests: a struct of one's own
/// gives shorter symbols and error messages.
template <block_config Config>
struct named_value {
  static constexpr block_config config = Config;
};

namespace detail {

template <class Spec>
auto check_routing() {
  static_assert(!requires { Spec::routing; }, "routing must be a type, because a policy's hooks are static: `using routing = a_policy;`");
}
template <class Spec, class Default>
struct routing_or {
  using checked = decltype(check_routing<Spec>());
  using type = Default;
};
template <class Spec, class Default>
  requires requires { typename Spec::routing; }
struct routing_or<Spec, Default> {
  using type = typename Spec::routing;
};

template <class Model>
struct layers_or_none {
  using type = moesaic::layers<>;
};
template <class Model>
  requires requires { typename Model::layers; }
struct layers_or_none<Model> {
  using type = typename Model::layers;
};

template <class Layers>
constexpr auto configs_of() {
  std::array<block_config, static_cast<std::size_t>(layer_count<Layers>)> all = {};
  for_each_layer<Layers>([&]<class Spec>(int index) { all[static_cast<std::size_t>(index)] = Spec::config; });
  return all;
}

// A configuration that breaks no rule, to go on with after the sentence: it stays the only error.
constexpr block_config harmless(block_config const&) { return sound_spec::config; }
constexpr decoder_config harmless(decoder_config const&) { return {.vocabulary = 64}; }
constexpr layer_stack harmless(layer_stack const& s) { return s; }
struct harmless_either : block_config {
  constexpr operator decoder_config() const { return harmless(decoder_config{}); }
};

template <class Spec, bool holds = explain(Spec::config) == nullptr>
struct validated {
  static constexpr auto config = Spec::config;
};
template <class Spec>
struct validated<Spec, false> : rules::refuse<Spec, decltype(rules::about(Spec::config))> {
  static constexpr auto config = harmless(Spec::config);
};

template <class Type>
auto refuse_type() {
  static_assert(block_spec<Type> || decoder_spec<Type>,
                "a spec names `static constexpr moesaic::block_config config`, and a model a decoder_config and `layers`, because nothing "
                "else says what to build");
}

}  // namespace detail

/// The policy a spec names as `routing`, or Default (route/ has the default: softmax top-k and what else router_config says).
template <class Spec, class Default>
using routing_of = typename detail::routing_or<Spec, Default>::type;

/// The layers that a model names, or none.
template <class Model>
using layers_of = typename detail::layers_or_none<Model>::type;

/// The configurations of a model's layers, in order.
template <decoder_spec Model>
inline constexpr auto layer_configs = detail::configs_of<typename Model::layers>();

/// validated<Spec>::config is Spec::config where every rule holds. Otherwise naming it is a compile error for each broken rule:
/// `static assertion failed: attention.kv_heads must divide attention.heads, ... because ...`, with the spec and you_gave<4, 9> beside it.
template <class Spec>
struct validated {
  using checked = decltype(detail::refuse_type<Spec>());
  static constexpr auto config = detail::harmless_either{detail::sound_spec::config};
};
template <block_spec Spec>
struct validated<Spec> : detail::validated<Spec> {};

namespace detail {

template <class Model>
struct stack_of {
  static constexpr layer_stack config = list<const block_config>(layer_configs<Model>);
};

// Instantiates what may not compile; the results are of no use.
struct check_layer {
  template <class Spec>
  void operator()(int) const {
    (void)sizeof(moesaic::validated<Spec>);
  }
};
template <class... Specs>
constexpr bool all_are_specs(type_list<Specs...>) {
  return (block_spec<Specs> && ...);
}
template <class Model>
auto check_layers() {
  for_each_layer<typename Model::layers>(check_layer{});
  if constexpr (all_are_specs(specs_of<typename Model::layers>{})) (void)sizeof(validated<stack_of<Model>>);
}

}  // namespace detail

/// Of a model: its own rules, those of each layer, and those of the layers together.
template <decoder_spec Model>
struct validated<Model> : detail::validated<Model> {
  using checked = decltype(detail::check_layers<Model>());
};

}  // namespace moesaic
