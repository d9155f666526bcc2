// host/quantized.hpp: codes of activations, products of codes with codes, what a short accumulator costs with and without promotion; and a layer whose
// products read codes.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <moesaic/base/random.hpp>
#include <moesaic/config/random_source.hpp>
#include <moesaic/host/host.hpp>
#include <moesaic/layer/block.hpp>
#include <support/matrix.hpp>
#include <support/refusal.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

struct codes_and_scales {
  matrix<std::uint8_t> codes;
  matrix<float> scales;
  codes_and_scales(std::int64_t rows, std::int64_t inputs) : codes(rows, inputs), scales(rows, (inputs + 127) / 128) {}
  host::quantized_rows view() const { return {codes.view(), scales.view()}; }
  double value(std::int64_t t, std::int64_t k) const {
    return static_cast<double>(static_cast<float>(e4m3::from_bits(codes(t, k)))) * static_cast<double>(scales(t, k / 128));
  }
};

template <class X>
codes_and_scales quantized(host::pool& pool, matrix<X> const& x, input_codes kind = input_codes::e4m3) {
  codes_and_scales out(x.rows, x.columns);
  host::quantize(pool, x.view(), out.codes.view(), out.scales.view(), nullptr, kind);
  return out;
}

matrix<float> normal_matrix(std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
  random_stream random(seed);
  matrix<float> x(rows, columns);
  for (std::int64_t t = 0; t < rows; ++t)
    for (std::int64_t k = 0; k < columns; ++k) x(t, k) = random.normal();
  return x;
}

struct weights {
  host::buffer memory;
  packed_matrix m;
  weights(std::int64_t outputs, std::int64_t inputs, std::uint64_t seed, float mean = 0) : m{dtype::e4m3, outputs, inputs} {
    memory = host::buffer(static_cast<std::size_t>(packed::bytes(m)));
    m.data = memory.data();
    random_stream random(seed);
    std::vector<float> all(static_cast<std::size_t>(outputs * inputs));
    for (auto& w : all) w = mean + 0.02f * random.normal();
    host::pack(m, 0, [&](int, std::int64_t n, float* row) { std::copy_n(all.data() + n * inputs, inputs, row); }, memory.data());
  }
};

// Of y against the exact product of the numbers that codes and scales are, relative to the root mean square of that.
double error_of(matrix<float> const& y, weights const& w, codes_and_scales const& x) {
  double off = 0, size = 0;
  for (std::int64_t t = 0; t < y.rows; ++t)
    for (std::int64_t n = 0; n < y.columns; ++n) {
      double want = 0;
      for (std::int64_t k = 0; k < w.m.inputs; ++k) want += static_cast<double>(host::unpack(w.m, 0, 0, n, k)) * x.value(t, k);
      auto const d = static_cast<double>(y(t, n)) - want;
      CHECK(!std::isnan(d));
      off += d * d, size += want * want;
    }
  return std::sqrt(off / size);
}

}  // namespace

TEST_CASE("activations: the largest of 128 becomes 448, codes are nearest, zeros and short tiles too") {
  host::pool pool;
  constexpr std::int64_t inputs = 300;
  auto x = normal_matrix(4, inputs, 1);
  for (std::int64_t k = 128; k < 256; ++k) x(2, k) = 0;
  for (std::int64_t k = 0; k < inputs; ++k) x(3, k) = 0;
  auto const q = quantized(pool, x);
  for (std::int64_t t = 0; t < 4; ++t)
    for (std::int64_t g = 0; g < 3; ++g) {
      float largest = 0;
      for (auto k = g * 128; k < std::min(inputs, g * 128 + 128); ++k) largest = std::max(largest, std::fabs(x(t, k)));
      auto const scale = q.scales(t, g);
      CHECK(scale == std::max(largest, 1e-4f) / 448.0f);
      for (auto k = g * 128; k < std::min(inputs, g * 128 + 128); ++k) {
        auto const v = static_cast<double>(x(t, k));
        // half a step of three bits, or of the smallest codes
        CHECK(std::fabs(q.value(t, k) - v) <= std::max(std::fabs(v) * 0x1p-4, static_cast<double>(scale) * 0x1p-10) * (1 + 1e-6));
        if (largest == 0) CHECK(q.codes(t, k) == 0);
      }
    }
}

TEST_CASE("activations: a power of two changes scales and no code; a scale that is a power of two is the next one up") {
  host::pool pool;
  auto const x = normal_matrix(3, 272, 2);
  auto scaled = x;
  for (std::int64_t t = 0; t < 3; ++t)
    for (std::int64_t k = 0; k < 272; ++k) scaled(t, k) *= 0x1p5f;
  for (auto const kind : {input_codes::e4m3, input_codes::e4m3_power_of_two}) {
    auto const one = quantized(pool, x, kind), other = quantized(pool, scaled, kind);
    CHECK(one.codes.data == other.codes.data);
    for (std::int64_t t = 0; t < 3; ++t)
      for (std::int64_t g = 0; g < 3; ++g) CHECK(other.scales(t, g) == 32 * one.scales(t, g));
  }
  auto const exact = quantized(pool, x), power = quantized(pool, x, input_codes::e4m3_power_of_two);
  for (std::int64_t t = 0; t < 3; ++t)
    for (std::int64_t g = 0; g < 3; ++g) {
      auto const s = power.scales(t, g), least = exact.scales(t, g);
      int exponent;
      CHECK(std::frexp(s, &exponent) == 0.5f);
      CHECK((s >= least && s < 2 * least));
    }
  CHECK(groups::power_of_two_from(0x1p-3f) == 0x1p-3f);
  CHECK(groups::power_of_two_from(0x1.000002p-3f) == 0x1p-2f);
}

TEST_CASE("products of codes: exact but for fp32 sums of blocks, inputs that 128 does not divide, bias, and bf16") {
  host::pool pool(2);
  for (std::int64_t const inputs : {std::int64_t{16}, std::int64_t{128}, std::int64_t{272}, std::int64_t{301}}) {
    CAPTURE(inputs);
    weights const w(70, inputs, 3);
    auto const x = quantized(pool, normal_matrix(5, inputs, 4));
    std::vector<float> const bias(70, 0.25f);
    matrix<float> y(5, 70);
    matrix<bf16> narrow(5, 70);
    host::linear(pool, w.m, x.view(), bias, y.view());
    host::linear(pool, w.m, x.view(), bias, narrow.view());
    for (std::int64_t t = 0; t < 5; ++t)
      for (std::int64_t n = 0; n < 70; ++n) {
        double want = 0.25, size = 0.25;
        for (std::int64_t k = 0; k < inputs; ++k) {
          auto const p = static_cast<double>(host::unpack(w.m, 0, 0, n, k)) * x.value(t, k);
          want += p, size += std::fabs(p);
        }
        CHECK(std::fabs(static_cast<double>(y(t, n)) - want) <= size * sum_tolerance<float>(4));
        CHECK(static_cast<float>(narrow(t, n)) == static_cast<float>(bf16(y(t, n))));
      }
  }
}

TEST_CASE("products of codes: NaN and infinity are not lost, other weights are refused") {
  host::pool pool;
  weights w(40, 160, 5);
  for (auto const bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto x = normal_matrix(2, 160, 6);
    x(1, 130) = bad;
    matrix<float> y(2, 40);
    host::linear(pool, w.m, quantized(pool, x).view(), {}, y.view());
    for (std::int64_t n = 0; n < 40; ++n) {
      CHECK(std::isfinite(y(0, n)));
      CHECK(std::isnan(y(1, n)));
    }
  }
  std::byte const whole = w.memory.data()[0];
  w.memory.data()[0] = std::byte{0x7f};                  // a weight that is NaN
  matrix<float> z(1, 40);
  auto const x = quantized(pool, normal_matrix(1, 160, 6));
  host::linear(pool, w.m, x.view(), {}, z.view());
  for (std::int64_t n = 0; n < 40; ++n) CHECK(std::isnan(z(0, n)) == (n == 0));
  w.memory.data()[0] = whole;
  packed_matrix const other{dtype::bf16, 40, 160};
  matrix<float> y(2, 40);
  CHECK(refusal([&] { host::linear(pool, other, quantized(pool, normal_matrix(2, 160, 6)).view(), {}, y.view()); }) ==
        "products of codes with codes: expected one part of e4m3 in blocks of 128, found 1 of bf16 in groups of 0");
}

// The longer sums grow beside their addends, the more of these is cut off: of weights with a mean, as of a feature that all tokens have, sums only grow.
TEST_CASE("an accumulator of 14 bits: promotion every 128 inputs keeps what 4096 inputs lose without it") {
  host::pool pool(2);
  constexpr std::int64_t inputs = 4096, outputs = 48, tokens = 3;
  for (float const mean : {0.0f, 0.02f}) {
    CAPTURE(mean);
    weights const w(outputs, inputs, 7, mean);
    auto plain = normal_matrix(tokens, inputs, 8);
    if (mean != 0)
      for (std::int64_t t = 0; t < tokens; ++t)
        for (std::int64_t k = 0; k < inputs; ++k) plain(t, k) = std::fabs(plain(t, k));
    auto const x = quantized(pool, plain);
    auto const error = [&](host::code_sums sums) {
      matrix<float> y(tokens, outputs);
      host::linear(pool, w.m, x.view(), {}, y.view(), sums);
      return error_of(y, w, x);
    };
    auto const exact = error({}), promoted = error({14, true}), narrow = error({14, false}), wide = error({40, false});
    MESSAGE("mean " << mean << ": exact " << exact << ", promoted " << promoted << ", not promoted " << narrow);
    CHECK(exact < 1e-6);
    CHECK(wide < 1e-6);
    CHECK(promoted < 0.5 * narrow);
  }
}

TEST_CASE("what products read in place of activations is code times scale: as products of codes, with every type of activations") {
  host::pool pool(2);
  constexpr std::int64_t inputs = 272, outputs = 40, tokens = 5;
  weights const w(outputs, inputs, 9);
  auto const of = [&]<class T, input_codes Codes>() {
    auto const x = convert<T>(normal_matrix(tokens, inputs, 10));
    auto const codes = quantized(pool, x, Codes);
    std::vector<coded<Codes, T>> memory(static_cast<std::size_t>(tokens * inputs));
    std::int32_t const some = tokens - 1, first = 1;
    auto const values = host::code_inputs<Codes>(pool, x.view(), memory, &some, &first);
    for (std::int64_t t = first; t < some; ++t)
      for (std::int64_t k = 0; k < inputs; ++k) CHECK(std::fabs(static_cast<double>(values(t, k)) - codes.value(t, k)) <= std::fabs(codes.value(t, k)) * 0x1p-24);
    for (std::int64_t k = 0; k < inputs; ++k) CHECK((static_cast<float>(values(0, k)) == 0.0f && static_cast<float>(values(some, k)) == 0.0f));
    matrix<float> want(tokens, outputs);
    matrix<T> y(tokens, outputs);
    host::linear(pool, w.m, codes.view(), {}, want.view());
    host::linear<dtype::e4m3>(pool, w.m, values, {}, y.view());
    for (std::int64_t t = first; t < some; ++t)
      for (std::int64_t n = 0; n < outputs; ++n) {
        double size = 0;
        for (std::int64_t k = 0; k < inputs; ++k) size += std::fabs(static_cast<double>(host::unpack(w.m, 0, 0, n, k)) * codes.value(t, k));
        CHECK(std::fabs(static_cast<double>(y(t, n)) - static_cast<double>(want(t, n))) <= size * sum_tolerance<T>(inputs));
      }
  };
  of.template operator()<float, input_codes::e4m3>();
  of.template operator()<float, input_codes::e4m3_power_of_two>();
  of.template operator()<bf16, input_codes::e4m3>();
  of.template operator()<bf16, input_codes::e4m3_power_of_two>();
}

namespace {

using rows = matrix<double>;

constexpr storage_config reading(input_codes codes) { return {.weights = dtype::e4m3, .activations = dtype::fp64, .inputs = codes}; }
struct uneven_layer {
  static constexpr block_config config{.hidden = 144, .attention = {.heads = 3, .head_dim = 16}, .router = {.experts = 4, .top_k = 2, .renormalize = true},
                                       .expert = {.widths = {{2, 136}, {1, 40}}, .copy = 1}, .shared = {.intermediate = 40}, .storage = reading(input_codes::e4m3)};
};
struct latent_layer {
  static constexpr block_config config{.hidden = 144, .attention = {.heads = 3, .head_dim = 8, .latent = {.kv_rank = 24, .q_rank = 136, .rope_dim = 8}},
                                       .router = {.experts = 3, .top_k = 2, .renormalize = true, .weights = combine_weight::on_input},
                                       .expert = {.intermediate = 136, .latent = 132}, .shared = {.intermediate = 40},
                                       .storage = reading(input_codes::e4m3_power_of_two)};
};
struct mixed_layer {
  static constexpr block_config config{.hidden = 144,
                                       .attention = {.heads = 4, .head_dim = 68, .router = {.experts = 3, .top_k = 2, .renormalize = true}},
                                       .router = {.experts = 3, .top_k = 2, .renormalize = true}, .expert = {.intermediate = 136}, .shared = {.intermediate = 40},
                                       .storage = reading(input_codes::e4m3)};
};

struct recorder {
  std::map<stage, rows> of;
  std::vector<std::int32_t> experts, attention_experts;
  template <class X>
  void operator()(tap_point at, view<const X> v) {
    if constexpr (std::is_same_v<X, double>) {
      rows copy(v.rows, v.columns);
      for (std::int64_t r = 0; r < v.rows; ++r)
        for (std::int64_t c = 0; c < v.columns; ++c) copy(r, c) = v(r, c);
      of[at.stage] = copy;
    } else if (at.stage == stage::topk_index || at.stage == stage::attn_topk_index) {
      auto& chosen = at.stage == stage::topk_index ? experts : attention_experts;
      for (std::int64_t r = 0; r < v.rows; ++r)
        for (std::int64_t c = 0; c < v.columns; ++c) chosen.push_back(static_cast<std::int32_t>(v(r, c)));
    }
  }
};

// The numbers that codes of a row say, in plain loops.
std::vector<double> through_codes(std::vector<double> x, bool power_of_two) {
  for (std::size_t k = 0; k < x.size(); k += 128) {
    float largest = 1e-4f;
    for (auto i = k; i < std::min(x.size(), k + 128); ++i) largest = std::max(largest, std::fabs(static_cast<float>(x[i])));
    float scale = largest / 448.0f;
    if (power_of_two) scale = std::exp2(std::ceil(std::log2(scale)));
    for (auto i = k; i < std::min(x.size(), k + 128); ++i)
      x[i] = static_cast<double>(static_cast<float>(e4m3(static_cast<float>(x[i]) / scale))) * static_cast<double>(scale);
  }
  return x;
}
std::vector<double> row_of(rows const& m, std::int64_t t) { return {m.view().row(t), m.view().row(t) + m.columns}; }

std::vector<double> product(packed_matrix const& m, int part, std::int64_t index, std::vector<double> const& x) {
  std::vector<double> y;
  for (std::int64_t n = 0; n < m.outputs; ++n) {
    double sum = 0;
    for (std::int64_t k = 0; k < m.inputs; ++k) sum += static_cast<double>(host::unpack(m, index, part, n, k)) * x[static_cast<std::size_t>(k)];
    y.push_back(sum);
  }
  return y;
}
std::vector<double> feed_forward(ffn_weights const& w, std::int64_t expert, std::vector<double> const& x, bool power_of_two) {
  auto const read = through_codes(x, power_of_two);
  auto h = product(w.gate_up, 0, expert, read);
  auto const up = product(w.gate_up, 1, expert, read);
  for (std::size_t i = 0; i < h.size(); ++i) h[i] = h[i] / (1 + std::exp(-h[i])) * up[i];
  return product(w.down, 0, expert, through_codes(h, power_of_two));
}
void check_row(rows const& got, std::int64_t t, std::vector<double> const& want, std::int64_t first = 0) {
  double worst = 0, size = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    auto const d = std::fabs(got(t, first + static_cast<std::int64_t>(i)) - want[i]);
    CHECK(!std::isnan(d));
    worst = std::max(worst, d), size = std::max(size, std::fabs(want[i]));
  }
  CHECK(worst <= size * sum_tolerance<double>(1024));
}

}  // namespace

// hidden is 128 and 16 more, intermediate and the heads of an expert of attention 128 and 8, or 40: no width is a multiple of 128. Of runs of unequal width the later reads no row of the earlier.
TEST_CASE_TEMPLATE_DEFINE("a layer's products read codes: projections, experts and the shared one; routers and attention do not", Spec, layers_of_codes) {
  using layer = block<Spec>;
  constexpr bool power = Spec::config.storage.inputs == input_codes::e4m3_power_of_two;
  constexpr std::int64_t tokens = 6, hidden = Spec::config.hidden;
  host::pool pool(2);
  auto const loaded = layer::load(pool, random_source(11), "");
  block_weights const& w = loaded;
  constexpr auto config = Spec::config;
  constexpr auto shape = layer::shape;
  constexpr bool latent = config.attention.latent.kv_rank != 0, by_experts = config.attention.router.experts != 0;
  constexpr std::int64_t of_choice = shape.heads_width / shape.attention_slots;
  auto const cache = layer::make_cache(pool, 1, tokens);
  host::buffer workspace{layer::template workspace_bytes<recorder>(tokens)};
  auto const x = convert<double>(normal_matrix(tokens, hidden, 12));
  rows y(tokens, hidden);
  std::vector<std::int32_t> const sequence(tokens), position{0, 1, 2, 3, 4, 5};
  recorder seen;
  std::vector<int> chosen(static_cast<std::size_t>(config.router.experts));
  auto const done = layer::forward(pool, w, {x.view(), sequence, position}, cache, y.view(), workspace, {}, seen);
  REQUIRE(done);
  for (std::int64_t t = 0; t < tokens; ++t) {
    CAPTURE(t);
    auto const normed = row_of(seen.of[stage::attn_norm], t), read = through_codes(normed, power);
    auto const qkv = product(w.attention.qkv, 0, 0, read), plain = product(w.attention.qkv, 0, 0, normed);
    constexpr auto first = latent ? stage::q_a : by_experts ? stage::k : stage::q, last = latent ? stage::kv_a : stage::v;
    check_row(seen.of[first], t, {qkv.begin(), qkv.begin() + seen.of[first].columns});
    check_row(seen.of[last], t, {qkv.end() - seen.of[last].columns, qkv.end()});
    if (latent) check_row(seen.of[stage::q], t, product(w.attention.q_up, 0, 0, through_codes(row_of(seen.of[stage::q_a_norm], t), power)));
    for (std::int64_t n = 0; n < 48; ++n) {              // half a step of three bits, or of the smallest codes: steps are twice as long where a scale is rounded up
      double bound = 0;
      for (std::size_t k = 0; k < normed.size(); ++k)
        bound += std::fabs(static_cast<double>(host::unpack(w.attention.qkv, 0, 0, n, static_cast<std::int64_t>(k)))) * (std::fabs(normed[k]) * 0x1p-4 + 0x1p-14);
      auto const off = std::fabs(seen.of[first](t, n) - plain[static_cast<std::size_t>(n)]);
      CHECK((off > 0 && off <= bound));
    }
    auto const heads = row_of(seen.of[stage::attn_heads], t);
    if (by_experts) {
      check_row(seen.of[stage::attn_router_logits], t, product(w.attention.router.weight, 0, 0, normed));
      std::vector<double> out(static_cast<std::size_t>(hidden));
      for (std::int64_t slot = 0; slot < 2; ++slot) {
        auto const expert = seen.attention_experts[static_cast<std::size_t>(2 * t + slot)];
        check_row(seen.of[stage::q], t, product(w.attention.q, 0, expert, read), slot * of_choice);
        auto const begin = heads.begin() + slot * of_choice;
        auto const of_expert = product(w.attention.out, 0, expert, through_codes({begin, begin + of_choice}, power));
        for (std::size_t n = 0; n < out.size(); ++n) out[n] += seen.of[stage::attn_topk_weight](t, slot) * of_expert[n];
      }
      check_row(seen.of[stage::attn_out], t, out);
    } else {
      check_row(seen.of[stage::attn_out], t, product(w.attention.out, 0, 0, through_codes(heads, power)));
    }
    auto const mixed = row_of(seen.of[stage::ffn_norm], t);
    check_row(seen.of[stage::router_logits], t, product(w.ffn.router.weight, 0, 0, mixed));
    check_row(seen.of[stage::shared_out], t, feed_forward(w.ffn.shared, 0, mixed, power));
    for (std::int64_t slot = 0; slot < 2; ++slot) {
      auto x_of_expert = mixed;
      if (config.expert.latent != 0) x_of_expert = product(w.ffn.latent_down, 0, 0, through_codes(mixed, power));
      if (config.router.weights == combine_weight::on_input)
        for (auto& v : x_of_expert) v *= seen.of[stage::topk_weight](t, slot);
      int expert = seen.experts[static_cast<std::size_t>(2 * t + slot)], run = 0;
      ++chosen[static_cast<std::size_t>(expert)];
      auto const& widths = config.expert.widths;
      if (widths.count == 0 || expert < shapes(config).feed_forwards) {
        for (; run < widths.count - 1 && expert >= widths.run[run].experts; ++run) expert -= widths.run[run].experts;
        x_of_expert = feed_forward(run_of(w.ffn, run), expert, x_of_expert, power);
      }
      check_row(seen.of[stage::expert_out], 2 * t + slot, x_of_expert);
    }
    if (config.expert.latent != 0) {
      std::vector<double> sum(static_cast<std::size_t>(config.expert.latent));
      for (std::int64_t slot = 0; slot < 2; ++slot)
        for (std::size_t k = 0; k < sum.size(); ++k) sum[k] += seen.of[stage::expert_out](2 * t + slot, static_cast<std::int64_t>(k));
      check_row(seen.of[stage::moe_out], t, product(w.ffn.latent_up, 0, 0, through_codes(sum, power)));
    }
  }
  for (int const count : chosen) CHECK(count > 0);
  if constexpr (by_experts) {                            // a token without experts has no rows by expert, so none of these become codes for it
    auto normed = seen.of[stage::attn_norm];
    normed(tokens - 1, 5) = std::numeric_limits<double>::quiet_NaN();
    arena carved(workspace.data(), workspace.size());
    auto const s = attention<Spec>::carve(carved, tokens);
    REQUIRE(carved.fits());
    for (std::int64_t i = 0; i < s.codes.size; ++i) s.codes[i] = -7;
    recorder again;
    REQUIRE(attention<Spec>::forward(pool, w.attention, std::as_const(normed).view(), {sequence, position}, cache, s, again));
    auto const used = s.mixture.plan.expert_offsets[shape.attention_experts];
    CHECK(used == 2 * (tokens - 1));
    for (std::int64_t row = 0; row < 2 * tokens; ++row) {
      auto const* const heads = s.mixture.by_expert.data + row * of_choice;
      auto const want = row < used ? through_codes({heads, heads + of_choice}, power) : std::vector<double>(static_cast<std::size_t>(of_choice), -7);
      for (std::int64_t n = 0; n < of_choice; ++n) CHECK(s.codes[row * of_choice + n] == want[static_cast<std::size_t>(n)]);
    }
  }
}
TEST_CASE_TEMPLATE_INVOKE(layers_of_codes, uneven_layer, latent_layer, mixed_layer);
