// Timing on a GPU: calls captured in a graph and replayed between events, and the two ceilings of the run, a copy and cuBLAS.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <cuda_runtime.h>
#if defined(MOESAIC_HAS_CUBLAS)
#include <cublas_v2.h>
#endif

#include <moesaic/base/random.hpp>
#include <moesaic/cuda.cuh>

namespace moesaic::bench {

inline void check(cudaError_t answer) {
  if (answer == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(answer));
  std::exit(1);
}
inline void check(status const& done) {
  if (done) return;
  std::fprintf(stderr, "%s\n", to_string(done).c_str());
  std::exit(1);
}

/// One stream for all rows.
inline cudaStream_t stream() {
  static cudaStream_t const s = [] {
    cudaStream_t made;
    check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
    return made;
  }();
  return s;
}

/// Device memory of random bits, masked so that numbers of a format are near one: no product is of zeros, which are faster than any data.
class device_memory {
 public:
  device_memory(std::int64_t bytes, std::uint64_t keep = ~0ull, std::uint64_t put = 0, std::uint64_t seed = 1) : bytes_(bytes) {
    check(cudaMalloc(&data_, static_cast<std::size_t>(bytes)));
    constexpr std::int64_t piece = std::int64_t{16} << 20;
    std::vector<std::uint64_t> pattern(static_cast<std::size_t>(std::min(bytes + 8, piece) / 8));
    random_stream random(seed);
    for (auto& word : pattern) word = (random.next() & keep) | put;
    for (std::int64_t at = 0; at < bytes; at += piece)
      check(cudaMemcpy(data_ + at, pattern.data(), static_cast<std::size_t>(std::min(bytes - at, static_cast<std::int64_t>(pattern.size()) * 8)), cudaMemcpyHostToDevice));
  }
  template <class T>
  explicit device_memory(std::vector<T> const& values) : bytes_(static_cast<std::int64_t>(values.size() * sizeof(T))) {
    check(cudaMalloc(&data_, std::max<std::size_t>(16, values.size() * sizeof(T))));
    check(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  device_memory(device_memory&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  ~device_memory() {
    if (data_ != nullptr) cudaFree(data_);
  }

  std::byte* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }
  template <class T>
  T* as() const { return reinterpret_cast<T*>(data_); }

 private:
  std::byte* data_ = nullptr;
  std::int64_t bytes_ = 0;
};

inline constexpr std::uint64_t bf16_keep = 0x807f'807f'807f'807fu, bf16_put = 0x3f00'3f00'3f00'3f00u;   // ± 0.5 .. 1
inline device_memory bf16_rows(std::int64_t rows, std::int64_t columns) { return device_memory(rows * columns * 2, bf16_keep, bf16_put); }

/// Seconds of one call of f(turn), the median over graphs of `turns` calls with turn 0, 1, ...: so that each call meets other weights.
template <class F>
double seconds_of(int turns, F&& f) {
  f(0);
  check(cudaStreamSynchronize(stream()));
  check(cudaGetLastError());
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal));
  for (int turn = 0; turn < turns; ++turn) f(turn);
  check(cudaStreamEndCapture(stream(), &graph));
  check(cudaGraphInstantiate(&replay, graph, 0));
  cudaEvent_t start, end;
  check(cudaEventCreate(&start));
  check(cudaEventCreate(&end));
  std::vector<float> found;
  float total = 0;
  for (int i = 0; i < 3 || (i < 30 && total < 150); ++i) {
    float milliseconds = 0;
    check(cudaEventRecord(start, stream()));
    check(cudaGraphLaunch(replay, stream()));
    check(cudaEventRecord(end, stream()));
    check(cudaEventSynchronize(end));
    check(cudaEventElapsedTime(&milliseconds, start, end));
    if (i > 0) found.push_back(milliseconds), total += milliseconds;       // the first replay uploads the graph
  }
  check(cudaEventDestroy(start));
  check(cudaEventDestroy(end));
  check(cudaGraphExecDestroy(replay));
  check(cudaGraphDestroy(graph));
  std::nth_element(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(found.size() / 2), found.end());
  return static_cast<double>(found[found.size() / 2]) * 1e-3 / turns;
}

/// Bytes a second of a copy from device to device, read and written both counted: measured once.
inline double copy_bandwidth() {
  static double const found = [] {
    constexpr std::size_t bytes = std::size_t{1} << 30;
    device_memory const from(bytes), to(bytes);
    return 2.0 * bytes / seconds_of(4, [&](int) { check(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, stream())); });
  }();
  return found;
}

/// Seconds of cuBLAS for y [m, n] = x [m, k] wᵀ [n, k] in bf16, fp32 sums; 0 where the program was built without it.
inline double cublas_seconds([[maybe_unused]] std::int64_t m, [[maybe_unused]] std::int64_t n, [[maybe_unused]] std::int64_t k, [[maybe_unused]] int turns) {
#if defined(MOESAIC_HAS_CUBLAS)
  static cublasHandle_t const handle = [] {
    cublasHandle_t made;
    if (cublasCreate(&made) != CUBLAS_STATUS_SUCCESS) std::exit(1);
    static device_memory const workspace(std::int64_t{32} << 20);
    cublasSetWorkspace(made, workspace.data(), static_cast<std::size_t>(workspace.bytes()));
    cublasSetStream(made, stream());
    return made;
  }();
  auto const x = bf16_rows(m, k), w = bf16_rows(n * turns, k), y = bf16_rows(m, n);
  float const one = 1, zero = 0;
  return seconds_of(turns, [&](int turn) {
    auto const done = cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(n), static_cast<int>(m), static_cast<int>(k), &one,
                                   w.data() + turn * n * k * 2, CUDA_R_16BF, static_cast<int>(k), x.data(), CUDA_R_16BF, static_cast<int>(k), &zero, y.data(),
                                   CUDA_R_16BF, static_cast<int>(n), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (done != CUBLAS_STATUS_SUCCESS) std::exit(1);
  });
#else
  return 0;
#endif
}
/// FLOPs a second of cuBLAS at 8192³ in bf16: measured once.
inline double cublas_peak() {
  static double const found = [] {
    constexpr std::int64_t n = 8192;
    auto const seconds = cublas_seconds(n, n, n, 1);
    return seconds > 0 ? 2.0 * n * n * n / seconds : 0;
  }();
  return found;
}

/// What one call of a row does.
struct work {
  double bytes = 0;                      ///< that must come from memory: weights of the experts that are used, rows, keys and values
  double flops = 0;
  double experts = 0;                    ///< distinct ones, where there are several
};

/// One row "op/variant/config/tokens": manual time, counters against the ceilings of this run.
template <class F>
void add_row(std::string const& name, F&& row) {
  benchmark::RegisterBenchmark(name.c_str(), [row](benchmark::State& state) {
    auto const [seconds, done] = row();
    for (auto _ : state) state.SetIterationTime(seconds);
    state.counters["us"] = seconds * 1e6;
    state.counters["GB/s"] = done.bytes / seconds * 1e-9;
    state.counters["of_copy"] = done.bytes / seconds / copy_bandwidth();
    if (done.flops > 0) state.counters["TFLOP/s"] = done.flops / seconds * 1e-12;
    if (done.flops > 0 && cublas_peak() > 0) state.counters["of_cublas"] = done.flops / seconds / cublas_peak();
    if (done.experts > 0) state.counters["experts"] = done.experts;
  })->UseManualTime()->Iterations(1);
}
struct timed {
  double seconds;
  work done;
};

/// Calls in one graph so that weights of so many bytes do not come out of the L2 of 60 MB.
inline int turns_for(std::int64_t bytes) { return static_cast<int>(std::clamp<std::int64_t>((std::int64_t{512} << 20) / std::max<std::int64_t>(bytes, 1), 1, 32)); }

/// One rung alone, for rows of variants.
template <cuda::rung Rung>
struct only {
  static constexpr bool has(cuda::rung r) { return r == Rung || r == cuda::rung::simt; }
};
template <cuda::rung Rung>
using stream_of = cuda::basic_stream_ref<only<Rung>>;
inline const char* name(cuda::rung r) { return r == cuda::rung::simt ? "simt" : r == cuda::rung::sm80 ? "sm80" : "sm90"; }

inline std::string format_name(format f) { return std::string(moesaic::name(f.type)) + (f.group != 0 ? "g" + std::to_string(f.group) : ""); }

/// `copies` copies of a packed matrix, or of all its experts, in the order of cuda/layout.hpp: random codes, scales near one.
class weights_in_turn {
 public:
  weights_in_turn(packed_matrix const& shape, int copies) : shape_(shape), memory_(make(shape, copies)) {
    auto const scales = cuda::layout::scale_count(shape);
    if (!has_scales(shape.stored.type)) return;
    auto const width = static_cast<std::size_t>(scales * (shape.stored.type == dtype::mxfp4 ? 1 : 4));
    std::vector<float> const ones(static_cast<std::size_t>(scales), 0.01f);
    std::vector<std::uint8_t> const powers(static_cast<std::size_t>(scales), 120);
    auto const* const from = shape.stored.type == dtype::mxfp4 ? static_cast<void const*>(powers.data()) : ones.data();
    auto const pitch = packed::matrix_bytes(shape);
    for (std::int64_t e = 0; e < copies * shape.count; ++e)
      check(cudaMemcpy(memory_.data() + e * pitch + cuda::layout::scales_at(shape), from, width, cudaMemcpyHostToDevice));
  }
  packed_matrix turn(int i) const {
    auto m = shape_;
    m.data = memory_.data() + i * packed::bytes(shape_);
    return m;
  }

 private:
  static device_memory make(packed_matrix const& m, int copies) {
    auto const t = m.stored.type;
    auto const bytes = packed::bytes(m) * copies;
    if (t == dtype::bf16) return device_memory(bytes, bf16_keep, bf16_put, 7);
    if (t == dtype::fp32) return device_memory(bytes, 0x807f'ffff'807f'ffffu, 0x3f00'0000'3f00'0000u, 7);
    if (t == dtype::e4m3) return device_memory(bytes, 0xbfbf'bfbf'bfbf'bfbfu, 0, 7);       // |x| < 2: no NaN
    return device_memory(bytes, ~0ull, 0, 7);
  }
  packed_matrix shape_;
  device_memory memory_;
};
/// Bytes of a matrix that a product reads.
inline double read_bytes(packed_matrix const& m) { return static_cast<double>(cuda::layout::used_bytes(m)); }

}  // namespace moesaic::bench
