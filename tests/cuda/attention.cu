// Attention by tensor cores, of usual dimensions, by a scale alone and by more, as the library starts it: for ptxas's report.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/attention.hpp>
#include <moesaic/cuda/launch.cuh>

namespace every_attention {

using namespace moesaic;
using stream = cuda::basic_stream_ref<cuda::rungs<cuda::rung::sm80, cuda::rung::sm90>>;

template <int KeyDim, int ValueDim, bool Plain>
status attend(stream& where, attention_rule const& rule, cuda::kv_cache const& cache, view<const bf16> q, list<const std::int32_t> sites, view<bf16> out) {
  return cuda::attend<bf16, dtype::bf16, KeyDim, ValueDim, Plain>(where, rule, cache, q, sites, sites, out);
}
#define EVERY(KeyDim, ValueDim, Plain) \
  template status attend<KeyDim, ValueDim, Plain>(stream&, attention_rule const&, cuda::kv_cache const&, view<const bf16>, list<const std::int32_t>, view<bf16>);
EVERY(64, 64, true)
EVERY(96, 96, true)
EVERY(128, 128, true)
EVERY(192, 192, true)
EVERY(256, 256, true)
EVERY(64, 64, false)
EVERY(96, 96, false)
EVERY(128, 128, false)
EVERY(256, 256, false)
EVERY(192, 128, false)
EVERY(192, 128, true)

}  // namespace every_attention
