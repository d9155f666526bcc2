// Names of number formats, and how weights are stored: a format and, where it has scales, the group that shares one.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/macros.hpp>

namespace moesaic {

/// Element formats. `same` means: as the enclosing setting says. The integers after mxfp4 are met in files (token ids, indices), never as
/// weights.
enum class dtype : std::uint8_t {
  same, fp64, fp32, bf16, fp16, e4m3, e5m2, e8m0, int8, int4, mxfp4, int16, int32, int64, uint8, uint16, uint32, uint64
};

MOESAIC_FN constexpr int bits(dtype t) {
  switch (t) {
    case dtype::fp64:
    case dtype::int64:
    case dtype::uint64: return 64;
    case dtype::fp32:
    case dtype::int32:
    case dtype::uint32: return 32;
    case dtype::bf16:
    case dtype::fp16:
    case dtype::int16:
    case dtype::uint16: return 16;
    case dtype::e4m3:
    case dtype::e5m2:
    case dtype::e8m0:
    case dtype::int8:
    case dtype::uint8: return 8;
    case dtype::int4:
    case dtype::mxfp4: return 4;
    case dtype::same: break;
  }
  return 0;
}

constexpr const char* name(dtype t) {
  switch (t) {
    case dtype::fp64: return "fp64";
    case dtype::fp32: return "fp32";
    case dtype::bf16: return "bf16";
    case dtype::fp16: return "fp16";
    case dtype::e4m3: return "e4m3";
    case dtype::e5m2: return "e5m2";
    case dtype::e8m0: return "e8m0";
    case dtype::int8: return "int8";
    case dtype::int4: return "int4";
    case dtype::mxfp4: return "mxfp4";
    case dtype::int16: return "int16";
    case dtype::int32: return "int32";
    case dtype::int64: return "int64";
    case dtype::uint8: return "uint8";
    case dtype::uint16: return "uint16";
    case dtype::uint32: return "uint32";
    case dtype::uint64: return "uint64";
    case dtype::same: break;
  }
  return "same";
}

/// How a weight matrix [out, in] is stored. Scales run along `in`:
///   int8, int4   one fp32 scale (int4 with zero_point: and one zero) per row and `group` consecutive inputs; group 0 = the whole row
///   mxfp4        one e8m0 scale per row and 32 inputs (OCP microscaling)
///   e4m3         one fp32 scale per block of `group` outputs × `group` inputs (DeepSeek-V3: 128 × 128)
/// A short last group and an edge block are legal. Other formats have no scales and `group` is 0.
struct format {
  dtype type = dtype::same;
  int group = 0;
  bool zero_point = false;   ///< int4 only: asymmetric, w = (code − zero) · scale

  constexpr format() = default;
  /// The usual group of a type: 32 for int8, int4 and mxfp4, 128 for e4m3.
  MOESAIC_FN constexpr format(dtype t)
      : type(t), group(t == dtype::e4m3 ? 128 : t == dtype::int8 || t == dtype::int4 || t == dtype::mxfp4 ? 32 : 0) {}
  MOESAIC_FN constexpr format(dtype t, int group_, bool zero_point_ = false) : type(t), group(group_), zero_point(zero_point_) {}

  friend constexpr bool operator==(format const&, format const&) = default;
};

/// What products with weights of e4m3 read: activations as they are, or as codes of e4m3 that are found as they come (DeepSeek-V3, arXiv:2412.19437
/// section 3.3), with a scale for every 128 of a row: largest / 448, or the next power of two (2^⌈log2⌉, DeepSeek-V3.1), by which no number is rounded but
/// to its code.
enum class input_codes : std::uint8_t { none, e4m3, e4m3_power_of_two };

constexpr const char* name(input_codes c) { return c == input_codes::none ? "none" : c == input_codes::e4m3 ? "e4m3" : "e4m3_power_of_two"; }

MOESAIC_FN constexpr bool has_scales(dtype t) { return t == dtype::int8 || t == dtype::int4 || t == dtype::mxfp4 || t == dtype::e4m3; }

/// How the transpose of a matrix is stored with the very same weights: square blocks are turned, and groups along inputs, which a transpose does not keep,
/// become the numbers that their codes say.
MOESAIC_FN constexpr dtype turned(dtype stored) {
  return stored == dtype::int8 || stored == dtype::int4 ? dtype::fp32 : stored == dtype::mxfp4 ? dtype::bf16 : stored;
}
MOESAIC_FN constexpr format turned(format stored) { return turned(stored.type) == stored.type ? stored : format(turned(stored.type)); }

}  // namespace moesaic
