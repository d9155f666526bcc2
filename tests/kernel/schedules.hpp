// Runs a piece of a kernel test under every delivery and several orders of threads, and wants no finding of the model.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <device_model/model.hpp>
#include <support/compare.hpp>
#include <support/matrix.hpp>
#include <support/tolerance.hpp>

namespace moesaic::test {

/// f(where) on the model with these options; results must be checked inside.
template <class F>
void under_schedule(F&& f, device_model::options const& how) {
  INFO("delivery ", static_cast<int>(how.when), ", seed ", how.seed);
  device_model::scope const options(how);
  cuda::stream_ref where;
  f(where);
  auto const done = cuda::finish(where);
  CHECK_MESSAGE(done, to_string(done));
  for (auto const& finding : device_model::take_findings()) FAIL_CHECK(finding);
}

/// The same on a device of architecture 90 or older ones, under each schedule.
template <class F>
void under_every_schedule(F&& f, int architecture = 90) {
  using device_model::delivery;
  struct schedule {
    delivery when;
    std::uint64_t seed;
    int blocks;                          // side by side; 0: one after another, in the order that the seed draws
  };
  for (auto const& s : {schedule{delivery::eager, 0, 0}, {delivery::late, 0, 0}, {delivery::late, 7, 3}, {delivery::random, 8, 0}})
    under_schedule(f, {.when = s.when, .seed = s.seed, .architecture = architecture, .resident_blocks = s.blocks});
}

// Where races or bounds are looked for, the host's layers would be half of what is compiled.
#if defined(MOESAIC_DEVICE_MODEL_RACE) || defined(__SANITIZE_ADDRESS__)
#define MOESAIC_TEST_ALONE
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MOESAIC_TEST_ALONE
#endif
#endif
/// What a layer or a model is to give: run(pool) of the host; or nothing where that is not compiled, and the first run on the model stands for it.
template <class Pool, class F>
auto wanted(F&& run) {
  std::remove_cvref_t<decltype(run(std::declval<cuda::stream_ref&>()))> want;
#if !defined(MOESAIC_TEST_ALONE)
  Pool pool;
  want = run(pool);
#endif
  return want;
}

/// Of T, all NaN: what a kernel does not write shows.
template <class T>
matrix<T> unwritten(std::int64_t rows, std::int64_t columns) {
  matrix<T> m(rows, columns);
  for (auto& x : m.data) x = static_cast<T>(not_a_number<float>);
  return m;
}

template <class Got, class Want>
void check_close(matrix<Got> const& got, matrix<Want> const& want, double tolerance) {
  auto const found = compare(got.view(), want.view());
  CHECK_MESSAGE(found.worst <= tolerance, to_string(found));
}
template <class T>
void check_bits(matrix<T> const& got, matrix<T> const& want) {
  CHECK_MESSAGE(same_bits(got.view(), want.view()), to_string(compare(got.view(), want.view())));
}

}  // namespace moesaic::test
