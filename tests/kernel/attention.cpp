// Attention over the cache, append included: prompts, single tokens and mixtures of both, against the host's.
// SPDX-License-Identifier: Apache-2.0
#include "attention.hpp"

using namespace moesaic;
using namespace moesaic::test;

TEST_CASE("any types, a warp a query") {
  std::vector<std::vector<run>> const batches{{{0, 0, 5}, {1, 2, 1}, {2, 0, 3}}, {{2, 3, 1}, {0, 5, 1}}, {{0, 6, 60}}};
  check_batches<float, dtype::fp32, 20, 20, true>({.scale = 0.3 / 20 * 16}, 2, 3, batches, 80, 1e-5, 90);
  check_batches<float, dtype::bf16, 16, 16, true>({.scale = 0.3 / 16 * 16}, 1, 1, batches, 80, 1e-5, 80);
}

TEST_CASE("prompts and single tokens by matrix instructions") {
  std::vector<std::vector<run>> const batches{{{0, 0, 70}, {1, 2, 3}, {2, 0, 20}}, {{2, 20, 1}, {0, 70, 1}, {1, 5, 1}}, {{1, 6, 130}, {0, 71, 2}}};
  check_batches<bf16, dtype::bf16, 32, 32, true>({.scale = 0.3 / 32 * 16}, 2, 2, batches, 160, stage_tolerance<bf16>, 80);
  check_batches<bf16, dtype::bf16, 32, 32, true>({.scale = 0.3 / 32 * 16}, 2, 2, batches, 160, stage_tolerance<bf16>, 90);
  check_batches<bf16, dtype::bf16, 144, 144, true>({.scale = 0.3 / 144 * 16}, 1, 2, {{{0, 0, 9}}, {{0, 9, 1}}}, 40, stage_tolerance<bf16>, 90);     // wide heads: one stage
  check_batches<bf16, dtype::bf16, 256, 256, true>({.scale = 0.3 / 256 * 16}, 1, 2, {{{0, 0, 9}}, {{0, 9, 1}}}, 40, stage_tolerance<bf16>, 90);
  check_batches<bf16, dtype::bf16, 16, 16, true>({.scale = 0.3 / 16 * 16}, 1, 20, {{{0, 0, 1}}, {{0, 1, 1}, {1, 2, 1}}}, 40, stage_tolerance<bf16>, 90);   // more than 16 heads a kv head
}

TEST_CASE("a long sequence is dealt out to all blocks of a cluster") {
  check_batches<bf16, dtype::bf16, 16, 16, true>({.scale = 0.3 / 16 * 16}, 1, 4, {{{0, 0, 1100}}, {{0, 1100, 1}}}, 1200, stage_tolerance<bf16>, 90);
}

TEST_CASE("a key that is not a number shows, in every kernel") {
  for (std::int64_t const tokens : {1, 10})
    under_every_schedule([&](cuda::stream_ref& where) {
      cuda::kv_cache cache{dtype::bf16, 1, 1, 16, 16, 40, nullptr, nullptr};
      host::buffer memory(cuda::bytes(cache));
      cache.data = memory.data();
      random_stream random(56);
      auto const q = random_matrix<bf16>(40, 32, random);
      auto kv = random_matrix<bf16>(40, 16, random);
      kv(3, 0) = static_cast<bf16>(not_a_number<float>);
      std::vector<std::int32_t> const sequence(40, 0);
      std::vector<std::int32_t> position(40);
      for (std::int32_t t = 0; t < 40; ++t) position[static_cast<std::size_t>(t)] = t;
      REQUIRE(cuda::append<bf16, dtype::bf16>(where, cache, kv.view(), kv.view(), sequence, position));
      auto out = matrix<bf16>(tokens, 32);
      auto const last = 40 - tokens;
      REQUIRE(cuda::attend<bf16, dtype::bf16, 16, 16, true>(where, {.scale = 0.25}, cache, {q.data.data() + last * 32, tokens, 32}, {sequence.data(), tokens},
                                                  {position.data() + last, tokens}, out.view()));
      for (auto const value : out.data) CHECK(static_cast<float>(value) != static_cast<float>(value));
    });
}

TEST_CASE("in one order, a token's bits do not depend on what stands beside it") {
  under_every_schedule([&](cuda::stream_ref&) {
    cuda::basic_stream_ref<cuda::in_one_order<>> where;
    random_stream random(55);
    cuda::kv_cache cache{dtype::bf16, 1, 1, 16, 16, 80, nullptr, nullptr};
    host::buffer memory(cuda::bytes(cache));
    cache.data = memory.data();
    auto const q = random_matrix<bf16>(70, 32, random), kv = random_matrix<bf16>(70, 16, random);
    std::vector<std::int32_t> const sequence(70, 0);
    std::vector<std::int32_t> position(70);
    for (std::int32_t t = 0; t < 70; ++t) position[static_cast<std::size_t>(t)] = t;
    REQUIRE(cuda::append<bf16, dtype::bf16>(where, cache, kv.view(), kv.view(), sequence, position));
    auto together = unwritten<bf16>(70, 32), alone = unwritten<bf16>(1, 32);
    REQUIRE(cuda::attend<bf16, dtype::bf16, 16, 16, true>(where, {.scale = 0.25}, cache, q.view(), sequence, position, together.view()));
    for (std::int64_t const t : {0, 40, 69}) {
      REQUIRE(cuda::attend<bf16, dtype::bf16, 16, 16, true>(where, {.scale = 0.25}, cache, {q.data.data() + t * 32, 1, 32}, {sequence.data(), 1}, {position.data() + t, 1}, alone.view()));
      CHECK(same_bits(view<const bf16>(together.view().row(t), 1, 32), view<const bf16>(alone.view())));
    }
    CHECK(cuda::finish(where));
  });
}

TEST_CASE("a token outside the cache is flagged, writes nothing and attends to nothing") {
  under_every_schedule([&](cuda::stream_ref& where) {
    cuda::kv_cache cache{dtype::bf16, 1, 1, 16, 16, 8, nullptr, nullptr};
    host::buffer memory(cuda::bytes(cache));
    cache.data = memory.data();
    random_stream random(52);
    auto const x = random_matrix<bf16>(3, 16, random);
    std::vector<std::int32_t> const sequence{0, 1, 0}, position{0, 0, 8};
    call_flags flags;
    REQUIRE(cuda::append<bf16, dtype::bf16>(where, cache, x.view(), x.view(), sequence, position, &flags));
    CHECK(flags.site == 1);
    auto out = unwritten<bf16>(3, 16);
    REQUIRE(cuda::attend<bf16, dtype::bf16, 16, 16, true>(where, {.scale = 1.0}, cache, x.view(), sequence, position, out.view()));
    CHECK(same_bits(view<const bf16>(out.data.data(), 1, 16), view<const bf16>(x.data.data(), 1, 16)));   // it sees its own value alone
    for (std::int64_t t = 1; t < 3; ++t)
      for (std::int64_t c = 0; c < 16; ++c) CHECK(static_cast<float>(out(t, c)) == 0.0f);
  });
}

TEST_CASE_TEMPLATE("rotary embedding and append in one launch", T, float, bf16) {
  constexpr int heads = 3, kv_heads = 2, head_dim = 16, value_dim = 10;
  struct rotation {
    rope_layout layout;
    int pairs;                           // of a head; 0 = none turns
  };
  for (auto const [layout, pairs] : {rotation{rope_layout::half_split, 8}, {rope_layout::interleaved, 8}, {rope_layout::half_split, 3}, {rope_layout::interleaved, 0}}) {
    random_stream random(54);
    auto const qk = random_matrix<T>(5, (heads + kv_heads) * head_dim, random), v = random_matrix<T>(5, kv_heads * value_dim, random);
    attention_config const config{.layout = layout, .scaling = {.kind = rope_scaling_kind::yarn, .magnitude = 1.25}};
    std::vector<std::int32_t> const sequence{0, 0, 1, 0, 2}, position{0, 1, 3, 2, 1};          // sequence 2 is not in the cache
    auto const keys = [](matrix<T>& m) { return view<T>(m.data.data() + heads * head_dim, m.rows, kv_heads * head_dim, m.columns); };
    under_every_schedule([&, pairs = pairs](cuda::stream_ref& where) {
      std::vector<double> frequency(static_cast<std::size_t>(pairs));
      if (pairs > 0) cuda::rope_frequencies(where, config, 2 * pairs, frequency);
      auto const table = cuda::rope_of<T>(where, config, head_dim, frequency);
      cuda::kv_cache apart{dtype::bf16, 2, kv_heads, head_dim, value_dim, 4, nullptr, nullptr}, fused = apart;
      host::buffer apart_memory(cuda::bytes(apart)), fused_memory(cuda::bytes(fused));
      apart.data = apart_memory.data();
      fused.data = fused_memory.data();
      auto x = qk, y = qk;
      call_flags flags, wanted;
      cuda::rotate<T>(where, table, position, x.view(), heads + kv_heads);
      REQUIRE(cuda::append<T, dtype::bf16>(where, apart, keys(x), v.view(), sequence, position, &wanted));
      REQUIRE(cuda::rotate_and_append<T, dtype::bf16>(where, table, y.view(), heads + kv_heads, fused, keys(y), v.view(), sequence, position, &flags));
      check_bits(y, x);
      CHECK((pairs > 0) == !same_bits(view<const T>(x.view()), view<const T>(qk.view())));
      // The last value of the last kv head of sequence 1's token, in its own place.
      auto const last = reinterpret_cast<bf16 const*>(fused.data + cuda::bytes(fused)) - 1;
      CHECK(static_cast<float>(*last) == static_cast<float>(static_cast<bf16>(static_cast<float>(v(2, kv_heads * value_dim - 1)))));
      CHECK(std::memcmp(apart_memory.data(), fused_memory.data(), apart_memory.size()) == 0);
      CHECK(flags.site == 1);
      CHECK(wanted.site == 1);
    });
  }
}

TEST_CASE("probabilities for a tap") {
  owning_cache const reference(dtype::fp32, 1, 2, 16, 40);
  host::pool pool;
  random_stream random(53);
  attention_batch<float> b{random_matrix<float>(37, 64, random), random_matrix<float>(37, 32, random), random_matrix<float>(37, 32, random), {}, {}};
  for (std::int32_t i = 0; i < 37; ++i) b.sequence.push_back(0), b.position.push_back(i);
  append_and_attend<float>(pool, 0.25, reference, b);
  matrix<float> want(4 * 37, 40);
  REQUIRE(host::attention_probabilities<float>(pool, {.scale = 0.25}, reference.view, b.q.view(), b.sequence, b.position, want.view()));
  under_every_schedule([&](cuda::stream_ref& where) {
    cuda::kv_cache cache{dtype::fp32, 1, 2, 16, 16, 40, nullptr, nullptr};
    host::buffer memory(cuda::bytes(cache));
    cache.data = memory.data();
    REQUIRE(cuda::append<float, dtype::fp32>(where, cache, b.k.view(), b.v.view(), b.sequence, b.position));
    auto y = unwritten<float>(4 * 37, 40);
    REQUIRE(cuda::attention_probabilities<float, dtype::fp32>(where, {.scale = 0.25}, cache, b.q.view(), b.sequence, b.position, y.view()));
    check_close(y, want, stage_tolerance<float>);
  });
}
