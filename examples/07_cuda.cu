// The same call on a GPU: a layer's weights, cache and rows in device memory, one stream, no word of the layer changed.
// SPDX-License-Identifier: Apache-2.0
//   nvcc -std=c++20 -O2 -I include -gencode arch=compute_90a,code=sm_90a examples/07_cuda.cu -o 07_cuda
#include <cstdint>
#include <cstdio>
#include <vector>

#include <moesaic/config/random_source.hpp>
#include <moesaic/cuda.cuh>

struct my_layer {
  static constexpr moesaic::block_config config{
      .hidden = 256,
      .attention = {.heads = 8, .kv_heads = 2, .head_dim = 32},
      .router = {.experts = 16, .top_k = 2, .renormalize = true},
      .expert = {.intermediate = 128, .activation = moesaic::activation::swiglu},
      .shared = {.intermediate = 64},
      .storage = {.weights = moesaic::dtype::bf16, .ffn = moesaic::dtype::int4, .activations = moesaic::dtype::bf16}};
};
using layer = moesaic::block<my_layer>;

// Host values in device memory, and back: an engine has its own.
template <class T>
moesaic::cuda::buffer on_device(moesaic::cuda::stream_ref& gpu, std::vector<T> const& values) {
  moesaic::cuda::buffer memory(gpu, values.size() * sizeof(T));
  if (auto const done = moesaic::cuda::copy_to_device(gpu, memory.data(), values.data(), memory.size()); !done) throw moesaic::error(to_string(done));
  return memory;
}
template <class T>
moesaic::list<const T> list_in(moesaic::cuda::buffer const& memory) {
  return {reinterpret_cast<T const*>(memory.data()), static_cast<std::int64_t>(memory.size() / sizeof(T))};
}

int run(moesaic::cuda::stream_ref& gpu) {
  constexpr int tokens = 12, hidden = my_layer::config.hidden;
  auto const weights = layer::load(gpu, moesaic::random_source{1}, "");           // packed on the host in the GPU's order, then moved
  auto const cache = layer::make_cache(gpu, /*sequences*/ 1, /*max_tokens*/ 64);
  moesaic::cuda::buffer workspace(gpu, layer::workspace_bytes(tokens)), rows(gpu, tokens * hidden * sizeof(moesaic::bf16));

  std::vector<moesaic::bf16> x(tokens * hidden);
  moesaic::random_stream numbers(2);
  for (auto& value : x) value = moesaic::bf16(numbers.normal());
  std::vector<std::int32_t> sequence(tokens, 0), position(tokens);
  for (int t = 0; t < tokens; ++t) position[static_cast<std::size_t>(t)] = t;
  auto const x_memory = on_device(gpu, x), sequence_memory = on_device(gpu, sequence), position_memory = on_device(gpu, position);

  // x [tokens, hidden] -> y [tokens, hidden]. Nothing is allocated or waited for: the call may be captured in a graph.
  moesaic::view<moesaic::bf16> const y{reinterpret_cast<moesaic::bf16*>(rows.data()), tokens, hidden};
  moesaic::list<std::byte> const scratch{workspace.data(), static_cast<std::int64_t>(workspace.size())};
  auto done = layer::forward(gpu, weights,
                             {{list_in<moesaic::bf16>(x_memory).data, tokens, hidden}, list_in<std::int32_t>(sequence_memory), list_in<std::int32_t>(position_memory)},
                             cache, y, scratch);
  if (done) done = check(gpu, scratch);                                           // what only the device could see; waits
  if (done) done = moesaic::cuda::copy_to_host(gpu, x.data(), y.data, x.size() * sizeof(moesaic::bf16));
  if (!done) {
    std::fprintf(stderr, "%s\n", to_string(done).c_str());
    return 1;
  }
  std::printf("y[0] = %.3f %.3f %.3f ...\n", static_cast<double>(x[0]), static_cast<double>(x[1]), static_cast<double>(x[2]));
  return 0;
}

int main() {
  moesaic::cuda::stream_ref gpu;                                                  // the default stream; or stream_ref{your_stream}
  if (!gpu.device.why) {
    std::printf("nothing to run on: %s\n", to_string(gpu.device.why).c_str());
    return 0;
  }
  try {
    return run(gpu);
  } catch (moesaic::error const& failed) {
    std::fprintf(stderr, "%s\n", failed.what());
    return 1;
  }
}
