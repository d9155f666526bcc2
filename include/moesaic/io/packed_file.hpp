// Packed weights become a file, and the file becomes packed weights again by mapping it: pages come in as they are read.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <string_view>

#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/io/mapped_file.hpp>

namespace moesaic {

/// A 64-bit checksum of `bytes`, for damage, not for malice: a change inside one aligned word of 8 bytes is always found.
std::uint64_t checksum(list<const std::byte> bytes);

/// Writes `bytes` with a `fingerprint`: a text that describes shapes and storage, so that bytes of another layout are refused. The file
/// appears whole or not at all. Throws `error` when it cannot be written.
void save_packed(std::string const& path, std::string_view fingerprint, list<const std::byte> bytes);

/// A mapped file that `save_packed` wrote; throws `error` with the first thing that differs. Layout: a header of 40 bytes, the fingerprint,
/// padding to 64 bytes, the payload.
class packed_file {
 public:
  explicit packed_file(std::string const& path);
  /// The same, and the fingerprint must be `expected`.
  packed_file(std::string const& path, std::string_view expected);

  std::string_view fingerprint() const { return fingerprint_; }
  /// The payload, 64-byte aligned; valid as long as this, moves included.
  list<const std::byte> bytes() const { return bytes_; }
  /// Reads the whole payload; throws `error` when its checksum is not the one that was saved.
  void verify() const;

 private:
  std::string path_;
  mapped_file file_;
  std::string_view fingerprint_;
  list<const std::byte> bytes_;
  std::uint64_t checksum_ = 0;
};

namespace detail {

struct packed_header {
  static constexpr char expected_magic[8] = {'m', 'o', 'e', 's', 'a', 'i', 'c', '\n'};
  static constexpr std::uint32_t expected_byte_order = 0x01020304;
  static constexpr std::uint32_t expected_version = 1;  // of this file's layout and of base/packed.hpp's

  char magic[8];
  std::uint32_t byte_order;
  std::uint32_t version;
  std::uint64_t fingerprint_bytes;
  std::uint64_t payload_bytes;
  std::uint64_t checksum;
};
static_assert(sizeof(packed_header) == 40, "The header is written as it lies in memory, without padding.");

/// The word of a fingerprint around `at`, for a message.
inline std::string word_at(std::string_view text, std::size_t at) {
  if (at == text.size()) return "its end";
  constexpr std::string_view separators = " ,;\n";
  auto const before = at == 0 ? std::string_view::npos : text.find_last_of(separators, at - 1);
  auto const begin = before == std::string_view::npos ? 0 : before + 1;
  auto const end = std::min(text.find_first_of(separators, at + 1), at + 60);
  return "'" + std::string(text.substr(begin, end - begin)) + "'";
}

}  // namespace detail

inline std::uint64_t checksum(list<const std::byte> bytes) {
  constexpr std::uint64_t odd[] = {0x9e3779b97f4a7c15, 0xc2b2ae3d27d4eb4f, 0x165667b19e3779f9, 0x27d4eb2f165667c5};
  constexpr std::int64_t block = 32;
  // Four chains, so that the multiplications overlap. A step is a bijection of the word and of the state.
  std::uint64_t chain[] = {odd[1], odd[2], odd[3], odd[0]};
  auto const take = [&](std::byte const* from) {
    for (int i = 0; i < 4; ++i) {
      std::uint64_t word;
      std::memcpy(&word, from + 8 * i, sizeof word);
      chain[i] = std::rotl(chain[i] ^ word * odd[0], 31) * odd[1];
    }
  };
  std::int64_t at = 0;
  for (; at + block <= bytes.size; at += block) take(bytes.data + at);
  if (at < bytes.size) {
    std::byte rest[block] = {};
    std::memcpy(rest, bytes.data + at, static_cast<std::size_t>(bytes.size - at));
    take(rest);
  }
  auto sum = static_cast<std::uint64_t>(bytes.size);  // zeros at the end count
  for (auto const state : chain) sum = std::rotl(sum ^ state, 29) * odd[2];
  return sum ^ sum >> 32;
}

inline void save_packed(std::string const& path, std::string_view fingerprint, list<const std::byte> bytes) {
  detail::packed_header header{{},
                               detail::packed_header::expected_byte_order,
                               detail::packed_header::expected_version,
                               fingerprint.size(),
                               static_cast<std::uint64_t>(bytes.size),
                               checksum(bytes)};
  std::memcpy(header.magic, detail::packed_header::expected_magic, sizeof header.magic);
  std::string front(reinterpret_cast<char const*>(&header), sizeof header);
  front += fingerprint;
  front.resize((front.size() + 63) / 64 * 64);
  list<const std::byte> const parts[] = {{reinterpret_cast<std::byte const*>(front.data()), static_cast<std::int64_t>(front.size())},
                                         bytes};
  replace_file(path, parts);
}

inline packed_file::packed_file(std::string const& path) : path_(path), file_(path) {
  auto const require = [&](bool holds, std::string_view what, std::string const& expected, std::string const& found) {
    if (!holds) throw error(path + ": " + std::string(what) + ": expected " + expected + ", found " + found);
  };
  using std::to_string;
  auto const all = file_.bytes();
  detail::packed_header header{};
  require(all.size >= static_cast<std::int64_t>(sizeof header), "size", "at least " + to_string(sizeof header) + " bytes",
          to_string(all.size));
  std::memcpy(&header, all.data, sizeof header);
  require(std::memcmp(header.magic, header.expected_magic, sizeof header.magic) == 0, "first bytes", "'moesaic'",
          "something else: no packed weights");
  require(header.byte_order == header.expected_byte_order, "byte order", "this machine's", "another");
  require(header.version == header.expected_version, "version", to_string(header.expected_version), to_string(header.version));
  auto const room = static_cast<std::uint64_t>(all.size) - sizeof header;
  require(header.fingerprint_bytes <= room, "length of the fingerprint", "at most " + to_string(room), to_string(header.fingerprint_bytes));
  auto const start = (sizeof header + header.fingerprint_bytes + 63) / 64 * 64;
  auto const payload = static_cast<std::uint64_t>(all.size) - std::min(start, static_cast<std::uint64_t>(all.size));
  require(header.payload_bytes == payload, "payload", to_string(header.payload_bytes) + " bytes", to_string(payload));
  fingerprint_ = {reinterpret_cast<char const*>(all.data) + sizeof header, static_cast<std::size_t>(header.fingerprint_bytes)};
  bytes_ = {all.data + std::min(start, static_cast<std::uint64_t>(all.size)), static_cast<std::int64_t>(payload)};
  checksum_ = header.checksum;
}

inline packed_file::packed_file(std::string const& path, std::string_view expected) : packed_file(path) {
  auto const shorter = std::min(expected.size(), fingerprint_.size());
  std::size_t at = 0;
  while (at < shorter && expected[at] == fingerprint_[at]) ++at;
  if (at < std::max(expected.size(), fingerprint_.size()))
    throw error(path + ": fingerprint: expected " + detail::word_at(expected, at) + " at character " + std::to_string(at) + ", found " +
                detail::word_at(fingerprint_, at));
}

inline void packed_file::verify() const {
  auto const found = checksum(bytes_);
  if (found != checksum_)
    throw error(path_ + ": checksum of the payload: expected " + std::to_string(checksum_) + ", found " + std::to_string(found) +
                ": the file is damaged");
}

}  // namespace moesaic
