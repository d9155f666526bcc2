// A carving of every layer <-> a file of 1.6 MB; and a dense checkpoint seen through it: routed experts, a shared one and a router.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <functional>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <moesaic/io/safetensors.hpp>

#include "carve.hpp"

namespace demo {

struct carved_model {
  std::vector<int> widths;             ///< of the routed experts, the same in every layer
  std::vector<carved_layer> layers;
};

/// Elements of a stored tensor as T: fp32 from any float format, int32 as it is. Throws moesaic::error for a name the source has not.
template <class T, moesaic::tensor_source Source>
std::vector<T> elements(Source const& source, std::string const& name) {
  auto const* const stored = source.find(name);
  if (stored == nullptr) throw moesaic::error(source.where(name) + ": expected a tensor '" + name + "', found none of that name");
  constexpr bool floats = std::is_same_v<T, float>;
  if (floats ? !moesaic::widens(stored->type) : stored->type != moesaic::dtype::int32)
    throw moesaic::error(source.where(name) + ": '" + name + "': expected " + (floats ? "a float type" : "int32") + ", found " +
                         std::string(moesaic::name(stored->type)));
  std::int64_t count = 1;
  for (auto const n : stored->shape) count *= n;
  std::vector<T> out(index(count));
  if constexpr (floats)
    moesaic::widen(*stored, 0, count, out.data());
  else if (count > 0)
    std::memcpy(out.data(), stored->data, out.size() * sizeof(T));
  return out;
}

/// The file appears whole or not at all. Names: widths, and layers.N. + neurons, router.weight, router.bias, mean_energy, unit.
inline void save(std::string const& path, carved_model const& model) {
  std::vector<moesaic::named_tensor> tensors;
  auto const add = [&]<class T>(std::string name, T const* values, std::vector<std::int64_t> shape) {
    std::int64_t bytes = sizeof(T);
    for (auto const n : shape) bytes *= n;
    tensors.push_back({std::move(name), std::is_same_v<T, float> ? moesaic::dtype::fp32 : moesaic::dtype::int32, std::move(shape),
                       {reinterpret_cast<const std::byte*>(values), bytes}});
  };
  auto const experts = std::ssize(model.widths);
  add("widths", model.widths.data(), {experts});
  for (std::size_t l = 0; l < model.layers.size(); ++l) {
    auto const& layer = model.layers[l];
    auto const prefix = "layers." + std::to_string(l) + ".";
    add(prefix + "neurons", layer.neurons.data(), {std::ssize(layer.neurons)});
    add(prefix + "router.weight", layer.router_weight.data(), {experts, std::ssize(layer.router_weight) / experts});
    add(prefix + "router.bias", layer.router_bias.data(), {experts});
    add(prefix + "mean_energy", layer.mean_energy.data(), {experts});
    add(prefix + "unit", &layer.unit, {1});
  }
  moesaic::write_safetensors(path, tensors);
}

inline carved_model load_carved(std::string const& path) {
  moesaic::safetensors const file(path);
  carved_model model;
  model.widths = elements<std::int32_t>(file, "widths");
  for (std::size_t l = 0;; ++l) {
    auto const prefix = "layers." + std::to_string(l) + ".";
    if (file.find(prefix + "unit") == nullptr) return model;
    auto const floats = [&](const char* name) { return elements<float>(file, prefix + name); };
    model.layers.push_back({elements<std::int32_t>(file, prefix + "neurons"), floats("router.weight"), floats("router.bias"),
                            floats("mean_energy"), floats("unit").at(0)});
  }
}

/// A dense checkpoint as a mixture of experts: a tensor_source with the names that HuggingFace gives routed experts (mlp.experts.N.*), the
/// shared one (mlp.shared_experts.*) and the router (mlp.gate.weight, mlp.gate.bias). All other names are the dense checkpoint's, which
/// must outlive this. Feed-forward weights are copied, in fp32.
template <moesaic::tensor_source Dense>
class carved_source {
 public:
  carved_source(host::pool& where, Dense const& dense, carved_model const& model) : dense_(dense) {
    std::vector<std::vector<std::pair<std::string, entry>>> made(model.layers.size());
    where.for_each(static_cast<std::int64_t>(made.size()), [&](std::int64_t l) {
      made[index(l)] = carve(dense, model, index(l));
    });
    for (auto& layer : made)
      for (auto& [name, tensor] : layer) entries_.emplace(std::move(name), std::move(tensor));
    for (auto& [name, made_of] : entries_) {
      auto const bytes = static_cast<std::int64_t>(made_of.values.size() * sizeof(float));
      made_of.stored = {moesaic::dtype::fp32, made_of.shape, reinterpret_cast<const std::byte*>(made_of.values.data()), bytes};
    }
  }
  carved_source(carved_source const&) = delete;            // views point into entries_
  carved_source& operator=(carved_source const&) = delete;

  const moesaic::tensor* find(std::string_view name) const {
    auto const found = entries_.find(name);
    return found != entries_.end() ? &found->second.stored : dense_.find(name);
  }
  std::string where(std::string_view name) const { return dense_.where(name); }

 private:
  struct entry {
    std::vector<std::int64_t> shape;
    std::vector<float> values;
    moesaic::tensor stored = {};
  };

  static std::vector<std::pair<std::string, entry>> carve(Dense const& dense, carved_model const& model, std::size_t l) {
    auto const& layer = model.layers[l];
    auto const prefix = "model.layers." + std::to_string(l) + ".mlp.";
    auto const experts = model.widths.size(), intermediate = layer.neurons.size();
    auto const gate = elements<float>(dense, prefix + "gate_proj.weight"), up = elements<float>(dense, prefix + "up_proj.weight"),
               down = elements<float>(dense, prefix + "down_proj.weight");
    auto const hidden = gate.size() / intermediate;
    auto const extent = [](std::size_t n) { return static_cast<std::int64_t>(n); };

    std::vector<std::pair<std::string, entry>> out;
    out.emplace_back(prefix + "gate.weight", entry{{extent(experts), extent(hidden)}, layer.router_weight});
    out.emplace_back(prefix + "gate.bias", entry{{extent(experts)}, layer.router_bias});
    std::size_t first = 0;
    for (std::size_t e = 0; e <= experts; ++e) {
      auto const width = e < experts ? index(model.widths[e]) : intermediate - first;
      if (width == 0) break;
      std::vector<float> gate_rows(width * hidden), up_rows(width * hidden), down_columns(hidden * width);
      for (std::size_t i = 0; i < width; ++i) {
        auto const neuron = index(layer.neurons[first + i]);
        std::copy_n(gate.begin() + extent(neuron * hidden), hidden, gate_rows.begin() + extent(i * hidden));
        std::copy_n(up.begin() + extent(neuron * hidden), hidden, up_rows.begin() + extent(i * hidden));
        for (std::size_t k = 0; k < hidden; ++k) down_columns[k * width + i] = down[k * intermediate + neuron];
      }
      auto const name = prefix + (e < experts ? "experts." + std::to_string(e) : std::string("shared_experts"));
      out.emplace_back(name + ".gate_proj.weight", entry{{extent(width), extent(hidden)}, std::move(gate_rows)});
      out.emplace_back(name + ".up_proj.weight", entry{{extent(width), extent(hidden)}, std::move(up_rows)});
      out.emplace_back(name + ".down_proj.weight", entry{{extent(hidden), extent(width)}, std::move(down_columns)});
      first += width;
    }
    return out;
  }

  Dense const& dense_;
  std::map<std::string, entry, std::less<>> entries_;
};

}  // namespace demo
