// A layer's or a model's packed weights saved to a file, and mapped from it again without packing anything.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include <moesaic/io/packed_file.hpp>
#include <moesaic/layer/decoder.hpp>

namespace moesaic {

/// Every shape and format of packed weights as text, in the order in which they lie in memory. Equal texts mean equal layouts.
class weights_text {
 public:
  void add(const char* name, packed_matrix const& m) {
    if (m.count == 0 || m.outputs == 0) return;
    text_ += std::string(name) + ' ' + moesaic::name(m.stored.type);
    if (m.stored.group != 0) text_ += ':' + std::to_string(m.stored.group);
    if (m.stored.zero_point) text_ += 'z';
    text_ += ' ' + std::to_string(m.count) + 'x' + std::to_string(m.parts) + 'x' + std::to_string(m.outputs) + 'x' + std::to_string(m.inputs) + ", ";
  }
  template <class T>
  void add(const char* name, list<const T> values) {
    if (!values.empty()) text_ += std::string(name) + ' ' + std::to_string(values.size) + ", ";
  }
  void add(block_weights const& w) {
    for_each_weight([this](const char* name, auto const& part) { add(name, part); }, w);
  }
  void add(decoder_weights const& w) {
    add("embedding", w.embedding.table);
    if (w.embedding.tied) text_ += "tied head, ";
    else add("head", w.embedding.head);
    add("head.bias", w.embedding.head_bias), add("norm", w.norm.weight), add("norm.bias", w.norm.bias);
    std::string before;
    for (std::size_t i = 0; i < w.layers.size(); ++i) {      // a layer like the one before it is a dot
      weights_text layer;
      layer.add(w.layers[i]);
      text_ += layer.text_ == before ? ". " : "layer " + std::to_string(i) + ": " + layer.text_;
      before = std::move(layer.text_);
    }
  }
  std::string const& str() const { return text_; }

 private:
  std::string text_;
};

/// What `block<Spec>` or `decoder<Model>` expects of a file of packed weights.
template <class Layer>
std::string fingerprint_of() {
  weights_text text;
  arena counting;
  text.add(Layer::carve_weights(counting));
  return text.str();
}

/// Saves what Layer::load answered. Throws moesaic::error when the file cannot be written.
template <class Layer, class Buffer>
void save_weights(std::string const& path, loaded<typename Layer::weights, Buffer> const& weights) {
  save_packed(path, fingerprint_of<Layer>(), {weights.memory.data(), static_cast<std::int64_t>(weights.memory.size())});
}

namespace detail {
// Where a mapped file's weights are looked at: by the host, without an op.
struct mapped_memory {};
inline bool same_values(mapped_memory&, double const* kept, double const* expected, int count) { return std::equal(kept, kept + count, expected); }
}  // namespace detail

/// Weights that lie in a mapped file. Converts to the views that forward calls take; they live as long as this.
/// Throws moesaic::error where the file is of other shapes, another format, cut short or damaged in its header, and says what differs
/// first. The weights themselves are not read then: pages come in as calls need them. Only `verify` finds damage among them.
template <class Layer>
class mapped_weights {
 public:
  explicit mapped_weights(std::string const& path) : file_(path, fingerprint_of<Layer>()) {
    if (file_.bytes().size != static_cast<std::int64_t>(Layer::weights_bytes()))
      throw error(path + ": payload: expected " + std::to_string(Layer::weights_bytes()) + " bytes, found " + std::to_string(file_.bytes().size));
    views_ = Layer::bind(file_.bytes());
    detail::mapped_memory here;
    if (auto const same = Layer::check_weights(here, views_); !same) throw error(path + ": " + to_string(same));
  }

  operator typename Layer::weights const&() const { return views_; }
  /// Reads all weights once and compares their checksum; throws where it differs.
  void verify() const { file_.verify(); }

 private:
  packed_file file_;
  typename Layer::weights views_;
};

}  // namespace moesaic
