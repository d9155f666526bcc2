// An expert feed-forward in e4m3 throughout: quantise, gate and up, quantise, down, against the host on the numbers that the codes are; and a layer's
// products that read codes, on either backend.
// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <utility>
#include <vector>

#include <moesaic/base/groups.hpp>
#include <moesaic/cuda/quantize.hpp>
#include <moesaic/cuda/quantized.hpp>
#include <moesaic/host/ffn.hpp>
#include <moesaic/host/linear.hpp>
#include <moesaic/host/quantized.hpp>
#include <moesaic/layer/ffn.hpp>
#include <moesaic/layer/inputs.hpp>

#include "both_packed.hpp"
#include "schedules.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

struct codes_and_scales {
  matrix<std::uint8_t> codes;
  matrix<float> scales;
  codes_and_scales(std::int64_t rows, std::int64_t inputs) : codes(rows, inputs), scales(rows, (inputs + 127) / 128) {}
  cuda::quantized_rows view() const { return {codes.view(), scales.view()}; }
};

/// x to codes and back.
template <class T>
matrix<float> through_codes(matrix<T> const& x) {
  auto y = convert<float>(x);
  matrix<std::uint8_t> codes(x.rows, x.columns);
  std::vector<group_scale> scales(static_cast<std::size_t>(x.rows * ((x.columns + 127) / 128)));
  view<group_scale> const rows(scales.data(), x.rows, (x.columns + 127) / 128);
  groups::quantize<dtype::e4m3>(std::as_const(y).view(), {1, 128}, codes.view(), rows);
  groups::dequantize<dtype::e4m3>(std::as_const(codes).view(), rows, {1, 128}, y.view());
  return y;
}

template <input_codes Codes>
struct coded_layer {
  static constexpr block_config config{.hidden = 144, .attention = {.heads = 2, .head_dim = 16}, .router = {.experts = 3, .top_k = 2},
                                       .expert = {.intermediate = 80}, .storage = {.weights = dtype::e4m3, .activations = dtype::bf16, .inputs = Codes}};
};

}  // namespace

TEST_CASE("experts, e4m3 throughout") {
  constexpr std::int64_t hidden = 144, intermediate = 80, experts = 3, tokens = 9, slots = 13;
  std::vector<std::int32_t> const offsets{0, 4, 4, slots};
  cuda::stream nowhere;
  both_packed const gate_up(nowhere, {.stored = dtype::e4m3, .outputs = intermediate, .inputs = hidden, .parts = 2, .count = experts}, 1);
  both_packed const down(nowhere, {.stored = dtype::e4m3, .outputs = hidden, .inputs = intermediate, .count = experts}, 2);
  random_stream random(3);
  auto const x = random_matrix<bf16>(tokens, hidden, random);
  std::vector<std::int32_t> token_of_slot;
  for (std::int64_t s = 0; s < slots; ++s) token_of_slot.push_back(static_cast<std::int32_t>(random.below(tokens)));
  host::pool pool;
  matrix<float> want_h(slots, intermediate), want(slots, hidden);
  host::expert_gate_up<dtype::e4m3, float>(pool, activation::swiglu, gate_up.host, {}, through_codes(x).view(), offsets, token_of_slot.data(), want_h.view());
  under_every_schedule([&](cuda::stream_ref& where) {
    codes_and_scales of_x(tokens, hidden), of_h(slots, intermediate);
    auto h = unwritten<bf16>(slots, intermediate), y = unwritten<bf16>(slots, hidden);
    cuda::quantize(where, x.view(), of_x.codes.view(), of_x.scales.view());
    cuda::expert_gate_up(where, activation::swiglu, gate_up.device, {}, of_x.view(), offsets, token_of_slot.data(), h.view());
    check_close(h, want_h, sum_tolerance<bf16>(hidden) * 4);
    cuda::quantize(where, std::as_const(h).view(), of_h.codes.view(), of_h.scales.view());
    cuda::expert_down(where, down.device, {}, of_h.view(), offsets, y.view());
    host::expert_down<dtype::e4m3, float>(pool, down.host, {}, through_codes(h).view(), offsets, want.view());   // of the same h: a code's step is no error
    check_close(y, want, sum_tolerance<bf16>(intermediate) * 4);
  });
}

TEST_CASE("linear, and what it refuses") {
  cuda::stream nowhere;
  both_packed const w(nowhere, {dtype::e4m3, 48, 272}, 4);
  random_stream random(5);
  auto const x = random_matrix<bf16>(5, 272, random);
  host::pool pool;
  matrix<float> want(5, 48);
  host::linear<dtype::e4m3>(pool, w.host, through_codes(x).view(), list<const float>{}, want.view());
  codes_and_scales of_x(5, 272);
  under_every_schedule([&](cuda::stream_ref& where) {
    auto y = unwritten<float>(5, 48);
    cuda::quantize(where, x.view(), of_x.codes.view(), of_x.scales.view());
    cuda::linear(where, w.device, of_x.view(), {}, y.view());
    check_close(y, want, sum_tolerance<float>(272) * 4);
  });
  // A code of NaN is one on either backend: weight (0, 0) is the first byte of both layouts.
  for (auto const* const m : {&w.host, &w.device}) const_cast<std::byte*>(m->data)[0] = std::byte{0x7f};
  host::linear(pool, w.host, host::quantized_rows{std::as_const(of_x).codes.view(), std::as_const(of_x).scales.view()}, {}, want.view());
  under_schedule([&](cuda::stream_ref& where) {
    auto z = unwritten<float>(5, 48);
    cuda::linear(where, w.device, of_x.view(), {}, z.view());
    for (std::int64_t t = 0; t < 5; ++t)
      for (std::int64_t n = 0; n < 48; ++n) CHECK(((z(t, n) != z(t, n)) == (n == 0) && (want(t, n) != want(t, n)) == (n == 0)));
  }, {.architecture = 90});
  matrix<float> y(5, 48);
  device_model::scope const older({.architecture = 80});
  cuda::stream_ref where;
  cuda::linear(where, w.device, of_x.view(), {}, y.view());
  CHECK(std::string(cuda::finish(where).what) == "products of codes with codes need wgmma, of architecture 90");
  device_model::scope const newer({.architecture = 90});
  cuda::stream_ref on_hopper;
  both_packed const other(nowhere, {{dtype::e4m3, 64}, 48, 272}, 4);
  cuda::linear(on_hopper, other.device, of_x.view(), {}, y.view());
  CHECK(std::string(cuda::finish(on_hopper).what) == "products of codes with codes need e4m3 weights with a scale for 128 x 128");
}

// Codes by wgmma, and what they say by other kernels, are the host's products but for the order of sums. Down is compared on the same h, of which another
// rounding may move a code.
TEST_CASE_TEMPLATE_DEFINE("a layer whose products read codes: as on the host, by every rung", Spec, coded_on_device) {
  constexpr std::int64_t hidden = 144, intermediate = 80, experts = 3, tokens = 9, slots = 13;
  using feed_forward = ffn<Spec, experts, intermediate>;
  using inputs = product_inputs<Spec, dtype::e4m3>;
  std::vector<std::int32_t> const offsets{0, 4, 4, slots};
  cuda::stream nowhere;
  both_packed const gate_up(nowhere, {.stored = dtype::e4m3, .outputs = intermediate, .inputs = hidden, .parts = 2, .count = experts}, 6);
  both_packed const down(nowhere, {.stored = dtype::e4m3, .outputs = hidden, .inputs = intermediate, .count = experts}, 7);
  both_packed const projection(nowhere, {dtype::e4m3, 48, hidden}, 8);
  random_stream random(9);
  auto const x = random_matrix<bf16>(tokens, hidden, random);
  std::vector<std::int32_t> token_of_slot;
  for (std::int64_t s = 0; s < slots; ++s) token_of_slot.push_back(static_cast<std::int32_t>(random.below(tokens)));
  std::vector<std::byte> room(1 << 16);
  auto const run = [&](auto& where, ffn_weights const& w, packed_matrix const& project, matrix<bf16>& h, matrix<bf16>& y, matrix<bf16>& projected) {
    arena memory(room.data(), room.size());
    auto s = feed_forward::carve(memory, slots);
    REQUIRE(memory.fits());
    s.activated = h.view();
    linear<dtype::e4m3>(where, project, inputs::of(where, x.view(), s.codes), list<const float>{}, projected.view());
    feed_forward::forward(where, w, x.view(), offsets, token_of_slot.data(), s, y.view());
  };
  host::pool pool;
  auto want_h = unwritten<bf16>(slots, intermediate), want = unwritten<bf16>(slots, hidden), want_projected = unwritten<bf16>(tokens, 48);
  run(pool, {gate_up.host, down.host, {}, {}}, projection.host, want_h, want, want_projected);
  for (int const architecture : {90, 80}) {
    CAPTURE(architecture);
    under_every_schedule([&](cuda::stream_ref& where) {
      auto h = unwritten<bf16>(slots, intermediate), y = unwritten<bf16>(slots, hidden), projected = unwritten<bf16>(tokens, 48);
      run(where, {gate_up.device, down.device, {}, {}}, projection.device, h, y, projected);
      check_close(projected, want_projected, sum_tolerance<bf16>(hidden) * 4);
      check_close(h, want_h, sum_tolerance<bf16>(hidden) * 4);
      constexpr auto codes = Spec::config.storage.inputs;
      std::vector<coded<codes, bf16>> numbers(static_cast<std::size_t>(slots * intermediate));
      host::expert_down<dtype::e4m3>(pool, down.host, {}, host::code_inputs<codes>(pool, std::as_const(h).view(), numbers), offsets, want.view());
      check_close(y, want, sum_tolerance<bf16>(intermediate) * 4);
    }, architecture);
  }
}
TEST_CASE_TEMPLATE_INVOKE(coded_on_device, coded_layer<input_codes::e4m3>, coded_layer<input_codes::e4m3_power_of_two>);
