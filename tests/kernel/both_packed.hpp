// One random matrix, packed for the host and for CUDA from the same weights: what kernels' results are compared through.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <moesaic/base/packed.hpp>
#include <moesaic/base/random.hpp>
#include <moesaic/cuda/pack.hpp>
#include <moesaic/host/memory.hpp>
#include <moesaic/host/pack.hpp>

namespace moesaic::test {

/// Weights are mostly normal, of groups with unlike magnitudes, some exactly zero. `whole` ones are small integers, so that sums of products with small
/// integers are exact in every order.
struct both_packed {
  host::buffer host_memory, device_memory;
  packed_matrix host, device;

  both_packed(cuda::stream& where, packed_matrix const& shape, std::uint64_t seed, bool whole = false)
      : host_memory(static_cast<std::size_t>(packed::bytes(shape))), device_memory(static_cast<std::size_t>(packed::bytes(shape))),
        host(shape), device(shape) {
    host.data = host_memory.data();
    device.data = device_memory.data();
    for (std::int64_t e = 0; e < shape.count; ++e) {
      auto const source = [&](int part, std::int64_t output, float* row) {
        random_stream own(seed * 1'000'003 + static_cast<std::uint64_t>((e * 2 + part) * shape.outputs + output));   // a row may be asked for twice
        for (std::int64_t k = 0; k < shape.inputs; ++k) {
          if (whole) row[k] = static_cast<float>(own.below(9)) - 4.0f;
          else row[k] = own.below(16) == 0 ? 0.0f : own.normal() * (k / 32 % 3 == 0 ? 0.02f : 0.3f);
        }
      };
      moesaic::host::pack(shape, e, source, host_memory.data());
      cuda::pack(where, device, e, source);
    }
  }
};

/// Streams whose matrix kernels are simt and sm80: those of sm90 have tests of their own, and are much to compile.
using up_to_sm80 = cuda::rungs<cuda::rung::simt, cuda::rung::sm80>;
/// f(stream) on such a stream; what fails there is told by `where`.
template <class F>
void with_sm80(cuda::stream_ref& where, F f) {
  cuda::basic_stream_ref<up_to_sm80> other(where.handle);
  f(other);
  where.record(cuda::finish(other));
}

}  // namespace moesaic::test
