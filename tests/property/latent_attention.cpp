// Multi-head latent attention: each stage of the published files, both forms alike, a cache of 576 elements a token, bits that depend on a token's past.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/config/random_source.hpp>
#include <moesaic/host/host.hpp>
#include <moesaic/layer/block.hpp>
#include <moesaic/layer/latent_attention.hpp>
#include <support/compare.hpp>
#include <support/levels.hpp>
#include <support/matrix.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr rope_scaling yarn_40{.kind = rope_scaling_kind::yarn, .factor = 40, .original_positions = 32, .magnitude = 1};

// The attention of three files: queries from x; queries from a latent; both latents scaled. attention.scale: 18^-½ (0.1 m ln 40 + 1)², m 0.707 and 1.
struct v2 {
  static constexpr auto file = "deepseek_v2", prefix = "self_attn.";
  static constexpr bool half_split = false;              // how the file writes rotated pairs
  static constexpr block_config config{
      .hidden = 32,
      .attention = {.heads = 4, .head_dim = 12, .value_dim = 10, .layout = rope_layout::interleaved, .scaling = yarn_40, .scale = 0.3746784803028454,
                    .latent = {.kv_rank = 20, .rope_dim = 6}},
      .expert = {.intermediate = 16},
      .storage = {.weights = dtype::fp32, .activations = dtype::fp64}};
};
struct v3 {
  static constexpr auto file = "deepseek_v3", prefix = "self_attn.";
  static constexpr bool half_split = true;
  static constexpr block_config config{
      .hidden = 40,
      .attention = {.heads = 4, .head_dim = 10, .value_dim = 14, .layout = rope_layout::interleaved, .scaling = yarn_40, .scale = 0.4416716722633791,
                    .latent = {.kv_rank = 24, .q_rank = 20, .rope_dim = 8}},
      .expert = {.intermediate = 16},
      .storage = {.weights = dtype::fp32, .activations = dtype::fp64}};
};
struct longcat {
  static constexpr auto file = "longcat_flash", prefix = "self_attn.0.";
  static constexpr bool half_split = true;
  static constexpr block_config config{
      .hidden = 32,
      .attention = {.heads = 4, .head_dim = 8, .value_dim = 10, .layout = rope_layout::interleaved,
                    .latent = {.kv_rank = 20, .q_rank = 16, .rope_dim = 6, .q_scale = 1.4142135623730951, .kv_scale = 1.2649110640673518}},
      .expert = {.intermediate = 16},
      .storage = {.weights = dtype::fp32, .activations = dtype::fp64}};
};

template <class Spec, latent_form Form>
struct in_form : Spec {
  static constexpr latent_form attention_form = Form;
};
template <class Spec, dtype Activations, dtype Cache = dtype::same, dtype Weights = dtype::fp32>
struct with_types : Spec {
  static constexpr block_config config = [] {
    auto c = Spec::config;
    c.storage.weights = Weights, c.storage.activations = Activations, c.storage.cache = Cache;
    return c;
  }();
};

/// What a tap saw, and memory for what is shown only then.
template <class T>
struct recorder {
  std::map<std::string, matrix<double>> seen = {};
  matrix<T> expanded = {};
  matrix<accumulator<T>> probabilities = {};
  template <class X>
  void operator()(tap_point at, view<const X> values) {
    auto& kept = seen[name(at.stage)] = matrix<double>(values.rows, values.columns);
    for (std::int64_t r = 0; r < values.rows; ++r)
      for (std::int64_t c = 0; c < values.columns; ++c) kept(r, c) = static_cast<double>(values(r, c));
  }
  view<T> expanded_latents(std::int64_t tokens, std::int64_t columns) { return (expanded = matrix<T>(tokens, columns)).view(); }
  view<accumulator<T>> attention_probabilities(int heads, std::int64_t tokens) { return (probabilities = matrix<accumulator<T>>(heads * tokens, tokens)).view(); }
};

/// The weights of one attention, by a file's or any other source's tensors.
struct of_file {
  safetensors const& file;
  tensor const* find(std::string_view name) const { return file.find("weight." + std::string(name)); }
  std::string where(std::string_view name) const { return file.where(name); }
};

template <class Spec>
struct layer {
  using kind = attention_of<Spec>;
  using scalar = typename kind::scalar;
  static_assert(std::is_same_v<kind, latent_attention<Spec>>);
  host::buffer memory;
  attention_weights w;

  template <class Source>
  layer(host::pool& where, Source const& source, std::string_view prefix) {
    arena counting;
    kind::carve_weights(counting);
    memory = host::buffer(counting.used());
    arena over(memory.data(), memory.size());
    w = kind::carve_weights(over);
    loader from(where, source, prefix, names());
    kind::load(w, from);
  }
  static tensor_names const& names() {
    static tensor_names const all = [] {
      tensor_names n;
      n.q = {"q_proj"}, n.out = {"o_proj"}, n.q_down = {"q_a_proj"}, n.q_down_norm = {"q_a_layernorm.weight"}, n.q_up = {"q_b_proj"};
      n.kv_down = {"kv_a_proj_with_mqa"}, n.kv_down_norm = {"kv_a_layernorm.weight"}, n.kv_up = {"kv_b_proj"};
      return n;
    }();
    return all;
  }
  template <class Cache, class Tap = no_tap>
  matrix<scalar> operator()(host::pool& where, matrix<scalar> const& x, std::vector<std::int32_t> const& sequence, std::vector<std::int32_t> const& position,
                            Cache const& cache, Tap&& tap = {}) const {
    arena counting;
    kind::template carve<host::pool>(counting, x.rows);
    host::buffer scratch(counting.used());
    arena over(scratch.data(), scratch.size());
    auto const s = kind::template carve<host::pool>(over, x.rows);
    auto const done = kind::forward(where, w, x.view(), {sequence, position}, cache, s, tap);
    if (!done) throw error(to_string(done));
    matrix<scalar> y(x.rows, s.out.columns);
    for (std::int64_t r = 0; r < y.rows; ++r)
      for (std::int64_t c = 0; c < y.columns; ++c) y(r, c) = s.out(r, c);
    return y;
  }
};

template <class Spec>
auto cache_of(host::pool& where, int sequences, int tokens) { return make_attention_cache<Spec>(where, sequences, tokens); }

/// Rows `first` and on of a matrix.
template <class T>
matrix<T> rows_of(matrix<T> const& m, std::int64_t first, std::int64_t count) {
  matrix<T> some(count, m.columns);
  for (std::int64_t r = 0; r < count; ++r)
    for (std::int64_t c = 0; c < m.columns; ++c) some(r, c) = m(first + r, c);
  return some;
}
template <class T>
std::vector<T> some_of(std::vector<T> const& all, std::int64_t first, std::int64_t count) {
  return {all.begin() + first, all.begin() + first + count};
}

/// Rotated elements as a file writes them: pairs side by side, or all first members and then all second ones.
template <class Spec>
double rotated(matrix<double> const& m, std::int64_t row, std::int64_t first, int element) {
  int const pairs = Spec::config.attention.latent.rope_dim / 2;
  return m(row, first + (Spec::half_split ? element % pairs * 2 + element / pairs : element));
}

template <class Spec>
void check_file() {
  using form_spec = Spec;
  constexpr auto s = latent_shape_of(Spec::config);
  INFO(std::string(Spec::file));
  safetensors const file(oracle_path(std::string(Spec::file) + ".block"));
  host::pool where(1);
  layer<form_spec> const attend(where, of_file{file}, Spec::prefix);
  auto const x = read_matrix<double>(file, "expect.attn_norm");
  auto const position = read<std::int32_t>(file, "input.positions");
  auto cache = cache_of<form_spec>(where, 1, static_cast<int>(x.rows));
  cache.set_first_position(0, position[0]);
  recorder<double> tap;
  attend(where, x, std::vector<std::int32_t>(position.size(), 0), position, cache, tap);

  // Heads as the file has them follow from what is shown.
  auto const& q = tap.seen.at("q_rope");
  auto const &key = tap.seen.at("k_rope"), &up = tap.seen.at("kv_b");
  matrix<double> q_rope(x.rows, s.heads * s.key_dim()), k_rope(x.rows, s.heads * s.key_dim()), v_heads(x.rows, s.heads * s.value_dim);
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (int h = 0; h < s.heads; ++h) {
      for (int d = 0; d < s.key_dim(); ++d) {
        auto const at = h * s.key_dim() + d;
        q_rope(t, at) = d < s.head_dim ? q(t, at) : rotated<Spec>(q, t, h * s.key_dim() + s.head_dim, d - s.head_dim);
        k_rope(t, at) = d < s.head_dim ? up(t, h * (s.head_dim + s.value_dim) + d) : rotated<Spec>(key, t, 0, d - s.head_dim);
      }
      for (int d = 0; d < s.value_dim; ++d) v_heads(t, h * s.value_dim + d) = up(t, h * (s.head_dim + s.value_dim) + s.head_dim + d);
    }
  tap.seen["q_rope"] = q_rope, tap.seen["k_rope"] = k_rope, tap.seen["v_heads"] = v_heads;

  int compared = 0;
  for (auto const* stage : {"q_a", "q_a_norm", "q", "kv_a", "kv_a_norm", "kv_b", "q_rope", "k_rope", "v_heads", "attn_probs", "attn_heads", "attn_out"}) {
    auto const expected = std::string("expect.") + stage;
    if (file.find(expected) == nullptr) continue;
    INFO(std::string(stage));
    auto want = read_matrix<double>(file, expected);
    auto const& got = tap.seen.at(stage);
    REQUIRE(want.data.size() == got.data.size());
    want.rows = got.rows, want.columns = got.columns;
    auto const found = compare<double, double>(got.view(), want.view());
    INFO(to_string(found));
    CHECK(found.worst < 1e-12);
    ++compared;
  }
  CHECK(compared == (Spec::config.attention.latent.q_rank != 0 ? 12 : 10));
}

TEST_CASE("Each stage is the published one, in either form") {
  check_file<v2>();
  check_file<in_form<v2, latent_form::absorbed>>();
  check_file<v3>();
  check_file<in_form<v3, latent_form::expanded>>();
  check_file<in_form<v3, latent_form::absorbed>>();
  check_file<longcat>();
  check_file<in_form<longcat, latent_form::absorbed>>();
}


// Wider than a vector in every part, and wide enough that one token and many choose different forms.
struct wide {
  static constexpr block_config config{
      .hidden = 48,
      .attention = {.heads = 6, .head_dim = 24, .value_dim = 20, .layout = rope_layout::interleaved, .latent = {.kv_rank = 72, .q_rank = 40, .rope_dim = 12}},
      .expert = {.intermediate = 16},
      .storage = {.weights = dtype::fp32, .activations = dtype::fp64}};
};
// What is decided or refused by a configuration alone.
struct invariant : wide {
  static constexpr block_config config = [] {
    auto c = wide::config;
    c.purpose = purpose::batch_invariant;
    return c;
  }();
};
struct deepseek {
  static constexpr block_config config{
      .hidden = 7168,
      .attention = {.heads = 128, .head_dim = 128, .layout = rope_layout::interleaved, .latent = {.kv_rank = 512, .q_rank = 1536, .rope_dim = 64}},
      .expert = {.intermediate = 18432},
      .storage = {.activations = dtype::bf16}};
};
struct narrow : wide {
  static constexpr block_config config = [] {
    auto c = wide::config;
    c.attention.latent.kv_rank = 64;
    return c;
  }();
};
constexpr auto wide_shape = latent_shape_of(wide::config);

/// Tokens of three sequences: two long ones and one of a single token, which stand anywhere in the cache.
struct tokens {
  std::vector<std::int32_t> sequence, position;
  std::int64_t count() const { return static_cast<std::int64_t>(sequence.size()); }
};
tokens mixed() {
  tokens all;
  for (auto const& [sequence, first, last] : {std::tuple{1, 3, 130}, std::tuple{0, 0, 70}, std::tuple{2, 9, 10}})
    for (int p = first; p < last; ++p) all.sequence.push_back(sequence), all.position.push_back(p);
  return all;
}
constexpr int most = 160;
template <class Spec>
auto cache_of_mixed(host::pool& where) {
  auto cache = cache_of<Spec>(where, 3, most);
  cache.set_first_position(1, 3), cache.set_first_position(2, 9);
  return cache;
}

template <class Spec>
matrix<typename layer<Spec>::scalar> run_mixed(host::pool& where, std::uint64_t seed, std::vector<std::int64_t> const& calls = {}) {
  using scalar = typename layer<Spec>::scalar;
  layer<Spec> const attend(where, random_source(seed), "");
  random_stream random(seed);
  auto const rows = mixed();
  auto const x = convert<scalar>(random_matrix<double>(rows.count(), Spec::config.hidden, random));
  auto const cache = cache_of_mixed<Spec>(where);
  if (calls.empty()) return attend(where, x, rows.sequence, rows.position, cache);
  matrix<scalar> y(x.rows, x.columns);
  std::int64_t first = 0;
  for (auto const count : calls) {
    auto const part = attend(where, rows_of(x, first, count), some_of(rows.sequence, first, count), some_of(rows.position, first, count), cache);
    for (std::int64_t r = 0; r < count; ++r)
      for (std::int64_t c = 0; c < y.columns; ++c) y(first + r, c) = part(r, c);
    first += count;
  }
  REQUIRE(first == x.rows);
  return y;
}

template <class Spec> using expanded = in_form<Spec, latent_form::expanded>;
template <class Spec> using absorbed = in_form<Spec, latent_form::absorbed>;

TEST_CASE("Both forms are equal, and so is what the shape chooses") {
  host::pool where(2);
  for (std::uint64_t const seed : {3u, 4u}) {
    CAPTURE(seed);
    auto const one = run_mixed<expanded<wide>>(where, seed), other = run_mixed<absorbed<wide>>(where, seed), chosen = run_mixed<wide>(where, seed);
    CHECK(compare<double, double>(one.view(), other.view()).worst < 1e-12);
    CHECK(compare<double, double>(chosen.view(), other.view()).worst < 1e-12);
  }
}

// A transpose keeps no group of inputs: both forms must have the same weights all the same.
template <format Weights>
struct packed_as : wide {
  static constexpr block_config config = [] {
    auto c = wide::config;
    c.storage.weights = Weights;
    return c;
  }();
};
TEST_CASE_TEMPLATE("Both forms are equal with weights of every format", Spec, packed_as<dtype::bf16>, packed_as<dtype::e4m3>, packed_as<dtype::int8>,
                   packed_as<format(dtype::int4, 32, true)>, packed_as<dtype::mxfp4>) {
  host::pool where(2);
  auto const one = run_mixed<expanded<Spec>>(where, 5), other = run_mixed<absorbed<Spec>>(where, 5);
  CHECK(compare<double, double>(one.view(), other.view()).worst < 1e-12);
}

// Codes and scales of keys and values, of blocks that the rows of a head may cross; the rest is random.
struct coded_source {
  random_source random{7};
  std::vector<std::uint8_t> codes;
  std::vector<float> scales;
  std::vector<std::int64_t> shape, blocks;
  tensor of_codes, of_scales;

  coded_source(std::int64_t rows, std::int64_t inputs) : shape{rows, inputs}, blocks{(rows + 127) / 128, (inputs + 127) / 128} {
    random_stream numbers(8);
    for (std::int64_t i = 0; i < rows * inputs; ++i) codes.push_back(e4m3(numbers.normal()).bits);
    for (std::int64_t i = 0; i < blocks[0] * blocks[1]; ++i) scales.push_back(0.05f + 0.1f * numbers.uniform());
    of_codes = {dtype::e4m3, shape, reinterpret_cast<std::byte const*>(codes.data()), rows * inputs};
    of_scales = {dtype::fp32, blocks, reinterpret_cast<std::byte const*>(scales.data()), static_cast<std::int64_t>(scales.size()) * 4};
  }
  tensor const* find(std::string_view name) const {
    return name == "kv_b_proj.weight" ? &of_codes : name == "kv_b_proj.weight_scale_inv" ? &of_scales : nullptr;
  }
  tensor const* make(std::string_view name, std::initializer_list<std::int64_t> wanted) const { return random.make(name, wanted); }
  std::string where(std::string_view) const { return "memory"; }
};
struct across_two : packed_as<dtype::e4m3> {
  static constexpr block_config config = [] {
    auto c = packed_as<dtype::e4m3>::config;
    c.attention.value_dim = 16;
    return c;
  }();
};
TEST_CASE("Stored e4m3 has the same weights in a matrix and its transpose, whether a head's rows lie in one block or cross two") {
  host::pool where;
  auto const check = [&]<class Spec>(Spec) {
    constexpr auto shape = latent_shape_of(Spec::config);
    layer<Spec> const loaded(where, coded_source(shape.heads * (shape.head_dim + shape.value_dim), shape.rank), "");
    bool kept = true;
    coded_source const source(shape.heads * (shape.head_dim + shape.value_dim), shape.rank);
    for (std::int64_t h = 0; h < shape.heads; ++h)
      for (std::int64_t n = 0; n < shape.head_dim; ++n)
        for (std::int64_t k = 0; k < shape.rank; ++k) {
          auto const row = h * (shape.head_dim + shape.value_dim) + n;
          auto const w = host::unpack(loaded.w.key_up, h, 0, n, k);
          REQUIRE(w == host::unpack(loaded.w.key_up_transposed, h, 0, k, n));
          auto const at = static_cast<std::size_t>(row * shape.rank + k);
          kept = kept && w == static_cast<float>(e4m3::from_bits(source.codes[at])) * source.scales[static_cast<std::size_t>(row / 128)];
        }
    return kept;
  };
  CHECK(check(packed_as<dtype::e4m3>{}));
  CHECK(!check(across_two{}));
}

TEST_CASE("A form is chosen by its FLOPs") {
  constexpr latent_shape deepseek{128, 128, 64, 128, 512};
  // spec: 2·n·H·(128 + 128)·512 for the expansion of n slots, 2·H·128·512·2 for the absorption of a token, 2·n·H·(576 + 512) to attend.
  CHECK(latent_flops(deepseek, latent_form::expanded, 1, 1000) == 2.0 * 1000 * 128 * 256 * 512 + 2.0 * 1000 * 128 * (192 + 128));
  CHECK(latent_flops(deepseek, latent_form::absorbed, 1, 1000) == 2.0 * 128 * 256 * 512 + 2.0 * 1000 * 128 * (576 + 512));
  CHECK(latent_form_of(deepseek, latent_form::by_shape, 1, 4096) == latent_form::absorbed);
  CHECK(latent_form_of(deepseek, latent_form::by_shape, 4096, 4096) == latent_form::expanded);
  CHECK(latent_form_of(deepseek, latent_form::by_shape, 100, 100000) == latent_form::absorbed);
  CHECK(latent_form_of(deepseek, latent_form::by_shape, 200, 100000) == latent_form::expanded);
  CHECK(latent_form_of(deepseek, latent_form::expanded, 1, 4096) == latent_form::expanded);
  CHECK(latent_form_of(wide_shape, latent_form::by_shape, 127, 127) == latent_form::expanded);
  CHECK(latent_form_of(wide_shape, latent_form::by_shape, 1, 127) == latent_form::absorbed);
  static_assert(latent_attention<invariant>::form == latent_form::absorbed && latent_attention<wide>::form == latent_form::by_shape);
}

TEST_CASE("Memory of a call on the host has room for one block of slots, that of a device for as many as 8") {
  constexpr latent_shape deepseek{128, 128, 64, 128, 512};
  auto const bytes = [&](std::int64_t tokens, latent_form form, bool on_device) {
    arena counting;
    latent_memory<bf16>::carve(counting, deepseek, tokens, form, on_device);
    return static_cast<std::int64_t>(counting.used());
  };
  // Keys, values and the latents of a slot; and the plan.
  constexpr std::int64_t sums = 4 * 128 * (192 + 128), narrow = 2 * 512, plan = 4 * (4 * 512 + 2 * 8 + 6);
  for (auto const form : {latent_form::by_shape, latent_form::expanded}) {
    auto const more = bytes(512, form, true) - bytes(512, form, false), said = 448 * sums + (1024 - 64) * narrow + plan;
    CHECK(more >= said);
    CHECK(more < said + 64);
  }
  CHECK(bytes(512, latent_form::absorbed, true) == bytes(512, latent_form::absorbed, false));
  constexpr std::int64_t any = block<wide>::workspace_bytes(130), host_alone = block<wide>::workspace_bytes<no_tap, host::pool>(130);
  static_assert(host_alone < any && block<invariant>::workspace_bytes<no_tap, host::pool>(130) == block<invariant>::workspace_bytes(130));
}

/// Calls of single tokens, and of pieces that cut sequences and blocks.
std::vector<std::int64_t> const single(198, 1), pieces{1, 66, 60, 5, 1, 65};

template <class Spec>
void check_bits() {
  host::pool one(1);
  auto const whole = run_mixed<Spec>(one, 5);
  auto const same = [&](matrix<typename layer<Spec>::scalar> const& other) { return same_bits<typename layer<Spec>::scalar>(whole.view(), other.view()); };
  CHECK(same(run_mixed<Spec>(one, 5, single)));
  CHECK(same(run_mixed<Spec>(one, 5, pieces)));
  host::pool three(3);
  CHECK(same(run_mixed<Spec>(three, 5)));
}

TEST_CASE("In one form a token's bits depend on its own past only, cut into calls in any way, with any number of threads") {
  check_bits<absorbed<wide>>();
  check_bits<expanded<wide>>();
  check_bits<absorbed<with_types<wide, dtype::fp32, dtype::bf16>>>();
  check_bits<expanded<with_types<wide, dtype::fp32>>>();
}

/// One type against the reference in double, whose weights and inputs are the same numbers; every level.
template <class Spec>
void check_type(double allowed) {
  using scalar = typename layer<Spec>::scalar;
  host::pool plain(1);
  auto const want = run_mixed<wide>(plain, 6);
  for (auto const l : levels()) {
    INFO(std::string(host::name(l)));
    host::pool where(2, l);
    auto const got = run_mixed<Spec>(where, 6);
    auto const found = compare<scalar, double>(got.view(), want.view());
    INFO(to_string(found));
    CHECK(found.worst < allowed);
  }
}
TEST_CASE("fp32 and bf16 are near the reference, in either form, on every level") {
  check_type<absorbed<with_types<wide, dtype::fp32>>>(stage_tolerance<float>);
  check_type<expanded<with_types<wide, dtype::fp32>>>(stage_tolerance<float>);
  check_type<absorbed<with_types<wide, dtype::bf16, dtype::same, dtype::bf16>>>(long_stage_tolerance<bf16>);
  check_type<expanded<with_types<wide, dtype::bf16, dtype::same, dtype::bf16>>>(long_stage_tolerance<bf16>);
}
TEST_CASE("Levels have the same bits") {
  using spec = absorbed<with_types<wide, dtype::fp32, dtype::bf16>>;
  host::pool portable(1, host::level::portable);
  auto const want = run_mixed<spec>(portable, 7);
  for (auto const l : levels()) {
    host::pool where(1, l);
    CHECK(same_bits<float>(want.view(), run_mixed<spec>(where, 7).view()));
  }
}

TEST_CASE("The cache keeps kv_rank + rope_dim elements a token and layer, and nothing else") {
  host::pool where(1);
  auto const made = make_attention_cache<deepseek>(where, 3, 5);
  host::latent_cache const& cache = made;
  CHECK(cache.slot_dim() == 576);
  CHECK(host::bytes(cache) == 3 * 5 * 576 * 2);

  // What is kept is the normalised latent, and the key after its rotation.
  layer<wide> const attend(where, random_source(8), "");
  random_stream random(8);
  auto const x = random_matrix<double>(2, 48, random);
  auto const owned = cache_of<wide>(where, 1, 4);
  recorder<double> tap;
  attend(where, x, {0, 0}, {0, 1}, owned, tap);
  host::latent_cache const& kept = owned;
  for (int t = 0; t < 2; ++t)
    for (int d = 0; d < 84; ++d)
      CHECK(host::slots_of<double>(kept, 0)[t * 84 + d] == (d < 72 ? tap.seen.at("kv_a_norm")(t, d) : tap.seen.at("k_rope")(t, d - 72)));
}

TEST_CASE("What does not fit is refused") {
  host::pool where(1);
  layer<wide> const attend(where, random_source(9), "");
  matrix<double> const x(1, 48);
  auto const refused = [&](auto const& cache, std::int32_t sequence, std::int32_t position) -> std::string {
    try {
      attend(where, x, {sequence}, {position}, cache);
    } catch (error const& e) {
      return e.what();
    }
    return "";
  };
  auto const contains = [](std::string const& text, std::string const& part) { return text.find(part) != std::string::npos; };
  CHECK(contains(refused(cache_of<narrow>(where, 1, 4), 0, 0), "latent rank"));
  CHECK(contains(refused(cache_of<wide>(where, 1, 4), 1, 0), "sequence"));
  CHECK(contains(refused(cache_of<wide>(where, 1, 4), 0, 4), "position"));
  CHECK(refused(cache_of<wide>(where, 1, 4), 0, 3).empty());
  CHECK_THROWS_AS(cache_of<wide>(where, 0, 4), error);
}

}  // namespace
