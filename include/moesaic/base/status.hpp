// What a call answers. Calls on the hot path return a status and never throw; set-up (loading, packing) throws `error`.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

#include <moesaic/base/macros.hpp>

namespace moesaic {

enum class status_code : std::uint8_t { ok, invalid_argument, out_of_range, workspace_too_small, wrong_weights, not_finite, no_device, device_failed };

/// Outcome of a call: a code, a sentence with static storage, and what was expected and found where that is a number.
/// Trivially copyable and free to return. `if (auto done = call(...); !done) report(done);`
struct [[nodiscard]] status {
  status_code code = status_code::ok;
  const char* what = "";       ///< a whole sentence, static storage; empty when ok
  std::int64_t expected = 0;   ///< where a number was expected (out_of_range: what it must be below) ...
  std::int64_t found = 0;      ///< ... and what was given instead

  constexpr explicit operator bool() const { return code == status_code::ok; }
};

/// An argument that does not fit, and the number that would have.
constexpr status invalid(const char* what, std::int64_t expected, std::int64_t found) { return {status_code::invalid_argument, what, expected, found}; }

/// The sentence and both numbers, for a person.
inline std::string to_string(status const& s) {
  if (s) return "ok";
  std::string text = s.what;
  auto const number = [](std::int64_t n) { return std::to_string(n); };
  if (s.code == status_code::device_failed)
    text = "the CUDA runtime says: " + text + " (error " + number(s.found) + ")";
  else if (s.code == status_code::out_of_range)
    text += " (expected 0 to " + number(s.expected - 1) + ", found " + number(s.found) + ")";
  else if (s.expected != 0 || s.found != 0)
    text += " (expected " + number(s.expected) + ", found " + number(s.found) + ")";
  return text;
}

/// What a call notes while it runs, at the start of its workspace, for `check` to tell later: each is raised to 1. Where the host can look before a call, it
/// looks, and only the first is ever raised.
struct call_flags {
  std::int32_t not_finite = 0;   ///< router logits of some token were not finite
  std::int32_t site = 0;         ///< some token's sequence or position lay outside the cache
  std::int32_t id = 0;           ///< some token id was not in the vocabulary
  std::int32_t row = 0;          ///< some row whose logits were wanted was not in the batch
  static constexpr int counters = 60;
  std::uint32_t counter[counters] = {};   ///< for a backend whose launches count what is done: zero between them
};

/// Thrown by set-up only. The text says what was expected, what was found and where.
struct error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Part of a text: words, or a whole number.
struct text_piece {
  std::string_view words;
  std::int64_t number = 0;
  bool counts = false;

  text_piece(const char* w) : words(w) {}
  text_piece(std::string_view w) : words(w) {}
  text_piece(std::string const& w) : words(w) {}
  text_piece(std::int64_t n) : number(n), counts(true) {}
  text_piece(int n) : number(n), counts(true) {}
  text_piece(std::size_t n) : number(static_cast<std::int64_t>(n)), counts(true) {}
};
/// Pieces one after another. A call, where `+` of strings would be written out at every place.
[[gnu::noinline]] inline std::string joined(std::initializer_list<text_piece> pieces) {
  std::string text;
  for (auto const& p : pieces) {
    if (!p.counts) {
      text.append(p.words);
      continue;
    }
    char digits[20];
    auto at = sizeof digits;
    auto rest = p.number < 0 ? 0 - static_cast<std::uint64_t>(p.number) : static_cast<std::uint64_t>(p.number);
    do digits[--at] = static_cast<char>('0' + rest % 10);
    while ((rest /= 10) != 0);
    if (p.number < 0) digits[--at] = '-';
    text.append(digits + at, sizeof digits - at);
  }
  return text;
}
/// Throws `error` of that text.
[[noreturn, gnu::noinline]] inline void throw_error(std::initializer_list<text_piece> pieces) { throw error(joined(pieces)); }

}  // namespace moesaic
