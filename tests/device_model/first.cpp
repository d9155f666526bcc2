// The smallest kernel test, to start from: scales rows through shared memory, under every delivery and several orders of threads.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "model.hpp"

namespace {

using namespace moesaic;

template <bool Wait>
struct scale_rows {
  static constexpr int threads = 64;
  static constexpr cuda::rung needs = cuda::rung::sm80;
  struct params {
    float const* in;
    float* out;
    int columns;
    float factor;
  };
  struct shared {
    alignas(16) float row[256];
  };
  MOESAIC_DEVICE void operator()(params const& p) const {
    using namespace device;
    shared& s = device::shared<shared>();
    auto const row = static_cast<std::int64_t>(block_x()) * p.columns;
    int const first = thread_id() * 4;
    if (first < p.columns) cp_async<16>(s.row + first, p.in + row + first);
    cp_async_commit_group();
    if constexpr (Wait) cp_async_wait_group<0>();
    block_sync();
    for (int c = thread_id(); c < p.columns; c += threads) p.out[row + c] = s.row[p.columns - 1 - c] * p.factor;
  }
};

template <class Kernel>
bool scaled(device_model::options const& how) {
  device_model::scope const on(how);
  constexpr int rows = 5, columns = 100;
  std::vector<float> in(rows * columns), out(in.size(), std::nanf(""));
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  cuda::stream_ref gpu;
  cuda::start<Kernel>(gpu, {.x = rows}, {in.data(), out.data(), columns, 2.0f});
  bool right = static_cast<bool>(cuda::finish(gpu));
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c)
      right = right && out[static_cast<std::size_t>(r * columns + c)] == in[static_cast<std::size_t>(r * columns + columns - 1 - c)] * 2.0f;
  return right;
}

}  // namespace

TEST_CASE("a kernel gives its result under every delivery and order") {
  using enum device_model::delivery;
  for (auto const when : {eager, late, random}) {
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
      CHECK(scaled<scale_rows<true>>({.when = when, .seed = seed}));
      auto const wrong = device_model::take_findings();
      CHECK_MESSAGE(wrong.empty(), (wrong.empty() ? "" : wrong.front()));
    }
  }
}

TEST_CASE("a missing wait is told, with its place") {
  CHECK_FALSE(scaled<scale_rows<false>>({.when = device_model::delivery::late}));
  auto const wrong = device_model::take_findings();
  CHECK(std::any_of(wrong.begin(), wrong.end(), [](std::string const& w) {
    return w.find("model: a thread ended with a cp_async under way that it never waited for, asked for at first.cpp:3") == 0;
  }));
}
