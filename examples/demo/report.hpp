// What the demo says: a progress bar while it works, rows of a table, and the same rows as JSON.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include <nlohmann/json.hpp>

namespace demo {

/// A bar on standard error that overwrites itself on a terminal, and a line a step elsewhere.
class progress {
 public:
  explicit progress(int steps) : steps_(steps), terminal_(isatty(2) != 0) {}
  ~progress() {
    if (terminal_) std::fprintf(stderr, "\r%100s\r", "");
  }
  progress(progress const&) = delete;
  progress& operator=(progress const&) = delete;

  void step(std::string const& what) {
    if (done_ < steps_) ++done_;
    if (!terminal_) {
      std::fprintf(stderr, "  %d/%d %s\n", done_, steps_, what.c_str());
      return;
    }
    constexpr int width = 30;
    std::string bar(static_cast<std::size_t>(width * done_ / steps_), '#');
    bar.resize(width, '.');
    std::fprintf(stderr, "\r  [%s] %3d %%  %-50.50s", bar.c_str(), 100 * done_ / steps_, what.c_str());
    std::fflush(stderr);
  }

 private:
  int steps_, done_ = 0;
  bool terminal_;
};

/// One row: its names, and figures in the order in which they were measured. A row has only the fields that mean something for it.
struct row {
  std::string section, name;
  std::vector<std::pair<std::string, double>> figures;
  std::vector<std::pair<std::string, std::string>> labels = {};

  double const* find(std::string const& field) const {
    for (auto const& [key, value] : figures)
      if (key == field) return &value;
    return nullptr;
  }
};

/// A column of a printed table: the field, its title, and how a figure is written (printf, of a double).
struct column {
  const char* field;
  const char* title;
  const char* form;
  double unit = 1;
};

inline void print_header(std::vector<column> const& columns, int name_width) {
  std::printf("%-*s", name_width, "");
  for (auto const& c : columns) std::printf("  %9s", c.title);
  std::printf("\n");
}
inline void print_row(row const& r, std::vector<column> const& columns, int name_width) {
  std::printf("%-*s", name_width, r.name.c_str());
  for (auto const& c : columns) {
    char text[32] = "";
    if (auto const* value = r.find(c.field)) std::snprintf(text, sizeof text, c.form, *value / c.unit);
    std::printf("  %9s", text);
  }
  std::printf("\n");
  std::fflush(stdout);
}

/// {"rows": [{"section": ..., "row": ..., field: number, ...}, ...]}
inline void write_json(std::string const& path, std::vector<row> const& rows) {
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (auto const& r : rows) {
    nlohmann::ordered_json one{{"section", r.section}, {"row", r.name}};
    for (auto const& [key, value] : r.labels) one[key] = value;
    for (auto const& [key, value] : r.figures) one[key] = value;
    all.push_back(std::move(one));
  }
  std::ofstream file(path);
  file << nlohmann::ordered_json{{"rows", all}}.dump(1) << '\n';
  if (!file) throw std::runtime_error(path + ": could not be written");
}

}  // namespace demo
