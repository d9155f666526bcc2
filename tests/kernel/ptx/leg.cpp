// Runs cases on both legs and compares what they wrote.
// SPDX-License-Identifier: Apache-2.0
#include "leg.hpp"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string>

#include <device_model/ptx/ptx.hpp>

namespace moesaic::test::ptx {
namespace {

namespace model = device_model;

memory run(family const& f, model::options const& how, model::front_end* on) {
  model::scope const options(how);
  memory m(17);
  cuda::stream_ref where;
  if (on != nullptr) {
    model::ptx::leg const to(*on);
    f.run(where, m);
  } else {
    f.run(where, m);
  }
  auto const done = cuda::finish(where);
  CHECK_MESSAGE(done, to_string(done));
  for (auto const& finding : model::take_findings()) FAIL_CHECK(finding);
  return m;
}

float number(memory::buffer const& b, std::size_t i) {
  if (b.element == 4) return reinterpret_cast<float const*>(b.bytes.get())[i];
  return static_cast<float>(reinterpret_cast<bf16 const*>(b.bytes.get())[i]);
}
/// Empty, or how two buffers differ.
std::string difference(memory::buffer const& a, memory::buffer const& b, int last_places) {
  auto const each = static_cast<std::size_t>(a.element == 0 ? 1 : a.element);
  float largest = 0;
  for (std::size_t i = 0; a.element != 0 && i < a.size / each; ++i)
    if (float const x = number(a, i); std::isfinite(x)) largest = std::max(largest, std::fabs(x));
  auto const bound = [&](std::size_t i) {
    return static_cast<float>(last_places) * (largest * 0x1p-22f + std::fabs(number(a, i)) * (a.element == 4 ? 0x1p-23f : 0x1p-7f));
  };
  std::size_t differ = 0, first = 0;
  for (std::size_t i = 0; i < a.size / each; ++i) {
    if (std::memcmp(a.bytes.get() + i * each, b.bytes.get() + i * each, each) == 0) continue;
    if (a.element != 0 && std::fabs(number(a, i) - number(b, i)) <= bound(i)) continue;
    if (differ++ == 0) first = i;
  }
  if (differ == 0) return {};
  std::ostringstream text;
  text << differ << " of " << a.size / each << " elements differ, the first at " << first << ": ";
  if (a.element != 0) text << number(a, first) << " as C++, " << number(b, first) << " as PTX, bound " << bound(first);
  else text << static_cast<int>(a.bytes[first]) << " as C++, " << static_cast<int>(b.bytes[first]) << " as PTX";
  return text.str();
}
void compare(memory const& a, memory const& b, int last_places) {
  REQUIRE(a.buffers().size() == b.buffers().size());
  for (std::size_t i = 0; i < a.buffers().size(); ++i) {
    auto const &x = a.buffers()[i], &y = b.buffers()[i];
    REQUIRE(x.size == y.size);
    if (!x.compared || std::memcmp(x.bytes.get(), y.bytes.get(), x.size) == 0) continue;
    auto const how = difference(x, y, last_places);
    CHECK_MESSAGE(how.empty(), "buffer ", i, ": ", how);
  }
}

}  // namespace

std::vector<group>& groups() {
  static std::vector<group> all;
  return all;
}

void check(group const& g, char const* architecture) {
  model::ptx::program program(model::ptx::read_file(std::string(MOESAIC_PTX_DIR "/") + g.name + "." + architecture + ".ptx"));
  for (std::size_t i = 0; i < g.count; ++i) {
    auto const& f = g.first[i];
    CAPTURE(std::string(f.functors));
    using model::delivery;
    int const number = std::atoi(architecture);
    for (auto const& how : {model::options{.when = delivery::eager, .architecture = number},
                            model::options{.when = delivery::late, .seed = 3, .architecture = number},
                            model::options{.when = delivery::random, .seed = 4, .architecture = number}}) {
      CAPTURE(static_cast<int>(how.when));
      compare(run(f, how, nullptr), run(f, how, &program), f.last_places);
    }
    std::istringstream names(f.functors);
    for (std::string functor; names >> functor;) CHECK_MESSAGE(program.has_run(functor), functor, " did not run");
    std::istringstream parts(f.parts);
    for (std::string part; parts >> part;) CHECK_MESSAGE(program.has_run_with(part), part, " did not run");
  }
}

}  // namespace moesaic::test::ptx

TEST_CASE("one element that differs is told, a last place only where none may") {
  using namespace moesaic::test::ptx;
  memory a(1), b(1);
  float const* const x = a.random<float>(8);
  float* const y = b.random<float>(8);
  a.of<std::int32_t>({1, 2}), b.of<std::int32_t>({1, 3});
  auto const floats = [&](int last_places) { return difference(a.buffers()[0], b.buffers()[0], last_places); };
  CHECK(floats(0).empty());
  y[3] = std::nextafter(x[3], 2.0f);
  CHECK(floats(0).find("1 of 8 elements differ, the first at 3: ") == 0);
  CHECK(floats(1).empty());
  y[3] = x[3] * 1.001f;
  CHECK(!floats(1).empty());
  y[3] = std::nanf("");
  CHECK(!floats(1).empty());
  CHECK(difference(a.buffers()[1], b.buffers()[1], 1).find("1 of 8 elements differ, the first at 4: 2 as C++, 3 as PTX") == 0);
}
