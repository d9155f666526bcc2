// Runs every case of this folder on the device model or on a GPU, prints a line for each, compares and records.
// SPDX-License-Identifier: Apache-2.0
// conformance                      prints name, seed and a hash of the bits that came out, a line a case and seed
// conformance check [folder]       compares with plain loops and with every recording; on the model under each order of delivery
// conformance record [folder]      on a GPU: also writes <folder>/<device>.txt (recorded/ if no folder is named)
// conformance_ptx check <folder>   runs nvcc's PTX of the cases, <folder>/<part>.90a.ptx, on the model
#include <cctype>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "case.hpp"

#if defined(MOESAIC_CONFORMANCE_PTX)
#include "device_model/ptx/ptx.hpp"
#endif

namespace moesaic::conformance {

cases matrix_cases();
cases wgmma_bf16_cases();
cases wgmma_fp16_cases();
cases wgmma_e4m3_cases();
cases wgmma_int8_cases();
cases warp_cases();
cases numeric_cases();
cases barrier_cases();
cases copy_cases();

namespace {

struct part {
  char const* name;   ///< of its source
  cases (*list)();
};
constexpr part parts[] = {{"matrix", matrix_cases},         {"wgmma_bf16", wgmma_bf16_cases}, {"wgmma_fp16", wgmma_fp16_cases},
                          {"wgmma_e4m3", wgmma_e4m3_cases}, {"wgmma_int8", wgmma_int8_cases}, {"warp", warp_cases},
                          {"numeric", numeric_cases},       {"barrier", barrier_cases},       {"copy", copy_cases}};

constexpr std::uint64_t seeds[] = {1, 2};

std::string hash(words const& bits) {
  std::uint64_t h = 0xcbf2'9ce4'8422'2325u;   // FNV-1a
  for (word const w : bits)
    for (int shift = 0; shift < 32; shift += 8) h = (h ^ (w >> shift & 0xffu)) * 0x100'0000'01b3u;
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(h));
  return text;
}
std::string key(std::string const& name, std::uint64_t seed) { return name + " " + std::to_string(seed); }

std::string first_difference(words const& got, words const& want) {
  if (got.size() != want.size()) return std::to_string(got.size()) + " words, " + std::to_string(want.size()) + " were expected";
  std::size_t count = 0, first = 0;
  for (std::size_t i = got.size(); i-- > 0;)
    if (got[i] != want[i]) ++count, first = i;
  char text[128];
  std::snprintf(text, sizeof(text), "%zu of %zu words differ, the first is %zu: got %08x, want %08x", count, got.size(), first, got[first],
                want[first]);
  return text;
}

/// Ways to run a case: on the model, each order of delivery; on a GPU there is one.
#if defined(__CUDACC__)
struct way {
  char const* name;
};
constexpr way ways[] = {{"device"}};
struct set_way {
  explicit set_way(way const&) {}
};
std::string device_name() {
  cudaDeviceProp properties{};
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || cudaGetDeviceProperties(&properties, device) != cudaSuccess) return {};
  return properties.name;
}
std::vector<std::string> findings() { return {}; }
#else
struct way {
  char const* name;
  device_model::delivery when;
  std::uint64_t seed;
};
#if defined(MOESAIC_CONFORMANCE_PTX)
constexpr way ways[] = {{"ptx", device_model::delivery::late, 0}};
#else
constexpr way ways[] = {
    {"eager", device_model::delivery::eager, 0}, {"late", device_model::delivery::late, 3}, {"random", device_model::delivery::random, 4}};
#endif
struct set_way : device_model::scope {
  explicit set_way(way const& w) : scope({.when = w.when, .seed = w.seed}) {}
};
std::string device_name() { return {}; }
std::vector<std::string> findings() { return device_model::take_findings(); }
#endif

struct recording {
  std::string title;
  std::map<std::string, std::string> lines;   // name and seed -> hash
};
std::vector<recording> recordings(std::filesystem::path const& folder) {
  std::vector<recording> all;
  if (!std::filesystem::is_directory(folder)) return all;
  for (auto const& file : std::filesystem::directory_iterator(folder)) {
    if (file.path().extension() != ".txt") continue;
    std::ifstream in(file.path());
    recording one;
    std::string line;
    std::getline(in, line);
    one.title = line.substr(line.find_first_not_of("# "));
    while (std::getline(in, line))
      if (auto const last = line.rfind(' '); last != std::string::npos && line[0] != '#')
        one.lines[line.substr(0, last)] = line.substr(last + 1);
    all.push_back(std::move(one));
  }
  return all;
}

struct outcome {
  std::vector<std::string> lines;
  int wrong = 0;
};

/// Runs one case; says on stdout what differs.
void run_one(test_case const& one, std::uint64_t seed, bool check, std::vector<recording> const& recorded, outcome& all) {
  auto const name = key(one.name, seed);
  auto const wrong = [&](std::string const& why) {
    std::printf("FAIL %s: %s\n", name.c_str(), why.c_str());
    ++all.wrong;
  };
  words got;
  for (auto const& way : ways) {
    if (&way != ways && !check) break;
    set_way const scope(way);
    words mine;
    try {
      mine = one.run(seed);
    } catch (std::exception const& e) {
      wrong(std::string(way.name) + ": " + e.what());
    }
    for (auto const& finding : findings()) wrong(std::string(way.name) + ": " + finding);
    if (&way == ways) got = mine;
    else if (mine != got) wrong(std::string(way.name) + " differs from " + ways[0].name + ": " + first_difference(mine, got));
  }
  if (check && one.expected)
    if (auto const want = one.expected(seed); got != want) wrong(first_difference(got, want));
  auto const h = hash(got);
  for (auto const& file : recorded) {
    auto const at = file.lines.find(name);
    if (at == file.lines.end()) wrong("is not in the recording of " + file.title);
    else if (at->second != h) wrong("hash " + h + ", the recording of " + file.title + " has " + at->second);
  }
  all.lines.push_back(name + " " + h);
}

outcome run_all(bool check, std::vector<recording> const& recorded, [[maybe_unused]] std::filesystem::path const& ptx = {}) {
  outcome all;
  for (auto const& part : parts) {
#if defined(MOESAIC_CONFORMANCE_PTX)
    device_model::ptx::program made(device_model::ptx::read_file((ptx / part.name).string() + ".90a.ptx"));
    device_model::ptx::leg const leg(made);
#endif
    for (auto const& one : part.list())
      for (auto const seed : seeds) run_one(one, seed, check, recorded, all);
  }
  return all;
}

[[maybe_unused]] int record(std::filesystem::path const& folder) {
  auto const device = device_name();
  if (device.empty()) {
    std::printf("a recording is of hardware: this program has no GPU\n");
    return 2;
  }
  auto const all = run_all(true, {});
  std::string file;
  for (char const c : device)
    file += std::isalnum(static_cast<unsigned char>(c)) ? static_cast<char>(std::tolower(static_cast<unsigned char>(c))) : '-';
  std::filesystem::create_directories(folder);
  auto const path = folder / (file + ".txt");
  std::time_t const now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  char date[32];
  std::strftime(date, sizeof(date), "%Y-%m-%d", std::gmtime(&now));
  std::ofstream out(path);
  out << "# " << device << ", " << date << ", moesaic " << MOESAIC_VERSION_MAJOR << '.' << MOESAIC_VERSION_MINOR << '.'
      << MOESAIC_VERSION_PATCH << '\n';
  for (auto const& line : all.lines) out << line << '\n';
  out.close();
  std::printf("%zu lines in %s; %d differ from what the library takes the hardware to do\n", all.lines.size(), path.c_str(), all.wrong);
  return out && all.wrong == 0 ? 0 : 1;
}

[[maybe_unused]] int check(std::filesystem::path const& folder) {
  auto const recorded = recordings(folder);
  auto const all = run_all(true, recorded);
  std::printf("%zu lines, %d wrong\n", all.lines.size(), all.wrong);
  if (recorded.empty()) std::printf("there is no recording of a device in %s: compared with plain loops alone\n", folder.c_str());
  for (auto const& file : recorded) std::printf("compared with the recording of %s\n", file.title.c_str());
  return all.wrong == 0 ? 0 : 1;
}

}  // namespace

int run(int count, char** arguments) {
  std::string_view const what = count > 1 ? arguments[1] : "";
  std::filesystem::path const folder = count > 2 ? arguments[2] : MOESAIC_SOURCE_DIR "/tests/conformance/recorded";
#if defined(MOESAIC_CONFORMANCE_PTX)
  if (what != "check" || count != 3) return 2;
  auto const of_ptx = run_all(true, {}, folder);
  std::printf("%zu lines of PTX, %d wrong\n", of_ptx.lines.size(), of_ptx.wrong);
  return of_ptx.wrong == 0 ? 0 : 1;
#else
  if (what == "record") return record(folder);
  if (what == "check") return check(folder);
  if (!what.empty()) {
    std::printf("usage: conformance [check|record [folder]]\n");
    return 2;
  }
  auto const all = run_all(false, {});
  for (auto const& line : all.lines) std::printf("%s\n", line.c_str());
  return all.wrong == 0 ? 0 : 1;
#endif
}

}  // namespace moesaic::conformance

int main(int count, char** arguments) { return moesaic::conformance::run(count, arguments); }
