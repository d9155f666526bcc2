// Latent attention on the CUDA backend as an op: both forms, by plain loads and by matrix instructions, against the host's absorbed form.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include <moesaic/cuda/latent.hpp>
#include <moesaic/cuda/pack.hpp>
#include <moesaic/host/latent.hpp>
#include <moesaic/host/pack.hpp>

#include "schedules.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

template <int Heads, int HeadDim, int RopeDim, int ValueDim, int Rank>
struct widths {
  static constexpr latent_shape value{Heads, HeadDim, RopeDim, ValueDim, Rank};
};
using narrow = widths<3, 16, 16, 32, 64>;          // 16 rows of a matrix
using deepseek = widths<2, 128, 64, 128, 512>;

/// Tokens of a batch: `count` of a sequence from a position on.
struct run {
  std::int32_t sequence, first, count;
};
struct sites {
  std::vector<std::int32_t> sequence, position;
  explicit sites(std::vector<run> const& runs) {
    for (auto const& r : runs)
      for (std::int32_t i = 0; i < r.count; ++i) sequence.push_back(r.sequence), position.push_back(r.first + i);
  }
  std::int64_t size() const { return static_cast<std::int64_t>(sequence.size()); }
};

/// Weights of every head and three sequences' caches that are full, in both backends; the second sequence begins at position 2.
template <class Shape, class T, dtype Stored, dtype W = dtype::bf16>
struct op {
  static constexpr latent_shape s = Shape::value;
  static constexpr double scale = 0.1;
  int max_tokens;
  std::vector<std::int32_t> const starts{0, 2, 0};
  std::vector<moesaic::host::buffer> memory;
  attention_weights on_host, on_device;
  host::latent_cache host_cache;
  cuda::latent_cache cache;

  explicit op(int tokens, std::uint64_t seed = 3) : max_tokens(tokens) {
    random_stream random(seed);
    cuda::stream_ref where;
    matrix<float> const keys = weights(s.head_dim, random), values = weights(s.value_dim, random);
    pack(where, &attention_weights::key_up, s.head_dim, s.rank, [&](std::int64_t h, std::int64_t o, std::int64_t i) { return keys(h * s.head_dim + o, i); });
    pack(where, &attention_weights::key_up_transposed, s.rank, s.head_dim,
         [&](std::int64_t h, std::int64_t o, std::int64_t i) { return keys(h * s.head_dim + i, o); });
    pack(where, &attention_weights::value_up, s.value_dim, s.rank, [&](std::int64_t h, std::int64_t o, std::int64_t i) { return values(h * s.value_dim + o, i); });
    host_cache = {Stored, 3, s.rank, s.rope_dim, max_tokens, nullptr, starts};
    cache = {Stored, 3, s.rank, s.rope_dim, max_tokens, nullptr, starts.data()};
    memory.emplace_back(host::bytes(host_cache));
    cache.data = host_cache.data = memory.back().data();
    auto* const slots = reinterpret_cast<scalar_of<Stored>*>(host_cache.data);
    for (std::int64_t i = 0; i < 3 * max_tokens * s.slot_dim(); ++i) slots[i] = static_cast<scalar_of<Stored>>(random.normal());
  }

  matrix<T> on_host_of(sites const& at, matrix<T> const& q, latent_form form) const {
    host::pool pool;
    auto out = unwritten<T>(q.rows, s.heads * s.value_dim);
    moesaic::host::buffer work;
    REQUIRE(host::attend_latent<T, W, Stored>(pool, form, scale, s, host_cache, on_host, q.view(), at.sequence, at.position, carved(work, q.rows), out.view()));
    return out;
  }
  template <class Tuning>
  matrix<T> operator()(cuda::basic_stream_ref<Tuning>& where, sites const& at, matrix<T> const& q, latent_form form,
                       std::vector<std::int32_t>* block_of_token = nullptr) const {
    auto out = unwritten<T>(q.rows, s.heads * s.value_dim);
    moesaic::host::buffer work;
    auto const m = carved(work, q.rows);
    auto const done = cuda::attend_latent<T, W, Stored, Shape>(where, form, scale, s, cache, on_device, q.view(), at.sequence, at.position, m, out.view());
    REQUIRE_MESSAGE(done, to_string(done));
    REQUIRE(cuda::finish(where));
    if (block_of_token != nullptr) {
      auto const plan = cuda::latent_plan::of(m.plan.data, q.rows, latent_memory<T>::tokens);
      block_of_token->assign(plan.block_of_token, plan.block_of_token + q.rows);
    }
    return out;
  }
  latent_memory<T> carved(moesaic::host::buffer& work, std::int64_t tokens) const {
    arena counting;
    latent_memory<T>::carve(counting, s, tokens);
    work = moesaic::host::buffer(counting.used());
    arena over(work.data(), work.size());
    return latent_memory<T>::carve(over, s, tokens);
  }
  matrix<T> queries(sites const& at, std::uint64_t seed = 5) const {
    random_stream random(seed);
    return random_matrix<T>(at.size(), s.heads * s.key_dim(), random);
  }

 private:
  static matrix<float> weights(int dim, random_stream& random) {
    auto m = random_matrix<float>(std::int64_t{s.heads} * dim, s.rank, random);
    for (auto& x : m.data) x = static_cast<float>(static_cast<bf16>(x / 8));
    return m;
  }
  template <class F>
  void pack(cuda::stream_ref& where, packed_matrix attention_weights::*which, std::int64_t outputs, std::int64_t inputs, F const& element) {
    packed_matrix m{W, outputs, inputs, 1, s.heads, nullptr};
    auto& host_memory = memory.emplace_back(static_cast<std::size_t>(packed::bytes(m)));
    auto* const of_host = host_memory.data();
    auto* const of_device = memory.emplace_back(static_cast<std::size_t>(packed::bytes(m))).data();
    auto for_device = m;
    for_device.data = of_device;
    for (std::int64_t h = 0; h < m.count; ++h) {
      auto const source = [&](int, std::int64_t output, float* row) {
        for (std::int64_t i = 0; i < inputs; ++i) row[i] = element(h, output, i);
      };
      host::pack<W>(m, h, source, of_host);
      cuda::pack<W>(where, for_device, h, source);
    }
    m.data = of_host;
    on_host.*which = m, on_device.*which = for_device;
  }
};

template <class T>
inline constexpr double tolerance = std::is_same_v<T, bf16> ? long_stage_tolerance<T> : stage_tolerance<T>;

/// Expanded = absorbed = host, for every batch and architecture.
template <class Op, class T>
void check_forms(Op const& attend, std::vector<std::vector<run>> const& batches, std::initializer_list<int> architectures, T,
                 std::initializer_list<latent_form> forms = {latent_form::absorbed, latent_form::expanded}) {
  for (auto const& batch : batches) {
    sites const at(batch);
    auto const q = attend.queries(at);
    auto const want = attend.on_host_of(at, q, latent_form::absorbed);
    check_close(attend.on_host_of(at, q, latent_form::expanded), want, tolerance<T>);
    for (int const architecture : architectures)
      for (auto const form : forms) {
        INFO(name(form), ", ", at.size(), " tokens, architecture ", architecture);
        under_every_schedule([&](cuda::stream_ref& where) { check_close(attend(where, at, q, form), want, tolerance<T>); }, architecture);
      }
  }
}

}  // namespace

TEST_CASE("both forms of bf16, by matrix instructions and without") {
  op<narrow, bf16, dtype::bf16> const attend(140);
  // The first positions, and runs over two passes; more than 64 tokens, of which some are absorbed and others see three tiles.
  check_forms(attend, {{{0, 0, 1}, {1, 2, 2}}}, {90}, bf16());
  check_forms(attend, {{{2, 127, 5}, {0, 139, 1}}}, {75, 80}, bf16());
  check_forms(attend, {{{0, 73, 67}, {1, 90, 1}, {2, 40, 3}}}, {80}, bf16(), {latent_form::by_shape});
}

TEST_CASE("both forms of fp32, and of bf16 over a cache of fp32") {
  check_forms(op<narrow, float, dtype::fp32>(140), {{{0, 0, 1}, {2, 130, 3}, {1, 2, 1}}}, {80}, float());
  check_forms(op<narrow, bf16, dtype::fp32>(140), {{{2, 130, 3}, {1, 2, 1}}}, {80}, bf16());
}

TEST_CASE("latents of 512 and 64") {
  op<deepseek, bf16, dtype::bf16> const attend(80);
  sites const at({{1, 40, 1}, {0, 0, 1}, {2, 79, 1}});
  auto const q = attend.queries(at);
  auto const want = attend.on_host_of(at, q, latent_form::absorbed);
  for (int const architecture : {80, 90})
    under_every_schedule([&](cuda::stream_ref& where) { check_close(attend(where, at, q, latent_form::absorbed), want, tolerance<bf16>); }, architecture);
  under_every_schedule([&](cuda::stream_ref& where) { check_close(attend(where, at, q, latent_form::expanded), want, tolerance<bf16>); });
}

namespace {
/// As many heads as fill and do not fill a tile of `Rows`, against plain loops.
template <int Rows, int Cluster>
void check_rows(int heads) {
  CAPTURE(Rows);
  CAPTURE(Cluster);
  constexpr int rank = 512, rope = 64, slot_dim = rank + rope, key_dim = 80, slots = 300;
  random_stream random(17);
  auto const cached = random_matrix<bf16>(slots, slot_dim, random), query = random_matrix<bf16>(2, heads * slot_dim, random);
  auto const q = random_matrix<bf16>(2, heads * key_dim, random);
  auto const number = [](bf16 x) { return static_cast<double>(static_cast<float>(x)); };
  std::vector<std::int32_t> const sequence{0, 0}, position{slots - 1, 0};
  float const scale = 0.05f;                             // of 2^x
  matrix<float> want(2, heads * rank);
  for (std::int64_t t = 0; t < 2; ++t)
    for (std::int64_t h = 0; h < heads; ++h) {
      std::vector<double> weight;
      double total = 0;
      for (std::int64_t j = 0; j <= position[static_cast<std::size_t>(t)]; ++j) {
        double score = 0;
        for (int d = 0; d < slot_dim; ++d)
          score += number(d < rank ? query(t, h * slot_dim + d) : q(t, (h + 1) * key_dim - slot_dim + d)) * number(cached(j, d));
        weight.push_back(std::exp2(score * static_cast<double>(scale)));
        total += weight.back();
      }
      for (int d = 0; d < rank; ++d) {
        double sum = 0;
        for (std::size_t j = 0; j < weight.size(); ++j) sum += weight[j] * number(cached(static_cast<std::int64_t>(j), d));
        want(t, h * rank + d) = static_cast<float>(sum / total);
      }
    }
  under_every_schedule([&](cuda::stream_ref& where) {
    auto out = unwritten<bf16>(2, heads * rank);
    cuda::latent_cache cache{dtype::bf16, 1, rank, rope, slots, reinterpret_cast<std::byte*>(const_cast<bf16*>(cached.data.data())), nullptr};
    REQUIRE(cuda::launch<cuda::attend_latents<Rows, rank, rope, Cluster>>(
        where, {.x = 2 * Cluster, .y = static_cast<unsigned>((heads + Rows - 1) / Rows), .cluster = Cluster, .early = true},
        {cache, query.view(), q.view(), out.view(), sequence.data(), position.data(), nullptr, scale, heads, slot_dim, key_dim, rank}));
    check_close(out, want, stage_tolerance<bf16>);
  });
}
}  // namespace

TEST_CASE("heads as rows of a matrix, tiles that they do not fill") {
  check_rows<64, 8>(66);
  check_rows<64, 1>(40);
  check_rows<32, 8>(20);
}

TEST_CASE("a device takes the form by shape that the host takes") {
  op<narrow, bf16, dtype::bf16> const attend(400);
  constexpr auto s = narrow::value;
  // Beside one another: a prompt, single tokens, pieces short and long of long contexts, one token at its first position.
  std::vector<run> const runs{{0, 0, 30}, {1, 300, 1}, {2, 350, 4}, {1, 2, 1}, {0, 340, 60}, {2, 9, 2}};
  sites const at(runs);
  auto const q = attend.queries(at);
  auto const want = attend.on_host_of(at, q, latent_form::by_shape);
  cuda::stream_ref where;
  std::vector<std::int32_t> blocks;
  check_close(attend(where, at, q, latent_form::by_shape, &blocks), want, tolerance<bf16>);
  std::size_t t = 0;
  int expanded = 0;
  for (auto const& r : runs) {
    auto const slots = r.first + r.count - attend.starts[static_cast<std::size_t>(r.sequence)];
    bool const wanted = r.count > 1 && latent_form_of(s, latent_form::by_shape, r.count, slots) == latent_form::expanded;
    expanded += wanted;
    for (std::int32_t i = 0; i < r.count; ++i, ++t) CHECK((blocks[t] >= 0) == wanted);
  }
  CHECK((expanded > 0 && expanded < static_cast<int>(runs.size())));
  for (auto const& finding : device_model::take_findings()) FAIL_CHECK(finding);
}

TEST_CASE("a shape says from how many tokens on a call looks for runs that expanding pays") {
  constexpr auto s = deepseek::value;
  constexpr auto least = cuda::latent_tuning::expand_tokens(s);
  CHECK(least == 171);
  CHECK(latent_form_of(s, latent_form::by_shape, least, 1 << 20) == latent_form::expanded);
  CHECK(latent_form_of(s, latent_form::by_shape, least - 1, 1 << 20) == latent_form::absorbed);
  CHECK(cuda::latent_tuning::expand_tokens(narrow::value) == 64);
  CHECK(cuda::latent_tuning::expand_tokens({2, 128, 0, 128, 128}) == 0);   // a slot is as wide as a key and a value: nothing is saved
}

TEST_CASE("a call launches a plan only if it has tokens enough") {
  op<narrow, bf16, dtype::bf16> const attend(80);
  for (std::int32_t const tokens : {63, 64}) {
    sites const at({{0, 0, tokens}});
    moesaic::host::buffer work;
    auto const m = attend.carved(work, tokens);
    auto const q = attend.queries(at);
    m.plan.data[0] = -7;
    auto out = unwritten<bf16>(tokens, narrow::value.heads * narrow::value.value_dim);
    cuda::stream_ref where;
    REQUIRE(cuda::attend_latent<bf16, dtype::bf16, dtype::bf16, narrow>(where, latent_form::by_shape, 0.1, narrow::value, attend.cache, attend.on_device,
                                                                         q.view(), at.sequence, at.position, m, out.view()));
    REQUIRE(cuda::finish(where));
    CHECK((m.plan.data[0] == -7) == (tokens < 64));
  }
}

namespace {
/// Of some hundred runs, as plain loops plan them.
struct planned {
  std::vector<std::int32_t> first_token, slots, block, block_of_token, absorbed;
  std::int32_t blocks = 0;

  planned(latent_shape const& s, latent_form form, std::vector<std::int32_t> const& sequence, std::vector<std::int64_t> const& slot, std::int64_t room) {
    auto const tokens = sequence.size();
    absorbed.resize(2 * ((tokens + 63) / 64));
    std::int32_t at = 0;
    for (std::size_t begin = 0, end = 0; begin < tokens; begin = end) {
      std::int64_t sees = 0;
      for (end = begin; end < tokens && sequence[end] == sequence[begin]; ++end) sees = std::max(sees, slot[end] + 1);
      auto const count = static_cast<std::int64_t>(end - begin);
      bool const pays = form == latent_form::expanded || (count > 1 && latent_form_of(s, form, count, slot[end - 1] + 1) == latent_form::expanded);
      first_token.push_back(static_cast<std::int32_t>(begin));
      block.push_back(at);
      if (pays) at += static_cast<std::int32_t>(std::max<std::int64_t>(1, (sees + 63) / 64));
      bool const taken = pays && at <= room;
      slots.push_back(taken ? static_cast<std::int32_t>(sees) : -1);
      if (taken) blocks = at;
      for (auto t = begin; t < end; ++t) {
        block_of_token.push_back(taken ? block.back() : -1);
        if (!taken) absorbed[2 * (t / 64) + 1] = static_cast<std::int32_t>(std::min<std::size_t>(64, tokens - t / 64 * 64));
      }
    }
    first_token.push_back(static_cast<std::int32_t>(tokens));
  }
};
}  // namespace

TEST_CASE("a plan of more tokens and more runs than a block has threads is what plain loops make") {
  constexpr int sequences = 7, max_tokens = 200;
  random_stream random(23);
  auto const below = [&](int end) { return static_cast<std::int32_t>(random.uniform() * static_cast<float>(end)); };
  std::vector<std::int32_t> const starts{0, 3, 0, 1, 0, 0, 5};
  std::vector<std::int32_t> sequence, position;
  std::vector<std::int64_t> slot;
  for (std::int32_t r = 0, of = 0; r < 300; ++r) {
    of = (of + 1 + below(sequences)) % (sequences + 1);  // another one than before; the last has no slots
    auto const start = of < sequences ? starts[static_cast<std::size_t>(of)] : 0;
    auto const count = 1 + below(r % 50 == 0 ? 60 : 4), first = r % 3 == 0 ? 0 : below(max_tokens);
    for (std::int32_t i = 0; i < count; ++i) {
      sequence.push_back(of), position.push_back(start + first + i);
      slot.push_back(of < sequences && first + i < max_tokens ? first + i : -1);
    }
  }
  auto const tokens = static_cast<std::int64_t>(sequence.size());
  REQUIRE((tokens > 600 && tokens % 64 != 0));
  cuda::latent_cache const cache{dtype::bf16, sequences, 64, 16, max_tokens, nullptr, starts.data()};
  for (auto const form : {latent_form::by_shape, latent_form::expanded})
    for (std::int64_t const room : {1000, 90}) {
      INFO(name(form), ", room for ", room, " blocks");
      planned const want(narrow::value, form, sequence, slot, room);
      under_every_schedule([&](cuda::stream_ref& where) {
        std::vector<std::int32_t> words(static_cast<std::size_t>(latent_memory<bf16>::plan_words(tokens)), -9);
        auto const got = cuda::latent_plan::of(words.data(), tokens, 64);
        REQUIRE(cuda::launch<cuda::plan_latents>(where, {.early = true}, {cache, sequence.data(), position.data(), tokens, narrow::value, form, 64, room, got}));
        auto const same = [](std::vector<std::int32_t> const& a, std::int32_t const* b) { return std::equal(a.begin(), a.end(), b); };
        CHECK(*got.runs == static_cast<std::int32_t>(want.slots.size()));
        CHECK(*got.blocks == want.blocks);
        CHECK(same(want.first_token, got.first_token));
        CHECK(same(want.slots, got.slots));
        CHECK(same(want.block, got.block));
        CHECK(same(want.block_of_token, got.block_of_token));
        CHECK(same(want.absorbed, got.absorbed));
      });
    }
}

TEST_CASE("what a call of latent attention is refused for") {
  std::vector<std::int32_t> const sequence(70), position(70);
  auto const refused = [&](latent_shape const& s, latent_form form, auto&& change) {
    std::int64_t const tokens = 70;
    arena counting;
    latent_memory<bf16>::carve(counting, s, tokens);
    moesaic::host::buffer work(counting.used());
    arena over(work.data(), work.size());
    auto m = latent_memory<bf16>::carve(over, s, tokens);
    matrix<bf16> const q(tokens, s.heads * s.key_dim());
    matrix<bf16> out(tokens, s.heads * s.value_dim);
    auto to = out.view();
    change(m, to);
    cuda::latent_cache const cache{dtype::bf16, 1, s.rank, s.rope_dim, 1, nullptr, nullptr};
    cuda::stream_ref where;
    return cuda::attend_latent<bf16, dtype::bf16, dtype::bf16>(where, form, 0.1, s, cache, attention_weights{}, q.view(), sequence, position, m, to);
  };
  constexpr latent_shape s{1, 16, 16, 32, 64}, wide{1, 16, 16, 528, 64};
  auto const says = [](status const& found, char const* part) { return !found && to_string(found).find(part) != std::string::npos; };
  constexpr char const *small = "carved for as many tokens", *shape = "[tokens, heads · value_dim]";
  for (auto const form : {latent_form::expanded, latent_form::by_shape}) {
    CHECK(says(refused(s, form, [](auto& m, auto&) { --m.plan.size; }), small));
    CHECK(says(refused(s, form, [](auto& m, auto&) { --m.state.rows; }), small));
  }
  CHECK(says(refused(wide, latent_form::expanded, [](auto&, auto&) {}), "at most 512"));
  CHECK(says(refused(s, latent_form::absorbed, [](auto& m, auto&) { m.query.rows = 63; }), small));
  CHECK(says(refused(s, latent_form::absorbed, [](auto& m, auto&) { m.latent.rows = 63; }), small));
  CHECK(says(refused(s, latent_form::absorbed, [](auto&, auto& out) { --out.rows; }), shape));
  CHECK(says(refused(s, latent_form::absorbed, [](auto&, auto& out) { --out.columns; }), shape));
}

TEST_CASE("under a tuning that is in_one_order a token's bits do not depend on its batch, in either form") {
  // A run that lies across two passes when it follows another, and in one when it comes alone.
  op<narrow, bf16, dtype::bf16> const attend(128);
  sites const at({{0, 0, 14}, {2, 120, 3}});
  auto const q = attend.queries(at);
  under_every_schedule([&](cuda::stream_ref&) {
    cuda::basic_stream_ref<cuda::in_one_order<>> where;
    for (auto const form : {latent_form::absorbed, latent_form::expanded, latent_form::by_shape}) {
      INFO(name(form));
      auto const together = attend(where, at, q, form);
      for (std::size_t const t : {std::size_t{9}, std::size_t{15}}) {
        sites const one({{at.sequence[t], at.position[t], 1}});
        matrix<bf16> alone(1, q.columns);
        std::copy_n(q.data.begin() + static_cast<std::ptrdiff_t>(t) * q.columns, q.columns, alone.data.begin());
        auto const got = attend(where, one, alone, form);
        CHECK(same_bits(view<const bf16>(together.view().row(static_cast<std::int64_t>(t)), 1, together.columns), got.view()));
      }
    }
  });
}

TEST_CASE("tokens without a slot get zeros in both forms") {
  op<narrow, bf16, dtype::bf16> const attend(8);
  sites const at({{0, 3, 2}, {3, 0, 1}, {-1, 0, 1}, {1, 1, 2}, {2, 7, 2}});
  auto const q = attend.queries(at);
  for (auto const form : {latent_form::absorbed, latent_form::expanded})
    under_every_schedule([&](cuda::stream_ref& where) {
      auto const out = attend(where, at, q, form);
      for (std::int64_t t = 0; t < at.size(); ++t) {
        bool const lost = t == 2 || t == 3 || t == 4 || t == 7;
        for (std::int64_t c = 0; c < out.columns; ++c) {
          CHECK(std::isfinite(static_cast<float>(out(t, c))));
          if (lost) CHECK(static_cast<float>(out(t, c)) == 0);
        }
      }
    });
}

TEST_CASE("what taps are shown of latent attention") {
  op<narrow, bf16, dtype::bf16> const attend(80);
  constexpr auto s = narrow::value;
  sites const at({{2, 0, 3}, {1, 40, 1}});
  auto const q = attend.queries(at);
  host::pool pool;
  moesaic::host::buffer work;
  auto const m = attend.carved(work, q.rows);
  matrix<float> want(s.heads * q.rows, 50);
  REQUIRE(host::latent_probabilities<bf16, dtype::bf16>(pool, 0.1, s, attend.host_cache, attend.on_host, q.view(), at.sequence, at.position, m, want.view()));
  random_stream random(8);
  auto const latents = random_matrix<bf16>(4, s.rank, random);
  matrix<bf16> want_up(4, s.heads * (s.head_dim + s.value_dim));
  host::expand_latents<bf16, dtype::bf16>(pool, s, attend.on_host, latents.view(), want_up.view());
  under_every_schedule([&](cuda::stream_ref& where) {
    auto got = unwritten<float>(want.rows, want.columns);
    REQUIRE(cuda::latent_probabilities<bf16, dtype::bf16, dtype::bf16>(where, 0.1, s, attend.cache, attend.on_device, q.view(), at.sequence, at.position, m, got.view()));
    check_close(got, want, stage_tolerance<float>);
    auto up = unwritten<bf16>(want_up.rows, want_up.columns);
    cuda::expand_latents<bf16, dtype::bf16>(where, s, attend.on_device, latents.view(), up.view());
    check_close(up, want_up, stage_tolerance<bf16>);
  });
}
