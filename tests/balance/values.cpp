// Losses by hand: the golden numbers of their definitions, what they are at balance, and every case without an answer.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <support/tolerance.hpp>

#include "batch.hpp"

using namespace moesaic;
using namespace moesaic::test;
using balance::choices;

namespace {

// Four tokens, four experts; many logits tie, and the lower expert is chosen.
std::vector<double> const golden{2, 0, 0, 0, 1, 1.5, 0, -1, 0, 0, 3, 0, 2, 1, 0, 0};
view<const double> const logits{golden.data(), 4, 4};

void check_golden(double got, double want) { CHECK(std::abs(got - want) < 5e-7); }   // as many digits as are printed

struct counted {
  std::vector<std::int64_t> counts;
  choices of;
  explicit counted(std::vector<std::int64_t> c, std::int64_t tokens = 4) : counts(std::move(c)), of{counts, tokens} {}
};

counted top_k_counts(int k) {
  counted c({0, 0, 0, 0}, 0);
  owning_scratch const memory(4, k);
  REQUIRE(balance::count_top_k<double>(logits, {}, k, c.of, memory.of));
  return c;
}

template <class T>
T value(balance::loss<T> const& l) {
  REQUIRE_MESSAGE(l.done, to_string(l.done));
  return l.value;
}

}  // namespace

TEST_CASE("counts of the top-k, ties to the lower expert") {
  CHECK(top_k_counts(1).counts == std::vector<std::int64_t>{2, 1, 1, 0});
  CHECK(top_k_counts(2).counts == std::vector<std::int64_t>{4, 3, 1, 0});
  CHECK(top_k_counts(2).of.tokens == 4);
}

TEST_CASE("load balance of four tokens: Switch, HuggingFace, a slot") {
  owning_scratch const memory(4, 2);
  check_golden(value(balance::switch_balance<double>(logits, {}, 4, 1, {}, memory.of)), 1.354252);
  check_golden(value(balance::load_balance<double>(score::softmax, logits, {}, top_k_counts(1).of, 1, 1)), 1.354252);
  std::vector<view<const double>> const layers{logits};
  check_golden(value(balance::pooled_balance<double>(layers, {}, top_k_counts(2).of, 1)), 2.638893);
  check_golden(value(balance::load_balance<double>(score::softmax, logits, {}, top_k_counts(2).of, 2, 1)), 1.319447);
}

TEST_CASE("mean squared log-sum-exp of four tokens") { check_golden(value(balance::z_loss<double>(logits, {}, 1)), 6.541703); }

TEST_CASE("mean probabilities of four tokens, as what each expert costs alone") {
  std::vector<double> const mean{.420528, .221792, .291403, .066276};
  for (int e = 0; e < 4; ++e) {
    std::vector<double> cost(4);
    cost[static_cast<std::size_t>(e)] = 1;
    check_golden(value(balance::expected_cost<double>(logits, {}, {cost.data(), 4, 4, 0}, 1)), mean[static_cast<std::size_t>(e)]);
  }
}

TEST_CASE("f = (.5, .25, .25, 0) and P = (.4, .3, .2, .1) of four experts give 1.3") {
  std::vector<double> const p{std::log(.4), std::log(.3), std::log(.2), std::log(.1)};
  check_golden(value(balance::load_balance<double>(score::softmax, {p.data(), 1, 4}, {}, counted({2, 1, 1, 0}).of, 1, 1)), 1.3);
}

TEST_CASE("HuggingFace's form over several layers pools their rows, with and without padding") {
  std::vector<double> second(16);
  for (std::size_t i = 0; i < 16; ++i) second[i] = golden[15 - i];
  auto both = golden;
  both.insert(both.end(), second.begin(), second.end());
  std::vector<view<const double>> const layers{logits, {second.data(), 4, 4}};
  std::vector<std::uint8_t> const padding{0, 1, 0, 0}, twice{0, 1, 0, 0, 0, 1, 0, 0};
  owning_scratch const memory(4, 2);
  for (bool const masked : {false, true}) {
    list<const std::uint8_t> const absent = masked ? list<const std::uint8_t>(padding) : list<const std::uint8_t>();
    list<const std::uint8_t> const of_both = masked ? list<const std::uint8_t>(twice) : list<const std::uint8_t>();
    counted c({0, 0, 0, 0}, 0);
    for (auto const& layer : layers) REQUIRE(balance::count_top_k<double>(layer, absent, 2, c.of, memory.of));
    CHECK(c.of.tokens == (masked ? 6 : 8));
    std::vector<double> gradient(32), gradient_of_both(32);
    std::vector<view<double>> const gradients{{gradient.data(), 4, 4}, {gradient.data() + 16, 4, 4}};
    auto const pooled = value(balance::pooled_balance<double>(layers, absent, c.of, 1, gradients));
    view<double> const g{gradient_of_both.data(), 8, 4};
    auto const stacked = value(balance::load_balance<double>(score::softmax, {both.data(), 8, 4}, of_both, c.of, 1, 1, g));
    CHECK(std::abs(pooled - stacked) <= 8 * roundoff<double> * stacked);
    for (std::size_t i = 0; i < 32; ++i) CHECK(std::abs(gradient[i] - gradient_of_both[i]) <= 8 * roundoff<double>);
  }
}

TEST_CASE("with the counts of all ranks, the mean over ranks is the loss of the global batch, and so are the gradients") {
  view<const double> const halves[]{{golden.data(), 2, 4}, {golden.data() + 8, 2, 4}};
  auto const everywhere = top_k_counts(2);
  std::vector<double> apart(16), together(16);
  double mean = 0;
  for (int rank = 0; rank < 2; ++rank)
    mean += value(balance::load_balance<double>(score::sigmoid, halves[rank], {}, everywhere.of, 2, 1, {apart.data() + 8 * rank, 2, 4})) / 2;
  auto const global = value(balance::load_balance<double>(score::sigmoid, logits, {}, everywhere.of, 2, 1, {together.data(), 4, 4}));
  CHECK(std::abs(mean - global) < 1e-15);
  for (std::size_t i = 0; i < 16; ++i) CHECK(std::abs(apart[i] / 2 - together[i]) < 1e-15);
}

TEST_CASE("Switch in groups: the mean of what each gives alone; a group of padding is none") {
  owning_scratch const memory(4, 1);
  auto const alone = [&](std::int64_t first, std::int64_t n) {
    return value(balance::switch_balance<double>({golden.data() + 4 * first, n, 4}, {}, n, 1, {}, memory.of));
  };
  auto const mean = (alone(0, 3) + alone(3, 1)) / 2;
  CHECK(std::abs(value(balance::switch_balance<double>(logits, {}, 3, 1, {}, memory.of)) - mean) < 1e-15);
  std::vector<std::uint8_t> const padding{0, 0, 0, 1};
  CHECK(value(balance::switch_balance<double>(logits, padding, 3, 1, {}, memory.of)) == alone(0, 3));
}

TEST_CASE("sequences by their own counts, with the scores divided by their sum") {
  owning_scratch const memory(4, 2);
  std::vector<std::int32_t> const offsets{0, 1, 1, 4};                  // the middle one has no token
  auto const sigmoid_sum = [](double const* z) { return sigmoid(z[0]) + sigmoid(z[1]) + sigmoid(z[2]) + sigmoid(z[3]); };
  // First sequence: experts 0, 1, once each in one token: f = 2, 2, 0, 0. Second: (1, 0), (2, 0), (0, 1): f = (E / (k T)) (3, 2, 1, 0).
  double const first = (2 * sigmoid(2.0) + 2 * sigmoid(0.0)) / sigmoid_sum(golden.data());
  double second = 0;
  for (int t = 1; t < 4; ++t) {
    auto const* z = golden.data() + 4 * t;
    second += 4.0 / 6 * (3 * sigmoid(z[0]) + 2 * sigmoid(z[1]) + sigmoid(z[2])) / sigmoid_sum(z) / 3;
  }
  auto const got = value(balance::sequence_balance<double>(score::sigmoid, logits, {}, offsets, 2, 1, {}, memory.of));
  CHECK(std::abs(got - (first + second) / 2) < 1e-14);
}

TEST_CASE("DeepSeek-V2: devices by all choices, communication by the devices that a token reaches") {
  std::vector<std::int32_t> const ids{0, 1, 1, 0, 2, 0, 0, 3, 2, -1};
  choices experts, devices, reached;
  std::vector<std::int64_t> e(4), d(2), r(2);
  experts.counts = e, devices.counts = d, reached.counts = r;
  view<const std::int32_t> const chosen{ids.data(), 5, 2};
  REQUIRE(balance::count_chosen(chosen, 4, {}, experts));
  REQUIRE(balance::count_chosen(chosen, 4, {}, devices));
  REQUIRE(balance::count_reached(chosen, 4, {}, reached));
  CHECK(e == std::vector<std::int64_t>{4, 2, 2, 1});
  CHECK(d == std::vector<std::int64_t>{6, 3});
  CHECK(r == std::vector<std::int64_t>{4, 3});
  CHECK(reached.tokens == 5);
  std::vector<std::uint8_t> const padding{1, 0, 0, 0, 0};
  REQUIRE(balance::count_reached(chosen, 4, padding, reached));        // counts add up
  CHECK(r == std::vector<std::int64_t>{7, 6});
  CHECK(reached.tokens == 9);

  auto const p = [&](int which) {                                      // mean probability of experts 0 and 1, or 2 and 3
    std::vector<double> cost{which == 0 ? 1.0 : 0, which == 0 ? 1.0 : 0, which == 1 ? 1.0 : 0, which == 1 ? 1.0 : 0};
    return value(balance::expected_cost<double>(logits, {}, {cost.data(), 4, 4, 0}, 1));
  };
  counted const by_device({5, 3});                                     // of 4 tokens with 2 choices: f′ = the mean of (E / (k T)) count = count / 4
  CHECK(std::abs(value(balance::device_balance<double>(score::softmax, logits, {}, by_device.of, 2, 1)) - (5.0 / 4 * p(0) + 3.0 / 4 * p(1))) < 1e-15);
  counted const sent({4, 2});                                          // f″ = (D / (M T)) count
  CHECK(std::abs(value(balance::communication_balance<double>(score::softmax, logits, {}, sent.of, 2, 1)) - (p(0) + 0.5 * p(1))) < 1e-15);
}

TEST_CASE("entropies: of single tokens, and of the mean") {
  std::vector<double> const z(3 * 4);                                  // everybody equal
  owning_scratch const memory(4, 1);
  auto const infinity = std::numeric_limits<double>::infinity();
  CHECK(std::abs(value(balance::entropy<double>({z.data(), 3, 4}, {}, 2)) - 2 * std::log(4)) < 1e-15);
  CHECK(std::abs(value(balance::global_entropy<double>({z.data(), 3, 4}, {}, infinity, 2, {}, memory.of)) + 2 * std::log(4)) < 1e-15);
  CHECK(value(balance::global_entropy<double>({z.data(), 3, 4}, {}, std::log(3.9), 2, {}, memory.of)) == 0);
  CHECK(std::abs(value(balance::global_entropy<double>({z.data(), 3, 4}, {}, 2.0, 1, {}, memory.of)) - (2 - std::log(4))) < 1e-15);
  std::vector<double> const sure{50, 0, 0, 50};                        // each token sure, another expert each
  CHECK(value(balance::entropy<double>({sure.data(), 2, 2}, {}, 1)) < 1e-15);
  CHECK(std::abs(value(balance::global_entropy<double>({sure.data(), 2, 2}, {}, infinity, 1, {}, memory.of)) + std::log(2)) < 1e-15);
  std::vector<double> const masked{0, -infinity, 0, -infinity};
  std::vector<double> gradient(4);
  CHECK(std::abs(value(balance::entropy<double>({masked.data(), 1, 4}, {}, 1, {gradient.data(), 1, 4})) - std::log(2)) < 1e-15);
  for (auto const g : gradient) CHECK(std::abs(g) < 1e-15);
}

TEST_CASE("expected cost and its hinge") {
  std::vector<double> const z(2 * 2), cost{1, 3, 2, 6};
  view<const double> const equal{z.data(), 2, 2}, of_token{cost.data(), 2, 2}, of_all{cost.data(), 2, 2, 0};
  CHECK(value(balance::expected_cost<double>(equal, {}, of_token, 2)) == 6);                  // 2 · mean of 2 and 4
  CHECK(value(balance::expected_cost<double>(equal, {}, of_all, 1)) == 2);
  CHECK(value(balance::cost_hinge<double>(equal, {}, of_token, 1, 0.5)) == 2);                // ½ (3 − 1)²
  std::vector<double> gradient(4);
  CHECK(value(balance::cost_hinge<double>(equal, {}, of_token, 3, 0.5, {gradient.data(), 2, 2})) == 0);   // within its budget
  CHECK(gradient == std::vector<double>(4, 0.0));
}

TEST_CASE("HMoE's penalty: load in widths") {
  std::vector<double> const z(4), widths{1, 2, 3, 4};                  // α E Σ count · width / T · ¼
  CHECK(value(balance::width_penalty<double>({z.data(), 1, 4}, {}, counted({4, 0, 2, 2}).of, widths, 0.1)) == doctest::Approx(0.1 * (4 + 6 + 8) / 4));
}

TEST_CASE("importance: 0 where all weigh the same; var / mean², or as of a sample") {
  std::vector<double> const even{1, 0, 0, 1}, odd{std::log(3), 0, std::log(3), 0};
  owning_scratch const memory(2, 2);
  auto const of = [&](std::vector<double> const& z, balance::variation kind) {
    return value(balance::importance<double>({z.data(), 2, 2}, {}, {}, kind, 1, {}, memory.of));
  };
  CHECK(of(even, balance::variation::population) == 0);
  CHECK(std::abs(of(odd, balance::variation::population) - .25) < 1e-15);                     // sums 1.5 and .5: variance .25, mean 1
  CHECK(std::abs(of(odd, balance::variation::sample) - .5) < 1e-9);
  std::vector<std::int32_t> const first{0, 0};                                                // one expert chosen: weights 1, sums 2 and 0
  CHECK(value(balance::importance<double>({odd.data(), 2, 2}, {}, {first.data(), 2, 1}, balance::variation::population, 1, {}, memory.of)) == 1);
}

TEST_CASE("load: the chance to be chosen again, against the k-th largest of the others") {
  auto const phi = [](double u) { return 0.5 * std::erfc(-u / std::sqrt(2.0)); };
  std::vector<double> const z{1, 0.5, -1}, noisy{0.7, 0.9, -1.2}, scale{0.5, 1, 2};
  owning_scratch const memory(3, 3);
  auto const load = [&](int k) {
    return value(balance::load<double>({z.data(), 1, 3}, {noisy.data(), 1, 3}, {scale.data(), 1, 3}, {}, k, 1, {}, {}, memory.of));
  };
  auto const cv2 = [](double a, double b, double c) {
    auto const mean = (a + b + c) / 3;
    return ((a - mean) * (a - mean) + (b - mean) * (b - mean) + (c - mean) * (c - mean)) / 3 / mean / mean;
  };
  CHECK(std::abs(load(1) - cv2(phi((1 - 0.9) / 0.5), phi((0.5 - 0.7) / 1), phi((-1 - 0.9) / 2))) < 1e-14);
  CHECK(std::abs(load(2) - cv2(phi((1 + 1.2) / 0.5), phi((0.5 + 1.2) / 1), phi((-1 - 0.7) / 2))) < 1e-14);
  CHECK(load(3) == 0);                                                                        // everybody, always
}

TEST_CASE("Tutel's: half of each, one deviation, a sample's variance") {
  auto const phi = [](double u) { return 0.5 * std::erfc(-u / std::sqrt(2.0)); };
  std::vector<double> const z{std::log(.5), std::log(.3), std::log(.2)}, noisy{0.1, 0.4, 0.2};
  owning_scratch const memory(3, 2);
  auto const cv2 = [](double a, double b, double c) {
    auto const mean = (a + b + c) / 3;
    return ((a - mean) * (a - mean) + (b - mean) * (b - mean) + (c - mean) * (c - mean)) / 2 / (mean * mean + 1e-10);
  };
  auto const want = 0.5 * cv2(.5, .3, .2) + 0.5 * cv2(phi(.3 / .25), phi(.1 / .25), phi(0));   // the second largest noisy logit is .2
  CHECK(std::abs(value(balance::load_importance<double>({z.data(), 1, 3}, {noisy.data(), 1, 3}, .25, {}, 2, 1, {}, memory.of)) - want) < 1e-14);
}

TEST_CASE("what does not fit is said") {
  std::vector<double> d(64);
  std::vector<std::uint8_t> const short_padding(3);
  std::vector<std::int32_t> ids{0, 1, 2, 3, 0, 1, 2, 4};
  owning_scratch const memory(4, 2), small(3, 2);
  view<const double> const z{d.data(), 4, 4};
  counted const c({1, 1, 1, 1}), three({1, 1, 1});
  auto const what = [](auto const& l) { return std::string(l.done.what); };
  CHECK(what(balance::z_loss<double>(z, short_padding, 1)) == "padding must have an entry a token, or none at all");
  CHECK(what(balance::z_loss<double>(z, {}, 1, {d.data(), 3, 4})) == "the gradient must have a row a token");
  CHECK(what(balance::entropy<double>(z, {}, 1, {d.data(), 4, 3})) == "the gradient must have a column an expert");
  CHECK(what(balance::load_balance<double>(score::identity, z, {}, c.of, 1, 1)) ==
        "a balance loss needs scores that are not negative, so not score::identity");
  CHECK(what(balance::load_balance<double>(score::softmax, z, {}, three.of, 1, 1)) == "there must be a count an expert");
  CHECK(what(balance::load_balance<double>(score::softmax, z, {}, c.of, 0, 1)) == "a token chooses at least once");
  CHECK(what(balance::device_balance<double>(score::softmax, z, {}, three.of, 1, 1)) ==
        "the experts must fall into as many equal groups as there are counts");
  CHECK(what(balance::switch_balance<double>(z, {}, 0, 1, {}, memory.of)) == "a group must have a token");
  auto const too_small = balance::switch_balance<double>(z, {}, 4, 1, {}, small.of);
  CHECK(too_small.done.code == status_code::workspace_too_small);
  CHECK(too_small.done.expected == 4);
  CHECK(what(balance::sequence_balance<double>(score::sigmoid, z, {}, std::vector<std::int32_t>{0, 4}, 5, 1, {}, memory.of)) ==
        "top_k must be at least 1 and at most the number of experts");
  CHECK(what(balance::sequence_balance<double>(score::sigmoid, z, {}, std::vector<std::int32_t>{0, 4}, 3, 1, {}, memory.of)) ==
        "the scratch must have room for top_k + 1 ids");
  for (auto const& [offsets, sentence] : std::vector<std::pair<std::vector<std::int32_t>, std::string>>{
           {{}, "sequence_offsets must have an entry more than there are sequences"},
           {{1, 4}, "sequence_offsets must begin with 0"},
           {{0, 3, 2, 4}, "sequence_offsets must not descend"},
           {{0, 3}, "sequence_offsets must end with the number of tokens"}})
    CHECK(what(balance::sequence_balance<double>(score::sigmoid, z, {}, offsets, 2, 1, {}, memory.of)) == sentence);
  std::vector<view<const double>> const layers{z, z};
  std::vector<view<double>> const gradients{{d.data(), 4, 4}};
  CHECK(what(balance::pooled_balance<double>(layers, {}, c.of, 1, gradients)) == "there must be a gradient a layer, or none at all");
  CHECK(what(balance::width_penalty<double>(z, {}, c.of, {d.data(), 3}, 1)) == "there must be a width an expert");
  CHECK(what(balance::expected_cost<double>(z, {}, {d.data(), 3, 4}, 1)) == "the cost must have a row a token");
  CHECK(what(balance::cost_hinge<double>(z, {}, {d.data(), 4, 3}, 1, 1)) == "the cost must have a column an expert");
  CHECK(what(balance::global_entropy<double>(z, {}, 1, 1, {}, small.of)) == "the scratch must have room for every expert");
  CHECK(what(balance::importance<double>(z, {}, {ids.data(), 3, 2}, balance::variation::sample, 1, {}, memory.of)) == "ids must have a row a token");
  CHECK(balance::importance<double>(z, {}, {ids.data(), 4, 2}, balance::variation::sample, 1, {}, memory.of).done.code == status_code::out_of_range);
  CHECK(what(balance::load<double>(z, {d.data(), 3, 4}, z, {}, 2, 1, {}, {}, memory.of)) == "noisy and noise_scale must have a row a token");
  CHECK(what(balance::load<double>(z, z, {d.data(), 4, 3}, {}, 2, 1, {}, {}, memory.of)) == "noisy and noise_scale must have a column an expert");
  CHECK(what(balance::load_importance<double>(z, z, 0, {}, 2, 1, {}, memory.of)) == "the scale of the noise must be above 0");
  CHECK(what(balance::load_importance<double>(z, {d.data(), 3, 4}, 1, {}, 2, 1, {}, memory.of)) == "noisy must have a row a token");
  CHECK(what(balance::load_importance<double>(z, {d.data(), 4, 3}, 1, {}, 2, 1, {}, memory.of)) == "noisy must have a column an expert");
  counted into({0, 0, 0, 0}, 0);
  CHECK(balance::count_chosen({ids.data(), 4, 2}, 4, {}, into.of).code == status_code::out_of_range);
  CHECK(balance::count_reached({ids.data(), 4, 2}, 4, {}, into.of).code == status_code::out_of_range);
  CHECK(into.counts == std::vector<std::int64_t>(4));                                         // nothing counted by half
  counted other({0, 0, 0}, 0);
  CHECK(std::string(balance::count_top_k<double>(z, {}, 2, other.of, memory.of).what) == "there must be a count an expert");
}

TEST_CASE("a row that chose nobody is no token of the counts") {
  std::vector<std::int32_t> const ids{0, 1, 0, 2, -1, -1, -1, 3};
  for (bool const reached : {false, true}) {
    std::vector<std::int64_t> counts(4);
    balance::choices into{counts};
    view<const std::int32_t> const chosen{ids.data(), 4, 2};
    REQUIRE((reached ? balance::count_reached(chosen, 4, {}, into) : balance::count_chosen(chosen, 4, {}, into)));
    CHECK(into.tokens == 3);
    CHECK(counts == std::vector<std::int64_t>{2, 1, 1, 1});
  }
}
