// Runs kernels as nvcc compiled them: PTX on the device model, one fibre a thread, every special instruction the model's own function.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../model.hpp"

namespace moesaic::device_model::ptx {

/// One PTX text, decoded. While a `leg` names it, launches of kernels go to its entries.
class program : public front_end {
 public:
  /// Throws moesaic::error with line and instruction for what is not known.
  explicit program(std::string text);
  ~program() override;

  /// Names of the entries, demangled.
  std::vector<std::string> kernels() const;
  /// The entry of `kernel`, a functor of cuda/launch.hpp: moesaic::cuda::entry<kernel>.
  status run(std::type_info const& kernel, cuda::grid const& blocks, int threads, std::size_t shared_bytes, void const* params,
             std::size_t params_bytes) override;
  /// The entry with this name, mangled or as `kernels` tells it. Parameters as a struct of all.
  status run(std::string const& kernel, cuda::grid const& blocks, int threads, std::size_t shared_bytes, void const* params,
             std::size_t params_bytes);

  /// Whether an entry of a functor with this name has run, whatever its template arguments: "normalize_rows".
  bool has_run(std::string const& functor) const;
  /// Whether an entry has run among whose template arguments, at any depth, this type is: "routing::top_p".
  bool has_run_with(std::string const& type) const;

  /// Instructions of one thread after which it counts as hung.
  std::uint64_t most_instructions = 50'000'000;
  /// Instructions of all threads since the program was made.
  std::uint64_t executed() const;

  struct parts;

 private:
  std::unique_ptr<parts> parts_;
};

/// The text of a file of PTX; throws where there is none.
std::string read_file(std::string const& path);

/// Launches go to the program until the scope ends.
class leg {
 public:
  explicit leg(front_end& to) : before_(instead) { instead = &to; }
  ~leg() { instead = before_; }
  leg(leg const&) = delete;
  leg& operator=(leg const&) = delete;

 private:
  front_end* before_;
};

}  // namespace moesaic::device_model::ptx
