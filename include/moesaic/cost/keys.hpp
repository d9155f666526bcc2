// A window or a chunk into how many keys a token sees, and how many keys a call reads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/config/block_config.hpp>

namespace moesaic {

/// Of the `keys` that a sequence's last token has, itself among them.
constexpr std::int64_t keys_seen(attention_config const& a, std::int64_t keys) {
  if (keys <= 0) return 0;
  if (a.chunk > 0) keys = (keys - 1) % a.chunk + 1;
  return a.window > 0 && keys > a.window ? a.window : keys;
}

namespace detail {
// The same summed over all tokens of a sequence.
constexpr std::int64_t pairs_of(attention_config const& a, std::int64_t tokens) {
  if (tokens <= 0) return 0;
  if (a.chunk > 0 && tokens > a.chunk) {
    auto one = a;
    one.chunk = 0;
    return tokens / a.chunk * pairs_of(one, a.chunk) + pairs_of(one, tokens % a.chunk);
  }
  auto const all = [](std::int64_t n) { return n * (n + 1) / 2; };
  return a.window > 0 && tokens > a.window ? all(a.window) + (tokens - a.window) * a.window : all(tokens);
}
}  // namespace detail

/// Pairs of a token and a key that it sees, of the last `tokens` of a sequence's `keys`.
constexpr std::int64_t seen_pairs(attention_config const& a, std::int64_t tokens, std::int64_t keys) {
  return detail::pairs_of(a, keys) - detail::pairs_of(a, keys - tokens);
}

/// Different keys that these tokens see: what a call has to read.
constexpr std::int64_t keys_read(attention_config const& a, std::int64_t tokens, std::int64_t keys) {
  if (keys <= 0) return 0;
  auto first = keys - tokens;          // the first of the tokens, which sees the earliest keys
  first = first < 0 ? 0 : first;
  return keys - first - 1 + keys_seen(a, first + 1);
}

}  // namespace moesaic
