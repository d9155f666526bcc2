// Barriers in shared memory that count arrivals and bytes: what the copy engine reports to. One function a PTX instruction.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/macros.hpp>

namespace moesaic::device {

/// In shared memory, initialised before use. A phase ends when all expected arrivals and bytes have come.
struct alignas(8) mbarrier {
  std::uint64_t opaque;
};

MOESAIC_PRIMITIVE void mbarrier_init(mbarrier* b, std::uint32_t arrivals);                        ///< mbarrier.init.shared::cta.b64
MOESAIC_PRIMITIVE void mbarrier_inval(mbarrier* b);                                               ///< mbarrier.inval
MOESAIC_PRIMITIVE void mbarrier_arrive(mbarrier* b);                                              ///< mbarrier.arrive.release.cta
MOESAIC_PRIMITIVE void mbarrier_arrive_expect_tx(mbarrier* b, std::uint32_t bytes);               ///< mbarrier.arrive.expect_tx.release.cta
MOESAIC_PRIMITIVE void mbarrier_expect_tx(mbarrier* b, std::uint32_t bytes);                      ///< mbarrier.expect_tx.relaxed.cta
MOESAIC_PRIMITIVE void mbarrier_arrive_cluster(mbarrier* b, int rank);                            ///< mbarrier.arrive.release.cluster of block `rank`'s barrier at the same place
/// Whether the phase of this parity has ended: mbarrier.try_wait.parity.acquire.cta, which may wait a while first.
MOESAIC_PRIMITIVE bool mbarrier_try_wait_parity(mbarrier* b, std::uint32_t parity);
MOESAIC_PRIMITIVE bool mbarrier_try_wait_parity_cluster(mbarrier* b, std::uint32_t parity);       ///< .acquire.cluster
MOESAIC_DEVICE void mbarrier_wait(mbarrier* b, std::uint32_t parity) {
  while (!mbarrier_try_wait_parity(b, parity)) {}
}
MOESAIC_DEVICE void mbarrier_wait_cluster(mbarrier* b, std::uint32_t parity) {
  while (!mbarrier_try_wait_parity_cluster(b, parity)) {}
}
MOESAIC_PRIMITIVE void fence_mbarrier_init();                                                     ///< fence.mbarrier_init.release.cluster: after init, before others use them

/// Phases of a ring of barriers: which stage comes next, and with what parity it is waited for.
template <int Stages>
struct ring {
  int stage = 0;
  std::uint32_t parity = 0;

  MOESAIC_DEVICE void advance() {
    if (++stage == Stages) stage = 0, parity ^= 1u;
  }
};

}  // namespace moesaic::device
