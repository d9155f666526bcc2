// The dense model in float formats.
// SPDX-License-Identifier: Apache-2.0
#include "net_of.hpp"

namespace demo::smollm2 {

template any_net dense<moesaic::dtype::fp32>(host::pool&, moesaic::checkpoint const&);
template any_net dense<moesaic::dtype::bf16>(host::pool&, moesaic::checkpoint const&);

}  // namespace demo::smollm2
