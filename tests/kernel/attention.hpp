// Batches into caches of both backends, append included: what the tests of attention on a device have in common.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/cuda/attention.hpp>
#include <moesaic/cuda/kv_cache.hpp>
#include <support/cache.hpp>

#include "schedules.hpp"

namespace moesaic::test {

struct run {
  std::int32_t sequence, first, tokens;
};

/// Batches one after another into caches of both backends; the outputs of each are compared.
template <class T, dtype Stored, int KeyDim, int ValueDim, bool Plain>
void check_batches(attention_rule const& rule, int kv_heads, int group, std::vector<std::vector<run>> const& batches, int max_tokens, double tolerance,
                   int architecture) {
  CAPTURE(KeyDim);
  CAPTURE(ValueDim);
  CAPTURE(group);
  CAPTURE(architecture);
  int const sequences = 3;
  std::vector<std::int32_t> const starts{0, 2, 0};
  owning_cache const reference(Stored == dtype::bf16 ? dtype::bf16 : dtype::fp32, sequences, kv_heads, KeyDim, max_tokens, starts, ValueDim);
  host::pool pool;
  random_stream random(51);
  std::vector<attention_batch<T>> input;
  std::vector<matrix<T>> want;
  for (auto const& runs : batches) {
    attention_batch<T> b;
    for (auto const& r : runs)
      for (std::int32_t i = 0; i < r.tokens; ++i) b.sequence.push_back(r.sequence), b.position.push_back(r.first + i);
    auto const tokens = static_cast<std::int64_t>(b.sequence.size());
    b.q = random_matrix<T>(tokens, kv_heads * group * KeyDim, random);
    b.k = random_matrix<T>(tokens, kv_heads * KeyDim, random);
    b.v = random_matrix<T>(tokens, kv_heads * ValueDim, random);
    want.push_back(append_and_attend<T>(pool, rule, reference, b));
    input.push_back(std::move(b));
  }
  under_every_schedule([&](cuda::stream_ref& where) {
    cuda::kv_cache cache{Stored, sequences, kv_heads, KeyDim, ValueDim, max_tokens, nullptr, starts.data()};
    host::buffer memory(cuda::bytes(cache));
    cache.data = memory.data();
    for (std::size_t i = 0; i < input.size(); ++i) {
      auto const& b = input[i];
      auto out = unwritten<T>(want[i].rows, want[i].columns);
      call_flags flags;
      REQUIRE(cuda::append<T, Stored>(where, cache, b.k.view(), b.v.view(), b.sequence, b.position, &flags));
      REQUIRE(cuda::attend<T, Stored, KeyDim, ValueDim, Plain>(where, rule, cache, b.q.view(), b.sequence, b.position, out.view()));
      CHECK(flags.site == 0);
      check_close(out, want[i], tolerance);
    }
  }, architecture);
}

}  // namespace moesaic::test
