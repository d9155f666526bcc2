// int4 weights by wgmma through registers: every group that has a kernel, ragged shapes, on the device model against the host's ops.
// SPDX-License-Identifier: Apache-2.0
#include "gemm_sm90.hpp"

using namespace moesaic;
using namespace moesaic::test;

TEST_CASE("int4") { check_codes<dtype::int4>({dtype::int4, {dtype::int4, 64, true}, {dtype::int4, 128}, {dtype::int4, 0, true}}); }
