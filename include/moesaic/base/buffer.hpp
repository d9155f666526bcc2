// Memory of the host that somebody owns.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstring>
#include <new>
#include <utility>

#include <moesaic/base/arena.hpp>

namespace moesaic {

/// Bytes on a cache line, zeroed. For users without an allocator of their own; any memory serves as well.
class buffer {
 public:
  buffer() = default;
  explicit buffer(std::size_t bytes)
      : data_(bytes != 0 ? static_cast<std::byte*>(::operator new(bytes, std::align_val_t{arena::alignment})) : nullptr), bytes_(bytes) {
    if (bytes != 0) std::memset(data_, 0, bytes);
  }
  buffer(buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  buffer& operator=(buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~buffer() {
    if (data_ != nullptr) ::operator delete(data_, std::align_val_t{arena::alignment});
  }

  std::byte* data() const { return data_; }
  std::size_t size() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace moesaic
