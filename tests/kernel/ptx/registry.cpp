// Every kernel of the library has a case through PTX.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <string>

#include "leg.hpp"

namespace {

/// Names of the kernels in a file: structs that say how many threads a block has.
std::set<std::string> functors_of(std::istream& in) {
  static std::regex const opens("^(struct|class) (\\w+)"), threads("static constexpr int (\\w+ = [^;]*, )?threads\\b");
  std::set<std::string> names;
  std::string current;
  std::smatch found;
  for (std::string line; std::getline(in, line);) {
    if (std::regex_search(line, found, opens)) current = found[2];
    if (std::regex_search(line, threads) && !current.empty()) names.insert(current);
  }
  return names;
}

}  // namespace

TEST_CASE("kernels are found by what every one of them says") {
  std::istringstream text(
      "struct a {\n  static constexpr int threads = 128;\n};\nstruct b { int threads; };\ntemplate <int>\nstruct c {\n  static constexpr "
      "int warps = 8, threads = 32 * warps;\n");
  CHECK(functors_of(text) == std::set<std::string>{"a", "c"});
}

TEST_CASE("every kernel has a case through PTX") {
  std::set<std::string> covered;
  for (auto const& g : moesaic::test::ptx::groups())
    for (std::size_t i = 0; i < g.count; ++i) {
      std::istringstream names(g.first[i].functors);
      for (std::string name; names >> name;) covered.insert(name);
    }
  std::set<std::string> all;
  for (auto const& file : std::filesystem::directory_iterator(MOESAIC_SOURCE_DIR "/include/moesaic/cuda/kernel")) {
    std::ifstream in(file.path());
    for (auto const& name : functors_of(in)) {
      all.insert(name);
      CHECK_MESSAGE(covered.contains(name), file.path().filename().string(), ": ", name, " has no case in tests/kernel/ptx");
    }
  }
  CHECK(all.size() >= 10);
  for (auto const& name : covered) CHECK_MESSAGE(all.contains(name), name, " is a case of no kernel");
}
