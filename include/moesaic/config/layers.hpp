// A decoder's layers as a list of types: repeat<dense, 3>, repeat<moe, 58>, repeat<pattern<full, sliding>, 18>.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <moesaic/config/block_config.hpp>

namespace moesaic {

/// A few layer specs in order, as one period of a repeat.
template <class... Specs>
struct pattern {};

/// `Count` times one spec, or one pattern; at least once.
template <class SpecOrPattern, int Count>
struct repeat {};

/// The whole list. Elements are specs, patterns or repeats.
template <class... Runs>
struct layers {};

/// A dense layer like a mixture's: the same but for its one feed-forward of `intermediate`, of the experts' activation and biases, and without a shortcut.
/// Attention stays what it is, with experts of its own where it has them.
constexpr block_config dense_of(block_config mixture, int intermediate) {
  auto& expert = mixture.expert;
  expert.intermediate = intermediate, expert.widths = {}, expert.latent = 0, expert.mixture_bias = false;
  expert.zero = expert.copy = expert.constant = 0;
  mixture.router = {}, mixture.shared = {}, mixture.shortcut = shortcut::none;
  return mixture;
}

namespace detail {

template <class...>
struct type_list {};

// Of one element of a list: how many layers, the specs in it, and a visit: f.template operator()<Spec>(index) for every layer in order,
// answering the index after it.
template <class Spec>
struct run {
  static constexpr int count = 1;
  using specs = type_list<Spec>;
  template <class F>
  static constexpr int visit(int first, F& f) {
    f.template operator()<Spec>(first);
    return first + 1;
  }
};

template <class...>
struct join;
template <>
struct join<> { using type = type_list<>; };
template <class... A>
struct join<type_list<A...>> { using type = type_list<A...>; };
template <class... A, class... B, class... Rest>
struct join<type_list<A...>, type_list<B...>, Rest...> : join<type_list<A..., B...>, Rest...> {};

template <class... Specs>
struct run<pattern<Specs...>> {
  static constexpr int count = (run<Specs>::count + ... + 0);
  using specs = typename join<typename run<Specs>::specs...>::type;
  template <class F>
  static constexpr int visit(int first, F& f) {
    ((first = run<Specs>::visit(first, f)), ...);
    return first;
  }
};

// In a function, as every sentence about a type: a class whose assertion fails is no class to clang, and more errors would follow.
template <int Count>
auto check_repeat() {
  static_assert(Count > 0, "the count of a repeat must be positive, because a layer that is repeated no time is in no model: leave it out");
}
template <class Inner, int Count>
struct run<repeat<Inner, Count>> {
  using checked = decltype(check_repeat<Count>());
  static constexpr int count = run<Inner>::count * (Count > 0 ? Count : 0);
  using specs = std::conditional_t<(Count > 0), typename run<Inner>::specs, type_list<>>;
  template <class F>
  static constexpr int visit(int first, F& f) {
    for (int i = 0; i < Count; ++i) first = run<Inner>::visit(first, f);   // a loop, not an unrolling: one instantiation a spec
    return first;
  }
};
template <class... Runs>
struct run<layers<Runs...>> : run<pattern<Runs...>> {};
template <class... Specs>
struct run<type_list<Specs...>> : run<pattern<Specs...>> {};

// What to go on with after a sentence, so that it stays the only error.
struct sound_spec {
  static constexpr block_config config{.hidden = 64, .attention = {.heads = 1}, .expert = {.intermediate = 64}};
};

template <class>
struct head;
template <>
struct head<type_list<>> { using type = sound_spec; };   // there_are_layers says what is wrong
template <class First, class... Rest>
struct head<type_list<First, Rest...>> { using type = First; };

}  // namespace detail

/// Number of layers in a list.
template <class List>
inline constexpr int layer_count = detail::run<List>::count;

/// The specs named in a list, without their repetitions.
template <class List>
using specs_of = typename detail::run<List>::specs;

/// The first layer's spec; of a list of none, some sound one.
template <class List>
using first_spec = typename detail::head<specs_of<List>>::type;

/// The same list with Change<Spec> in place of every spec: a model in another storage, with another k.
template <class List, template <class> class Change>
struct change_layers {
  using type = Change<List>;
};
template <class... Specs, template <class> class Change>
struct change_layers<pattern<Specs...>, Change> {
  using type = pattern<typename change_layers<Specs, Change>::type...>;
};
template <class Inner, int Count, template <class> class Change>
struct change_layers<repeat<Inner, Count>, Change> {
  using type = repeat<typename change_layers<Inner, Change>::type, Count>;
};
template <class... Runs, template <class> class Change>
struct change_layers<layers<Runs...>, Change> {
  using type = layers<typename change_layers<Runs, Change>::type...>;
};
template <class List, template <class> class Change>
using change_layers_t = typename change_layers<List, Change>::type;

/// f.template operator()<Spec>(int index) for every layer in order. Takes a `specs_of` too, each then once.
template <class List, class F>
constexpr void for_each_layer(F&& f) {
  detail::run<List>::visit(0, f);
}

}  // namespace moesaic
