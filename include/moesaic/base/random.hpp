// Turns a seed and a counter into numbers that are the same on every machine, for tests, examples and benchmarks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/macros.hpp>

namespace moesaic {

/// Number i of a stream depends on seed and i alone (splitmix64: Steele, Lea and Flood 2014). Integer arithmetic up to one exact
/// conversion, so no compiler, library or fused multiply-add changes a bit. Not for secrets.
class random_stream {
 public:
  MOESAIC_FN constexpr explicit random_stream(std::uint64_t seed) : key_(mix(seed)) {}

  /// 64 random bits: number `i`, and the next one.
  MOESAIC_FN constexpr std::uint64_t at(std::uint64_t i) const { return mix(key_ + (i + 1) * 0x9e37'79b9'7f4a'7c15u); }
  MOESAIC_FN constexpr std::uint64_t next() { return at(counter_++); }

  /// In [0, 1), a multiple of 2^-24: exact as float, so never 1.
  MOESAIC_FN constexpr float uniform() { return static_cast<float>(next() >> 40) * 0x1p-24f; }
  /// In [0, 1), a multiple of 2^-53.
  MOESAIC_FN constexpr double uniform_double() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  /// In 0 .. limit - 1; limit up to 2^32 (the bias is then below 2^-32).
  MOESAIC_FN constexpr std::int64_t below(std::int64_t limit) {
    return static_cast<std::int64_t>(((next() >> 32) * static_cast<std::uint64_t>(limit)) >> 32);
  }
  /// Mean 0, variance 1, within ±6: the sum of twelve uniform numbers, whose bits, unlike those of a logarithm, no library decides.
  MOESAIC_FN constexpr float normal() {
    std::uint64_t sum = 0;
    for (int i = 0; i < 6; ++i) {
      auto const two = next();
      sum += (two >> 32) + (two & 0xffff'ffffu);
    }
    return static_cast<float>(static_cast<std::int64_t>(sum) - (std::int64_t{6} << 32)) * 0x1p-32f;
  }

 private:
  MOESAIC_FN static constexpr std::uint64_t mix(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58'476d'1ce4'e5b9u;
    x = (x ^ (x >> 27)) * 0x94d0'49bb'1331'11ebu;
    return x ^ (x >> 31);
  }

  std::uint64_t key_;
  std::uint64_t counter_ = 0;
};

}  // namespace moesaic
