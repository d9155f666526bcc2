// Launches that start before those before them have ended: what they may touch, and when.
// SPDX-License-Identifier: Apache-2.0
#include "threads.hpp"

namespace {

using namespace moesaic;
using namespace moesaic::device;
using namespace moesaic::device_model;

constexpr char const* file = "launches_test.cpp";

struct memory {
  std::uint32_t weights[64] = {}, x[64] = {}, y[64] = {};
};
/// y = weights · x, then x = y: an early launch each.
enum class mistake { none, reads_x_early, writes_x_early };
int reads_early = 0, writes_early = 0, writes_x = 0;   // lines

std::string chain(mistake planted, bool early = true) {
  scope const on({.watch_global = true});
  take_findings();
  memory m;
  cuda::stream_ref gpu;
  auto const start = [&](auto const& body) {
    using link = std::remove_cvref_t<decltype(body)>;
    static_cast<void>(run({.x = 2, .early = early}, 32, 128, [](void const* p) { (*static_cast<link const*>(p))(); }, &body, "link"));
  };
  for (int round = 0; round < 2; ++round) {
    reads_early = __LINE__ + 5;
    start([&] {
      griddepcontrol_launch_dependents();
      auto const i = static_cast<std::size_t>(block_x() * 32 + thread_id());
      std::uint32_t const w = m.weights[i];              // of no launch
      std::uint32_t const soon = planted == mistake::reads_x_early ? m.x[i] : 0;
      griddepcontrol_wait();
      m.y[i] = w * (planted == mistake::reads_x_early ? soon : m.x[i]);
    });
    writes_early = __LINE__ + 4, writes_x = __LINE__ + 6;
    start([&] {
      griddepcontrol_launch_dependents();
      auto const i = static_cast<std::size_t>(block_x() * 32 + thread_id());
      if (planted == mistake::writes_x_early) m.x[i] = 0;
      griddepcontrol_wait();
      m.x[i] = m.y[i];
    });
  }
  std::string all;
  for (auto const& one : take_findings()) all += one + "\n";
  return all;
}

TEST_CASE("launches that wait for each other are right") {
  CHECK(chain(mistake::none).empty());
  CHECK(chain(mistake::reads_x_early, false).empty());   // not early: in order anyway
  CHECK(chain(mistake::writes_x_early, false).empty());
}

TEST_CASE("what an early launch touches too early is found by the race detector") {
  if (!sees_races()) return;
  auto const reads = chain(mistake::reads_x_early);
  check_found(reads, "race: an early launch reads global memory at ", file, reads_early, writes_x);
  check_found(reads, "before griddepcontrol_wait, and the launch before it, of link, touches it at ");
  check_found(chain(mistake::writes_x_early), "race: an early launch writes global memory at ", file, writes_early);
}

TEST_CASE("what the host has waited for is not before a launch") {
  if (!sees_races()) return;
  scope const on({.watch_global = true});
  std::vector<std::uint32_t> x(32);
  auto const writes = [&] {
    griddepcontrol_wait();
    x[static_cast<std::size_t>(thread_id())] = 1;
  };
  auto const reads = [&] {
    CHECK(x[static_cast<std::size_t>(thread_id())] == 1);
    griddepcontrol_wait();
  };
  cuda::stream_ref gpu;
  CHECK(run({.early = true}, 32, 0, [](void const* p) { (*static_cast<decltype(writes) const*>(p))(); }, &writes, "writes"));
  CHECK(cuda::synchronize(gpu));
  CHECK(run({.early = true}, 32, 0, [](void const* p) { (*static_cast<decltype(reads) const*>(p))(); }, &reads, "reads"));
  CHECK(take_findings().empty());
}

}  // namespace
