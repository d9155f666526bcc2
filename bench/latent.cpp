// Rows of latent attention at DeepSeek's widths: the last token of a context, and a piece of a prompt at its end, in each form.
// SPDX-License-Identifier: Apache-2.0
#include <numeric>
#include <string>
#include <vector>

#include <moesaic/base/random.hpp>
#include <moesaic/host/latent.hpp>
#include <moesaic/host/memory.hpp>
#include <moesaic/host/pack.hpp>

#include "report.hpp"

namespace moesaic::bench {
namespace {

constexpr latent_shape lite{.heads = 16, .head_dim = 128, .rope_dim = 64, .value_dim = 128, .rank = 512};   // DeepSeek-V2-Lite

void run(benchmark::State& state, latent_form form, host::level level, int tokens, int context) {
  constexpr auto s = lite;
  host::pool pool(1, level);
  random_stream random(1);
  attention_weights w;
  std::vector<host::buffer> memory;
  auto const matrices = [&](std::int64_t outputs, std::int64_t inputs) {
    packed_matrix m{dtype::bf16, outputs, inputs, 1, s.heads, nullptr};
    memory.emplace_back(static_cast<std::size_t>(packed::bytes(m)));
    for (int h = 0; h < s.heads; ++h)
      host::pack<dtype::bf16>(m, h, [&](int, std::int64_t, float* row) {
        for (std::int64_t k = 0; k < inputs; ++k) row[k] = 0.05f * random.normal();
      }, memory.back().data());
    m.data = memory.back().data();
    return m;
  };
  w.key_up = matrices(s.head_dim, s.rank), w.key_up_transposed = matrices(s.rank, s.head_dim), w.value_up = matrices(s.value_dim, s.rank);
  auto const rows = [&](std::int64_t count, std::int64_t columns) {
    std::vector<bf16> x(static_cast<std::size_t>(count * columns));
    for (auto& v : x) v = static_cast<bf16>(random.normal());
    return x;
  };
  std::vector<std::int32_t> const sequence(static_cast<std::size_t>(context), 0);
  std::vector<std::int32_t> position(sequence.size());
  std::iota(position.begin(), position.end(), 0);
  auto const cache = host::make_latent_cache(pool, dtype::bf16, s, 1, context);
  auto const latents = rows(context, s.rank), keys = rows(context, s.rope_dim);
  if (!host::append<bf16>(pool, cache, view<const bf16>(latents.data(), context, s.rank), view<const bf16>(keys.data(), context, s.rope_dim), sequence, position))
    return state.SkipWithError("append");
  arena counting;
  latent_memory<bf16>::carve(counting, s, tokens, form, false);
  host::buffer scratch(counting.used());
  arena over(scratch.data(), scratch.size());
  auto const work = latent_memory<bf16>::carve(over, s, tokens, form, false);
  auto const q = rows(tokens, s.heads * s.key_dim());
  auto out = rows(tokens, s.heads * s.value_dim);
  for (auto _ : state) {
    auto const done = host::attend_latent<bf16, dtype::bf16>(pool, form, 0.1, s, cache, w, view<const bf16>(q.data(), tokens, s.heads * s.key_dim()),
                                                             {sequence.data(), tokens}, {position.data() + context - tokens, tokens}, work,
                                                             view<bf16>(out.data(), tokens, s.heads * s.value_dim));
    if (!done) return state.SkipWithError(done.what);
    benchmark::ClobberMemory();
  }
  auto const kept = static_cast<double>(context) * s.slot_dim() * 2, up = static_cast<double>(s.heads) * (s.head_dim + s.value_dim) * s.rank * 2;
  report(state, kept + up, latent_flops(s, form, tokens, context), level);
}

bool const added = [] {
  for (auto const level : {host::level::portable, host::level::avx2, host::level::avx512}) {
    if (level > host::detected_level()) continue;
    bool const slow = level == host::level::portable;    // a row of it, short enough for a test
    int const context = slow ? 64 : 1024;
    for (auto const form : {latent_form::absorbed, latent_form::expanded})
      for (int const tokens : {1, 256}) {
        if (slow && (tokens != 1 || form == latent_form::expanded)) continue;
        benchmark::RegisterBenchmark(row_name(tokens == 1 ? "attend_latent_decode" : "attend_latent_prompt", host::name(level), std::string("v2_lite_") + name(form), context).c_str(),
                                     [=](benchmark::State& state) { run(state, form, level, tokens, context); });
      }
  }
  return true;
}();

}  // namespace
}  // namespace moesaic::bench
