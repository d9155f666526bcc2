// Memory of a host call: flags that a call raises, owning buffers, and how layers ask for them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include <moesaic/base/buffer.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/host/pool.hpp>

namespace moesaic::host {

using moesaic::buffer;

/// An owning buffer where `where` computes.
inline buffer allocate(pool&, std::size_t bytes) { return buffer(bytes); }

/// Memory to load weights into, and the same weights where kernels read them: on the host one and the same.
inline buffer allocate_staging(pool& where, std::size_t bytes) { return allocate(where, bytes); }
inline buffer move_staged(pool&, buffer&& staged) { return std::move(staged); }

/// What the host may look at before a call: rows that a caller picks (the first that is no row of `count`, otherwise), and values that weights keep.
inline status check_rows(pool&, list<const std::int32_t> rows, std::int64_t count) {
  for (auto const row : rows)
    if (row < 0 || row >= count) return {status_code::out_of_range, "rows must be tokens of the batch", count, row};
  return {};
}
inline bool same_values(pool&, double const* kept, double const* expected, int count) { return std::equal(kept, kept + count, expected); }

/// Flags that a call raises when something went wrong on the way (call_flags): down before, read after.
inline void clear(pool&, call_flags* flags) { *flags = {}; }
inline status read_flags(pool&, call_flags const* flags, call_flags& read) {
  read = *flags;
  return {};
}

/// What went wrong since the last call, where ops report by themselves (a device's launches). On the host they cannot fail.
inline status finish(pool&) { return {}; }

}  // namespace moesaic::host
