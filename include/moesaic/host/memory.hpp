// Memory of a host call: flags that a call raises, owning buffers, and how layers ask for them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

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

/// A layer's cache of keys and values or of latents, and its memory. Converts to the view that forward calls take.
template <class View>
class owned_cache {
 public:
  explicit owned_cache(View shape) : memory_(bytes(shape)), first_position_(static_cast<std::size_t>(shape.sequences)), view_(shape) {
    view_.data = memory_.data();
    view_.first_position = first_position_;
  }
  owned_cache(owned_cache&&) = default;
  owned_cache& operator=(owned_cache&&) = default;

  operator View const&() const { return view_; }
  /// The position of the first token that a sequence keeps: 0 unless set before its tokens come.
  void set_first_position(int sequence, std::int32_t position) { first_position_[static_cast<std::size_t>(sequence)] = position; }

 private:
  buffer memory_;
  std::vector<std::int32_t> first_position_;   // [sequences]
  View view_;
};

/// Throws where a cache would hold nothing.
inline void check_cache(int sequences, int max_tokens) {
  if (sequences < 1 || max_tokens < 1) throw_error({"cache: expected at least one sequence and one token, found ", sequences, " and ", max_tokens});
}

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
