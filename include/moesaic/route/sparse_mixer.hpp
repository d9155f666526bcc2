// Router logits -> experts one after another, each weighed by a softmax over those that come near it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <moesaic/route/policy.hpp>

namespace moesaic::routing {

/// SparseMixer-v2 as Phi-3.5-MoE uses it at inference. Experts are taken by falling logit. The weight of each is its share of a softmax over
/// the experts that are not taken yet and lie near it: with m its logit, those with (m − z) / max(|z|, m) ≤ 2 ε. The weights come from
/// different softmaxes and do not sum to one. Experts of a larger logit that the token may not have (masked, priced out) count for nothing.
/// For fine-tuning a plain top-k takes its place: the sampling and the third-order gradient of training are not here.
/// Costs top_k passes over the experts. Causal; batch-invariant; inference only.
template <class Base = standard>
struct sparse_mixer : Base {
  static constexpr bool trainable = false, logit_scores = true;
  struct state : Base::state {
    float epsilon = 0.01f;             ///< ε, `router_jitter_noise` of the checkpoint
  };
  template <router_config c>
  static auto check() {
    static_assert(c.score == score::softmax && !c.renormalize && c.weights == combine_weight::scores,
                  "sparse_mixer needs softmax scores, combine_weight::scores and no renormalize, because its weights are shares of softmaxes of "
                  "its own");
    Base::template check<c>();
  }

  /// scores = logits, after the soft cap.
  template <class T, class Group>
  MOESAIC_FN static void score(router_config c, Group const& g, state const& s, std::int64_t token, T const* logits, T* scores) {
    c.score = moesaic::score::identity;
    Base::score(c, g, s, token, logits, scores);
  }

  template <class T, class Group>
  MOESAIC_FN static void weigh(router_config const& c, Group const& g, state const& s, std::int64_t, T const* scores, std::int32_t const* ids,
                               int count, T* weights) {
    T const reach = T(2) * static_cast<T>(s.epsilon);
    for (int i = 0; i < count; ++i) {
      T const m = scores[ids[i]];
      T sum = T(0);
      for (int e = g.rank(); e < c.experts; e += g.size()) {
        T const z = scores[e], size = std::fabs(z) > m ? std::fabs(z) : m;
        bool near = z <= m && !((m - z) / size > reach);   // 0 / 0 is near
        for (int j = 0; j < i; ++j) near = near && ids[j] != e;
        if (near) sum += std::exp(z - m);
      }
      sum = g.sum(sum);                                    // at least 1: the expert itself
      if (g.rank() == 0) weights[i] = static_cast<T>(c.routed_scale) / sum;
    }
    g.sync();
  }
};

}  // namespace moesaic::routing
