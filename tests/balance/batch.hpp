// A random batch of router logits and what stands beside them -> every loss on it, as functions of one shape that tests can loop over.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <moesaic/base/arena.hpp>
#include <moesaic/base/random.hpp>
#include <moesaic/route/balance.hpp>
#include <moesaic/route/balance_variation.hpp>
#include <moesaic/route/top_k.hpp>
#include <support/matrix.hpp>

namespace moesaic::test {

/// Scratch with memory of its own.
struct owning_scratch {
  std::vector<std::byte> memory;
  balance::scratch of;

  owning_scratch(int experts, int top_k) {
    arena counting;
    balance::scratch::carve(counting, experts, top_k);
    memory.resize(counting.used() + arena::alignment);
    arena carving(memory.data(), memory.size());
    of = balance::scratch::carve(carving, experts, top_k);
  }
};

/// Rows that belong to a token travel together: they can be permuted, and rows of padding put between them.
template <class T>
struct batch {
  int top_k = 0;
  matrix<T> logits, draws, noise, cost;      ///< [tokens, experts]; draws: noise in units of its deviation, `noise`
  matrix<std::int32_t> ids;                  ///< [tokens, top_k]
  std::vector<std::uint8_t> padding;         ///< [tokens]
  std::vector<std::int32_t> sequences{0};    ///< offsets
  std::vector<T> widths;                     ///< [experts]

  std::int64_t tokens() const { return logits.rows; }
  std::int64_t experts() const { return logits.columns; }
  matrix<T> noisy() const {
    auto m = logits;
    for (std::size_t i = 0; i < m.data.size(); ++i) m.data[i] += draws.data[i] * noise.data[i];
    return m;
  }
};

/// Sequences of the given lengths. The ids are chosen by the noisy logits, so that counts are not those of the plain top-k.
template <class T>
batch<T> random_batch(std::vector<int> const& lengths, int experts, int top_k, random_stream& random) {
  std::int64_t tokens = 0;
  batch<T> b;
  for (auto const n : lengths) tokens += n, b.sequences.push_back(static_cast<std::int32_t>(tokens));
  b.top_k = top_k;
  b.logits = random_matrix<T>(tokens, experts, random);
  b.draws = random_matrix<T>(tokens, experts, random);
  b.noise = b.cost = matrix<T>(tokens, experts);
  for (auto& x : b.noise.data) x = static_cast<T>(0.3 + random.uniform_double());
  for (auto& x : b.cost.data) x = static_cast<T>(4 * random.uniform_double());
  b.ids = matrix<std::int32_t>(tokens, top_k);
  auto const noisy = b.noisy();
  for (std::int64_t t = 0; t < tokens; ++t) moesaic::top_k(&noisy(t, 0), experts, top_k, &b.ids(t, 0));
  b.padding.assign(static_cast<std::size_t>(tokens), 0);
  for (int e = 0; e < experts; ++e) b.widths.push_back(static_cast<T>(1 + e));
  return b;
}

/// The same tokens with rows of padding between them, full of what must not be looked at. where[t] = the row of token t.
template <class T>
batch<T> padded(batch<T> const& from, std::vector<std::int64_t>& where, random_stream& random) {
  std::vector<std::int64_t> source;
  batch<T> b = from;
  b.sequences = {0};
  where.clear();
  for (std::size_t s = 0; s + 1 < from.sequences.size(); ++s) {
    for (std::int64_t t = from.sequences[s]; t < from.sequences[s + 1]; ++t) {
      for (auto n = random.below(3); n > 0; --n) source.push_back(-1);
      where.push_back(static_cast<std::int64_t>(source.size()));
      source.push_back(t);
    }
    for (auto n = random.below(3); n > 0; --n) source.push_back(-1);
    b.sequences.push_back(static_cast<std::int32_t>(source.size()));
  }
  auto const spread = [&](auto& to, auto const& rows, auto const& other) {
    to = std::remove_cvref_t<decltype(to)>(static_cast<std::int64_t>(source.size()), rows.columns);
    for (std::size_t r = 0; r < source.size(); ++r)
      for (std::int64_t c = 0; c < rows.columns; ++c) to(static_cast<std::int64_t>(r), c) = source[r] < 0 ? other(c) : rows(source[r], c);
  };
  auto const nan = std::numeric_limits<T>::quiet_NaN();
  spread(b.logits, from.logits, [&](std::int64_t c) { return random.below(2) == 0 ? nan : static_cast<T>(10 * c); });
  spread(b.draws, from.draws, [&](std::int64_t) { return T(1); });
  spread(b.noise, from.noise, [&](std::int64_t) { return T(1); });
  spread(b.cost, from.cost, [&](std::int64_t) { return nan; });
  spread(b.ids, from.ids, [&](std::int64_t c) { return static_cast<std::int32_t>(c); });
  b.padding.clear();
  for (auto const t : source) b.padding.push_back(t < 0 ? 1 : 0);
  return b;
}

/// The same tokens in another order, each sequence by itself. where[t] = the row of token t.
template <class T>
batch<T> permuted(batch<T> const& from, std::vector<std::int64_t>& where, random_stream& random) {
  where.clear();
  for (std::int64_t t = 0; t < from.tokens(); ++t) where.push_back(t);
  for (std::size_t s = 0; s + 1 < from.sequences.size(); ++s)
    for (auto last = from.sequences[s + 1] - 1; last > from.sequences[s]; --last)
      std::swap(where[static_cast<std::size_t>(last)],
                where[static_cast<std::size_t>(from.sequences[s] + random.below(last - from.sequences[s] + 1))]);
  batch<T> b = from;
  auto const move = [&](auto& to, auto const& rows) {
    for (std::int64_t t = 0; t < rows.rows; ++t)
      for (std::int64_t c = 0; c < rows.columns; ++c) to(where[static_cast<std::size_t>(t)], c) = rows(t, c);
  };
  move(b.logits, from.logits), move(b.draws, from.draws), move(b.noise, from.noise), move(b.cost, from.cost), move(b.ids, from.ids);
  return b;
}

/// f(name, loss) for every loss of a batch; loss(batch, gradient or {}) -> balance::loss<T>. Experts must be even in number, and at least
/// top_k. Groups are whole batches, since padding would move their borders.
template <class T, class F>
void each_loss(F const& f) {
  using namespace balance;
  auto const chosen = [](batch<T> const& b, std::vector<std::int64_t>& counts, bool reached = false) {
    choices c{counts};
    auto const experts = static_cast<int>(b.experts());
    auto const done = reached ? count_reached(b.ids.view(), experts, b.padding, c) : count_chosen(b.ids.view(), experts, b.padding, c);
    return done ? c : choices{};
  };
  auto const all = [](batch<T> const& b) { return owning_scratch(static_cast<int>(b.experts()), b.top_k); };
  auto const experts = [](batch<T> const& b) { return std::vector<std::int64_t>(static_cast<std::size_t>(b.experts())); };
  std::vector<std::int64_t> const two(2);

  for (auto const kind : {score::softmax, score::sigmoid, score::sqrt_softplus, score::relu}) {
    auto const with = ", " + std::string(name(kind));
    f("load balance" + with, [&, kind](batch<T> const& b, view<T> g) {
      auto counts = experts(b);
      return load_balance<T>(kind, b.logits.view(), b.padding, chosen(b, counts), b.top_k, T(0.7), g);
    });
    f("sequences" + with, [&, kind](batch<T> const& b, view<T> g) {
      return sequence_balance<T>(kind, b.logits.view(), b.padding, b.sequences, b.top_k, T(0.7), g, all(b).of);
    });
  }
  f("switch", [&](batch<T> const& b, view<T> g) { return switch_balance<T>(b.logits.view(), b.padding, b.tokens() + 1, T(0.7), g, all(b).of); });
  f("devices", [&](batch<T> const& b, view<T> g) {
    auto counts = two;
    return device_balance<T>(score::softmax, b.logits.view(), b.padding, chosen(b, counts), b.top_k, T(0.7), g);
  });
  f("communication", [&](batch<T> const& b, view<T> g) {
    auto counts = two;
    return communication_balance<T>(score::softmax, b.logits.view(), b.padding, chosen(b, counts, true), 2, T(0.7), g);
  });
  f("pooled", [&](batch<T> const& b, view<T> g) {
    auto counts = experts(b);
    auto const other = matrix<T>(b.tokens(), b.experts());             // a second layer, without preferences
    std::vector<view<const T>> const layers{b.logits.view(), other.view()};
    auto unused = other;
    std::vector<view<T>> const gradients{g, unused.view()};
    return pooled_balance<T>(layers, b.padding, chosen(b, counts), T(0.7), g.data == nullptr ? list<const view<T>>{} : gradients);
  });
  f("z", [&](batch<T> const& b, view<T> g) { return z_loss<T>(b.logits.view(), b.padding, T(0.7), g); });
  f("entropy", [&](batch<T> const& b, view<T> g) { return entropy<T>(b.logits.view(), b.padding, T(0.7), g); });
  for (auto const least : {T(4), std::numeric_limits<T>::infinity()})
    f("global entropy" + std::string(least > 4 ? "" : " hinge"), [&, least](batch<T> const& b, view<T> g) {
      return global_entropy<T>(b.logits.view(), b.padding, least, T(0.7), g, all(b).of);
    });
  f("widths", [&](batch<T> const& b, view<T> g) {
    auto counts = experts(b);
    return width_penalty<T>(b.logits.view(), b.padding, chosen(b, counts), b.widths, T(0.7), g);
  });
  f("cost", [&](batch<T> const& b, view<T> g) { return expected_cost<T>(b.logits.view(), b.padding, b.cost.view(), T(0.7), g); });
  f("cost hinge", [&](batch<T> const& b, view<T> g) { return cost_hinge<T>(b.logits.view(), b.padding, b.cost.view(), T(0.5), T(0.7), g); });
  for (auto const kind : {variation::population, variation::sample}) {
    auto const with = kind == variation::sample ? ", sample" : ", population";
    f(std::string("importance of all") + with, [&, kind](batch<T> const& b, view<T> g) {
      return importance<T>(b.logits.view(), b.padding, {}, kind, T(0.7), g, all(b).of);
    });
    f(std::string("importance of the chosen") + with, [&, kind](batch<T> const& b, view<T> g) {
      auto const noisy = b.noisy();
      return importance<T>(noisy.view(), b.padding, b.ids.view(), kind, T(0.7), g, all(b).of);
    });
  }
  f("load", [&](batch<T> const& b, view<T> g) {
    auto const noisy = b.noisy();
    return balance::load<T>(b.logits.view(), noisy.view(), b.noise.view(), b.padding, b.top_k, T(0.7), g, {}, all(b).of);
  });
  f("load and importance of Tutel", [&](batch<T> const& b, view<T> g) {
    auto const noisy = b.noisy();
    return load_importance<T>(b.logits.view(), noisy.view(), T(0.8), b.padding, b.top_k, T(0.7), g, all(b).of);
  });
}

}  // namespace moesaic::test
