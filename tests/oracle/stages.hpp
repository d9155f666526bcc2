// An oracle file becomes inputs, weights and expected stages; what a tap saw becomes failures of the running test.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <moesaic/base/floats.hpp>
#include <moesaic/config/tensor.hpp>
#include <moesaic/io/safetensors.hpp>
#include <support/matrix.hpp>
#include <support/tolerance.hpp>

namespace moesaic::test {

/// What a tap saw, by stage ("q", "layers.1.block_out"), as doubles: every value exact, so that equal bits stay equal.
using recording = std::map<std::string, matrix<double>>;

/// A number format of activations, and how far its stages may lie from the oracle's.
struct precision {
  std::string name;
  std::string prefix;          ///< of the format's own expectations: "f32." as shipped in float32
  double stages, long_stages;  ///< allowed of most stages, and of those that the reference rounds more often
  double clip = 0;             ///< to which the stage "qkv", shown before, is clamped; 0 = none
  std::int64_t masked = 0;     ///< experts of a token that the limit on groups masks
};
template <class T>
precision precision_of(double stages = oracle_tolerance<T>) {
  constexpr bool wide = std::is_same_v<T, double>, narrow = std::is_same_v<T, bf16>;
  return {wide ? "fp64" : narrow ? "bf16" : "fp32", wide ? "" : narrow ? "bf16." : "f32.", stages, wide ? oracle_tolerance<T> : long_stage_tolerance<T>, 0, 0};
}

/// The weights of a file under their HuggingFace names, as fp32, rounded to bf16 before if asked. A tensor_source that knows what was read.
class oracle_weights {
public:
  oracle_weights(safetensors const& file, bool rounded_to_bf16);
  tensor const* find(std::string_view name) const;
  std::string where(std::string_view name) const { return file_.where("weight." + std::string(name)); }
  /// Names that nobody asked for: a bias, a norm that the configuration does not know of.
  std::vector<std::string> unread() const;

private:
  struct held {
    std::vector<std::int64_t> shape;
    std::vector<float> values;
    tensor view;
    mutable bool read = false;
  };
  safetensors const& file_;
  std::map<std::string, held, std::less<>> all_;
};

struct comparisons {
  int count = 0;
  double worst = 0;  ///< the largest difference, in parts of what is allowed
  std::string worst_at = {};
};

/// Of a run of a whole layer every stage must be there; of one piece of it those that were seen count.
enum class stages_of : std::uint8_t { the_file, those_seen };

/// Compares every expectation of the file, and every name in its metadata `stages`, with what was seen, as CHECKs.
/// fp64 and fp32: `expect.*`, fp32 also `expect.f32.*`; bf16: `expect.bf16.*`. Expert ids must be equal. A stage that nobody showed fails,
/// unless only those seen are asked for.
comparisons check_stages(safetensors const& file, recording const& seen, precision const& format, stages_of which = stages_of::the_file);

/// Values to hand on in place of our own, so that each stage starts from the oracle's inputs. Only at bf16, where an expert choice can hang
/// on a rounding that another order of operations does not make: of a layer every `expect.bf16.*`; of a decoder, which has none inside, the
/// ids (the reference chose the same experts at bf16: README of the oracles).
recording handed_on(safetensors const& file, precision const& format, bool of_decoder);

/// CHECKs that both hold the same stages and bits, attn_probs apart, whose rows depend on the call.
void check_same(recording const& whole, recording const& by_token);

/// CHECKs that both hold the same stages, as near as allowed, and the same experts.
void check_near(recording const& whole, recording const& by_token, double allowed);

/// −log softmax(logits)[label]. logits [columns].
double cross_entropy(double const* logits, std::int64_t columns, std::int64_t label);

}  // namespace moesaic::test
