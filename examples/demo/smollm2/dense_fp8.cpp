// The dense model in e4m3 blocks, and with activations in e4m3 too.
// SPDX-License-Identifier: Apache-2.0
#include "net_of.hpp"

namespace demo::smollm2 {

template any_net dense<moesaic::dtype::e4m3>(host::pool&, moesaic::checkpoint const&);

any_net dense_fp8_activations(host::pool& where, moesaic::checkpoint const& folder) {
  return std::make_unique<dense_net<model<dense_layer<moesaic::dtype::e4m3, moesaic::input_codes::e4m3>>>>(where, folder);
}

}  // namespace demo::smollm2
