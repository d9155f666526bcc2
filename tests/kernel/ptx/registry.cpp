// Every kernel of the library, every routing policy and every source of costs has a case through PTX.
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

/// Names of the routing policies and sources of costs in a file: templates over a policy below and what they all start from, and structs outside of
/// `detail` that answer a cost.
std::set<std::string> parts_of(std::istream& in) {
  static std::regex const policy("^struct (\\w+) : (Base|batch_rule<Base>) \\{"), opens("^struct (\\w+)\\b");
  static std::regex const cost("^  [^\"]*\\bT cost\\(state const&");
  static std::regex const hidden("^(\\}  // )?namespace detail\\b");
  std::set<std::string> names;
  std::string current;
  bool detail = false;
  std::smatch found;
  for (std::string line; std::getline(in, line);) {
    if (std::regex_search(line, found, hidden)) detail = !found[1].matched;
    if (std::regex_search(line, found, policy)) names.insert("routing::" + found[1].str());
    if (std::regex_search(line, found, opens)) current = found[1];
    if (!detail && std::regex_search(line, cost)) names.insert("costs::" + current);
  }
  names.erase("routing::batch_rule");      // what rules over a batch share
  return names;
}

template <class Names>
std::set<std::string> covered_by(Names&& names) {
  std::set<std::string> covered;
  for (auto const& g : moesaic::test::ptx::groups())
    for (std::size_t i = 0; i < g.count; ++i) {
      std::istringstream text(names(g.first[i]));
      for (std::string name; text >> name;) covered.insert(name);
    }
  return covered;
}

/// What the files of a folder name, of which all and nothing else must be covered.
template <class Find>
void check_covered(char const* folder, std::set<std::string> const& covered, std::set<std::string> all, std::size_t least, Find&& find) {
  for (auto const& file : std::filesystem::directory_iterator(std::string(MOESAIC_SOURCE_DIR "/include/moesaic/") + folder)) {
    std::ifstream in(file.path());
    for (auto const& name : find(in)) {
      all.insert(name);
      CHECK_MESSAGE(covered.contains(name), file.path().filename().string(), ": ", name, " has no case in tests/kernel/ptx");
    }
  }
  CHECK(all.size() >= least);
  for (auto const& name : covered) CHECK_MESSAGE(all.contains(name), name, " has a case and is in no file");
}

}  // namespace

TEST_CASE("kernels are found by what every one of them says") {
  std::istringstream text(
      "struct a {\n  static constexpr int threads = 128;\n};\nstruct b { int threads; };\ntemplate <int>\nstruct c {\n  static constexpr "
      "int warps = 8, threads = 32 * warps;\n");
  CHECK(functors_of(text) == std::set<std::string>{"a", "c"});
}

TEST_CASE("policies and sources of costs are found by what every one of them says") {
  std::istringstream text(
      "template <class Base = standard>\nstruct a : Base {\n  struct state : Base::state {\n  };\n};\nstruct b : batch_rule<Base> {\n};\n"
      "namespace detail {\nstruct none {\n  static constexpr T cost(state const&, routing_site) {}\n};\n}  // namespace detail\n"
      "struct c {\n  MOESAIC_INLINE static constexpr T cost(state const& s, routing_site at) {\n};\nstruct d {\n};\n");
  CHECK(parts_of(text) == std::set<std::string>{"routing::a", "routing::b", "costs::c"});
}

TEST_CASE("every kernel has a case through PTX") {
  check_covered("cuda/kernel", covered_by([](auto const& f) { return f.functors; }), {}, 10, functors_of);
}

TEST_CASE("every routing policy and source of costs has a case through PTX") {
  auto const covered = covered_by([](auto const& f) { return f.parts; });
  CHECK(covered.contains("routing::standard"));
  check_covered("route", covered, {"routing::standard", "costs::sum"}, 28, parts_of);
}
