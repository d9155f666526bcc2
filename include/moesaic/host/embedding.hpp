// Token ids to rows of the embedding table, gathered out of its packed form, so that a tied head reads the same bytes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/math.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/host/pack.hpp>
#include <moesaic/host/pool.hpp>

namespace moesaic::host {

/// x[t] = row ids[t] of the table, dequantised exactly (code · scale rounded to fp32), times `scale`, then rounded to T.
/// table [vocabulary, hidden] in any weight format; ids [tokens]; x [tokens, hidden].
/// out_of_range for an id outside the vocabulary: nothing is written then.
/// Promised: the table's stored type where it is known, so that only code for that is made. The flags are for backends that find out later.
template <class T, dtype Promised = dtype::same>
status embed(pool& where, packed_matrix const& table, list<const std::int32_t> ids, view<T> x, call_flags* = nullptr, double scale = 1.0) {
  if (x.rows != ids.size || x.columns != table.inputs)
    return {status_code::invalid_argument, "An embedding writes a row of the table's width for every id.",
            x.rows != ids.size ? ids.size : table.inputs, x.rows != ids.size ? x.rows : x.columns};
  if (table.data == nullptr || !pack_detail::packs(table.stored.type))
    return {status_code::wrong_weights, "An embedding reads a packed table in one of the weight formats.", 0, 0};
  for (auto const id : ids)
    if (id < 0 || id >= table.outputs)
      return {status_code::out_of_range, "A token id must be below the size of the vocabulary.", table.outputs, id};
  pack_detail::with_type<Promised>(table, [&](auto type) {
    where.for_each(ids.size, [&](std::int64_t t) {
      auto const at = pack_detail::place_of(table, 0, ids[t]);
      auto const* const pair = table.data + at.pair * packed::pair_bytes(table.stored, table.inputs);
      auto const factor = static_cast<accumulator<T>>(scale);
      for (std::int64_t c = 0; c < x.columns; ++c)
        x(t, c) = static_cast<T>(factor * static_cast<accumulator<T>>(pack_detail::weight<type()>(table, pair, at.panel, at.lane, c)));
    });
  });
  return {};
}

}  // namespace moesaic::host
