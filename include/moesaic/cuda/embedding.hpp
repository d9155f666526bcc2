// Token ids to rows of the embedding table, gathered out of its packed form, so that a tied head reads the same bytes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/cuda/kernel/embedding.hpp>
#include <moesaic/cuda/launch.hpp>

namespace moesaic::cuda {

/// x[t] = row ids[t] of the table, dequantised exactly (code · scale rounded to fp32), times `scale`, then rounded to T. Stored: the table's type.
/// table [vocabulary, hidden]; ids [tokens]; x [tokens, hidden]. An id outside the vocabulary gives a row of zeros and raises flags->id.
template <class T, dtype Stored, class Tuning>
status embed(basic_stream_ref<Tuning>& where, packed_matrix const& table, list<const std::int32_t> ids, view<T> x, call_flags* flags = nullptr,
             double scale = 1.0) {
  if (x.rows != ids.size || x.columns != table.inputs)
    return {status_code::invalid_argument, "An embedding writes a row of the table's width for every id.", x.rows != ids.size ? ids.size : table.inputs,
            x.rows != ids.size ? x.rows : x.columns};
  if (table.data == nullptr || table.stored.type != Stored)
    return {status_code::wrong_weights, "An embedding reads a packed table of the type it was compiled for.", 0, 0};
  start<embed_rows<Stored, T>>(where, {.x = blocks_for(ids.size), .early = true}, {weight_view(table), ids.data, x, flags, static_cast<float>(scale)});
  return {};
}

}  // namespace moesaic::cuda
