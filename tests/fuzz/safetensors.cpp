// libFuzzer: any bytes as a safetensors file, and as an index. A file is refused with a sentence, or every tensor of it can be read.
// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include <moesaic/io/safetensors.hpp>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t room);

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

template <class F>
void refused_or(F&& f) {
  try {
    f();
  } catch (moesaic::error const& refused) {
    require(std::string_view(refused.what()).starts_with("file: "));
  }
}

volatile unsigned char sink;  // what is read must be used, or the compiler leaves the reading out

void read_all(moesaic::safetensors const& file) {
  for (auto const& entry : file) {
    for (std::int64_t i = 0; i < entry.value.bytes; ++i) sink = static_cast<unsigned char>(entry.value.data[i]);
    refused_or([&] {
      auto const* const found = file.find(entry.name);
      require(found == &entry.value && file.where(entry.name) == "file");
      std::int64_t elements = 1;
      for (auto const extent : found->shape) elements *= extent;
      require(elements * bits(found->type) == 8 * found->bytes);
      require(static_cast<std::int64_t>(moesaic::read<double>(file, entry.name).size()) == elements);
      moesaic::read<std::int32_t>(file, entry.name);
    });
  }
  require(file.metadata("format").size() < 1 << 20);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  auto const bytes = moesaic::list<const std::byte>(reinterpret_cast<std::byte const*>(data), static_cast<std::int64_t>(size));
  refused_or([&] { read_all(moesaic::safetensors(bytes, "file")); });
  refused_or([&] {
    std::string const where = "file";
    auto index = moesaic::detail::index_rules(where);
    moesaic::detail::read_json(bytes, index);
  });
  return 0;
}

// Most changes of the header would end at its length; half of the time the length is made to fit the last brace.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t room, unsigned seed) {
  size = LLVMFuzzerMutate(data, size, room);
  constexpr std::size_t prefix = 8;
  auto const brace = std::string_view(reinterpret_cast<char const*>(data), size).rfind('}');
  if (seed % 2 == 0 && brace != std::string_view::npos && brace >= prefix) {
    std::uint64_t const length = brace + 1 - prefix;
    std::memcpy(data, &length, sizeof length);
  }
  return size;
}
