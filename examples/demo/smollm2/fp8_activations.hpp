// A place to run in which the feed-forward's products read e4m3: fp32 activations -> codes and scales -> fp32, before each product.
// SPDX-License-Identifier: Apache-2.0
//
// Layers find the ops by the type of their first argument. This one is a host::pool in every respect but two ops, so the whole model runs
// unchanged and only what the two expert products read is rounded.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <moesaic/base/groups.hpp>
#include <moesaic/host/ffn.hpp>

namespace demo {

/// Borrows the threads and the level of another pool.
class fp8_activations : public moesaic::host::pool {
 public:
  explicit fp8_activations(pool& other) : pool(moesaic::host::executor{&other, run, other.threads()}, other.level()) {}

  /// x [tokens, inputs] with every 128 inputs of a token rounded to e4m3 under one scale. Valid until the next call.
  moesaic::view<const float> rounded(moesaic::view<const float> x) {
    constexpr std::int64_t group = 128;
    values_.resize(static_cast<std::size_t>(x.rows * x.columns));
    auto const out = moesaic::view<float>{values_.data(), x.rows, x.columns};
    for_each(x.rows, [&](std::int64_t t) {
      std::uint8_t codes[group];
      moesaic::group_scale scale;
      for (std::int64_t k = 0; k < x.columns; k += group) {
        auto const n = std::min(group, x.columns - k);
        moesaic::view<std::uint8_t> const code{codes, 1, n};
        moesaic::view<moesaic::group_scale> const scales{&scale, 1, 1};
        moesaic::groups::quantize<moesaic::dtype::e4m3>({x.row(t) + k, 1, n}, {1, group}, code, scales);
        moesaic::groups::dequantize<moesaic::dtype::e4m3>(code, scales, {1, group}, {out.row(t) + k, 1, n});
      }
    });
    return out;
  }

 private:
  static void run(void* self, std::int64_t tasks, void (*task)(void*, std::int64_t), void* context) {
    static_cast<pool*>(self)->for_each(tasks, [&](std::int64_t i) { task(context, i); });
  }

  std::vector<float> values_;
};

/// As moesaic::host's, of rounded x.
template <moesaic::dtype W, class T>
void expert_gate_up(fp8_activations& where, moesaic::activation_rule const& act, moesaic::packed_matrix const& w, moesaic::list<const float> bias,
                    moesaic::view<const T> x, moesaic::list<const std::int32_t> offsets, const std::int32_t* token_of_slot, moesaic::view<T> h) {
  moesaic::host::expert_gate_up<W>(static_cast<moesaic::host::pool&>(where), act, w, bias, where.rounded(x), offsets, token_of_slot, h);
}
template <moesaic::dtype W, class T>
void expert_down(fp8_activations& where, moesaic::packed_matrix const& w, moesaic::list<const float> bias, moesaic::view<const T> h,
                 moesaic::list<const std::int32_t> offsets, moesaic::view<T> y) {
  moesaic::host::expert_down<W>(static_cast<moesaic::host::pool&>(where), w, bias, where.rounded(h), offsets, y);
}

}  // namespace demo
