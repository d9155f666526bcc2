// Writes the fuzzer's first inputs into a folder: small files of every format, hostile ones, and an index.
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <string>
#include <vector>

#include <moesaic/io/safetensors.hpp>

int main(int count, char** arguments) {
  using moesaic::dtype;
  if (count != 2) return std::fputs("usage: corpus FOLDER\n", stderr), 2;
  auto const folder = std::string(arguments[1]) + "/";
  std::filesystem::create_directories(folder);

  std::vector<std::byte> const bytes(64, std::byte{1});
  auto const first = [&](std::int64_t size) { return moesaic::list<const std::byte>(bytes.data(), size); };
  constexpr dtype types[] = {dtype::fp64, dtype::fp32,   dtype::bf16,   dtype::fp16,   dtype::e4m3,
                             dtype::e5m2, dtype::e8m0,   dtype::int64,  dtype::int32,  dtype::int16,
                             dtype::int8, dtype::uint64, dtype::uint32, dtype::uint16, dtype::uint8};
  for (auto const type : types) moesaic::write_safetensors(folder + moesaic::name(type), {{"t", type, {2, 2}, first(4 * bits(type) / 8)}});
  moesaic::write_safetensors(folder + "empty", {});
  moesaic::write_safetensors(folder + "metadata", {{"a", dtype::uint8, {}, first(1)}, {"b", dtype::fp32, {0, 3}, {}}},
                             {{"format", "pt"}, {"k", "\"\n"}});
  moesaic::write_safetensors(folder + "layer", {{"model.layers.0.mlp.gate.weight", dtype::bf16, {4, 2}, first(16)},
                                                {"model.layers.0.mlp.experts.0.down_proj.weight", dtype::fp16, {2, 4}, first(16)},
                                                {"input.ids", dtype::int64, {3}, first(24)}});

  auto const write = [&](std::string const& name, std::string const& content) {
    moesaic::replace_file(folder + name, std::vector{moesaic::list<const std::byte>(reinterpret_cast<const std::byte*>(content.data()),
                                                                                    static_cast<std::int64_t>(content.size()))});
  };
  write("index", R"({"metadata":{"total_size":1},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"below/2"}})");
  auto const second = [&](std::string const& name, std::string const& shape, std::string const& offsets, std::size_t data_bytes) {
    auto const header = R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"F32","shape":)" + shape +
                        R"(,"data_offsets":)" + offsets + "}}";
    write(name, static_cast<char>(header.size()) + std::string(7, '\0') + header + std::string(data_bytes, '\0'));
  };
  second("fits", "[1]", "[2,6]", 6);
  second("overlap", "[1]", "[1,5]", 5);
  second("hole", "[1]", "[3,7]", 7);
  second("reversed", "[1]", "[6,2]", 6);
  second("beyond", "[2]", "[2,10]", 6);
  second("overflow", "[4294967296,4294967296]", "[2,2]", 2);
  return 0;
}
