// A call allocates nothing: every operator new of this program is counted while a layer or a model runs, on whatever thread.
// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/config/random_source.hpp>
#include <moesaic/moesaic.hpp>
#include <support/levels.hpp>
#include <support/matrix.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

std::atomic<bool> counting = false;
std::atomic<int> allocations = 0;

void* allocated(std::size_t bytes, std::size_t alignment) {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* const memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment)) return memory;
  throw std::bad_alloc();
}

}  // namespace

// The forms for arrays and those that do not throw call these. Not inlined: else g++ sees what they call, and warns of a mismatch.
[[gnu::noinline]] void* operator new(std::size_t bytes) { return allocated(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__); }
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocated(bytes, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace {

/// How many allocations f makes.
template <class F>
int allocations_of(F&& f) {
  allocations = 0;
  counting = true;
  f();
  counting = false;
  return allocations;
}

template <dtype Activations, dtype Weights, dtype Ffn>
struct dense {
  static constexpr block_config config{.hidden = 96,
                                       .attention = {.heads = 6, .kv_heads = 2, .qk_norm = qk_norm::per_head},
                                       .expert = {.intermediate = 80},
                                       .storage = {.weights = Weights, .ffn = Ffn, .activations = Activations}};
};
template <dtype Activations, dtype Weights, dtype Ffn>
struct mixture {
  static constexpr block_config config{.hidden = 96,
                                       .attention = {.heads = 6, .kv_heads = 2, .qkv_bias = true},
                                       .router = {.experts = 12, .top_k = 3, .renormalize = true},
                                       .expert = {.intermediate = 48},
                                       .shared = {.intermediate = 40, .sigmoid_gate = true},
                                       .storage = {.weights = Weights, .ffn = Ffn, .activations = Activations}};
};
template <dtype Activations>
struct unequal : mixture<Activations, dtype::bf16, dtype::int4> {
  static constexpr block_config config = [] {
    auto c = mixture<Activations, dtype::bf16, dtype::int4>::config;
    c.expert = {.widths = {{4, 48}, {2, 80}}, .zero = 2, .copy = 2, .constant = 2};
    return c;
  }();
};
template <class... Specs>
struct model {
  static constexpr decoder_config config{.vocabulary = 70, .embedding = dtype::bf16};
  using layers = moesaic::layers<Specs...>;
};

using float_dense = dense<dtype::fp32, dtype::bf16, dtype::bf16>;
using float_mixture = mixture<dtype::fp32, dtype::bf16, dtype::bf16>;
using bf16_mixture = mixture<dtype::bf16, dtype::bf16, dtype::int4>;

constexpr int prompt = 40, room = 44;   // more rows than one pass takes; then token by token
struct tokens_of_prompt {
  std::vector<std::int32_t> ids, sequence, position;
  tokens_of_prompt() {
    for (std::int32_t t = 0; t < room; ++t) ids.push_back(t), sequence.push_back(0), position.push_back(t);
  }
  token_batch piece(std::int64_t first, std::int64_t count) const {
    return {{ids.data() + first, count}, {sequence.data() + first, count}, {position.data() + first, count}};
  }
};

}  // namespace

TEST_CASE("the count sees every form of new, on every thread") {
  host::pool three(3);
  CHECK(allocations_of([] {}) == 0);
  CHECK(allocations_of([] { ::operator delete(::operator new(8)); }) == 1);     // a new expression may be left out by a compiler
  CHECK(allocations_of([] { ::operator delete[](::operator new[](8)); }) == 1);
  CHECK(allocations_of([] { ::operator delete(::operator new(8, std::nothrow), std::nothrow); }) == 1);
  CHECK(allocations_of([] { host::buffer{std::size_t{100}}; }) == 1);
  CHECK(allocations_of([&] { three.for_each(50, [](std::int64_t) { ::operator delete(::operator new(8)); }); }) == 50);
}

TEST_CASE_TEMPLATE("a layer's call allocates nothing: a prompt, and token by token", Spec, float_dense, float_mixture, bf16_mixture, unequal<dtype::fp32>,
                   unequal<dtype::bf16>) {
  using layer = block<Spec>;
  using scalar = typename layer::scalar;
  for (auto const level : levels()) {
    CAPTURE(host::name(level));
    host::pool where(3, level);
    auto const weights = layer::load(where, random_source{1}, "");
    auto const cache = layer::make_cache(where, 1, room);
    host::buffer const workspace{layer::workspace_bytes(prompt)};
    random_stream random(2);
    auto const x = random_matrix<scalar>(room, layer::shape.hidden, random);
    auto y = x;
    tokens_of_prompt const tokens;
    bool fine = true;
    auto const call = [&](std::int64_t first, std::int64_t count) {
      auto const piece = tokens.piece(first, count);
      batch<scalar> const rows{{x.view().row(first), count, x.columns}, piece.sequence, piece.position};
      fine = fine && layer::forward(where, weights, rows, cache, {y.view().row(first), count, y.columns}, workspace);
    };
    CHECK(allocations_of([&] { call(0, prompt); }) == 0);
    CHECK(allocations_of([&] { for (auto t = prompt; t < room; ++t) call(t, 1); }) == 0);
    CHECK(fine);
  }
}

TEST_CASE_TEMPLATE("a model's call allocates nothing: a prompt with the last token's logits, and token by token", Model,
                   model<float_dense, unequal<dtype::fp32>, float_mixture>, model<repeat<bf16_mixture, 2>>) {
  using net = decoder<Model>;
  host::pool where(3);
  auto const weights = net::load(where, random_source{1});
  auto const cache = net::make_cache(where, 1, room);
  host::buffer const workspace{net::workspace_bytes(prompt, 1)};
  matrix<typename net::sum> logits(1, 70);
  tokens_of_prompt const tokens;
  bool fine = true;
  auto const call = [&](std::int64_t first, std::int64_t count, list<const std::int32_t> rows) {
    fine = fine && net::forward(where, weights, tokens.piece(first, count), cache, rows, logits.view(), workspace);
  };
  std::int32_t const last = prompt - 1;
  CHECK(allocations_of([&] { call(0, prompt, {&last, 1}); }) == 0);
  CHECK(allocations_of([&] { for (auto t = prompt; t < room; ++t) call(t, 1, every_token); }) == 0);
  CHECK(fine);
}

TEST_CASE("watching a model's routers allocates nothing") {
  using of_mixtures = model<float_dense, repeat<float_mixture, 2>>;
  using net = decoder<of_mixtures>;
  using monitors = layer_monitors<of_mixtures::layers>;
  static constexpr monitor_options options{.domains = 2, .coactivation = true, .compared_rows = 1};
  host::pool where(3);
  auto const weights = net::load(where, random_source{1});
  auto const cache = net::make_cache(where, 1, room);
  host::buffer const workspace{net::workspace_bytes(prompt, 0)};
  host::buffer const memory{monitors::bytes(options)};
  tokens_of_prompt const tokens;
  std::vector<std::int32_t> const domain(prompt, 1);
  bool fine = true;
  CHECK(allocations_of([&] {
          monitors seen{memory, options};
          auto const call = [&](std::int64_t first, std::int64_t count) {
            auto&& tap = seen.tap({.domain = {domain.data(), count}});
            fine = fine && net::forward(where, weights, tokens.piece(first, count), cache, {}, {}, workspace, {}, tap);
          };
          call(0, prompt);
          for (auto t = prompt; t < room; ++t) call(t, 1);
          fine = fine && seen.counted() && seen[2].totals[0].tokens == room && seen.merge(seen);
        }) == 0);
  CHECK(fine);
}
