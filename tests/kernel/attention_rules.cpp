// Attention by more than a scale, in every kernel: caps, windows, chunks, sinks, tiled kv heads, values of another dimension.
// SPDX-License-Identifier: Apache-2.0
#include "attention.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

std::vector<float> const sinks{0.5f, -1.0f, 2.0f, 0.0f, 1.0f, -0.25f};
/// Of 6 query heads.
struct named_rule {
  const char* name;
  attention_rule rule;
};
named_rule const every_rule[] = {{"softcap", {.scale = 0.5, .softcap = 1.5}},
                                 {"window", {.scale = 0.25, .window = 5}},
                                 {"chunk", {.scale = 0.25, .chunk = 8}},
                                 {"tiled", {.scale = 0.25, .tiled_kv = true}},
                                 {"sinks", {.scale = 0.25, .sinks = sinks}},
                                 {"all", {.scale = 0.5, .softcap = 2, .window = 37, .chunk = 64, .tiled_kv = true, .sinks = sinks}}};
std::vector<std::vector<run>> const batches{{{0, 0, 70}, {1, 2, 3}, {2, 0, 20}}, {{2, 20, 1}, {0, 70, 1}, {1, 5, 1}, {0, 71, 2}}};

}  // namespace

TEST_CASE("every rule, any types") {
  for (auto const& named : every_rule) {
    auto const& rule = named.rule;
    CAPTURE(named.name);
    check_batches<float, dtype::fp32, 20, 12, false>(rule, 2, 3, batches, 80, 1e-5, 90);
  }
}

TEST_CASE("every rule by matrix instructions") {
  for (auto const& named : every_rule) {
    auto const& rule = named.rule;
    CAPTURE(named.name);
    if (rule.softcap != 0) check_batches<bf16, dtype::bf16, 32, 16, false>(rule, 2, 3, batches, 80, stage_tolerance<bf16>, 80);
    check_batches<bf16, dtype::bf16, 32, 16, false>(rule, 2, 3, batches, 80, stage_tolerance<bf16>, 90);
  }
}

TEST_CASE("values wider than keys; a token's keys over a cluster, some of whose blocks see none; more heads a kv head than a tile has rows") {
  std::vector<float> const forty(40, 0.75f);
  check_batches<bf16, dtype::bf16, 16, 48, false>({.scale = 0.5, .softcap = 2, .window = 150, .tiled_kv = true, .sinks = forty}, 2, 20,
                                                  {{{0, 0, 190}}, {{0, 190, 1}}}, 192, stage_tolerance<bf16>, 90);
}

TEST_CASE("a rule that only scales is the plain kernel, bit for bit") {
  under_every_schedule([&](cuda::stream_ref& where) {
    cuda::kv_cache cache{dtype::bf16, 1, 2, 16, 16, 40, nullptr, nullptr};
    host::buffer memory(cuda::bytes(cache));
    cache.data = memory.data();
    random_stream random(57);
    auto const q = random_matrix<bf16>(40, 64, random), kv = random_matrix<bf16>(40, 32, random);
    std::vector<std::int32_t> const sequence(40, 0);
    std::vector<std::int32_t> position(40);
    for (std::int32_t t = 0; t < 40; ++t) position[static_cast<std::size_t>(t)] = t;
    REQUIRE(cuda::append<bf16, dtype::bf16>(where, cache, kv.view(), kv.view(), sequence, position));
    for (std::int64_t const tokens : {1, 40}) {
      auto plain = unwritten<bf16>(tokens, 64), general = unwritten<bf16>(tokens, 64);
      auto const last = static_cast<std::size_t>(40 - tokens);
      view<const bf16> const queries(q.view().row(40 - tokens), tokens, 64);
      list<const std::int32_t> const sequences(sequence.data() + last, tokens), positions(position.data() + last, tokens);
      REQUIRE(cuda::attend<bf16, dtype::bf16, 16, 16, true>(where, {.scale = 0.25}, cache, queries, sequences, positions, plain.view()));
      REQUIRE(cuda::attend<bf16, dtype::bf16, 16, 16, false>(where, {.scale = 0.25}, cache, queries, sequences, positions, general.view()));
      check_bits(general, plain);
      CHECK(!cuda::attend<bf16, dtype::bf16, 16, 16, true>(where, {.scale = 0.25, .window = 4}, cache, queries, sequences, positions, plain.view()));
    }
  });
}

TEST_CASE("what lies outside the window or chunk is not read, and a sink that is not a number shows") {
  auto const finite = [](matrix<bf16> const& m) {
    for (auto const x : m.data)
      if (!(static_cast<float>(x) - static_cast<float>(x) == 0.0f)) return false;
    return true;
  };
  std::vector<float> bad{0.0f, not_a_number<float>};
  for (std::int64_t const tokens : {1, 9}) {
    CAPTURE(tokens);
    under_every_schedule([&](cuda::stream_ref& where) {
      cuda::kv_cache cache{dtype::bf16, 1, 1, 16, 16, 40, nullptr, nullptr};
      host::buffer memory(cuda::bytes(cache));
      cache.data = memory.data();
      random_stream random(56);
      auto const q = random_matrix<bf16>(40, 32, random);
      auto kv = random_matrix<bf16>(40, 16, random);
      for (std::int64_t t = 0; t < 24; ++t) kv(t, t % 16) = static_cast<bf16>(not_a_number<float>);
      std::vector<std::int32_t> const sequence(40, 0);
      std::vector<std::int32_t> position(40);
      for (std::int32_t t = 0; t < 40; ++t) position[static_cast<std::size_t>(t)] = t;
      REQUIRE(cuda::append<bf16, dtype::bf16>(where, cache, kv.view(), kv.view(), sequence, position));
      auto out = unwritten<bf16>(tokens, 32);
      auto const last = 40 - tokens;
      auto const attend = [&](attention_rule const& rule) {
        return cuda::attend<bf16, dtype::bf16, 16, 16>(where, rule, cache, {q.data.data() + last * 32, tokens, 32}, {sequence.data(), tokens},
                                                       {position.data() + last, tokens}, out.view());
      };
      REQUIRE(attend({.scale = 0.25, .window = static_cast<int>(17 - tokens)}));
      CHECK(finite(out));
      REQUIRE(attend({.scale = 0.25, .chunk = 24}));
      CHECK(finite(out));
      REQUIRE(attend({.scale = 0.25, .window = 18}));                                       // the last token alone sees no further than 22
      CHECK(!finite(out));
      REQUIRE(attend({.scale = 0.25, .chunk = 24, .sinks = bad}));
      for (std::int64_t t = 0; t < tokens; ++t) {
        CHECK(static_cast<float>(out(t, 0)) == static_cast<float>(out(t, 0)));
        CHECK(static_cast<float>(out(t, 16)) != static_cast<float>(out(t, 16)));
      }
    });
  }
}

TEST_CASE("probabilities for a tap, of every rule") {
  for (auto const& named : every_rule) {
    auto const& rule = named.rule;
    CAPTURE(named.name);
    owning_cache const reference(dtype::fp32, 1, 2, 16, 40);
    host::pool pool;
    random_stream random(53);
    attention_batch<float> b{random_matrix<float>(37, 96, random), random_matrix<float>(37, 32, random), random_matrix<float>(37, 32, random), {}, {}};
    for (std::int32_t i = 0; i < 37; ++i) b.sequence.push_back(0), b.position.push_back(i);
    append_and_attend<float>(pool, rule, reference, b);
    matrix<float> want(6 * 37, 40);
    REQUIRE(host::attention_probabilities<float>(pool, rule, reference.view, b.q.view(), b.sequence, b.position, want.view()));
    under_every_schedule([&](cuda::stream_ref& where) {
      cuda::kv_cache cache{dtype::fp32, 1, 2, 16, 16, 40, nullptr, nullptr};
      host::buffer memory(cuda::bytes(cache));
      cache.data = memory.data();
      REQUIRE(cuda::append<float, dtype::fp32>(where, cache, b.k.view(), b.v.view(), b.sequence, b.position));
      auto y = unwritten<float>(6 * 37, 40);
      REQUIRE(cuda::attention_probabilities<float, dtype::fp32>(where, rule, cache, b.q.view(), b.sequence, b.position, y.view()));
      check_close(y, want, stage_tolerance<float>);
    });
  }
}
