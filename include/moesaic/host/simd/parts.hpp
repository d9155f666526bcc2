// A row of any width in parts of 16 lanes, on every level and on doubles.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include <moesaic/base/packed.hpp>
#include <moesaic/host/simd/doubles.hpp>
#include <moesaic/host/simd/simd.hpp>

namespace moesaic::host {
using whole_part = std::integral_constant<std::int64_t, packed::lanes>;
}
namespace moesaic::host::in_double {
#include <moesaic/host/simd/parts.inl>
}
#define MOESAIC_BODY <moesaic/host/simd/parts.inl>
#include <moesaic/host/simd/levels.inl>
