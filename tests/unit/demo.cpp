// The demo's small tools: MXFP4 at powers of two, words in drawings.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <moesaic/base/view.hpp>

#include "../../examples/demo/mxfp4_toward_zero.hpp"
#include "../../examples/demo/plot.hpp"

namespace {

struct one_tensor {
  std::vector<float> values;
  std::vector<std::int64_t> shape;
  moesaic::tensor stored;

  explicit one_tensor(std::vector<float> w) : values(std::move(w)), shape{1, static_cast<std::int64_t>(values.size())} {
    stored = {moesaic::dtype::fp32, shape, reinterpret_cast<const std::byte*>(values.data()), static_cast<std::int64_t>(values.size() * 4)};
  }
  moesaic::tensor const* find(std::string_view) const { return &stored; }
  std::string where(std::string_view) const { return "memory"; }
};

}  // namespace

TEST_CASE("mxfp4: the scale of a number just under a power of two is that of the power below") {
  for (int exponent = -100; exponent <= 100; ++exponent) {
    CAPTURE(exponent);
    auto const power = std::ldexp(1.0f, exponent);
    one_tensor const source({std::nextafter(power, 0.0f), -power / 8});
    demo::mxfp4_toward_zero const rounded(source);
    float w[2];
    moesaic::widen(*rounded.find("model.layers.0.mlp.up_proj.weight"), 0, 2, w);
    CHECK(w[0] == power * 0.75f);     // 6 · 2^(exponent − 3): saturated
    CHECK(w[1] == -power / 8);
  }
}

TEST_CASE("words in a drawing are text, whatever they hold") {
  CHECK(demo::svg::text(1, 2, "k < 4 & 'dense' > 0").find(">k &lt; 4 &amp; &apos;dense&apos; &gt; 0</text>") != std::string::npos);
}
