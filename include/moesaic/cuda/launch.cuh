// The only launch: one __global__ function that runs any kernel, and the calls that start it. And tensor maps, which the driver makes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <initializer_list>

#include <cuda.h>
#include <cuda_runtime.h>

#include <moesaic/cuda/launch.hpp>
#include <moesaic/cuda/runtime.cuh>
#include <moesaic/device/tensor_map.hpp>

namespace moesaic::cuda {

template <rung Needs>
inline constexpr int least_architecture = 10 * architecture_of(Needs);   // as __CUDA_ARCH__ counts

/// Whether the architecture being compiled for runs a kernel's instructions, and ops start it there.
template <class Kernel>
__device__ constexpr bool compiles_here() {
#if defined(__CUDA_ARCH__) && !defined(MOESAIC_EVERY_KERNEL)   // defined by tests that call a device an older one
  if (!runs_on<Kernel>(__CUDA_ARCH__ / 10)) return false;
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900 && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
  static_assert(Kernel::needs != rung::sm90, "a kernel of rung sm90 needs wgmma, which is of sm_90a alone: compile for 90a-real (arch=compute_90a,code=sm_90a)");
#endif
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  return true;
#elif defined(__CUDA_ARCH__)
  return Kernel::needs != rung::sm90 && __CUDA_ARCH__ >= least_architecture<Kernel::needs>;
#else
  return true;
#endif
}

/// Every kernel of the library. Of an architecture that cannot run it nothing is compiled; `current_device` answers what was compiled, so that `launch`
/// refuses such a kernel before this can trap.
template <class Kernel>
__global__ void __launch_bounds__(Kernel::threads, blocks_of<Kernel>()) entry(__grid_constant__ typename Kernel::params const params) {
  if constexpr (compiles_here<Kernel>()) Kernel{}(params);
  else __trap();
}

/// Sets an attribute of a kernel once a device; `done` has a bit a device, and those from the 64th on are told each time.
inline cudaError_t set_once(std::atomic<std::uint64_t>& done, void const* kernel, cudaFuncAttribute attribute, int value) {
  int device = 0;
  auto answer = cudaGetDevice(&device);
  auto const bit = device < 64 ? std::uint64_t{1} << device : 0;
  if (answer != cudaSuccess || (done.load(std::memory_order_relaxed) & bit) != 0) return answer;
  answer = cudaFuncSetAttribute(kernel, attribute, value);
  if (answer == cudaSuccess) done.fetch_or(bit, std::memory_order_relaxed);
  return answer;
}

/// Whether the code that a device of this architecture gets may start early: griddepcontrol is compiled for 90 and later alone, and a program for 80 runs
/// on those too. 90a's code runs on 90 alone.
constexpr bool can_start_early(int architecture) {
#if defined(__CUDA_ARCH_LIST__)
  for (int const compiled : {__CUDA_ARCH_LIST__})
    if (compiled >= 900 && (compiled == 10 * architecture || (compiled > 900 && compiled < 10 * architecture))) return true;
  return false;
#else
  return architecture >= 90;
#endif
}

template <kernel Kernel>
status launch(stream& where, grid const& blocks, typename Kernel::params const& params) {
  static_assert(sizeof(typename Kernel::params) <= 4096, "a kernel's params must fit the 4 KiB that a launch carries");
  constexpr auto needs = architecture_of(Kernel::needs);
  constexpr auto shared = static_cast<std::int64_t>(shared_bytes_of<Kernel>());
  constexpr unsigned most_yz = 65535, portable_cluster = 8;
  constexpr std::int64_t shared_unasked = 48 * 1024;
  if (!where.device.why) return where.device.why;
  auto const architecture = where.device.architecture;
  if (architecture < needs) return invalid("the kernel needs a newer architecture than the device has", needs, architecture);
  if (Kernel::needs == rung::sm90 && architecture != needs) return invalid("wgmma is of architecture 90 alone", needs, architecture);
  if (!runs_on<Kernel>(architecture)) return invalid("another kernel takes the place of this one on the device", 0, architecture);
  if (shared > where.device.shared_bytes) return invalid("the kernel takes more shared memory than a block of the device may have", where.device.shared_bytes, shared);
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) return {};
  if (blocks.y > most_yz || blocks.z > most_yz) return invalid("a grid has at most 65535 blocks along y and z", most_yz, blocks.y > most_yz ? blocks.y : blocks.z);
  if (blocks.cluster == 0 || blocks.x % blocks.cluster != 0) return invalid("the blocks of a grid along x must be whole clusters", blocks.cluster, blocks.x);

  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks.x, blocks.y, blocks.z);
  config.blockDim = dim3(Kernel::threads);
  config.dynamicSmemBytes = static_cast<std::size_t>(shared);
  config.stream = handle_of(where);
  config.attrs = attributes;
  if (blocks.cluster > 1) {
    auto& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = blocks.cluster, cluster.val.clusterDim.y = 1, cluster.val.clusterDim.z = 1;
  }
  if (blocks.early && can_start_early(architecture)) {
    auto& early = attributes[config.numAttrs++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }

  // The kernel's address is taken here alone: each translation unit has a copy of `entry`, and what is said of it and what is started must be one.
  auto const function = reinterpret_cast<void const*>(&entry<Kernel>);
  static std::atomic<std::uint64_t> large_shared{0}, large_clusters{0};
  auto answer = cudaSuccess;
  if constexpr (shared > shared_unasked) answer = set_once(large_shared, function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  if (blocks.cluster > portable_cluster && answer == cudaSuccess)
    answer = set_once(large_clusters, function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  if (answer != cudaSuccess) return status_of(answer);
  void* arguments[] = {const_cast<typename Kernel::params*>(&params)};
  return status_of(cudaLaunchKernelExC(&config, function, arguments));
}

}  // namespace moesaic::cuda

namespace moesaic::device {

static_assert(driver_number(tensor_element::u8) == CU_TENSOR_MAP_DATA_TYPE_UINT8 && driver_number(tensor_element::u16) == CU_TENSOR_MAP_DATA_TYPE_UINT16 &&
              driver_number(tensor_element::u32) == CU_TENSOR_MAP_DATA_TYPE_UINT32 && driver_number(tensor_element::bf16) == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 &&
              driver_number(tensor_element::fp16) == CU_TENSOR_MAP_DATA_TYPE_FLOAT16 && driver_number(tensor_element::fp32) == CU_TENSOR_MAP_DATA_TYPE_FLOAT32);
static_assert(driver_number(swizzle::none) == CU_TENSOR_MAP_SWIZZLE_NONE && driver_number(swizzle::b32) == CU_TENSOR_MAP_SWIZZLE_32B &&
              driver_number(swizzle::b64) == CU_TENSOR_MAP_SWIZZLE_64B && driver_number(swizzle::b128) == CU_TENSOR_MAP_SWIZZLE_128B);
static_assert(CU_TENSOR_MAP_L2_PROMOTION_NONE == 0 && CU_TENSOR_MAP_L2_PROMOTION_L2_64B == 1 && CU_TENSOR_MAP_L2_PROMOTION_L2_128B == 2 &&
              CU_TENSOR_MAP_INTERLEAVE_NONE == 0 && CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE == 0);
static_assert(sizeof(tensor_map) == sizeof(CUtensorMap));

/// The driver's function is asked for by name, so that a program links the runtime alone.
[[gnu::weak]] status encode(tensor_description const& t, tensor_map& map) {
  if (auto const sound = check(t); !sound) return sound;
  if (reinterpret_cast<std::uintptr_t>(t.data) % 16 != 0) return invalid("data of a tensor map must be aligned to 16 bytes", 0, 0);
  static void* const found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result;
    constexpr unsigned since = 12000;                                    // CUDA 12.0 brought it
    auto const answer = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, since, cudaEnableDefault, &result);
    return cuda::status_of(answer) && result == cudaDriverEntryPointSuccess ? function : nullptr;
  }();
  if (found == nullptr) return {status_code::no_device, "there is no CUDA driver that makes tensor maps (12.0 or later)"};
  auto const a = arguments_of(t);
  auto const answer = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found)(
    reinterpret_cast<CUtensorMap*>(&map), static_cast<CUtensorMapDataType>(a.element), a.rank, a.address, a.size, a.stride, a.box, a.element_stride,
    static_cast<CUtensorMapInterleave>(a.interleave), static_cast<CUtensorMapSwizzle>(a.swizzle), static_cast<CUtensorMapL2promotion>(a.l2_promotion),
    static_cast<CUtensorMapFloatOOBfill>(a.fill));
  if (answer != CUDA_SUCCESS) return {status_code::device_failed, "the driver refused a tensor map", 0, answer};
  return {};
}

}  // namespace moesaic::device
