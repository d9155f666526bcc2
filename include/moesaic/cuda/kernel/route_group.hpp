// Who runs the hooks of a routing policy together on a device: a warp for a token, a block for a batch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <moesaic/base/bits.hpp>
#include <moesaic/cuda/kernel/math.hpp>
#include <moesaic/cuda/tuning/tuning.hpp>
#include <moesaic/device/device.hpp>

namespace moesaic::cuda {

/// The 32 lanes of a warp. `Experts` is how long rows of experts are, 0 where that is not known when this is compiled.
template <int Experts, rung Rung>
struct warp_group {
  MOESAIC_DEVICE int rank() const { return device::lane_id(); }
  MOESAIC_FN constexpr int size() const { return device::warp_size; }
  template <class T>
  MOESAIC_DEVICE T sum(T mine) const { return device::warp_sum(mine); }
  template <class T>
  MOESAIC_DEVICE T max(T mine) const {
    constexpr std::uint32_t sign = 0x8000'0000u;
    if constexpr (std::is_same_v<T, int> && Rung != rung::simt)
      return static_cast<int>(device::redux_max(device::all_lanes, static_cast<std::uint32_t>(mine) ^ sign) ^ sign);
    else return device::warp_max(mine);
  }
  MOESAIC_DEVICE void sync() const { device::warp_sync(); }

  MOESAIC_DEVICE void softmax(int n, float const* in, float* out) const {
    float largest = -infinity<float>;
    for (int i = rank(); i < n; i += size()) largest = in[i] > largest ? in[i] : largest;
    largest = max(largest);
    float whole = 0.0f;
    for (int i = rank(); i < n; i += size()) {
      float const e = cuda::exp(in[i] - largest);
      out[i] = e;
      whole += e;
    }
    whole = sum(whole);
    for (int i = rank(); i < n; i += size()) out[i] /= whole;
  }
  MOESAIC_DEVICE void sigmoid(int n, float const* in, float* out) const {
    for (int i = rank(); i < n; i += size()) out[i] = cuda::sigmoid(in[i]);
  }

  /// As moesaic::top_k. A choice becomes a word in its order, 0 for −inf; lane l has the experts l, l + 32, ...
  MOESAIC_DEVICE int top_k(float const* choice, int experts, int slots, std::int32_t* ids) const {
    constexpr int of_lane = (Experts + device::warp_size - 1) / device::warp_size;
    std::uint32_t keys[of_lane > 0 ? of_lane : 1];
    if constexpr (of_lane > 0) {
      MOESAIC_UNROLL
      for (int j = 0; j < of_lane; ++j) {
        int const e = rank() + j * size();
        keys[j] = e < experts ? key_of(choice[e]) : 0;
      }
    }
    std::uint32_t last = 0xffff'ffffu;   // what was found before
    int expert = -1, found = 0;
    for (; found < slots; ++found) {
      std::uint32_t best = 0;
      int mine = -1;
      if constexpr (of_lane > 0) {
        MOESAIC_UNROLL
        for (int j = 0; j < of_lane; ++j)
          if (keys[j] > best) best = keys[j], mine = rank() + j * size();
      } else {
        for (int e = rank(); e < experts; e += size()) {
          auto const key = key_of(choice[e]);
          if (key > best && (key < last || (key == last && e > expert))) best = key, mine = e;
        }
      }
      last = largest(best);
      if (last == 0) break;
      auto const equal = device::ballot(device::all_lanes, best == last);
      bool const alone = (equal & (equal - 1)) == 0;
      expert = alone ? device::shuffle(mine, count_ones(equal - 1)) : -max(best == last ? -mine : -0x7fff'ffff);
      if (rank() == 0) ids[found] = expert;
      if constexpr (of_lane > 0) {
        MOESAIC_UNROLL
        for (int j = 0; j < of_lane; ++j)
          if (rank() + j * size() == expert) keys[j] = 0;
      }
    }
    for (int i = found + rank(); i < slots; i += size()) ids[i] = -1;
    sync();
    return found;
  }

 private:
  MOESAIC_DEVICE static std::uint32_t key_of(float x) {
    auto const bits = bit_cast<std::uint32_t>(x + 0.0f);   // −0 is 0
    return x > -infinity<float> ? bits ^ ((bits >> 31) != 0 ? 0xffff'ffffu : 0x8000'0000u) : 0;
  }
  MOESAIC_DEVICE static std::uint32_t largest(std::uint32_t key) {
    if constexpr (Rung == rung::simt) return device::warp_max(key);
    else return device::redux_max(device::all_lanes, key);
  }
};

/// All threads of a block.
template <int Threads>
struct block_group {
  static constexpr int warps = Threads / device::warp_size;
  struct scratch {
    alignas(8) std::byte of_warp[warps * 8];
  };
  scratch& memory;

  MOESAIC_DEVICE explicit block_group(scratch& s) : memory(s) {}
  MOESAIC_DEVICE int rank() const { return device::thread_id(); }
  MOESAIC_FN constexpr int size() const { return Threads; }
  template <class T>
  MOESAIC_DEVICE T sum(T mine) const {
    return meet(device::warp_sum(mine), [](T a, T b) { return a + b; });
  }
  template <class T>
  MOESAIC_DEVICE T max(T mine) const {
    return meet(device::warp_max(mine), [](T a, T b) { return b > a ? b : a; });
  }
  MOESAIC_DEVICE void sync() const { device::block_sync(); }

 private:
  template <class T, class Join>
  MOESAIC_DEVICE T meet(T of_mine, Join join) const {
    static_assert(sizeof(T) <= 8, "a warp has 8 bytes of scratch");
    auto* const of_warp = reinterpret_cast<T*>(memory.of_warp);
    device::block_sync();                // those of the sum before have read
    if (device::lane_id() == 0) of_warp[device::warp_id()] = of_mine;
    device::block_sync();
    T all = of_warp[0];
    for (int w = 1; w < warps; ++w) all = join(all, of_warp[w]);
    return all;
  }
};

}  // namespace moesaic::cuda
