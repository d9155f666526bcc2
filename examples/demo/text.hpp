// Token files -> windows of ids, and ids -> text, without a tokenizer.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "carved_model.hpp"

namespace demo {

/// Which windows of a text: of every 8 in a row, the one that calibrates or the one that evaluates.
enum class part : int { calibration = 0, evaluation = 4 };

/// The first `count` windows of a part (fewer where the text ends), one after another: [windows · window].
inline std::vector<std::int32_t> windows(std::vector<std::int32_t> const& ids, part which, int count, int window) {
  std::vector<std::int32_t> out;
  auto const size = index(window);
  for (auto j = static_cast<std::size_t>(which); count > 0 && (j + 1) * size <= ids.size(); j += 8, --count)
    out.insert(out.end(), ids.begin() + static_cast<std::ptrdiff_t>(j * size), ids.begin() + static_cast<std::ptrdiff_t>((j + 1) * size));
  return out;
}

/// What each token id decodes to: a file of `bytes` (uint8) and `offsets` (int32 [vocabulary + 1]).
class vocabulary {
 public:
  explicit vocabulary(std::string const& path) : file_(path), offsets_(elements<std::int32_t>(file_, "offsets")) {
    auto const* const bytes = file_.find("bytes");
    auto const found = bytes == nullptr ? 0 : bytes->bytes;
    bool rising = !offsets_.empty() && offsets_.front() == 0;
    for (std::size_t i = 1; i < offsets_.size(); ++i) rising = rising && offsets_[i] >= offsets_[i - 1];
    if (!rising || offsets_.back() != found)
      throw moesaic::error(path + ": expected offsets that rise from 0 to the " + std::to_string(found) + " of `bytes`, found others");
    text_ = bytes != nullptr ? reinterpret_cast<const char*>(bytes->data) : "";
  }
  vocabulary(vocabulary const&) = delete;                  // text_ points into file_
  vocabulary& operator=(vocabulary const&) = delete;

  int size() const { return static_cast<int>(offsets_.size()) - 1; }
  /// The bytes of one token, which need not be whole characters; valid as long as this.
  std::string_view operator[](std::int32_t id) const {
    auto const i = index(id);
    return {text_ + offsets_[i], index(offsets_[i + 1] - offsets_[i])};
  }

 private:
  moesaic::safetensors file_;
  std::vector<std::int32_t> offsets_;
  const char* text_ = "";
};

}  // namespace demo
