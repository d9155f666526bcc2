// What a tensor map is told: the driver's arguments of a description, and the sentences about descriptions that no map can be.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include <doctest/doctest.h>
#include <moesaic/device/tensor_map.hpp>

using namespace moesaic;
using namespace moesaic::device;

namespace {

constexpr tensor_description sound{.element = tensor_element::bf16, .dimensions = 3, .size = {48, 5, 7}, .stride = {999, 128, 640}, .box = {32, 4, 1},
                                   .swizzle = swizzle::b64};
template <class Change>
tensor_description changed(Change change) {
  auto t = sound;
  change(t);
  return t;
}
void refused(tensor_description const& t, char const* sentence, std::int64_t found) {
  auto const s = check(t);
  CHECK(s.code == status_code::invalid_argument);
  CHECK(std::strstr(s.what, sentence) != nullptr);
  CHECK(s.found == found);
}

}  // namespace

TEST_CASE("arguments of the driver") {
  static_assert(check(sound));
  auto t = sound;
  t.data = reinterpret_cast<void const*>(0x1000);
  auto const a = arguments_of(t);
  CHECK(a.element == 9);                                                // CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
  CHECK(a.rank == 3);
  CHECK(a.address == t.data);
  std::uint64_t const size[] = {48, 5, 7, 0, 0}, stride[] = {128, 640, 0, 0, 0};   // the first is an element's, and not told
  std::uint32_t const box[] = {32, 4, 1, 0, 0}, ones[] = {1, 1, 1, 0, 0};
  CHECK(std::memcmp(a.size, size, sizeof size) == 0);
  CHECK(std::memcmp(a.stride, stride, sizeof stride) == 0);
  CHECK(std::memcmp(a.box, box, sizeof box) == 0);
  CHECK(std::memcmp(a.element_stride, ones, sizeof ones) == 0);
  CHECK(a.interleave == 0);
  CHECK(a.swizzle == 2);
  CHECK(a.fill == 0);
  CHECK(a.l2_promotion == 1);                                           // rows of 64 bytes
  t.box[0] = 64, t.swizzle = swizzle::b128;
  CHECK(arguments_of(t).l2_promotion == 2);
  t.box[0] = 8, t.swizzle = swizzle::none;
  CHECK(arguments_of(t).l2_promotion == 0);
}

TEST_CASE("numbers of the driver") {
  int const elements[] = {driver_number(tensor_element::u8),   driver_number(tensor_element::u16),  driver_number(tensor_element::u32),
                          driver_number(tensor_element::bf16), driver_number(tensor_element::fp16), driver_number(tensor_element::fp32)};
  int const expected[] = {0, 1, 2, 9, 6, 7};
  CHECK(std::memcmp(elements, expected, sizeof expected) == 0);
  CHECK(driver_number(swizzle::none) == 0);
  CHECK(driver_number(swizzle::b32) == 1);
  CHECK(driver_number(swizzle::b64) == 2);
  CHECK(driver_number(swizzle::b128) == 3);
}

TEST_CASE("what no map can be") {
  refused(changed([](auto& t) { t.dimensions = 0; }), "1 to 5 dimensions", 0);
  refused(changed([](auto& t) { t.dimensions = 6; }), "1 to 5 dimensions", 6);
  refused(changed([](auto& t) { t.box[0] = 12; }), "a multiple of 16 bytes", 24);
  refused(changed([](auto& t) { t.box[0] = 40; }), "must fit its swizzle", 80);
  refused(changed([](auto& t) { t.size[1] = 0; }), "1 to 2^32 elements", 0);
  refused(changed([](auto& t) { t.box[1] = 257; }), "1 to 256 elements", 257);
  refused(changed([](auto& t) { t.box[2] = 0; }), "1 to 256 elements", 0);
  refused(changed([](auto& t) { t.stride[1] = 136; }), "a stride of a tensor map", 136);
  refused(changed([](auto& t) { t.stride[2] = std::uint64_t{1} << 40; }), "a stride of a tensor map", std::int64_t{1} << 40);
}
