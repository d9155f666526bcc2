// Google Benchmark's main, with short runs by default and what a reader of its JSON must know about processor and compiler.
// SPDX-License-Identifier: Apache-2.0
#include <fstream>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <moesaic/host/simd/level.hpp>

namespace {

std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  std::string line, name, family, model;
  auto const value = [&] { return line.substr(std::min(line.find(": ") + 2, line.size())); };
  while (std::getline(file, line) && !line.empty()) {
    if (line.starts_with("model name"))
      name = value();
    else if (line.starts_with("cpu family"))
      family = value();
    else if (line.starts_with("model\t"))
      model = value();
  }
  return name + ", family " + family + " model " + model;
}

}  // namespace

int main(int argc, char** argv) {
  std::string program = argv[0], short_runs = "--benchmark_min_time=0.05", columns = "--benchmark_counters_tabular=true";
  std::vector<char*> arguments = {program.data(), short_runs.data(), columns.data()};  // the caller's come after and win
  arguments.insert(arguments.end(), argv + 1, argv + argc);
  auto count = static_cast<int>(arguments.size());
  arguments.push_back(nullptr);
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 1;
#if defined(__clang__)
  benchmark::AddCustomContext("compiler", __VERSION__);
#else
  benchmark::AddCustomContext("compiler", "g++ " __VERSION__);
#endif
  benchmark::AddCustomContext("processor", processor());
  benchmark::AddCustomContext("level", moesaic::host::name(moesaic::host::best_level()));
  auto const rows = benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return rows > 0 ? 0 : 1;  // a filter that matches nothing is a mistake
}
