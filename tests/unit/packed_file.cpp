// Packed files: bytes are mapped as they were saved, and each difference is named.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <moesaic/io/packed_file.hpp>
#include <support/refusal.hpp>
#include <support/temporary_folder.hpp>

namespace {

using moesaic::packed_file;

std::vector<std::byte> pattern(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 31 + i / 256);
  return bytes;
}

std::string content(std::string const& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

constexpr std::string_view shapes = "version 0.1, hidden 4096, storage int4 g32\nexperts 8";

}  // namespace

TEST_CASE("a saved payload comes back aligned, with its fingerprint, after a move too") {
  temporary_folder const folder;
  for (std::size_t const size : {0u, 1u, 63u, 64u, 4097u}) {
    auto const bytes = pattern(size);
    auto const path = folder / "weights";
    moesaic::save_packed(path, shapes, bytes);
    auto opened = packed_file{path, shapes};
    auto const file = std::move(opened);
    CHECK(file.fingerprint() == shapes);
    REQUIRE(file.bytes().size == static_cast<std::int64_t>(size));
    CHECK(reinterpret_cast<std::uintptr_t>(file.bytes().data) % 64 == 0);
    CHECK((size == 0 || std::memcmp(file.bytes().data, bytes.data(), size) == 0));
    file.verify();
  }
}

TEST_CASE("the first thing that differs is named") {
  temporary_folder const folder;
  auto const path = folder / "weights";
  moesaic::save_packed(path, shapes, pattern(200));
  auto const good = content(path);
  REQUIRE(good.size() == 128 + 200);

  auto const expecting = [&](std::string_view fingerprint) { return refusal([&] { packed_file{path, fingerprint}; }); };
  CHECK(expecting("version 0.1, hidden 4096, storage int4 g64\nexperts 8") ==
        path + ": fingerprint: expected 'g64' at character 40, found 'g32'");
  CHECK(expecting("version 0.1, hidden 2048, storage int4 g32\nexperts 8") ==
        path + ": fingerprint: expected '2048' at character 20, found '4096'");
  CHECK(expecting(std::string(shapes) + "0") == path + ": fingerprint: expected '80' at character 52, found its end");
  CHECK(expecting("version 0.1") == path + ": fingerprint: expected its end at character 11, found '0.1,'");
  CHECK(expecting("") == path + ": fingerprint: expected its end at character 0, found 'version'");

  auto const changed = [&](std::size_t at, std::uint64_t value, std::size_t bytes) {
    auto file = good;
    std::memcpy(file.data() + at, &value, bytes);
    folder.write("weights", file);
    return refusal([&] { packed_file{path}.verify(); });
  };
  CHECK(changed(0, 'x', 1) == path + ": first bytes: expected 'moesaic', found something else: no packed weights");
  CHECK(changed(8, 0x04030201, 4) == path + ": byte order: expected this machine's, found another");
  CHECK(changed(12, 2, 4) == path + ": version: expected 1, found 2");
  CHECK(changed(16, 289, 8) == path + ": length of the fingerprint: expected at most 288, found 289");
  CHECK(changed(16, ~0ull, 8) == path + ": length of the fingerprint: expected at most 288, found 18446744073709551615");
  CHECK(changed(16, 288, 8) == path + ": payload: expected 200 bytes, found 0");
  CHECK(changed(24, 201, 8) == path + ": payload: expected 201 bytes, found 200");
  CHECK(changed(24, ~0ull, 8) == path + ": payload: expected 18446744073709551615 bytes, found 200");
  CHECK(changed(32, 1, 8).starts_with(path + ": checksum of the payload: expected 1, found "));
  CHECK(changed(0, 'm', 1) == "no error");

  for (std::size_t size = 0; size < good.size(); ++size) {
    folder.write("weights", good.substr(0, size));
    CHECK(refusal([&] { packed_file{path}; }) != "no error");
  }
  CHECK(refusal([&] { packed_file{folder.write("weights", "")}; }) == path + ": size: expected at least 40 bytes, found 0");
  CHECK(refusal([&] { packed_file{folder / "none"}; }) == folder / "none" + ": cannot be opened: No such file or directory");
  CHECK(refusal([&] { moesaic::save_packed(folder / "none/weights", "", pattern(1)); }).find("cannot be created") != std::string::npos);
}

TEST_CASE("a checksum sees every changed bit, an exchange of words and zeros at the end") {
  auto bytes = pattern(101);
  auto const sum = moesaic::checksum(bytes);
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    auto const mask = static_cast<std::byte>(1u << bit % 8);
    bytes[bit / 8] ^= mask;
    CHECK(moesaic::checksum(bytes) != sum);
    bytes[bit / 8] ^= mask;
  }
  auto exchanged = bytes;
  std::swap_ranges(exchanged.begin(), exchanged.begin() + 8, exchanged.begin() + 32);
  CHECK(moesaic::checksum(exchanged) != sum);
  bytes.push_back(std::byte{0});
  CHECK(moesaic::checksum(bytes) != sum);
  CHECK(moesaic::checksum({}) != moesaic::checksum(std::vector<std::byte>(1)));
}
