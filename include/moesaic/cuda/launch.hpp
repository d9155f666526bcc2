// How an op starts a kernel. Declared for every compiler; the one definition with <<<>>> behind it is cuda/launch.cuh, the tests' is the device model.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>

#include <moesaic/cuda/stream.hpp>
#include <moesaic/device/device.hpp>

namespace moesaic::cuda {

/// A kernel is a functor:
///   struct scale_rows {
///     static constexpr int threads = 256;            // of a block
///     static constexpr rung needs = rung::simt;      // compiled to nothing for older architectures
///     static constexpr int blocks = 1;               // of a multiprocessor, for the launch bound; may be left out
///     struct params { ... };                         // by value, at most 4 KiB: views, sizes, tensor maps
///     struct shared { ... };                         // all its shared memory, or an empty struct
///     MOESAIC_DEVICE void operator()(params const& p) const;
///   };
/// It touches hardware through device/ alone.
template <class Kernel>
concept kernel = std::is_empty_v<Kernel> && requires(Kernel const& k, typename Kernel::params const& p) {
  { Kernel::threads } -> std::convertible_to<int>;
  { Kernel::needs } -> std::convertible_to<rung>;
  typename Kernel::shared;
  k(p);
};

template <class Kernel>
constexpr int blocks_of() {
  if constexpr (requires { Kernel::blocks; }) return Kernel::blocks;
  else return 1;
}
template <class Kernel>
constexpr std::size_t shared_bytes_of() {
  return std::is_empty_v<typename Kernel::shared> ? 0 : sizeof(typename Kernel::shared);
}

/// A kernel that devices of architecture First .. Last never get, since the op has another for all that it takes: of it nothing is compiled for those.
template <kernel Kernel, int First, int Last>
struct replaced_on : Kernel {
  MOESAIC_FN static constexpr bool runs_on(int architecture) { return architecture < First || architecture > Last; }
};
/// Whether an architecture is one that gets the kernel where its rung fits.
template <class Kernel>
MOESAIC_FN constexpr bool runs_on(int architecture) {
  if constexpr (requires { Kernel::runs_on(architecture); }) return Kernel::runs_on(architecture);
  else return true;
}

/// Blocks of a grid. Sizes may be computed from bounds: a block that finds nothing to do returns.
struct grid {
  unsigned x = 1, y = 1, z = 1;
  unsigned cluster = 1;                  ///< blocks along x that form a cluster
  /// Programmatic dependent launch: the kernel may start before the one before it ends, and calls griddepcontrol_wait before it reads what that wrote.
  bool early = false;
};

/// Starts Kernel on the stream; a grid of no blocks starts nothing. Answers what the launch itself can know.
/// Used: emitted wherever it is defined and instantiated, since the caller may be a .cpp that only declares it (MOESAIC_INSTANTIATE).
template <kernel Kernel>
[[gnu::used]] status launch(stream& where, grid const& blocks, typename Kernel::params const& params);

/// The same from an op: a failure is recorded and told by `finish`.
template <kernel Kernel>
void start(stream& where, grid const& blocks, typename Kernel::params const& params) {
  if (where.failed && blocks.x != 0 && blocks.y != 0 && blocks.z != 0) where.record(launch<Kernel>(where, blocks, params));
}

}  // namespace moesaic::cuda
