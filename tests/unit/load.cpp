// layer/load.hpp: tensors of codes and their scales are found, checked, and packed: bit for bit where they are stored the same way.
// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <moesaic/base/random.hpp>
#include <moesaic/cuda/pack.hpp>
#include <moesaic/host/set_up.hpp>
#include <moesaic/io/safetensors.hpp>
#include <moesaic/layer/load.hpp>
#include <support/refusal.hpp>

using namespace moesaic;

namespace {

/// Tensors by name, in memory.
class memory_source {
 public:
  template <class T>
  void add(std::string const& name, dtype type, std::vector<std::int64_t> shape, std::vector<T> const& values) {
    auto& kept = all_[name];
    kept.shape = std::move(shape);
    kept.bytes.resize(values.size() * sizeof(T));
    std::memcpy(kept.bytes.data(), values.data(), kept.bytes.size());
    kept.stored = {type, kept.shape, kept.bytes.data(), static_cast<std::int64_t>(kept.bytes.size())};
  }
  void remove(std::string const& name) { all_.erase(name); }
  tensor const* find(std::string_view name) const {
    auto const found = all_.find(name);
    return found == all_.end() ? nullptr : &found->second.stored;
  }
  std::string where(std::string_view) const { return "memory"; }

 private:
  struct held {
    std::vector<std::int64_t> shape;
    std::vector<std::byte> bytes;
    tensor stored;
  };
  std::map<std::string, held, std::less<>> all_;
};

constexpr spellings matrix_name = {"w"}, other_name = {"v"};
tensor_names const names;

using from_memory = loader<host::pool>;

/// A packed matrix and its bytes.
struct packed_here {
  host::buffer memory;
  packed_matrix m;
  explicit packed_here(packed_matrix shape) : memory(static_cast<std::size_t>(packed::bytes(shape))), m(shape) { m.data = memory.data(); }
};

/// A matrix of e4m3 as DeepSeek stores it: every finite code, and scales that no quantiser would choose for them.
struct stored_e4m3 {
  std::int64_t rows, inputs, along;
  std::vector<std::uint8_t> codes;
  std::vector<float> scales;

  stored_e4m3(std::int64_t n, std::int64_t k, std::uint64_t seed)
      : rows(n), inputs(k), along((k + 127) / 128), codes(static_cast<std::size_t>(n * k)), scales(static_cast<std::size_t>((n + 127) / 128 * along)) {
    random_stream random(seed);
    for (std::size_t i = 0; i < codes.size(); ++i) {
      auto const code = i < 256 ? static_cast<std::uint8_t>(i) : static_cast<std::uint8_t>(random.below(256));
      codes[i] = (code & 0x7f) == 0x7f ? std::uint8_t{0x80} : code;
    }
    for (auto& s : scales) s = (0.5f + random.uniform()) / static_cast<float>(1 + random.below(2000));
  }
  void into(memory_source& source, std::string const& name) const {
    source.add(name + ".weight", dtype::e4m3, {rows, inputs}, codes);
    source.add(name + ".weight_scale_inv", dtype::fp32, {(rows + 127) / 128, along}, scales);
  }
  float scale(std::int64_t n, std::int64_t k) const { return scales[static_cast<std::size_t>(n / 128 * along + k / 128)]; }
  float weight(std::int64_t n, std::int64_t k) const { return static_cast<float>(e4m3::from_bits(codes[static_cast<std::size_t>(n * inputs + k)])) * scale(n, k); }
};

float scale_in_lane(packed_matrix const& m, std::int64_t output, std::int64_t group) {
  auto const at = host::pack_detail::place_of(m, 0, output);
  float s;
  std::memcpy(&s, m.data + at.pair * packed::pair_bytes(m.stored, m.inputs) + host::pack_detail::scales_at(m) +
                      4 * host::pack_detail::scale_index(group, at.panel, at.lane), 4);
  return s;
}
std::uint8_t code_in_lane(packed_matrix const& m, std::int64_t output, std::int64_t k) {
  auto const at = host::pack_detail::place_of(m, 0, output);
  std::uint32_t word;
  std::memcpy(&word, m.data + at.pair * packed::pair_bytes(m.stored, m.inputs) +
                         packed::row_offset(k / packed::per_lane(m.stored.type), at.panel, packed::rows(m.stored.type, m.inputs)) + 4 * at.lane, 4);
  return static_cast<std::uint8_t>(word >> 8 * (k % 4));
}

/// A stack of mxfp4 as gpt-oss stores it.
struct stored_mxfp4 {
  std::int64_t count, rows, inputs;
  std::vector<std::uint8_t> blocks, scales;

  stored_mxfp4(std::int64_t e, std::int64_t n, std::int64_t k, std::uint64_t seed)
      : count(e), rows(n), inputs(k), blocks(static_cast<std::size_t>(e * n * k / 2)), scales(static_cast<std::size_t>(e * n * k / 32)) {
    random_stream random(seed);
    for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = i < 256 ? static_cast<std::uint8_t>(i) : static_cast<std::uint8_t>(random.below(256));
    for (auto& s : scales) s = static_cast<std::uint8_t>(random.below(252));
    scales[0] = 0, scales[1] = 251;
  }
  void into(memory_source& source, std::string const& name) const {
    source.add(name + "_blocks", dtype::uint8, {count, rows, inputs / 32, 16}, blocks);
    source.add(name + "_scales", dtype::uint8, {count, rows, inputs / 32}, scales);
  }
  float weight(std::int64_t row, std::int64_t k) const {
    constexpr float values[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    auto const i = row * inputs + k;
    auto const byte = blocks[static_cast<std::size_t>(i / 2)];
    return std::ldexp(values[i % 2 == 0 ? byte % 16 : byte / 16], scales[static_cast<std::size_t>(i / 32)] - 127);
  }
};

/// A place that packs as the CUDA backend does, without a device.
struct device_layout {};
template <dtype Promised = dtype::same, class RowSource>
void pack(device_layout&, packed_matrix const& m, std::int64_t index, RowSource const& source) {
  cuda::pack_detail::pack<Promised>(m, index, packing::as_row_source(source), const_cast<std::byte*>(m.data));
}

bool same_bits(float a, float b) { return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b); }

}  // namespace

TEST_CASE("e4m3 with a scale for 128 x 128 keeps every code and every scale, short blocks too") {
  host::pool pool;
  for (auto const& shape : {std::pair<std::int64_t, std::int64_t>{264, 144}, {24, 132}, {128, 128}, {129, 257}, {3, 300}}) {
    auto const rows = shape.first, inputs = shape.second;
    CAPTURE(rows);
    stored_e4m3 const w(rows, inputs, 1);
    memory_source source;
    w.into(source, "w");
    from_memory from(pool, source, "", names);
    packed_here const kept({dtype::e4m3, rows, inputs});
    from.matrix<dtype::e4m3>(kept.m, 0, {from.find(matrix_name, ".weight", {rows, inputs})});
    std::int64_t codes = 0, scales = 0;
    for (std::int64_t n = 0; n < rows; ++n)
      for (std::int64_t k = 0; k < inputs; ++k) {
        codes += code_in_lane(kept.m, n, k) == w.codes[static_cast<std::size_t>(n * inputs + k)];
        scales += same_bits(scale_in_lane(kept.m, n, k / 128), w.scale(n, k));
      }
    CHECK(codes == rows * inputs);
    CHECK(scales == rows * inputs);

    packed_here const wide({dtype::fp32, rows, inputs});
    from.matrix(wide.m, 0, {from.find(matrix_name, ".weight", {rows, inputs})});
    std::int64_t same = 0;
    for (std::int64_t n = 0; n < rows; ++n)
      for (std::int64_t k = 0; k < inputs; ++k) same += same_bits(host::unpack(wide.m, 0, 0, n, k), w.weight(n, k));
    CHECK(same == rows * inputs);
  }
}

TEST_CASE("rows of two tensors of e4m3 keep their scales side by side, on a device where their blocks lie as its own") {
  host::pool pool;
  for (std::int64_t const first : {24, 128}) {
    CAPTURE(first);
    constexpr std::int64_t second = 152, inputs = 144;
    stored_e4m3 const a(first, inputs, 2), b(second, inputs, 3);
    memory_source source;
    a.into(source, "w"), b.into(source, "v");
    auto const want = [&](std::int64_t n, std::int64_t k) { return n < first ? a.weight(n, k) : b.weight(n - first, k); };
    auto const differing = [&](auto const& m, auto unpack) {
      std::int64_t count = 0;
      for (std::int64_t n = 0; n < first + second; ++n)
        for (std::int64_t k = 0; k < inputs; ++k) count += !same_bits(unpack(m, 0, 0, n, k), want(n, k));
      return count;
    };
    from_memory from(pool, source, "", names);
    packed_here const here({dtype::e4m3, first + second, inputs});
    from.matrix<dtype::e4m3>(here.m, 0, {from.find(matrix_name, ".weight", {first, inputs}), from.find(other_name, ".weight", {second, inputs})});
    CHECK(differing(here.m, host::unpack) == 0);

    device_layout nowhere;
    loader<device_layout> to_device(nowhere, source, "", names);
    packed_here const there({dtype::e4m3, first + second, inputs});
    to_device.matrix<dtype::e4m3>(there.m, 0, {to_device.find(matrix_name, ".weight", {first, inputs}), to_device.find(other_name, ".weight", {second, inputs})});
    if (first == 128) CHECK(differing(there.m, cuda::unpack) == 0);
    else CHECK(differing(there.m, cuda::unpack) > 0);                        // one scale for a block: quantised anew
  }
}

TEST_CASE("a transpose of e4m3 keeps codes and scales where no group of its inputs is of two blocks") {
  host::pool pool;
  constexpr std::int64_t rows = 300, inputs = 144;
  stored_e4m3 const w(rows, inputs, 8);
  memory_source source;
  w.into(source, "w");
  from_memory from(pool, source, "", names);
  auto piece = from.find(matrix_name, ".weight", {rows, inputs});
  auto const differing = [&](std::int64_t first, std::int64_t count) {
    piece.first = first, piece.rows = count;
    packed_here const upright({dtype::e4m3, count, inputs}), to({dtype::e4m3, inputs, count});
    from.matrix_and_transpose<dtype::e4m3>(upright.m, to.m, 0, piece);
    std::int64_t differ = 0;
    for (std::int64_t n = 0; n < inputs; ++n)
      for (std::int64_t k = 0; k < count; ++k) differ += !same_bits(host::unpack(to.m, 0, 0, n, k), w.weight(first + k, n));
    return differ;
  };
  CHECK(differing(0, 300) == 0);
  CHECK(differing(128, 128) == 0);
  CHECK(differing(140, 24) == 0);
  CHECK(differing(120, 24) > 0);
}

TEST_CASE("other blocks than the stored ones are quantised anew, and scales too small for floats count as 0") {
  host::pool pool;
  constexpr std::int64_t rows = 40, inputs = 160;
  stored_e4m3 w(rows, inputs, 4);
  w.scales[1] = 1e-40f;
  memory_source source;
  w.into(source, "w");
  from_memory from(pool, source, "", names);
  packed_here const other({{dtype::e4m3, 32}, rows, inputs}), same({dtype::e4m3, rows, inputs});
  for (auto const* to : {&other, &same}) {
    from.matrix<dtype::e4m3>(to->m, 0, {from.find(matrix_name, ".weight", {rows, inputs})});
    std::int64_t near = 0;
    for (std::int64_t n = 0; n < rows; ++n)
      for (std::int64_t k = 0; k < inputs; ++k) {
        auto const found = host::unpack(to->m, 0, 0, n, k), want = w.weight(n, k);
        near += std::fabs(found - want) <= std::fabs(want) / 16 + w.scale(n, k) + 1e-20f;
      }
    CHECK(near == rows * inputs);
  }
  CHECK(host::unpack(same.m, 0, 0, 0, 130) == 0);
}

TEST_CASE("mxfp4 as blocks and scales keeps every code and every scale, interleaved rows too, and becomes the same floats") {
  host::pool pool;
  constexpr std::int64_t experts = 3, width = 24, inputs = 96;
  stored_mxfp4 const w(experts, 2 * width, inputs, 5);
  memory_source source;
  w.into(source, "w");
  from_memory from(pool, source, "", names);
  CHECK(from.has(matrix_name, ""));
  CHECK(from.has(matrix_name, "_blocks"));
  CHECK(!from.has(other_name, ""));
  auto const* const stored = from.find(matrix_name, "", {experts, 2 * width, inputs}).stored;
  packed_here const kept({.stored = dtype::mxfp4, .outputs = width, .inputs = inputs, .parts = 2, .count = experts}),
      wide({.stored = dtype::fp32, .outputs = width, .inputs = inputs, .parts = 2, .count = experts});
  std::int64_t same = 0;
  for (std::int64_t e = 0; e < experts; ++e) {
    auto const first = e * 2 * width;
    from.matrix<dtype::mxfp4>(kept.m, e, {{stored, width, first, 1, 2}, {stored, width, first + 1, 1, 2}});
    from.matrix(wide.m, e, {{stored, width, first, 1, 2}, {stored, width, first + 1, 1, 2}});
    for (int part = 0; part < 2; ++part)
      for (std::int64_t n = 0; n < width; ++n)
        for (std::int64_t k = 0; k < inputs; ++k) {
          auto const want = w.weight(first + 2 * n + part, k);
          same += same_bits(host::unpack(kept.m, e, part, n, k), want) + same_bits(host::unpack(wide.m, e, part, n, k), want);
        }
  }
  CHECK(same == 2 * experts * 2 * width * inputs);
}

TEST_CASE("folders as DeepSeek-V3 and gpt-oss are published: every matrix of codes is kept") {
  host::pool pool;
  auto const folder = [](char const* name) { return std::string(MOESAIC_SOURCE_DIR) + "/tests/oracle/data/checkpoints/" + name; };
  safetensors const deepseek(folder("deepseek_v3_fp8")), gpt_oss(folder("gpt_oss_mxfp4"));
  std::int64_t matrices = 0, differ = 0;
  loader<host::pool> from_deepseek(pool, deepseek, "", names), from_gpt_oss(pool, gpt_oss, "", names);
  for (auto const& entry : deepseek) {
    if (entry.value.type != dtype::e4m3) continue;
    auto const rows = entry.shape[0], inputs = entry.shape[1];
    auto const scales = read<float>(deepseek, entry.name + "_scale_inv");
    spellings const name{entry.name.c_str()};
    packed_here const to({dtype::e4m3, rows, inputs});
    from_deepseek.matrix<dtype::e4m3>(to.m, 0, {from_deepseek.find(name, "", {rows, inputs})});
    for (std::int64_t n = 0; n < rows; ++n)
      for (std::int64_t k = 0; k < inputs; ++k)
        differ += code_in_lane(to.m, n, k) != static_cast<std::uint8_t>(entry.value.data[n * inputs + k]) ||
                  !same_bits(scale_in_lane(to.m, n, k / 128), scales[static_cast<std::size_t>(n / 128 * ((inputs + 127) / 128) + k / 128)]);
    ++matrices;
  }
  CHECK(matrices == 34);
  for (auto const& entry : gpt_oss) {
    if (!entry.name.ends_with("_blocks")) continue;
    auto const plain = entry.name.substr(0, entry.name.size() - 7);
    auto const experts = entry.shape[0], rows = entry.shape[1], inputs = entry.shape[2] * 32;
    stored_mxfp4 want(experts, rows, inputs, 1);
    want.blocks = read<std::uint8_t>(gpt_oss, entry.name), want.scales = read<std::uint8_t>(gpt_oss, plain + "_scales");
    spellings const name{plain.c_str()};
    packed_here const to({.stored = dtype::mxfp4, .outputs = rows, .inputs = inputs, .count = experts});
    auto const* const stored = from_gpt_oss.find(name, "", {experts, rows, inputs}).stored;
    for (std::int64_t e = 0; e < experts; ++e) {
      from_gpt_oss.matrix<dtype::mxfp4>(to.m, e, {{stored, rows, e * rows}});
      for (std::int64_t n = 0; n < rows; ++n)
        for (std::int64_t k = 0; k < inputs; ++k) differ += !same_bits(host::unpack(to.m, e, 0, n, k), want.weight(e * rows + n, k));
    }
    ++matrices;
  }
  CHECK(matrices == 38);
  CHECK(differ == 0);
}

TEST_CASE("what is wrong with scales is said") {
  host::pool pool;
  stored_e4m3 const w(130, 144, 6);
  auto const said = [&](auto change) {
    memory_source source;
    w.into(source, "w");
    change(source);
    from_memory from(pool, source, "", names);
    packed_here const to({dtype::e4m3, 130, 144});
    return refusal([&] { from.matrix<dtype::e4m3>(to.m, 0, {from.find(matrix_name, ".weight", {130, 144})}); });
  };
  auto const infinity = std::numeric_limits<float>::infinity();
  CHECK(said([](auto&) {}) == "no error");
  CHECK(said([](auto& s) { s.remove("w.weight_scale_inv"); }) ==
        "memory: expected a tensor 'w.weight_scale_inv' of the scales of 'w.weight', found none of that name");
  CHECK(said([](auto& s) { s.add("w.weight_scale_inv", dtype::fp32, {2, 1}, std::vector<float>{1, 1}); }) ==
        "memory: 'w.weight_scale_inv': expected shape [2, 2], found [2, 1]");
  CHECK(said([](auto& s) { s.add("w.weight_scale_inv", dtype::bf16, {2, 2}, std::vector<bf16>(4, bf16(1.0f))); }) ==
        "memory: 'w.weight_scale_inv': expected fp32 or e8m0, found bf16");
  CHECK(said([&](auto& s) { s.add("w.weight_scale_inv", dtype::fp32, {2, 2}, std::vector<float>{1, 1, infinity, 1}); }) ==
        "memory: 'w.weight_scale_inv': expected finite numbers, found inf at 2");
  CHECK(said([](auto& s) { s.add("w.weight_scale_inv", dtype::e8m0, {2, 2}, std::vector<std::uint8_t>{120, 121, 122, 123}); }) == "no error");
  CHECK(said([&](auto& s) {
          auto codes = w.codes;
          codes[144 + 5] = 0x7f;
          s.add("w.weight", dtype::e4m3, {130, 144}, codes);
        }) == "packing: expected finite weights that e4m3 can hold, found nan in matrix 0 of 1, part 0, output 1, input 5");

  stored_mxfp4 const x(2, 8, 64, 7);
  auto const said_of_blocks = [&](auto change) {
    memory_source source;
    x.into(source, "w");
    change(source);
    from_memory from(pool, source, "", names);
    return refusal([&] { from.find(matrix_name, "", {2, 8, 64}); });
  };
  CHECK(said_of_blocks([](auto&) {}) == "no error");
  CHECK(said_of_blocks([](auto& s) { s.remove("w_scales"); }) == "memory: expected a tensor 'w_scales' of the scales of 'w_blocks', found none of that name");
  CHECK(said_of_blocks([](auto& s) { s.add("w_scales", dtype::uint8, {2, 8, 1}, std::vector<std::uint8_t>(16)); }) ==
        "memory: 'w_scales': expected shape [2, 8, 2], found [2, 8, 1]");
  CHECK(said_of_blocks([](auto& s) { s.add("w_scales", dtype::fp32, {2, 8, 2}, std::vector<float>(32)); }) ==
        "memory: 'w_scales': expected bytes of exponents, found fp32");
  CHECK(said_of_blocks([](auto& s) { s.add("w_scales", dtype::uint8, {2, 8, 2}, std::vector<std::uint8_t>(32, 255)); }) ==
        "memory: 'w_scales': expected finite numbers, found nan at 0");
  CHECK(said_of_blocks([](auto& s) { s.add("w_blocks", dtype::uint8, {2, 8, 2, 8}, std::vector<std::uint8_t>(256)); }) ==
        "memory: 'w_blocks': expected shape [..., rows, inputs / 32, 16], found [2, 8, 2, 8]");
  CHECK(said_of_blocks([](auto& s) {
          s.add("w_blocks", dtype::uint8, {2, 8, 1, 16}, std::vector<std::uint8_t>(256));
          s.add("w_scales", dtype::uint8, {2, 8, 1}, std::vector<std::uint8_t>(16));
        }) ==
        "memory: 'w_blocks': expected shape [2, 8, 64], found [2, 8, 32]");
}
