// How many threads route, and how much of a batch one launch takes: numbers only.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/cuda/tuning/tuning.hpp>

namespace moesaic::cuda {

/// A warp routes a token, with its rows of experts in shared memory where their number is a constant; the last block to arrive does what concerns
/// the whole batch, and the plan, where more warps mean shorter runs of choices. So a block is as large as its rows allow, and as the registers of rules
/// over a batch do (128 a thread).
struct route_tile {
  int threads = 0;
  std::int64_t shared_bytes = 0;         ///< rows of all warps
};
/// Bytes of a warp's rows: scores and choice [experts], ids and weights [slots].
constexpr std::int64_t route_row_bytes(int experts, int slots) { return 8 * (std::int64_t{experts} + slots); }

struct default_route_tuning {
  static constexpr int most_threads = 512;
  static constexpr int blocks = 2;                         ///< of a multiprocessor; tokens beyond these wait for their turn
  static constexpr int plan_threads = 1024;                ///< of the plan alone
  static constexpr std::int64_t most_shared = 96 * 1024;   ///< fits architectures 80 and later, with the scratch of sums and scans
  /// Tokens and choices whose plan is made in the launch that routes; more are left to a launch of their own.
  static constexpr std::int64_t planned_tokens = 4096;
  /// Tokens whose logits are computed in the launch that routes: while the router's weights are what is read.
  static constexpr std::int64_t fused_tokens = 64;

  /// experts 0: not known when this is compiled.
  static constexpr route_tile rows(int experts, int slots) {
    route_tile tile{most_threads, 0};
    if (experts == 0) return tile;
    auto const bytes = [&] { return tile.threads / 32 * route_row_bytes(experts, slots); };
    while (bytes() > most_shared && tile.threads > 32) tile.threads /= 2;
    tile.shared_bytes = bytes();
    return tile;
  }
};

namespace tuning_detail {
template <class Tuning>
struct route_tuning_or {
  using type = default_route_tuning;
};
template <class Tuning>
  requires requires { typename Tuning::route; }
struct route_tuning_or<Tuning> {
  using type = typename Tuning::route;
};
}  // namespace tuning_detail
/// The numbers of a tuning: its own `route`, or these.
template <class Tuning>
using route_tuning = typename tuning_detail::route_tuning_or<Tuning>::type;

/// The fused launch: a block computes the logits of token_tile tokens for expert_tile experts, its threads side by side along `hidden`.
struct logits_tile {
  static constexpr int threads = 256, token_tile = 8, expert_tile = 2, inputs = 8;   ///< inputs: of a thread at a time, 16 bytes of bf16
  static constexpr int warps = threads / 32;
};
/// Groups of tokens that a fused launch may have: a counter each.
inline constexpr int most_token_groups = 32;

}  // namespace moesaic::cuda
