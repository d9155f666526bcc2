// The dense model and a text -> carvings of it, kept in files.
// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iterator>

#include "../calibrate.hpp"
#include "net_of.hpp"

namespace demo::smollm2 {

namespace {

/// 64 bits that tell the inputs of a carving apart (FNV-1a, eight bytes at a time).
class fingerprint {
 public:
  void add(const void* data, std::size_t bytes) {
    auto const* from = static_cast<const unsigned char*>(data);
    for (; bytes >= 8; bytes -= 8, from += 8) {
      std::uint64_t word;
      std::memcpy(&word, from, 8);
      mix(word);
    }
    while (bytes-- > 0) mix(*from++);
  }
  std::string text() const {
    char hex[17];
    std::snprintf(hex, sizeof hex, "%016llx", static_cast<unsigned long long>(state_));
    return hex;
  }

 private:
  void mix(std::uint64_t word) {
    state_ = (state_ ^ word) * 0x100000001b3u;
    state_ ^= state_ >> 32;
  }
  std::uint64_t state_ = 0xcbf29ce484222325u;
};

/// Ten experts of 32 neurons, six of 64, five of 128, and as many neurons that always run as with equal parts.
carving three_widths() {
  carving c;
  for (auto const& run : mixed_widths) c.widths.insert(c.widths.end(), index(run.experts), run.intermediate);
  c.shared = shared_experts * dense_layer<>::config.expert.intermediate / experts;
  return c;
}

}  // namespace

std::vector<carved_model> carvings(host::pool& where, moesaic::checkpoint const& folder, std::vector<std::int32_t> const& ids,
                                   std::string const& cache, std::function<void(int)> const& progress) {
  constexpr std::string_view code = MOESAIC_CARVING_KEY;       // a digest of the sources that carve
  fingerprint of;
  of.add(code.data(), code.size());
  of.add(ids.data(), ids.size() * sizeof ids[0]);
  for (auto const& tensor : folder.tensors())
    of.add(tensor.value.data, index(tensor.value.bytes));

  constexpr const char* names[] = {"learned", "contiguous", "random", "mixed"};
  std::vector<carving> ways;
  std::vector<std::string> paths, missing;
  for (std::size_t i = 0; i < std::size(names); ++i) {
    paths.push_back(cache + "/carved-" + names[i] + "-" + of.text() + ".safetensors");
    if (std::filesystem::exists(paths.back())) continue;
    missing.push_back(paths.back());
    ways.push_back(i < 3 ? equal_parts(dense_layer<>::config.expert.intermediate, experts, shared_experts, static_cast<split>(i)) : three_widths());
  }
  if (!missing.empty()) {
    std::filesystem::create_directories(cache);
    auto const models = carve_model<dense_layer<>>(where, folder, moesaic::decoder<model<dense_layer<>>>::layers, ids, window, ways, progress);
    for (std::size_t i = 0; i < ways.size(); ++i) save(missing[i], models[i]);
  }
  std::vector<carved_model> kept;
  for (auto const& path : paths) kept.push_back(load_carved(path));
  return kept;
}

}  // namespace demo::smollm2
