// One row to unit size: RMS norm and LayerNorm. Body file.
// Lane l of 16 sums columns l, l + 16, ..., then the lanes are summed pairwise: the same order on every level.
// SPDX-License-Identifier: Apache-2.0

/// y may be x. weight [columns] or null (ones, whatever the offset).
/// At bf16 the normalised value is rounded before it meets the weight, as the HuggingFace Llama classes do: it is stored in between; or not,
/// as the configuration says.
template <class T>
void rms_row(here, norm_config const& config, float const* weight, T const* x, T* y, std::int64_t columns) {
  using scalar = accumulator<T>;
  auto squares = set1(scalar(0));
  for_each_part(columns, [&](std::int64_t c, auto count) {
    auto const part = load_part(x + c, count);
    squares = fma(part, part, squares);
  });
  auto const scale = set1(scalar(1) / std::sqrt(sum(squares) / static_cast<scalar>(columns) + static_cast<scalar>(config.epsilon)));
  auto const offset = set1(static_cast<scalar>(config.weight_offset));
  for_each_part(columns, [&](std::int64_t c, auto count) {
    auto unit = mul(load_part(x + c, count), scale);
    if (weight != nullptr) {
      if constexpr (std::is_same_v<T, bf16>)
        if (config.cast == norm_cast::before_weight) {
          T rounded[packed::lanes];
          store(rounded, unit);
          unit = load(static_cast<T const*>(rounded));
        }
      unit = mul(unit, add(load_part(weight + c, count), offset));
    }
    store_part(y + c, unit, count);
  });
}

/// y may be x; rounded to T once. weight and bias [columns] or null.
template <class T>
void layer_row(here, norm_config const& config, float const* weight, float const* bias, T const* x, T* y, std::int64_t columns) {
  using scalar = accumulator<T>;
  auto const zero = set1(scalar(0));
  auto total = zero, squares = zero;
  for_each_part(columns, [&](std::int64_t c, auto count) { total = add(total, load_part(x + c, count)); });
  auto const mean = set1(sum(total) / static_cast<scalar>(columns));
  for_each_part(columns, [&](std::int64_t c, auto count) {
    scalar kept[packed::lanes];
    store(kept, sub(load_part(x + c, count), mean));
    auto const centred = load_part(static_cast<scalar const*>(kept), count);  // zero, not −mean, beyond the row
    squares = fma(centred, centred, squares);
  });
  auto const scale = set1(scalar(1) / std::sqrt(sum(squares) / static_cast<scalar>(columns) + static_cast<scalar>(config.epsilon)));
  auto const offset = set1(static_cast<scalar>(config.weight_offset));
  for_each_part(columns, [&](std::int64_t c, auto count) {
    auto unit = mul(sub(load_part(x + c, count), mean), scale);
    if (weight != nullptr) unit = mul(unit, add(load_part(weight + c, count), offset));
    store_part(y + c, bias != nullptr ? add(unit, load_part(bias + c, count)) : unit, count);
  });
}
