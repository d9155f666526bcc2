// Cases of kernels for two compilers: to one a test that runs them as C++ and as PTX and wants the same bytes, to nvcc the kernels.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <type_traits>
#include <vector>

#include <moesaic/base/floats.hpp>
#include <moesaic/base/random.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/cuda/launch.hpp>
#include <moesaic/cuda/layout.hpp>

#if defined(__CUDACC__)
#include <moesaic/cuda/launch.cuh>
#else
#include <device_model/model.hpp>
#endif

namespace moesaic::test::ptx {

/// The buffers of one run, in the order of their making: the same case makes the same ones, and after it they are compared.
class memory {
 public:
  struct buffer {
    std::unique_ptr<std::byte[], void (*)(void*)> bytes;
    std::size_t size;
    int element;                         ///< bytes of floats (4) and bf16 (2); else 0
    bool compared = true;
  };

  explicit memory(std::uint64_t seed) : random_(seed) {}

  /// Uniform in [−scale, scale).
  template <class T>
  T* random(std::int64_t count, float scale = 1.0f) {
    T* const p = make<T>(count);
    for (std::int64_t i = 0; i < count; ++i) p[i] = static_cast<T>(scale * (2 * random_.uniform() - 1));
    return p;
  }
  /// Any bits.
  template <class T = std::uint8_t>
  T* bits(std::int64_t count) {
    T* const p = make<T>(count);
    for (std::int64_t i = 0; i < count; ++i) p[i] = static_cast<T>(random_.next());
    return p;
  }
  template <class T>
  T* of(std::initializer_list<T> values) {
    T* const p = make<T>(static_cast<std::int64_t>(values.size()));
    std::memcpy(p, values.begin(), values.size() * sizeof(T));
    return p;
  }
  /// Zeros.
  template <class T>
  T* zeros(std::int64_t count) {
    T* const p = make<T>(count);
    std::memset(static_cast<void*>(p), 0, static_cast<std::size_t>(count) * sizeof(T));
    return p;
  }
  /// To be written: NaN of every type until then.
  template <class T>
  T* result(std::int64_t count) { return make<T>(count); }
  /// Zeros for a kernel's own use, which may differ after it.
  std::byte* scratch(std::int64_t bytes) {
    auto* const p = zeros<std::byte>(bytes);
    buffers_.back().compared = false;
    return p;
  }
  template <class T>
  view<T> random_rows(std::int64_t rows, std::int64_t columns, float scale = 1.0f) {
    return {random<T>(rows * columns, scale), rows, columns};
  }
  template <class T>
  view<T> result_rows(std::int64_t rows, std::int64_t columns) { return {result<T>(rows * columns), rows, columns}; }

  std::vector<buffer> const& buffers() const { return buffers_; }

 private:
  template <class T>
  T* make(std::int64_t count) {
    auto const bytes = static_cast<std::size_t>(count) * sizeof(T);
    // The end is exact, so that AddressSanitizer sees what lies behind.
    std::unique_ptr<std::byte[], void (*)(void*)> p(static_cast<std::byte*>(aligned(bytes)), std::free);
    std::memset(p.get(), 0xff, bytes);
    buffers_.push_back({std::move(p), bytes, std::is_same_v<T, float> || std::is_same_v<T, bf16> ? static_cast<int>(sizeof(T)) : 0});
    return reinterpret_cast<T*>(buffers_.back().bytes.get());
  }
  static void* aligned(std::size_t bytes) {
    void* p = nullptr;
    return posix_memalign(&p, 256, bytes) == 0 ? p : nullptr;
  }

  random_stream random_;
  std::vector<buffer> buffers_;
};

/// Matrices in the layout of cuda/layout.hpp: numbers in [−1, 1), or any codes with scales that keep products small.
inline packed_matrix random_weights(memory& m, packed_matrix w) {
  namespace layout = cuda::layout;
  auto const bytes = packed::matrix_bytes(w) * w.count;
  if (w.stored.type == dtype::bf16) {
    w.data = reinterpret_cast<std::byte const*>(m.random<bf16>(bytes / 2));
    return w;
  }
  if (w.stored.type == dtype::fp32) {
    w.data = reinterpret_cast<std::byte const*>(m.random<float>(bytes / 4));
    return w;
  }
  auto* const data = m.bits<std::byte>(bytes);
  for (std::int64_t e = 0; e < w.count; ++e) {
    auto* const at = data + e * packed::matrix_bytes(w);
    // e4m3 has NaNs: bit 6 of a code out, and numbers are below 2.
    for (std::int64_t i = 0; w.stored.type == dtype::e4m3 && i < layout::data_bytes(w); ++i) at[i] &= std::byte{0xbf};
    for (std::int64_t i = 0; i < layout::scale_count(w); ++i) {
      if (w.stored.type == dtype::mxfp4) at[layout::scales_at(w) + i] = std::byte(120 + i % 7);
      else reinterpret_cast<float*>(at + layout::scales_at(w))[i] = static_cast<float>(i % 7 + 1) * 0x1p-6f;
    }
    for (std::int64_t i = 0; w.stored.zero_point && i < layout::scale_count(w); ++i) at[layout::zeros_at(w) + i] = std::byte(i % 16);
  }
  w.data = data;
  return w;
}

/// A case of one or more kernels.
struct family {
  char const* functors;  ///< names of the kernels' structs, with spaces between: those that a case without one of them would miss
  void (*run)(cuda::stream_ref&, memory&);
  /// How far floats and bf16 may lie apart, in last places, to which two of fp32 of the buffer's largest number are added: not 0 only where
  /// a kernel calls functions of the C library (std::sin, std::exp), which are other ones on a device, within two last places of the exact
  /// result.
  int last_places = 0;
  /// Names of policies and sources of costs that the kernels are made of, in the same way: "routing::top_p costs::table".
  char const* parts = "";
};

}  // namespace moesaic::test::ptx

#if defined(__CUDACC__)
/// Uses the cases, so that their kernels are compiled.
#define MOESAIC_LEG(name, families) \
  __attribute__((used)) family const* name##_cases() { return families; }
#else
#include <iterator>

#include <doctest/doctest.h>

namespace moesaic::test::ptx {

/// The cases of one file, whose PTX is <name>.<architecture>.ptx.
struct group {
  char const* name;
  family const* first;
  std::size_t count;
};
/// All of a program.
std::vector<group>& groups();
struct registration {
  explicit registration(group const& g) { groups().push_back(g); }
};
/// Each case on both legs, under every delivery.
void check(group const& g, char const* architecture = "90a");

}  // namespace moesaic::test::ptx

#define MOESAIC_LEG(name, families)                                                                      \
  constexpr group name##_group{#name, families, std::size(families)};                                    \
  registration const registered(name##_group);                                                           \
  TEST_CASE("kernels of " #name " are as C++ what they are as PTX") { check(name##_group); }
#endif
