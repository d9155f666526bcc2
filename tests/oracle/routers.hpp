// Runs a router on an oracle file's own input of it, and the feed-forward sublayer of Switch, on every level of this processor.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/layer/moe.hpp>
#include <moesaic/layer/norm.hpp>
#include <moesaic/route/capacity.hpp>
#include <moesaic/route/sparse_mixer.hpp>

#include "run.hpp"

namespace moesaic::test {

/// How a file names the tensors of one router, and its stages: stage + `suffix`.
struct router_tensors {
  std::string input;                      ///< what it reads, [tokens, hidden]
  std::string weight;
  std::string bias = {}, score_bias = {};
  std::string suffix = {};                ///< of topk_index and topk_weight, where a file has them by several rules
};

/// A source in which a vector is one, whatever rows it is stored in.
class vectors_of {
 public:
  vectors_of(oracle_weights const& all, std::string const& name) : all_(all) {
    auto const* stored = all.find(name);
    if (stored == nullptr) return;
    name_ = name;
    vector_ = *stored;
    for (auto const n : stored->shape) size_ *= n;
    vector_.shape = {&size_, 1};
  }
  vectors_of(vectors_of const&) = delete;
  tensor const* find(std::string_view name) const { return !name_.empty() && name == name_ ? &vector_ : all_.find(name); }
  std::string where(std::string_view name) const { return all_.where(name); }

 private:
  oracle_weights const& all_;
  std::string name_;
  tensor vector_ = {};
  std::int64_t size_ = 1;
};

inline routing::sparse_mixer<>::state sparse_mixer_state(double epsilon) {
  routing::sparse_mixer<>::state state;
  state.epsilon = static_cast<float>(epsilon);
  return state;
}

/// carve(arena) over memory of its own.
template <class Carve>
auto carved(host::buffer& memory, Carve&& carve) {
  arena counting;
  carve(counting);
  memory = host::buffer{counting.used() + arena::alignment};
  arena over(memory.data(), memory.size());
  return carve(over);
}

/// A spec's router without its limit on groups: its choice is what the limit begins with.
template <class Spec>
struct without_groups : Spec {
  static constexpr block_config config = [] {
    auto c = Spec::config;
    c.router.groups = c.router.top_groups = 1;
    c.router.group_worth = router_config{}.group_worth;
    c.router.group_mask = router_config{}.group_mask;
    return c;
  }();
};

/// Everything a router shows of the tokens of `input`.
template <class Spec, class State = typename policy_of<Spec>::state>
recording run_router(host::pool& where, safetensors const& file, router_tensors const& names, State const& state) {
  using layer = router<Spec>;
  using scalar = typename layer::scalar;
  auto const x = convert<scalar>(read_matrix<double>(file, names.input));
  oracle_weights const stored(file, false);
  vectors_of const source(stored, names.score_bias);
  tensor_names spelled;
  spelled.router = {{names.weight.c_str()}};
  spelled.router_bias = {{names.bias.c_str()}};
  spelled.score_bias = {{names.score_bias.c_str()}};
  loader from(where, source, "", spelled);
  host::buffer weight_memory, memory;
  auto const weights = carved(weight_memory, [](arena& a) { return layer::carve_weights(a); });
  layer::load(weights, from);
  auto const scratch = carved(memory, [&](arena& a) { return layer::carve(a, x.rows); });
  recorder<scalar> tap;
  call_flags flags;
  auto const done = layer::forward(where, weights, x.view(), state, scratch, &flags, tap);
  INFO(to_string(done));
  REQUIRE(static_cast<bool>(done));
  CHECK(flags.not_finite == 0);
  return tap.seen;
}

/// Every stage of the file's router; its choice as it is before a limit on groups, and the same bits after, where the limit allows.
template <class Spec>
void check_router(std::string const& path, router_tensors const& names, typename policy_of<Spec>::state const& state = {}) {
  using scalar = typename router<Spec>::scalar;
  safetensors const file(path);
  at_every_level<scalar>([&](host::pool& where) {
    auto shown = run_router<Spec>(where, file, names, state);
    auto const limited = shown.at("router_choice");
    auto const& all = shown.at("router_choice") = run_router<without_groups<Spec>>(where, file, names, state).at("router_choice");
    double const mask = Spec::config.router.group_mask == group_mask::zero ? 0.0 : -std::numeric_limits<double>::infinity();
    std::int64_t masked = 0, other = 0;
    for (std::size_t i = 0; i < all.data.size(); ++i)
      if (limited.data[i] != all.data[i]) ++(limited.data[i] == mask ? masked : other);
    constexpr auto c = Spec::config.router;
    CHECK(masked == all.rows * (c.groups - c.top_groups) * (c.experts / c.groups));
    CHECK(other == 0);

    auto const named = [&](std::string const& stage) { return stage + (stage.starts_with("topk_") ? names.suffix : ""); };
    recording seen;
    for (auto const& [stage, rows] : shown) seen[named(stage)] = rows;
    for (auto const needed : {"router_logits", "topk_index", "topk_weight"})
      CHECK_MESSAGE(file.find("expect." + named(needed)) != nullptr, "not in the file: expect." << named(needed));
    auto const format = precision_of<scalar>();
    auto const made = check_stages(file, seen, format, stages_of::those_seen);
    CHECK(made.count > 0);
    MESSAGE(format.name << ", " << std::string(name(where.level())) << ": " << made.count << " router stages compared, the farthest "
                        << made.worst_at << ", " << made.worst << " of what is allowed");
  });
}

/// The feed-forward sublayer: x + moe(norm(x)), each expert with room for so many tokens. The router's stages and the experts' outputs are
/// those without a capacity, as the file has them.
template <class Spec>
void check_switch(std::string const& path, tensor_names const& names, std::int64_t capacity) {
  using layer = moe<Spec>;
  using scalar = typename layer::scalar;
  constexpr auto config = validated<Spec>::config;
  safetensors const file(path);
  oracle_weights const source(file, false);
  auto const x = convert<scalar>(read_matrix<float>(file, "input.x"));
  at_every_level<scalar>([&](host::pool& where) {
    host::buffer weight_memory, norm_memory, memory;
    auto const weights = carved(weight_memory, [](arena& a) { return layer::carve_weights(a); });
    auto const gain = carved(norm_memory, [&](arena& a) { return norm::carve_weights(config.norm, config.hidden, a); });
    loader from(where, source, "", names);
    norm::load(config.norm, gain, from, names.ffn_norm, names.ffn_norm_bias);
    layer::load(weights, from);
    auto const scratch = carved(memory, [&](arena& a) { return layer::template carve<recorder<scalar>>(a, x.rows); });
    auto const run = [&](routing::capacity_rule const& rule) {
      recorder<scalar> tap;
      auto normed = x, y = x;
      normalize<scalar>(where, config.norm, gain, x.view(), normed.view());
      tap({0, stage::ffn_norm}, static_cast<matrix<scalar> const&>(normed).view());
      typename policy_of<Spec>::state state;
      state.capacity = rule;
      call_flags flags;
      auto const in = static_cast<matrix<scalar> const&>(normed).view();
      auto const done = layer::forward(where, weights, in, x.view(), y.view(), state, scratch, &flags, tap);
      INFO(to_string(done));
      REQUIRE(static_cast<bool>(done));
      CHECK(flags.not_finite == 0);
      tap({0, stage::block_out}, static_cast<matrix<scalar> const&>(y).view());
      return tap.seen;
    };
    auto seen = run({});
    matrix<double> position(x.rows, 1), kept(x.rows, 1);
    for (std::int64_t t = 0; t < x.rows; ++t) {
      auto const expert = static_cast<std::int64_t>(seen.at("topk_index")(t, 0));
      position(t, 0) = scratch.plan.slot_of_choice(t, 0) - scratch.plan.expert_offsets[expert];
    }
    auto const limited = run(routing::absolute_capacity(capacity));
    for (std::int64_t t = 0; t < x.rows; ++t) {
      auto const id = limited.at("topk_index")(t, 0);
      kept(t, 0) = id >= 0;
      CHECK((id == -1 || id == seen.at("topk_index")(t, 0)));
      if (id < 0)
        for (std::int64_t c = 0; c < x.columns; ++c) CHECK(limited.at("block_out")(t, c) == static_cast<double>(x(t, c)));
    }
    seen["position_in_expert"] = position, seen["kept"] = kept;
    for (auto const stage : {"moe_out", "block_out"}) seen[stage] = limited.at(stage);

    auto const format = precision_of<scalar>();
    auto const made = check_stages(file, seen, format);
    CHECK(made.count > 0);
    MESSAGE(format.name << ", " << std::string(name(where.level())) << ": " << made.count << " stages compared, the farthest "
                        << made.worst_at << ", " << made.worst << " of what is allowed");
  });
  for (auto const& name : source.unread()) FAIL_CHECK("a weight that the configuration does not know of: " << name);
}

}  // namespace moesaic::test
