// What becomes a list or a view, and what must not.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <span>
#include <type_traits>
#include <vector>

#include <moesaic/base/view.hpp>

using namespace moesaic;

struct base {
  int x;
};
struct derived : base {
  int y;
};

template <class From, class To>
constexpr bool becomes = std::is_convertible_v<From, To>;

static_assert(becomes<std::vector<float>&, list<float>> && becomes<std::vector<float>&, list<const float>>);
static_assert(becomes<std::vector<float> const&, list<const float>> && !becomes<std::vector<float> const&, list<float>>);
static_assert(becomes<std::array<int, 3>&, list<const int>> && becomes<std::span<int const>, list<const int>> && becomes<int (&)[4], list<int>>);
static_assert(becomes<list<int>, list<const int>> && !becomes<list<const int>, list<int>>);
static_assert(std::is_trivially_constructible_v<list<int>, list<int>&>);   // a copy, in device code too
static_assert(!becomes<std::vector<derived>&, list<base>> && !becomes<std::vector<derived>&, list<const base>>);
static_assert(!becomes<std::vector<int>&, list<float>> && !becomes<std::vector<int>&, list<const unsigned>>);
static_assert(becomes<view<float>, view<const float>> && !becomes<view<const float>, view<float>> && !becomes<view<derived>, view<const base>>);

TEST_CASE("a list holds what it was made of") {
  std::vector<int> const numbers{3, 1, 2};
  list<const int> const all = numbers;
  CHECK(all.data == numbers.data());
  CHECK(all.size == 3);
}
