// Combine weights over true experts only: what a token gave to null experts goes to its others.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/config/shapes.hpp>
#include <moesaic/route/policy.hpp>

namespace moesaic::routing {

/// A chosen null expert weighs nothing, and the token's other weights grow in proportion until they sum to what all did: with a
/// renormalising router the others' scores over their own sum (zero experts of MoE++, arXiv:2410.07348; null experts of AdaMoE,
/// arXiv:2406.13233). A token of null experts alone gets zeros, and one without any keeps Base's bits.
///
///   struct layer {
///     static constexpr block_config config{..., .router = {.experts = 9, .top_k = 2, .renormalize = true}, .expert = {..., .zero = 1}};
///     using routing = moesaic::routing::without_nulls<moesaic::zero_experts(config)>;
///   };
///
/// Costs top_k additions a token. Helps where the mixture is to keep its size however many nulls a token takes; without it (the identity
/// experts of LongCat-Flash) they keep their share. Causal and batch-invariant as Base is. Takes Base's weights to be positive.
template <expert_range Nulls, class Base = standard>
struct without_nulls : Base {
  template <class T, class Group>
  MOESAIC_FN static void weigh(router_config const& c, Group const& g, auto const& state, std::int64_t token, T const* scores,
                               std::int32_t const* ids, int count, T* weights) {
    Base::weigh(c, g, state, token, scores, ids, count, weights);
    T null = T(0), kept = T(0);
    for (int i = g.rank(); i < count; i += g.size()) {
      (Nulls.has(ids[i]) ? null : kept) += weights[i];
      if (Nulls.has(ids[i])) weights[i] = T(0);
    }
    null = g.sum(null), kept = g.sum(kept);
    if (!(null > T(0) && kept > T(0))) return;
    for (int i = g.rank(); i < count; i += g.size()) weights[i] *= (kept + null) / kept;
  }
};

}  // namespace moesaic::routing
