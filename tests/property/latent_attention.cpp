// Multi-head latent attention: each stage of the published files, both forms alike, a cache of 576 elements a token, bits that depend on a token's past.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/config/random_source.hpp>
#include <moesaic/host/host.hpp>
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
    loader<host::pool, Source> from(where, source, prefix, names());
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
    kind::carve(counting, x.rows);
    host::buffer scratch(counting.used());
    arena over(scratch.data(), scratch.size());
    auto const s = kind::carve(over, x.rows);
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

}  // namespace
