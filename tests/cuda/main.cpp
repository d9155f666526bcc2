// main of a doctest program that needs a GPU. Without one of architecture 90 it says so and returns 77, which ctest reports as skipped.
// SPDX-License-Identifier: Apache-2.0
#define DOCTEST_CONFIG_IMPLEMENT
#include <cstdio>

#include <doctest/doctest.h>

#include <moesaic/cuda/stream.hpp>

int main(int arguments, char** argument) {
  auto const device = moesaic::cuda::current_device();
  constexpr int needed = 90, skipped = 77;
  if (!device.why || device.architecture != needed) {
    std::printf("skipped: %s\n", device.why ? "the device is not of architecture 90" : to_string(device.why).c_str());
    return skipped;
  }
  return doctest::Context(arguments, argument).run();
}
