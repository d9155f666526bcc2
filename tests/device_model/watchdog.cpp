// Ends launches in which a thread runs without end: a timer of this thread's processor time looks whether anything has happened.
// SPDX-License-Identifier: Apache-2.0
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "machine.hpp"

namespace moesaic::device_model::internal {
namespace {

constexpr int signal_used = SIGVTALRM;

/// On the stack of whatever runs. It is abandoned there, as by any other failure; had it been inside malloc, this hangs, as it would have without.
void on_tick(int, siginfo_t*, void* context) {
  machine* const m = active;
  if (m == nullptr || running == nullptr) return;
  if (m->progress != m->progress_at_tick) {
    m->progress_at_tick = m->progress;
    return;
  }
  if (m->switching) return;  // at the next tick, then
  place at = here();
#if defined(__x86_64__)
  if (!has_place_source()) {
    auto const& registers = static_cast<ucontext_t const*>(context)->uc_mcontext.gregs;
    at = {};
    at.at[0] = reinterpret_cast<void const*>(registers[REG_RIP] + 1);
    // A function that has only just begun has no frame yet: its return address is one of the last two words.
    auto const* const last = reinterpret_cast<void* const*>(registers[REG_RSP]);
    at.at[1] = last[0];
    at.at[2] = last[1];
    walk_frames(reinterpret_cast<void**>(registers[REG_RBP]), *running, at, 3);
  }
#else
  static_cast<void>(context);
#endif
  report("deadlock", text("a thread has run for %g seconds and nothing has come of it, at {1}", m->how.patience), at);
  give_up();
}

struct timer {
  timer_t handle = {};
  bool made = false;
  ~timer() {
    if (made) timer_delete(handle);
  }
};
thread_local timer mine;

}  // namespace

void watch(machine& m, bool on) {
  if (m.how.patience <= 0) return;
  if (!mine.made) {
    struct sigaction action = {};
    action.sa_sigaction = &on_tick;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART;
    sigevent event = {};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = signal_used;
    event._sigev_un._tid = static_cast<pid_t>(syscall(SYS_gettid));
    if (sigaction(signal_used, &action, nullptr) != 0 || timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &mine.handle) != 0) return;
    mine.made = true;
  }
  m.progress_at_tick = ~std::uint64_t{0};
  itimerspec when = {};
  if (on) {
    // Between one and two of these pass before it acts.
    when.it_interval.tv_sec = static_cast<time_t>(m.how.patience);
    when.it_interval.tv_nsec = static_cast<long>((m.how.patience - static_cast<double>(when.it_interval.tv_sec)) * 1e9);
    when.it_value = when.it_interval;
  }
  timer_settime(mine.handle, 0, &when, nullptr);
}

}  // namespace moesaic::device_model::internal
