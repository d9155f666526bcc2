// wgmma of fp16.
// SPDX-License-Identifier: Apache-2.0
#include "wgmma.hpp"

namespace moesaic::conformance {

cases wgmma_fp16_cases() {
  cases to;
  constexpr auto t = dtype::fp16;
  add_every_n<t>(to, std::make_integer_sequence<int, 32>{});
  add_every_layout<t, 64, false, major::k, major::k>(to);
  add_every_layout<t, 64, false, major::k, major::mn>(to);
  add_every_layout<t, 64, false, major::mn, major::k>(to);
  add_every_layout<t, 64, false, major::mn, major::mn>(to);
  add_every_layout<t, 24, false, major::k, major::mn>(to);
  add_every_layout<t, 64, true, major::k, major::k>(to);
  add_every_layout<t, 64, true, major::k, major::mn>(to);
  add_wgmma<t, 8, 4, true, major::k, swizzle::b128, major::mn, swizzle::b128, order::mn_first>(to);
  add_wgmma<t, 96, 4, true, major::k, swizzle::b128, major::mn, swizzle::b128, order::mn_first>(to);
  add_wgmma<t, 256, 4, true, major::k, swizzle::b128, major::k, swizzle::b128, order::mn_first>(to);
  add_wgmma<t, 256, 4, false, major::mn, swizzle::b128, major::mn, swizzle::b128, order::mn_first>(to);
  return to;
}

}  // namespace moesaic::conformance
