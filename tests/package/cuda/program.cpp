// A user's program of plain C++: a layer and a model run on the CUDA backend, or say clearly why they do not. Returns 77 where there is no device.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include <moesaic/config/random_source.hpp>

#include "layers.hpp"

namespace {

using namespace moesaic;
using layer = block<small_mixture>;
using model = decoder<small_model>;
constexpr int skipped = 77;

int failed(char const* what, status const& s) {
  std::printf("%s: %s\n", what, to_string(s).c_str());
  return 1;
}

/// What every call answers where there is no device.
int without_device(cuda::stream_ref& where) {
  auto const why = where.device.why;
  if (why.code != status_code::no_device || std::strlen(why.what) == 0) return failed("expected no_device", why);
  std::vector<layer::scalar> row(256);
  std::vector<std::int32_t> const zero(1);
  moesaic::buffer const memory(layer::weights_bytes()), workspace(layer::workspace_bytes(1));   // never looked at: they stand for device memory
  auto const bytes = [](auto const& b) { return list<std::byte>(b.data(), static_cast<std::int64_t>(b.size())); };
  cuda::kv_cache const cache{.storage = dtype::bf16, .sequences = 1, .kv_heads = 2, .key_dim = 64, .value_dim = 64, .max_tokens = 16};
  (void)layer::forward(where, layer::bind(bytes(memory)), {{row.data(), 1, 256}, zero, zero}, cache, {row.data(), 1, 256}, bytes(workspace));
  if (auto const done = cuda::finish(where); done.code != status_code::no_device) return failed("expected no_device of forward", done);
  if (auto const done = check(where, bytes(workspace)); done.code != status_code::no_device) return failed("expected no_device of check", done);
  try {
    (void)layer::load(where, random_source{1}, "");
    return failed("load: expected an exception", {});
  } catch (error const& e) {
    if (std::string(e.what()).find(why.what) == std::string::npos) return failed(e.what(), why);
  }
  std::printf("skipped: %s\n", to_string(why).c_str());
  return skipped;
}

int run(cuda::stream_ref& where) {
  auto const weights = model::load(where, random_source{1});
  auto const caches = model::make_cache(where, 1, 16);
  constexpr std::int64_t tokens = 8;
  std::vector<std::int32_t> ids, zeros(tokens), positions;
  for (std::int32_t t = 0; t < tokens; ++t) ids.push_back(7 * t), positions.push_back(t);
  auto const on_device = [&](std::vector<std::int32_t> const& v) {
    cuda::buffer memory(where, v.size() * sizeof v[0]);
    (void)cuda::copy_to_device(where, memory.data(), v.data(), v.size() * sizeof v[0]);
    return memory;
  };
  auto const list_of = [](cuda::buffer const& b) { return list<const std::int32_t>(reinterpret_cast<std::int32_t const*>(b.data()), tokens); };
  auto const a = on_device(ids), b = on_device(zeros), c = on_device(positions);
  cuda::buffer workspace(where, model::workspace_bytes(tokens, tokens)), logits(where, tokens * 512 * sizeof(model::sum));
  auto const bytes = list<std::byte>(workspace.data(), static_cast<std::int64_t>(workspace.size()));
  auto done = model::forward(where, weights, {list_of(a), list_of(b), list_of(c)}, caches, every_token,
                             {reinterpret_cast<model::sum*>(logits.data()), tokens, 512}, bytes);
  if (done) done = check(where, bytes);
  if (done) done = cuda::finish(where);
  if (!done) return failed("forward", done);
  std::vector<model::sum> seen(tokens * 512);
  if (done = cuda::copy_to_host(where, seen.data(), logits.data(), seen.size() * sizeof seen[0]); !done) return failed("copy", done);
  for (auto const x : seen)
    if (!std::isfinite(x)) return failed("a logit is not finite", {});
  std::printf("ran on architecture %d\n", where.device.architecture);
  return 0;
}

}  // namespace

int main() {
  cuda::stream_ref where;
  return where.device.why ? run(where) : without_device(where);
}
