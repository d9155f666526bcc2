// Where a CUDA call runs: a stream, what its device can do, and what has gone wrong since the last `finish`. Plain C++, no CUDA header.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <moesaic/base/status.hpp>
#include <moesaic/cuda/tuning/tuning.hpp>

namespace moesaic::cuda {

/// What is asked of a device once, when a stream_ref is made.
struct device_facts {
  int architecture = 0;                  ///< 80, 90, ...: major · 10 + minor, of the newest code that the program holds for it; 0 = there is no device
  int multiprocessors = 0;
  std::int64_t shared_bytes = 0;         ///< dynamic shared memory a block may have
  status why;                            ///< what is wrong where there is none
};

// The runtime: declared here, defined by cuda/runtime.cuh over the CUDA runtime, and in the tests by the model of a device.

struct stream;
device_facts current_device();
void* device_allocate(std::size_t bytes);                                               ///< aligned to 256; null where there is none left
void device_free(void* memory);
status copy_to_device(stream& where, void* to, void const* from, std::size_t bytes);    ///< returns when `from` may be changed
status copy_to_host(stream& where, void* to, void const* from, std::size_t bytes);      ///< returns when `to` is there
status set_bytes(stream& where, void* to, int value, std::size_t bytes);                ///< in stream order; safe in a graph
status synchronize(stream& where);

/// One CUDA stream of the current device. Ops record their first failure here, so that a call of many launches reports once, at its `finish`.
struct stream {
  void* handle = nullptr;                ///< a cudaStream_t
  device_facts device;
  status failed;

  explicit stream(void* cuda_stream = nullptr) : handle(cuda_stream), device(current_device()), failed(device.why) {}
  void record(status const& done) {
    if (failed && !done) failed = done;
  }
};

/// First argument of a CUDA call. `Tuning` chooses kernels and tiles (cuda/tuning/tuning.hpp): name one of your own to measure another.
template <class Tuning = default_tuning>
struct basic_stream_ref : stream {
  using tuning = Tuning;
  static constexpr int inputs_at_once = 16;
  static constexpr bool on_device = true;    ///< views lie where the host does not read
  static constexpr bool batch_invariant = sums_in_one_order<Tuning>;   ///< a token's bits do not depend on the others of its call
  static constexpr bool fuses_plan = true;   ///< route_tokens: logits, routing and the plan are one step
  using stream::stream;
  /// The best kernels that the tuning offers and the device runs.
  rung best() const { return best_rung<Tuning>(device.architecture); }
};
using stream_ref = basic_stream_ref<>;

/// The first failure since the last call. Launches are checked, not waited for: what a kernel does wrong shows at a later call, as everywhere in CUDA.
inline status finish(stream& where) {
  auto const failed = where.failed;
  where.failed = where.device.why;
  return failed;
}

}  // namespace moesaic::cuda
