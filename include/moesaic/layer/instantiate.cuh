// A layer's or a model's type into all the kernels that its calls start: what MOESAIC_INSTANTIATE leaves in an object file for .cpp files to link.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <utility>

#include <moesaic/cuda/cuda.hpp>
#include <moesaic/cuda/launch.cuh>
#include <moesaic/layer/decoder.hpp>

namespace moesaic::cuda {

/// Of a Spec: block<Spec>::forward. Explicitly instantiated, it emits every launch<Kernel> that is reached.
template <class Spec, class Where = stream_ref, class Tap = no_tap>
struct instantiation {
  using layer = block<Spec>;
  using scalar = typename layer::scalar;
  using cache = decltype(layer::make_cache(std::declval<Where&>(), 1, 1));

  static status call(Where& where, typename layer::weights const& w, batch<scalar> const& rows, cache const& c, view<scalar> y, list<std::byte> workspace,
                     typename layer::policy_state const& state, Tap& tap) {
    return layer::forward(where, w, rows, c, y, workspace, state, tap);
  }
};

/// Of a model: decoder<Model>::forward, and so every layer's.
template <class Model, class Where, class Tap>
  requires requires { typename Model::layers; }
struct instantiation<Model, Where, Tap> {
  using model = decoder<Model>;
  using cache = decltype(model::make_cache(std::declval<Where&>(), 1, 1));
  using sum = typename model::sum;

  static status call(Where& where, typename model::weights const& w, token_batch const& tokens, cache const& c, list<const std::int32_t> rows, view<sum> logits,
                     list<std::byte> workspace, Tap& tap) {
    return model::forward(where, w, tokens, c, rows, logits, workspace, no_states{}, tap);
  }
};

}  // namespace moesaic::cuda
