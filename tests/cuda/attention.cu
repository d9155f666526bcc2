// Attention by tensor cores, of usual head_dims, as the library starts it: for ptxas's report.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/attention.hpp>
#include <moesaic/cuda/launch.cuh>

namespace every_attention {

using namespace moesaic;
using stream = cuda::basic_stream_ref<cuda::rungs<cuda::rung::sm80, cuda::rung::sm90>>;

template <int HeadDim>
status attend(stream& where, cuda::kv_cache const& cache, view<const bf16> q, list<const std::int32_t> sites, view<bf16> out) {
  return cuda::attend<bf16, dtype::bf16, HeadDim>(where, 1.0, cache, q, sites, sites, out);
}
template status attend<64>(stream&, cuda::kv_cache const&, view<const bf16>, list<const std::int32_t>, view<bf16>);
template status attend<96>(stream&, cuda::kv_cache const&, view<const bf16>, list<const std::int32_t>, view<bf16>);
template status attend<128>(stream&, cuda::kv_cache const&, view<const bf16>, list<const std::int32_t>, view<bf16>);
template status attend<192>(stream&, cuda::kv_cache const&, view<const bf16>, list<const std::int32_t>, view<bf16>);
template status attend<256>(stream&, cuda::kv_cache const&, view<const bf16>, list<const std::int32_t>, view<bf16>);

}  // namespace every_attention
