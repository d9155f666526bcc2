// Latent attention of DeepSeek's widths, of few heads and of many, as the library starts it: for ptxas's report.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/latent.hpp>
#include <moesaic/cuda/launch.cuh>

namespace every_latent {

using namespace moesaic;
using stream = cuda::basic_stream_ref<cuda::rungs<cuda::rung::sm80, cuda::rung::sm90>>;

template <int Heads>
struct of_heads {
  static constexpr latent_shape value{.heads = Heads, .head_dim = 128, .rope_dim = 64, .value_dim = 128, .rank = 512};
};
template <int Heads>
status attend(stream& where, cuda::latent_cache const& cache, attention_weights const& w, view<const bf16> q, list<const std::int32_t> sites,
              latent_memory<bf16> const& memory, view<bf16> out) {
  return cuda::attend_latent<bf16, dtype::bf16, dtype::bf16, of_heads<Heads>>(where, latent_form::by_shape, 0.1, of_heads<Heads>::value, cache, w, q, sites, sites,
                                                                              memory, out);
}
#define EVERY(Heads)                                                                                                                                   \
  template status attend<Heads>(stream&, cuda::latent_cache const&, attention_weights const&, view<const bf16>, list<const std::int32_t>, \
                                latent_memory<bf16> const&, view<bf16>);
EVERY(16)
EVERY(128)

}  // namespace every_latent
