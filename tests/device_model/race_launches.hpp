// Which global memory the launches before an early one touched: what it must not touch itself before griddepcontrol_wait.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "internal.hpp"

namespace moesaic::device_model::race {

/// An early launch may run beside every launch before it, back to the last one that was not early: each of those calls
/// griddepcontrol_launch_dependents before it has waited itself. Whoever has called griddepcontrol_wait comes after all of them.
class launch_history {
 public:
  struct touch {
    std::uint32_t launch = 0;                   ///< from 1; 0: none
    std::uint32_t place = 0;
  };

  void begin(char const* kernel, bool early) {
    if (!early) forget();
    kernels_.emplace_back(kernel);
    of_number_.clear();
  }
  /// Something has ordered all launches so far before all that follow.
  void forget() {
    words_.clear();
    kernels_.clear();
    places_.clear();
  }
  /// An access by a thread, before or after its block has waited. The earlier touch that it races with, launch 0 if with none.
  template <class Resolve>
  touch note(std::uintptr_t address, std::size_t bytes, bool write, bool waited, std::uint32_t number, Resolve const& resolve) {
    auto const now = static_cast<std::uint32_t>(kernels_.size());
    auto const [found, fresh] = of_number_.try_emplace(number, static_cast<std::uint32_t>(places_.size()));
    if (fresh) places_.push_back(resolve(number));
    touch const mine{now, found->second};
    touch with;
    for (auto at = address / 4; at <= (address + bytes - 1) / 4; ++at) {
      auto& w = words_[at];
      if (!waited && w.written.launch != 0 && w.written.launch != now) with = w.written;
      if (!waited && write && w.read.launch != 0 && w.read.launch != now) with = w.read;
      (write ? w.written : w.read) = mine;
    }
    return with;
  }
  std::string const& kernel(touch const& t) const { return kernels_[t.launch - 1]; }
  internal::place const& where(touch const& t) const { return places_[t.place]; }

 private:
  struct word {
    touch written, read;
  };
  std::unordered_map<std::uintptr_t, word> words_;   ///< of 4 bytes
  std::vector<std::string> kernels_;
  std::vector<internal::place> places_;
  std::unordered_map<std::uint32_t, std::uint32_t> of_number_;
};

}  // namespace moesaic::device_model::race
