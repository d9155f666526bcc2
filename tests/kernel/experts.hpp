// Both products of experts on the device model against the host's: what their tests share.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include <moesaic/cuda/ffn.hpp>
#include <moesaic/cuda/linear.hpp>
#include <moesaic/host/ffn.hpp>
#include <support/products.hpp>

#include "both_packed.hpp"
#include "schedules.hpp"

namespace moesaic::test {

struct runs_case {
  activation_rule act = activation::swiglu;
  std::int64_t hidden = 64, intermediate = 48;
  bool bias = false;
  std::vector<std::int32_t> tokens_of_expert;          // {n} and no gather: a dense feed-forward of n tokens
  std::int64_t spare_slots = 0;                        // of the views beyond the last slot
  bool plain = false;                                  // expert_linear too, of the slots' rows from the last to the first
};

/// Slots of each expert read tokens from the middle outwards, so that neighbours in a tile are not neighbours in x.
template <dtype W, class T>
void check_experts(format f, runs_case const& c, int architecture) {
  auto const experts = static_cast<std::int64_t>(c.tokens_of_expert.size());
  std::vector<std::int32_t> offsets{0}, token_of_slot;
  std::int32_t tokens = 0;
  for (auto const n : c.tokens_of_expert) tokens = n > tokens ? n : tokens;
  for (auto const n : c.tokens_of_expert) {
    for (std::int32_t i = 0; i < n; ++i) token_of_slot.push_back((i * 7 + n) % tokens);
    offsets.push_back(offsets.back() + n);
  }
  auto const gather = experts > 1;
  std::int64_t const slots = offsets.back(), all = slots + c.spare_slots;
  INFO(text(f), ", activation ", static_cast<int>(c.act.act), ", ", experts, " experts [", c.intermediate, ", ", c.hidden, "], ", slots, " slots, architecture ",
       architecture);

  cuda::stream nowhere;
  int const parts = gated(c.act.act) ? 2 : 1;
  both_packed const up(nowhere, {f, c.intermediate, c.hidden, parts, experts}, 21), down(nowhere, {f, c.hidden, c.intermediate, 1, experts}, 22);
  random_stream random(23);
  auto rows_of_x = random_matrix<T>(gather ? tokens : all, c.hidden, random);
  auto const& x = rows_of_x;
  for (auto r = gather ? x.rows : slots; r < x.rows; ++r)                 // rows of no slot
    for (std::int64_t k = 0; k < c.hidden; ++k) rows_of_x(r, k) = static_cast<T>(not_a_number<float>);
  auto const up_bias = random_matrix<float>(experts, parts * c.intermediate, random), down_bias = random_matrix<float>(experts, c.hidden, random);
  auto const bias = [&](matrix<float> const& b) { return c.bias ? list<const float>(b.data) : list<const float>{}; };
  auto const* const rows = gather ? token_of_slot.data() : nullptr;
  host::pool pool;
  auto want_h = unwritten<T>(all, c.intermediate), want_y = unwritten<T>(all, c.hidden);
  host::expert_gate_up<W>(pool, c.act, up.host, bias(up_bias), x.view(), offsets, rows, want_h.view());
  host::expert_down<W>(pool, down.host, bias(down_bias), view<const T>(want_h.view()), offsets, want_y.view());

  std::vector<std::int32_t> backwards;
  for (auto s = slots; s-- > 0;) backwards.push_back(static_cast<std::int32_t>(s));
  auto want_plain = unwritten<T>(all, c.hidden);
  if (c.plain) host::expert_linear<W>(pool, down.host, bias(down_bias), view<const T>(want_h.view()), offsets, backwards.data(), want_plain.view());

  auto const head = [&](matrix<T> const& m) { return view<const T>(m.data.data(), slots, m.columns); };
  auto const untouched = [&](matrix<T> const& m) {
    auto const nothing = unwritten<T>(c.spare_slots, m.columns);
    return same_bits(view<const T>(m.data.data() + slots * m.columns, c.spare_slots, m.columns), nothing.view());
  };
  matrix<T> first_h, first_y;                                            // the same bits whatever the schedule
  under_every_schedule(
      [&](cuda::stream_ref& where) {
        auto h = unwritten<T>(all, c.intermediate), y = unwritten<T>(all, c.hidden);
        with_sm80(where, [&](auto& stream) {
          cuda::expert_gate_up<W>(stream, c.act, up.device, bias(up_bias), x.view(), offsets, rows, h.view());
          cuda::expert_down<W>(stream, down.device, bias(down_bias), view<const T>(want_h.view()), offsets, y.view());
        });
        if (c.plain) {
          auto z = unwritten<T>(all, c.hidden);
          with_sm80(where, [&](auto& stream) {
            cuda::expert_linear<W>(stream, down.device, bias(down_bias), view<const T>(want_h.view()), offsets, backwards.data(), z.view());
          });
          auto const found = compare(head(z), head(want_plain));
          CHECK_MESSAGE(found.worst <= sum_tolerance<T>(c.intermediate) * 4, to_string(found));
          CHECK(untouched(z));
        }
        auto const up_found = compare(head(h), head(want_h));
        CHECK_MESSAGE(up_found.worst <= sum_tolerance<T>(c.hidden) * 4, to_string(up_found));
        auto const down_found = compare(head(y), head(want_y));
        CHECK_MESSAGE(down_found.worst <= sum_tolerance<T>(c.intermediate) * 4, to_string(down_found));
        CHECK(untouched(h));
        CHECK(untouched(y));
        if (first_h.data.empty()) first_h = h, first_y = y;
        check_bits(h, first_h);
        check_bits(y, first_y);
      },
      architecture);
}

/// Runs of every kind: none, one token, ragged ones, one expert that takes all, a dense feed-forward, many experts.
template <dtype W, class T>
void check_runs(format f, int architecture) {
  check_experts<W, T>(f, {.bias = true, .tokens_of_expert = {2, 0, 9, 1, 0}, .spare_slots = 3, .plain = true}, architecture);
  check_experts<W, T>(f, {.hidden = 80, .intermediate = 144, .tokens_of_expert = {0, 33, 41, 0}}, architecture);
  check_experts<W, T>(f, {.tokens_of_expert = {0, 0, 70}, .spare_slots = 90}, architecture);
  check_experts<W, T>(f, {.hidden = 48, .intermediate = 80, .tokens_of_expert = {0, 1}}, architecture);
  check_experts<W, T>(f, {.hidden = 16, .intermediate = 16, .tokens_of_expert = {5}, .spare_slots = 4}, architecture);
  std::vector<std::int32_t> of_many(70);                                 // more experts than a warp has lanes, most of them without a token
  for (std::size_t e = 0; e < of_many.size(); e += 9) of_many[e] = static_cast<std::int32_t>(e % 4 + 1);
  check_experts<W, T>(f, {.hidden = 16, .intermediate = 16, .tokens_of_expert = of_many}, architecture);
}

}  // namespace moesaic::test
