// Rows of products: linear by every rung and format, beside cuBLAS, and the experts of published layers by who is routed where.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <memory>
#include <numeric>

#include <moesaic/route/top_k.hpp>

#include "gpu.hpp"

namespace moesaic::bench {
namespace {

std::string row_name(std::string const& op, std::string const& variant, std::string const& config, std::int64_t tokens) {
  return op + "/" + variant + "/" + config + "/" + std::to_string(tokens);
}

// ---- linear ------------------------------------------------------------------------------------------------------------------------

struct shape {
  std::int64_t outputs, inputs;
};

template <dtype W, cuda::rung Rung>
void add_linear(format f, shape s, std::int64_t tokens) {
  auto const config = format_name(f) + "." + std::to_string(s.outputs) + "x" + std::to_string(s.inputs);
  add_row(row_name("linear", name(Rung), config, tokens), [=] {
    packed_matrix const m{.stored = f, .outputs = s.outputs, .inputs = s.inputs};
    auto const turns = turns_for(packed::bytes(m));
    weights_in_turn const w(m, turns);
    auto const x = bf16_rows(tokens, s.inputs), y = bf16_rows(tokens, s.outputs);
    stream_of<Rung> where(stream());
    auto const seconds = seconds_of(turns, [&](int turn) {
      cuda::linear<W>(where, w.turn(turn), view<const bf16>(x.as<bf16>(), tokens, s.inputs), {}, view<bf16>(y.as<bf16>(), tokens, s.outputs));
      check(finish(where));
    });
    auto const t = static_cast<double>(tokens), n = static_cast<double>(s.outputs), k = static_cast<double>(s.inputs);
    return timed{seconds, {read_bytes(m) + 2 * t * (n + k), 2 * t * n * k}};
  });
}
template <dtype W>
void add_linears(format f) {
  for (auto const s : {shape{6144, 4096}, {4096, 4096}, {7168, 2048}})
    for (std::int64_t const tokens : {1, 16, 64, 256, 4096}) {
      if (tokens <= 64) add_linear<W, cuda::rung::simt>(f, s, tokens);
      add_linear<W, cuda::rung::sm80>(f, s, tokens);
      add_linear<W, cuda::rung::sm90>(f, s, tokens);
    }
}
void add_cublas() {
  for (auto const s : {shape{6144, 4096}, {4096, 4096}, {7168, 2048}})
    for (std::int64_t const tokens : {1, 16, 64, 256, 4096})
      add_row(row_name("linear", "cublas", "bf16." + std::to_string(s.outputs) + "x" + std::to_string(s.inputs), tokens), [=] {
        auto const t = static_cast<double>(tokens), n = static_cast<double>(s.outputs), k = static_cast<double>(s.inputs);
        return timed{cublas_seconds(tokens, s.outputs, s.inputs, turns_for(s.outputs * s.inputs * 2)), {2 * (n * k + t * (n + k)), 2 * t * n * k}};
      });
}

// ---- experts -----------------------------------------------------------------------------------------------------------------------

/// Published layers: floors in µs are in cost/roofline.hpp, or bytes over the copy's.
struct layer {
  const char* name;
  std::int64_t hidden, intermediate;
  int experts, top_k;
};
constexpr layer layers[] = {
  {"qwen3-30b", 2048, 768, 128, 8}, {"qwen3-235b", 4096, 1536, 128, 8}, {"mixtral-8x7b", 4096, 14336, 8, 2}, {"deepseek-v3-tp8", 7168, 256, 256, 8},
  {"qwen3.5-35b", 2048, 512, 256, 8}, {"gpt-oss-120b", 2880, 2880, 128, 4},   {"olmoe", 2048, 1024, 64, 8}};

/// The plan of tokens whose experts are drawn without replacement, each alike or by Zipf's law; on the device, in `turns` drawings.
struct drawn_plan {
  std::vector<device_memory> offsets, tokens_of;
  double distinct = 0;                   // in the mean
  int experts;
  std::int64_t slots;

  drawn_plan(layer const& l, std::int64_t tokens, bool zipf, int turns) : experts(l.experts), slots(tokens * l.top_k) {
    random_stream random(11);
    for (int turn = 0; turn < turns; ++turn) {
      std::vector<std::int32_t> ids(static_cast<std::size_t>(slots)), offset(static_cast<std::size_t>(l.experts) + 1), of(ids.size()), slot(ids.size());
      std::vector<float> value(static_cast<std::size_t>(l.experts));
      for (std::int64_t t = 0; t < tokens; ++t) {
        for (int e = 0; e < l.experts; ++e)
          value[static_cast<std::size_t>(e)] = (zipf ? -std::log(static_cast<float>(e + 1)) : 0.0f) - std::log(-std::log(random.uniform() * 0.999998f + 1e-6f));
        top_k(value.data(), l.experts, l.top_k, ids.data() + t * l.top_k);
      }
      make_plan({ids.data(), tokens, l.top_k}, {{offset.data(), l.experts + 1}, {of.data(), slots}, {slot.data(), tokens, l.top_k}});
      for (int e = 0; e < l.experts; ++e) distinct += offset[static_cast<std::size_t>(e) + 1] > offset[static_cast<std::size_t>(e)] ? 1.0 / turns : 0.0;
      offsets.emplace_back(offset);
      tokens_of.emplace_back(of);
    }
  }
};

template <dtype W, cuda::rung Rung>
void add_expert(layer const& l, format f, std::int64_t tokens, bool zipf) {
  auto const config = std::string(l.name) + "." + format_name(f) + (zipf ? ".zipf" : ".uniform");
  add_row(row_name("experts", name(Rung), config, tokens), [=] {
    packed_matrix const up{.stored = f, .outputs = l.intermediate, .inputs = l.hidden, .parts = 2, .count = l.experts},
      down{.stored = f, .outputs = l.hidden, .inputs = l.intermediate, .parts = 1, .count = l.experts};
    auto const expert_bytes = (read_bytes(up) + read_bytes(down));
    constexpr int draws = 8;
    drawn_plan const plan(l, tokens, zipf, draws);
    auto const copies = std::clamp(static_cast<int>(4e9 / static_cast<double>(packed::bytes(up) + packed::bytes(down))), 1, 4);
    weights_in_turn const w_up(up, copies), w_down(down, copies);
    auto const x = bf16_rows(tokens, l.hidden), h = bf16_rows(plan.slots, l.intermediate), y = bf16_rows(plan.slots, l.hidden);
    stream_of<Rung> where(stream());
    auto const seconds = seconds_of(draws, [&](int turn) {
      list<const std::int32_t> const offsets(plan.offsets[static_cast<std::size_t>(turn)].template as<std::int32_t>(), l.experts + 1);
      cuda::expert_gate_up<W>(where, activation::swiglu, w_up.turn(turn % copies), {}, view<const bf16>(x.as<bf16>(), tokens, l.hidden), offsets,
                              plan.tokens_of[static_cast<std::size_t>(turn)].template as<std::int32_t>(), view<bf16>(h.as<bf16>(), plan.slots, l.intermediate));
      cuda::expert_down<W>(where, w_down.turn(turn % copies), {}, view<const bf16>(h.as<bf16>(), plan.slots, l.intermediate), offsets,
                           view<bf16>(y.as<bf16>(), plan.slots, l.hidden));
      check(finish(where));
    });
    auto const s = static_cast<double>(plan.slots), hidden = static_cast<double>(l.hidden), width = static_cast<double>(l.intermediate);
    return timed{seconds, {plan.distinct * expert_bytes + 2 * s * (2 * hidden + 2 * width), 6 * s * hidden * width, plan.distinct}};
  });
}
template <dtype W>
void add_experts(format f) {
  for (auto const& l : layers)
    for (std::int64_t const tokens : {1, 8, 16, 64, 1024, 16384}) {
      if (tokens == 16384 && l.hidden * l.intermediate > 8 << 20) continue;   // activations of tens of gigabytes
      add_expert<W, cuda::rung::sm90>(l, f, tokens, false);
      if (tokens == 16 || tokens == 1024) add_expert<W, cuda::rung::sm90>(l, f, tokens, true);
      if (tokens == 1 || tokens == 1024) add_expert<W, cuda::rung::sm80>(l, f, tokens, false);
      if (tokens == 1) add_expert<W, cuda::rung::simt>(l, f, tokens, false);
    }
}

/// e4m3 activations by 128, quantised in the row.
void add_fp8(layer const& l, std::int64_t tokens) {
  add_row(row_name("fp8_experts", "sm90", std::string(l.name) + ".e4m3g128.uniform", tokens), [=] {
    format const f(dtype::e4m3);
    packed_matrix const up{.stored = f, .outputs = l.intermediate, .inputs = l.hidden, .parts = 2, .count = l.experts};
    constexpr int draws = 8;
    drawn_plan const plan(l, tokens, false, draws);
    auto const copies = std::clamp(static_cast<int>(4e9 / static_cast<double>(packed::bytes(up))), 1, 4);
    weights_in_turn const w(up, copies);
    auto const groups = packed::ceil_div(l.hidden, 128);
    auto const x = bf16_rows(tokens, l.hidden), h = bf16_rows(plan.slots, l.intermediate);
    device_memory const codes(tokens * l.hidden), scales(tokens * groups * 4);
    stream_of<cuda::rung::sm90> where(stream());
    auto const seconds = seconds_of(draws, [&](int turn) {
      auto const at = static_cast<std::size_t>(turn);
      view<std::uint8_t> const of_codes(codes.as<std::uint8_t>(), tokens, l.hidden);
      cuda::quantize(where, view<const bf16>(x.as<bf16>(), tokens, l.hidden), of_codes, view<float>(scales.as<float>(), tokens, groups));
      auto const m = w.turn(turn % copies);
      cuda::gemm_params<e4m3, bf16> const p{.w = cuda::weight_view(m), .x = codes.as<e4m3>(), .x_stride = l.hidden, .y = h.as<bf16>(), .y_stride = l.intermediate,
                                            .rows = plan.slots, .offsets = plan.offsets[at].as<std::int32_t>(),
                                            .token_of_slot = plan.tokens_of[at].as<std::int32_t>(), .activated = true, .act = activation::swiglu};
      if (!cuda::multiply_sm90<dtype::e4m3>(where, p, {scales.as<float>(), groups})) std::exit(1);
      check(finish(where));
    });
    auto const s = static_cast<double>(plan.slots), hidden = static_cast<double>(l.hidden), width = static_cast<double>(l.intermediate);
    return timed{seconds, {plan.distinct * read_bytes(up) + s * hidden + 2 * s * width, 4 * s * hidden * width, plan.distinct}};
  });
}

}  // namespace

void add_products() {
  add_linears<dtype::bf16>(dtype::bf16);
  add_linears<dtype::int4>({dtype::int4, 128});
  add_linears<dtype::e4m3>(dtype::e4m3);
  add_cublas();
  add_experts<dtype::bf16>(dtype::bf16);
  add_experts<dtype::e4m3>(dtype::e4m3);
  add_experts<dtype::int4>({dtype::int4, 128});
  for (auto const& l : layers)
    for (std::int64_t const tokens : {1, 16, 64, 1024, 16384})
      if (tokens < 16384 || l.hidden * l.intermediate <= 8 << 20) add_fp8(l, tokens);
}

}  // namespace moesaic::bench
