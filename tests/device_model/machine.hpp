// The scheduler's own state: what is alive, what may run, what is pending. For the core's files alone.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "internal.hpp"

extern "C" {
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** fake_stack_save, void const* bottom, std::size_t size);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* fake_stack_save, void const** bottom_old, std::size_t* size_old);
[[gnu::weak]] void __asan_poison_memory_region(void const volatile* at, std::size_t bytes);
[[gnu::weak]] void __asan_unpoison_memory_region(void const volatile* at, std::size_t bytes);
[[gnu::weak]] void* __asan_region_is_poisoned(void* at, std::size_t bytes);
}

namespace moesaic::device_model::internal {

/// Threads that may run, in the order of their waking: a ring.
class queue {
 public:
  void hold(std::size_t most) {
    std::size_t capacity = 64;
    while (capacity < most + 1) capacity *= 2;
    if (capacity > slots_.size()) slots_.assign(capacity, nullptr);
    clear();
  }
  void clear() { head_ = tail_ = 0; }
  bool empty() const { return head_ == tail_; }
  std::size_t size() const { return tail_ - head_; }
  void push(thread* t) { slots_[tail_++ & (slots_.size() - 1)] = t; }
  thread* pop() { return slots_[head_++ & (slots_.size() - 1)]; }
  thread* pop(std::size_t i) {
    thread*& first = slots_[head_ & (slots_.size() - 1)];
    thread*& chosen = slots_[(head_ + i) & (slots_.size() - 1)];
    thread* const t = chosen;
    chosen = first;
    first = t;
    return pop();
  }

 private:
  std::vector<thread*> slots_;
  std::size_t head_ = 0, tail_ = 0;
};

struct finding {
  std::string kind, text;
  place first, second;
  std::string who;                     ///< block and thread that it was first found by
};

enum class outcome : std::uint8_t { stalled, cluster_ended, failed };

struct machine {
  // of the launch
  options how;
  cuda::grid blocks;
  int threads = 0;
  std::size_t shared_bytes = 0;
  void (*body)(void const*) = nullptr;
  void const* params = nullptr;
  std::string kernel;
  std::uint64_t random = 0;
  std::vector<std::unique_ptr<cluster>> clusters;       ///< alive
  cluster* ended = nullptr;
  std::vector<finding> findings;
  int blocks_together = 1;             ///< of a multiprocessor, by the launch bound
  /// Some of what load_nc read, to be the same at the launch's end.
  struct read {
    device::words4 const* at;
    device::words4 value;
    place where;
  };
  std::vector<read> reads;
  std::uint64_t loads = 0, loads_skipped = 0;

  // scheduling
  queue ready;
  std::vector<thread*> sleepers;
  std::vector<thread*> timed_waits;    ///< blocked in a wait that may time out
  std::vector<async_op*> pending;
  std::vector<thread*> copying;        ///< with cp.async undelivered
  std::uint64_t progress = 0, progress_at_stall = ~0ull, progress_at_tick = ~0ull;
  int idle_rounds = 0;
  outcome why_back = outcome::stalled;
  bool random_delivery = false;
  std::uint64_t deliver_one_in = 8;    ///< turns, by the launch's seed: soon or late
  bool places_noted = false;           ///< an interpreter says where its threads are
  bool volatile switching = false;     ///< between what AddressSanitizer is told before and after a switch
  bool doomed = false;                 ///< failed on the scheduler's own stack
  bool grid_waited = false;            ///< some block has called griddepcontrol_wait

  // pools
  std::vector<std::unique_ptr<thread>> fibres;
  std::vector<thread*> idle;           ///< fibres that no block uses
  std::byte* arena = nullptr;
  std::size_t arena_stride = 0;
  std::vector<int> free_slots;
  std::vector<block*> in_slot;         ///< the block whose shared memory is there

  // the scheduler's own stack
  void* main_stack_pointer = nullptr;
  void* main_fake_stack = nullptr;
  void const* main_stack = nullptr;
  std::size_t main_stack_bytes = 0;
};
machine& the_machine();


constexpr std::size_t arena_bytes = std::size_t{1} << 31, margin_bytes = 4096;
constexpr unsigned char fresh_byte = 0xff, margin_byte = 0xa5;

extern constinit thread_local thread* running;
extern constinit thread_local machine* active;         ///< of the launch going on in this thread

/// Delivers the thread's first `count` copies; random: some of them.
void deliver_copies(thread& t, std::size_t count);
void deliver_some_copies(thread& t);
void check_thread_end(thread& t);
void check_registers(block const& b);  ///< when it ends
void check_reads(machine const& m);    ///< when the launch ends
void check_block_end(thread& t);
/// Completes one pending operation or copy with an arrival, if there is one: nothing else can go on.
bool deliver_when_stalled(machine& m);
void deliver_at_random(machine& m);
/// Fails unless an mbarrier that asynchronous operations report to is initialised and fenced.
void check_reports_to(block& b, void const* at, char const* name);
void check_mbarrier(block& b, void const* at, char const* name);
void arrive_for_copies(thread& t, device::mbarrier* at, thread_copy const* copies, std::size_t count);
/// For what writes global memory.
void check_grid_waited(char const* name);
void fence_inits(thread const& t);
void complete(async_op& op);
bool has_place_source();
void note_waiting_place(thread& t);
std::int64_t most_shared_bytes();      ///< of a block, dynamic
void watch(machine& m, bool on);       ///< the watchdog, around a launch
/// As `wait`, for what is waited for often: no structure goes through memory.
void leave(machine& m, thread& t);
inline void block_on(thread& t, char const* what, void const* on, std::int64_t number) {
  t.why.what = what;
  t.why.on = on;
  t.why.number = number;
  t.blocked = true;
  machine& m = *active;
  if (m.places_noted) [[unlikely]] note_waiting_place(t);
  leave(m, t);
}
inline void make_ready(machine& m, thread& t) {
  t.blocked = false;
  ++m.progress;
  m.ready.push(&t);
}
struct abandoned {};                   ///< thrown by `fail`, so that what the stack owns is freed: the launch has failed
[[noreturn]] void give_up();           ///< the same from a fibre's signal handler, which must not throw: the stack stays as it is
void forget_thread(thread& t);         ///< its asynchronous state, when it ends or is abandoned
void cluster_barrier_check(cluster& c);
std::vector<std::string> resolve(std::vector<finding> const& findings, std::string const& kernel);
place place_of_blocked(thread const& t);
void walk_frames(void** frame, thread const& t, place& p, int from);   ///< return addresses from a frame on
std::string where_threads_wait(machine const& m);

}  // namespace moesaic::device_model::internal
