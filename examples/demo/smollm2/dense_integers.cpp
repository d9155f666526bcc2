// The dense model in integer formats.
// SPDX-License-Identifier: Apache-2.0
#include "net_of.hpp"

namespace demo::smollm2 {

template any_net dense<moesaic::format{moesaic::dtype::int8, 32}>(host::pool&, moesaic::checkpoint const&);
template any_net dense<moesaic::format{moesaic::dtype::int8, 128}>(host::pool&, moesaic::checkpoint const&);
template any_net dense<moesaic::format{moesaic::dtype::int4, 32}>(host::pool&, moesaic::checkpoint const&);
template any_net dense<moesaic::format{moesaic::dtype::int4, 128}>(host::pool&, moesaic::checkpoint const&);

}  // namespace demo::smollm2
