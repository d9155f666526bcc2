// What the products of a layer read: its activations, or the codes that they become on the way (storage.inputs).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/arena.hpp>
#include <moesaic/base/math.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/shapes.hpp>
#include <moesaic/config/spec.hpp>

namespace moesaic {

/// Of products with matrices that are stored as `Stored`. How codes lie in `memory` is the backend's matter: it holds a number for each.
template <class Spec, dtype Stored>
struct product_inputs {
  static constexpr auto storage = validated<Spec>::config.storage;
  static constexpr auto codes = Stored == dtype::e4m3 ? storage.inputs : input_codes::none;
  using scalar = scalar_of<storage.activations>;
  using memory = list<coded<codes, scalar>>;

  static constexpr memory carve(arena& from, std::int64_t inputs) { return from.take<coded<codes, scalar>>(codes != input_codes::none ? inputs : 0); }

  /// x [rows, inputs], of which rows [*first, *end) are used (on a device: there), or from the first, or to the last. Good until the memory is used again.
  template <class Where>
  static auto of(Where& where, view<const scalar> x, [[maybe_unused]] memory m, [[maybe_unused]] std::int32_t const* end = nullptr,
                 [[maybe_unused]] std::int32_t const* first = nullptr) {
    if constexpr (codes != input_codes::none) return code_inputs<codes>(where, x, m, end, first);
    else return x;
  }
};

}  // namespace moesaic
