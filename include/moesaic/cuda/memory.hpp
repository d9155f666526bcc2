// Memory of a CUDA call: flags that a call raises, owning buffers, and how layers ask for them. Set-up allocates and waits; calls do neither.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include <moesaic/base/buffer.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/cuda/stream.hpp>

namespace moesaic::cuda {

/// Device memory, aligned to 256 bytes, zeroed. Throws where there is not enough. For users without an allocator of their own; any memory serves as well.
class buffer {
 public:
  buffer() = default;
  buffer(stream& where, std::size_t bytes) : data_(bytes != 0 ? static_cast<std::byte*>(device_allocate(bytes)) : nullptr), bytes_(bytes) {
    if (bytes == 0) return;
    if (!where.device.why) throw error(to_string(where.device.why));
    if (data_ == nullptr) throw error("cuda: expected " + std::to_string(bytes) + " bytes of device memory, found less");
    auto done = set_bytes(where, data_, 0, bytes);
    if (done) done = synchronize(where);                   // other streams may use it next
    if (!done) {
      device_free(std::exchange(data_, nullptr));
      throw error(to_string(done));
    }
  }
  buffer(buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  buffer& operator=(buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~buffer() {
    if (data_ != nullptr) device_free(data_);
  }

  std::byte* data() const { return data_; }
  std::size_t size() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// An owning buffer where `where` computes.
inline buffer allocate(stream& where, std::size_t bytes) { return buffer(where, bytes); }

/// Host memory to load weights into, in the order of cuda/layout.hpp; and the same weights on the device.
inline moesaic::buffer allocate_staging(stream&, std::size_t bytes) { return moesaic::buffer(bytes); }
inline buffer move_staged(stream& where, moesaic::buffer&& staged) {
  auto memory = allocate(where, staged.size());
  if (auto const done = copy_to_device(where, memory.data(), staged.data(), staged.size()); !done) throw error(to_string(done));
  return memory;
}

/// A layer's cache of keys and values or of latents, and its memory. Converts to the view that forward calls take.
template <class View>
class owned_cache {
 public:
  owned_cache(stream& where, View shape)
      : memory_(where, bytes(shape)), first_position_(where, static_cast<std::size_t>(shape.sequences) * sizeof(std::int32_t)), view_(shape) {
    view_.data = memory_.data();
    view_.first_position = reinterpret_cast<std::int32_t const*>(first_position_.data());
  }

  operator View const&() const { return view_; }
  /// The position of the first token that a sequence keeps: 0 unless set before its tokens come. Set-up: waits for the copy.
  status set_first_position(stream& where, int sequence, std::int32_t position) {
    return copy_to_device(where, first_position_.data() + static_cast<std::size_t>(sequence) * sizeof position, &position, sizeof position);
  }

 private:
  buffer memory_, first_position_;
  View view_;
};

/// Throws where a cache would hold nothing.
inline void check_cache(int sequences, int max_tokens) {
  if (sequences < 1 || max_tokens < 1)
    throw error("cache: expected at least one sequence and one token, found " + std::to_string(sequences) + " and " + std::to_string(max_tokens));
}

/// What the host cannot look at before a call, since it lies on the device: kernels find it and raise a flag.
inline status check_rows(stream&, list<const std::int32_t> /*rows*/, std::int64_t /*count*/) { return {}; }
inline bool same_values(stream&, double const* /*kept*/, double const* /*expected*/, int /*count*/) { return true; }

inline void clear(stream& where, call_flags* flags) { where.record(set_bytes(where, flags, 0, sizeof *flags)); }
/// Waits for what was asked of the stream so far.
inline status read_flags(stream& where, call_flags const* flags, call_flags& read) { return copy_to_host(where, &read, flags, sizeof read); }

}  // namespace moesaic::cuda
