// The weights of a layer as plain views. They depend on shapes and storage only: the same loaded weights serve every routing policy
// and every k.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

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
  packed_matrix shared_gate;           ///< [1, hidden], fp32; empty without gate
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

}  // namespace moesaic
