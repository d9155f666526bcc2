// Tile sizes of latent attention: numbers only.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace moesaic::cuda {

struct latent_tuning {
  static constexpr int most_rank = 512, most_slot_dim = 576;   ///< DeepSeek's: a lane keeps 18 elements of a query and 16 of a sum
  static constexpr int heads = 8;                              ///< that share a pass over the slots, a warp each
  static constexpr int slots = 16;                             ///< of a tile: 36 KiB at fp32, within the 48 that every device gives a block
};

}  // namespace moesaic::cuda
