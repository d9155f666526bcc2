// The rules over a batch as their definitions have them, on plain vectors: slow, and written without a look at the library's.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <vector>

namespace definitions {

inline constexpr double never = -std::numeric_limits<double>::infinity();

using row = std::vector<double>;
using experts = std::set<int>;
using choice_of_batch = std::vector<std::vector<int>>;     // [tokens] best first

/// What a rule may look at. Rows of tokens that do not count are empty.
struct batch {
  std::vector<row> choice, gain;                           // [tokens][experts], gain as a score
  int experts = 0, k = 0;
};

inline std::vector<int> best(row const& values, int k) {
  std::vector<int> order;
  for (int e = 0; e < static_cast<int>(values.size()); ++e)
    if (values[static_cast<std::size_t>(e)] > never) order.push_back(e);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)]; });
  if (static_cast<int>(order.size()) > k) order.resize(static_cast<std::size_t>(k));
  return order;
}

inline std::vector<int> best_inside(row values, experts const& kept, int k) {
  for (int e = 0; e < static_cast<int>(values.size()); ++e)
    if (!kept.count(e)) values[static_cast<std::size_t>(e)] = never;
  return best(values, k);
}

inline choice_of_batch plain(batch const& b) {
  choice_of_batch all;
  for (auto const& r : b.choice) all.push_back(best(r, b.k));
  return all;
}

inline experts used(choice_of_batch const& all) {
  experts u;
  for (auto const& ids : all) u.insert(ids.begin(), ids.end());
  return u;
}

/// Everybody's best inside what is kept; who finds nothing there keeps the best there is.
inline choice_of_batch inside(batch const& b, experts const& kept) {
  choice_of_batch all;
  for (auto const& r : b.choice) {
    all.push_back(best_inside(r, kept, b.k));
    if (all.back().empty()) all.back() = best(r, 1);
  }
  return all;
}

inline choice_of_batch two_phase(batch const& b, int own) {
  auto few = b;
  few.k = std::min(own, b.k);
  return inside(b, used(plain(few)));
}

/// logs: choices are logarithms already.
inline choice_of_batch marginal(batch const& b, double price, int protect, std::vector<float> const& cost, bool logs) {
  choice_of_batch all;
  experts taken;
  for (auto const& r : b.choice) {
    auto priced = r;
    for (int e = 0; e < static_cast<int>(r.size()); ++e) {
      auto& value = priced[static_cast<std::size_t>(e)];
      if (!logs) value = std::log(value);
      if (!taken.count(e)) value -= price * (cost.empty() ? 1.0 : static_cast<double>(cost[static_cast<std::size_t>(e)]));
    }
    for (int e : best(r, std::min(protect, b.k))) priced[static_cast<std::size_t>(e)] = std::numeric_limits<double>::infinity();
    auto const mine = best(priced, b.k);
    taken.insert(mine.begin(), mine.end());
    all.push_back(best_inside(r, experts(mine.begin(), mine.end()), b.k));
  }
  return all;
}

inline choice_of_batch cap(batch const& b, int most, std::vector<std::int32_t> const& rank) {
  experts kept;
  row sums(static_cast<std::size_t>(b.experts), 0.0);
  for (auto const& r : b.gain)
    for (std::size_t e = 0; e < r.size(); ++e) sums[e] += r[e];
  for (auto const one : std::set<std::int32_t>(rank.begin(), rank.end())) {
    auto of_rank = sums;
    for (std::size_t e = 0; e < sums.size(); ++e)
      if (rank[e] != one) of_rank[e] = never;
    for (int e : best(of_rank, most)) kept.insert(e);
  }
  return inside(b, kept);
}

/// Σ over tokens of the best k gains inside a set.
inline double coverage(batch const& b, experts const& kept) {
  double sum = 0;
  for (auto const& r : b.gain)
    for (int e : best_inside(r, kept, b.k)) sum += r[static_cast<std::size_t>(e)];
  return sum;
}

inline experts greedy_set(batch const& b, int most, double budget, std::vector<float> const& cost, std::vector<std::int32_t> const& rank) {
  experts kept;
  for (;;) {
    double highest = 1e-9;                                 // sums taken in another order differ by less than any gain that counts
    int next = -1;
    for (int e = 0; e < b.experts; ++e) {
      auto const at = static_cast<std::size_t>(e);
      auto const beside = std::count_if(kept.begin(), kept.end(), [&](int other) { return rank[static_cast<std::size_t>(other)] == rank[at]; });
      if (kept.count(e) || beside >= most || static_cast<double>(cost[at]) > budget) continue;
      auto with = kept;
      with.insert(e);
      auto const ratio = (coverage(b, with) - coverage(b, kept)) / static_cast<double>(cost[at]);
      if (ratio > highest + 1e-12) highest = ratio, next = e;
    }
    if (next < 0) return kept;
    kept.insert(next);
    budget -= static_cast<double>(cost[static_cast<std::size_t>(next)]);
  }
}

/// Of the plain choice, each token's shares of what it gains by that.
inline std::vector<row> shares(batch const& b) {
  auto all = b.gain;
  auto const chosen = plain(b);
  for (std::size_t t = 0; t < all.size(); ++t) {
    double sum = 0;
    for (int e : chosen[t]) sum += all[t][static_cast<std::size_t>(e)];
    for (auto& v : all[t]) v /= sum;
  }
  return all;
}

inline choice_of_batch two_prices_refilled(batch const& b, double read, std::vector<float> const& size) {
  auto const share = shares(b);
  auto const chosen = plain(b);
  row sums(static_cast<std::size_t>(b.experts), 0.0);
  for (std::size_t t = 0; t < chosen.size(); ++t)
    for (int e : chosen[t]) sums[static_cast<std::size_t>(e)] += share[t][static_cast<std::size_t>(e)];
  experts kept;
  for (int e = 0; e < b.experts; ++e)
    if (sums[static_cast<std::size_t>(e)] > read * (size.empty() ? 1.0 : static_cast<double>(size[static_cast<std::size_t>(e)]))) kept.insert(e);
  return inside(b, kept);
}

/// Loss of expert e: what its tokens lose if it goes and each takes the next best of those kept.
inline double loss(batch const& b, std::vector<row> const& share, experts const& kept, int gone) {
  double sum = 0;
  for (std::size_t t = 0; t < share.size(); ++t) {
    auto const has = best_inside(b.choice[t], kept, b.k), one_more = best_inside(b.choice[t], kept, b.k + 1);
    if (std::find(has.begin(), has.end(), gone) == has.end()) continue;
    if (one_more.size() == 1) return -never;               // a token's only expert
    auto const next = one_more.size() > has.size() ? share[t][static_cast<std::size_t>(one_more.back())] : 0.0;
    sum += share[t][static_cast<std::size_t>(gone)] - next;
  }
  return sum;
}

struct eliminated {
  experts kept;
  double lost = 0;                                         // Σ of the losses at which experts went
};

/// rounds: shares in percent; none: one expert at a time.
inline eliminated eliminate(batch const& b, double price, std::vector<int> const& rounds, std::vector<float> const& cost) {
  auto const share = shares(b);
  auto const chosen = plain(b);
  eliminated found{used(chosen), 0};
  std::size_t k = 0;
  for (auto const& ids : chosen) k = std::max(k, ids.size());
  for (std::size_t pass = 0; rounds.empty() || pass < rounds.size(); ++pass) {
    std::vector<std::pair<double, int>> below;             // loss less the price, −index: of equals the higher index goes first
    for (int e : found.kept) {
      auto const net = loss(b, share, found.kept, e) - price * (cost.empty() ? 1.0 : static_cast<double>(cost[static_cast<std::size_t>(e)]));
      if (net < 0) below.push_back({net, -e});
    }
    std::sort(below.begin(), below.end());
    auto gone = rounds.empty() ? 1 : (below.size() * static_cast<std::size_t>(rounds[pass]) + 99) / 100;
    gone = std::min({gone, below.size(), found.kept.size() > k ? found.kept.size() - k : 0});
    if (gone == 0) break;
    for (std::size_t i = 0; i < gone; ++i) {
      auto const e = -below[i].second;
      found.lost += loss(b, share, found.kept, e);         // of rounds: not what it was, since others went with it
      found.kept.erase(e);
    }
  }
  return found;
}

}  // namespace definitions
