// The weights of a layer as plain views, and where tensors come from. Weights depend on shapes and storage only: the same loaded
// weights serve every routing policy and every k.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

#include <moesaic/base/packed.hpp>
#include <moesaic/base/view.hpp>

namespace moesaic {

/// weight [width], and bias [width] or empty.
struct norm_weights {
  list<const float> weight, bias;
};

/// The two expert GEMMs' weights; a dense feed-forward and a shared expert have count == 1.
struct ffn_weights {
  packed_matrix gate_up;               ///< [experts] of [intermediate, hidden], parts 2 (gate, up) or 1
  packed_matrix down;                  ///< [experts] of [hidden, intermediate]
  list<const float> gate_up_bias;      ///< [experts, parts, intermediate] or empty
  list<const float> down_bias;         ///< [experts, hidden] or empty
};

struct router_weights {
  packed_matrix weight;                ///< [experts, hidden], fp32
  list<const float> bias;              ///< [experts] or empty
  list<const float> score_bias;        ///< [experts] or empty: added for selection only
};

/// Of a MoE layer; a dense one uses `experts` alone (one expert, no router).
struct moe_weights {
  router_weights router;
  ffn_weights experts;
  ffn_weights shared;                  ///< empty without shared expert
  list<const float> shared_gate;       ///< [hidden] or empty
};

struct attention_weights {
  packed_matrix qkv;                   ///< [q_width + 2 · kv_width, hidden]: q rows, then k, then v
  packed_matrix out;                   ///< [hidden, q_width]
  list<const float> qkv_bias, out_bias;
  list<const float> q_norm, k_norm;    ///< [head_dim], or [q_width] and [kv_width], or empty
};

struct block_weights {
  norm_weights attention_norm, ffn_norm;
  attention_weights attention;
  moe_weights ffn;
};

/// A stored tensor: row-major, `data` valid as long as its source.
struct tensor {
  dtype type = dtype::same;
  list<const std::int64_t> shape;
  const std::byte* data = nullptr;     ///< may be unaligned
  std::int64_t bytes = 0;
};

/// Where tensors come from: a checkpoint file, a folder of shards, memory. `find` answers nullptr for a name it does not have;
/// `where` says, for an error message, which file a name would be in.
template <class S>
concept tensor_source = requires(S const& s, std::string_view name) {
  { s.find(name) } -> std::same_as<const tensor*>;
  { s.where(name) } -> std::convertible_to<std::string>;
};

}  // namespace moesaic
