// Stands for tests/device_model/model.hpp where kernel tests are compiled by nvcc for a GPU: its names, over the CUDA runtime.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#define MOESAIC_EVERY_KERNEL             // of older architectures too, which the device is said to be

#include <cstdint>
#include <string>
#include <vector>

#include <moesaic/config/random_source.hpp>
#include <moesaic/cuda.cuh>
#include <moesaic/cuda/quantized.hpp>

namespace moesaic::device_model {

enum class delivery : std::uint8_t { eager, late, random };
/// Of these a GPU takes the architecture alone: kernels of older ones run on it too.
struct options {
  delivery when = delivery::eager;
  std::uint64_t seed = 0;
  int architecture = 90;
  int multiprocessors = 0;
  int resident_blocks = 0;
  bool e4m3_14_bits = false;
  bool count_conflicts = false;
  bool watch_global = true;
  double patience = 60;
};
/// What current_device is to answer (tests/cuda/kernels.cpp).
inline int wanted_architecture = 90;
class scope {
 public:
  explicit scope(options const& o) : before_(wanted_architecture) { wanted_architecture = o.architecture; }
  ~scope() { wanted_architecture = before_; }
  scope(scope const&) = delete;
  scope& operator=(scope const&) = delete;

 private:
  int before_;
};

/// What the runtime knows to be wrong by now.
inline std::vector<std::string> take_findings() {
  auto const answer = cudaDeviceSynchronize();
  if (answer == cudaSuccess) return {};
  return {cudaGetErrorString(answer)};
}
struct conflict_count {
  std::uint64_t instructions = 0, passes = 0;
};
inline conflict_count take_conflicts() { return {}; }
inline bool sees_races() { return false; }

}  // namespace moesaic::device_model

// Tests say cuda:: of moesaic::cuda, and CUB has brought a ::cuda.
#define cuda ::moesaic::cuda
