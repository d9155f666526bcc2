// The benches on a GPU: one program, rows "op/variant/config/tokens", each beside the copy and the cuBLAS of the same run.
// SPDX-License-Identifier: Apache-2.0
//   build/release/bench/cuda/moesaic_bench_cuda --benchmark_out=bench/results/<device>.json --benchmark_filter=experts
#include "gpu.hpp"

namespace moesaic::bench {
void add_products();
void add_layers();
}  // namespace moesaic::bench

int main(int argc, char** argv) {
  auto const facts = moesaic::cuda::current_device();
  if (!facts.why) {
    std::printf("skipped: %s\n", to_string(facts.why).c_str());
    return 77;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  cudaDeviceProp device;
  moesaic::bench::check(cudaGetDeviceProperties(&device, 0));
  benchmark::AddCustomContext("device", device.name);
  benchmark::AddCustomContext("copy_GB/s", std::to_string(moesaic::bench::copy_bandwidth() * 1e-9));
  benchmark::AddCustomContext("cublas_TFLOP/s", std::to_string(moesaic::bench::cublas_peak() * 1e-12));
  moesaic::bench::add_products();
  moesaic::bench::add_layers();
  auto const rows = benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return rows > 0 ? 0 : 1;
}
