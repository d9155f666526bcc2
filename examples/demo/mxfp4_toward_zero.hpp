// A checkpoint whose feed-forward weights are rounded to MXFP4 with ties toward zero, as the pair's published figures were.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <moesaic/config/tensor.hpp>

namespace demo {

/// The library rounds ties to the even code, as the OCP specification says. bf16 weights often lie exactly between two codes, so the rule for
/// ties shows in the fourth digit of the bits a byte; the published figures were made with ties toward zero. What this gives are values
/// that MXFP4 holds exactly: storing them as mxfp4 changes nothing more.
template <moesaic::tensor_source Source>
class mxfp4_toward_zero {
 public:
  explicit mxfp4_toward_zero(Source const& source) : source_(source) {}

  moesaic::tensor const* find(std::string_view name) const {
    auto const* const stored = source_.find(name);
    if (stored == nullptr || name.find(".mlp.") == name.npos || name.find("_proj") == name.npos || stored->shape.size != 2) return stored;
    auto& rounded = kept_[std::string(name)];
    if (rounded.values.empty()) round(*stored, rounded);
    return &rounded.tensor;
  }
  std::string where(std::string_view name) const { return source_.where(name); }

 private:
  struct rounded_tensor {
    std::vector<float> values;
    moesaic::tensor tensor;
  };

  static void round(moesaic::tensor const& stored, rounded_tensor& out) {
    constexpr std::int64_t group = 32;
    auto const inputs = stored.shape[1], count = stored.shape[0] * inputs;
    out.values.resize(static_cast<std::size_t>(count));
    moesaic::widen(stored, 0, count, out.values.data());
    for (std::int64_t row = 0; row < count; row += inputs)
      for (std::int64_t first = row; first < row + inputs; first += group) {
        auto* const w = out.values.data() + first;
        auto const size = std::min(group, row + inputs - first);
        float largest = 0x1p-125f;
        for (std::int64_t i = 0; i < size; ++i) largest = std::max(largest, std::fabs(w[i]));
        auto const scale = std::ldexp(1.0f, std::ilogb(largest) - 2);
        for (std::int64_t i = 0; i < size; ++i) w[i] = std::copysign(nearest(std::fabs(w[i]) / scale), w[i]) * scale;
      }
    out.tensor = {moesaic::dtype::fp32, stored.shape, reinterpret_cast<const std::byte*>(out.values.data()), count * 4};
  }
  static float nearest(float x) {
    constexpr float grid[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    float best = 0;
    for (float const g : grid)
      if (std::fabs(x - g) < std::fabs(x - best)) best = g;    // strictly nearer: of two equally near, the smaller stays
    return best;
  }

  Source const& source_;
  mutable std::map<std::string, rounded_tensor> kept_;
};

}  // namespace demo
