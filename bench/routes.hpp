// Router logits by popularity: all experts alike, or as Zipf's law has it, which is nearer to what trained routers do.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include <moesaic/base/random.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/host/route.hpp>

namespace moesaic::bench {

enum class popularity { uniform, zipf };
inline const char* name(popularity p) { return p == popularity::uniform ? "uniform" : "zipf"; }

/// Logits of batches that come in turns: the top k of a row are k draws without replacement, expert e by weight 1 or 1 / (e + 1), since a
/// logarithm of the weight plus Gumbel noise has its maximum at e with just that probability. No batch comes twice in a row: a processor
/// that meets the same logits again and again learns the branches of top-k by heart.
class drawn_logits {
public:
  drawn_logits(popularity p, int experts, std::int64_t tokens)
      : experts_(experts), tokens_(tokens), batches_(std::max<std::int64_t>(4, 4096 / tokens)) {
    random_stream random(11);
    values_.resize(static_cast<std::size_t>(batches_ * tokens * experts));
    for (std::size_t i = 0; i < values_.size(); ++i) {
      auto const e = static_cast<float>(i % static_cast<std::size_t>(experts));
      auto const weight = p == popularity::uniform ? 0.0f : -std::log(e + 1);
      values_[i] = weight - std::log(-std::log(random.uniform() * 0.999998f + 1e-6f));
    }
  }
  /// [tokens, experts], the next batch.
  view<const float> next() { return {values_.data() + (turn_++ % batches_) * tokens_ * experts_, tokens_, experts_}; }
  std::int64_t batches() const { return batches_; }

private:
  std::int64_t experts_, tokens_, batches_, turn_ = 0;
  std::vector<float> values_;
};

/// What routing writes for a batch.
struct routed {
  std::vector<float> scores, choice, weights;
  std::vector<std::int32_t> ids, count;
  std::vector<std::byte> batch;
  std::int32_t not_finite = 0;

  template <class Policy = routing::standard>
  void route(host::pool& pool, router_config const& c, view<const float> logits, list<const float> score_bias = {},
             typename Policy::state const& state = {}) {
    auto const tokens = logits.rows;
    auto const all = static_cast<std::size_t>(tokens * c.experts), chosen = static_cast<std::size_t>(tokens * c.top_k);
    scores.resize(all), choice.resize(all), weights.resize(chosen), ids.resize(chosen), count.resize(static_cast<std::size_t>(tokens));
    batch.resize(static_cast<std::size_t>(batch_bytes_of<Policy>(c, tokens)));
    host::route<Policy>(
        pool, c, state, logits, score_bias, view<float>(scores.data(), tokens, c.experts),
        view<float>(choice.data(), tokens, c.experts),
        routing_slots<float>{{ids.data(), tokens, c.top_k}, {weights.data(), tokens, c.top_k}, {count.data(), tokens}},
        {batch.data(), static_cast<std::int64_t>(batch.size())}, &not_finite);
  }
};

/// A plan and its memory.
struct planned {
  std::vector<std::int32_t> offsets, tokens_of, slots_of;
  dispatch_plan plan;

  planned(int experts, std::int64_t tokens, int slots)
      : offsets(static_cast<std::size_t>(experts) + 1),
        tokens_of(static_cast<std::size_t>(tokens * slots)),
        slots_of(tokens_of.size()),
        plan{{offsets.data(), experts + 1}, {tokens_of.data(), tokens * slots}, {slots_of.data(), tokens, slots}} {}
};

/// Experts that a plan's slots use.
inline int distinct(list<const std::int32_t> offsets) {
  int used = 0;
  for (std::int64_t e = 0; e + 1 < offsets.size; ++e) used += offsets[e + 1] > offsets[e];
  return used;
}

}  // namespace moesaic::bench
