// SmolLM2-135M in every form that the demo compares, behind one face: dense in a storage format, or carved into experts under a rule.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <moesaic/base/dtype.hpp>
#include <moesaic/cost/bytes.hpp>
#include <moesaic/cost/flops.hpp>
#include <moesaic/io/huggingface.hpp>

#include "../carved_model.hpp"

namespace demo::smollm2 {

constexpr int window = 512;                          // tokens of one text, and of one call
constexpr int experts = 24, shared_experts = 3;      // of 64 neurons each

/// What routers chose in the calls of a forward pass, over all layers.
struct choices {
  int together = 1;                                  ///< tokens of one step, side by side; calls have whole steps
  double chosen[experts] = {}, read[experts] = {};   ///< tokens of each expert; steps that use it
  double tokens = 0, steps = 0;                      ///< times layers

  /// expert_ids [tokens, slots] of a layer, −1 where a slot is not used.
  void count(view<const std::int32_t> expert_ids) {
    for (std::int64_t first = 0; first < expert_ids.rows; first += together) {
      bool used[experts] = {};
      for (auto t = first; t < first + together; ++t)
        for (std::int64_t i = 0; i < expert_ids.columns && expert_ids(t, i) >= 0; ++i) {
          auto const e = expert_ids(t, i);
          chosen[e] += 1;
          read[e] += !used[e];
          used[e] = true;
        }
    }
    tokens += static_cast<double>(expert_ids.rows), steps += static_cast<double>(expert_ids.rows / together);
  }
};

/// Feed-forward of all layers: what it costs whatever is chosen, and what each routed expert adds. From cost/.
struct ffn_cost {
  double flops = 0, bytes = 0;                       ///< of a token; of a step
  std::vector<double> expert_flops = {}, expert_bytes = {};   ///< [experts of a layer]
};

/// A model that reads tokens. What its type fixes at compile time is behind it.
class net {
 public:
  virtual ~net() = default;
  /// Forgets all text and makes room for `sequences` of up to `length` tokens.
  virtual void start(int sequences, int length) = 0;
  /// As moesaic::decoder::forward, of at most `window` tokens; adds to `seen`. Throws moesaic::error.
  virtual void forward(moesaic::token_batch const& tokens, list<const std::int32_t> rows, view<float> logits, choices& seen) = 0;
  virtual ffn_cost cost() const = 0;
};
using any_net = std::unique_ptr<net>;

/// The dense model with feed-forward weights in a format, quantised while loading; the rest, and what passes between ops, is fp32.
template <moesaic::format Ffn>
any_net dense(host::pool& where, moesaic::checkpoint const& folder);
/// The same in e4m3 blocks of 128 x 128, and what the feed-forward's two products read is e4m3 too, with a scale for 128 numbers of a token.
any_net dense_fp8_activations(host::pool& where, moesaic::checkpoint const& folder);

extern template any_net dense<moesaic::dtype::fp32>(host::pool&, moesaic::checkpoint const&);
extern template any_net dense<moesaic::dtype::bf16>(host::pool&, moesaic::checkpoint const&);
extern template any_net dense<moesaic::dtype::e4m3>(host::pool&, moesaic::checkpoint const&);
extern template any_net dense<moesaic::format{moesaic::dtype::int8, 32}>(host::pool&, moesaic::checkpoint const&);
extern template any_net dense<moesaic::format{moesaic::dtype::int8, 128}>(host::pool&, moesaic::checkpoint const&);
extern template any_net dense<moesaic::format{moesaic::dtype::int4, 32}>(host::pool&, moesaic::checkpoint const&);
extern template any_net dense<moesaic::format{moesaic::dtype::int4, 128}>(host::pool&, moesaic::checkpoint const&);

/// The model carved into experts, in fp32: one set of weights under any rule. The nets it hands out use it, so it must outlive them.
class carved {
 public:
  carved(host::pool& where, moesaic::checkpoint const& folder, carved_model const& model);
  ~carved();

  any_net top(int k) const;                          ///< the k experts of highest predicted energy
  any_net price(float of_64) const;                  ///< those worth their price: exp(logit) > price, for a width of 64
  any_net fixed(int k) const;                        ///< the k of most energy in calibration, whatever the token
  any_net true_top(int k) const;                     ///< the k of most energy on this token, which no router can know
  any_net prices(float compute, float read, int together) const;   ///< a price for computing and one for reading, `together` tokens a step

 private:
  struct parts;
  std::unique_ptr<parts> parts_;
};

/// The carving into experts of three widths, 64 on average, in fp32. As `carved`.
class mixed {
 public:
  mixed(host::pool& where, moesaic::checkpoint const& folder, carved_model const& model);
  ~mixed();

  any_net price(float of_64) const;                  ///< exp(logit) > price · width / 64
  any_net flat_price(float price) const;             ///< exp(logit) > price, whatever the width

 private:
  struct parts;
  std::unique_ptr<parts> parts_;
};

/// The carvings by each `split`, in its order, then the one of three widths. Read from the folder `cache` where they were made there from the same model and calibration
/// windows `ids` by the same code; else made and kept. progress(layer) is called after each layer that is carved.
std::vector<carved_model> carvings(host::pool& where, moesaic::checkpoint const& folder, std::vector<std::int32_t> const& ids,
                                   std::string const& cache, std::function<void(int)> const& progress);

}  // namespace demo::smollm2
