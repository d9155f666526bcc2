// Weights for rows of packed products: random codes, and as many copies as no cache holds.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <string>

#include <moesaic/base/packed.hpp>
#include <moesaic/base/random.hpp>
#include <moesaic/host/memory.hpp>
#include <moesaic/host/pool.hpp>

#include "report.hpp"

namespace moesaic::bench {

/// Copies of one packed matrix (or of all its experts) that lie beyond every cache together. Codes are random, scales one.
struct rotated_weights {
  packed_matrix shape;
  std::int64_t copies, next = 0;
  host::buffer memory;

  explicit rotated_weights(packed_matrix m)
      : shape(m), copies(std::max<std::int64_t>(1, beyond_caches / packed::bytes(m))), memory(static_cast<std::size_t>(copies * packed::bytes(m))) {
    random_stream random(7);
    for (std::int64_t pair = 0; pair < copies * m.count * packed::pairs(m); ++pair) {
      auto* const data = memory.data() + pair * packed::pair_bytes(m.stored, m.inputs);
      auto const codes = packed::tile_bytes(m.stored.type, m.inputs), scales = packed::scale_bytes(m.stored, m.inputs);
      // Exponents of wide formats near one, so that no sum overflows.
      auto keep = ~0ull, put = 0ull;
      if (m.stored.type == dtype::fp32) keep = 0x007f'ffff'007f'ffffu, put = 0x3f00'0000'3f00'0000u;
      if (m.stored.type == dtype::bf16) keep = 0x007f'007f'007f'007fu, put = 0x3f00'3f00'3f00'3f00u;
      if (m.stored.type == dtype::fp16) keep = 0x03ff'03ff'03ff'03ffu, put = 0x3800'3800'3800'3800u;
      for (std::int64_t i = 0; i < codes; i += 8) {
        auto const bits = (random.next() & keep) | put;
        std::memcpy(data + i, &bits, 8);
      }
      for (std::int64_t i = 0; i < scales; ++i)
        if (m.stored.type == dtype::mxfp4) data[codes + i] = std::byte{127};
        else if (i % 4 == 3) data[codes + i] = std::byte{0x3f}, data[codes + i - 1] = std::byte{0x80};
    }
  }
  packed_matrix at(std::int64_t copy) const {
    auto m = shape;
    m.data = memory.data() + copy * packed::bytes(shape);
    return m;
  }
  packed_matrix hot() const { return at(0); }
  packed_matrix cold() { return at(next++ % copies); }
};

/// The rotation that another row of this shape used, if it was lately: rows of one shape follow one another. Two are kept, for two GEMMs.
inline std::shared_ptr<rotated_weights> shared_rotation(packed_matrix const& m) {
  static std::deque<std::shared_ptr<rotated_weights>> kept;
  for (auto const& k : kept)
    if (k->shape == m) return k;
  if (kept.size() == 2) kept.pop_front();
  return kept.emplace_back(std::make_shared<rotated_weights>(m));
}

inline std::string format_name(format f) { return std::string(name(f.type)) + (f.group != 0 ? "g" + std::to_string(f.group) : "") + (f.zero_point ? "z" : ""); }

/// Whether a product of these types runs on bf16 dot products at a level.
template <dtype W, class T>
bool uses_bf16_dot(host::level level) {
  return std::is_same_v<T, bf16> && W != dtype::fp32 && W != dtype::fp16 && level == host::level::avx512_bf16;
}

}  // namespace moesaic::bench
