// The calls of cuda/stream.hpp over the CUDA runtime: devices, memory, copies. None throws; without a GPU each says so.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <moesaic/cuda/stream.hpp>

namespace moesaic::cuda {

/// What a call of the runtime answered, and forgotten by the runtime, so that the next call answers for itself alone.
inline status status_of(cudaError_t answer) {
  if (answer == cudaSuccess) return {};
  (void)cudaGetLastError();
  switch (answer) {
    case cudaErrorNoDevice: return {status_code::no_device, "there is no CUDA device"};
    case cudaErrorInsufficientDriver: return {status_code::no_device, "there is no CUDA device: no driver is installed, or it is older than the runtime"};
    case cudaErrorNoKernelImageForDevice: return {status_code::device_failed, "the program was not compiled for this device's architecture", 0, answer};
    default: return {status_code::device_failed, cudaGetErrorString(answer), 0, answer};
  }
}
inline cudaStream_t handle_of(stream const& where) { return static_cast<cudaStream_t>(where.handle); }

/// The newest architecture that this file was compiled for and a device of `architecture` can run, 0 = none: kernels are chosen by what there is, not by
/// what the device could do.
constexpr int compiled_for(int architecture) {
#if defined(__CUDA_ARCH_LIST__)
  int newest = 0;
  for (int const listed : {__CUDA_ARCH_LIST__}) newest = listed / 10 <= architecture && listed / 10 > newest ? listed / 10 : newest;
  return newest;
#else
  return architecture;
#endif
}

// Weak, not inline: a .cpp compiled without CUDA's headers calls them, and finds them in whichever .cu of the program was compiled with this header.

[[gnu::weak]] device_facts current_device() {
  device_facts facts;
  int device = 0, major = 0, minor = 0, shared = 0;
  auto answer = cudaGetDevice(&device);
  auto const ask = [&](int& fact, cudaDeviceAttr attribute) {
    if (answer == cudaSuccess) answer = cudaDeviceGetAttribute(&fact, attribute, device);
  };
  ask(major, cudaDevAttrComputeCapabilityMajor);
  ask(minor, cudaDevAttrComputeCapabilityMinor);
  ask(facts.multiprocessors, cudaDevAttrMultiProcessorCount);
  ask(shared, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  facts.why = status_of(answer);
  if (!facts.why) return facts;
  facts.architecture = compiled_for(10 * major + minor);
  facts.shared_bytes = shared;
  if (facts.architecture == 0) facts.why = {status_code::device_failed, "the program was compiled for newer architectures than the device's", 0, 10 * major + minor};
  return facts;
}
[[gnu::weak]] void* device_allocate(std::size_t bytes) {
  void* memory = nullptr;
  return status_of(cudaMalloc(&memory, bytes)) ? memory : nullptr;
}
[[gnu::weak]] void device_free(void* memory) { (void)status_of(cudaFree(memory)); }
[[gnu::weak]] status synchronize(stream& where) {
  if (!where.device.why) return where.device.why;
  return status_of(cudaStreamSynchronize(handle_of(where)));
}
[[gnu::weak]] status copy_to_device(stream& where, void* to, void const* from, std::size_t bytes) {
  if (!where.device.why) return where.device.why;
  auto const asked = status_of(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, handle_of(where)));
  return asked ? synchronize(where) : asked;
}
[[gnu::weak]] status copy_to_host(stream& where, void* to, void const* from, std::size_t bytes) {
  if (!where.device.why) return where.device.why;
  auto const asked = status_of(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, handle_of(where)));
  return asked ? synchronize(where) : asked;
}
[[gnu::weak]] status set_bytes(stream& where, void* to, int value, std::size_t bytes) {
  if (!where.device.why) return where.device.why;
  return bytes == 0 ? status{} : status_of(cudaMemsetAsync(to, value, bytes, handle_of(where)));
}

}  // namespace moesaic::cuda
