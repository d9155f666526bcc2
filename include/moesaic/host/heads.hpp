// Projections before attention and heads' outputs after it, in place: clipped, scaled by position, gated.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/math.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/attention_rule.hpp>
#include <moesaic/host/pool.hpp>
#include <moesaic/host/simd/parts.hpp>

namespace moesaic::host::in_double {
#include <moesaic/host/simd/heads.inl>
}
#define MOESAIC_BODY <moesaic/host/simd/heads.inl>
#include <moesaic/host/simd/levels.inl>

namespace moesaic::host {

/// x [tokens, width]: each element to the nearest within ± limit; NaN stays.
template <class T>
void clip(pool& where, double limit, view<T> x) {
  at_level<T>(where.level(), [&](auto here) {
    where.for_each(x.rows, [&](std::int64_t t) { clip_row<T>(here, static_cast<accumulator<T>>(limit), x.row(t), x.columns); });
  });
}

/// q [tokens, width]: each row times its position's factor (temperature_at); position [tokens].
template <class T>
void scale_queries(pool& where, query_temperature const& temperature, list<const std::int32_t> position, view<T> q) {
  at_level<T>(where.level(), [&](auto here) {
    where.for_each(q.rows, [&](std::int64_t t) {
      scale_row<T>(here, temperature_at<accumulator<T>>(temperature, position[t]), q.row(t), q.columns);
    });
  });
}

/// heads [tokens, width] times sigmoid(gate), gate alike; rounded to T once.
template <class T>
void gate_heads(pool& where, view<const T> gate, view<T> heads) {
  at_level<T>(where.level(), [&](auto here) {
    where.for_each(heads.rows, [&](std::int64_t t) { gate_row<T>(here, gate.row(t), heads.row(t), heads.columns); });
  });
}

}  // namespace moesaic::host
