// Reads the tables of tests/oracle/data/functions.*.safetensors, of any element type.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <moesaic/base/status.hpp>
#include <moesaic/io/safetensors.hpp>

namespace moesaic::test {

inline safetensors function_tables(std::string const& which) {
  return safetensors(std::string(MOESAIC_SOURCE_DIR) + "/tests/oracle/data/functions." + which + ".safetensors");
}

/// The elements of a tensor whose elements are as large as T. Not by `find`, which refuses formats that weights never have.
template <class T>
std::vector<T> table(safetensors const& tables, std::string_view name) {
  for (auto const& entry : tables) {
    if (entry.name != name) continue;
    std::int64_t count = 1;
    for (auto const n : entry.shape) count *= n;
    auto const bytes = static_cast<std::size_t>(entry.end - entry.begin);
    if (bytes != static_cast<std::size_t>(count) * sizeof(T)) break;
    std::vector<T> values(static_cast<std::size_t>(count));
    std::memcpy(values.data(), entry.value.data, bytes);
    return values;
  }
  throw error("no such table, or not of elements of " + std::to_string(sizeof(T)) + " bytes: " + std::string(name));
}

}  // namespace moesaic::test
