// Rows of whole layers, of the router, of attention and of the ops on rows: what stands around the products.
// SPDX-License-Identifier: Apache-2.0
#include "gpu.hpp"

#include <moesaic/config/random_source.hpp>

namespace moesaic::bench {
namespace {

std::string row_name(std::string const& op, std::string const& config, std::int64_t tokens) { return op + "/sm90/" + config + "/" + std::to_string(tokens); }

constexpr storage_config stored{.weights = dtype::bf16, .activations = dtype::bf16};
struct qwen3_30b {
  static constexpr block_config config{.hidden = 2048, .attention = {.heads = 32, .kv_heads = 4, .head_dim = 128, .rope_theta = 1e6, .qk_norm = qk_norm::per_head},
                                       .router = {.experts = 128, .top_k = 8, .renormalize = true}, .expert = {.intermediate = 768}, .storage = stored};
};

/// A mixture without its attention, of random weights: router, plan, both GEMMs, combine. Routing is as the random router has it: nearly uniform.
template <class Spec>
void add_moe(std::string const& config, std::int64_t tokens) {
  add_row(row_name("moe", config, tokens), [=] {
    using layer = moe<Spec>;
    constexpr auto shape = shapes(Spec::config);
    cuda::stream_ref where(stream());
    auto const weights = block<Spec>::load(where, random_source{1}, "");
    moe_weights const& w = static_cast<block_weights const&>(weights).ffn;
    auto const x = bf16_rows(tokens, shape.hidden), residual = bf16_rows(tokens, shape.hidden), y = bf16_rows(tokens, shape.hidden);
    arena counting;
    layer::carve(counting, tokens);
    device_memory const scratch(static_cast<std::int64_t>(counting.used() + arena::alignment), 0);
    device_memory const flags(sizeof(call_flags), 0);
    arena memory(scratch.data(), static_cast<std::size_t>(scratch.bytes()));
    auto const s = layer::carve(memory, tokens);
    auto const rows = [&](device_memory const& m) { return view<bf16>(m.as<bf16>(), tokens, shape.hidden); };
    auto const seconds = seconds_of(4, [&](int) { check(layer::forward(where, w, view<const bf16>(rows(x)), view<const bf16>(rows(residual)), rows(y), {}, s, flags.as<call_flags>())); });
    std::vector<std::int32_t> offsets(static_cast<std::size_t>(shape.experts) + 1);
    check(cudaMemcpy(offsets.data(), s.plan.expert_offsets.data, offsets.size() * 4, cudaMemcpyDeviceToHost));
    double distinct = 0;
    for (std::size_t e = 0; e + 1 < offsets.size(); ++e) distinct += offsets[e + 1] > offsets[e];
    auto const slots = static_cast<double>(tokens * shape.slots), expert = 3.0 * shape.hidden * shape.intermediate;
    return timed{seconds, {distinct * expert * 2 + 4.0 * shape.hidden * shape.experts, 2 * slots * expert, distinct}};
  });
}

void add_route(std::int64_t tokens) {
  add_row(row_name("route_tokens", "qwen3-30b", tokens), [=] {
    using router_of = moesaic::router<qwen3_30b>;
    constexpr auto shape = shapes(qwen3_30b::config);
    cuda::stream_ref where(stream());
    arena counting;
    router_of::carve_weights(counting);
    device_memory const weights(static_cast<std::int64_t>(counting.used()), 0x807f'ffff'807f'ffffu, 0x3c00'0000'3c00'0000u);
    arena over(weights.data(), static_cast<std::size_t>(weights.bytes()));
    auto const w = router_of::carve_weights(over);
    auto const x = bf16_rows(tokens, shape.hidden);
    arena needed;
    router_of::carve(needed, tokens);
    dispatch_plan::carve(needed, tokens, shape.experts, shape.slots);
    device_memory const scratch(static_cast<std::int64_t>(needed.used() + arena::alignment), 0), flags(sizeof(call_flags), 0);
    arena memory(scratch.data(), static_cast<std::size_t>(scratch.bytes()));
    auto s = router_of::carve(memory, tokens);
    s.planned = dispatch_plan::carve(memory, tokens, shape.experts, shape.slots);
    auto const seconds = seconds_of(16, [&](int) { check(router_of::forward(where, w, view<const bf16>(x.as<bf16>(), tokens, shape.hidden), {}, s, flags.as<call_flags>())); });
    auto const t = static_cast<double>(tokens);
    return timed{seconds, {4.0 * shape.hidden * shape.experts + 2 * t * shape.hidden, 2 * t * shape.hidden * shape.experts}};
  });
}

template <int HeadDim>
void add_attention(std::string const& op, std::int64_t tokens, std::int64_t context, bool prompt) {
  add_row(row_name(op, "32x8x" + std::to_string(HeadDim) + ".context" + std::to_string(context), tokens), [=] {
    constexpr int heads = 32, kv_heads = 8;
    auto const sequences = prompt ? 1 : static_cast<int>(tokens);
    cuda::kv_cache cache{dtype::bf16, sequences, kv_heads, HeadDim, HeadDim, static_cast<int>(context), nullptr, nullptr};
    auto const bytes = static_cast<std::int64_t>(cuda::bytes(cache));
    auto const turns = turns_for(bytes);
    device_memory const memory(turns * bytes, bf16_keep, bf16_put);
    std::vector<std::int32_t> sequence(static_cast<std::size_t>(tokens), 0), position(sequence.size());
    for (std::int64_t t = 0; t < tokens; ++t) {
      auto const i = static_cast<std::size_t>(t);
      sequence[i] = prompt ? 0 : static_cast<std::int32_t>(t);
      position[i] = static_cast<std::int32_t>(prompt ? context - tokens + t : context - 1);
    }
    device_memory const of_sequence(sequence), of_position(position);
    auto const q = bf16_rows(tokens, heads * HeadDim), out = bf16_rows(tokens, heads * HeadDim);
    list<const std::int32_t> const sequences_of(reinterpret_cast<std::int32_t*>(of_sequence.data()), tokens);
    list<const std::int32_t> const positions_of(reinterpret_cast<std::int32_t*>(of_position.data()), tokens);
    view<const bf16> const queries(reinterpret_cast<bf16*>(q.data()), tokens, heads * HeadDim);
    view<bf16> const outputs(reinterpret_cast<bf16*>(out.data()), tokens, heads * HeadDim);
    cuda::stream_ref where(stream());
    auto const seconds = seconds_of(turns, [&](int turn) {
      cache.data = memory.data() + turn * bytes;
      check(cuda::attend<bf16, dtype::bf16, HeadDim>(where, {.scale = 0.09}, cache, queries, sequences_of, positions_of, outputs));
      check(finish(where));
    });
    auto const t = static_cast<double>(tokens), c = static_cast<double>(context), pairs = prompt ? t * (c - t / 2) : t * c;
    return timed{seconds, {2.0 * 2 * kv_heads * HeadDim * c * sequences + 4 * t * heads * HeadDim, 4 * pairs * heads * HeadDim}};
  });
}

struct deepseek_v3 {
  static constexpr latent_shape value{.heads = 128, .head_dim = 128, .rope_dim = 64, .value_dim = 128, .rank = 512};
};

/// Latent attention with both projections, of the last tokens of a context; for `prompt` of one sequence, else of as many as there are tokens.
void add_latent(std::string const& op, latent_form form, std::int64_t tokens, std::int64_t context, bool prompt) {
  add_row(row_name(op, std::string("deepseek-v3.") + name(form) + ".context" + std::to_string(context), tokens), [=] {
    constexpr auto s = deepseek_v3::value;
    auto const sequences = prompt ? 1 : static_cast<int>(tokens);
    cuda::latent_cache cache{dtype::bf16, sequences, s.rank, s.rope_dim, static_cast<int>(context), nullptr, nullptr};
    auto const matrix = [&](std::int64_t outputs, std::int64_t inputs) { return packed_matrix{dtype::bf16, outputs, inputs, 1, s.heads, nullptr}; };
    auto const key_up = matrix(s.head_dim, s.rank), key_up_transposed = matrix(s.rank, s.head_dim), value_up = matrix(s.value_dim, s.rank);
    auto const bytes = static_cast<std::int64_t>(cuda::bytes(cache));
    auto const turns = turns_for(bytes + 2 * static_cast<std::int64_t>(packed::bytes(value_up)));   // a form reads two of the matrices
    device_memory const slots(turns * bytes, bf16_keep, bf16_put);
    weights_in_turn const keys(key_up, turns), transposed_keys(key_up_transposed, turns), values(value_up, turns);
    std::vector<std::int32_t> sequence(static_cast<std::size_t>(tokens), 0), position(sequence.size());
    for (std::int64_t t = 0; t < tokens; ++t) {
      auto const i = static_cast<std::size_t>(t);
      sequence[i] = prompt ? 0 : static_cast<std::int32_t>(t);
      position[i] = static_cast<std::int32_t>(prompt ? context - tokens + t : context - 1);
    }
    device_memory const of_sequence(sequence), of_position(position);
    arena counting;
    latent_memory<bf16>::carve(counting, s, tokens);
    device_memory const scratch(static_cast<std::int64_t>(counting.used() + arena::alignment), 0);
    arena over(scratch.data(), static_cast<std::size_t>(scratch.bytes()));
    auto const work = latent_memory<bf16>::carve(over, s, tokens);
    auto const q = bf16_rows(tokens, s.heads * s.key_dim()), out = bf16_rows(tokens, s.heads * s.value_dim);
    list<const std::int32_t> const sequences_of(of_sequence.as<std::int32_t>(), tokens), positions_of(of_position.as<std::int32_t>(), tokens);
    cuda::stream_ref where(stream());
    auto const seconds = seconds_of(turns, [&](int turn) {
      cache.data = slots.data() + turn * bytes;
      attention_weights w;
      w.key_up = keys.turn(turn), w.key_up_transposed = transposed_keys.turn(turn), w.value_up = values.turn(turn);
      check(cuda::attend_latent<bf16, dtype::bf16, dtype::bf16, deepseek_v3>(where, form, 0.1, s, cache, w, view<const bf16>(q.as<bf16>(), tokens, q.bytes() / 2 / tokens),
                                                                             sequences_of, positions_of, work, view<bf16>(out.as<bf16>(), tokens, out.bytes() / 2 / tokens)));
      check(finish(where));
    });
    auto const kept = 2.0 * static_cast<double>(context) * s.slot_dim() * sequences, up = 2.0 * s.heads * (s.head_dim + s.value_dim) * s.rank;
    auto const runs = prompt ? 1.0 : static_cast<double>(tokens);
    return timed{seconds, {kept + up, runs * latent_flops(s, form, static_cast<double>(tokens) / runs, static_cast<double>(context))}};
  });
}

template <class F>
void add_rows(std::string const& op, std::int64_t width, std::int64_t tokens, double passes, F&& call) {
  add_row(row_name(op, "bf16." + std::to_string(width), tokens), [=] {
    auto const x = bf16_rows(tokens, width), added = bf16_rows(tokens, width), y = bf16_rows(tokens, width), z = bf16_rows(tokens, width);
    std::vector<float> const ones(static_cast<std::size_t>(width), 1.0f);
    device_memory const weight(ones);
    cuda::stream_ref where(stream());
    auto const rows = [&](device_memory const& m) { return view<bf16>(m.as<bf16>(), tokens, width); };
    auto const seconds = seconds_of(8, [&](int) {
      call(where, norm_weights{{weight.as<float>(), width}, {}}, view<const bf16>(rows(x)), view<const bf16>(rows(added)), rows(y), rows(z));
      check(finish(where));
    });
    return timed{seconds, {passes * 2 * static_cast<double>(tokens * width), 0}};
  });
}

}  // namespace

void add_layers() {
  for (std::int64_t const tokens : {1, 8, 16, 64, 1024, 16384}) add_moe<qwen3_30b>("qwen3-30b.bf16", tokens);
  for (std::int64_t const tokens : {1, 8, 64, 512, 4096, 16384}) add_route(tokens);
  for (std::int64_t const tokens : {1, 16, 64})
    for (std::int64_t const context : {1024, 8192, 32768}) add_attention<128>("attend_decode", tokens, context, false);
  for (std::int64_t const tokens : {512, 4096}) add_attention<128>("attend_prompt", tokens, tokens, true);
  for (std::int64_t const tokens : {1, 16, 64})
    for (std::int64_t const context : {1024, 8192, 32768}) add_latent("attend_latent_decode", latent_form::absorbed, tokens, context, false);
  for (auto const form : {latent_form::absorbed, latent_form::expanded})
    for (std::int64_t const context : {1024, 8192}) add_latent("attend_latent_prompt", form, 1024, context, true);
  for (std::int64_t const tokens : {1, 64, 4096}) {
    add_rows("normalize", 4096, tokens, 2, [](auto& where, norm_weights const& w, view<const bf16> x, view<const bf16>, view<bf16> y, view<bf16>) { cuda::normalize<bf16>(where, {}, w, x, y); });
    add_rows("add_and_normalize", 4096, tokens, 4, [](auto& where, norm_weights const& w, view<const bf16> x, view<const bf16> added, view<bf16> y, view<bf16> z) {
      cuda::add_and_normalize<bf16>(where, {}, w, x, added, y, z);
    });
    add_rows("add", 4096, tokens, 3, [](auto& where, norm_weights const&, view<const bf16> x, view<const bf16> added, view<bf16> y, view<bf16>) { cuda::add<bf16>(where, x, added, y); });
  }
}

}  // namespace moesaic::bench
