// Tile sizes of attention: numbers only.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace moesaic::cuda {

struct attention_tuning {
  static constexpr int most_head_dim = 512;
  static constexpr int tile_tokens = 64;         ///< query rows of a block: 16 a warp
  /// Keys of a tile: fewer where heads are so wide that the registers of a tile's scores and outputs together would spill.
  static constexpr int tile_keys(int head_dim) { return head_dim <= 128 ? 64 : head_dim <= 192 ? 32 : 16; }
  static constexpr int prompt_tokens = 8;        ///< fewer tokens of a sequence in a tile are taken one by one: 16 rows of a matrix instruction for 1 .. 7
  static constexpr int split_keys = 32;          ///< of a warp at a time
  static constexpr int cluster = 8;              ///< blocks that share a token's keys: the largest portable cluster
  static constexpr int few_tokens = 64;          ///< up to so many, clusters: more fill the device by themselves
  /// Of keys and values in shared memory: 2, or 1 where heads are so wide that two would not fit.
  static constexpr int stages(int head_dim) { return head_dim <= 128 ? 2 : 1; }
  /// Head dimensions that have a kernel of matrix instructions; others take the simt one.
  static constexpr bool has_tiles(int head_dim) { return head_dim % 16 == 0 && head_dim >= 16 && head_dim <= 256; }
};

}  // namespace moesaic::cuda
