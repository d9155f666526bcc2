// Token ids -> rows, and rows -> logits: the embedding and the head, which may be one matrix.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/block_config.hpp>
#include <moesaic/config/weights.hpp>
#include <moesaic/layer/load.hpp>

namespace moesaic {

/// The table is packed as the head is, [vocabulary, hidden]: a tied head reads the same bytes. The ops are `embed` and `linear`.
struct embedding_weights {
  packed_matrix table;
  packed_matrix head;                    ///< the table itself where the head is tied
  list<const float> head_bias;           ///< [vocabulary] or empty
  bool tied = false;
};

struct embedding {
  static constexpr embedding_weights carve_weights(decoder_config const& c, int hidden, arena& memory) {
    embedding_weights w;
    w.tied = c.tied_head;
    w.table = take_matrix(memory, c.embedding, c.vocabulary, hidden);
    w.head = c.tied_head ? w.table : take_matrix(memory, c.embedding, c.vocabulary, hidden);
    w.head_bias = memory.take<float>(c.head_bias ? c.vocabulary : 0);
    return w;
  }
  /// Stored: c.embedding.type.
  template <dtype Stored, class Loader>
  static void load(decoder_config const& c, embedding_weights const& w, Loader& from) {
    auto const& n = from.names;
    from.template matrix<Stored>(w.table, 0, {from.find(n.embedding, "", {c.vocabulary, w.table.inputs})});
    if (!c.tied_head) from.template matrix<Stored>(w.head, 0, {from.find(n.head, "", {c.vocabulary, w.table.inputs})});
    if (c.head_bias) from.vector(n.head_bias, "", w.head_bias);
  }
};

}  // namespace moesaic
