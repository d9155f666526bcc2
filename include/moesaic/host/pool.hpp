// Threads that share the tasks of one call. Which thread runs a task never shows in a result.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <system_error>
#include <thread>
#include <type_traits>

#include <moesaic/base/status.hpp>
#include <moesaic/host/simd/level.hpp>

namespace moesaic::host {

/// Threads of the caller's own: `run` calls task(context, i) once for every i in [0, tasks), on any threads in any order, and returns when
/// all are done. It must not allocate or throw if a forward call is not to, and should give its threads the caller's floating-point control
/// (rounding, subnormals), or bits may depend on who ran a task.
struct executor {
  void* self = nullptr;
  void (*run)(void* self, std::int64_t tasks, void (*task)(void* context, std::int64_t index), void* context) = nullptr;
  int threads = 1;                     ///< how many work side by side: tasks are cut for so many
};

/// Where host calls run: their threads and their instruction set. The calling thread works too, so pool(1) starts no thread.
/// A call while another is under way (from inside a task, or from a second thread) runs on its own thread alone.
class pool {
 public:
  /// At best_level(): throws `error` where MOESAIC_LEVEL names no level.
  explicit pool(int threads = 1) : pool(threads, best_level()) {}
  /// `level` is lowered to what the processor has. Throws `error` where the system starts no more threads.
  pool(int threads, host::level level) : threads_(threads), level_(std::min(level, detected_level())) {
    if (threads < 1) throw_error({"pool: expected at least one thread, found ", threads});
    if (threads_ == 1) return;
    workers_ = std::make_unique<std::thread[]>(static_cast<std::size_t>(threads_ - 1));
    int started = 0;
    try {
      for (; started + 1 < threads_; ++started) workers_[static_cast<std::size_t>(started)] = std::thread([this] { work(); });
    } catch (std::system_error const& reason) {
      stop(started);
      throw_error({"pool: expected to start ", threads_ - 1, " threads, found that only ", started, " can be: ", reason.what()});
    }
  }
  explicit pool(executor e) : pool(e, best_level()) {}
  pool(executor e, host::level level) : threads_(std::max(e.threads, 1)), level_(std::min(level, detected_level())), executor_(e) {}

  pool(pool const&) = delete;
  pool& operator=(pool const&) = delete;
  ~pool() {
    if (workers_) stop(threads_ - 1);
  }

  int threads() const { return threads_; }
  host::level level() const { return level_; }

  /// f(index) for every index in [0, tasks); returns when all are done. Allocates nothing. f must not throw.
  template <class F>
  void for_each(std::int64_t tasks, F&& f) {
    auto* const context = const_cast<void*>(static_cast<const void*>(std::addressof(f)));
    run(tasks, [](void* c, std::int64_t index) { (*static_cast<std::remove_reference_t<F>*>(c))(index); }, context);
  }

 private:
  using task_function = void (*)(void*, std::int64_t);
  static constexpr std::int64_t most_tasks = 0x7fff'ffff;   // more are too small to share
  static constexpr int spins = 2000;   // some tens of microseconds: the gap between two ops of a layer, not more on a shared machine

  // Not inlined, and every task behind a pointer: then an op is compiled once, not once for one thread and once for many.
  [[gnu::noinline]] void run(std::int64_t tasks, task_function task, void* context) {
    bool const alone = (threads_ == 1 && executor_.run == nullptr) || tasks <= 1 || tasks > most_tasks;
    if (alone || busy_.exchange(true, std::memory_order_acquire)) {
      for (std::int64_t i = 0; i < tasks; ++i) task(context, i);
      return;
    }
    if (executor_.run != nullptr)
      executor_.run(executor_.self, tasks, task, context);
    else
      share(static_cast<std::uint32_t>(tasks), task, context);
    busy_.store(false, std::memory_order_release);
  }

  // `unclaimed_` holds the number of the call and the tasks not yet taken. Whoever takes a task has, by that, proved the call to be
  // under way, so what it read of the call before is valid; a worker that comes late finds nothing to take and touches nothing.
  void share(std::uint32_t tasks, task_function task, void* context) {
    tasks_.store(tasks, std::memory_order_relaxed);
    task_.store(task, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    control_.store(floating_point_control(), std::memory_order_relaxed);
    unfinished_.store(tasks, std::memory_order_relaxed);
    auto const call = (unclaimed_.load(std::memory_order_relaxed) >> 32) + 1;
    unclaimed_.store(call << 32 | tasks, std::memory_order_release);
    wake();
    take_tasks(false);
    for (int i = 0; i < spins && unfinished_.load(std::memory_order_acquire) != 0; ++i) pause();
    for (std::uint32_t left = 0; (left = unfinished_.load(std::memory_order_acquire)) != 0;)
      unfinished_.wait(left, std::memory_order_acquire);
  }

  // A worker rounds and treats subnormals as the caller does, whatever it did before.
  void take_tasks(bool worker) {
    auto seen = unclaimed_.load(std::memory_order_acquire);
    while ((seen & 0xffffffffu) != 0) {
      auto const tasks = tasks_.load(std::memory_order_relaxed);
      auto const task = task_.load(std::memory_order_relaxed);
      auto* const context = context_.load(std::memory_order_relaxed);
      auto const control = control_.load(std::memory_order_relaxed);
      if (!unclaimed_.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      if (worker) set_floating_point_control(control);
      task(context, static_cast<std::int64_t>(tasks - (seen & 0xffffffffu)));
      if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
      seen = unclaimed_.load(std::memory_order_acquire);
    }
  }

  void work() {
    for (;;) {
      auto const woken = wakes_.load(std::memory_order_acquire);
      if (stop_.load(std::memory_order_relaxed)) return;
      take_tasks(true);
      for (int i = 0; i < spins && wakes_.load(std::memory_order_relaxed) == woken; ++i) pause();
      wakes_.wait(woken, std::memory_order_acquire);
    }
  }

  void wake() {
    wakes_.fetch_add(1, std::memory_order_release);
    wakes_.notify_all();
  }

  void stop(int started) {
    stop_.store(true, std::memory_order_relaxed);
    wake();
    for (int i = 0; i < started; ++i) workers_[static_cast<std::size_t>(i)].join();
  }

  static std::uint32_t floating_point_control() {
#if defined(__x86_64__)
    return __builtin_ia32_stmxcsr();
#else
    return 0;
#endif
  }
  static void set_floating_point_control([[maybe_unused]] std::uint32_t control) {
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(control);
#endif
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  int threads_ = 1;
  host::level level_ = host::level::portable;
  executor executor_;
  std::unique_ptr<std::thread[]> workers_;
  std::atomic<bool> busy_ = false, stop_ = false;

  alignas(64) std::atomic<std::uint64_t> unclaimed_ = 0;
  std::atomic<task_function> task_ = nullptr;
  std::atomic<void*> context_ = nullptr;
  std::atomic<std::uint32_t> tasks_ = 0, control_ = 0;
  alignas(64) std::atomic<std::uint32_t> unfinished_ = 0;
  alignas(64) std::atomic<std::uint32_t> wakes_ = 0;
};

}  // namespace moesaic::host
