// Safetensors: what is written is read back, and every damage gives its sentence.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <limits>
#include <string>
#include <vector>

#include <moesaic/io/safetensors.hpp>
#include <support/refusal.hpp>
#include <support/temporary_folder.hpp>

namespace {

using moesaic::dtype;
using moesaic::safetensors;
static_assert(moesaic::tensor_source<safetensors>);

std::string file_of(std::string_view header, std::size_t data_bytes, std::string_view length = {}) {
  std::uint64_t const size = header.size();
  std::string file(reinterpret_cast<char const*>(&size), sizeof size);
  if (!length.empty()) file = length;
  return (file += header).append(data_bytes, '\0');
}

// The bytes in a block of exactly their size, so that a sanitizer sees a read beyond them.
std::vector<std::byte> bytes_of(std::string_view text) {
  auto const* const data = reinterpret_cast<std::byte const*>(text.data());
  return {data, data + text.size()};
}

std::string refusal_of(std::string_view file) {
  auto const bytes = bytes_of(file);
  return refusal([&] { safetensors{moesaic::list<const std::byte>(bytes), "x"}; });
}
std::string refusal_of_path(std::string const& path) {
  return refusal([&] { safetensors{path}; });
}

template <class T>
std::vector<std::byte> raw(std::vector<T> const& values) {
  auto const* const data = reinterpret_cast<const std::byte*>(values.data());
  return {data, data + values.size() * sizeof(T)};
}

bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

const std::string one_byte = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";

}  // namespace

TEST_CASE("a written file is read back: every format, metadata, odd names, empty tensors") {
  temporary_folder const folder;
  auto const path = folder / "model.safetensors";
  std::string const odd = "quote \" backslash \\ newline \n control \x1f utf-8 \xc3\xa4";
  auto const doubles = raw<double>({1, -2.5, 1e300});
  auto const floats = raw<float>({1, 2, 3, 4, 5, 6});
  auto const halves = raw<moesaic::fp16>({moesaic::fp16(0.5f)});
  auto const brains = raw<moesaic::bf16>({moesaic::bf16(3.0f), moesaic::bf16(-1.5f)});
  auto const eights = raw<moesaic::e4m3>({moesaic::e4m3(448.0f)});
  auto const fives = raw<moesaic::e5m2>({moesaic::e5m2(2.0f)});
  auto const scales = raw<moesaic::e8m0>({moesaic::e8m0(4.0f)});
  auto const i64 = raw<std::int64_t>({-1, 5'000'000'000}), empty = raw<std::int64_t>({});
  auto const i32 = raw<std::int32_t>({-7, 7}), u32 = raw<std::uint32_t>({4'000'000'000});
  auto const i16 = raw<std::int16_t>({-300}), u16 = raw<std::uint16_t>({65535});
  auto const i8 = raw<std::int8_t>({-128}), u8 = raw<std::uint8_t>({255});
  auto const u64 = raw<std::uint64_t>({std::numeric_limits<std::uint64_t>::max()});
  moesaic::write_safetensors(path,
                             {{"f64", dtype::fp64, {3}, doubles},
                              {odd, dtype::fp32, {2, 3}, floats},
                              {"f16", dtype::fp16, {}, halves},
                              {"bf16", dtype::bf16, {2}, brains},
                              {"e4m3", dtype::e4m3, {1}, eights},
                              {"e5m2", dtype::e5m2, {1}, fives},
                              {"e8m0", dtype::e8m0, {1}, scales},
                              {"i64", dtype::int64, {2}, i64},
                              {"empty", dtype::int64, {0, 4}, empty},
                              {"i32", dtype::int32, {2}, i32},
                              {"u32", dtype::uint32, {1}, u32},
                              {"i16", dtype::int16, {1, 1, 1}, i16},
                              {"u16", dtype::uint16, {1}, u16},
                              {"i8", dtype::int8, {1}, i8},
                              {"u8", dtype::uint8, {1}, u8},
                              {"u64", dtype::uint64, {1}, u64},
                              {"", dtype::uint8, {1}, u8}},
                             {{"format", "pt"}, {odd, odd}});

  auto opened = safetensors{path};
  auto const* const before = opened.find("f64");
  auto const file = std::move(opened);
  CHECK(file.find("f64") == before);
  CHECK(file.size() == 17);
  CHECK(file.begin()->name == "f64");
  CHECK(file.begin()->stored_as == "F64");
  CHECK(file.metadata("format") == "pt");
  CHECK(file.metadata(odd) == odd);
  CHECK(file.metadata("none").empty());
  CHECK(file.where("f64") == path);
  CHECK(file.where("none") == path);
  CHECK(file.find("none") == nullptr);
  CHECK(file.find("") != nullptr);

  auto const* const matrix = file.find(odd);
  REQUIRE(matrix != nullptr);
  CHECK(matrix->type == dtype::fp32);
  CHECK(matrix->bytes == 24);
  REQUIRE(matrix->shape.size == 2);
  CHECK(matrix->shape[0] == 2);
  CHECK(matrix->shape[1] == 3);
  CHECK(file.find("f16")->shape.empty());
  CHECK(file.find("empty")->shape[1] == 4);

  CHECK(moesaic::read<float>(file, odd) == std::vector<float>{1, 2, 3, 4, 5, 6});
  CHECK(moesaic::read<double>(file, "f64") == std::vector<double>{1, -2.5, 1e300});
  CHECK(moesaic::read<double>(file, odd) == std::vector<double>{1, 2, 3, 4, 5, 6});
  CHECK(moesaic::read<float>(file, "f16") == std::vector<float>{0.5f});
  CHECK(moesaic::read<double>(file, "bf16") == std::vector<double>{3, -1.5});
  CHECK(moesaic::read<float>(file, "e4m3") == std::vector<float>{448});
  CHECK(moesaic::read<float>(file, "e5m2") == std::vector<float>{2});
  CHECK(moesaic::read<float>(file, "e8m0") == std::vector<float>{4});
  CHECK(moesaic::read<std::int64_t>(file, "i64") == std::vector<std::int64_t>{-1, 5'000'000'000});
  CHECK(moesaic::read<double>(file, "i64") == std::vector<double>{-1, 5e9});
  CHECK(moesaic::read<std::int32_t>(file, "i32") == std::vector<std::int32_t>{-7, 7});
  CHECK(moesaic::read<float>(file, "i32") == std::vector<float>{-7, 7});
  CHECK(moesaic::read<std::int64_t>(file, "u32") == std::vector<std::int64_t>{4'000'000'000});
  CHECK(moesaic::read<std::int32_t>(file, "i16") == std::vector<std::int32_t>{-300});
  CHECK(moesaic::read<std::int32_t>(file, "u16") == std::vector<std::int32_t>{65535});
  CHECK(moesaic::read<std::int32_t>(file, "i8") == std::vector<std::int32_t>{-128});
  CHECK(moesaic::read<std::int32_t>(file, "u8") == std::vector<std::int32_t>{255});
  CHECK(moesaic::read<double>(file, "u64") == std::vector<double>{0x1p64});
  CHECK(moesaic::read<std::int32_t>(file, "empty").empty());
  auto const rounded = moesaic::read<moesaic::bf16>(file, "f64");
  CHECK(float(rounded[1]) == -2.5f);

  CHECK(refusal([&] { moesaic::read<float>(file, "none"); }) == path + ": tensor 'none': expected it in the file, found none of that name");
  CHECK(refusal([&] { moesaic::read<std::int32_t>(file, odd); }) ==
        path + ": tensor 'quote \" backslash \\ newline ? control ? utf-8 \xc3\xa4': expected integers, found fp32");
  CHECK(refusal([&] { moesaic::read<std::int32_t>(file, "i64"); }) ==
        path + ": tensor 'i64': expected integers of 32 bits, found 5000000000");
  CHECK(refusal([&] { moesaic::read<std::uint8_t>(file, "i32"); }) == path + ": tensor 'i32': expected integers of 8 bits, found -7");
}

TEST_CASE("a source of one's own can be read; a format below a byte is refused") {
  struct nibbles {
    moesaic::tensor stored{dtype::int4, {}, nullptr, 0};
    moesaic::tensor const* find(std::string_view) const { return &stored; }
    std::string where(std::string_view) const { return "memory"; }
  };
  CHECK(refusal([] { moesaic::read<float>(nibbles{}, "a"); }) == "memory: tensor 'a': expected a format of whole bytes, found int4");
}

TEST_CASE("an unknown format is listed and refused when asked for; BOOL is read as bytes") {
  auto const bytes = bytes_of(
      file_of(R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]},"b":{"dtype":"BOOL","shape":[1],"data_offsets":[2,3]}})", 3));
  auto const file = safetensors{moesaic::list<const std::byte>(bytes), "x"};
  CHECK(file.size() == 2);
  CHECK(file.begin()->stored_as == "F4");
  CHECK(refusal([&] { file.find("a"); }) == "x: tensor 'a': expected a format that the library knows, found 'F4'");
  CHECK(moesaic::read<std::int32_t>(file, "b") == std::vector<std::int32_t>{0});
}

TEST_CASE("harmless variety is accepted") {
  CHECK(refusal_of(file_of("{}", 0)) == "no error");
  CHECK(refusal_of(file_of("{}   \n", 0)) == "no error");
  CHECK(refusal_of(file_of(R"({"__metadata__":null})", 0)) == "no error");
  CHECK(refusal_of(file_of(R"({"__metadata__":{"a":"b"},"a":{"shape":[],"data_offsets":[0,1],"dtype":"I8"}})", 1)) == "no error");
  auto const backwards = R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  CHECK(refusal_of(file_of(backwards, 3)) == "no error");
}

TEST_CASE("every damage of a file has its sentence") {
  using namespace std::string_literals;
  auto const tensor = [](std::string_view body) { return R"({"a":)" + std::string(body) + "}"; };
  auto const with = [&](std::string_view type, std::string_view shape, std::string_view offsets) {
    return tensor(R"({"dtype":)" + std::string(type) + R"(,"shape":)" + std::string(shape) + R"(,"data_offsets":)" + std::string(offsets) +
                  "}");
  };
  auto const two = [](std::string_view b, std::string_view first, std::string_view second) {
    auto const body = R"(":{"dtype":"U8","shape":[2],"data_offsets":)"s;
    return R"({"a)" + body + std::string(first) + R"(},")" + std::string(b) + body + std::string(second) + "}}";
  };
  auto const check = [](std::string const& file, std::string_view expected) { CHECK(refusal_of(file) == "x: " + std::string(expected)); };

  SUBCASE("length") {
    check("", "expected at least the 8 bytes of the header's length, found an empty file");
    check("1234567", "expected at least the 8 bytes of the header's length, found 7");
    check(file_of("", 0), "expected a header that begins with '{', found none");
    check(file_of("{}", 0, "\x03\0\0\0\0\0\0\0"s), "expected a header of 3 bytes, found 2 bytes left in the file; is it truncated?");
    check(file_of("{}", 0, "\x01\xe1\xf5\x05\0\0\0\0"s), "expected a header of at most 100000000 bytes, found a length of 100000001");
    check(file_of("{}", 0, "\xff\xff\xff\xff\xff\xff\xff\xff"s),
          "expected a header of at most 100000000 bytes, found a length of 18446744073709551615");
  }
  SUBCASE("JSON") {
    check(file_of("[]", 0), "expected a header that begins with '{', found another byte");
    check(file_of(" {}", 0), "expected a header that begins with '{', found another byte");
    check(file_of("{}\0 "s, 0), "expected JSON, found a zero byte in it");
    for (auto const* const broken : {"{", "{} {}", "{\"a\"}", "{\"a\":tru}", "{\"\xff\":1}", "{\"a\":{\"shape\":[1e999]}}"})
      CHECK(contains(refusal_of(file_of(broken, 0)), "x: expected JSON, found an error at byte "));
    check(file_of(R"({"a":)" + std::string(1'000'000, '['), 0), "tensor 'a': expected an object, found an array");
  }
  SUBCASE("metadata") {
    check(file_of(R"({"__metadata__":{},"__metadata__":{}})", 0), "expected '__metadata__' once, found it twice");
    check(file_of(R"({"__metadata__":[]})", 0), "__metadata__: expected an object, found an array");
    check(file_of(R"({"__metadata__":{"k":1}})", 0), "__metadata__, key 'k': expected a string, found an integer");
    check(file_of(R"({"__metadata__":{"k":{}}})", 0), "__metadata__, key 'k': expected a string, found an object");
    check(file_of(R"({"__metadata__":{"k":"1","j":"2","k":"3"}})", 0), "__metadata__, key 'k': expected it once, found it twice");
  }
  SUBCASE("keys") {
    check(file_of(tensor("1"), 0), "tensor 'a': expected an object, found an integer");
    check(file_of(tensor("{}"), 0), "tensor 'a': expected the keys dtype, shape and data_offsets, found no dtype");
    check(file_of(tensor(R"({"dtype":"U8"})"), 0), "tensor 'a': expected the keys dtype, shape and data_offsets, found no shape");
    check(file_of(tensor(R"({"dtype":"U8","shape":[]})"), 0),
          "tensor 'a': expected the keys dtype, shape and data_offsets, found no data_offsets");
    check(file_of(tensor(R"({"stride":[]})"), 0), "tensor 'a': expected the keys dtype, shape and data_offsets, found 'stride'");
    check(file_of(tensor(R"({"shape":[1],"shape":[1]})"), 0), "tensor 'a': expected shape once, found it twice");
    check(file_of(two("a", "[0,2]", "[2,4]"), 4), "tensor 'a': expected it once, found it twice");
  }
  SUBCASE("types of values") {
    check(file_of(with("null", "[]", "[]"), 0), "tensor 'a': expected a string as dtype, found null");
    check(file_of(with(R"("U8")", "true", "[]"), 0), "tensor 'a': expected an array as shape, found a boolean");
    check(file_of(with(R"("U8")", "[]", R"("0,1")"), 0), "tensor 'a': expected an array as data_offsets, found a string");
    check(file_of(with(R"("U8")", "[-1]", "[]"), 0), "tensor 'a': expected an integer in shape, found a negative integer");
    check(file_of(with(R"("U8")", "[1.5]", "[]"), 0), "tensor 'a': expected an integer in shape, found a number that is no 64-bit integer");
    check(file_of(with(R"("U8")", "[[1]]", "[]"), 0), "tensor 'a': expected an integer in shape, found an array");
    check(file_of(with(R"("U8")", "[1]", "[0,18446744073709551616]"), 0),
          "tensor 'a': expected an integer in data_offsets, found a number that is no 64-bit integer");
  }
  SUBCASE("shape") {
    check(file_of(with(R"("U8")", "[9223372036854775808]", "[0,0]"), 0),
          "tensor 'a': expected dimensions below 2^63, found 9223372036854775808");
    std::string many = "[1";
    for (int i = 0; i < 64; ++i) many += ",1";
    check(file_of(with(R"("U8")", many + "]", "[0,1]"), 1), "tensor 'a': expected at most 64 dimensions, found more");
    check(file_of(with(R"("F32")", "[3037000500,3037000500]", "[0,0]"), 0),
          "tensor 'a': expected a shape of less than 2^63 bytes, found [3037000500, 3037000500] 'F32'");
    check(file_of(with(R"("F64")", "[4611686018427387904]", "[0,0]"), 0),
          "tensor 'a': expected a shape of less than 2^63 bytes, found [4611686018427387904] 'F64'");
    check(file_of(with(R"("U8")", "[0,4611686018427387904,2]", "[0,0]"), 0),
          "tensor 'a': expected a shape of less than 2^63 bytes, found [0, 4611686018427387904, 2] 'U8'");
    check(file_of(with(R"("??")", "[4294967296,4294967296]", "[0,0]"), 0),
          "tensor 'a': expected a shape of less than 2^63 bytes, found [4294967296, 4294967296] '\?\?'");
    check(file_of(with(R"("F32")", "[2,3]", "[0,23]"), 23),
          "tensor 'a': expected 24 bytes for [2, 3] F32, found 23 in data_offsets [0, 23]");
  }
  SUBCASE("data_offsets") {
    check(file_of(with(R"("U8")", "[1]", "[]"), 1), "tensor 'a': expected two data_offsets, found 0");
    check(file_of(with(R"("U8")", "[1]", "[0]"), 1), "tensor 'a': expected two data_offsets, found 1");
    check(file_of(with(R"("U8")", "[1]", "[0,1,2]"), 1), "tensor 'a': expected two data_offsets, found more");
    check(file_of(with(R"("U8")", "[1]", "[4,3]"), 4), "tensor 'a': expected rising data_offsets, found [4, 3]");
    check(file_of(with(R"("U8")", "[2]", "[0,2]"), 1),
          "tensor 'a': expected data_offsets within the 1 bytes of data in the file, found [0, 2]; is it truncated?");
    check(file_of(with(R"("U8")", "[1]", "[18446744073709551614,18446744073709551615]"), 1),
          "tensor 'a': expected data_offsets within the 1 bytes of data in the file, found [18446744073709551614, 18446744073709551615]; "
          "is it truncated?");
    check(file_of(with(R"("U8")", "[1]", "[1,2]"), 2),
          "tensor 'a': expected its data at 0, where the tensors before it end, found it at 1: a hole");
    check(file_of(two("b", "[0,2]", "[3,5]"), 5),
          "tensor 'b': expected its data at 2, where the tensors before it end, found it at 3: a hole");
    check(file_of(two("b", "[0,2]", "[1,3]"), 3),
          "tensor 'b': expected its data at 2, where the tensors before it end, found it at 1: they overlap");
    check(file_of(two("b", "[0,2]", "[0,2]"), 2),
          "tensor 'b': expected its data at 2, where the tensors before it end, found it at 0: they overlap");
    check(file_of(one_byte, 2), "expected 1 bytes of data, found 2: bytes that belong to no tensor");
    check(file_of("{}", 1), "expected 0 bytes of data, found 1: bytes that belong to no tensor");
  }
  SUBCASE("a hostile name stays readable") {
    check(file_of(R"({"\u001b[2J)" + std::string(300, 'n') + R"(":1})", 0),
          "tensor '?[2J" + std::string(196, 'n') + "...': expected an object, found an integer");
  }
}

TEST_CASE("every cut of a good file is refused, and every changed byte is refused or harmless") {
  auto const header =
      R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"I64","shape":[],"data_offsets":[8,16]}})";
  auto const good = file_of(header, 16);
  REQUIRE(refusal_of(good) == "no error");
  for (std::size_t size = 0; size < good.size(); ++size) CHECK(refusal_of(std::string_view(good).substr(0, size)) != "no error");
  for (std::size_t at = 0; at < good.size() - 16; ++at) {
    for (int value = 0; value < 256; ++value) {
      auto changed = good;
      changed[at] = static_cast<char>(value);
      auto const bytes = bytes_of(changed);
      try {
        auto const file = safetensors{moesaic::list<const std::byte>(bytes)};
        for (auto const& entry : file)
          if (entry.value.type != dtype::same) moesaic::read<double>(file, entry.name);
      } catch (moesaic::error const& refused) {
        CHECK(std::string_view(refused.what()).size() > 10);
      }
    }
  }
}

TEST_CASE("paths: one file, a folder, an index") {
  temporary_folder const folder;
  auto const model = file_of(one_byte, 1);

  SUBCASE("what cannot be opened") {
    CHECK(refusal_of_path(folder / "none") == folder / "none" + ": cannot be opened: No such file or directory");
    REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
    CHECK(refusal_of_path(folder / "pipe") == folder / "pipe" + ": expected a regular file, found a device or pipe");
    CHECK(refusal([&] { moesaic::mapped_file{folder.path.string()}; }) ==
          folder.path.string() + ": expected a regular file, found a folder");
    CHECK(refusal_of_path(folder.write("empty", "")) ==
          folder / "empty" + ": expected at least the 8 bytes of the header's length, found an empty file");
  }
  SUBCASE("a folder holds one model") {
    auto const refused = folder.path.string() + ": expected model.safetensors, or one index, or one file of tensors, found ";
    CHECK(refusal_of_path(folder.path.string()) == refused + "0 indices and 0 files of tensors");
    folder.write("only.safetensors", model);
    CHECK(safetensors{folder.path.string()}.where("a") == folder / "only.safetensors");
    folder.write("other.safetensors", model);
    CHECK(refusal_of_path(folder.path.string()) == refused + "0 indices and 2 files of tensors");
    folder.write("m.safetensors.index.json", R"({"weight_map":{"a":"other.safetensors"}})");
    CHECK(safetensors{folder.path.string()}.where("a") == folder / "other.safetensors");
    folder.write("n.safetensors.index.json", "{}");
    CHECK(refusal_of_path(folder.path.string()) == refused + "2 indices and 2 files of tensors");
    folder.write("model.safetensors", model);
    CHECK(safetensors{folder.path.string()}.where("a") == folder / "model.safetensors");
  }
  SUBCASE("shards of any name, in folders below, metadata of the first, names that the index leaves out") {
    folder.write("part one.bin", file_of(R"({"__metadata__":{"k":"1"},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1));
    folder.write(
        "deep/2",
        file_of(
            R"({"__metadata__":{"k":"2"},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
             R"("c":{"dtype":"U8","shape":[],"data_offsets":[2,3]}})",
            3));
    auto const index =
        folder.write("i.json", R"({"metadata":{"total_size":[{}, 3]},"weight_map":{"b":"deep/2","a":"part one.bin"},"more":null})");
    auto const file = safetensors{index};
    CHECK(file.size() == 3);
    CHECK(file.where("b") == folder / "deep/2");
    CHECK(file.where("a") == folder / "part one.bin");
    CHECK(file.where("none") == index);
    CHECK(file.find("c") != nullptr);
    CHECK(file.find("b")->bytes == 2);
    CHECK(file.metadata("k") == "2");  // 'deep/2' comes first
  }
  SUBCASE("every damage of an index has its sentence") {
    folder.write("s1", model);
    folder.write("s2", file_of(R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1));
    folder.write("again", model);
    auto const check = [&](std::string_view content, std::string_view expected) {
      auto const index = folder.write("i.json", content);
      CHECK(refusal_of_path(index) == index + ": " + std::string(expected));
    };
    CHECK(contains(refusal_of_path(folder.write("i.json", "")), "i.json: expected JSON, found an error at byte 1 of it: "));
    CHECK(
        contains(refusal_of_path(folder.write("i.json", "{\"weight_map\":")), "i.json: expected JSON, found an error at byte 15 of it: "));
    check(std::string_view("{}\0", 3), "expected JSON, found a zero byte in it");
    check("[]", "index: expected an object, found an array");
    check("{}", "expected a weight_map with tensors, found none");
    check(R"({"weight_map":{}})", "expected a weight_map with tensors, found none");
    check(R"({"weight_map":[]})", "weight_map: expected an object, found an array");
    check(R"({"weight_map":{"a":"s1"},"weight_map":{"a":"s1"}})", "expected 'weight_map' once, found it twice");
    check(R"({"weight_map":{"a":1}})", "file of tensor 'a': expected a string, found an integer");
    check(R"({"weight_map":{"a":{"b":"c"}}})", "file of tensor 'a': expected a string, found an object");
    check(R"({"weight_map":{"a":"s1","b":"s2","a":"s1"}})", "tensor 'a': expected it once, found it twice");
    for (auto const* const outside : {"../s1", "x/../../s1", "/etc/passwd", "", "..", "..\\\\s1", "s1\\u0000"}) {
      auto const index = folder.write("i.json", R"({"weight_map":{"a":")" + std::string(outside) + R"("}})");
      CHECK(contains(refusal_of_path(index), index + ": tensor 'a': expected a file below the index's folder, found '"));
    }
    check(R"({"weight_map":{"a":"s1","c":"s2"}})", "tensor 'c': expected it in " + folder / "s2" + ", found it in no shard");
    check(R"({"weight_map":{"a":"s2","b":"s1"}})", "tensor 'a': expected it in " + folder / "s2" + ", found it in " + folder / "s1");

    auto const index = folder.write("i.json", R"({"weight_map":{"a":"s3"}})");
    CHECK(refusal_of_path(index) == folder / "s3" + ": cannot be opened: No such file or directory");
    folder.write("i.json", R"({"weight_map":{"a":"again","b":"s1"}})");
    CHECK(refusal_of_path(index) == folder / "s1" + ": tensor 'a': expected it once, found it in " + folder / "again" + " too");
    std::filesystem::resize_file(index, 100'000'001);
    CHECK(refusal_of_path(index) == index + ": expected an index of at most 100000000 bytes, found 100000001");
  }
}

TEST_CASE("what the reader would refuse is not written, and a failed write leaves nothing") {
  temporary_folder const folder;
  auto const path = folder.write("out.safetensors", "as it was");
  auto const four = raw<float>({1});
  auto const write = [&](std::string const& to, std::vector<moesaic::named_tensor> const& tensors) {
    return refusal([&] { moesaic::write_safetensors(to, tensors); });
  };
  CHECK(write(path, {{"a", dtype::int4, {8}, four}}) == path + ": tensor 'a': expected a format that a file can hold, found int4");
  CHECK(write(path, {{"a", dtype::fp32, {2}, four}}) ==
        path + ": tensor 'a': expected 8 bytes for [2] F32, found 4 in data_offsets [0, 4]");
  CHECK(write(path, {{"a", dtype::fp32, {-1}, four}}) == path + ": tensor 'a': expected an integer in shape, found a negative integer");
  CHECK(write(path, {{"a", dtype::fp32, {1}, four}, {"a", dtype::fp32, {1}, four}}) ==
        path + ": tensor 'a': expected it once, found it twice");
  CHECK(std::filesystem::file_size(path) == 9);
  CHECK(contains(write(folder / "none/out", {{"a", dtype::fp32, {1}, four}}), " cannot be created: No such file or directory"));
  std::filesystem::create_directories(folder / "taken/x");
  CHECK(write(folder / "taken", {{"a", dtype::fp32, {1}, four}}) == folder / "taken" + ": cannot be written: Is a directory");
  for (auto const& left : std::filesystem::directory_iterator(folder.path)) CHECK(!contains(left.path().string(), ".partial"));

  auto const old = safetensors{folder.write("mapped", file_of(one_byte, 1))};
  CHECK(write(folder / "mapped", {{"b", dtype::fp32, {1}, four}}) == "no error");
  CHECK(moesaic::read<float>(old, "a") == std::vector<float>{0});  // the old mapping holds
  CHECK(safetensors{folder / "mapped"}.find("b") != nullptr);
}
