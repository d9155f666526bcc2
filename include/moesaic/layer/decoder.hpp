// A whole model: embedding, a list of layers known at compile time, final norm and head. Token ids -> logits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <moesaic/config/layers.hpp>
#include <moesaic/layer/block.hpp>
#include <moesaic/layer/embedding.hpp>

namespace moesaic {

/// Tokens of a call, of any mixture of sequences.
struct token_batch {
  list<const std::int32_t> ids;          ///< [tokens]
  list<const std::int32_t> sequence;     ///< [tokens], index into the cache
  list<const std::int32_t> position;     ///< [tokens]; those of one sequence in ascending order
};

struct decoder_weights {
  embedding_weights embedding;
  norm_weights norm;
  std::vector<block_weights> layers;
};

/// Policy states by default: every layer's is empty. Give a state to use it in every layer, or a callable (int layer) -> state.
struct no_states {};

/// A model as its type describes it: `static constexpr decoder_config config` and `using layers = moesaic::layers<...>`.
template <class Model>
struct decoder {
  static constexpr decoder_config config = validated<Model>::config;
  using layer_list = typename Model::layers;
  static constexpr int layers = layer_count<layer_list>;
  static constexpr block_config first = validated<first_spec<layer_list>>::config;
  static constexpr int hidden = first.hidden;
  using scalar = scalar_of<shapes(first).activations>;
  using sum = accumulator<scalar>;
  using weights = decoder_weights;

  /// ids -> logits [rows, vocabulary]: of the tokens listed in `rows` (indices into the batch), or of all when it is empty. Appends to the
  /// caches of all layers. Errors as block::forward; an id outside the vocabulary is out_of_range, and nothing is written.
  template <class Where, class Cache, class States = no_states, class Tap = no_tap>
  static status forward(Where& where, weights const& w, token_batch const& tokens, Cache const& cache, list<const std::int32_t> rows, view<sum> logits,
                        list<std::byte> workspace, States const& states = {}, Tap&& tap = {}) {
    auto const count = tokens.ids.size;
    auto const wanted = rows.empty() ? count : rows.size;
    if (tokens.sequence.size != count || tokens.position.size != count)
      return {status_code::invalid_argument, "sequence and position must have an entry a token", count, tokens.sequence.size};
    if (logits.rows != wanted || logits.columns != config.vocabulary)
      return {status_code::invalid_argument, "logits must have a row a wanted token and `vocabulary` columns", wanted, logits.rows};
    if (static_cast<int>(w.layers.size()) != layers)
      return {status_code::wrong_weights, "the weights must have been loaded for as many layers", layers, static_cast<std::int64_t>(w.layers.size())};
    arena memory(workspace.data, static_cast<std::size_t>(workspace.size));
    auto const start = memory;
    auto const s = carve<std::remove_cvref_t<Tap>>(memory, count, wanted);
    if (!memory.fits())
      return {status_code::workspace_too_small, "the workspace must have workspace_bytes(tokens, rows) bytes", static_cast<std::int64_t>(memory.used()), workspace.size};
    clear(where, s.not_finite);

    if (auto done = embed<scalar, config.embedding.type>(where, w.embedding.table, tokens.ids, s.stream); !done) return done;
    status done;
    for_each_layer<layer_list>([&]<class Spec>(int layer) {
      if (!done) return;
      auto at = start;
      auto const layer_scratch = block<Spec>::template carve<std::remove_cvref_t<Tap>>(at, count);
      done = block<Spec>::run(where, w.layers[static_cast<std::size_t>(layer)], {s.stream, tokens.sequence, tokens.position}, cache.layer(layer), s.stream,
                              layer_scratch, state_of<Spec>(states, layer), tap, layer);
    });
    if (!done) return done;
    auto const final = rows.empty() ? s.stream : s.picked;
    if (!rows.empty()) pick_rows<scalar>(where, s.stream, rows, s.picked);
    normalize<scalar>(where, config.norm, w.norm, final, final);
    tap(tap_point{layers, stage::final_norm}, view<const scalar>(final));
    linear<config.embedding.type>(where, w.embedding.head, view<const scalar>(final), w.embedding.head_bias, logits);
    tap(tap_point{layers, stage::logits}, view<const sum>(logits));
    return {};
  }

  struct scratch {
    std::int32_t* not_finite;
    view<scalar> stream;                 // [tokens, hidden]
    view<scalar> picked;                 // [rows, hidden]
  };
  /// Bytes that `forward` needs for so many tokens, and logits of so many of them.
  template <class Tap = no_tap>
  static constexpr std::size_t workspace_bytes(std::int64_t tokens, std::int64_t rows) {
    arena counting;
    carve<Tap>(counting, tokens, rows);
    return counting.used() + arena::alignment;
  }
  // The layers' scratch comes first, all layers in the same place, so that the flag of the whole call is each layer's flag.
  template <class Tap = no_tap>
  static constexpr scratch carve(arena& memory, std::int64_t tokens, std::int64_t rows) {
    auto const start = memory;
    auto flag = start;
    scratch s{flag.take<std::int32_t>(1).data, {}, {}};
    for_each_layer<specs_of<layer_list>>([&]<class Spec>(int) {
      auto at = start;
      block<Spec>::template carve<Tap>(at, tokens);
      if (at.used() > memory.used()) memory = at;
    });
    s.stream = memory.take<scalar>(tokens, hidden);
    s.picked = memory.take<scalar>(rows, hidden);
    return s;
  }

  /// Bytes of all packed weights, known before anything is loaded.
  static constexpr std::size_t weights_bytes() {
    arena counting;
    embedding::carve_weights(config, hidden, counting);
    norm::carve_weights(config.norm, hidden, counting);
    auto bytes = counting.used();
    for_each_layer<layer_list>([&]<class Spec>(int) { bytes += block<Spec>::weights_bytes(); });
    return bytes;
  }
  /// Views of packed weights that somebody kept: `memory` has weights_bytes() bytes, aligned to 64.
  static weights bind(list<const std::byte> memory) {
    arena over(const_cast<std::byte*>(memory.data), static_cast<std::size_t>(memory.size));   // the views are of const
    weights w{embedding::carve_weights(config, hidden, over), norm::carve_weights(config.norm, hidden, over), {}};
    w.layers.reserve(layers);
    for_each_layer<layer_list>([&]<class Spec>(int) { w.layers.push_back(block<Spec>::carve_weights(over)); });
    return w;
  }

  /// Loads and packs every tensor of a model. Throws moesaic::error as block::load. `loaded_layer(i)` is called after each layer, for progress.
  template <class Where, tensor_source Source, class Progress>
  static auto load(Where& where, Source const& source, tensor_names const& names, Progress&& loaded_layer) {
    auto memory = allocate(where, weights_bytes());
    auto w = bind({memory.data(), static_cast<std::int64_t>(memory.size())});
    loader<Where, Source> from(where, source, "", names);
    embedding::load<config.embedding.type>(config, w.embedding, from);
    norm::load(config.norm, w.norm, from, names.final_norm, names.final_norm_bias);
    for_each_layer<layer_list>([&]<class Spec>(int layer) {
      std::string prefix = names.layer.options[0];
      prefix.replace(prefix.find("{}"), 2, std::to_string(layer));
      block<Spec>::load_into(where, w.layers[static_cast<std::size_t>(layer)], source, prefix, names);
      loaded_layer(layer);
    });
    return loaded<weights, decltype(memory)>{std::move(memory), std::move(w)};
  }
  template <class Where, tensor_source Source>
  static auto load(Where& where, Source const& source, tensor_names const& names = {}) {
    return load(where, source, names, [](int) {});
  }

  /// One cache a layer: `caches.layer(i)`.
  template <class Where>
  static auto make_cache(Where& where, int sequences, int max_tokens) {
    using layer_cache = decltype(block<first_spec<layer_list>>::make_cache(where, sequences, max_tokens));
    struct caches {
      std::vector<layer_cache> of_layer;
      auto const& layer(int i) const { return of_layer[static_cast<std::size_t>(i)]; }
    } all;
    all.of_layer.reserve(layers);
    for_each_layer<layer_list>([&]<class Spec>(int) { all.of_layer.push_back(block<Spec>::make_cache(where, sequences, max_tokens)); });
    return all;
  }

 private:
  template <class Spec, class States>
  static auto state_of(States const& states, int layer) {
    using state = typename policy_of<Spec>::state;
    if constexpr (requires { state(states(layer)); }) {
      return state(states(layer));
    } else if constexpr (requires { state(states); }) {
      return state(states);
    } else {
      return state{};
    }
  }
};

}  // namespace moesaic
