// A family's layer as C++ on the device model and, where nvcc is at hand, as nvcc's PTX: both against the host's.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <kernel/layers.hpp>

#include "families.hpp"

#if defined(MOESAIC_PTX_DIR)
#include <device_model/ptx/ptx.hpp>
#endif

namespace moesaic::test::families {

/// `seed` as in check_layer.
template <class Layer>
void check_family(char const* name, std::uint64_t seed) {
  INFO(std::string(name));
  using device_model::delivery;
  check_layer<of<Layer>>([](auto&& f, int architecture) {
    under_schedule(f, {.when = delivery::late, .seed = 7, .architecture = architecture, .resident_blocks = 3});
#if defined(MOESAIC_PTX_DIR)
    static device_model::ptx::program kernels(device_model::ptx::read_file(MOESAIC_PTX_DIR "/kernels.90a.ptx"));
    device_model::ptx::leg const to(kernels);
    INFO("as PTX");
    auto const before = kernels.executed();
    under_schedule(f, {.when = delivery::random, .seed = 5, .architecture = architecture});
    CHECK(kernels.executed() > before);
#endif
  }, {90}, {}, seed);
}

}  // namespace moesaic::test::families
