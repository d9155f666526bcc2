// Which experts lie in fast memory: chosen ids of one layer after another -> hits, loads, evictions, and the tiers that a cost reads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/arena.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/route/cost.hpp>

namespace moesaic {

/// Who makes room: the expert used longest ago, the one used in the fewest calls, or nobody (what is not pinned or loaded first is read and
/// let go). Of equals the lower layer, then the lower expert goes.
enum class eviction : std::uint8_t { least_recent, least_frequent, never };

/// Exact counts since `forget`.
struct residency_counts {
  std::int64_t calls = 0;                ///< of `use`
  std::int64_t hits = 0, misses = 0;     ///< distinct experts of a call
  std::int64_t evictions = 0;
  std::int64_t bytes[tiers] = {};        ///< loaded, by where from

  constexpr std::int64_t loaded() const { return bytes[static_cast<int>(tier::host)] + bytes[static_cast<int>(tier::disk)]; }
  /// 1 where nothing was used.
  constexpr double hit_rate() const { return hits + misses == 0 ? 1.0 : static_cast<double>(hits) / static_cast<double>(hits + misses); }
  /// Microseconds of loading that nothing hides.
  constexpr double stall(float const (&us_per_byte)[tiers]) const {
    double sum = 0;
    for (int i = 0; i < tiers; ++i) sum += static_cast<double>(bytes[i]) * static_cast<double>(us_per_byte[i]);
    return sum;
  }
};

/// A table of who is where, over memory of the caller's. It moves no weights: `use` answers what has to be moved, an engine does it. Routing
/// sees it through `where(layer)` alone, so at a price of 0 the model's output is the same for every rule and capacity. To be used by one
/// thread, between the calls that read it; a search for room looks at every slot.
struct residency {
  list<tier> now;                        ///< [layers · experts]
  list<tier> home;                       ///< [layers · experts] host or disk: where from, and where an expert is when it is not in a slot
  list<std::int64_t> bytes;              ///< [layers · experts]
  list<std::int32_t> slot;               ///< [layers · experts], −1 = in none
  list<std::int64_t> last_use, uses;     ///< [layers · experts] number of the last call, and how many calls
  list<std::uint8_t> pinned;             ///< [layers · experts]
  list<std::int32_t> owner;              ///< [slots] layer · experts + expert, −1 = free
  std::int64_t experts = 0;              ///< of a layer
  eviction rule = eviction::least_recent;
  residency_counts counts = {};
  std::int64_t clock = 0;

  /// `slots` experts of all layers together have room. In counting mode the arena says how many bytes this takes.
  static constexpr residency carve(arena& memory, std::int64_t layers, std::int64_t experts, std::int64_t slots) {
    auto const all = layers * experts;
    residency r;
    r.now = memory.take<tier>(all), r.home = memory.take<tier>(all);
    r.bytes = memory.take<std::int64_t>(all);
    r.slot = memory.take<std::int32_t>(all);
    r.last_use = memory.take<std::int64_t>(all), r.uses = memory.take<std::int64_t>(all);
    r.pinned = memory.take<std::uint8_t>(all);
    r.owner = memory.take<std::int32_t>(slots);
    r.experts = experts;
    return r;
  }

  /// Nothing is loaded, used or pinned: every expert has `bytes_each` bytes and lies at `at` (`put` others elsewhere).
  constexpr void clear(std::int64_t bytes_each, tier at = tier::host) {
    for (std::int64_t i = 0; i < now.size; ++i) {
      now[i] = home[i] = at;
      bytes[i] = bytes_each;
      slot[i] = -1;
      last_use[i] = uses[i] = 0;
      pinned[i] = 0;
    }
    for (auto& o : owner) o = -1;
    clock = 0;
    forget();
  }
  /// An expert of so many bytes, and where it is when it is not in a slot.
  constexpr void put(std::int64_t layer, std::int64_t expert, tier at, std::int64_t its_bytes) {
    auto const i = layer * experts + expert;
    home[i] = at;
    bytes[i] = its_bytes;
    if (slot[i] < 0) now[i] = at;
  }
  /// Starts the counts anew; who is where stays.
  constexpr void forget() { counts = {}; }

  /// The tiers of one layer's experts [experts], which follow `use`: the state of costs::bytes.
  constexpr list<const tier> where(std::int64_t layer) const { return {now.data + layer * experts, experts}; }

  /// One call of a layer has chosen ids [tokens, slots], −1 = unused (padding has none, so it changes nothing). Every distinct expert counts
  /// once: a hit if it was resident before the call, else a miss that loads its bytes. A loaded expert takes a free slot, or that of the one
  /// `rule` names among those neither pinned nor used in this call; without one it is read and let go. `load(layer, expert, slot)` is called
  /// for each miss, slot −1 = let go. Experts are taken in ascending order, so the order of tokens does not matter.
  template <class Load>
  constexpr void use(std::int64_t layer, view<const std::int32_t> ids, Load&& load) {
    ++clock, ++counts.calls;
    auto const first = layer * experts;
    for (std::int64_t t = 0; t < ids.rows; ++t)
      for (std::int64_t i = 0; i < ids.columns; ++i)
        if (auto const e = ids(t, i); e >= 0 && last_use[first + e] != clock) last_use[first + e] = clock, ++uses[first + e];
    for (std::int64_t e = 0; e < experts; ++e) {
      auto const at = first + e;
      if (last_use[at] != clock) continue;
      if (slot[at] >= 0) {
        ++counts.hits;
        continue;
      }
      ++counts.misses;
      counts.bytes[static_cast<int>(home[at])] += bytes[at];
      load(layer, e, take_slot(at));
    }
  }
  constexpr void use(std::int64_t layer, view<const std::int32_t> ids) {
    use(layer, ids, [](std::int64_t, std::int64_t, std::int32_t) {});
  }

  /// Loads an expert, if it is not, for good (frequency-pinned: for those that a calibration saw most). Its bytes count, as no hit or miss.
  /// Errors: no slot that is not pinned.
  constexpr status pin(std::int64_t layer, std::int64_t expert) {
    auto const at = layer * experts + expert;
    ++clock;                                               // what the last call used may make room
    if (slot[at] < 0) {
      auto const kept = rule;
      if (rule == eviction::never) rule = eviction::least_recent;
      auto const got = take_slot(at);
      rule = kept;
      if (got < 0) return invalid("there must be a slot for every pinned expert", owner.size + 1, owner.size);
      counts.bytes[static_cast<int>(home[at])] += bytes[at];
    }
    pinned[at] = 1;
    return {};
  }
  constexpr void unpin(std::int64_t layer, std::int64_t expert) { pinned[layer * experts + expert] = 0; }

 private:
  constexpr std::int32_t take_slot(std::int64_t expert) {
    std::int32_t best = -1;
    for (std::int32_t s = 0; s < static_cast<std::int32_t>(owner.size) && (best < 0 || owner[best] >= 0); ++s) {
      auto const o = owner[s];
      if (o < 0 || (rule != eviction::never && pinned[o] == 0 && last_use[o] != clock && (best < 0 || goes_before(o, owner[best])))) best = s;
    }
    if (best < 0) return -1;
    if (auto const old = owner[best]; old >= 0) {
      ++counts.evictions;
      now[old] = home[old];
      slot[old] = -1;
    }
    owner[best] = static_cast<std::int32_t>(expert);
    slot[expert] = best;
    now[expert] = tier::device;
    return best;
  }
  constexpr bool goes_before(std::int32_t a, std::int32_t b) const {
    if (rule == eviction::least_frequent && uses[a] != uses[b]) return uses[a] < uses[b];
    if (last_use[a] != last_use[b]) return last_use[a] < last_use[b];   // of equally frequent ones the older
    return a < b;
  }
};

}  // namespace moesaic
