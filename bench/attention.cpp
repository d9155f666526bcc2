// Rows of attention: a prompt (all tokens at once) and decoding (the last token alone), and appending to the cache.
// SPDX-License-Identifier: Apache-2.0
#include <numeric>
#include <string>
#include <vector>

#include <moesaic/base/random.hpp>
#include <moesaic/host/attention.hpp>
#include <moesaic/host/memory.hpp>

#include "report.hpp"

namespace moesaic::bench {
namespace {

struct shape {
  char const* name;
  int heads, kv_heads, head_dim;
};
constexpr shape shapes[] = {{"smollm2", 9, 3, 64}, {"llama3_8b", 32, 8, 128}};

enum class what { append, prompt, decode };

template <class T>
void run(benchmark::State& state, what op, host::level level, shape s, int context) {
  host::pool pool(1, level);
  random_stream random(1);
  auto const fill = [&](std::int64_t columns) {
    std::vector<T> x(static_cast<std::size_t>(context * columns));
    for (auto& v : x) v = static_cast<T>(random.normal());
    return x;
  };
  std::int64_t const q_width = s.heads * s.head_dim, kv_width = s.kv_heads * s.head_dim;
  auto q = fill(q_width);
  auto const k = fill(kv_width), v = fill(kv_width);
  std::vector<std::int32_t> const sequence(static_cast<std::size_t>(context), 0);
  std::vector<std::int32_t> position(sequence.size());
  std::iota(position.begin(), position.end(), 0);
  host::kv_cache cache{.storage = dtype_of<T>, .sequences = 1, .kv_heads = s.kv_heads, .key_dim = s.head_dim, .value_dim = s.head_dim, .max_tokens = context};
  host::buffer const memory(host::bytes(cache));
  cache.data = memory.data();
  std::vector<T> out(q.size());
  auto const append = [&] {
    return host::append<T>(pool, cache, view<const T>(k.data(), context, kv_width), view<const T>(v.data(), context, kv_width), sequence,
                           position);
  };
  if (!append()) return state.SkipWithError("append");

  std::int64_t const first = op == what::decode ? context - 1 : 0, tokens = context - first;
  for (auto _ : state) {
    auto const done = op == what::append ? append()
                                         : host::attend<T>(pool, {.scale = 0.125}, cache, view<const T>(q.data() + first * q_width, tokens, q_width),
                                                           {sequence.data(), tokens}, {position.data() + first, tokens},
                                                           view<T>(out.data(), tokens, q_width));
    if (!done) return state.SkipWithError(done.what);
    benchmark::ClobberMemory();
  }
  auto const keys = op == what::decode ? 1.0 * context : 0.5 * context * (context + 1);
  auto const kept = static_cast<double>(2 * kv_width * context) * sizeof(T);
  report(state, op == what::append ? 2 * kept : kept, op == what::append ? 0 : 4.0 * static_cast<double>(q_width) * keys, level);
}

template <class T>
void add(std::string const& type) {
  for (auto const& s : shapes)
    for (int const context : {64, 512}) {
      auto const row = [&](char const* op, what w, host::level level) {
        benchmark::RegisterBenchmark(row_name(op, host::name(level), std::string(s.name) + "_" + type, context).c_str(),
                                     [=](benchmark::State& state) { run<T>(state, w, level, s, context); });
      };
      row("append", what::append, host::level::portable);
      for (auto const level : {host::level::portable, host::level::avx2, host::level::avx512}) {
        if (level > host::detected_level()) continue;
        row("attend_prompt", what::prompt, level);
        row("attend_decode", what::decode, level);
      }
    }
}

bool const added = (add<float>("fp32"), add<bf16>("bf16"), true);

}  // namespace
}  // namespace moesaic::bench
