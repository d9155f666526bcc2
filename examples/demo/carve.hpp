// What a dense feed-forward did on a text -> experts: a permutation of its neurons and a linear router. No training, a few ridge solves.
// SPDX-License-Identifier: Apache-2.0
//
// Neurons that fire on the same tokens, as far as a linear map of the input can tell, become one expert. The router's logit is the
// predicted logarithm of an expert's share of the residual stream, so exp(logit) adds up over experts and compares over layers and tokens.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include <Eigen/Cholesky>
#include <Eigen/Core>

#include <moesaic/base/random.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/host/pool.hpp>

namespace demo {

using moesaic::list, moesaic::view;
namespace host = moesaic::host;

constexpr std::size_t index(std::integral auto i) { return static_cast<std::size_t>(i); }

/// How neurons are dealt to experts: by what a router can predict of them; or, to compare with, as they lie or at random.
enum class split : std::uint8_t { learned, contiguous, random };

/// What to carve: routed experts of these widths, and `shared` neurons that always run. Widths and shared add up to the layer's.
struct carving {
  std::vector<int> widths;
  int shared = 0;
  split by = split::learned;
  std::uint64_t seed = 0;              ///< of a random split
};

/// `experts` equal parts of a layer, the first `shared` of them for the neurons that always run.
inline carving equal_parts(int intermediate, int experts, int shared, split by = split::learned) {
  int const width = intermediate / experts;
  return {std::vector<int>(index(experts - shared), width), shared * width, by};
}

struct carved_layer {
  std::vector<std::int32_t> neurons;   ///< [intermediate] those of expert 0, of expert 1, ..., of the shared one
  std::vector<float> router_weight;    ///< [experts, hidden]
  std::vector<float> router_bias;      ///< [experts]
  std::vector<float> mean_energy;      ///< [experts] over the calibration tokens, in the unit
  float unit = 1;                      ///< of energy: the residual stream's, geometric mean over the tokens
};

namespace detail {

using matrix = Eigen::MatrixXd;
using vector = Eigen::VectorXd;
using rows = Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;

/// Sum over blocks of rows of f(first, count), each a matrix, in one order whatever the threads.
template <class F>
matrix sum_over_blocks(host::pool& where, std::int64_t total, F&& f) {
  constexpr std::int64_t block = 1024;
  std::vector<matrix> parts(index((total + block - 1) / block));
  where.for_each(static_cast<std::int64_t>(parts.size()), [&](std::int64_t i) {
    parts[index(i)] = f(i * block, std::min(block, total - i * block));
  });
  for (std::size_t i = 1; i < parts.size(); ++i) parts[0] += parts[i];
  return parts[0];
}

/// Indices 0 .. n−1 by falling key; of equals the lower index first. keys [n].
template <class Key>
std::vector<std::int32_t> by_falling(Key const* keys, std::int64_t n) {
  std::vector<std::int32_t> order(index(n));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return keys[a] != keys[b] ? keys[a] > keys[b] : a < b; });
  return order;
}

}  // namespace detail

/// Linear regression on what a layer's feed-forward reads: any number of targets, one factorisation. The penalty is a tenth of the mean
/// variance of an input. Shared by all carvings of a layer.
class ridge {
 public:
  /// x [tokens, hidden], contiguous; centred in place, and must outlive this.
  ridge(host::pool& where, view<float> x) : where_(where), x_(x.data, x.rows, x.columns) {
    auto const count = static_cast<double>(x.rows);
    mean_ = detail::sum_over_blocks(where, x.rows, [&](std::int64_t first, std::int64_t n) -> detail::matrix {
              return x_.middleRows(first, n).cast<double>().colwise().sum().transpose();
            }) / count;
    covariance_ = detail::sum_over_blocks(where, x.rows, [&](std::int64_t first, std::int64_t n) -> detail::matrix {
      for (auto t = first; t < first + n; ++t)
        for (std::int64_t k = 0; k < x.columns; ++k) x(t, k) = static_cast<float>(x(t, k) - mean_[k]);
      Eigen::MatrixXf part = Eigen::MatrixXf::Zero(x.columns, x.columns);
      part.selfadjointView<Eigen::Lower>().rankUpdate(x_.middleRows(first, n).transpose());
      return part.cast<double>();
    }) / count;
    solve_.compute(penalised(0.1));
  }

  host::pool& where() const { return where_; }
  detail::vector const& mean() const { return mean_; }

  /// Covariance of x with each target, from Xcᵀ y [hidden, targets] -> weights [hidden, targets].
  detail::matrix weights(detail::matrix const& cross) const { return solve_.solve(cross / static_cast<double>(x_.rows())); }

  /// Xcᵀ y for dense targets [tokens, targets].
  detail::matrix cross(detail::matrix const& targets) const {
    return detail::sum_over_blocks(where_, x_.rows(), [&](std::int64_t first, std::int64_t n) -> detail::matrix {
      return x_.middleRows(first, n).transpose().cast<double>() * targets.middleRows(first, n);
    });
  }

  /// Xcᵀ y for targets that are 0 or 1 and mostly 0. ones[t]: the targets that are 1 at token t.
  detail::matrix cross(std::vector<std::vector<std::int32_t>> const& ones, std::int64_t targets) const {
    constexpr std::int64_t strip = 32;                     // columns of x at a time: the sums of all targets stay in the cache
    detail::matrix out(x_.cols(), targets);
    where_.for_each((x_.cols() + strip - 1) / strip, [&](std::int64_t task) {
      auto const first = task * strip, n = std::min(strip, static_cast<std::int64_t>(x_.cols()) - first);
      detail::matrix sums = detail::matrix::Zero(strip, targets);
      for (std::int64_t t = 0; t < x_.rows(); ++t) {
        double x[strip] = {};
        for (std::int64_t k = 0; k < n; ++k) x[k] = x_(t, first + k);
        for (auto const i : ones[index(t)]) {
          double* const sum = sums.col(i).data();
          for (std::int64_t k = 0; k < strip; ++k) sum[k] += x[k];
        }
      }
      out.middleRows(first, n) = sums.topRows(n);
    });
    return out;
  }

  /// Directions w_i of x [hidden, n] -> columns of length 1 whose dot products are the correlations of w_i · x.
  detail::matrix whitened(detail::matrix const& directions) const {
    Eigen::LLT<detail::matrix> const root(penalised(1e-6));
    detail::matrix out = root.matrixL().transpose() * directions;
    return out.colwise().normalized();
  }

 private:
  detail::matrix penalised(double strength) const {
    detail::matrix sum = covariance_;
    sum.diagonal().array() += strength * covariance_.diagonal().mean();
    return sum;
  }

  host::pool& where_;
  detail::rows x_;
  detail::vector mean_;
  detail::matrix covariance_;          // lower triangle
  Eigen::LLT<detail::matrix> solve_;
};

namespace detail {

/// Clusters of given widths: feature [dimensions, n], columns of length 1, the most active first -> cluster of each column. Columns choose
/// in order of how decided they are; a full cluster takes no more.
inline std::vector<int> balanced_clusters(matrix const& feature, std::vector<int> const& widths, int rounds = 8) {
  auto const n = feature.cols(), clusters = static_cast<Eigen::Index>(widths.size());
  matrix centre(feature.rows(), clusters);
  for (Eigen::Index g = 0, first = 0; g < clusters; first += widths[index(g++)]) centre.col(g) = feature.col(first);

  std::vector<int> label;
  for (int round = 0; round < rounds; ++round) {
    vector const half_square = 0.5 * centre.colwise().squaredNorm().transpose();
    matrix const similarity = (centre.transpose() * feature).colwise() - half_square;   // [clusters, n]
    std::vector<std::vector<std::int32_t>> wish(index(n));
    std::vector<double> decided(index(n));
    for (Eigen::Index i = 0; i < n; ++i) {
      double const* const of = similarity.col(i).data();
      auto const& order = wish[index(i)] = by_falling(of, clusters);
      decided[index(i)] = clusters > 1 ? of[order[0]] - of[order[1]] : 0;
    }
    auto room = widths;
    std::vector<int> next(index(n));
    for (auto const i : by_falling(decided.data(), n)) {
      auto const& order = wish[index(i)];
      auto const g = *std::find_if(order.begin(), order.end(), [&](auto c) { return room[index(c)] > 0; });
      --room[index(g)];
      next[index(i)] = g;
    }
    if (next == label) break;
    label = std::move(next);
    centre.setZero();
    for (Eigen::Index i = 0; i < n; ++i) centre.col(label[index(i)]) += feature.col(i);
    for (Eigen::Index g = 0; g < clusters; ++g) centre.col(g) /= widths[index(g)];
  }
  return label;
}

/// The neurons that count as active at each token, the strongest tenth of them: strength [tokens, intermediate].
inline std::vector<std::vector<std::int32_t>> active_neurons(host::pool& where, view<const float> strength) {
  auto const weaker = strength.columns - strength.columns / 10;
  std::vector<std::vector<std::int32_t>> active(index(strength.rows));
  where.for_each(strength.rows, [&](std::int64_t t) {
    auto const* const row = strength.row(t);
    std::vector<float> sorted(row, row + strength.columns);
    auto const limit = sorted.begin() + (weaker - 1);
    std::nth_element(sorted.begin(), limit, sorted.end());
    for (std::int32_t i = 0; i < strength.columns; ++i)
      if (row[i] > *limit) active[index(t)].push_back(i);
  });
  return active;
}

/// Experts' neurons, each in ascending order, and the shared ones last.
inline std::vector<std::int32_t> learned_split(ridge const& fit, view<const float> strength, carving const& how) {
  auto active = active_neurons(fit.where(), strength);
  std::vector<std::int32_t> times(index(strength.columns));
  for (auto const& neurons : active)
    for (auto const i : neurons) ++times[index(i)];
  auto order = by_falling(times.data(), strength.columns);
  std::sort(order.begin(), order.begin() + how.shared);
  std::rotate(order.begin(), order.begin() + how.shared, order.end());         // routed, most active first; then shared
  auto const routed = strength.columns - how.shared;

  std::vector<std::int32_t> place(order.size());
  for (std::size_t i = 0; i < order.size(); ++i) place[index(order[i])] = static_cast<std::int32_t>(i);
  for (auto& neurons : active) {
    for (auto& i : neurons) i = place[index(i)];
    std::erase_if(neurons, [&](auto i) { return i >= routed; });
  }
  auto const label = balanced_clusters(fit.whitened(fit.weights(fit.cross(active, routed))), how.widths);
  auto const key = [&](auto neuron) { return std::pair(label[index(place[index(neuron)])], neuron); };
  std::sort(order.begin(), order.begin() + routed, [&](auto a, auto b) { return key(a) < key(b); });
  return order;
}

/// 0 .. n−1 in order, or shuffled: routed, then shared.
inline std::vector<std::int32_t> blind_split(std::int64_t n, carving const& how) {
  std::vector<std::int32_t> order(index(n));
  std::iota(order.begin(), order.end(), 0);
  moesaic::random_stream random(how.seed);
  for (auto i = n; how.by == split::random && i > 1; --i) std::swap(order[index(i - 1)], order[index(random.below(i))]);
  std::rotate(order.begin(), order.begin() + how.shared, order.end());
  return order;
}

}  // namespace detail

/// Carves one layer. strength [tokens, intermediate], of the tokens of `fit`: |neuron| · length of its column of `down`, how much each
/// neuron moves the stream. unit: the stream's energy.
inline carved_layer carve_layer(ridge const& fit, view<const float> strength, double unit, carving const& how) {
  constexpr double least_energy = 1e-12;
  auto const experts = static_cast<std::int64_t>(how.widths.size());
  carved_layer out;
  out.unit = static_cast<float>(unit);
  out.neurons = how.by == split::learned ? detail::learned_split(fit, strength, how) : detail::blind_split(strength.columns, how);

  detail::matrix energy(strength.rows, experts), target(strength.rows, experts);
  fit.where().for_each(strength.rows, [&](std::int64_t t) {
    auto const* neuron = out.neurons.data();
    for (std::int64_t e = 0; e < experts; ++e) {
      double sum = 0;
      for (int i = 0; i < how.widths[index(e)]; ++i) {
        double const s = strength(t, *neuron++);
        sum += s * s;
      }
      energy(t, e) = sum / unit;
      target(t, e) = std::log(std::max(energy(t, e), least_energy));
    }
  });
  detail::vector const mean = target.colwise().mean();
  detail::matrix const weight = fit.weights(fit.cross(target));   // [hidden, experts]; x is centred, so the targets need not be
  for (std::int64_t e = 0; e < experts; ++e) {
    for (std::int64_t k = 0; k < weight.rows(); ++k) out.router_weight.push_back(static_cast<float>(weight(k, e)));
    out.router_bias.push_back(static_cast<float>(mean[e] - weight.col(e).dot(fit.mean())));
    out.mean_energy.push_back(static_cast<float>(energy.col(e).mean()));
  }
  return out;
}

}  // namespace demo
