// Rows of experts that are no feed-forward: what a slot of each kind takes instead of two products.
// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <vector>

#include <moesaic/base/random.hpp>
#include <moesaic/host/special_experts.hpp>

#include "report.hpp"

namespace moesaic::bench {
namespace {

constexpr std::int64_t hidden = 4096;

template <class T>
void run(benchmark::State& state, expert_kind kind, std::int64_t slots) {
  host::pool pool(1);
  random_stream random(1);
  std::vector<T> x(static_cast<std::size_t>(slots * hidden)), y(x.size());
  for (auto& v : x) v = static_cast<T>(random.normal());
  std::vector<float> const gate(static_cast<std::size_t>(2 * hidden), 0.001f), value(static_cast<std::size_t>(hidden), 1.5f);
  std::vector<std::int32_t> token_of_slot;
  for (std::int32_t s = 0; s < slots; ++s) token_of_slot.push_back(s);
  std::int32_t const offsets[] = {0, static_cast<std::int32_t>(slots)};
  auto const one = [&](expert_kind which) { return kind == which ? 1 : 0; };
  expert_config const kinds{.zero = one(expert_kind::zero), .copy = one(expert_kind::copy), .constant = one(expert_kind::constant)};
  for (auto _ : state) {
    host::special_experts<T>(pool, kinds, {gate, value}, view<const T>(x.data(), slots, hidden), offsets, token_of_slot.data(),
                             view<T>(y.data(), slots, hidden));
    benchmark::ClobberMemory();
  }
  auto const rows = kind == expert_kind::zero ? 1 : 2;
  auto const operations = kind == expert_kind::constant ? 7 : 0;            // two sums of products, two factors and their sum
  report(state, static_cast<double>(rows) * static_cast<double>(x.size() * sizeof(T)), static_cast<double>(operations * slots * hidden), pool.level());
}

template <class T>
void add(std::string const& type) {
  for (auto const kind : {expert_kind::zero, expert_kind::copy, expert_kind::constant})
    for (std::int64_t const slots : {1, 64})
      benchmark::RegisterBenchmark(row_name("special_experts", name(kind), type + "_hidden4096", slots).c_str(),
                                   [=](benchmark::State& state) { run<T>(state, kind, slots); });
}

bool const added = (add<float>("fp32"), add<bf16>("bf16"), true);

}  // namespace
}  // namespace moesaic::bench
