// Files as bytes: a path becomes a read-only mapping, and parts in memory become a file that appears whole or not at all.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace moesaic {

/// A file's bytes, read-only: mapped where the system can, else read into memory. The start is aligned to 64 bytes. Move-only; moving keeps
/// the address. Throws `error` with the path and the system's reason. Nobody may shorten the file while it is mapped.
class mapped_file {
 public:
  mapped_file() = default;
  explicit mapped_file(std::string const& path);
  mapped_file(mapped_file&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  mapped_file& operator=(mapped_file&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~mapped_file() { release(); }

  list<const std::byte> bytes() const { return bytes_; }

 private:
  void release() noexcept;

  list<const std::byte> bytes_;
};

namespace detail {

[[noreturn]] inline void fail_with_errno(std::string const& path, char const* what, int reason) {
  throw error(path + ": " + what + ": " + std::strerror(reason));
}

}  // namespace detail

#if defined(__unix__) || defined(__APPLE__)

inline mapped_file::mapped_file(std::string const& path) {
  struct descriptor {
    int number;
    ~descriptor() {
      if (number >= 0) ::close(number);
    }
  };
  // O_NONBLOCK: a pipe of that name must be refused, not waited for.
  auto const file = descriptor{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.number < 0) detail::fail_with_errno(path, "cannot be opened", errno);
  struct stat about {};
  if (::fstat(file.number, &about) != 0) detail::fail_with_errno(path, "cannot be examined", errno);
  if (!S_ISREG(about.st_mode))
    throw error(path + ": expected a regular file, found " + (S_ISDIR(about.st_mode) ? "a folder" : "a device or pipe"));
  if (about.st_size == 0) return;
  void* const start = ::mmap(nullptr, static_cast<std::size_t>(about.st_size), PROT_READ, MAP_PRIVATE, file.number, 0);
  if (start == MAP_FAILED) detail::fail_with_errno(path, "cannot be mapped", errno);
  bytes_ = {static_cast<std::byte const*>(start), static_cast<std::int64_t>(about.st_size)};
}

inline void mapped_file::release() noexcept {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data), static_cast<std::size_t>(bytes_.size));
}

#else

inline mapped_file::mapped_file(std::string const& path) {
  struct stream {
    std::FILE* handle;
    ~stream() {
      if (handle != nullptr) std::fclose(handle);
    }
  };
  auto const file = stream{std::fopen(path.c_str(), "rb")};
  if (file.handle == nullptr) detail::fail_with_errno(path, "cannot be opened", errno);
  std::string content;
  char chunk[1 << 16];
  for (std::size_t got; (got = std::fread(chunk, 1, sizeof chunk, file.handle)) > 0;) content.append(chunk, got);
  if (std::ferror(file.handle) != 0) detail::fail_with_errno(path, "cannot be read", errno);
  if (content.empty()) return;
  auto* const memory = static_cast<std::byte*>(::operator new(content.size(), std::align_val_t{64}));
  std::memcpy(memory, content.data(), content.size());
  bytes_ = {memory, static_cast<std::int64_t>(content.size())};
}

inline void mapped_file::release() noexcept {
  if (!bytes_.empty()) ::operator delete(const_cast<std::byte*>(bytes_.data), std::align_val_t{64});
}

#endif

/// Writes `parts`, one after another, as the file `path`. It is written beside `path` and renamed when complete, so a reader sees the old
/// file or the new one, and a mapping of the old one stays valid. Throws `error` with the path and the system's reason.
inline void replace_file(std::string const& path, list<list<const std::byte> const> parts) {
  static std::atomic<unsigned> counter = 0;
  auto temporary = path + ".partial-" + std::to_string(counter++);
#if defined(__unix__) || defined(__APPLE__)
  temporary += "-" + std::to_string(::getpid());
#endif
  std::FILE* file = std::fopen(temporary.c_str(), "wb");
  if (file == nullptr) detail::fail_with_errno(temporary, "cannot be created", errno);
  auto done = true;
  for (auto const& part : parts)
    done = done &&
           (part.empty() || std::fwrite(part.data, 1, static_cast<std::size_t>(part.size), file) == static_cast<std::size_t>(part.size));
  done = done && std::fflush(file) == 0;
#if defined(__unix__) || defined(__APPLE__)
  done = done && ::fsync(::fileno(file)) == 0;
#endif
  auto reason = errno;
  if (std::fclose(file) != 0 && done) {
    done = false;
    reason = errno;
  }
#if !defined(__unix__) && !defined(__APPLE__)
  if (done) std::remove(path.c_str());  // rename does not replace here
#endif
  if (done && std::rename(temporary.c_str(), path.c_str()) != 0) {
    done = false;
    reason = errno;
  }
  if (done) return;
  std::remove(temporary.c_str());
  detail::fail_with_errno(path, "cannot be written", reason);
}

}  // namespace moesaic
