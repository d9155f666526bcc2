// Inside an engine that has an allocator and threads of its own: moesaic allocates nothing and starts nothing.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include <moesaic/config/random_source.hpp>
#include <moesaic/moesaic.hpp>

struct my_layer {
  static constexpr moesaic::block_config config{.hidden = 256,
                                                .attention = {.heads = 8, .kv_heads = 2},
                                                .router = {.experts = 8, .top_k = 2, .renormalize = true},
                                                .expert = {.intermediate = 256},
                                                .storage = {.weights = moesaic::dtype::bf16}};
};
using layer = moesaic::block<my_layer>;

/// The engine's allocator: anything that answers aligned memory. Here a slab that is handed out piece by piece.
class slab {
 public:
  explicit slab(std::size_t bytes) : memory_(static_cast<std::byte*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64))), bytes_(bytes) {
    std::fill_n(memory_, bytes, std::byte{});                    // a new cache is zero
  }
  ~slab() { std::free(memory_); }
  slab(slab const&) = delete;
  slab& operator=(slab const&) = delete;

  moesaic::list<std::byte> take(std::size_t bytes) {
    auto* const first = memory_ + used_;
    used_ += (bytes + 63) / 64 * 64;
    if (used_ > bytes_) std::abort();
    return {first, static_cast<std::int64_t>(bytes)};
  }

 private:
  std::byte* memory_;
  std::size_t bytes_, used_ = 0;
};

/// The engine's threads: run every task once, on any thread, and come back when all are done.
struct engine_threads {
  int threads = 3;
  static void run(void* self, std::int64_t tasks, void (*task)(void* context, std::int64_t index), void* context) {
    auto const count = static_cast<engine_threads*>(self)->threads;
    std::vector<std::thread> crew;                               // an engine would wake sleeping threads instead
    for (int t = 0; t < count; ++t)
      crew.emplace_back([=] {
        for (std::int64_t i = t; i < tasks; i += count) task(context, i);
      });
    for (auto& thread : crew) thread.join();
  }
};

int main() {
  constexpr int tokens = 10, room = 32;
  engine_threads engine;
  moesaic::host::pool cpu{moesaic::host::executor{&engine, engine_threads::run, engine.threads}};

  // Sizes are known before anything is loaded, and one slab serves weights, cache and workspace.
  moesaic::host::kv_cache cache{.storage = layer::shape.cache, .sequences = 1, .kv_heads = layer::shape.kv_heads, .key_dim = layer::shape.key_dim, .value_dim = layer::shape.value_dim, .max_tokens = room};
  slab memory(layer::weights_bytes() + bytes(cache) + layer::workspace_bytes(tokens) + 3 * 64);
  auto const weights = layer::bind(memory.take(layer::weights_bytes()));
  layer::load_into(cpu, weights, moesaic::random_source{1}, "");
  cache.data = memory.take(bytes(cache)).data;
  auto const workspace = memory.take(layer::workspace_bytes(tokens));

  std::vector<float> x(tokens * 256), y(x.size());
  moesaic::random_stream numbers(2);
  for (auto& value : x) value = numbers.normal();
  std::vector<std::int32_t> sequence(tokens, 0), position(tokens);
  for (int t = 0; t < tokens; ++t) position[static_cast<std::size_t>(t)] = t;

  auto const done = layer::forward(cpu, weights, {{x.data(), tokens, 256}, sequence, position}, cache, {y.data(), tokens, 256}, workspace);
  std::printf("%s; y[0] = %.5f %.5f ..., the same on any threads\n", to_string(done).c_str(), static_cast<double>(y[0]), static_cast<double>(y[1]));
  return done ? 0 : 1;
}
