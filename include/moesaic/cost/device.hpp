// A machine as a roofline sees it: how many bytes and how many operations a second. Data sheets as constants, one's own as an aggregate.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/base/dtype.hpp>

namespace moesaic {

/// Operations a second, dense; a multiplication and an addition are two. 0 = no unit for this type, so that a wider one does its work; work
/// that none does takes for ever.
struct peak_rates {
  double fp64 = 0, fp32 = 0;
  double bf16 = 0;                     ///< and fp16, with sums in fp32
  double fp8 = 0;                      ///< with sums in fp32
  double int8 = 0;
};

/// `devices::h200`, or a machine of one's own: machine{.name = "mine", .bandwidth = 60e9, .peak = {.fp32 = 500e9}}.
struct machine {
  const char* name = "";
  double capacity = 0;                 ///< bytes of memory; 0 = not limited
  double bandwidth = 0;                ///< bytes a second out of that memory
  peak_rates peak = {};
  double link = 0;                     ///< bytes a second, one way, to others beside it; 0 = it is the only one
  double network = 0;                  ///< bytes a second, one way, to other machines
};

/// Operations a second on operands of a type.
constexpr double rate(machine const& d, dtype type) {
  auto const& p = d.peak;
  auto const half = p.bf16 > 0 ? p.bf16 : p.fp32;
  switch (type) {
    case dtype::fp64: return p.fp64;
    case dtype::fp32: return p.fp32;
    case dtype::e4m3:
    case dtype::e5m2: return p.fp8 > 0 ? p.fp8 : half;
    case dtype::int8: return p.int8 > 0 ? p.int8 : half;
    default: return half;
  }
}

/// What a kernel multiplies: activations as they are, weights widened to them; but weights in e4m3 are multiplied as such by inputs that become codes of
/// e4m3 too (storage.inputs).
constexpr dtype operand_type(dtype activations, format weights, input_codes inputs = input_codes::none) {
  return weights.type == dtype::e4m3 && inputs != input_codes::none ? dtype::e4m3 : activations;
}

/// Operations for every byte read at which memory and arithmetic take the same time.
constexpr double ridge(machine const& d, dtype type) { return rate(d, type) / d.bandwidth; }

/// The same machine with the fractions of its data sheet that programs reach: an H200 copies at 0.90 of its bandwidth, and the best
/// matrix products sustain 0.80 of its peak.
constexpr machine reaching(machine d, double of_bandwidth, double of_peak) {
  d.bandwidth *= of_bandwidth;
  auto const& p = d.peak;
  d.peak = {p.fp64 * of_peak, p.fp32 * of_peak, p.bf16 * of_peak, p.fp8 * of_peak, p.int8 * of_peak};
  return d;
}

/// From the makers' data sheets, without sparsity. Links are one way: half of what a data sheet adds up for both.
namespace devices {

/// NVIDIA H200 SXM data sheet; NVLink 4, and one 400 Gb/s adapter a GPU (DGX H200).
inline constexpr machine h200{.name = "H200 SXM",
                             .capacity = 141e9,
                             .bandwidth = 4.8e12,
                             .peak = {.fp64 = 34e12, .fp32 = 67e12, .bf16 = 989e12, .fp8 = 1979e12, .int8 = 1979e12},
                             .link = 450e9,
                             .network = 50e9};
/// NVIDIA H100 SXM data sheet; links as the H200's.
inline constexpr machine h100{.name = "H100 SXM",
                             .capacity = 80e9,
                             .bandwidth = 3.35e12,
                             .peak = {.fp64 = 34e12, .fp32 = 67e12, .bf16 = 989e12, .fp8 = 1979e12, .int8 = 1979e12},
                             .link = 450e9,
                             .network = 50e9};
/// NVIDIA A100 80GB SXM data sheet; NVLink 3, and one 200 Gb/s adapter a GPU (DGX A100). No fp8.
inline constexpr machine a100_80gb{.name = "A100 80GB SXM",
                                  .capacity = 80e9,
                                  .bandwidth = 2.039e12,
                                  .peak = {.fp64 = 9.7e12, .fp32 = 19.5e12, .bf16 = 312e12, .int8 = 624e12},
                                  .link = 300e9,
                                  .network = 25e9};
/// NVIDIA Ada architecture white paper, GeForce RTX 4090. No NVLink: devices talk by PCIe 4.0 × 16.
inline constexpr machine rtx_4090{.name = "RTX 4090",
                                 .capacity = 24e9,
                                 .bandwidth = 1.008e12,
                                 .peak = {.fp64 = 1.29e12, .fp32 = 82.6e12, .bf16 = 165.2e12, .fp8 = 330.3e12, .int8 = 660.6e12},
                                 .link = 31.5e9};
/// AMD EPYC 9654 data sheet: a socket of 96 Zen 4 cores at the base clock of 2.4 GHz and twelve channels of DDR5-4800. A core does 32 fp32
/// operations a cycle, and twice that by vdpbf16ps; zen4_core measures the same.
inline constexpr machine epyc_9654{.name = "EPYC 9654",
                                  .capacity = 768e9,
                                  .bandwidth = 460.8e9,
                                  .peak = {.fp64 = 3.69e12, .fp32 = 7.37e12, .bf16 = 14.75e12, .int8 = 29.5e12}};
/// One thread of a Zen 4 server core at 3.7 GHz, as measured: registers alone, and reading a GiB.
inline constexpr machine zen4_core{
    .name = "one Zen 4 core", .bandwidth = 28e9, .peak = {.fp64 = 59e9, .fp32 = 118e9, .bf16 = 231e9, .int8 = 461e9}};

}  // namespace devices
}  // namespace moesaic
