// Products of tiles as the tensor cores are modelled: exact products, summed in fp32 in ascending order of K; int8 in int32.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <moesaic/base/dtype.hpp>

namespace moesaic::device_model {

/// How e4m3 is summed: in fp32, or as Hopper does it: 14 bits of the 32 products of a step and of the sum so far, shifted to the largest
/// exponent.
enum class e4m3_sums : std::uint8_t { fp32, bits14 };

/// d [rows, n] += a [rows, 32 bytes] · b [n, 32 bytes]ᵀ, of T bf16, fp16, e4m3 (d is fp32) or int8 (d is int32, wrapping). d holds raw
/// bits. rows <= 16, n <= 256.
void multiply(dtype t, int rows, int n, std::byte const (*a)[32], std::byte const (*b)[32], std::uint32_t* d,
              e4m3_sums sums = e4m3_sums::fp32);

}  // namespace moesaic::device_model
