// Expert outputs back to tokens, part by part against the formula in double; rows gathered and picked; plain addition.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/host/combine.hpp>
#include <support/compare.hpp>
#include <support/matrix.hpp>
#include <support/products.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::int64_t tokens = 5, slots = 3, used = 9;
std::int64_t const widths[] = {1, 255, 256, 257, 600};       // around a block of columns, and two of them and a piece
// Every slot used, one dropped between others, none at all, only the last, all again. The slot behind those used is NaN.
std::int32_t const slot_of_choice[] = {4, 0, 7, 1, -1, 8, -1, -1, -1, -1, -1, 2, 3, 6, 5};

enum class shared_expert { none, plain, gated };

/// What a call of combine is given, between guards.
template <class T>
struct inputs {
  using sum = accumulator<T>;
  guarded<T> expert_out, shared, residual;
  matrix<sum> weights, gate;
  view<const std::int32_t> choices{slot_of_choice, tokens, slots};
  shared_expert kind;

  inputs(std::int64_t columns, shared_expert k, random_stream& random)
      : expert_out(used + 1, columns, random),
        shared(tokens, columns, random),
        residual(tokens, columns, random),
        weights(random_matrix<sum>(tokens, slots, random)),
        gate(random_matrix<sum>(1, tokens, random)),
        kind(k) {
    for (std::int64_t c = 0; c < columns; ++c) expert_out.rows(used, c) = guarded<T>::not_a_number();
  }
  void run(host::pool& where, view<const T> added_to, view<T> y, combine_parts<T> const& parts = {}, double scale = 1.0,
           view<T> carried = {}) const {
    host::combine<T>(where, expert_out.input(), choices, weights.view(), kind == shared_expert::none ? view<const T>{} : shared.input(),
                     kind == shared_expert::gated ? list<const sum>(gate.data) : list<const sum>{}, added_to, y, parts, scale, carried);
  }
};

/// How many values lie further from their sum than so many terms explain.
template <class T, class Want>
std::int64_t wrong(view<const T> got, long terms, Want&& want) {
  std::int64_t count = 0;
  for (std::int64_t t = 0; t < got.rows; ++t)
    for (std::int64_t c = 0; c < got.columns; ++c) {
      exact_sum const exact = want(t, c);
      count += !(std::fabs(static_cast<double>(got(t, c)) - exact.value) <= sum_tolerance<T>(terms) * exact.magnitude);
    }
  return count;
}
exact_sum sum_of(double a, double b) { return {a + b, std::fabs(a) + std::fabs(b)}; }

double wide(auto x) { return static_cast<double>(x); }

}  // namespace

TEST_CASE_TEMPLATE("combine: every part is the formula's, rounded once", T, double, float, bf16) {
  random_stream random(1);
  for (auto const kind : {shared_expert::none, shared_expert::plain, shared_expert::gated})
    for (auto const columns : widths) {
      CAPTURE(columns);
      CAPTURE(static_cast<int>(kind));
      inputs<T> const in(columns, kind, random);
      guarded<T> moe_out(tokens, columns), shared_out(tokens, columns), ffn_out(tokens, columns), y(tokens, columns);
      matrix<accumulator<T>> gate(tokens, 1);
      host::pool where;
      in.run(where, in.residual.input(), y.rows, {moe_out.rows, shared_out.rows, ffn_out.rows, gate.view()});

      bool const has_shared = kind != shared_expert::none;
      auto const gate_of = [&](std::int64_t t) { return kind == shared_expert::gated ? 1 / (1 + std::exp(-wide(in.gate(0, t)))) : 1.0; };
      CHECK(wrong(moe_out.input(), slots, [&](std::int64_t t, std::int64_t c) {
              exact_sum s;
              for (std::int64_t i = 0; i < slots; ++i) {
                auto const slot = in.choices(t, i);
                if (slot < 0) continue;
                auto const term = wide(in.weights(t, i)) * wide(in.expert_out.rows(slot, c));
                s = {s.value + term, s.magnitude + std::fabs(term)};
              }
              return s;
            }) == 0);
      CHECK(wrong(view<const accumulator<T>>(gate.view()), 4, [&](std::int64_t t, std::int64_t) { return sum_of(gate_of(t), 0); }) == 0);
      if (has_shared)
        CHECK(wrong(shared_out.input(), 4, [&](std::int64_t t, std::int64_t c) {
                return sum_of(gate_of(t) * wide(in.shared.rows(t, c)), 0);
              }) == 0);
      CHECK(wrong(ffn_out.input(), 1, [&](std::int64_t t, std::int64_t c) {
              return sum_of(wide(moe_out.rows(t, c)), has_shared ? wide(shared_out.rows(t, c)) : 0);
            }) == 0);
      CHECK(wrong(y.input(), 1, [&](std::int64_t t, std::int64_t c) {
              return sum_of(wide(in.residual.rows(t, c)), wide(ffn_out.rows(t, c)));
            }) == 0);
      for (auto const* const written : {&moe_out, &shared_out, &ffn_out, &y}) CHECK(written->guards_whole());
    }
}

TEST_CASE_TEMPLATE("combine: the same bits without parts, with y the residual, and on three threads", T, double, float, bf16) {
  random_stream random(2);
  host::pool one, three(3);
  for (auto const kind : {shared_expert::none, shared_expert::plain, shared_expert::gated})
    for (auto const columns : widths) {
      CAPTURE(columns);
      inputs<T> const in(columns, kind, random);
      guarded<T> want(tokens, columns), y(tokens, columns), part(tokens, columns);
      in.run(one, in.residual.input(), want.rows, {part.rows, {}, {}});
      in.run(three, in.residual.input(), y.rows);
      CHECK(same_bits<T>(y.rows, want.rows));
      for (auto* const where : {&one, &three}) {
        auto in_place = in.residual;
        in_place.rows.data = in_place.data.data() + guarded<T>::gap;
        in.run(*where, in_place.input(), in_place.rows);
        CHECK(same_bits<T>(in_place.rows, want.rows));
        CHECK(in_place.guards_whole());
      }
    }
}

TEST_CASE_TEMPLATE("combine: a factor on what is added, no residual, and a mixture that is carried on instead of added", T, double, float, bf16) {
  random_stream random(5);
  host::pool where;
  constexpr double scale = 0.22;
  for (auto const kind : {shared_expert::none, shared_expert::plain, shared_expert::gated})
    for (auto const columns : widths) {
      CAPTURE(columns);
      inputs<T> const in(columns, kind, random);
      guarded<T> plain(tokens, columns), moe_out(tokens, columns), shared_out(tokens, columns), ffn_out(tokens, columns), scaled(tokens, columns),
          alone(tokens, columns), carried(tokens, columns), rest(tokens, columns);
      in.run(where, in.residual.input(), plain.rows, {moe_out.rows, shared_out.rows, ffn_out.rows});
      in.run(where, in.residual.input(), scaled.rows, {}, scale);
      CHECK(wrong(scaled.input(), 2, [&](std::int64_t t, std::int64_t c) {
              return sum_of(wide(in.residual.rows(t, c)), scale * wide(ffn_out.rows(t, c)));
            }) == 0);
      in.run(where, {}, alone.rows);
      CHECK(same_bits<T>(alone.rows, ffn_out.rows));
      in.run(where, in.residual.input(), rest.rows, {}, scale, carried.rows);
      CHECK(same_bits<T>(carried.rows, moe_out.rows));
      if (kind == shared_expert::none) CHECK(same_bits<T>(rest.rows, in.residual.rows));
      else
        CHECK(wrong(rest.input(), 2, [&](std::int64_t t, std::int64_t c) {
                return sum_of(wide(in.residual.rows(t, c)), scale * wide(shared_out.rows(t, c)));
              }) == 0);
      for (auto const* const written : {&scaled, &alone, &carried, &rest}) CHECK(written->guards_whole());
    }
}

TEST_CASE_TEMPLATE("combine: one expert of weight 1 passes bit for bit, and the residual of a token without experts too", T, double, float,
                   bf16) {
  random_stream random(3);
  auto expert_out = random_matrix<T>(1, 300, random), residual = random_matrix<T>(2, 300, random);
  T const negative_zero = static_cast<T>(-accumulator<T>(0)), zero = static_cast<T>(accumulator<T>(0));
  for (std::int64_t const c : {0, 256, 299}) {               // a sum that starts at +0 makes +0 of these
    expert_out(0, c) = negative_zero;
    residual(1, c) = negative_zero;
  }
  residual(1, 7) = zero;
  for (std::int64_t c = 0; c < 300; ++c) residual(0, c) = negative_zero;
  std::int32_t const choices[] = {-1, 0, -1, -1};
  accumulator<T> const weights[] = {3, 1, 3, 3};
  matrix<T> moe_out(2, 300), y(2, 300);
  host::pool where;
  host::combine<T>(where, expert_out.view(), {choices, 2, 2}, {weights, 2, 2}, {}, {}, residual.view(), y.view(), {moe_out.view(), {}, {}});
  CHECK(same_bits<T>({moe_out.view().row(0), 1, 300}, expert_out.view()));
  CHECK(same_bits<T>({y.view().row(0), 1, 300}, expert_out.view()));
  CHECK(same_bits<T>({y.view().row(1), 1, 300}, {residual.view().row(1), 1, 300}));
}

TEST_CASE_TEMPLATE("gather_choices: rows in the order of the choices, zeros where none is used", T, double, float, bf16) {
  random_stream random(4);
  for (auto const columns : widths) {
    inputs<T> const in(columns, shared_expert::none, random);
    guarded<T> y(tokens * slots, columns);
    matrix<T> const zeros(1, columns);
    host::pool where(3);
    host::gather_choices<T>(where, in.expert_out.input(), in.choices, y.rows);
    CHECK(y.guards_whole());
    for (std::int64_t i = 0; i < y.rows.rows; ++i) {
      auto const* const want = slot_of_choice[i] < 0 ? zeros.data.data() : in.expert_out.rows.row(slot_of_choice[i]);
      CHECK(same_bits<T>({y.rows.row(i), 1, columns}, {want, 1, columns}));
    }
  }
}

TEST_CASE_TEMPLATE("pick_rows: any rows, in any order and more than once", T, double, float, bf16) {
  random_stream random(5);
  std::vector<std::int32_t> const rows = {6, 0, 0, 3, 6, 1};
  for (auto const columns : widths)
    for (int const threads : {1, 3}) {
      guarded<T> const x(7, columns, random);
      guarded<T> y(static_cast<std::int64_t>(rows.size()), columns);
      host::pool where(threads);
      host::pick_rows<T>(where, x.input(), rows, y.rows);
      CHECK(y.guards_whole());
      for (std::int64_t i = 0; i < y.rows.rows; ++i)
        CHECK(same_bits<T>({y.rows.row(i), 1, columns}, {x.rows.row(rows[static_cast<std::size_t>(i)]), 1, columns}));
    }
}

TEST_CASE_TEMPLATE("add: the sum rounded once, also onto either summand", T, double, float, bf16) {
  random_stream random(6);
  host::pool one, three(3);
  for (auto const columns : widths) {
    guarded<T> const a(tokens, columns, random);
    auto b = random_matrix<T>(tokens, columns, random);
    guarded<T> y(tokens, columns);
    host::add<T>(three, a.input(), b.view(), y.rows);
    CHECK(y.guards_whole());
    CHECK(wrong(y.input(), 1, [&](std::int64_t t, std::int64_t c) { return sum_of(wide(a.rows(t, c)), wide(b(t, c))); }) == 0);
    auto other = b;
    host::add<T>(one, a.input(), other.view(), other.view());
    CHECK(same_bits<T>(other.view(), y.rows));
    host::add<T>(one, b.view(), a.input(), b.view());
    CHECK(same_bits<T>(b.view(), y.rows));
  }
}
