// A GPU for tests: runs kernels of the library on the CPU, one fibre a thread, with every liberty that hardware takes, and says what they do wrong.
// SPDX-License-Identifier: Apache-2.0
#pragma once

// A kernel test is a doctest program that includes this header instead of cuda/launch.cuh and launches kernels (or calls cuda:: ops) on host memory; first.cpp
// is the smallest. For each of several `options`: open a `scope`, fill outputs with NaN, make a cuda::stream_ref, call, check `finish`, compare, and
// check that take_findings() is empty. CMake: moesaic_kernel_test (cmake/moesaic_kernel_test.cmake) makes the flavours. By hand:
//   mkdir -p /tmp/model; cd tests/device_model; for f in barrier copy executor fibre matrix matrix_product race report runtime thread watchdog; do
//     g++ -std=c++20 -O2 -fno-omit-frame-pointer -I ../../include -c $f.cpp -o /tmp/model/$f.o; done      # once, never with a sanitizer
//   flags="-std=c++20 -g1 -fno-omit-frame-pointer -Wno-unknown-pragmas -DMOESAIC_SOURCE_DIR=\"$PWD\" -I include -I tests tests/support/main.cpp"
//   g++ $flags -O2 YOUR.cpp /tmp/model/*.o                                                  # plain
//   g++ $flags -O1 -fsanitize=address,undefined YOUR.cpp /tmp/model/*.o                     # bounds of buffers and of shared memory
//   g++ ... race.o race_tsan.o race_watch.o ...                                             # race: YOUR.cpp alone is compiled with -fsanitize=thread and
//                                                                                           # the flags of moesaic_kernel_test, nothing linked with it

#include <cstddef>
#include <cstdint>
#include <string>
#include <typeinfo>
#include <vector>

#include <moesaic/cuda/launch.hpp>

namespace moesaic::device_model {

/// When an asynchronous copy or product takes effect: as soon as it is asked for, when nothing else can go on, or at any moment between.
enum class delivery : std::uint8_t { eager, late, random };

struct options {
  delivery when = delivery::eager;
  std::uint64_t seed = 0;                ///< of the order in which threads run; 0: ascending, each as far as it goes
  int architecture = 90;                 ///< what current_device answers
  int multiprocessors = 4;
  int resident_blocks = 0;               ///< blocks alive at once, for kernels whose blocks wait for each other; 0: clusters only
  bool e4m3_14_bits = false;             ///< sums of e4m3 products as Hopper's tensor cores keep them, not in fp32
  bool count_conflicts = false;          ///< bank conflicts, in the race flavour
  bool watch_global = true;              ///< in the race flavour, races in global memory too: of a block's threads, between blocks, of launches that overlap
  double patience = 60;                  ///< seconds of processor time without progress of any thread, after which a launch is given up
};

/// The options of launches from here on, in this thread, until the scope ends.
class scope {
 public:
  explicit scope(options const& o);
  ~scope();
  scope(scope const&) = delete;
  scope& operator=(scope const&) = delete;

 private:
  options before_;
};

/// What was wrong in launches since the last call, a sentence each: kind first ("race: ...", "proxy: ...", "deadlock: ...", "model: ..."), both
/// places where there are two. A launch with findings fails too.
std::vector<std::string> take_findings();

/// Bank conflicts since the last call: shared-memory instructions of warps, and the passes that they took.
struct conflict_count {
  std::uint64_t instructions = 0, passes = 0;
};
conflict_count take_conflicts();

/// Whether this program was built with the race detector linked in.
bool sees_races();

/// Runs `body(params)` in every thread of every block. `name` for messages; `blocks_together`: of a multiprocessor, which share its registers.
status run(cuda::grid const& blocks, int threads, std::size_t shared_bytes, void (*body)(void const*), void const* params, char const* name,
           int blocks_together = 1);

/// Who runs kernels in another form than their C++, as the interpreter of PTX does (ptx/ptx.hpp).
struct front_end {
  virtual ~front_end() = default;
  virtual status run(std::type_info const& kernel, cuda::grid const& blocks, int threads, std::size_t shared_bytes, void const* params, std::size_t params_bytes) = 0;
};
/// Launches of this thread go to it; null: kernels run as they are compiled here.
inline constinit thread_local front_end* instead = nullptr;

}  // namespace moesaic::device_model

namespace moesaic::cuda {

template <kernel Kernel>
status launch(stream& where, grid const& blocks, typename Kernel::params const& params) {
  static_assert(sizeof(typename Kernel::params) <= 4096, "a kernel's params must fit the 4 KiB that a launch carries");
  if (!where.device.why) return where.device.why;
  if (architecture_of(Kernel::needs) > where.device.architecture)
    return invalid("the kernel needs a newer architecture than the device has", architecture_of(Kernel::needs), where.device.architecture);
  if (!runs_on<Kernel>(where.device.architecture)) return invalid("another kernel takes the place of this one on the device", 0, where.device.architecture);
  if (device_model::instead != nullptr)
    return device_model::instead->run(typeid(Kernel), blocks, Kernel::threads, shared_bytes_of<Kernel>(), &params, sizeof params);
  auto const body = [](void const* p) { Kernel{}(*static_cast<typename Kernel::params const*>(p)); };
  return device_model::run(blocks, Kernel::threads, shared_bytes_of<Kernel>(), body, &params, __PRETTY_FUNCTION__, blocks_of<Kernel>());
}

}  // namespace moesaic::cuda

#include "primitives.hpp"

#if defined(MOESAIC_DEVICE_MODEL_RACE)
// In the race flavour, copies that the compiler makes or leaves to the C library are accesses too.
asm(".set memcpy, __tsan_memcpy\n.set memmove, __tsan_memmove\n.set memset, __tsan_memset");
#endif
