// Whole layers on a GPU against the host's: a prompt, single tokens, and single tokens again from a captured graph with other values in the same memory.
// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <vector>

#include <doctest/doctest.h>

#include <cuda_runtime_api.h>
#include <moesaic/config/random_source.hpp>
#include <support/compare.hpp>
#include <support/matrix.hpp>
#include <support/tolerance.hpp>

#include "layers.hpp"

namespace {

using namespace moesaic;
using namespace moesaic::test;
using on_gpu::dense, on_gpu::mixtral, on_gpu::olmoe, on_gpu::qwen3;
namespace gpu = moesaic::cuda;

void must(status const& done) { REQUIRE_MESSAGE(done, to_string(done)); }

/// Values in device memory that stay where they are and can be changed.
template <class T>
struct device_values {
  gpu::buffer memory;
  device_values(gpu::stream& where, std::vector<T> const& values) : memory(where, values.size() * sizeof(T)) { put(where, values); }
  void put(gpu::stream& where, std::vector<T> const& values) { must(gpu::copy_to_device(where, memory.data(), values.data(), values.size() * sizeof(T))); }
  T* data() const { return reinterpret_cast<T*>(memory.data()); }
  list<const T> all() const { return {data(), static_cast<std::int64_t>(memory.size() / sizeof(T))}; }
};

struct step {
  std::vector<std::int32_t> sequence, position;
};
constexpr int prompt = 150, graphed = 3;
/// A long prompt and a short one, then single tokens of both.
std::vector<step> const steps = [] {
  std::vector<step> all(1);
  for (std::int32_t i = 0; i < prompt; ++i) all[0].sequence.push_back(0), all[0].position.push_back(i);
  for (std::int32_t i = 0; i < 3; ++i) all[0].sequence.push_back(1), all[0].position.push_back(i);
  for (std::int32_t i = 0; i < 2 + graphed; ++i) all.push_back({{0, 1}, {prompt + i, 3 + i}});
  return all;
}();
template <class Spec>
std::vector<matrix<bf16>> inputs() {
  random_stream random(61);
  std::vector<matrix<bf16>> x;
  for (auto const& s : steps) x.push_back(random_matrix<bf16>(static_cast<std::int64_t>(s.sequence.size()), Spec::config.hidden, random));
  return x;
}

template <class Spec, class State>
std::vector<matrix<bf16>> on_host(State const& state) {
  using layer = block<Spec>;
  host::pool pool;
  auto const weights = layer::load(pool, random_source{3}, "");
  auto const cache = layer::make_cache(pool, 2, 256);
  auto results = inputs<Spec>();
  for (std::size_t i = 0; i < steps.size(); ++i) {
    auto& rows = results[i];
    moesaic::buffer workspace(layer::workspace_bytes(rows.rows));
    must(layer::forward(pool, weights, {rows.view(), steps[i].sequence, steps[i].position}, cache, rows.view(),
                        {workspace.data(), static_cast<std::int64_t>(workspace.size())}, state));
  }
  return results;
}

/// A stream of its own, since the default one cannot be captured.
struct own_stream {
  cudaStream_t handle = nullptr;
  own_stream() { REQUIRE(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking) == cudaSuccess); }
  ~own_stream() { cudaStreamDestroy(handle); }
};
struct graph {
  cudaGraph_t captured = nullptr;
  cudaGraphExec_t ready = nullptr;
  template <class F>
  graph(gpu::stream& where, F&& call) {
    auto const stream = static_cast<cudaStream_t>(where.handle);
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    call();
    REQUIRE(cudaStreamEndCapture(stream, &captured) == cudaSuccess);
    REQUIRE(cudaGraphInstantiate(&ready, captured, 0) == cudaSuccess);
  }
  ~graph() {
    cudaGraphExecDestroy(ready);
    cudaGraphDestroy(captured);
  }
};

template <class Spec, class State>
std::vector<matrix<bf16>> on_device(State const& state) {
  using layer = block<Spec>;
  constexpr std::int64_t hidden = Spec::config.hidden;
  own_stream const stream;
  on_gpu::stream where(stream.handle);
  auto const weights = layer::load(where, random_source{3}, "");
  auto const cache = layer::make_cache(where, 2, 256);
  auto results = inputs<Spec>();
  auto const take = [&](matrix<bf16>& y, device_values<bf16> const& from, list<std::byte> workspace) {
    must(check(where, workspace));
    must(gpu::finish(where));
    must(gpu::copy_to_host(where, y.data.data(), from.data(), y.data.size() * sizeof(bf16)));
  };
  for (std::size_t i = 0; i + graphed < steps.size(); ++i) {
    auto& y = results[i];
    device_values<bf16> x(where, y.data);
    device_values<std::int32_t> const sequence(where, steps[i].sequence), position(where, steps[i].position);
    gpu::buffer const workspace(where, layer::workspace_bytes(y.rows));
    list<std::byte> const bytes{workspace.data(), static_cast<std::int64_t>(workspace.size())};
    must(layer::forward(where, weights, {{x.data(), y.rows, hidden}, sequence.all(), position.all()}, cache, {x.data(), y.rows, hidden}, bytes, state));
    take(y, x, bytes);
  }
  // The rest by one graph, captured once: only what lies in memory changes.
  auto const first = steps.size() - graphed;
  device_values<bf16> x(where, results[first].data), y(where, results[first].data);
  device_values<std::int32_t> sequence(where, steps[first].sequence), position(where, steps[first].position);
  auto const tokens = results[first].rows;
  gpu::buffer const workspace(where, layer::workspace_bytes(tokens));
  list<std::byte> const bytes{workspace.data(), static_cast<std::int64_t>(workspace.size())};
  graph const call(where, [&] {
    must(layer::forward(where, weights, {{x.data(), tokens, hidden}, sequence.all(), position.all()}, cache, {y.data(), tokens, hidden}, bytes, state));
  });
  for (auto i = first; i < steps.size(); ++i) {
    x.put(where, results[i].data);
    position.put(where, steps[i].position);
    REQUIRE(cudaGraphLaunch(call.ready, stream.handle) == cudaSuccess);
    take(results[i], y, bytes);
  }
  return results;
}

template <class Spec, class State>
void check_layer(State const& of_host, State const& of_gpu) {
  auto const want = on_host<Spec>(of_host);
  auto const got = on_device<Spec>(of_gpu);
  for (std::size_t i = 0; i < want.size(); ++i) {
    CAPTURE(i);
    auto const found = compare(got[i].view(), want[i].view());
    CHECK_MESSAGE(found.worst <= long_stage_tolerance<bf16>, to_string(found));
  }
  auto const again = on_device<Spec>(of_gpu);
  for (std::size_t i = 0; i < want.size(); ++i) CHECK(same_bits(got[i].view(), again[i].view()));   // the same bits each time
}
template <class Spec>
void check_layer() {
  typename policy_of<Spec>::state const none{};
  check_layer<Spec>(none, none);
}

}  // namespace

TEST_CASE("a dense layer") { check_layer<dense>(); }
TEST_CASE("a Mixtral layer") { check_layer<mixtral>(); }
TEST_CASE("Qwen3 layers with a gated shared expert") {
  check_layer<qwen3<dtype::int4>>();
  check_layer<qwen3<dtype::e4m3>>();
}
TEST_CASE("an OLMoE layer with experts that cost") {
  std::vector<float> const cost{1, 2, 1, 3, 1, 1, 4, 1, 1, 2, 1, 1, 1, 1, 5, 1};
  on_gpu::stream where;
  device_values<float> const there(where, cost);
  typename policy_of<olmoe>::state of_host{}, of_gpu{};
  of_host.price = of_gpu.price = 0.02f;
  of_host.cost = moesaic::costs::table::of_experts(cost);
  of_gpu.cost = moesaic::costs::table::of_experts(there.all());
  check_layer<olmoe>(of_host, of_gpu);
}
