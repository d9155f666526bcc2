// Every product by wgmma, of each format of weights and length of runs, as the library's tuning starts it: for ptxas's report.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/gemm_sm90.hpp>
#include <moesaic/cuda/launch.cuh>

namespace every_product {

using namespace moesaic;
using stream = cuda::basic_stream_ref<cuda::rungs<cuda::rung::sm90>>;

template <dtype W, class X, class Y>
bool multiply(stream& where, cuda::gemm_params<X, Y> const& p) {
  return cuda::multiply_sm90<W>(where, p);
}
template bool multiply<dtype::bf16, bf16, bf16>(stream&, cuda::gemm_params<bf16, bf16> const&);
template bool multiply<dtype::bf16, bf16, float>(stream&, cuda::gemm_params<bf16, float> const&);
template bool multiply<dtype::int8, bf16, bf16>(stream&, cuda::gemm_params<bf16, bf16> const&);
template bool multiply<dtype::int4, bf16, bf16>(stream&, cuda::gemm_params<bf16, bf16> const&);
template bool multiply<dtype::mxfp4, bf16, bf16>(stream&, cuda::gemm_params<bf16, bf16> const&);
template bool multiply<dtype::e4m3, bf16, bf16>(stream&, cuda::gemm_params<bf16, bf16> const&);
template bool multiply<dtype::e4m3, e4m3, bf16>(stream&, cuda::gemm_params<e4m3, bf16> const&);

}  // namespace every_product
