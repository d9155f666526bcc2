// What a user's file costs to compile: load and forward of a Mixtral layer, from whatever source of tensors.
// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <string_view>

#include <moesaic/moesaic.hpp>

namespace {

struct mixtral {
  static constexpr moesaic::block_config config{
      .hidden = 4096,
      .attention = {.heads = 32, .kv_heads = 8, .head_dim = 128, .rope_theta = 1e6},
      .router = {.experts = 8, .top_k = 2, .score = moesaic::score::softmax, .renormalize = true},
      .expert = {.intermediate = 14336, .activation = moesaic::activation::swiglu},
      .norm = {.epsilon = 1e-5},
      .storage = {.weights = {moesaic::dtype::bf16}}};
};
using layer = moesaic::block<mixtral>;

}  // namespace

/// A source of the user's own; its bodies are elsewhere.
struct checkpoint {
  moesaic::tensor const* find(std::string_view name) const;
  std::string where(std::string_view name) const;
};

moesaic::status step(checkpoint const& source, moesaic::batch<layer::scalar> const& rows, moesaic::view<layer::scalar> y,
                     moesaic::list<std::byte> workspace);
moesaic::status step(checkpoint const& source, moesaic::batch<layer::scalar> const& rows, moesaic::view<layer::scalar> y,
                     moesaic::list<std::byte> workspace) {
  moesaic::host::pool cpu(2);
  auto const weights = layer::load(cpu, source, "model.layers.0.");
  auto cache = layer::make_cache(cpu, 4, 1024);
  return layer::forward(cpu, weights, rows, cache, y, workspace);
}
