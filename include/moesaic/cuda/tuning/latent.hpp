// Tile sizes of latent attention: numbers only.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/config/latent.hpp>

namespace moesaic::cuda {

struct latent_tuning {
  static constexpr int most_rank = most_latent_rank, most_slot_dim = most_latent_slot_dim;

  // simt, absorbed: a lane keeps 18 elements of a query and 16 of a sum.
  static constexpr int heads = 8;                              ///< that share a pass over the slots, a warp each
  static constexpr int slots = 16;                             ///< of a tile: 36 KiB at fp32, within the 48 that every device gives a block

  // mma.sync, absorbed: heads are the rows of a matrix that share a token's slots.
  static constexpr int warps = 8;                              ///< each has an eighth of the latent's columns: 128 registers of sums for 64 heads and 512
  static constexpr int tile_slots = 32, stages = 2;            ///< with 64 queries 152 KiB: what an A100 gives a block
  static constexpr int cluster = 8;                            ///< blocks that share a token's slots: the largest portable cluster
  /// Heads of a block: no more rows than there are heads.
  static constexpr int rows(int of_layer) { return of_layer <= 16 ? 16 : of_layer <= 32 ? 32 : 64; }
  static constexpr bool has_tiles(int rank, int rope_dim) {
    return rank % 64 == 0 && rope_dim % 16 == 0 && rank <= most_rank && rank + rope_dim <= most_slot_dim;
  }

  // Expanded: keys and values lie in the workspace, a pass for as many slots as it has room for.
  static constexpr int least_expand_tokens = 64;               ///< fewer are not worth a plan, whatever the shape
  /// by_shape: tokens of a call before a run is looked for that would be expanded, as many as pay for a run of any context. 0: none ever pays.
  static constexpr std::int64_t expand_tokens(latent_shape const& s) {
    auto const saved = s.slot_dim() + s.rank - s.key_dim() - s.value_dim;        // by a token, of every slot
    if (saved <= 0) return 0;
    auto const tokens = std::int64_t{s.head_dim + s.value_dim} * s.rank / saved + 1;
    return tokens > least_expand_tokens ? tokens : least_expand_tokens;
  }
  static constexpr int expand_passes = 8;                      ///< by_shape: four kernels each, of which those that find nothing take a microsecond
};

}  // namespace moesaic::cuda
