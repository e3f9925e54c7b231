/* libcuda.so.1, private to its files: driver.c (device, context, modules, launches),
 * driver_memory.c, stream.c (queues, events), graph.c (capture, graphs), faults.c.
 *
 * Work is put into queues and done late: when something waits for it. So a host that reads before
 * it waits, or a stream that does not wait for another, sees what it would see on a bad day.
 * EMU_SEED shuffles which stream goes on first, EMU_STREAMS=eager does everything at once. */
#ifndef EMU_DRIVER_H
#define EMU_DRIVER_H

#include "emu.h"
#include "runtime/cuda/api.h"

typedef enum {
  WORK_LAUNCH,
  WORK_COPY, /* any direction: addresses above GLOBAL_BASE are the device's */
  WORK_SET,
  WORK_RECORD,
  WORK_WAIT,
  WORK_LIBRARY, /* a function of another stand-in */
  WORK_GRAPH,
  WORK_NOTHING /* in graphs: joins dependencies */
} WorkKind;

/* A function of a library stand-in, run when its turn comes; a CUresult. */
typedef CUresult (*LibraryWork)(const void *args);

typedef struct Work {
  WorkKind kind;
  Kernel *kernel;
  uint32_t grid[3], block[3], dynamic_shared;
  uint8_t *args; /* parameters or library arguments or staged bytes; owned */
  uint64_t to, from, bytes;
  uint32_t value, element; /* WORK_SET */
  CUevent event;
  uint64_t recording; /* of the event: this one is made, or waited for */
  LibraryWork library;
  double time_us; /* of the library's work */
  CUgraphExec exec;
  uint32_t *needs; /* graph nodes: indices of earlier ones; owned */
  uint32_t n_needs, n_args;
} Work;

typedef struct Capture Capture;

struct CUstream_st {
  Work *queue;
  size_t first, n, cap;
  unsigned flags;
  Capture *capture; /* NULL: not capturing */
  uint32_t *tips;   /* capture: nodes that the next one needs */
  uint32_t n_tips;
  CUstream next;
};

struct CUevent_st {
  uint64_t recorded, done; /* recordings asked for, made */
  double time_us;
  unsigned flags;
  Capture *capture; /* recorded in a capture, with these tips */
  uint32_t *tips;
  uint32_t n_tips;
  uint32_t users; /* queued works that name it, plus the handle */
  bool destroyed; /* the handle: what is queued goes on */
  CUevent next;   /* of the context's */
};

struct Capture {
  CUstream origin;
  int mode;
  bool invalid;
  Work *nodes;
  uint32_t n, cap;
  uint32_t streams; /* that take part */
};

struct CUgraph_st {
  Work *nodes;
  uint32_t n;
  CUgraph next; /* of the context's */
};

struct CUgraphExec_st {
  Work *nodes;
  uint32_t n;
  uint32_t users;   /* queued launches, plus the handle */
  CUgraphExec next; /* of the context's handles */
};

struct CUmod_st {
  Module *ptx;
  CUmodule next;
};

struct CUctx_st {
  int retained;
  Memory memory;
  CUresult sticky;
  CUmodule modules;
  CUstream streams; /* legacy stream first */
  struct CUstream_st legacy;
  CUevent events;
  CUgraph graphs;
  CUgraphExec execs;
  double time_us; /* virtual: what has been computed and copied */
  uint64_t seed;
  uint64_t launches, thread_insns;
  uint64_t late_launches; /* begun, for injected faults */
  struct Pinned {
    uint8_t *p;
    size_t bytes;
  } * pinned;
  size_t n_pinned;
};

extern struct CUctx_st emu_context; /* the one device's primary context */

/* ---- driver.c ---- */
/* Every call begins with one: takes the lock, counts the call for injected faults, and answers
 * before anything else what must be answered (not initialized, no context, sticky error). */
typedef enum { NEEDS_NOTHING, NEEDS_INIT, NEEDS_CONTEXT } Needs;
CUresult driver_enter(const char *name, Needs needs);
CUresult driver_leave(CUresult r);
#define ENTER(needs)                                                                               \
  do {                                                                                             \
    const CUresult enter_ = driver_enter(__func__, needs);                                         \
    if (enter_ != CUDA_SUCCESS)                                                                    \
      return driver_leave(enter_);                                                                 \
  } while (0)

/* ---- faults.c ---- */
CUresult fault_of_call(const char *name);  /* EMU_FAIL */
bool fault_of_allocation(void);            /* EMU_OOM */
CUresult fault_of_launch(uint64_t number); /* EMU_LAUNCH_ERROR, EMU_ILLEGAL_ADDRESS */

/* ---- stream.c ---- */
CUstream stream_of(CUstream s); /* NULL, 1: the legacy stream; 2: the same here */
bool stream_known(CUstream s);
/* Queues work (takes over args) or, when the stream captures, makes it a node. */
CUresult stream_put(CUstream s, Work *w);
void stream_finish(CUstream s); /* does all its work and what that waits for */
void stream_finish_all(void);
void stream_finish_blocking(void); /* what a call on the legacy stream waits for */
void stream_free_all(void);
void work_do(Work *w);
void work_free(Work *w);
void event_release(CUevent e);
bool event_known(CUevent e);

/* ---- graph.c ---- */
CUresult capture_put(CUstream s, Work *w);
CUresult capture_record(CUstream s, CUevent e);
CUresult capture_wait(CUstream s, CUevent e);
bool capture_forbids(CUresult *r); /* a call that is not allowed while a capture runs */
void capture_invalidate(Capture *c);
void graph_run(CUgraphExec exec);
void exec_release(CUgraphExec exec);
void graph_free_all(void);

/* ---- driver_memory.c ---- */
void memory_copy_any(uint64_t to, uint64_t from, uint64_t bytes);
void memory_set(uint64_t to, uint32_t value, uint32_t element, uint64_t n);
bool memory_is_pinned(const void *p, size_t bytes);
bool memory_is_device(uint64_t address);
void memory_free_pinned(void);
/* For library stand-ins: host bytes of device memory; NULL with the finding reported. */
__attribute__((visibility("default"))) uint8_t *
emu_library_access(const char *who, uint64_t address, uint64_t bytes, bool write);
__attribute__((visibility("default"))) CUresult
emu_library_put(CUstream s, LibraryWork run, const void *args, size_t bytes, double time_us);
/* Kernels launched and instructions of single threads run so far. */
/* Enters a call of the library: EMU_LOG, and the error that EMU_FAIL wants of it; 0: none. */
__attribute__((visibility("default"))) int emu_library_call(const char *name);
__attribute__((visibility("default"))) void emu_counts(uint64_t *launches, uint64_t *thread_insns);

/* Ends the context: what every later call answers. */
void driver_fail(CUresult error);

#define CUDA_SYM(name, args) __attribute__((visibility("default"))) CUresult name args;
#define LT_SYM(result, name, args)
#include "runtime/cuda/syms.def"
#undef CUDA_SYM
#undef LT_SYM

#endif
