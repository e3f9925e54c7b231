/* Stand-ins for an NVIDIA GPU, for tests on machines without one: types and prototypes of the whole
 * folder, by file.
 *
 *   PTX text -> ptx_text.c (tokens) -> ptx_decode.c (registers become slots) -> Kernel
 *   Kernel + grid -> launch.c (blocks, warps, divergence) -> handlers of ptx_ops.def
 *   handlers -> memory.c, shared.c (bounds, alignment, races, initialized?) -> report.c
 *   driver.c stream.c graph.c: libcuda.so.1;  cublaslt*.c: libcublasLt.so.13
 *
 * Everything runs under one lock on the calling thread; results do not depend on time or addresses.
 */
#ifndef EMU_H
#define EMU_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  LANES = 32,
  MAX_SLOTS = 18,         /* registers one instruction names: mma has 14 */
  MAX_THREADS = 1024,     /* of a block */
  MAX_SHARED = 232448,    /* bytes a block may opt in to, sm_90 */
  DEFAULT_SHARED = 49152, /* bytes without opting in */
  REGISTERS = 65536       /* of 32 bits, of a block */
};

/* ---- common.c: memory that is there or the program ends, text, environment ------------------- */
void *emu_alloc(size_t bytes);         /* zeroed */
void *emu_grow(void *p, size_t bytes); /* realloc; new bytes are not zeroed */
char *emu_copy_text(const char *s, size_t n);
uint64_t emu_random(uint64_t *state); /* splitmix64 */
int64_t emu_env(const char *name, int64_t otherwise);

/* ---- report.c: what was found wrong ---- */
typedef enum {
  FOUND_NOTHING,
#define FOUND(id, slug, cuda, text) FOUND_##id,
#include "found.def"
#undef FOUND
  FOUND_KINDS
} Found;

typedef struct Report {
  Found kind;
  char text[1536]; /* several lines, see README.md; the first is "emu: <slug>: <what>" */
} Report;

const char *found_slug(Found kind);
int found_cuda_error(Found kind);   /* the CUresult a device would end the launch with, or 719 */
bool found_enabled(Found kind);     /* EMU_IGNORE names the slugs not to look for */
void report_print(const Report *r); /* to $EMU_REPORT (appended) or stderr */

/* ---- memory.c: device memory ---- */

/* Device addresses are numbers of their own, not host pointers: a host dereference faults, and they
 * are the same in every run. Allocations have gaps between them, so that no overrun lands in
 * another. */
#define GLOBAL_BASE 0x4000000000000000u
#define SHARED_WINDOW 0x2000000000000000u /* generic addresses of shared memory */

enum { PAGE_BITS = 12, PAGE_BYTES = 1 << PAGE_BITS };

/* Who touched a granule of device memory last. A granule is 4 bytes until something narrower
 * touches the page. Tag: launch number in 12 bits (0: the host, or long ago), flag, block in 19
 * bits; a writer of 0 means never written. */
typedef struct {
  uint32_t *writer, *reader; /* NULL: page never touched */
  uint8_t shift;             /* log2 bytes of a granule: 2, 1 or 0 */
} ShadowPage;

enum { TAG_FLAG = 1 << 19, TAG_BLOCK = TAG_FLAG - 1, TAG_EPOCH_SHIFT = 20, TAG_HOST = 1 };

typedef struct Alloc {
  uint64_t lo; /* device address */
  size_t bytes;
  uint8_t *host;
  ShadowPage *pages;
  uint32_t number; /* counted from 1, for reports */
} Alloc;

typedef struct Memory {
  Alloc **allocs; /* by address */
  size_t n, cap;
  uint64_t next;
  size_t used, limit; /* bytes */
  uint32_t count;     /* allocations ever */
  uint32_t epoch;     /* of the running launch, 1 .. 4095 */
} Memory;

uint64_t memory_alloc(Memory *m, size_t bytes); /* 0 when over the limit; 256-byte aligned */
bool memory_free(Memory *m, uint64_t address);  /* false: not the start of an allocation */
Alloc *memory_find(const Memory *m, uint64_t address, uint64_t bytes); /* NULL: not within one */
void memory_new_launch(Memory *m);
void memory_fini(Memory *m);
/* Marks bytes as written by the host (copies, memset, library calls). */
void memory_host_wrote(Alloc *a, uint64_t offset, uint64_t bytes);
/* First of `bytes` from offset that was never written, or `bytes`. */
uint64_t memory_first_unwritten(const Alloc *a, uint64_t offset, uint64_t bytes);
/* Copies between allocations with what is known of each byte; ranges may overlap. */
void memory_copy(Alloc *to, uint64_t to_offset, Alloc *from, uint64_t from_offset, uint64_t bytes);

typedef enum { ACCESS_READ, ACCESS_READ_NC, ACCESS_WRITE, ACCESS_ATOMIC } Access;
/* Checks and records an access of a block (tag: epoch and block) to bytes [offset, offset + bytes),
 * which lie in one allocation. Returns FOUND_NOTHING or what is wrong; other_block: of which block.
 */
Found memory_access(Alloc *a, uint64_t offset, uint64_t bytes, Access what, uint32_t tag,
                    uint32_t *other_block);

/* ---- Kernels: ptx_text.c, ptx_decode.c, ptx_lanes.c ------------------------------------------ */
typedef struct Warp Warp;
typedef struct Insn Insn;
typedef struct Launch Launch;
typedef struct Module Module;
typedef void (*Handler)(Warp *w, const Insn *in);

typedef enum {
  INSN_PLAIN,
  INSN_BRANCH,
  INSN_EXIT,
  INSN_BARRIER, /* of the block */
  INSN_SYNC,    /* the lanes of a mask operand (slot index in `member`) must be here together */
  INSN_ALIGNED  /* all 32 lanes must be here */
} InsnKind;

/* One row of ptx_ops.def. sig describes the operands in order, braces opened:
 *   d D  register written, 4 or 8 bytes a lane      s S  value read (register, number, symbol)
 *   p    predicate written, after '|', may be left out
 *   m    memory operand [register or symbol + number]
 *   i    number known at load, kept in Insn.imm     l    label
 *   ?    what follows may be left out */
typedef struct OpRow {
  const char *names; /* spellings, separated by spaces */
  Handler run;
  uint8_t kind;
  char sig[MAX_SLOTS + 2];
  uint8_t
      bytes; /* memory instructions: of one element; sign bit of the sign-extending ones below */
  uint8_t space; /* Space */
} OpRow;

typedef enum { SPACE_NONE, SPACE_GLOBAL, SPACE_SHARED, SPACE_GENERIC, SPACE_PARAM } Space;

struct Insn {
  Handler run;
  uint32_t slot[MAX_SLOTS]; /* byte offsets into a warp's register file */
  int32_t offset;           /* added to the address */
  uint32_t target;          /* of a branch */
  uint32_t guard;           /* slot of the predicate, NO_SLOT: none */
  uint32_t address;         /* slot of the address */
  int32_t imm;
  uint32_t index;               /* in the kernel's code */
  uint32_t line;                /* of the PTX text */
  const char *opcode;           /* in the module's text; not terminated */
  uint32_t loc;                 /* in Module.locs; 0: none */
  bool guard_not, is_signed;    /* is_signed: ld.param extends the sign */
  bool wide_address, wide_data; /* address register, data register of ld/st: 8 bytes a lane */
  uint8_t kind;
  uint8_t count;  /* elements of a vector ld or st */
  uint8_t bytes;  /* of one element */
  uint8_t member; /* operand that holds the member mask, for INSN_SYNC */
};

#define NO_SLOT UINT32_MAX

/* A source position, and the one it was inlined into. */
typedef struct {
  uint32_t file, line, column, parent;
} SourceLoc;

/* A slot with a value fixed before the kernel runs. */
typedef enum {
  FIXED_NUMBER,  /* value */
  FIXED_DYNAMIC, /* value + start of dynamic shared memory */
  FIXED_PARAM,   /* bytes at `value` in the parameters; size, sign-extended if is_signed */
  FIXED_SPECIAL  /* value: a Special */
} FixedKind;

typedef enum {
#define SPECIAL_REGISTER(id, name) SPECIAL_##id,
#include "special.def"
#undef SPECIAL_REGISTER
  SPECIAL_COUNT
} Special;

typedef struct {
  uint64_t value;
  uint32_t slot;
  uint8_t kind, size, reg_bytes;
  bool is_signed;
} Fixed;

typedef struct {
  uint32_t offset, size;
  char *name;
} Param;

/* What the accesses of an instruction cost: wavefronts or sectors, and how few would do. */
typedef struct {
  uint64_t requests, units, ideal;
} AccessCount;
typedef struct {
  AccessCount shared, global;
  int64_t runs; /* by warps: how much more often than the instruction before */
} InsnCounts;

typedef struct Kernel {
  char *name;
  Module *module;
  Insn *code;
  uint32_t n_code;
  uint32_t reg_bytes; /* of one warp */
  Fixed *fixed;
  uint32_t n_fixed;
  Param *params;
  uint32_t n_params, param_bytes;
  uint32_t shared_bytes;      /* static, then aligned for the dynamic part */
  uint32_t static_shared;     /* static alone */
  uint32_t max_threads;       /* .maxntid or .reqntid, product; 0: not given */
  uint32_t max_registers;     /* of a thread, .maxnreg; 0: not given */
  uint32_t required[3];       /* .reqntid, 0: not given */
  uint32_t max_dynamic;       /* bytes allowed by cuFuncSetAttribute */
  uint8_t shared_granule;     /* bytes of the narrowest shared access, at most 16 */
  bool has_async;             /* uses cp.async */
  InsnCounts *counts_by_insn; /* with EMU_STATS; else NULL */
  uint64_t launches;
  uint32_t registers; /* declared, in 32-bit words a thread: an upper bound for attributes */
} Kernel;

typedef struct {
  char *name;
  uint64_t address; /* device address, or offset in shared memory */
  uint64_t bytes;
  bool is_shared, is_dynamic;
} Variable;

struct Module {
  char *text; /* PTX, kept for reports */
  Kernel **kernels;
  uint32_t n_kernels;
  Variable *vars;
  uint32_t n_vars;
  SourceLoc *locs;
  uint32_t n_locs;
  char **files;
  uint32_t n_files;
  uint32_t ptx_version; /* 90 for 9.0 */
  uint32_t target;      /* 80 for sm_80 */
  Memory *memory;
};

/* Decodes PTX text. On failure returns NULL with `why` set: "line N: ..."; an opcode outside the
 * table fails here by name. Module variables are allocated in `memory`. */
Module *ptx_load(const char *text, Memory *memory, char why[512]);
void ptx_unload(Module *m);
Kernel *ptx_kernel(Module *m, const char *name);
const OpRow *ptx_table(size_t *n);
/* Text of PTX line `line`, trimmed; borrowed, n characters. */
const char *ptx_line(const Module *m, uint32_t line, size_t *n);

/* ---- launch.c: a grid runs ---- */
typedef struct {
  uint32_t pc, mask;
  bool waits;
} Group;

typedef struct {
  uint32_t shared, bytes, source_bytes, lane;
  uint64_t from;
  const Insn *in;
} AsyncCopy;

typedef struct Shared { /* shared.c: the memory of one block and its shadow */
  uint8_t *bytes;
  uint32_t size, shift, granules;
  uint32_t *writer, *reader; /* tags: epoch, warp syncs, flags, thread */
  uint8_t *pending;          /* a cp.async into the granule is not waited for yet */
  uint32_t epoch, first_epoch;
  bool check;
} Shared;

struct Warp {
  uint8_t *regs;
  Launch *launch;
  uint32_t mask; /* lanes that execute */
  uint32_t alive;
  uint32_t id;
  /* Warp synchronizations in this epoch: all so far; those up to the last of the whole warp; and
   * when some were of a part of it, up to which a lane has waited for another. */
  uint32_t syncs, synced;
  bool in_parts;
  uint8_t met[LANES][LANES];
  const Insn *at;
  _Alignas(64) int32_t lanes[LANES]; /* -1 where mask has its bit */
  Group groups[LANES];
  uint32_t n_groups;
  const Insn *barrier; /* where it waits */
  AsyncCopy *copies;
  uint32_t n_copies, cap_copies;
  uint32_t *commits; /* copies before each committed group's end */
  uint32_t n_commits, cap_commits;
};

typedef struct {
  uint64_t warp_insns, thread_insns;
} LaunchCounts;

struct Launch {
  const Kernel *kernel;
  Memory *memory;
  uint32_t grid[3], block[3];
  uint32_t n_threads, n_warps;
  uint32_t ctaid[3], block_index, tag;
  const uint8_t *params;
  Shared shared;
  Warp *warps;
  InsnCounts *counts_by_insn; /* of the kernel; NULL: not counted */
  Alloc **hints;              /* by instruction: the allocation it met last */
  uint64_t steps_left;
  LaunchCounts counts;
  Report *report;
  jmp_buf failed;
};

typedef struct {
  uint32_t grid[3], block[3], dynamic_shared;
  const uint8_t *params; /* kernel->param_bytes bytes */
  uint64_t seed;         /* 0: blocks and warps in order */
} LaunchConfig;

/* Why a launch is refused before it starts, or NULL. */
const char *launch_refused(const Kernel *k, const LaunchConfig *c);
/* Among the reasons: its threads may want more registers than there are. */
const char *launch_starved(const Kernel *k, const LaunchConfig *c);
/* Runs a grid. On a finding returns false with *report filled; memory then holds what was written.
 */
bool launch_run(Kernel *k, Memory *memory, const LaunchConfig *c, Report *report,
                LaunchCounts *counts);
/* Ends the launch: lane -1 when no single lane is to blame. */
_Noreturn void launch_fail(Warp *w, int lane, Found kind, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void warp_set_mask(Warp *w, uint32_t mask);

/* ---- stats.c: what accesses cost ---- */
bool stats_wanted(void); /* EMU_STATS names a file */
/* A warp's request at the addresses of its memory operand, `bytes` a lane; shared: all of them are.
 */
void stats_access(Warp *w, const Insn *in, bool shared, uint32_t bytes);
void stats_shared(Warp *w, const Insn *in, const uint64_t *at, uint32_t mask, uint32_t bytes);
void stats_global(Warp *w, const Insn *in, const uint64_t *at, uint32_t mask, uint32_t bytes);
/* Cycles that the launches of a kernel keep parts of a multiprocessor busy, in those of a quarter
 * of it, which issues one instruction a cycle. Counted from PTX, so near to the machine's own code.
 */
typedef struct {
  uint64_t issue;   /* every instruction */
  uint64_t special; /* exponentials, reciprocals */
  uint64_t tensor;  /* mma.sync */
  uint64_t shared;  /* wavefronts of shared memory and shuffles */
  uint64_t memory;  /* sectors of device memory */
} Busy;
Busy stats_busy(const Kernel *k);
void stats_report(const Module *m); /* appends a line for each kernel that ran */

/* ---- shared.c ---- */
void shared_init(Shared *s, uint32_t bytes, uint32_t granule, bool async);
void shared_fini(Shared *s);
void shared_new_block(Shared *s);
void shared_barrier(Shared *s);
/* Checks an access of one lane and returns where the bytes are. */
uint8_t *shared_at(Warp *w, int lane, uint64_t address, uint32_t bytes, Access what);
/* The same for 32 lanes that touch neighbours of `bytes` each from `address`; NULL: take the slow
 * way. */
uint8_t *shared_row(Warp *w, uint64_t address, uint32_t bytes, bool write);
/* The lanes of each lane's mask have waited for each other (bar.warp.sync). */
void shared_warp_sync(Warp *w, const uint32_t *masks);
void shared_async(Warp *w, int lane, uint32_t address, uint32_t bytes, bool pending);

#endif
