// How the parts of the device model meet: threads, warps, blocks, the scheduler, asynchronous operations, and who is told of what. For the library's own
// files (core, matrix instructions, race detector, PTX interpreter); kernels and their tests include model.hpp alone.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <moesaic/device/device.hpp>

#include "model.hpp"

namespace moesaic::device_model::internal {

struct block;
struct thread;
struct machine;
class async_op;

// --- places in the kernel's source ----------------------------------------------------------------------------------------------------

/// Where in the kernel something was asked for: the innermost return addresses of the fibre (resolved to file and line only for a report), or, in a
/// program that interprets another language, whatever its `place_source` answered.
struct place {
  static constexpr int depth = 8;
  void const* at[depth] = {};
};
/// The place that the running thread is at. Cheap: a few loads.
[[gnu::noinline]] place here();
/// "gemm.hpp:41", innermost line outside device/. Slow (addr2line).
std::string to_string(place const& p);
/// For an interpreter: `here` answers what at[0] shall be, `name` turns it into text. Null: return addresses.
struct place_source {
  std::uint64_t (*here)();
  std::string (*name)(std::uint64_t);
};
void use_places(place_source const* source);

// --- findings -------------------------------------------------------------------------------------------------------------------------

/// Notes a finding: "<kind>: <text>", where "{1}" and "{2}" in the text stand for the places. Resolved when the launch ends; may be called on a fibre.
/// The same text and places are told once a launch.
void report(char const* kind, std::string text, place const& first = {}, place const& second = {});
/// The same, and ends the launch: all its threads are abandoned where they stand. Also from `async_op::complete`.
[[noreturn]] void fail(char const* kind, std::string text, place const& first = {}, place const& second = {});
/// printf into a std::string.
[[gnu::format(printf, 1, 2)]] std::string text(char const* format, ...);

// --- threads, warps, blocks -----------------------------------------------------------------------------------------------------------

/// Something that threads meet at. `race` belongs to the race detector.
struct sync_point {
  void* race = nullptr;
};

/// What a blocked thread waits for, for reports of deadlocks.
struct waiting {
  char const* what = nullptr;          ///< "block_sync"
  void const* on = nullptr;            ///< an address in shared memory, or null
  std::int64_t number = -1;            ///< parity, number of barrier, mask; -1: none
};

/// A copy of cp.async under way, or an arrival of cp.async.mbarrier.arrive.noinc behind those before it.
struct thread_copy {
  std::byte* to = nullptr;
  std::byte const* from = nullptr;
  int bytes = 0, read = 0;             ///< 0 bytes: an arrival at `arrive`
  device::mbarrier* arrive = nullptr;
  bool delivered = false;
  bool reported = false;               ///< an arrival stands behind it: nobody needs to wait for it by group
  place asked;
  void* race = nullptr;
};

struct alignas(64) thread {
  int id = 0, lane = 0, warp_index = 0;
  bool ended = false, blocked = false;
  block* home = nullptr;
  void* stack_pointer = nullptr;       ///< the core's
  waiting why;                         ///< while blocked
  void* race = nullptr;                ///< of the race detector; it sets it in thread_begin
  void* matrix = nullptr;              ///< of the matrix instructions; null at thread begin
  void* ptx = nullptr;                 ///< of an interpreter; null at thread begin

  // the rest is the core's
  std::byte* stack = nullptr;
  std::size_t stack_bytes = 0;
  std::byte* stack_top = nullptr;
  void* fake_stack = nullptr;
  std::vector<thread_copy> copies;     ///< of cp.async, oldest first; waited-for ones leave
  std::size_t committed = 0;           ///< how many of `copies` are in a group
  std::vector<std::size_t> groups;     ///< how many of `copies` each group holds, oldest first
  int listed = -1;                     ///< place in the machine's list of threads with undelivered copies
  std::vector<async_op*> bulk_open;    ///< bulk stores not yet in a group
  std::vector<std::vector<async_op*>> bulk_groups;
  std::uint32_t cluster_phase = 0;     ///< of its last cluster_arrive
  bool cluster_arrived = false;        ///< and has yet to wait
  bool timed_out = false;              ///< woken from a try_wait that nothing ended
  place waits_at;                      ///< while blocked, in a program with a `place_source`
};

/// A warp's meeting of lanes (see `meet`).
struct meeting {
  struct collective const* what = nullptr;
  std::uint32_t lanes = 0, here = 0;
  void* arguments[32] = {};
  place first;
  sync_point sync;
};

struct warp {
  std::vector<meeting> meetings;       ///< those under way
  int registers = 0;                   ///< a thread, by its last setmaxnreg; 0: none yet
  void* race = nullptr;
  void* matrix = nullptr;              ///< of the matrix instructions; null at block begin
};

/// What an mbarrier's 8 bytes refer to. The bytes hold a magic word and the index of this.
struct mbarrier_state : sync_point {
  std::byte* at = nullptr;
  std::uint32_t expected = 0, pending = 0;
  std::int64_t bytes = 0;              ///< expected and not yet come; negative: come and not yet expected
  std::uint32_t phase = 0;             ///< phases that have ended
  int initialised_by = -1;
  bool fenced = false;
  place initialised, last_arrival;
  std::vector<thread*> waiters;
};

struct named_barrier : sync_point {
  int threads = 0, arrived = 0;        ///< threads 0: nobody has come yet
  place first;
  void const* of_warp[32] = {};        ///< where a warp's lanes come from in this phase
  std::vector<thread*> waiters;
};

/// A block that is alive.
struct block {
  int x = 0, y = 0, z = 0;
  int rank = 0;                        ///< in its cluster
  struct cluster* cluster = nullptr;
  std::byte* shared = nullptr;         ///< 1024-aligned
  std::size_t shared_bytes = 0;
  std::vector<thread*> threads;
  std::vector<warp> warps;
  std::vector<mbarrier_state> mbarriers;
  named_barrier barriers[16];
  int running = 0;                     ///< threads not ended
  bool grid_waited = false;            ///< some thread has called griddepcontrol_wait, or the launch was not early
  int slot = 0;                        ///< of the memory that shared memory is taken from
  void* race = nullptr;
  bool holds(void const* p, std::size_t bytes = 1) const {
    auto const* const b = static_cast<std::byte const*>(p);
    return b >= shared && b + bytes <= shared + shared_bytes;
  }
};

/// Blocks that run together and reach into each other's shared memory. Without clusters, one block.
struct cluster : sync_point {
  std::vector<std::unique_ptr<block>> blocks;   ///< by rank
  int running = 0;                     ///< threads not ended
  int arrived = 0;                     ///< at the cluster's barrier, in this phase
  std::uint32_t phase = 0;
  std::vector<thread*> waiters;
};

/// The running thread; null outside of launches.
thread* self();
options const& current_options();
/// A number from the launch's seed.
std::uint64_t draw();
/// Whether asynchronous effects may come at any time (delivery::random).
bool random_delivery();

// --- blocking -------------------------------------------------------------------------------------------------------------------------

/// The running thread stops until `wake`. What it waits for is told if nobody ever does. Asynchronous operations may complete meanwhile.
void wait(waiting const& why);
/// Makes a blocked thread runnable. With a seed, the running thread may also be asked to step back: see `step_back`.
void wake(thread& t);
/// A point at which other threads may run first: does nothing with seed 0.
void step_back();

/// Lanes of a warp meet: every lane of `lanes` calls, and the last to come runs `compute` for all, with each lane's `mine` (null for lanes outside).
/// Checks that the lanes ask for the same thing with the same mask. `compute` may read and write what the arguments point to, also on other stacks; `what`
/// must be one object per kind of instruction (it is compared by address).
struct collective {
  char const* name;
  void (*compute)(meeting const& m, block& home, warp& w);
  bool orders_memory = false;          ///< warp_sync alone
};
void meet(collective const& what, std::uint32_t lanes, void* mine);

// --- asynchronous operations ----------------------------------------------------------------------------------------------------------

/// Something that the hardware does by itself after a thread asked for it. `issue` hands it to the machine, which calls `complete` once: at once
/// (eager), when nothing else can go on or a wait forces it (late), or anywhere between (random). An operation whose completion nobody may depend on
/// without a wait (wgmma) says `only_by_wait`: then a stall does not complete it.
class async_op {
 public:
  async_op() = default;
  async_op(async_op const&) = delete;
  async_op& operator=(async_op const&) = delete;
  virtual ~async_op();                 ///< tells the race detector
  virtual void complete() = 0;

  char const* name = "";               ///< "tma_load_2d"
  thread* issuer = nullptr;            ///< set by issue
  int issuer_id = 0;
  block* home = nullptr;               ///< set by issue, unless it is set already
  place asked;                         ///< set by issue, unless it is set already
  bool done = false;                   ///< set by the machine after complete
  bool only_by_wait = false;
  bool release_when_done = true;       ///< the machine deletes it then; false: its owner does, after `done`
  bool may_outlive_block = false;      ///< else it is an error when the block ends first
  void* race = nullptr;                ///< of the race detector
  /// Shared memory that it reads or writes, listed before `issue`, which tells the race detector: also when it completes at once.
  struct touch {
    void const* at;
    std::size_t bytes;
    bool write;
  };
  std::vector<touch> touches;
};
/// Takes ownership (deleted when done, or at the launch's end). Returns it, which is dangling when it is done and release_when_done.
void issue(async_op* op);
/// Completes it now, if it has not been. A wait for it.
void force(async_op& op);

// --- memory ---------------------------------------------------------------------------------------------------------------------------

/// The shared window: what cvta.to.shared gives. Starts at 1024 (as dynamic shared memory does on sm_90) so that address and alignment agree; of another
/// block of the cluster by mapa: its rank + 1 in bits 24 and up.
inline constexpr std::uint32_t window_start = 1024;
std::uint32_t shared_address(void const* in_shared);
/// The byte behind an address of the window, `bytes` of which must lie in the block's (or, for a cluster address, the other block's) shared memory.
std::byte* shared_pointer(std::uint32_t address, std::size_t bytes, char const* name);
/// The block whose shared memory holds an address; null: not shared memory.
block* block_of(void const* p);
/// Fails unless all the bytes lie in the running block's shared memory.
void check_shared(void const* p, std::size_t bytes, std::size_t alignment, char const* name);
/// Fails if the bytes are shared memory or, in a program with AddressSanitizer, not addressable.
void check_global(void const* p, std::size_t bytes, std::size_t alignment, char const* name);
std::uint64_t hash(void const* p, std::size_t bytes);
/// Called at thread begin and end by the core; the matrix instructions define them (weak here: null without).
[[gnu::weak]] void matrix_thread_end(thread& t);       ///< reports groups in flight
[[gnu::weak]] void matrix_thread_abandoned(thread& t); ///< frees t.matrix
[[gnu::weak]] void matrix_warp_end(warp& w);           ///< frees w.matrix

// --- the race detector ----------------------------------------------------------------------------------------------------------------

/// Is told of everything that orders or touches memory. Set once, before main, by the race flavour's own object; null in other programs.
/// Calls come on the running fibre, or on whatever stack the scheduler runs on; `self()` is the thread meant unless one is given.
struct observer {
  virtual ~observer() = default;
  virtual void launch_begin(char const* kernel) = 0;
  virtual void launch_end() = 0;
  /// The host has waited for, or ordered, all launches so far before those that follow: options or runtime calls began.
  virtual void launches_ordered() {}
  virtual void block_begin(block& b) = 0;                 ///< shared memory is fresh; its threads follow
  virtual void block_end(block& b) = 0;                   ///< frees b.race and what hangs on its sync points
  virtual void thread_begin(thread& t) = 0;
  virtual void thread_end(thread& t) = 0;

  // Barriers of every kind: arrivals release into the phase that is going on; then it ends; then each waiter acquires what that phase gathered.
  virtual void arrive(sync_point& s, thread& t) = 0;
  virtual void arrive(sync_point& s, async_op& op) = 0;   ///< a completed copy's bytes
  virtual void arrive_copies(sync_point& s, thread& t, thread_copy const* first, std::size_t count) = 0;   ///< cp.async.mbarrier.arrive
  virtual void phase_end(sync_point& s) = 0;
  virtual void acquire(sync_point& s, thread& t) = 0;     ///< of the phase that ended last
  virtual void sync_begin(sync_point& s) = 0;             ///< a fresh mbarrier or meeting: forget what s.race held
  virtual void sync_end(sync_point& s) = 0;               ///< frees s.race

  virtual void fence_proxy_async(thread& t) = 0;
  virtual void fence_gpu(thread& t) = 0;
  virtual void global_release(thread& t, void const* at) = 0;    ///< st.release, atomics with release
  virtual void global_acquire(thread& t, void const* at) = 0;    ///< ld.acquire, atomics with acquire

  // The library's own accesses for a thread: ldmatrix rows, atomics, DSMEM. Generic proxy.
  virtual void access(thread& t, void const* at, std::size_t bytes, bool write, bool atomic, place const& where) = 0;

  // Asynchronous operations, through the async proxy (TMA, bulk, wgmma) as agents of their own. issue: joins its issuer's history; op.touches says what it
  // will read or write of shared memory. done: it has completed. waited: thread t has waited for it (of a bulk store: for the reading of its source).
  // dropped: it is about to be deleted, done or not.
  virtual void issue(async_op& op, thread& t) = 0;
  virtual void done(async_op& op) = 0;
  virtual void waited(async_op& op, thread& t) = 0;
  virtual void dropped(async_op& op) = 0;                ///< frees op.race
  // cp.async: generic proxy, of the thread's own.
  virtual void copy_issue(thread_copy& c, thread& t) = 0;
  virtual void copy_waited(thread_copy& c, thread& t) = 0;       ///< then the copy's writes are the thread's own
  virtual void copy_dropped(thread_copy& c) = 0;                 ///< frees c.race

  virtual conflict_count take_conflicts() = 0;
};
extern observer* watcher;

// --- primitives with arguments known at run time --------------------------------------------------------------------------------------
// device/'s own functions are templates or have one name a variant; these are what they call, for an interpreter.

enum class shuffle_kind : std::uint8_t { up, down, bfly, idx };   ///< as PTX orders them
/// shfl.sync with PTX's operand c (clamp in bits 0 .. 4, segment mask in bits 8 .. 12). `inside`: PTX's predicate; may be null.
std::uint32_t shfl(shuffle_kind kind, std::uint32_t lanes, std::uint32_t value, std::uint32_t b, std::uint32_t c, bool* inside = nullptr);
enum class redux_kind : std::uint8_t { add, min_u, max_u, min_s, max_s, and_, or_, xor_ };
std::uint32_t redux(redux_kind kind, std::uint32_t lanes, std::uint32_t value);
enum class vote_kind : std::uint8_t { ballot, all, any, uni };
std::uint32_t vote(vote_kind kind, std::uint32_t lanes, bool mine);
enum class atomic_kind : std::uint8_t { add, min_u, max_u, min_s, max_s, and_, or_, xor_, exch, cas, inc, dec };
/// Shared or global memory of 4 or 8 bytes; the old value.
std::uint64_t atomic(atomic_kind kind, int bytes, void* at, std::uint64_t value, std::uint64_t compare = 0, bool acquire = false,
                     bool release = false);

void block_sync();
void bar_sync(int barrier, int threads);               ///< also barrier 0; threads −1: all of the block
void bar_arrive(int barrier, int threads);
void cp_async(void* to_shared, void const* from_global, int bytes, int from);
void cp_async_wait(int pending);
void bulk_wait(int pending, bool read);
/// of: at the same place of another block of the cluster.
void mbarrier_arrive(device::mbarrier* b, std::uint32_t count, block* of = nullptr);
void mbarrier_expect(device::mbarrier* b, std::uint32_t bytes);
/// may_wait: blocks for a while (try_wait); else only lets others run (test_wait).
bool mbarrier_test(device::mbarrier* b, std::uint32_t parity, bool may_wait);
/// Bytes of an asynchronous operation have come: for operations that report to an mbarrier.
void mbarrier_complete_bytes(device::mbarrier* b, std::uint32_t bytes, async_op& by);
void bulk_load(void* to_shared, void const* from_global, std::uint32_t bytes, device::mbarrier* b);
void bulk_store(void* to_global, void const* from_shared, std::uint32_t bytes);
/// blocks: 0 = this block alone; else the multicast mask.
void tma_load(void* to_shared, device::tensor_map const* map, device::mbarrier* b, int dimensions, int const* at, std::uint32_t blocks = 0);
void tma_store(device::tensor_map const* map, void const* from_shared, int dimensions, int const* at);
void setmaxnreg(int registers, bool more);
std::uint32_t lop3(std::uint32_t a, std::uint32_t b, std::uint32_t c, int table);

}  // namespace moesaic::device_model::internal
