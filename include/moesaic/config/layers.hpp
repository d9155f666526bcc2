// A decoder's layers as a list of types: repeat<dense, 3>, repeat<moe, 58>, repeat<pattern<full, sliding>, 18>.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

namespace moesaic {

/// A few layer specs in order, as one period of a repeat.
template <class... Specs>
struct pattern {};

/// `Count` times one spec, or one pattern.
template <class SpecOrPattern, int Count>
struct repeat {};

/// The whole list. Elements are specs, patterns or repeats.
template <class... Runs>
struct layers {};

namespace detail {

// visit(run, first, f): calls f.template operator()<Spec>(index) for every layer of a run, in order, and answers the index after it.
template <class Spec>
struct run {
  static constexpr int count = 1;
  template <class F>
  static constexpr int visit(int first, F& f) {
    f.template operator()<Spec>(first);
    return first + 1;
  }
};
template <class... Specs>
struct run<pattern<Specs...>> {
  static constexpr int count = (run<Specs>::count + ... + 0);
  template <class F>
  static constexpr int visit(int first, F& f) {
    ((first = run<Specs>::visit(first, f)), ...);
    return first;
  }
};
template <class Inner, int Count>
struct run<repeat<Inner, Count>> {
  static constexpr int count = run<Inner>::count * Count;
  template <class F>
  static constexpr int visit(int first, F& f) {
    for (int i = 0; i < Count; ++i) first = run<Inner>::visit(first, f);   // a loop, not an unrolling: one instantiation a spec
    return first;
  }
};
template <class... Runs>
struct run<layers<Runs...>> : run<pattern<Runs...>> {};

}  // namespace detail

/// Number of layers in a list.
template <class List>
inline constexpr int layer_count = detail::run<List>::count;

/// f.template operator()<Spec>(int index) for every layer in order.
template <class List, class F>
constexpr void for_each_layer(F&& f) {
  detail::run<List>::visit(0, f);
}

}  // namespace moesaic
