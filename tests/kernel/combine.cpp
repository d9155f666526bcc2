// Combine and the small ops on rows beside it: the host's bits.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/combine.hpp>
#include <moesaic/cuda/special_experts.hpp>
#include <moesaic/host/combine.hpp>
#include <moesaic/host/special_experts.hpp>

#include "schedules.hpp"

using namespace moesaic;
using namespace moesaic::test;

TEST_CASE_TEMPLATE("combine", T, float, bf16) {
  for (std::int64_t const hidden : {16, 80, 13})
    for (bool const has_shared : {false, true})
      for (bool const has_gate : {false, true}) {
        if (has_gate && !has_shared) continue;
        constexpr std::int64_t tokens = 4, top_k = 3;
        CAPTURE(hidden);
        CAPTURE(has_shared);
        CAPTURE(has_gate);
        random_stream random(31);
        auto const expert_out = random_matrix<T>(tokens * top_k, hidden, random), shared = random_matrix<T>(tokens, hidden, random);
        auto const residual = random_matrix<T>(tokens, hidden, random);
        auto const weights = random_matrix<float>(tokens, top_k, random), gate = random_matrix<float>(1, tokens, random);
        std::vector<std::int32_t> const slot{5, 0, -1, 11, 3, 2, -1, -1, -1, 7, -1, 8};   // one token has no expert at all
        view<const std::int32_t> const slots(slot.data(), tokens, top_k);
        auto const shared_rows = has_shared ? shared.view() : view<const T>{};
        list<const float> const gates = has_gate ? list<const float>(gate.data) : list<const float>{};
        auto const call = [&](auto&& op, matrix<T>& y, matrix<T> (&part)[3], matrix<float>& of_gate) {
          op(expert_out.view(), slots, weights.view(), shared_rows, gates, residual.view(), y.view(),
             combine_parts<T>{part[0].view(), has_shared ? part[1].view() : view<T>{}, part[2].view(), has_gate ? of_gate.view() : view<float>{}});
        };
        host::pool pool;
        matrix<T> want(tokens, hidden), want_part[3] = {want, want, want};
        matrix<float> want_gate(tokens, 1);
        call([&](auto const&... a) { host::combine<T>(pool, a...); }, want, want_part, want_gate);
        under_every_schedule([&](cuda::stream_ref& where) {
          auto y = unwritten<T>(tokens, hidden);
          matrix<T> part[3] = {y, y, y};
          matrix<float> of_gate(tokens, 1);
          call([&](auto const&... a) { cuda::combine<T>(where, a...); }, y, part, of_gate);
          auto const tolerance = has_gate ? sum_tolerance<T>(8) : 0.0;      // the sigmoid's last bit is each library's own
          check_close(y, want, tolerance);
          for (int i = 0; i < 3; ++i)
            if (i != 1 || has_shared) check_close(part[i], want_part[i], tolerance);
        });
      }
}

TEST_CASE_TEMPLATE("combine of what is mixed already, of ones, and with a bias", T, float, bf16) {
  for (std::int64_t const hidden : {80, 13}) {
    constexpr std::int64_t tokens = 4, top_k = 3;
    random_stream random(34);
    auto const expert_out = random_matrix<T>(tokens * top_k, hidden, random), shared = random_matrix<T>(tokens, hidden, random);
    auto const bias = random_matrix<float>(1, hidden, random);
    std::vector<std::int32_t> const slot{5, 0, -1, 11, 3, 2, -1, -1, -1, 7, -1, 8};
    for (bool const mixed : {false, true}) {
      CAPTURE(hidden);
      CAPTURE(mixed);
      auto const slots = mixed ? view<const std::int32_t>{} : view<const std::int32_t>(slot.data(), tokens, top_k);
      auto const call = [&](auto&& op, matrix<T>& y) {
        op(expert_out.view(), slots, view<const float>{}, mixed ? shared.view() : view<const T>{}, list<const float>{}, view<const T>{}, y.view(),
           combine_parts<T>{}, 1.0, view<T>{}, list<const float>(bias.data));
      };
      host::pool pool;
      matrix<T> want(tokens, hidden);
      call([&](auto const&... a) { host::combine<T>(pool, a...); }, want);
      under_every_schedule([&](cuda::stream_ref& where) {
        auto y = unwritten<T>(tokens, hidden);
        call([&](auto const&... a) { cuda::combine<T>(where, a...); }, y);
        check_bits(y, want);
      });
    }
  }
}

TEST_CASE_TEMPLATE("weigh_choices", T, float, bf16) {
  for (std::int64_t const width : {32, 9}) {
    CAPTURE(width);
    random_stream random(35);
    auto const x = random_matrix<T>(3, width, random);
    auto const weights = random_matrix<float>(3, 2, random);
    std::vector<std::int32_t> const slot{4, 0, -1, 2, 1, -1};
    view<const std::int32_t> const slots(slot.data(), 3, 2);
    host::pool pool;
    for (view<const float> const weighed : {weights.view(), view<const float>{}}) {      // or as they are
      auto want = unwritten<T>(5, width);
      host::weigh_choices<T>(pool, x.view(), slots, weighed, want.view());
      under_every_schedule([&](cuda::stream_ref& where) {
        auto y = unwritten<T>(5, width);
        cuda::weigh_choices<T>(where, x.view(), slots, weighed, y.view());
        check_bits(y, want);
      });
    }
  }
}

TEST_CASE_TEMPLATE("combine: a factor, no residual, and a mixture that is carried on; add with a factor", T, float, bf16) {
  constexpr std::int64_t tokens = 3, top_k = 2;
  for (std::int64_t const hidden : {48, 13})
    for (bool const has_shared : {false, true})
      for (bool const carries : {false, true})
        for (bool const has_residual : {false, true}) {
          CAPTURE(hidden);
          random_stream random(35);
          auto const expert_out = random_matrix<T>(tokens * top_k, hidden, random), shared = random_matrix<T>(tokens, hidden, random);
          auto const residual = random_matrix<T>(tokens, hidden, random);
          auto const weights = random_matrix<float>(tokens, top_k, random);
          std::vector<std::int32_t> const slot{5, 0, -1, 3, -1, -1};
          view<const std::int32_t> const slots(slot.data(), tokens, top_k);
          auto const call = [&](auto&& op, matrix<T>& y, matrix<T>& carried) {
            op(expert_out.view(), slots, weights.view(), has_shared ? shared.view() : view<const T>{}, list<const float>{},
               has_residual ? residual.view() : view<const T>{}, y.view(), combine_parts<T>{}, 0.22, carries ? carried.view() : view<T>{});
          };
          host::pool pool;
          matrix<T> want(tokens, hidden), want_carried(tokens, hidden), sum(tokens, hidden);
          call([&](auto const&... a) { host::combine<T>(pool, a...); }, want, want_carried);
          host::add<T>(pool, residual.view(), shared.view(), sum.view(), 0.22);
          under_every_schedule([&](cuda::stream_ref& where) {
            auto y = unwritten<T>(tokens, hidden), carried = y, z = y;
            call([&](auto const&... a) { cuda::combine<T>(where, a...); }, y, carried);
            check_close(y, want, sum_tolerance<T>(2));
            if (carries) check_bits(carried, want_carried);
            cuda::add<T>(where, residual.view(), shared.view(), z.view(), 0.22);
            check_close(z, sum, sum_tolerance<T>(2));
          });
        }
}

TEST_CASE_TEMPLATE("add, gather_choices and pick_rows", T, float, bf16) {
  for (std::int64_t const hidden : {32, 9}) {
    random_stream random(32);
    auto const a = random_matrix<T>(6, hidden, random), b = random_matrix<T>(6, hidden, random);
    std::vector<std::int32_t> const choice{2, -1, 0, 5}, rows{4, 4, 0};
    view<const std::int32_t> const slots(choice.data(), 2, 2);
    host::pool pool;
    matrix<T> sum(6, hidden), chosen(4, hidden), picked(3, hidden);
    host::add<T>(pool, a.view(), b.view(), sum.view());
    host::gather_choices<T>(pool, a.view(), slots, chosen.view());
    host::pick_rows<T>(pool, a.view(), rows, picked.view());
    under_every_schedule([&](cuda::stream_ref& where) {
      auto y = unwritten<T>(6, hidden), of_choice = unwritten<T>(4, hidden), of_row = unwritten<T>(3, hidden);
      cuda::add<T>(where, a.view(), b.view(), y.view());
      cuda::gather_choices<T>(where, a.view(), slots, of_choice.view());
      call_flags flags;
      cuda::pick_rows<T>(where, a.view(), rows, of_row.view(), &flags);
      check_bits(y, sum), check_bits(of_choice, chosen), check_bits(of_row, picked);
      CHECK(flags.row == 0);
      std::vector<std::int32_t> const beyond{0, 6, -1};
      cuda::pick_rows<T>(where, a.view(), beyond, of_row.view(), &flags);
      CHECK(flags.row == 1);
      CHECK(static_cast<float>(of_row(1, 0)) == 0.0f);
    });
  }
}

TEST_CASE_TEMPLATE("zero, copy and constant experts", T, float, bf16) {
  constexpr std::int64_t hidden = 48;
  expert_config const kinds{.zero = 1, .copy = 2, .constant = 2};
  std::vector<std::int32_t> const offsets{2, 3, 4, 4, 6, 9}, token{0, 0, 1, 2, 0, 1, 3, 3, 2};
  random_stream random(33);
  auto const x = random_matrix<T>(4, hidden, random);
  auto const gate = random_matrix<float>(2 * 2, hidden, random), value = random_matrix<float>(2, hidden, random);
  constant_weights const w{gate.data, value.data};
  host::pool pool;
  auto want = random_matrix<T>(9, hidden, random);
  auto const before = want;
  host::special_experts<T>(pool, kinds, w, x.view(), offsets, token.data(), want.view());
  under_every_schedule([&](cuda::stream_ref& where) {
    auto y = before;
    cuda::special_experts<T>(where, kinds, w, x.view(), offsets, token.data(), y.view());
    check_close(y, want, sum_tolerance<T>(hidden));
    CHECK(same_bits(view<const T>(y.data.data(), 4, hidden), view<const T>(want.data.data(), 4, hidden)));
  });
}
