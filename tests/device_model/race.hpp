// Who knows of what: logical clocks of the threads and asynchronous operations of a cluster, and for every byte of its shared memory who wrote it and
// who read it since. Turns accesses and synchronisation into races, however the threads happened to run.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace moesaic::device_model::race {

// Happens-before as in FastTrack (Flanagan and Freund, PLDI 2009), with three additions.
//  - Clocks of threads that meet are set to one value, so that readers of a warp are one entry with a mask of lanes, and a barrier of all threads is one
//    number (`floor`): what is not younger is known.
//  - What a thread knows of others is an immutable snapshot, shared by all that know the same: synchronising by a barrier makes one, not one a thread.
//  - An asynchronous operation is an agent of its own. Agents share a slot where one knows of the other, so that there are as many as run at once.

/// What somebody knows: of each thread, up to which of its clocks; of each operation slot, up to which operation.
struct history {
  std::uint32_t floor = 0;                      ///< of every thread
  std::uint32_t newest = 0;                     ///< the largest clock released into it
  std::vector<std::uint32_t> of_thread;
  std::vector<std::uint32_t> fenced;            ///< of each thread: up to which clock it has fenced its writes for the async proxy, as far as known
  std::vector<std::uint32_t> of_slot;           ///< those missing: 0

  std::uint32_t slot(std::size_t s) const { return s < of_slot.size() ? of_slot[s] : 0; }
};
using known = std::shared_ptr<history const>;

/// Something that threads release into and acquire from, phase by phase.
struct meeting_point {
  std::shared_ptr<history> gathered;            ///< of the phase that is going on
  known joined_last;                            ///< what went into it last: joining the same again changes nothing
  std::size_t arrivals = 0;
  known ended;                                  ///< of the phase that ended last
};

/// A thread or an operation slot, in 16 bits.
using agent = std::uint16_t;
inline constexpr agent slot_bit = 0x8000;
constexpr bool is_slot(agent a) { return (a & slot_bit) != 0; }

enum class access_kind : std::uint8_t { read, write, atomic };

/// What stands in memory about an access: its place is a number of the caller's.
struct access_record {
  agent by = 0;
  std::uint32_t clock = 0;
  std::uint32_t place = 0;
  access_kind kind = access_kind::read;
  bool in_flight = false;                       ///< a copy that its thread has not waited for
};

enum class problem : std::uint8_t {
  race,                                         ///< nothing orders the two
  proxy,                                        ///< ordered, but the writing thread did not fence for the async proxy
  unwritten,                                    ///< read before anybody wrote; no second access
};
inline constexpr int global_memory = -1;        ///< in the place of a block: offsets are addresses, and what was there was written before
struct finding {
  problem what;
  int block;                                    ///< whose memory, or global_memory
  std::size_t offset;
  access_record before, now;
};

/// An asynchronous operation: an agent for as long as somebody may not know of it.
struct operation {
  agent by = 0;
  std::uint32_t clock = 0;
  known history;                                ///< of who asked
  known seen;                                   ///< what somebody acquires who waits for it
  int asked_by = -1;                            ///< a thread whose own accesses all come before; −1: none
  std::uint32_t fenced = 0;                     ///< of asked_by
  known fence_history;                          ///< what asked_by knew when it fenced last
};

/// A copy of a thread's own (cp.async), for as long as it is under way.
struct thread_copy {
  int block = 0;
  std::size_t offset = 0, bytes = 0;
  std::uint32_t clock = 0;                      ///< its thread's, when it asked
  operation with;                               ///< clock 0: its thread waits for it by group; else it was released into a barrier
};

class detector {
 public:
  /// `blocks` blocks of `threads` threads, each with `bytes` of shared memory that nobody has written.
  detector(int blocks, int threads, std::size_t bytes, void (*tell)(void*, finding const&), void* told);
  ~detector();

  /// Of a block's thread, in what follows.
  int thread(int block, int index) const { return block * stride_ + index; }

  // Synchronisation.
  void release(meeting_point& m, int thread);
  void release(meeting_point& m, operation const& op);
  void end_phase(meeting_point& m);
  void acquire(meeting_point const& m, int thread);
  void fence_proxy_async(int thread);

  // Accesses of threads, through the generic proxy.
  void access(int thread, int block, std::size_t offset, std::size_t bytes, access_kind kind, std::uint32_t place);

  // Operations, through the async proxy. Their accesses are told when they are asked for: what orders them is what their issuer knows then, and nobody
  // knows of them before a release of theirs or a wait.
  operation begin(int thread);
  operation begin_of_warp(int first_thread, int lanes);   ///< asked for by all lanes: what is not known to every one of them is not known
  void access(operation const& op, int block, std::size_t offset, std::size_t bytes, bool write, std::uint32_t place);
  void waited(operation const& op, int thread);

  // cp.async: writes through the generic proxy that are nobody's until the thread waits; then they are its own.
  thread_copy begin_copy(int thread, int block, std::size_t offset, std::size_t bytes, std::uint32_t place);
  void waited(thread_copy& c, int thread);
  void release(meeting_point& m, int thread, thread_copy* const* copies, std::size_t count);

 private:
  struct cell;
  struct reader;
  struct actor;
  struct thread_state {
    known knows;
    std::uint32_t clock = 1;
    std::uint32_t fenced = 0;
    known fence_history;
  };
  struct memory;
  struct page;

  known join(known const& a, known const& b);
  static void join_into(history& into, history const& from);
  std::shared_ptr<history> gather(meeting_point& m, known const& from);
  operation with_slot(known history);
  bool ordered(actor const& who, agent before, std::uint32_t clock) const;
  bool lanes_ordered(actor const& who, reader const& r) const;
  void touch(actor const& who, int block, std::size_t offset, std::size_t bytes, access_kind kind);
  void touch_cell(actor const& who, cell& c, int block, std::size_t offset, access_kind kind);
  void check_write(actor const& who, cell const& c, int block, std::size_t offset, access_kind kind);
  void drop_readers(cell& c);
  void add_reader(actor const& who, cell& c, access_kind kind, int block, std::size_t offset);
  cell* split(cell& c);
  void say(problem what, actor const& who, int block, std::size_t offset, access_record const& before, access_kind kind);
  cell& word_at(int block, std::size_t number);
  template <class Do>
  void each_cell(int block, std::size_t offset, std::size_t bytes, Do what);

  int threads_, stride_, count_;               // threads that exist; numbers a block has (whole warps); numbers in all
  void (*tell_)(void*, finding const&);
  void* told_;
  std::vector<thread_state> of_;
  std::vector<std::uint32_t> slots_;            ///< newest operation of each
  std::vector<memory> memory_;
  std::unordered_map<std::size_t, std::unique_ptr<page>> pages_;   ///< of global memory, where it was touched
  page* latest_page_ = nullptr;
  std::size_t latest_page_number_ = 0;
  std::vector<reader> more_readers_;            ///< chained, behind the one in a cell
  std::uint32_t free_reader_ = 0xffff'ffffu;    ///< first of those not in use
  std::vector<std::array<cell, 4>> split_;      ///< words whose bytes differ
  std::vector<std::uint32_t> free_split_;

  struct remembered_join {
    known a, b, result;
  };
  static constexpr std::size_t remembered = 16;
  remembered_join joins_[remembered];
};

/// Global memory between the clusters of a grid, byte by byte: they race unless one has acquired what the other released, whatever the threads.
class grid_memory {
 public:
  struct conflict {
    std::uint32_t cluster = 0, place = 0;       ///< of who came before; cluster 0: there is none
    access_kind kind = access_kind::read;
  };
  /// Clusters are numbered from 1.
  conflict access(std::uint32_t cluster, std::size_t address, std::size_t bytes, access_kind kind, std::uint32_t place);
  void release(std::uint32_t cluster, void const* at);
  void acquire(std::uint32_t cluster, void const* at);
  void clear();

 private:
  struct last {
    std::uint32_t cluster = 0, place = 0;
  };
  static constexpr std::uint32_t several = 0xffff'ffffu;
  struct cell {                                 ///< four bytes, or one where they differ
    last write, read, change;
    std::uint32_t bytes = 0;                    ///< of split_, from 1: then nothing else
  };
  static constexpr std::size_t page_words = 256;
  using page = std::array<cell, page_words>;
  using clusters = std::unordered_set<std::uint32_t>;
  bool conflicts(std::uint32_t cluster, last const& before) const;
  static void note(last& of, std::uint32_t cluster, std::uint32_t place);
  void touch(cell& c, std::uint32_t cluster, access_kind kind, std::uint32_t place, conflict& found) const;

  std::unordered_map<std::size_t, std::unique_ptr<page>> pages_;
  page* latest_ = nullptr;
  std::size_t latest_number_ = 0;
  std::vector<std::array<cell, 4>> split_;
  std::unordered_map<void const*, clusters> released_;
  std::unordered_map<std::uint32_t, clusters> known_;
};

/// Shared-memory instructions of warps and their passes, from what each lane did at each place: the k-th time of every lane is one instruction.
class conflict_counter {
 public:
  void note(int thread, std::uint32_t place, std::size_t offset, std::size_t bytes);
  /// Ends a block: counts what was noted. An access of 16 bytes of a warp is four instructions of 128 bytes, as the memory serves it.
  void end_block();
  std::uint64_t instructions = 0, passes = 0;

 private:
  struct lane_accesses {
    std::vector<std::uint32_t> offset;
  };
  struct site {
    std::size_t bytes = 0;
    std::vector<lane_accesses> of_thread;
  };
  std::vector<std::pair<std::uint64_t, site>> sites_;
  std::vector<std::uint32_t> table_;            ///< of sites_, by hash; 0: free
  site& find(std::uint64_t key);
};

}  // namespace moesaic::device_model::race
