// The only macros of the library besides config/rules.hpp: version, and how a function is compiled.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#define MOESAIC_VERSION_MAJOR 0
#define MOESAIC_VERSION_MINOR 1
#define MOESAIC_VERSION_PATCH 0

/// A function that host and device both compile. Without nvcc it is plain C++.
#if defined(__CUDACC__)
#define MOESAIC_FN __host__ __device__
#else
#define MOESAIC_FN
#endif

/// Inlined whatever the optimiser thinks, on the host: the small functions that a hot loop is made of.
#if defined(__GNUC__) || defined(__clang__)
#define MOESAIC_HOST inline __attribute__((always_inline))
#else
#define MOESAIC_HOST inline
#endif

/// The same for host and device.
#define MOESAIC_INLINE MOESAIC_FN MOESAIC_HOST

/// A function of a kernel: device code under nvcc; elsewhere plain C++, which runs on a model of the device.
#if defined(__CUDACC__)
#define MOESAIC_DEVICE __device__ inline __attribute__((always_inline))
#elif defined(__SANITIZE_THREAD__)   // g++ does not tell a race detector of memory that it hands to a call by value, or stores a call's result to
#define MOESAIC_DEVICE inline __attribute__((always_inline))
#else
#define MOESAIC_DEVICE inline
#endif

/// Before a loop of a compile-time count: nvcc is to write its copies out, since registers have no index; or must not, since they are long.
#if defined(__CUDACC__)
#define MOESAIC_UNROLL _Pragma("unroll")
#define MOESAIC_ROLLED _Pragma("unroll 1")
#else
#define MOESAIC_UNROLL
#define MOESAIC_ROLLED
#endif

/// A function of the hardware seam, device/, declared there and defined for nvcc by device/ptx.cuh, elsewhere by a model of the device.
#if defined(__CUDACC__)
#define MOESAIC_PRIMITIVE __device__ inline __attribute__((always_inline))
#else
#define MOESAIC_PRIMITIVE
#endif

/// In a .cu that includes moesaic/cuda.cuh, outside namespaces: the kernels that block<Spec> and its parts start on a cuda::stream_ref, for a .cpp that
/// any compiler takes, which includes moesaic/moesaic.hpp and moesaic/cuda/cuda.hpp and calls them. A model serves as well; another tuning's stream and a
/// tap's type may follow, where calls have those.
#define MOESAIC_INSTANTIATE(...) template struct moesaic::cuda::instantiation<__VA_ARGS__>;
