// Shared memory of the mma.sync kernels: how operands are permuted, no access of a warp meets a bank twice.
// SPDX-License-Identifier: Apache-2.0
#include "products.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

template <dtype W>
void check_banks(format f) {
  for (std::int64_t const tokens : {8, 32, 128}) {
    INFO(text(f), ", ", tokens, " tokens");
    device_model::scope const options({.architecture = 80, .count_conflicts = true});
    cuda::basic_stream_ref<up_to_sm80> where;
    both_packed const w(where, {f, 128, 144}, 5);
    random_stream random(6);
    auto const x = random_matrix<bf16>(tokens, 144, random);
    auto y = unwritten<bf16>(tokens, 128);
    device_model::take_conflicts();
    cuda::linear<W>(where, w.device, x.view(), {}, y.view());
    auto const count = device_model::take_conflicts();
    CHECK(cuda::finish(where));
    if (device_model::sees_races()) CHECK(count.instructions > 0);
    CHECK(count.passes == count.instructions);
    CHECK(device_model::take_findings().empty());
  }
}

}  // namespace

TEST_CASE("no bank is met twice") {
  check_banks<dtype::bf16>(dtype::bf16);
  check_banks<dtype::int8>(dtype::int8);
  check_banks<dtype::e4m3>(dtype::e4m3);
  check_banks<dtype::int4>({dtype::int4, 32, true});
  check_banks<dtype::mxfp4>(dtype::mxfp4);
}
