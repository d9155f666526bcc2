// One head's pairs (i, i + pairs) turned by their angles. Body file.
// SPDX-License-Identifier: Apache-2.0

/// head [2 · pairs] in place; cosine, sine [pairs].
template <class T>
void rotate_halves(here, accumulator<T> const* cosine, accumulator<T> const* sine, T* head, std::int64_t pairs) {
  for_each_part(pairs, [&](std::int64_t i, auto count) {
    T const *const left = head + i, *const right = left + pairs;
    auto const a = load_part(left, count), b = load_part(right, count);
    auto const c = load_part(cosine + i, count), s = load_part(sine + i, count);
    store_part(head + i, sub(mul(a, c), mul(b, s)), count);
    store_part(head + pairs + i, add(mul(b, c), mul(a, s)), count);
  });
}
