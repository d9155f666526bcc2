// Attention for random sizes and batches: the formula in double, and bits that depend on a token's own past only.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/config/shapes.hpp>
#include <moesaic/host/attention.hpp>
#include <moesaic/host/rotary.hpp>
#include <support/cache.hpp>
#include <support/compare.hpp>
#include <support/levels.hpp>
#include <support/matrix.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

struct shape {
  int heads, kv_heads, head_dim;
  int value_dim = head_dim;
};
// One kv head for all, one each, groups that do and do not fill a block of rows; widths around multiples of 16.
shape const sizes[] = {{4, 1, 10}, {3, 3, 12}, {6, 2, 16}, {9, 3, 64}, {5, 1, 20}, {8, 8, 34}};

template <class T>
attention_batch<T> random_batch(shape s, std::vector<int> const& lengths, std::vector<std::int32_t> const& first, random_stream& random) {
  auto const tokens = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  attention_batch<T> b{random_matrix<T>(tokens, s.heads * s.head_dim, random),
                       random_matrix<T>(tokens, s.kv_heads * s.head_dim, random),
                       random_matrix<T>(tokens, s.kv_heads * s.value_dim, random),
                       {},
                       {}};
  for (std::size_t n = 0; n < lengths.size(); ++n)
    for (std::int32_t i = 0; i < lengths[n]; ++i) {
      b.sequence.push_back(static_cast<std::int32_t>(n));
      b.position.push_back((first.empty() ? 0 : first[n]) + i);
    }
  return b;
}

template <class T>
bool sees(attention_rule const& rule, attention_batch<T> const& b, std::int64_t token, std::int64_t other) {
  auto const t = static_cast<std::size_t>(token), j = static_cast<std::size_t>(other);
  auto const own = b.position[t], its = b.position[j];
  return b.sequence[j] == b.sequence[t] && its <= own && (rule.window == 0 || own - its < rule.window) &&
         (rule.chunk == 0 || own / rule.chunk == its / rule.chunk);
}

/// The formula, in double.
template <class T>
matrix<double> by_formula(shape s, attention_rule const& rule, attention_batch<T> const& b) {
  matrix<double> out(b.q.rows, s.heads * s.value_dim);
  for (std::int64_t t = 0; t < out.rows; ++t)
    for (int h = 0; h < s.heads; ++h) {
      auto const kv = rule.tiled_kv ? h % s.kv_heads : h / (s.heads / s.kv_heads);
      std::vector<std::int64_t> seen;
      std::vector<double> weight;
      for (std::int64_t j = 0; j < out.rows; ++j) {
        if (!sees(rule, b, t, j)) continue;
        double score = 0;
        for (int d = 0; d < s.head_dim; ++d)
          score += static_cast<double>(b.q(t, h * s.head_dim + d)) * static_cast<double>(b.k(j, kv * s.head_dim + d));
        score *= rule.scale;
        seen.push_back(j), weight.push_back(rule.softcap != 0 ? rule.softcap * std::tanh(score / rule.softcap) : score);
      }
      auto largest = *std::max_element(weight.begin(), weight.end());
      if (!rule.sinks.empty()) largest = std::max(largest, static_cast<double>(rule.sinks[h]));
      double total = rule.sinks.empty() ? 0 : std::exp(static_cast<double>(rule.sinks[h]) - largest);
      for (auto& w : weight) total += w = std::exp(w - largest);
      for (std::size_t i = 0; i < seen.size(); ++i)
        for (int d = 0; d < s.value_dim; ++d)
          out(t, h * s.value_dim + d) += weight[i] / total * static_cast<double>(b.v(seen[i], kv * s.value_dim + d));
    }
  return out;
}
template <class T>
matrix<double> by_formula(shape s, double scale, attention_batch<T> const& b) {
  return by_formula(s, attention_rule{.scale = scale}, b);
}

/// Rules of every axis by itself, and mixed.
struct named_rule {
  char const* name;
  attention_rule rule;
  bool sinks = false;
};
named_rule const named_rules[] = {
    {"softcap", {.scale = 0.5, .softcap = 3}},
    {"window of 1", {.scale = 0.3, .window = 1}},
    {"window", {.scale = 0.3, .window = 7}},
    {"window beyond the context", {.scale = 0.3, .window = 5000}},
    {"window over a block's border", {.scale = 0.3, .window = 200}},
    {"chunk of 1", {.scale = 0.3, .chunk = 1}},
    {"chunk", {.scale = 0.3, .chunk = 37}},
    {"chunk of blocks", {.scale = 0.3, .chunk = 512}},
    {"window in a chunk", {.scale = 0.3, .window = 10, .chunk = 24}},
    {"tiled kv heads", {.scale = 0.3, .tiled_kv = true}},
    {"sinks", {.scale = 0.3}, true},
    {"all at once", {.scale = 0.4, .softcap = 5, .window = 33, .chunk = 50, .tiled_kv = true}, true},
};

/// Of every size a sink may have: none to speak of, as a score, above all scores.
std::vector<float> sinks_of(named_rule const& r, int heads) {
  std::vector<float> sinks;
  for (int h = 0; r.sinks && h < heads; ++h) sinks.push_back(static_cast<float>(h % 4 * 20 - 30));
  return sinks;
}

template <class T>
constexpr dtype natural_storage = dtype_of<T>;

template <class T>
owning_cache cache_for(shape s, std::vector<int> const& lengths, std::vector<std::int32_t> const& first = {}) {
  return owning_cache(natural_storage<T>, static_cast<int>(lengths.size()), s.kv_heads, s.head_dim,
                      *std::max_element(lengths.begin(), lengths.end()) + 1, first, s.value_dim);
}

std::vector<std::int64_t> shuffled(std::int64_t count, random_stream& random) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  for (auto i = count - 1; i > 0; --i) std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(random.below(i + 1))]);
  return order;
}

}  // namespace

TEST_CASE_TEMPLATE("the formula: batches of several sequences, positions from offsets, in any order of tokens", T, double, float, bf16) {
  for (std::uint64_t seed = 1; seed <= (sanitized ? std::size(sizes) : 12); ++seed) {
    random_stream random(seed);
    auto const s = sizes[seed % std::size(sizes)];
    std::vector<int> const lengths = {static_cast<int>(random.below(40)) + 1, 1, static_cast<int>(random.below(70)) + 1};
    std::vector<std::int32_t> const first = {static_cast<std::int32_t>(random.below(1000)), 7, 0};
    CAPTURE(seed);
    auto batch = random_batch<T>(s, lengths, first, random);
    batch = pick(batch, shuffled(batch.q.rows, random));
    host::pool pool(2);
    auto const out = append_and_attend<T>(pool, attention_scale({}, s.head_dim), cache_for<T>(s, lengths, first), batch);
    auto const want = by_formula(s, attention_scale({}, s.head_dim), batch);
    auto const found = compare(out.view(), want.view());
    INFO(to_string(found));
    CHECK(found.worst <= stage_tolerance<T>);
  }
}

TEST_CASE_TEMPLATE("contexts around and beyond a block of keys, large scores", T, double, float, bf16) {
  shape const s{3, 1, 16};
  for (int const length : {31, 32, 33, 511, 512, 513, 1100}) {
    if (sanitized && length > 513) continue;
    random_stream random(static_cast<std::uint64_t>(length));
    CAPTURE(length);
    auto batch = random_batch<T>(s, {length}, {}, random);
    host::pool pool(2);
    auto const scale = 2.0;  // scores up to some tens: blocks shrink what came before
    auto const cache = cache_for<T>(s, {length});
    auto const out = append_and_attend<T>(pool, scale, cache, batch);
    auto const want = by_formula(s, scale, batch);
    auto const found = compare(out.view(), want.view());
    INFO(to_string(found));
    CHECK(found.worst <= stage_tolerance<T>);
  }
}

TEST_CASE_TEMPLATE("token by token, in pieces or all at once, alone or among others, on any number of threads: the same bits", T, double,
                   float, bf16) {
  for (std::uint64_t seed = 1; seed <= std::size(sizes); ++seed) {
    random_stream random(seed);
    auto const s = sizes[seed % std::size(sizes)];
    int const blocks = sanitized && seed != 2 ? 60 : 520;      // of keys: one, or two
    std::vector<int> const lengths = {static_cast<int>(random.below(60)) + blocks, 3, static_cast<int>(random.below(30)) + 1};
    std::vector<std::int32_t> const first = {0, 100, 0};
    CAPTURE(seed);
    auto const batch = random_batch<T>(s, lengths, first, random);
    auto const scale = attention_scale({}, s.head_dim);
    host::pool one(1), three(3);
    auto const whole = append_and_attend<T>(one, scale, cache_for<T>(s, lengths, first), batch);
    auto const threaded = append_and_attend<T>(three, scale, cache_for<T>(s, lengths, first), batch);
    CHECK(same_bits(whole.view(), threaded.view()));

    // Rounds: each takes a random number of the next tokens of every sequence, the sequences in random order.
    auto const cache = cache_for<T>(s, lengths, first);
    std::vector<std::int64_t> next = {0, lengths[0], lengths[0] + lengths[1]};
    auto const ends = std::vector<std::int64_t>{next[1], next[2], next[2] + lengths[2]};
    for (auto round = 0; next != ends; ++round) {
      std::vector<std::int64_t> rows;
      for (auto const n : shuffled(3, random)) {
        auto const i = static_cast<std::size_t>(n);
        for (auto take = round % 2 == 0 ? 1 : random.below(90); take > 0 && next[i] < ends[i]; --take) rows.push_back(next[i]++);
      }
      if (rows.empty()) continue;
      auto const piece = append_and_attend<T>(three, scale, cache, pick(batch, rows));
      for (std::size_t r = 0; r < rows.size(); ++r)
        CHECK(same_bits(view<const T>(&piece(static_cast<std::int64_t>(r), 0), 1, piece.columns),
                        view<const T>(&whole(rows[r], 0), 1, whole.columns)));
    }
  }
}

TEST_CASE("what else lies in the cache does not matter: NaN beyond a token's own slot, and in other sequences") {
  shape const s{6, 2, 10};
  random_stream random(9);
  auto const batch = random_batch<float>(s, {37}, {}, random);
  host::pool pool;
  auto const clean = append_and_attend<float>(pool, 0.3, owning_cache(dtype::bf16, 1, 2, 10, 64), batch);
  owning_cache const dirty(dtype::bf16, 2, 2, 10, 64);
  auto poison = random_batch<float>(s, {64, 64}, {}, random);
  std::fill(poison.k.data.begin(), poison.k.data.end(), std::nanf(""));
  std::fill(poison.v.data.begin(), poison.v.data.end(), std::nanf(""));
  append_and_attend<float>(pool, 0.3, dirty, poison);
  auto const beside = append_and_attend<float>(pool, 0.3, dirty, batch);
  CHECK(same_bits(clean.view(), beside.view()));
}

TEST_CASE("NaN in a query or a key comes out as NaN, for that token and those that see it") {
  shape const s{2, 1, 10};
  random_stream random(10);
  auto batch = random_batch<float>(s, {8}, {}, random);
  batch.k(5, 3) = std::nanf("");
  host::pool pool;
  auto const out = append_and_attend<float>(pool, 0.3, cache_for<float>(s, {8}), batch);
  for (std::int64_t t = 0; t < 8; ++t) CHECK(std::isnan(out(t, 0)) == (t >= 5));
}

TEST_CASE("every level gives the bits of the portable one") {
  for (std::uint64_t seed = 1; seed <= std::size(sizes); ++seed) {
    random_stream random(seed);
    auto const s = sizes[seed % std::size(sizes)];
    std::vector<int> const lengths = {sanitized && seed != 2 ? 60 : 530, static_cast<int>(random.below(50)) + 1};
    CAPTURE(seed);
    auto const check = [&]<class T>(T) {
      auto const batch = random_batch<T>(s, lengths, {}, random);
      host::pool reference(1, host::level::portable);
      auto const want = append_and_attend<T>(reference, 0.25, cache_for<T>(s, lengths), batch);
      for (auto const level : levels()) {
        host::pool pool(1, level);
        auto const got = append_and_attend<T>(pool, 0.25, cache_for<T>(s, lengths), batch);
        CAPTURE(host::name(pool.level()));
        CHECK(same_bits(got.view(), want.view()));
      }
    };
    check(float{});
    check(bf16{});
  }
}

TEST_CASE("after rotation, only distances count: all positions shifted by one amount") {
  shape const s{6, 2, 16};
  for (auto const layout : {rope_layout::half_split, rope_layout::interleaved}) {
    random_stream random(11);
    auto const plain = random_batch<double>(s, {50}, {}, random);
    auto const rotated = [&](std::int32_t shift) {
      auto batch = plain;
      for (auto& p : batch.position) p += shift;
      host::pool pool;
      attention_config const config{.layout = layout};
      host::rotate<double>(pool, config, s.head_dim, batch.position, batch.q.view(), s.heads);
      host::rotate<double>(pool, config, s.head_dim, batch.position, batch.k.view(), s.kv_heads);
      return append_and_attend<double>(pool, 0.25, cache_for<double>(s, {50}, {shift}), batch);
    };
    auto const here = rotated(0), there = rotated(3000);
    auto const found = compare(there.view(), here.view());
    INFO(to_string(found));
    CHECK(found.worst <= stage_tolerance<double>);
  }
}

TEST_CASE_TEMPLATE("every rule, and rules together: the formula, and token by token the same bits", T, double, float, bf16) {
  shape const shapes[] = {{6, 2, 16, 20}, {4, 4, 12, 34}, {5, 1, 34, 10}};
  std::uint64_t seed = 30;
  for (auto const& r : named_rules) {
    random_stream random(++seed);
    CAPTURE(std::string(r.name));
    auto const s = shapes[seed % std::size(shapes)];
    bool const far = std::is_same_v<T, float> && (!sanitized || r.rule.window == 200 || r.rule.chunk == 512);
    std::vector<int> const lengths = {far ? 580 : 60, 1, 41};
    std::vector<std::int32_t> const first = {3, 30, 0};
    auto const sinks = sinks_of(r, s.heads);
    auto rule = r.rule;
    rule.sinks = sinks;
    auto const batch = random_batch<T>(s, lengths, first, random);
    host::pool pool(2);
    auto const whole = append_and_attend<T>(pool, rule, cache_for<T>(s, lengths, first), batch);
    auto const want = by_formula(s, rule, batch);
    auto const found = compare(whole.view(), want.view());
    INFO(to_string(found));
    CHECK(found.worst <= stage_tolerance<T>);

    auto const cache = cache_for<T>(s, lengths, first);
    for (std::int64_t t = 0; t < batch.q.rows;) {
      std::vector<std::int64_t> rows;
      for (auto take = t % 3 == 0 ? 1 : random.below(9) + 1; take > 0 && t < batch.q.rows; --take) rows.push_back(t++);
      auto const piece = append_and_attend<T>(pool, rule, cache, pick(batch, rows));
      for (std::size_t i = 0; i < rows.size(); ++i)
        CHECK(same_bits(view<const T>(piece.view().row(static_cast<std::int64_t>(i)), 1, piece.columns),
                        view<const T>(whole.view().row(rows[i]), 1, whole.columns)));
    }

    auto const keys = std::int64_t{cache.view.max_tokens};
    matrix<accumulator<T>> probabilities(s.heads * batch.q.rows, keys);
    REQUIRE(host::attention_probabilities<T>(pool, rule, cache.view, batch.q.view(), batch.sequence, batch.position, probabilities.view()));
    matrix<double> weighed(whole.rows, whole.columns);
    auto const starts = std::vector<std::int64_t>{0, lengths[0], lengths[0] + lengths[1]};
    for (std::int64_t t = 0; t < batch.q.rows; ++t)
      for (int h = 0; h < s.heads; ++h)
        for (std::int64_t slot = 0; slot < keys; ++slot)
          if (auto const p = static_cast<double>(probabilities(h * batch.q.rows + t, slot)); p != 0)
            for (int d = 0; d < s.value_dim; ++d)
              weighed(t, h * s.value_dim + d) += p * static_cast<double>(batch.v(starts[static_cast<std::size_t>(batch.sequence[static_cast<std::size_t>(t)])] + slot,
                                                                               rule.kv_head(h, s.heads, s.kv_heads) * s.value_dim + d));
    CHECK(compare(whole.view(), std::as_const(weighed).view()).worst <= stage_tolerance<T>);
  }
}

TEST_CASE_TEMPLATE("NaN in keys and values that a window or a chunk hides does not come out, in odd slots neither", T, float, bf16) {
  shape const s{3, 1, 16, 20};
  for (auto const rule : {attention_rule{.scale = 0.3, .window = 3}, attention_rule{.scale = 0.3, .window = 30}, attention_rule{.scale = 0.3, .chunk = 7}})
    for (std::int32_t const bad : {4, 5, 33}) {
      random_stream random(12);
      auto batch = random_batch<T>(s, {70}, {}, random);
      batch.k(bad, 3) = batch.v(bad, 7) = static_cast<T>(std::nanf(""));
      host::pool pool;
      auto const out = append_and_attend<T>(pool, rule, cache_for<T>(s, {70}), batch);
      for (std::int64_t t = 0; t < 70; ++t)
        CHECK(std::isnan(static_cast<float>(out(t, 7))) == (t >= bad && rule.first_seen(t) <= bad));
    }
}

TEST_CASE("every level gives the bits of the portable one, under every rule") {
  shape const s{6, 2, 16, 20};
  for (auto const& r : named_rules) {
    CAPTURE(std::string(r.name));
    random_stream random(13);
    auto const sinks = sinks_of(r, s.heads);
    auto rule = r.rule;
    rule.sinks = sinks;
    auto const batch = random_batch<float>(s, {90}, {}, random);
    host::pool reference(1, host::level::portable);
    auto const want = append_and_attend<float>(reference, rule, cache_for<float>(s, {90}), batch);
    for (auto const level : levels()) {
      host::pool pool(1, level);
      auto const got = append_and_attend<float>(pool, rule, cache_for<float>(s, {90}), batch);
      CHECK(same_bits(got.view(), want.view()));
    }
  }
}

TEST_CASE("softcap, window and sinks that change nothing: the plain bits, or nearly") {
  shape const s{4, 2, 16};
  random_stream random(14);
  auto const batch = random_batch<double>(s, {40}, {}, random);
  host::pool pool;
  auto const run = [&](attention_rule const& rule) { return append_and_attend<double>(pool, rule, cache_for<double>(s, {40}), batch); };
  auto const plain = run({.scale = 0.25});
  std::vector<float> const far(4, -1e4f);
  for (auto const& rule : {attention_rule{.scale = 0.25, .window = 40}, {.scale = 0.25, .chunk = 40}, {.scale = 0.25, .sinks = far}}) {
    auto const same = run(rule);
    CHECK(same_bits(same.view(), plain.view()));
  }
  auto const nearly = run({.scale = 0.25, .softcap = 1e7});
  CHECK(compare(nearly.view(), plain.view()).worst <= stage_tolerance<double>);
}
