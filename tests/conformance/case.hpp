// One thing that hardware does, as a tiny kernel: run it on whatever device this program has, and compare the bits that come out.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <moesaic/base/floats.hpp>
#include <moesaic/base/random.hpp>
#include <moesaic/cuda/launch.hpp>

#if defined(__CUDACC__)
#include <moesaic/cuda/launch.cuh>
#else
#include "device_model/model.hpp"
#endif

namespace moesaic::conformance {

using word = std::uint32_t;
using words = std::vector<word>;

/// A kernel's memory: words in, words out, which begin as `untouched`.
struct buffers {
  word const* in = nullptr;
  word* out = nullptr;
};
inline constexpr word untouched = 0xcdcd'cdcdu;

struct test_case {
  std::string name;
  words (*run)(std::uint64_t seed);
  words (*expected)(std::uint64_t seed);   ///< by plain loops on the host; null where only hardware knows
};
using cases = std::vector<test_case>;

/// Case has `static words run(std::uint64_t seed)` and may have `expected`.
template <class Case>
void add(cases& to, std::string name) {
  words (*expected)(std::uint64_t) = nullptr;
  if constexpr (requires { Case::expected(std::uint64_t{}); }) expected = Case::expected;
  to.push_back({std::move(name), Case::run, expected});
}

inline void need(status const& s, char const* what) {
  if (!s) throw std::runtime_error(std::string(what) + ": " + to_string(s));
}

/// Device memory for one launch.
class device_words {
 public:
   explicit device_words(words const& from)
       : bytes_(from.size() * sizeof(word)), at_(static_cast<word*>(cuda::device_allocate(bytes_ + 256))) {
     if (!at_) throw std::runtime_error("no device memory");
     if (bytes_ != 0) need(cuda::copy_to_device(where_, at_, from.data(), bytes_), "copy to the device");
   }
  ~device_words() { cuda::device_free(at_); }
  device_words(device_words const&) = delete;
  device_words& operator=(device_words const&) = delete;

  word* data() const { return at_; }
  words read() {
    words to(bytes_ / sizeof(word));
    need(cuda::synchronize(where_), "the kernel");
    need(cuda::copy_to_host(where_, to.data(), at_, bytes_), "copy from the device");
    need(cuda::synchronize(where_), "copy from the device");
    return to;
  }

 private:
  cuda::stream where_;
  std::size_t bytes_;
  word* at_;
};

inline words with_memory(words const& in, words const& out, void const* what, status (*start)(void const* what, buffers const& b)) {
  device_words from(in), to(out);
  need(start(what, {from.data(), to.data()}), "launch");
  return to.read();
}
/// Runs Kernel, whose params are made of buffers by `params(buffers)`; what its output holds then.
template <class Kernel, class Params>
words launch(cuda::grid const& blocks, words const& in, words const& out, Params params) {
  struct context {
    cuda::grid const& blocks;
    Params const& params;
  } const what{blocks, params};
  return with_memory(in, out, &what, [](void const* p, buffers const& b) {
    auto const& of = *static_cast<context const*>(p);
    cuda::stream where;
    return cuda::launch<Kernel>(where, of.blocks, of.params(b));
  });
}
/// The same for a kernel whose params are buffers.
template <class Kernel>
words launch(words const& in, std::size_t out_words, cuda::grid const& blocks = {}) {
  return launch<Kernel>(blocks, in, words(out_words, untouched), [](buffers const& b) { return b; });
}

// --- inputs --------------------------------------------------------------------------------------------------------------------------

inline words random_words(std::uint64_t seed, std::size_t count) {
  random_stream r(seed);
  words to(count);
  for (auto& w : to) w = static_cast<word>(r.next());
  return to;
}

/// An integer in T's bits.
inline word encoded(dtype t, int value) {
  auto const x = static_cast<float>(value);
  switch (t) {
    case dtype::bf16: return bf16(x).bits;
    case dtype::fp16: return fp16(x).bits;
    case dtype::e4m3: return e4m3(x).bits;
    default: return static_cast<word>(value) & 0xffu;
  }
}
/// `rows` rows of `k` elements of T: `values` small enough that every product and sum is exact, `packed` the same as the device holds them.
struct matrix {
  std::vector<int> values;
  words packed;
  int k = 0;

  matrix(dtype t, int rows, int k_, random_stream& r) : values(static_cast<std::size_t>(rows) * static_cast<std::size_t>(k_)), k(k_) {
    auto const each = static_cast<std::size_t>(32 / bits(t));
    packed.resize(values.size() / each);
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<int>(t == dtype::int8 ? r.below(256) - 128 : r.below(17) - 8);
      packed[i / each] |= encoded(t, values[i]) << (i % each * static_cast<std::size_t>(bits(t)));
    }
  }
  int at(int row, int column) const { return values[static_cast<std::size_t>(row * k + column)]; }
};
/// An integer as an accumulator of T holds it.
inline word as_sum(dtype t, std::int64_t value) {
  return t == dtype::int8 ? static_cast<word>(value) : bit_cast<word>(static_cast<float>(value));
}

inline words joined(words a, words const& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// --- what a program lists --------------------------------------------------------------------------------------------------------------

inline std::string name_of(device::swizzle s) {
  return s == device::swizzle::none ? "none" : "b" + std::to_string(bytes_of(s));
}

}  // namespace moesaic::conformance
