// A folder of a test's own, gone when the test ends.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

struct temporary_folder {
  std::filesystem::path path;

  temporary_folder() {
    static int made = 0;
    path = std::filesystem::temp_directory_path() / ("moesaic-" + std::to_string(::getpid()) + "-" + std::to_string(made++));
    std::filesystem::create_directories(path);
  }
  temporary_folder(temporary_folder const&) = delete;
  temporary_folder& operator=(temporary_folder const&) = delete;
  ~temporary_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }

  std::string operator/(std::string_view file) const { return (path / file).string(); }
  std::string write(std::string_view file, std::string_view content) const {
    std::filesystem::create_directories((path / file).parent_path());
    std::ofstream(path / file, std::ios::binary) << content;
    return *this / file;
  }
};
