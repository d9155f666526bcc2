// Router logits -> how unevenly experts are weighed and chosen, as losses (squared coefficients of variation), and their gradient.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>

#include <moesaic/base/bits.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/route/balance.hpp>
#include <moesaic/route/top_k.hpp>

namespace moesaic::balance {

/// How the square of the coefficient of variation is taken: variance of the n values / mean² (Shazeer et al.), or variance as of a sample,
/// over n − 1, / (mean² + 1e-10) (Tutel).
enum class variation : std::uint8_t { population, sample };

namespace detail {

/// CV² of totals, which become its derivatives times `factor`.
inline double squared_variation(list<double> totals, variation kind, double factor) {
  auto const n = static_cast<double>(totals.size), degrees = kind == variation::sample ? n - 1 : n;
  double mean = 0, squares = 0;
  for (auto const x : totals) mean += x / n;
  for (auto const x : totals) squares += (x - mean) * (x - mean);
  auto const below = mean * mean + (kind == variation::sample ? 1e-10 : 0.0);
  bool const defined = degrees > 0 && below > 0;                       // one expert, or nothing chosen: even by definition
  auto const value = defined ? squares / degrees / below : 0.0;
  for (auto& x : totals) x = defined ? factor * (2 * (x - mean) / (degrees * below) - value * 2 * mean / (n * below)) : 0.0;
  return value;
}

/// f(e, bound) for every expert of a token: bound is the expert whose noisy logit e must beat, the k-th largest of the others'; −1 where e
/// is chosen whatever happens. An expert that cannot be chosen is left out. noisy [experts]; ids [top_k + 1] is written.
template <class T, class F>
void each_bound(T const* noisy, int experts, int top_k, std::int32_t* ids, F const& f) {
  int const found = moesaic::top_k(noisy, experts, top_k + 1, ids);
  for (int e = 0; e < experts; ++e) {
    if (!(noisy[e] > -infinity<T>)) continue;
    bool inside = false;
    for (int i = 0; i < top_k && i < found; ++i) inside |= ids[i] == e;
    int const rank = inside ? top_k : top_k - 1;
    f(e, rank < found ? ids[rank] : -1);
  }
}

template <class T>
MOESAIC_FN T normal_cdf(T u) { return T(0.5) * std::erfc(-u * T(0.70710678118654752440)); }
template <class T>
MOESAIC_FN T normal_density(T u) { return T(0.39894228040143267794) * std::exp(T(-0.5) * u * u); }

}  // namespace detail

/// w CV²(Importance), Importance_i = Σ_t G_{t,i}: 0 at balance. G is the softmax over the chosen ids [tokens, slots] (Shazeer et al., arXiv
/// 1701.06538; router_logits are then the noisy ones that chose), or over all experts where ids is {} (Tutel). memory.totals is written.
template <class T>
loss<T> importance(view<const T> router_logits, padding_rows padding, view<const std::int32_t> ids, variation kind, T coefficient,
                   view<T> gradient, scratch const& memory) {
  auto const z = router_logits;
  if (auto const fits = detail::check(z, padding, gradient); !fits) return {T(0), fits};
  if (auto const fits = detail::check(memory, z.columns, 1); !fits) return {T(0), fits};
  bool const all = ids.data == nullptr;
  if (!all && ids.rows != z.rows) return {T(0), invalid("ids must have a row a token", z.rows, ids.rows)};
  if (auto const fits = detail::check_ids(ids, z.columns); !fits) return {T(0), fits};

  list<double> const totals{memory.totals.data, z.columns};
  auto const n = static_cast<int>(all ? z.columns : ids.columns);
  auto const each_token = [&](auto const& f) {
    for (std::int64_t t = 0; t < z.rows; ++t)
      if (detail::takes_part(z, padding, t)) f(t, [&, t](int i) { return all ? i : ids(t, i); });
  };
  for (auto& sum : totals) sum = 0;
  each_token([&](std::int64_t t, auto const& at) {
    T top = -infinity<T>, sum = T(0);
    for (int i = 0; i < n; ++i)
      if (at(i) >= 0 && z(t, at(i)) > top) top = z(t, at(i));
    for (int i = 0; i < n; ++i)
      if (at(i) >= 0) sum += std::exp(z(t, at(i)) - top);
    for (int i = 0; i < n; ++i)
      if (at(i) >= 0) totals[at(i)] += static_cast<double>(std::exp(z(t, at(i)) - top) / sum);
  });
  auto const value = detail::squared_variation(totals, kind, 1.0);
  if (gradient.data != nullptr)
    each_token([&](std::int64_t t, auto const& at) {
      auto const price = [&](int e) { return static_cast<T>(totals[e]); };
      detail::priced_row(score::softmax, serial_group{}, z.row(t), n, at, price, coefficient, gradient.row(t));
    });
  return {static_cast<T>(static_cast<double>(coefficient) * value), {}};
}

/// w CV²(Load), Load_i = Σ_t Φ((z_i − the k-th largest of the other noisy logits) / σ_i): the chance that i is chosen if its noise were
/// drawn again, smooth where a count is not. 0 at balance. Shazeer et al. (arXiv 1701.06538). router_logits: without noise; noisy =
/// router_logits + noise; noise_scale > 0: its deviation σ, softplus of a linear map there; all [tokens, experts]. The gradient is that of
/// fixed draws (noise / σ): through logits and bound alike, by σ into noise_gradient (or {}). memory.totals and .ids are written.
template <class T>
loss<T> load(view<const T> router_logits, view<const T> noisy, view<const T> noise_scale, padding_rows padding, int top_k, T coefficient,
             view<T> gradient, view<T> noise_gradient, scratch const& memory) {
  auto const z = router_logits;
  if (auto const fits = detail::check(z, padding, gradient); !fits) return {T(0), fits};
  if (auto const fits = detail::check(z, padding, noise_gradient); !fits) return {T(0), fits};
  if (auto const fits = detail::check(memory, z.columns, top_k); !fits) return {T(0), fits};
  for (auto const& other : {noisy, noise_scale}) {
    if (other.rows != z.rows) return {T(0), invalid("noisy and noise_scale must have a row a token", z.rows, other.rows)};
    if (other.columns != z.columns) return {T(0), invalid("noisy and noise_scale must have a column an expert", z.columns, other.columns)};
  }
  list<double> const totals{memory.totals.data, z.columns};
  auto const each = [&](auto const& f) {
    for (std::int64_t t = 0; t < z.rows; ++t)
      if (detail::takes_part(z, padding, t) && detail::takes_part(noisy, padding, t))
        detail::each_bound(noisy.row(t), static_cast<int>(z.columns), top_k, memory.ids.data, [&](int e, int bound) { f(t, e, bound); });
  };
  auto const deviations = [&](std::int64_t t, int e, int bound) { return (z(t, e) - noisy(t, bound)) / noise_scale(t, e); };
  for (auto& sum : totals) sum = 0;
  each([&](std::int64_t t, int e, int bound) {
    totals[e] += bound < 0 ? 1.0 : static_cast<double>(detail::normal_cdf(deviations(t, e, bound)));
  });
  auto const value = detail::squared_variation(totals, variation::population, static_cast<double>(coefficient));
  if (gradient.data != nullptr || noise_gradient.data != nullptr)
    each([&](std::int64_t t, int e, int bound) {
      if (bound < 0) return;
      auto const u = deviations(t, e, bound);
      auto const by_difference = static_cast<T>(totals[e]) * detail::normal_density(u) / noise_scale(t, e);
      if (gradient.data != nullptr) gradient(t, e) += by_difference, gradient(t, bound) -= by_difference;
      if (noise_gradient.data != nullptr) {
        noise_gradient(t, e) -= by_difference * u;
        noise_gradient(t, bound) -= by_difference * (noisy(t, bound) - z(t, bound)) / noise_scale(t, bound);
      }
    });
  return {static_cast<T>(static_cast<double>(coefficient) * value), {}};
}

/// ½ (CV²(Importance) + CV²(Load)) as Tutel has it (tutel/impls/losses.py): importance over all experts, Load_i = Σ_t Φ((p_i − the k-th
/// largest noisy logit) / σ) with one σ, gate_noise / experts there, and CV² of a sample. A probability is compared with a logit there too.
/// noisy = router_logits + noise, [tokens, experts]. memory.totals and .ids are written.
template <class T>
loss<T> load_importance(view<const T> router_logits, view<const T> noisy, T noise_scale, padding_rows padding, int top_k, T coefficient,
                        view<T> gradient, scratch const& memory) {
  auto const z = router_logits;
  if (!(noise_scale > T(0))) return {T(0), invalid("the scale of the noise must be above 0", 1, 0)};
  if (noisy.rows != z.rows) return {T(0), invalid("noisy must have a row a token", z.rows, noisy.rows)};
  if (noisy.columns != z.columns) return {T(0), invalid("noisy must have a column an expert", z.columns, noisy.columns)};
  if (auto const fits = detail::check(memory, z.columns, top_k); !fits) return {T(0), fits};
  auto const half = coefficient / T(2);
  auto const first = importance(z, padding, {}, variation::sample, half, gradient, memory);
  if (!first.done) return first;

  auto const experts = static_cast<int>(z.columns);
  list<double> const totals{memory.totals.data, z.columns};
  auto const each_token = [&](auto const& f) {
    for (std::int64_t t = 0; t < z.rows; ++t) {
      if (!detail::takes_part(z, padding, t) || !detail::takes_part(noisy, padding, t)) continue;
      int const found = moesaic::top_k(noisy.row(t), experts, top_k, memory.ids.data);
      T const lse = detail::log_sum_exp(serial_group{}, z.row(t), experts);
      int const bound = memory.ids[found - 1];
      f(t, bound, [&, lse, t, bound](int e) { return (std::exp(z(t, e) - lse) - noisy(t, bound)) / noise_scale; });
    }
  };
  for (auto& sum : totals) sum = 0;
  each_token([&](std::int64_t, int, auto const& u) {
    for (int e = 0; e < experts; ++e) totals[e] += static_cast<double>(detail::normal_cdf(u(e)));
  });
  auto const value = detail::squared_variation(totals, variation::sample, 1.0);
  if (gradient.data != nullptr)
    each_token([&](std::int64_t t, int bound, auto const& u) {
      auto const by_difference = [&](int e) { return static_cast<T>(totals[e]) * detail::normal_density(u(e)) / noise_scale; };
      T by_bound = T(0);
      for (int e = 0; e < experts; ++e) by_bound += by_difference(e);
      detail::priced_row(score::softmax, serial_group{}, z.row(t), experts, [](int e) { return e; }, by_difference, half, gradient.row(t));
      gradient(t, bound) -= half * by_bound;
    });
  return {static_cast<T>(static_cast<double>(first.value) + static_cast<double>(half) * value), {}};
}

}  // namespace moesaic::balance
