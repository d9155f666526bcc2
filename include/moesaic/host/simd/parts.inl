// A row of any width in parts of 16 lanes. Body file.
// SPDX-License-Identifier: Apache-2.0

/// f(first column, how many) for 16 columns at a time, and for the rest. Whole parts come with a constant: their loads need no mask.
template <class F>
MOESAIC_HOST void for_each_part(std::int64_t columns, F&& f) {
  constexpr std::int64_t whole = whole_part::value;
  std::int64_t c = 0;
  for (; c + whole <= columns; c += whole) f(c, whole_part{});
  if (c < columns) f(c, columns - c);
}
template <class T>
MOESAIC_HOST auto load_part(T const* p, std::int64_t count) {
  return load(p, count);
}
template <class T>
MOESAIC_HOST auto load_part(T const* p, whole_part) {
  return load(p);
}
template <class T, class Lanes>
MOESAIC_HOST void store_part(T* p, Lanes const& x, std::int64_t count) {
  store(p, x, count);
}
template <class T, class Lanes>
MOESAIC_HOST void store_part(T* p, Lanes const& x, whole_part) {
  store(p, x);
}
