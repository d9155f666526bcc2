// A whole model: embedding, a list of layers known at compile time, final norm and head. Token ids -> logits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
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

/// Rows of `decoder::forward` for which logits are wanted: all of them.
inline constexpr list<const std::int32_t> every_token{nullptr, -1};

/// Policy states by default: every layer's is empty. Give a state to use it in every layer, or a callable (int layer) -> state.
struct no_states {};

/// A model as its type describes it: `static constexpr decoder_config config` and `using layers = moesaic::layers<...>`.
template <class Model>
struct decoder {
  static constexpr decoder_config config = validated<Model>::config;
  using layer_list = layers_of<Model>;
  static constexpr int layers = layer_count<layer_list>;
  static constexpr block_config first = validated<first_spec<layer_list>>::config;
  static constexpr int hidden = first.hidden;
  using scalar = scalar_of<shapes(first).activations>;
  using sum = accumulator<scalar>;
  using weights = decoder_weights;

  /// ids -> logits [rows, vocabulary], of the tokens listed in `rows` (indices into the batch; every_token, or none). Appends to the caches
  /// of all layers. `states` is one policy state for all layers that have such a state, or a callable (int layer) -> state; none where states
  /// are empty. Errors as block::forward; an id outside the vocabulary and a row outside the batch are out_of_range, and nothing is written.
  template <class Where, class Cache, class States = no_states, class Tap = no_tap>
  static status forward(Where& where, weights const& w, token_batch const& tokens, Cache const& cache, list<const std::int32_t> rows,
                        view<sum> logits, list<std::byte> workspace, States const& states = {}, Tap&& tap = {}) {
    using viewer = std::remove_cvref_t<Tap>;
    auto const count = tokens.ids.size;
    bool const all = rows.size == every_token.size;
    auto const wanted = all ? count : rows.size;
    if (tokens.sequence.size != count) return invalid("sequence must have an entry a token", count, tokens.sequence.size);
    if (tokens.position.size != count) return invalid("position must have an entry a token", count, tokens.position.size);
    if (logits.rows != wanted) return invalid("logits must have a row a wanted token", wanted, logits.rows);
    if (wanted != 0 && logits.columns != config.vocabulary)
      return invalid("logits must have `vocabulary` columns", config.vocabulary, logits.columns);
    if (!all)
      if (auto fits = check_rows(where, rows, count); !fits) return fits;
    if (count > most_tokens) return invalid("a call takes at most so many tokens, because expert slots are counted in 32 bits", most_tokens, count);
    if (auto fits = check_weights(where, w); !fits) return fits;
    arena memory(workspace.data, static_cast<std::size_t>(workspace.size));
    auto const start = memory;
    auto const s = carve<viewer, Where>(memory, count, wanted);
    if (!memory.fits())
      return {status_code::workspace_too_small, "the workspace must have workspace_bytes(tokens, rows) bytes",
              static_cast<std::int64_t>(workspace_bytes<viewer, Where>(count, wanted)), workspace.size};
    clear(where, s.flags);
    if (count == 0) return {};

    if (auto done = embed<scalar, config.embedding.type>(where, w.embedding.table, tokens.ids, s.stream, s.flags, config.embedding_scale); !done) return done;
    status done;
    for_each_layer<layer_list>([&]<class Spec>(int layer) {
      if (!done) return;
      auto at = start;
      auto const layer_scratch = block<Spec>::template carve<viewer, Where>(at, count);
      batch<scalar> const rows_of_layer{s.stream, tokens.sequence, tokens.position, s.carried};
      done = block<Spec>::run(where, w.layers[static_cast<std::size_t>(layer)], rows_of_layer, cache.layer(layer), s.stream, layer_scratch,
                              state_of<Spec>(states, layer), tap, layer);
    });
    if (!done || wanted == 0) {
      auto const late = finish(where);
      return done ? late : done;
    }
    auto const final = all ? s.stream : s.picked;
    if (!all) pick_rows<scalar>(where, s.stream, rows, s.picked, s.flags);
    normalize<scalar, norm::rms(config.norm)>(where, config.norm, w.norm, final, final);
    tap(tap_point{layers, stage::final_norm}, view<const scalar>(final));
    linear<config.embedding.type>(where, w.embedding.head, view<const scalar>(final), w.embedding.head_bias, logits);
    if constexpr (config.logit_scale != 1 || config.logit_softcap != 0) scale_and_cap(where, config.logit_scale, config.logit_softcap, logits);
    tap(tap_point{layers, stage::logits}, view<const sum>(logits));
    return finish(where);
  }

  static constexpr std::int64_t most_tokens = [] {
    std::int64_t least = 0x7fff'ffff;
    for_each_layer<specs_of<layer_list>>([&]<class Spec>(int) { least = least < block<Spec>::most_tokens ? least : block<Spec>::most_tokens; });
    return least;
  }();

  struct scratch {
    call_flags* flags;
    view<scalar> stream;                 // [tokens, hidden]
    view<scalar> picked;                 // [rows, hidden]
    view<scalar> carried;                // [tokens, hidden] of a mixture, over the next layer; empty without shortcuts
  };
  /// Bytes that `forward` needs for so many tokens, and logits of so many of them; Where as block's.
  template <class Tap = no_tap, class Where = void>
  static constexpr std::size_t workspace_bytes(std::int64_t tokens, std::int64_t rows) {
    arena counting;
    carve<Tap, Where>(counting, tokens, rows);
    return counting.used() + arena::alignment;
  }
  // The layers' scratch comes first, all layers in the same place, so that the flags of the whole call are each layer's.
  template <class Tap = no_tap, class Where = void>
  static constexpr scratch carve(arena& memory, std::int64_t tokens, std::int64_t rows) {
    auto const start = memory;
    auto flags = start;
    scratch s{flags.take<call_flags>(1).data, {}, {}, {}};
    bool carries = false;
    for_each_layer<specs_of<layer_list>>([&]<class Spec>(int) {
      carries = carries || block<Spec>::opens;
      auto at = start;
      block<Spec>::template carve<Tap, Where>(at, tokens);
      if (at.used() > memory.used()) memory = at;
    });
    s.stream = memory.take<scalar>(tokens, hidden);
    s.picked = memory.take<scalar>(rows, hidden);
    s.carried = memory.take<scalar>(carries ? tokens : 0, hidden);
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
  /// Throws where it is not.
  static weights bind(list<const std::byte> memory) {
    check_memory(memory, weights_bytes());
    arena over(const_cast<std::byte*>(memory.data), static_cast<std::size_t>(memory.size));   // the views are of const
    return carve_weights(over);
  }
  static weights carve_weights(arena& memory) {
    weights w{embedding::carve_weights(config, hidden, memory), norm::carve_weights(config.norm, hidden, memory), {}};
    w.layers.reserve(layers);
    for_each_layer<layer_list>([&]<class Spec>(int) { w.layers.push_back(block<Spec>::carve_weights(memory)); });
    return w;
  }
  /// Whether weights are of this model's shapes and formats, and all there; and made for its rotations, where `where` lets the host look.
  static status check_weights(weights const& w) {
    return check_weights_by(w, []<class Spec>(block_weights const& of_layer) { return block<Spec>::check_weights(of_layer); });
  }
  template <class Where>
  static status check_weights(Where& where, weights const& w) {
    return check_weights_by(w, [&]<class Spec>(block_weights const& of_layer) { return block<Spec>::check_weights(where, of_layer); });
  }

  /// Loads and packs every tensor of a model. Throws moesaic::error as block::load. `loaded_layer(i)` is called after each layer, for progress.
  template <class Where, tensor_source Source, class Progress>
  static auto load(Where& where, Source const& source, tensor_names const& names, Progress&& loaded_layer) {
    auto const bound = [](auto const& memory) { return bind({memory.data(), static_cast<std::int64_t>(memory.size())}); };
    auto staged = allocate_staging(where, weights_bytes());
    auto const w = bound(staged);
    loader from(where, source, "", names);
    embedding::load<config.embedding.type>(config, w.embedding, from);
    norm::load(config.norm, w.norm, from, names.final_norm, names.final_norm_bias);
    for_each_layer<layer_list>([&]<class Spec>(int layer) {
      auto const prefix = layer_prefix(names, layer / names.sublayers);
      block<Spec>::load_into(where, w.layers[static_cast<std::size_t>(layer)], source, prefix, names, layer % names.sublayers);
      loaded_layer(layer);
    });
    auto memory = move_staged(where, std::move(staged));
    auto views = bound(memory);
    return loaded<weights, decltype(memory)>{std::move(memory), std::move(views)};
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
  template <class Check>
  static status check_weights_by(weights const& w, Check&& check_layer) {
    arena counting;
    auto const expected = embedding::carve_weights(config, hidden, counting);
    auto const norm_expected = norm::carve_weights(config.norm, hidden, counting);
    auto const& given = w.embedding;
    bool const same = same_shape(given.table, expected.table) && same_shape(given.head, expected.head) &&
                      same_shape(given.head_bias, expected.head_bias) && same_shape(w.norm.weight, norm_expected.weight) &&
                      same_shape(w.norm.bias, norm_expected.bias);
    status found;
    if (!same || static_cast<int>(w.layers.size()) != layers)
      found = {status_code::wrong_weights, "the weights must have been loaded for a model of the same shapes and storage", 0, 0};
    for_each_layer<layer_list>([&]<class Spec>(int layer) {
      if (found) found = check_layer.template operator()<Spec>(w.layers[static_cast<std::size_t>(layer)]);
    });
    return found;
  }

  static std::string layer_prefix(tensor_names const& names, int layer) {
    std::string_view const pattern = names.layer.options[0] != nullptr ? names.layer.options[0] : "";
    auto const hole = pattern.find("{}");
    if (hole == pattern.npos) throw_error({"tensor_names::layer: expected a name with {} for the layer's number, found '", pattern, "'"});
    return joined({pattern.substr(0, hole), layer, pattern.substr(hole + 2)});
  }

  template <class Spec, class States>
  static auto state_of(States const& states, int layer) {
    using state = typename policy_of<Spec>::state;
    if constexpr (std::is_same_v<States, state>) {
      return states;
    } else if constexpr (std::is_invocable_r_v<state, States const&, int>) {
      return state(states(layer));
    } else {
      static_assert(std::is_empty_v<state>, "states must be a layer's policy state, or a callable (int layer) -> that state, because the "
                                            "layer's routing policy cannot do without");
      return state{};
    }
  }
};

}  // namespace moesaic
