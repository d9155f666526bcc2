// Costs of random layers and workloads: a second reckoning that counts matrices and pairs one by one, and what must rise and fall.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/base/random.hpp>
#include <moesaic/cost/advise.hpp>
#include <moesaic/cost/traffic.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

int pick(random_stream& random, std::vector<int> const& of) {
  return of[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(of.size())))];
}

block_config random_layer(random_stream& random) {
  block_config c;
  c.hidden = 128 * pick(random, {1, 2, 5});
  c.attention = {.heads = pick(random, {4, 8}), .kv_heads = pick(random, {1, 2, 4}), .head_dim = 2 * pick(random, {8, 16, 33})};
  if (random.below(4) > 0) {
    c.router.experts = pick(random, {1, 2, 8, 60});
    c.router.top_k = 1 + static_cast<int>(random.below(c.router.experts));
    c.shared.intermediate = pick(random, {0, 32, 256});
  }
  c.expert = {.intermediate = 32 * pick(random, {1, 3, 8}),
              .activation = pick(random, {0, 1}) == 0 ? activation::swiglu : activation::relu};
  c.storage = {.weights = pick(random, {0, 1}) == 0 ? dtype::bf16 : dtype::fp32,
               .activations = pick(random, {0, 1}) == 0 ? dtype::bf16 : dtype::fp32};
  return c;
}

machine random_device(random_stream& random) {
  auto const size = [&] { return std::exp2(30 + 12 * random.uniform_double()); };
  return {.bandwidth = size(), .peak = {.fp32 = size(), .bf16 = pick(random, {0, 1}) == 0 ? 0 : size()}, .link = size(), .network = size()};
}

workload random_workload(random_stream& random) {
  workload w{.sequences = 1 + random.below(40), .tokens = 1 + random.below(2) * random.below(300)};
  w.keys = w.tokens + random.below(1000);
  return w;
}

// Nothing but the definition: matrices as (outputs, inputs), one at a time.
struct second_reckoning {
  double bytes = 0, flops = 0, seconds = 0;

  second_reckoning(machine const& d, block_config const& c, workload const& w) {
    auto const kv_heads = c.attention.kv_heads != 0 ? c.attention.kv_heads : c.attention.heads;
    double const width = c.attention.head_dim, hidden = c.hidden, rows = static_cast<double>(w.sequences * w.tokens);
    double const a_byte = c.storage.weights.type == dtype::bf16 ? 2 : 4, of_cache = c.storage.activations == dtype::bf16 ? 2 : 4;
    double const fast = d.peak.bf16 > 0 && c.storage.activations == dtype::bf16 ? d.peak.bf16 : d.peak.fp32;
    double const parts = c.expert.activation == activation::swiglu ? 3 : 2;
    double const q = c.attention.heads * width, kv = kv_heads * width;

    op(d, 2 * hidden * 4, 0, fast);                                                                      // two norms
    op(d, hidden * (2 * q + 2 * kv) * a_byte, rows * 2 * hidden * (2 * q + 2 * kv), fast);               // q, k, v and out
    double seen = 0;
    for (std::int64_t i = 0; i < w.tokens; ++i) seen += static_cast<double>(w.keys - i);
    op(d, static_cast<double>(w.sequences * w.keys) * 2 * kv * of_cache, static_cast<double>(w.sequences) * seen * 4 * q, fast);
    double const experts = std::max(c.router.experts, 1), slots = c.router.experts > 0 ? c.router.top_k : 1;
    double const used = experts * (1 - std::pow(1 - slots / experts, rows));
    if (c.router.experts > 0) op(d, experts * hidden * 4, rows * 2 * experts * hidden, d.peak.fp32);
    op(d, used * parts * hidden * c.expert.intermediate * a_byte, rows * slots * 2 * parts * hidden * c.expert.intermediate, fast);
    op(d, parts * hidden * c.shared.intermediate * a_byte, rows * 2 * parts * hidden * c.shared.intermediate, fast);
  }

 private:
  void op(machine const& d, double read, double computed, double a_second) {
    bytes += read;
    flops += computed;
    seconds += std::max(read / d.bandwidth, computed / a_second);
  }
};

bool near(double value, double expected) { return std::abs(value - expected) <= sum_tolerance<double>(64) * std::abs(expected); }

}  // namespace

TEST_CASE("a roofline is the sum over operators of the longer of reading and computing") {
  random_stream random(20261124);
  for (int i = 0; i < 300; ++i) {
    CAPTURE("seed 20261124");
    CAPTURE(i);
    auto const c = random_layer(random);
    auto const d = random_device(random);
    auto const w = random_workload(random);
    auto const got = roofline(d, c, w).total();
    second_reckoning const expected(d, c, w);
    CHECK(near(got.bytes, expected.bytes));
    CHECK(near(got.flops, expected.flops));
    CHECK(near(got.seconds, expected.seconds));
    CHECK(got.seconds >= std::max(got.reading, got.computing) * (1 - sum_tolerance<double>(64)));

    // What the other headers count: bytes of a decoding step, FLOPs of each token.
    decoder_config const model{.vocabulary = 1000};
    std::vector<block_config> const layers{c, random_layer(random), c};
    std::vector<block_config> alike = layers;
    for (auto& layer : alike) layer.hidden = c.hidden, layer.storage = c.storage;
    auto const step = roofline(d, model, alike, decoding(w.sequences, w.keys)).total();
    CHECK(near(step.bytes, decode_bytes(model, alike, w.sequences, w.keys).total()));
    CHECK(near(step.flops, static_cast<double>(w.sequences * flops(model, alike, w.keys).total())));
  }
}

TEST_CASE("longer batches and longer pasts take longer, a token of a longer batch less; skewed routing is never slower") {
  random_stream random(7);
  for (int i = 0; i < 300; ++i) {
    CAPTURE("seed 7");
    CAPTURE(i);
    auto const c = random_layer(random);
    auto const d = random_device(random);
    auto const w = random_workload(random);
    auto const seconds = [&](workload const& of) { return roofline(d, c, of).total().seconds; };
    auto more = w, older = w;
    more.sequences *= 2;
    older.keys += 100;
    CHECK(seconds(more) >= seconds(w));
    CHECK(seconds(more) <= 2 * seconds(w) * (1 + sum_tolerance<double>(64)));
    CHECK(seconds(older) >= seconds(w));
    CHECK(roofline(reaching(d, 0.5, 0.5), c, w).total().seconds == doctest::Approx(2 * seconds(w)).epsilon(sum_tolerance<double>(64)));

    if (c.router.experts < 2) continue;
    // Shares moved from one expert to another: still top_k in all, each at most 1.
    std::vector<double> shares(static_cast<std::size_t>(c.router.experts), static_cast<double>(c.router.top_k) / c.router.experts);
    auto const moved = std::min(1 - shares[0], shares[1]) * random.uniform_double();
    shares[0] += moved;
    shares[1] -= moved;
    auto skewed = w;
    skewed.distinct = distinct_experts(shares, w.rows());
    CHECK(seconds(skewed) <= seconds(w) * (1 + sum_tolerance<double>(64)));
  }
}

TEST_CASE("break-even is where a scan finds it") {
  random_stream random(11);
  int found = 0;
  for (int i = 0; i < 40; ++i) {
    CAPTURE("seed 11");
    CAPTURE(i);
    auto mixture = random_layer(random);
    mixture.router = {.experts = pick(random, {4, 8, 16}), .top_k = pick(random, {1, 2})};
    auto const dense = dense_twin(mixture, false);
    auto const d = random_device(random);
    auto const overhead = saved_seconds(d, dense, mixture, 1 + random.below(3000)) * random.uniform_double();
    auto const from = break_even_rows(d, dense, mixture, overhead);
    if (from == 0) continue;
    ++found;
    CHECK(saved_seconds(d, dense, mixture, from) > overhead);
    if (from > 1) CHECK(saved_seconds(d, dense, mixture, from - 1) <= overhead);
    for (auto rows = from; rows < 1 << 20; rows *= 2) CHECK(saved_seconds(d, dense, mixture, rows) > overhead);
  }
  CHECK(found > 10);
}

TEST_CASE("bytes of expert parallelism are those of messages counted one by one") {
  random_stream random(13);
  for (int i = 0; i < 20; ++i) {
    CAPTURE("seed 13");
    CAPTURE(i);
    auto c = random_layer(random);
    int const ranks = pick(random, {2, 4, 8}), a_machine = pick(random, {1, 2, 8}), experts = ranks * pick(random, {1, 2, 4});
    c.router = {.experts = experts, .top_k = 1 + static_cast<int>(random.below(experts))};
    auto const t = traffic(c, {.ranks = ranks, .ranks_per_machine = a_machine});

    int const tokens = 4000, machines = (ranks + a_machine - 1) / a_machine;
    double rows = 0, network_rows = 0;
    std::vector<int> order(static_cast<std::size_t>(experts));
    for (int token = 0; token < tokens; ++token) {
      for (int e = 0; e < experts; ++e) order[static_cast<std::size_t>(e)] = e;
      std::vector<bool> rank_used(static_cast<std::size_t>(ranks)), machine_used(static_cast<std::size_t>(machines));
      for (int j = 0; j < c.router.top_k; ++j) {
        std::swap(order[static_cast<std::size_t>(j)], order[static_cast<std::size_t>(j + random.below(experts - j))]);
        auto const rank = order[static_cast<std::size_t>(j)] / (experts / ranks);
        rank_used[static_cast<std::size_t>(rank)] = true;
        machine_used[static_cast<std::size_t>(rank / a_machine)] = true;
      }
      for (int r = 1; r < ranks; ++r) rows += rank_used[static_cast<std::size_t>(r)];
      for (int m = 1; m < machines; ++m) network_rows += machine_used[static_cast<std::size_t>(m)];
    }
    // Five standard deviations: a token's count varies by less than half of what it can be at most.
    auto const five_sigma = 5 * 0.5 * ranks / std::sqrt(static_cast<double>(tokens));
    CHECK(std::abs(rows / tokens - t.rows) < five_sigma);
    CHECK(std::abs(network_rows / tokens - t.network_rows) < five_sigma);
    CHECK(t.rows <= t.copies * (1 + sum_tolerance<double>(64)));
  }
}
