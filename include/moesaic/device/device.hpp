// The hardware seam: everything a kernel may touch besides plain C++. Declarations for all compilers; under nvcc, PTX.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/device/barrier.hpp>
#include <moesaic/device/collective.hpp>
#include <moesaic/device/copy.hpp>
#include <moesaic/device/mma.hpp>
#include <moesaic/device/thread.hpp>

#if defined(__CUDACC__)
#include <moesaic/device/ptx.cuh>
#endif
