// Turns a tensor_description into the arguments of the driver's cuTensorMapEncodeTiled: plain C++, so that they are tested without a driver.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/device/copy.hpp>

namespace moesaic::device {

/// What cuTensorMapEncodeTiled takes, enumerations as their numbers in cuda.h.
struct tensor_map_arguments {
  int element;                                                        ///< CUtensorMapDataType
  std::uint32_t rank;
  void* address;
  std::uint64_t size[tensor_description::most_dimensions];
  std::uint64_t stride[tensor_description::most_dimensions];          ///< of dimension 1 first
  std::uint32_t box[tensor_description::most_dimensions];
  std::uint32_t element_stride[tensor_description::most_dimensions];
  int interleave;                                                     ///< none
  int swizzle;                                                        ///< CUtensorMapSwizzle
  int l2_promotion;                                                   ///< CUtensorMapL2promotion
  int fill;                                                           ///< zeros
};

/// The numbers of cuda.h; cuda/launch.cuh asserts that they are.
constexpr int driver_number(tensor_element e) {
  switch (e) {
    case tensor_element::u8: return 0;
    case tensor_element::u16: return 1;
    case tensor_element::u32: return 2;
    case tensor_element::fp16: return 6;
    case tensor_element::fp32: return 7;
    case tensor_element::bf16: return 9;
  }
  return -1;
}
constexpr int driver_number(swizzle s) { return s == swizzle::none ? 0 : s == swizzle::b32 ? 1 : s == swizzle::b64 ? 2 : 3; }

/// Of a description that `check` accepts. A row of a box fetches whole lines of 128 bytes where it is as long, else no more than it needs.
inline tensor_map_arguments arguments_of(tensor_description const& t) {
  auto const row = static_cast<int>(t.box[0]) * bytes_of(t.element);
  tensor_map_arguments a{};
  a.element = driver_number(t.element);
  a.rank = static_cast<std::uint32_t>(t.dimensions);
  a.address = const_cast<void*>(t.data);
  for (int d = 0; d < t.dimensions; ++d) {
    a.size[d] = t.size[d];
    if (d > 0) a.stride[d - 1] = t.stride[d];
    a.box[d] = t.box[d];
    a.element_stride[d] = 1;
  }
  a.swizzle = driver_number(t.swizzle);
  a.l2_promotion = row >= 128 ? 2 : row >= 64 ? 1 : 0;
  return a;
}

}  // namespace moesaic::device
