// A source of random weights of whatever shape a layer asks for: for benchmarks, tests, and trying a configuration without a checkpoint.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <list>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include <moesaic/base/random.hpp>
#include <moesaic/config/tensor.hpp>

namespace moesaic {

/// A tensor_source that makes each tensor when it is asked for, from its name and a seed alone. Matrices have variance 1 / inputs, biases
/// 0.01, norm weights a mean of 1, so that activations keep their size through the layers. The last few tensors stay alive.
class random_source {
 public:
  explicit random_source(std::uint64_t seed = 0) : seed_(seed) {}

  /// Only `make` gives tensors.
  tensor const* find(std::string_view) const { return nullptr; }
  std::string where(std::string_view) const { return "random weights"; }

  /// shape [..., inputs]; one dimension: a norm's weight where the name ends on "weight", else a bias.
  tensor const* make(std::string_view name, std::initializer_list<std::int64_t> shape) const {
    if (kept_.size() == 8) kept_.pop_front();              // a layer holds three at a time
    auto& made = kept_.emplace_back();
    made.shape = shape;
    std::int64_t count = 1;
    for (auto const n : shape) count *= n;
    bool const gain = shape.size() == 1 && name.ends_with("weight");
    float const mean = gain ? 1.0f : 0.0f;
    float const deviation = shape.size() == 1 ? 0.1f : 1.0f / std::sqrt(static_cast<float>(*(shape.end() - 1)));
    std::uint64_t hash = seed_ ^ 0xcbf2'9ce4'8422'2325u;   // FNV-1a of the name
    for (auto const c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100'0000'01b3u;
    random_stream numbers(hash);
    made.values.reserve(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) made.values.push_back(mean + deviation * numbers.normal());
    made.stored = {dtype::fp32, made.shape, reinterpret_cast<const std::byte*>(made.values.data()), count * 4};
    return &made.stored;
  }

 private:
  struct made_tensor {
    std::vector<std::int64_t> shape;
    std::vector<float> values;
    tensor stored;
  };
  std::uint64_t seed_;
  mutable std::list<made_tensor> kept_;
};

}  // namespace moesaic
