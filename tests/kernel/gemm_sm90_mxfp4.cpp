// mxfp4 weights by wgmma through registers: every group that has a kernel, ragged shapes, on the device model against the host's ops.
// SPDX-License-Identifier: Apache-2.0
#include "gemm_sm90.hpp"

using namespace moesaic;
using namespace moesaic::test;

TEST_CASE("mxfp4") { check_codes<dtype::mxfp4>({dtype::mxfp4}); }
