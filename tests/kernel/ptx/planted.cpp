// Mistakes that PTX brings out: those planted in two kernels, as nvcc compiles them, and in assembly strings, which C++ never runs.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <vector>

#include <moesaic/base/floats.hpp>
#include <moesaic/base/random.hpp>

#include "../../device_model/planted/hopper_gemm.hpp"
#include "../../device_model/planted/multistage_gemm.hpp"

#if defined(__CUDACC__)
#include <moesaic/cuda/launch.cuh>
namespace moesaic::planted {
struct shape {
  int m, n, k;
};
}  // namespace moesaic::planted
#else
#include "../../device_model/planted/planted.hpp"
#endif

namespace moesaic::planted {
namespace {

template <class T>
std::vector<T> numbers(std::int64_t count, std::uint64_t seed) {
  random_stream random(seed);
  std::vector<T> x(static_cast<std::size_t>(count));
  for (auto& v : x) v = T(static_cast<float>(random.below(5) - 2));
  return x;
}
unsigned tiles(int of, int by) { return static_cast<unsigned>((of + by - 1) / by); }

/// c against the sums of a [m, k] and b, whose element (i, column) is at i · inner + column · outer.
template <class C>
bool is_product(std::vector<bf16> const& a, std::vector<bf16> const& b, std::vector<C> const& c, shape const& of, int inner, int outer) {
  for (int row = 0; row < of.m; ++row)
    for (int column = 0; column < of.n; ++column) {
      float sum = 0;
      for (int i = 0; i < of.k; ++i)
        sum += static_cast<float>(a[static_cast<std::size_t>(row * of.k + i)]) *
               static_cast<float>(b[static_cast<std::size_t>(i * inner + column * outer)]);
      auto const got = static_cast<float>(c[static_cast<std::size_t>(row * of.n + column)]);
      if (!(got == static_cast<float>(C(sum)))) return false;
    }
  return true;
}
template <hopper_bug Bug = hopper_bug::none>
bool hopper(shape const& of) {
  using kernel = hopper_gemm<Bug>;
  auto const a = numbers<bf16>(std::int64_t{of.m} * of.k, 1), b = numbers<bf16>(std::int64_t{of.n} * of.k, 2);
  std::vector<bf16> c(static_cast<std::size_t>(of.m * of.n), bf16(std::nanf("")));
  typename kernel::params p;
  if (!kernel::make(p, a.data(), b.data(), c.data(), of.m, of.n, of.k)) return false;
  cuda::stream_ref gpu;
  cuda::start<kernel>(gpu, {.x = tiles(of.n, kernel::tile_n), .y = tiles(of.m, kernel::tile_m)}, p);
  bool const done = static_cast<bool>(cuda::finish(gpu));
  return is_product(a, b, c, of, 1, of.k) && done;
}
template <multistage_bug Bug = multistage_bug::none>
bool multistage(shape const& of) {
  using kernel = multistage_gemm<Bug>;
  auto const a = numbers<bf16>(std::int64_t{of.m} * of.k, 1), b = numbers<bf16>(std::int64_t{of.k} * of.n, 2);
  std::vector<float> c(static_cast<std::size_t>(of.m * of.n), std::nanf(""));
  cuda::stream_ref gpu;
  cuda::start<kernel>(gpu, {.x = tiles(of.n, kernel::tile_n), .y = tiles(of.m, kernel::tile_m)},
                      {a.data(), b.data(), c.data(), of.m, of.n, of.k});
  bool const done = static_cast<bool>(cuda::finish(gpu));
  return is_product(a, b, c, of, of.n, 1) && done;
}

#if defined(__CUDACC__)
/// Uses what there is PTX of.
bool (*const all[])(shape const&) = {
    hopper<>,
    hopper<hopper_bug::no_full_wait>,
    hopper<hopper_bug::no_proxy_fence>,
    hopper<hopper_bug::early_release>,
    hopper<hopper_bug::sums_touched>,
    hopper<hopper_bug::empty_count_too_small>,
    multistage<>,
    multistage<multistage_bug::lax_wait>,
    multistage<multistage_bug::no_block_sync>,
    multistage<multistage_bug::unclamped_row>,
};
#endif

}  // namespace

#if defined(__CUDACC__)
bool (*const* planted_kernels())(shape const&) { return all; }
#endif

}  // namespace moesaic::planted

#if !defined(__CUDACC__)
#include <regex>
#include <string>

#include <device_model/ptx/ptx.hpp>

namespace moesaic::planted {
namespace {

namespace ptx = device_model::ptx;

std::string const& text() {
  static std::string const all = ptx::read_file(MOESAIC_PTX_DIR "/planted.90a.ptx");
  return all;
}
ptx::program& compiled() {
  static ptx::program all(text());
  return all;
}
constexpr shape small{120, 56, 424};

template <class Run>
outcome through(ptx::program& program, Run run) {
  ptx::leg const to(program);
  return everywhere(run);
}
/// The kernels with every text like `what` replaced.
outcome with_asm(char const* what, char const* by, bool (*run)(shape const&) = hopper<>, shape const& of = small) {
  std::regex const like(what);
  REQUIRE(std::regex_search(text(), like));
  ptx::program program(std::regex_replace(text(), like, by));
  program.most_instructions = 100'000;
  return through(program, [&] { return run(of); });
}
/// Found in every run of the race flavour, with this in a sentence (empty: by results alone), and in some run of the others.
void found(outcome const& all, char const* by_races, bool without_races = true) {
  INFO(all.all());
  if (device_model::sees_races()) {
    CHECK(all.noticed == all.runs);
    if (*by_races != '\0') CHECK(all.says(by_races));
    else CHECK(all.wrong == all.runs);
  } else {
    CHECK((all.noticed > 0) == without_races);
  }
}

}  // namespace
}  // namespace moesaic::planted

using namespace moesaic::planted;

TEST_CASE("both kernels are exact and clean as PTX, ragged edges and short sums included") {
  for (auto const& of : {shape{128, 64, 384}, {136, 72, 424}, {1, 8, 8}}) {
    auto const ran = through(compiled(), [&] { return hopper<>(of) && multistage<>(of); });
    INFO(ran.all());
    CHECK(ran.noticed == 0);
  }
}

TEST_CASE("bugs of a kernel's source are found in its PTX, with the source's place") {
  auto const of = [](auto run) { return through(compiled(), [&] { return run(small); }); };
  check(of(hopper<hopper_bug::no_full_wait>), {"race: "}, "hopper_gemm.hpp");
  check(of(hopper<hopper_bug::no_proxy_fence>), {"proxy: ", false}, "hopper_gemm.hpp");
  check(of(hopper<hopper_bug::early_release>), {"race: "}, "hopper_gemm.hpp");
  check(of(hopper<hopper_bug::sums_touched>), {"model: "}, "hopper_gemm.hpp");
  check(of(hopper<hopper_bug::empty_count_too_small>), {"race: "}, "hopper_gemm.hpp");
  check(of(multistage<multistage_bug::lax_wait>), {"race: "}, "multistage_gemm.hpp");
  check(of(multistage<multistage_bug::no_block_sync>), {"race: "}, "multistage_gemm.hpp");
}

TEST_CASE("rows read behind the end of a matrix: what AddressSanitizer alone sees") {
  if (!sees_addresses) return;
  auto const ran = through(compiled(), [] { return multistage<multistage_bug::unclamped_row>({50, 56, 152}); });
  INFO(ran.all());
  CHECK(ran.noticed == ran.runs);
  CHECK(ran.says("is not addressable"));
  CHECK(ran.says("multistage_gemm.hpp:"));
}
TEST_CASE("coordinates of a tensor copy swapped") {
  found(with_asm(R"((cp\.async\.bulk\.tensor\.2d\.shared::cluster\S* \[%r\d+\], \[%rd\d+, )\{(%r\d+), (%r\d+)\})", "$1{$3, $2}"), "");
}
TEST_CASE("descriptors of wgmma swapped") { found(with_asm(R"((wgmma\.mma_async[^;]*\}, )(%rd\d+), (%rd\d+),)", "$1$3, $2,"), ""); }
TEST_CASE("halves of a converted pair swapped") { found(with_asm(R"((cvt\.rn\.bf16x2\.f32 %r\d+, )(%f\d+), (%f\d+);)", "$1$3, $2;"), ""); }
TEST_CASE("a wrong immediate of wgmma: b runs along N") { found(with_asm(R"((wgmma\.mma_async[^;]*, p, 1, 1, 0, )0;)", "$011;"), ""); }
TEST_CASE("the answer of try_wait inverted") {
  found(with_asm(R"((try_wait[^;]*;\s*selp\.u32 %r\d+, )1, 0, p;)", "$010, 1, p;"), "hang: ");
}
TEST_CASE("an arrival that expects no bytes") {
  found(with_asm(R"(mbarrier\.arrive\.expect_tx(\.release\.cta\.shared::cta\.b64 _, \[%r\d+\]), %r\d+;)", "mbarrier.arrive$1;"), "race: ");
}
TEST_CASE("a wait for wgmma that is one group too lax") {
  found(with_asm(R"(wgmma\.wait_group\.sync\.aligned 0;)", "wgmma.wait_group.sync.aligned 1;"), "model: ");
}
TEST_CASE("a fence of the wrong memory") {
  found(with_asm(R"(fence\.proxy\.async\.shared::cta;)", "fence.proxy.async.global;"), "proxy: ", false);
}
TEST_CASE("ldmatrix of b not transposed") {
  found(with_asm(R"(ldmatrix\.sync\.aligned\.m8n8\.x4\.trans)", "ldmatrix.sync.aligned.m8n8.x4", multistage<>), "");
}
TEST_CASE("copies of fewer bytes than are read") {
  found(with_asm(R"((cp\.async\.cg\.shared\.global \[%r\d+\], \[%rd\d+\], 16, )%r\d+;)", "$010;", multistage<>), "");
}
TEST_CASE("operands of mma swapped") {
  found(with_asm(R"((mma\.sync\.aligned[^;]*\},\s*\{%r\d+, )(%r\d+), (%r\d+),)", "$1$3, $2,", multistage<>), "");
}
#endif
