// Rows of the CUDA backend: expert products of each rung, weights cold, and linear beside cuBLAS; time by events around a graph, ceilings of the same run.
//   moesaic_bench_cuda --benchmark_filter='ffn/sm90/bf16_qwen3_30b'
// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <cstdio>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <dlfcn.h>

#include <moesaic/base/random.hpp>
#include <moesaic/cuda/ffn.hpp>
#include <moesaic/cuda/launch.cuh>
#include <moesaic/cuda/linear.hpp>
#include <moesaic/cuda/pack.hpp>

namespace {

using namespace moesaic;
namespace gpu = moesaic::cuda;

void must(status const& done) {
  if (!done) throw error(to_string(done));
}
void must(cudaError_t answer) { must(gpu::status_of(answer)); }

struct device_bytes {
  std::byte* data = nullptr;
  explicit device_bytes(std::int64_t bytes) : data(static_cast<std::byte*>(gpu::device_allocate(static_cast<std::size_t>(bytes)))) {
    if (data == nullptr) throw error("no device memory left");
  }
  ~device_bytes() { gpu::device_free(data); }
  device_bytes(device_bytes const&) = delete;
  template <class T>
  T* as() const { return reinterpret_cast<T*>(data); }
};
template <class T>
std::unique_ptr<device_bytes> upload(std::vector<T> const& values) {
  auto memory = std::make_unique<device_bytes>(static_cast<std::int64_t>(values.size() * sizeof(T)));
  must(cudaMemcpy(memory->data, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return memory;
}
std::unique_ptr<device_bytes> random_rows(std::int64_t elements) {
  random_stream random(2);
  std::vector<bf16> x(static_cast<std::size_t>(elements));
  for (auto& v : x) v = bf16(0.5f * random.normal());
  return upload(x);
}

cudaStream_t the_stream() {
  static cudaStream_t const stream = [] {
    cudaStream_t s = nullptr;
    must(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    return s;
  }();
  return stream;
}

/// Seconds of f(round), round = 0 .. rounds − 1, all captured in one graph: a call's mean.
class timed_graph {
 public:
  template <class F>
  timed_graph(int rounds, F&& f) : rounds_(rounds) {
    must(cudaStreamBeginCapture(the_stream(), cudaStreamCaptureModeThreadLocal));
    for (int r = 0; r < rounds; ++r) f(r);
    cudaGraph_t captured = nullptr;
    must(cudaStreamEndCapture(the_stream(), &captured));
    must(cudaGraphInstantiate(&ready_, captured, 0));
    must(cudaGraphDestroy(captured));
    must(cudaEventCreate(&start_));
    must(cudaEventCreate(&stop_));
    (void)seconds();                                                     // clocks and caches as they will be
  }
  ~timed_graph() {
    cudaGraphExecDestroy(ready_);
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
  }
  timed_graph(timed_graph const&) = delete;
  double seconds() {
    float milliseconds = 0;
    must(cudaEventRecord(start_, the_stream()));
    must(cudaGraphLaunch(ready_, the_stream()));
    must(cudaEventRecord(stop_, the_stream()));
    must(cudaEventSynchronize(stop_));
    must(cudaEventElapsedTime(&milliseconds, start_, stop_));
    return 1e-3 * static_cast<double>(milliseconds) / rounds_;
  }

 private:
  int rounds_;
  cudaGraphExec_t ready_ = nullptr;
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
};

/// Bytes a second read and written by a copy of 1 GiB, the best of some.
double copy_bandwidth() {
  static double const found = [] {
    constexpr std::int64_t bytes = std::int64_t{1} << 30;
    device_bytes const from(bytes), to(bytes);
    timed_graph copy(4, [&](int) { must(cudaMemcpyAsync(to.data, from.data, bytes, cudaMemcpyDeviceToDevice, the_stream())); });
    auto best = copy.seconds();
    for (int i = 0; i < 5; ++i) best = std::min(best, copy.seconds());
    return 2.0 * bytes / best;
  }();
  return found;
}

/// cuBLAS, where the machine has it: y [rows, outputs] = x [rows, inputs] · wᵀ, bf16 with sums in fp32.
class cublas {
 public:
  static cublas const& one() {
    static cublas const here;
    return here;
  }
  bool is_here() const { return gemm_ != nullptr; }
  void multiply(bf16 const* w, bf16 const* x, bf16* y, std::int64_t outputs, std::int64_t inputs, std::int64_t rows) const {
    constexpr int transposed = 1, plain = 0, is_bf16 = 14, sums_fp32 = 68, usual = -1;   // CUBLAS_OP_T, CUBLAS_OP_N, CUDA_R_16BF, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT
    float const one = 1, zero = 0;
    auto const m = static_cast<int>(outputs), n = static_cast<int>(rows), k = static_cast<int>(inputs);
    if (gemm_(handle_, transposed, plain, m, n, k, &one, w, is_bf16, k, x, is_bf16, k, &zero, y, is_bf16, m, sums_fp32, usual) != 0) throw error("cuBLAS refuses");
  }

 private:
  cublas() {
    void* const library = dlopen("libcublas.so.13", RTLD_NOW) != nullptr ? dlopen("libcublas.so.13", RTLD_NOW) : dlopen("libcublas.so", RTLD_NOW);
    if (library == nullptr) return;
    auto const create = reinterpret_cast<int (*)(void**)>(dlsym(library, "cublasCreate_v2"));
    auto const on = reinterpret_cast<int (*)(void*, cudaStream_t)>(dlsym(library, "cublasSetStream_v2"));
    auto const room = reinterpret_cast<int (*)(void*, void*, std::size_t)>(dlsym(library, "cublasSetWorkspace_v2"));
    static device_bytes const workspace(std::int64_t{64} << 20);          // of its own, so that captures allocate nothing
    if (create == nullptr || on == nullptr || room == nullptr || create(&handle_) != 0 || on(handle_, the_stream()) != 0) return;
    if (room(handle_, workspace.data, std::size_t{64} << 20) == 0) gemm_ = reinterpret_cast<gemm_function>(dlsym(library, "cublasGemmEx"));
  }
  using gemm_function = int (*)(void*, int, int, int, int, int, void const*, void const*, int, int, void const*, int, int, void const*, void*, int, int, int, int);
  void* handle_ = nullptr;
  gemm_function gemm_ = nullptr;
};
/// Operations a second of cuBLAS at 8192 × 8192 × 8192.
double peak_operations() {
  static double const found = [] {
    if (!cublas::one().is_here()) return 0.0;
    constexpr std::int64_t n = 8192;
    auto const w = random_rows(n * n), x = random_rows(n * n);
    device_bytes const y(n * n * 2);
    timed_graph product(4, [&](int) { cublas::one().multiply(w->as<bf16>(), x->as<bf16>(), y.as<bf16>(), n, n, n); });
    auto best = product.seconds();
    for (int i = 0; i < 5; ++i) best = std::min(best, product.seconds());
    return 2.0 * n * n * n / best;
  }();
  return found;
}

void measure(benchmark::State& state, timed_graph& call, double bytes, double operations) {
  double sum = 0;
  for (auto _ : state) {
    auto const seconds = call.seconds();
    state.SetIterationTime(seconds);
    sum += seconds;
  }
  auto const mean = sum / static_cast<double>(state.iterations());
  state.counters["GB/s"] = bytes / mean / 1e9;
  state.counters["TFLOP/s"] = operations / mean / 1e12;
  state.counters["of_copy"] = bytes / mean / copy_bandwidth();
  if (peak_operations() > 0) state.counters["of_cublas"] = operations / mean / peak_operations();
}

struct layer_shape {
  char const* name;
  std::int64_t hidden, intermediate;
  int experts, top_k;
};
constexpr layer_shape qwen3_30b{"qwen3_30b", 2048, 768, 128, 8}, qwen3_235b{"qwen3_235b", 4096, 1536, 128, 8}, mixtral{"mixtral", 4096, 14336, 8, 2},
  deepseek_tp8{"deepseek_v3_tp8", 7168, 256, 256, 8}, olmoe{"olmoe", 2048, 1024, 64, 8};

/// One expert packed, and copied for all: every one's bytes are as random.
std::unique_ptr<device_bytes> weights_of(packed_matrix& m) {
  auto one = m;
  one.count = 1;
  std::vector<std::byte> host(static_cast<std::size_t>(packed::bytes(one)));
  one.data = host.data();
  gpu::stream where(the_stream());
  gpu::pack(where, one, 0, [&](int part, std::int64_t output, float* row) {
    random_stream random(static_cast<std::uint64_t>(output * 2 + part));
    for (std::int64_t k = 0; k < m.inputs; ++k) row[k] = 0.02f * random.normal();
  });
  auto memory = std::make_unique<device_bytes>(packed::bytes(m));
  for (std::int64_t e = 0; e < m.count; ++e)
    must(cudaMemcpy(memory->data + e * packed::matrix_bytes(m), host.data(), host.size(), cudaMemcpyHostToDevice));
  m.data = memory->data;
  return memory;
}

/// Whose slots lie where: `top_k` different experts a token, drawn evenly or by rank as 1 / rank (zipf).
struct dispatch {
  std::unique_ptr<device_bytes> offsets, token_of_slot;
  int distinct = 0;
  dispatch(layer_shape const& s, std::int64_t tokens, bool zipf, std::uint64_t seed) {
    random_stream random(seed);
    std::vector<std::vector<std::int32_t>> of(static_cast<std::size_t>(s.experts));
    double total = 0;
    for (int e = 0; e < s.experts; ++e) total += zipf ? 1.0 / (1 + e) : 1.0;
    for (std::int32_t t = 0; t < tokens; ++t) {
      std::set<int> chosen;
      while (static_cast<int>(chosen.size()) < s.top_k) {
        auto at = static_cast<double>(random.uniform()) * total;
        int e = 0;
        while (e + 1 < s.experts && (at -= zipf ? 1.0 / (1 + e) : 1.0) > 0) ++e;
        chosen.insert(static_cast<int>((static_cast<std::uint64_t>(e) * 37 + seed) % static_cast<std::uint64_t>(s.experts)));   // another order each round
      }
      for (int const e : chosen) of[static_cast<std::size_t>(e)].push_back(t);
    }
    std::vector<std::int32_t> bounds{0}, slots;
    for (auto const& tokens_of : of) {
      slots.insert(slots.end(), tokens_of.begin(), tokens_of.end());
      bounds.push_back(static_cast<std::int32_t>(slots.size()));
      distinct += !tokens_of.empty();
    }
    offsets = upload(bounds), token_of_slot = upload(slots);
  }
};

template <dtype W, class Tuning>
void ffn(benchmark::State& state, layer_shape s, format f, std::int64_t tokens, bool zipf) {
  gpu::basic_stream_ref<Tuning> where(the_stream());
  must(where.device.why);
  packed_matrix gate_up{.stored = f, .outputs = s.intermediate, .inputs = s.hidden, .parts = 2, .count = s.experts};
  packed_matrix down{.stored = f, .outputs = s.hidden, .inputs = s.intermediate, .count = s.experts};
  auto const memory = weights_of(gate_up), more = weights_of(down);
  auto const slots = tokens * s.top_k;
  auto const x = random_rows(tokens * s.hidden);
  device_bytes const h(slots * s.intermediate * 2), y(slots * s.hidden * 2);
  int const rounds = tokens <= 64 ? 16 : 2;                              // other experts each round: what the cache has kept does not serve
  std::vector<dispatch> plans;
  double distinct = 0;
  for (int r = 0; r < rounds; ++r) {
    plans.emplace_back(s, tokens, zipf, static_cast<std::uint64_t>(17 + r));
    distinct += static_cast<double>(plans.back().distinct) / rounds;
  }
  timed_graph call(rounds, [&](int r) {
    auto const& plan = plans[static_cast<std::size_t>(r)];
    list<const std::int32_t> const offsets(plan.offsets->as<std::int32_t>(), s.experts + 1);
    gpu::expert_gate_up<W, Tuning, bf16>(where, activation::swiglu, gate_up, {}, {x->as<bf16>(), tokens, s.hidden}, offsets, plan.token_of_slot->as<std::int32_t>(),
                                         {h.as<bf16>(), slots, s.intermediate});
    gpu::expert_down<W, Tuning, bf16>(where, down, {}, {h.as<bf16>(), slots, s.intermediate}, offsets, {y.as<bf16>(), slots, s.hidden});
    must(gpu::finish(where));
  });
  auto const bytes = distinct * static_cast<double>(packed::matrix_bytes(gate_up) + packed::matrix_bytes(down));
  measure(state, call, bytes, 6.0 * static_cast<double>(slots * s.hidden * s.intermediate));
  state.counters["distinct_experts"] = distinct;
}

/// One matrix after another of many, so that each is cold.
template <class Tuning>
void linear(benchmark::State& state, std::int64_t outputs, std::int64_t inputs, std::int64_t tokens) {
  constexpr int matrices = 8;
  packed_matrix w{.stored = dtype::bf16, .outputs = outputs, .inputs = inputs, .count = matrices};
  auto const memory = weights_of(w);
  auto const x = random_rows(tokens * inputs);
  device_bytes const y(tokens * outputs * 2);
  auto const one_of = [&](int r) {
    auto one = w;
    one.count = 1, one.data = w.data + r * packed::matrix_bytes(w);
    return one;
  };
  auto const multiply = [&](int r) {
    if constexpr (std::is_same_v<Tuning, cublas>) {
      cublas::one().multiply(reinterpret_cast<bf16 const*>(one_of(r).data), x->as<bf16>(), y.as<bf16>(), outputs, inputs, tokens);
    } else {
      gpu::basic_stream_ref<Tuning> where(the_stream());
      gpu::linear<dtype::bf16, Tuning>(where, one_of(r), view<const bf16>(x->as<bf16>(), tokens, inputs), {}, view<bf16>(y.as<bf16>(), tokens, outputs));
      must(gpu::finish(where));
    }
  };
  timed_graph call(matrices, multiply);
  measure(state, call, static_cast<double>(packed::matrix_bytes(w)) + 2.0 * static_cast<double>(tokens * (inputs + outputs)),
          2.0 * static_cast<double>(tokens * inputs * outputs));
}

template <class F>
void add(std::string const& name, F f) {
  benchmark::RegisterBenchmark(name.c_str(), [f](benchmark::State& state) {
    try {
      f(state);
    } catch (error const& e) {
      (void)cudaGetLastError();
      state.SkipWithError(e.what());
    }
  })->UseManualTime()->Unit(benchmark::kMicrosecond);
}

template <class Tuning>
void add_rung(std::string const& rung) {
  auto const tokens = {1, 2, 4, 8, 16, 32, 64, 128, 1024, 16384};
  auto const each = [&]<dtype W>(std::integral_constant<dtype, W>, format f, std::string const& stored) {
    for (auto const& shape : {qwen3_30b, qwen3_235b, mixtral, deepseek_tp8, olmoe})
      for (std::int64_t const t : tokens)
        for (bool const zipf : {false, true})
          add("ffn/" + rung + "/" + stored + "_" + shape.name + (zipf ? "_zipf/" : "/") + std::to_string(t),
              [=](benchmark::State& state) { ffn<W, Tuning>(state, shape, f, t, zipf); });
  };
  each(std::integral_constant<dtype, dtype::bf16>{}, dtype::bf16, "bf16");
  each(std::integral_constant<dtype, dtype::int4>{}, format(dtype::int4, 128), "int4_g128");
  each(std::integral_constant<dtype, dtype::e4m3>{}, dtype::e4m3, "e4m3");
  for (std::int64_t const t : tokens) add("linear/" + rung + "/bf16_4096x4096/" + std::to_string(t), [=](benchmark::State& state) { linear<Tuning>(state, 4096, 4096, t); });
}

}  // namespace

int main(int arguments, char** argument) {
  benchmark::Initialize(&arguments, argument);
  if (auto const device = gpu::current_device(); !device.why) {
    std::printf("skipped: %s\n", to_string(device.why).c_str());
    return 77;
  }
  cudaDeviceProp properties{};
  must(cudaGetDeviceProperties(&properties, 0));
  benchmark::AddCustomContext("device", properties.name);
  benchmark::AddCustomContext("copy_GB/s", std::to_string(copy_bandwidth() / 1e9));
  benchmark::AddCustomContext("cublas_TFLOP/s", std::to_string(peak_operations() / 1e12));
  add_rung<gpu::rungs<gpu::rung::sm90>>("sm90");
  add_rung<gpu::rungs<gpu::rung::sm80>>("sm80");
  add_rung<gpu::rungs<gpu::rung::simt>>("simt");
  if (cublas::one().is_here())
    for (std::int64_t const t : {1, 8, 64, 1024, 16384})
      add("linear/cublas/bf16_4096x4096/" + std::to_string(t), [=](benchmark::State& state) { linear<cublas>(state, 4096, 4096, t); });
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
