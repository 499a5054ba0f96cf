// fiber.h - one fibre per CUDA thread of a block, run by a scheduler that can choose the order. A
// fibre runs until it has to wait for others (a barrier, a warp collective), so every interleaving
// that the scheduler can choose is one that the card could show too. Nothing here aborts: a fault
// is written down, the block is given up, and the launch returns it.
//
// A block's fibres all live on the operating-system thread that runs the block; several such
// threads run blocks side by side.
#pragma once
#include <sys/mman.h>

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define SIM_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIM_ADDRESS_SANITIZER 1
#endif
#endif
#ifdef SIM_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#endif

namespace sim {

constexpr unsigned kWarp = 32;
constexpr unsigned kMaxThreads = 1024;
/// Shared memory of one block on the smallest card that is supported (sm_86, sm_89, sm_120): 99
/// KiB.
constexpr size_t kSharedLimit = 99 * 1024;
/// Bytes before and after each shared array that no kernel may touch.
constexpr size_t kGuard = 64;
#ifdef SIM_ADDRESS_SANITIZER
constexpr size_t kStack = 512 << 10;  // its stack frames are several times as large
#else
constexpr size_t kStack = 128 << 10;
#endif
constexpr uint64_t kStackMark = 0x5ac4de5ac4de5ac4;

/// Order in which fibres, and blocks, go on. Kernels must give the same bits under all of them.
enum class Schedule : uint32_t {
  Forward,   // thread 0 first
  Reverse,   // the last thread first
  Shuffled,  // another order at every turn
  // One warp runs as far as it can before the next starts: shows what is overwritten too early.
  GreedyFirst,
  GreedyLast,  // the same from the last warp on
};

/// A place in a kernel.
struct Site {
  const char* file;
  int line;
  const char* what;
  bool operator==(const Site& other) const {
    return line == other.line && same(what, other.what) && same(file, other.file);
  }
  // Nearly always the same literal; a header's may have several copies.
  static bool same(const char* a, const char* b) { return a == b || !strcmp(a, b); }
  const char* name() const {
    const char* slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
  }
};
// The place of the call, as default arguments: SIM_HERE at the end of a parameter list,
// SIM_SITE("what") in the body.
#define SIM_HERE const char *sim_file = __builtin_FILE(), int sim_line = __builtin_LINE()
#define SIM_SITE(what) (::sim::Site{sim_file, sim_line, what})

#if defined(__x86_64__)
// sim_switch(old, next): keeps the callee-saved registers on this stack, stores its pointer in
// *old, goes on with `next`.
extern "C" void sim_switch(void** old, void* next);
asm(R"(
.pushsection .text
.weak sim_switch
.hidden sim_switch
.type sim_switch,@function
sim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx
.size sim_switch,.-sim_switch
.popsection
)");
inline void* first_frame(void* top, void (*start)()) {
  void** sp = static_cast<void**>(top);
  *--sp = nullptr;  // where `start` would return to: it never does
  *--sp = reinterpret_cast<void*>(start);
  for (int i = 0; i < 6; ++i) *--sp = nullptr;
  return sp;
}
#elif defined(__aarch64__)
extern "C" void sim_switch(void** old, void* next);
asm(R"(
.pushsection .text
.weak sim_switch
.hidden sim_switch
.type sim_switch,%function
sim_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size sim_switch,.-sim_switch
.popsection
)");
inline void* first_frame(void* top, void (*start)()) {
  uint64_t* sp = static_cast<uint64_t*>(top) - 20;
  memset(sp, 0, 160);
  sp[11] = reinterpret_cast<uint64_t>(start);  // x30, where `ret` goes
  return sp;
}
#else
#error "the simulator switches stacks on x86-64 and aarch64 only"
#endif

/// A copy that cp.async has issued and nothing has waited for.
struct Copy {
  void* to;
  const void* from;
  unsigned bytes, filled;  // `filled` of `bytes` come from `from`, the rest is zero
  uint8_t early[16];       // the source as it was when the copy was issued
};

enum class State : uint8_t { Ready, AtBarrier, InWarp, Done };

struct Fiber {
  void* sp = nullptr;
  unsigned thread = 0, lane = 0, warp = 0;
  State state = State::Done;
  Site at{"", 0, ""};
  std::vector<Copy> copies;       // issued, oldest first
  std::vector<unsigned> commits;  // how many of `copies` each committed group ends at
};

/// Lanes of one warp that have come to one instruction with one mask.
struct Gathering {
  uint32_t mask = 0, arrived = 0;
  Site at{"", 0, ""};
  const void* in[kWarp];
  void* out[kWarp];
};

struct Warp {
  uint32_t returned = 0;  // lanes that have left the kernel, or were never there
  std::vector<Gathering> open;
};

/// A shared array.
struct Shared {
  const void* key;
  size_t bytes, room;
  uint8_t* memory;
  uint8_t* data() const { return memory + kGuard; }
};

struct Request {
  void (*kernel)(void** arguments);
  const char* name;
  void** arguments;
  uint32_t grid[3];
  uint32_t threads;
  uint32_t shared_bytes;
  Schedule schedule;
  uint8_t poison;  // every byte of shared memory and of copies in flight begins as this
  // cp.async reads its source at the wait (1) or when issued (0); the card may do either.
  uint32_t late_reads;
};

/// What one operating-system thread needs to run blocks, kept between launches.
struct Runner {
  const Request* request = nullptr;
  unsigned block[3] = {0, 0, 0};
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<unsigned> order;
  std::vector<Shared> shared;
  std::vector<uint8_t*> stacks;
  unsigned live = 0, at_barrier = 0;
  int votes[3] = {0, 0, 0};  // and, or, count of a barrier with a predicate
  int outcome[3] = {0, 0, 0};
  Site barrier{"", 0, ""};
  void* scheduler = nullptr;
  Fiber* current = nullptr;
  bool failed = false;
  char message[1024] = {0};

  ~Runner() {
    for (uint8_t* stack : stacks) munmap(stack, kStack);
    for (Shared& array : shared) free(array.memory);
  }
};

constinit inline thread_local Runner* runner = nullptr;

inline void describe(Site at, const char* format, va_list rest) {
  Runner& r = *runner;
  int n = snprintf(r.message, sizeof r.message,
                   "%s, block (%u, %u, %u), thread %u, %s:%d: ", r.request->name, r.block[0],
                   r.block[1], r.block[2], r.current ? r.current->thread : 0, at.name(), at.line);
  if (n > 0 && size_t(n) < sizeof r.message)
    vsnprintf(r.message + n, sizeof r.message - n, format, rest);
  r.failed = true;
}

/// Writes a fault down and gives the block up; does not return.
[[noreturn]] __attribute__((format(printf, 2, 3))) inline void fail(Site at, const char* format,
                                                                    ...) {
  va_list rest;
  va_start(rest, format);
  describe(at, format, rest);
  va_end(rest);
  void* nowhere;
  sim_switch(&nowhere, runner->scheduler);
  __builtin_unreachable();
}

inline void park(State state, Site at) {
  Fiber& me = *runner->current;
  me.state = state;
  me.at = at;
  sim_switch(&me.sp, runner->scheduler);
}

inline void open_barrier() {
  Runner& r = *runner;
  memcpy(r.outcome, r.votes, sizeof r.votes);
  for (Fiber& fiber : r.fibers)
    if (fiber.state == State::AtBarrier) fiber.state = State::Ready;
  r.at_barrier = 0;
}

/// Waits for all threads of the block that have not returned. `vote` is counted into `outcome`.
inline void barrier(Site at, int vote) {
  Runner& r = *runner;
  if (r.at_barrier == 0) {
    r.barrier = at;
    r.votes[0] = 1;
    r.votes[1] = r.votes[2] = 0;
  } else if (!(r.barrier == at)) {
    fail(at, "divergent barrier: this thread is at this %s, others of its block wait at %s:%d (%s)",
         at.what, r.barrier.name(), r.barrier.line, r.barrier.what);
  }
  r.votes[0] &= vote != 0;
  r.votes[1] |= vote != 0;
  r.votes[2] += vote != 0;
  if (++r.at_barrier == r.live)
    open_barrier();
  else
    park(State::AtBarrier, at);
}

/// Each lane of `mask` hands in two pointers; the last to come runs `op(Gathering&)` for all, then
/// all go on.
template <class Op>
void collective(uint32_t mask, Site at, const void* in, void* out, Op&& op) {
  Runner& r = *runner;
  Fiber& me = *r.current;
  Warp& warp = r.warps[me.warp];
  const uint32_t bit = 1u << me.lane;
  if (!(mask & bit))
    fail(at, "%s with mask %08x by lane %u, which is not in it", at.what, mask, me.lane);
  if (mask & warp.returned)
    fail(at, "%s with mask %08x, but lanes %08x have returned or do not exist", at.what, mask,
         mask & warp.returned);
  Gathering* group = nullptr;
  for (Gathering& open : warp.open) {
    if (!(open.mask & mask)) continue;
    if (!(open.at == at))
      fail(at, "divergent warp: lane %u is at this %s, lanes %08x wait at %s:%d (%s)", me.lane,
           at.what, open.arrived, open.at.name(), open.at.line, open.at.what);
    if (open.mask != mask)
      fail(at, "%s with mask %08x by lane %u, with mask %08x by lanes %08x", at.what, mask, me.lane,
           open.mask, open.arrived);
    group = &open;
  }
  if (!group) {
    warp.open.emplace_back();
    group = &warp.open.back();
    group->mask = mask;
    group->at = at;
  }
  group->arrived |= bit;
  group->in[me.lane] = in;
  group->out[me.lane] = out;
  if (group->arrived != mask) {
    park(State::InWarp, at);
    return;
  }
  op(*group);
  const unsigned first = me.warp * kWarp;
  for (uint32_t others = mask & ~bit; others; others &= others - 1)
    r.fibers[first + unsigned(__builtin_ctz(others))].state = State::Ready;
  if (group != &warp.open.back()) *group = warp.open.back();
  warp.open.pop_back();
}

inline void fiber_main() {
  Runner& r = *runner;
  r.request->kernel(r.request->arguments);
  Fiber& me = *r.current;
  if (!me.copies.empty()) {
    // Copies that nobody waited for may land after the block's shared memory has gone to another.
    fail(me.at, "this thread returns with %zu cp.async copies that it never waited for",
         me.copies.size());
  }
  Warp& warp = r.warps[me.warp];
  warp.returned |= 1u << me.lane;
  for (const Gathering& open : warp.open)
    if (open.mask >> me.lane & 1)
      fail(open.at, "lane %u returns, but lanes %08x wait for it at this %s", me.lane, open.arrived,
           open.at.what);
  me.state = State::Done;
  --r.live;
  if (r.live && r.at_barrier == r.live) open_barrier();
  sim_switch(&me.sp, r.scheduler);
  __builtin_unreachable();
}

/// The array of this block that belongs to the declaration `key`.
inline uint8_t* shared_array(const void* key, size_t bytes, Site at) {
  Runner& r = *runner;
  size_t total = bytes;
  for (const Shared& array : r.shared) {
    if (array.key == key) return array.data();
    total += array.bytes;
  }
  if (total > kSharedLimit)
    fail(at, "%zu bytes of shared memory, a block may have %zu", total, kSharedLimit);
  Shared array{key, bytes, (bytes + 2 * kGuard + 1023) & ~size_t(1023), nullptr};
#ifdef SIM_ADDRESS_SANITIZER
  array.memory = static_cast<uint8_t*>(aligned_alloc(1024, array.room + 1024));
  ASAN_POISON_MEMORY_REGION(array.memory, kGuard);
  ASAN_POISON_MEMORY_REGION(array.data() + bytes, array.room - kGuard - bytes);
#else
  array.memory = static_cast<uint8_t*>(aligned_alloc(1024, array.room));
  memset(array.memory, 0xA5, array.room);
#endif
  memset(array.data(), r.request->poison, bytes);
  r.shared.push_back(array);
  return array.data();
}

inline void free_shared() {
  for (Shared& array : runner->shared) {
#ifdef SIM_ADDRESS_SANITIZER
    ASAN_UNPOISON_MEMORY_REGION(array.memory, array.room);
#endif
    free(array.memory);
  }
  runner->shared.clear();
}

inline void check_guards() {
#ifndef SIM_ADDRESS_SANITIZER
  Runner& r = *runner;
  r.current = nullptr;
  for (const Shared& array : r.shared)
    for (size_t i = 0; i < array.room && !r.failed; ++i) {
      if (i == kGuard) i += array.bytes;
      if (i >= array.room || array.memory[i] == 0xA5) continue;
      const long offset = long(i) - long(kGuard);
      snprintf(r.message, sizeof r.message,
               "%s, block (%u, %u, %u): byte %ld of a shared array of %zu bytes was written: out "
               "of bounds",
               r.request->name, r.block[0], r.block[1], r.block[2], offset, array.bytes);
      r.failed = true;
    }
  for (unsigned i = 0; i < r.fibers.size() && !r.failed; ++i)
    if (*reinterpret_cast<uint64_t*>(r.stacks[i]) != kStackMark) {
      snprintf(r.message, sizeof r.message,
               "%s, block (%u, %u, %u), thread %u: more than %zu KiB of stack", r.request->name,
               r.block[0], r.block[1], r.block[2], i, kStack >> 10);
      r.failed = true;
      memcpy(r.stacks[i], &kStackMark, sizeof kStackMark);
    }
#endif
}

/// No thread can go on: says who waits where.
inline void report_deadlock() {
  Runner& r = *runner;
  int n =
      snprintf(r.message, sizeof r.message, "%s, block (%u, %u, %u): deadlock:", r.request->name,
               r.block[0], r.block[1], r.block[2]);
  for (unsigned i = 0; i < r.fibers.size();) {
    const Fiber& first = r.fibers[i];
    unsigned last = i;
    while (last + 1 < r.fibers.size() && r.fibers[last + 1].state == first.state &&
           (first.state == State::Done || r.fibers[last + 1].at == first.at))
      ++last;
    if (n > 0 && size_t(n) < sizeof r.message) {
      char* rest = r.message + n;
      const size_t room = sizeof r.message - n;
      if (first.state == State::Done)
        n += snprintf(rest, room, " threads %u..%u have returned;", i, last);
      else
        n += snprintf(rest, room, " threads %u..%u wait at %s:%d (%s);", i, last, first.at.name(),
                      first.at.line, first.at.what);
    }
    i = last + 1;
  }
  r.failed = true;
}

inline bool step(unsigned thread) {
  Runner& r = *runner;
  Fiber& fiber = r.fibers[thread];
  if (r.failed || fiber.state != State::Ready) return false;
  r.current = &fiber;
  sim_switch(&r.scheduler, fiber.sp);
  return true;
}

inline void prepare(const Request& request) {
  Runner& r = *runner;
  const unsigned n = request.threads;
  r.request = &request;
  r.failed = false;
  r.message[0] = 0;
  r.fibers.resize(n);
  r.warps.resize((n + kWarp - 1) / kWarp);
  r.live = n;
  r.at_barrier = 0;
  while (r.stacks.size() < n) {
    void* stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED) {
      snprintf(r.message, sizeof r.message, "%s: no memory for the stacks of %u threads",
               request.name, n);
      r.failed = true;
      return;
    }
    memcpy(stack, &kStackMark, sizeof kStackMark);
    r.stacks.push_back(static_cast<uint8_t*>(stack));
  }
  for (unsigned w = 0; w < r.warps.size(); ++w) {
    const unsigned lanes = n - w * kWarp < kWarp ? n - w * kWarp : kWarp;
    r.warps[w].returned = lanes == kWarp ? 0 : ~0u << lanes;
    r.warps[w].open.clear();
  }
  for (unsigned i = 0; i < n; ++i) {
    Fiber& fiber = r.fibers[i];
    fiber.thread = i;
    fiber.lane = i % kWarp;
    fiber.warp = i / kWarp;
    fiber.state = State::Ready;
    fiber.at = Site{"", 0, ""};
    fiber.copies.clear();
    fiber.commits.clear();
#ifdef SIM_ADDRESS_SANITIZER
    // A block that was given up leaves its frames' marks behind.
    ASAN_UNPOISON_MEMORY_REGION(r.stacks[i], kStack);
#endif
    fiber.sp = first_frame(r.stacks[i] + kStack - 64, fiber_main);
  }
}

inline void schedule_fibers(Schedule schedule, uint64_t seed) {
  Runner& r = *runner;
  const unsigned n = unsigned(r.fibers.size());
  r.order.resize(n);
  for (unsigned i = 0; i < n; ++i) r.order[i] = schedule == Schedule::Reverse ? n - 1 - i : i;
  uint64_t state = 0x9E3779B97F4A7C15ull ^ (seed + 1) * 0xD1B54A32D192ED03ull;
  while (r.live && !r.failed) {
    bool ran = false;
    if (schedule == Schedule::Shuffled)
      for (unsigned i = n - 1; i; --i) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        std::swap(r.order[i], r.order[state % (i + 1)]);
      }
    if (schedule == Schedule::GreedyFirst || schedule == Schedule::GreedyLast) {
      const unsigned warps = unsigned(r.warps.size());
      for (unsigned v = 0; v < warps; ++v) {
        const unsigned w = schedule == Schedule::GreedyLast ? warps - 1 - v : v;
        for (bool more = true; more;) {
          more = false;
          for (unsigned i = w * kWarp; i < n && i < (w + 1) * kWarp; ++i) more |= step(i);
          ran |= more;
        }
      }
    } else {
      for (unsigned i : r.order) ran |= step(i);
    }
    if (!ran && !r.failed) report_deadlock();
  }
}

/// Runs one block; false where `message` says what went wrong.
inline bool run_block(Runner& r, const Request& request, uint64_t index) {
  Runner* outer = runner;
  runner = &r;
  r.block[0] = unsigned(index % request.grid[0]);
  r.block[1] = unsigned(index / request.grid[0] % request.grid[1]);
  r.block[2] = unsigned(index / request.grid[0] / request.grid[1]);
  r.current = nullptr;
  if (request.threads == 0 || request.threads > kMaxThreads) {
    snprintf(r.message, sizeof r.message, "%s: %u threads in a block, 1 to 1024 are possible",
             request.name, request.threads);
    r.failed = true;
  } else {
    prepare(request);
    if (!r.failed) schedule_fibers(request.schedule, index);
    if (!r.failed) check_guards();
  }
  free_shared();
  runner = outer;
  return !r.failed;
}

}  // namespace sim
