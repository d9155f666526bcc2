// main of the kernel tests on a GPU. They hand host memory to kernels, so all memory of the program is made such that a GPU reads and writes it: the heap is
// managed memory and the tests run on a stack of pinned memory; launches wait for their kernels.
// SPDX-License-Identifier: Apache-2.0
#define DOCTEST_CONFIG_IMPLEMENT
#include <pthread.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>

#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <moesaic/cuda/stream.hpp>

namespace moesaic::device_model {
extern int wanted_architecture;
}

namespace {

/// Pieces of powers of two out of one managed block, kept by size when freed. What it has no room for, and what was asked for before it began, is malloc's.
class managed_heap {
 public:
  bool begin(std::size_t bytes) {
    void* memory = nullptr;
    if (cudaMallocManaged(&memory, bytes, cudaMemAttachGlobal) != cudaSuccess) return false;
    next_ = first_ = static_cast<std::byte*>(memory), end_ = first_ + bytes;
    return true;
  }
  void* take(std::size_t bytes) {
    std::lock_guard const alone(lock_);
    int size = smallest;
    while ((std::size_t{1} << size) < bytes + header) ++size;
    auto*& kept = kept_[size];
    std::byte* piece = nullptr;
    if (kept != nullptr) {
      piece = reinterpret_cast<std::byte*>(kept);
      kept = *reinterpret_cast<void***>(piece + header);
    } else if (static_cast<std::size_t>(end_ - next_) >= std::size_t{1} << size) {
      piece = next_;
      next_ += std::size_t{1} << size;
    } else {
      return std::malloc(bytes);
    }
    *reinterpret_cast<int*>(piece) = size;
    return piece + header;
  }
  void give(void* memory) {
    auto* const at = static_cast<std::byte*>(memory);
    if (at < first_ || at >= end_) return std::free(memory);
    std::lock_guard const alone(lock_);
    auto* const piece = at - header;
    auto*& kept = kept_[*reinterpret_cast<int*>(piece)];
    *reinterpret_cast<void***>(at) = kept;
    kept = reinterpret_cast<void**>(piece);
  }

 private:
  static constexpr std::size_t header = 256;           // keeps pieces aligned as device memory is
  static constexpr int smallest = 9;
  std::mutex lock_;
  std::byte *first_ = nullptr, *next_ = nullptr, *end_ = nullptr;
  void** kept_[64] = {};
};
managed_heap& heap() {
  alignas(managed_heap) static std::byte memory[sizeof(managed_heap)];
  static auto* const made = new (memory) managed_heap;
  return *made;
}

struct call {
  int arguments;
  char** argument;
  int result = 1;
};
void* run(void* c) {
  auto& given = *static_cast<call*>(c);
  given.result = doctest::Context(given.arguments, given.argument).run();
  return nullptr;
}

}  // namespace

void* operator new(std::size_t bytes) {
  if (void* const memory = heap().take(bytes)) return memory;
  throw std::bad_alloc();
}
void* operator new(std::size_t bytes, std::align_val_t) { return operator new(bytes); }
void operator delete(void* memory) noexcept { heap().give(memory); }
void operator delete(void* memory, std::size_t) noexcept { heap().give(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { heap().give(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { heap().give(memory); }

/// The device, as one of an older architecture where a test asks for that.
moesaic::cuda::device_facts moesaic::cuda::current_device() {
  static auto const real = [] {
    device_facts facts;
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess) {
      facts.why = {status_code::no_device, "there is no CUDA device"};
      return facts;
    }
    facts.architecture = 10 * properties.major + properties.minor;
    facts.multiprocessors = properties.multiProcessorCount;
    facts.shared_bytes = static_cast<std::int64_t>(properties.sharedMemPerBlockOptin);
    return facts;
  }();
  auto facts = real;
  if (device_model::wanted_architecture == 0) facts.why = {status_code::no_device, "there is no CUDA device"};
  if (device_model::wanted_architecture < facts.architecture) facts.architecture = device_model::wanted_architecture;
  return facts;
}

int main(int arguments, char** argument) {
  setenv("CUDA_LAUNCH_BLOCKING", "1", 1);               // read when the runtime begins, which is below
  auto const device = moesaic::cuda::current_device();
  constexpr int skipped = 77;
  if (!device.why || device.architecture != 90) {
    std::printf("skipped: %s\n", device.why ? "the device is not of architecture 90" : device.why.what);
    return skipped;
  }
  constexpr std::size_t heap_bytes = std::size_t{4} << 30, stack_bytes = std::size_t{64} << 20;
  void* stack = nullptr;
  if (!heap().begin(heap_bytes) || cudaHostAlloc(&stack, stack_bytes, cudaHostAllocMapped) != cudaSuccess) {
    std::printf("no memory that both see\n");
    return 1;
  }
  pthread_attr_t attributes;
  pthread_t thread;
  call c{arguments, argument};
  pthread_attr_init(&attributes);
  pthread_attr_setstack(&attributes, stack, stack_bytes);
  if (pthread_create(&thread, &attributes, run, &c) != 0) return 1;
  pthread_join(thread, nullptr);
  std::fflush(stdout);
  std::_Exit(c.result);                                 // what is managed must not be freed after the runtime has ended
}
