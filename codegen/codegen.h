/* Code generation: a planned module becomes a program image. */
#ifndef MPCC_CODEGEN_H
#define MPCC_CODEGEN_H

#include "ir/ir.h"
#include "mpcc/abi.h"

/* ---- codegen.c ------------------------------------------------------------------------------- */

/* One kernel as a target must emit it: a group op whose body, attrs and storage dtypes are all that
 * matters. Groups that differ only in parameters, values, places and offsets of accesses share one
 * kernel: addresses are passed with the offset added, and `group` has all offsets zero. */
typedef struct {
  const Op *group;      /* representative */
  const char *symbol;   /* "rows_3f2a..": kind and content hash */
  uint64_t hash;        /* of the content */
  /* Filled by the target. */
  int64_t ntiles;        /* panels; cuda: blocks along x */
  int64_t scratch_bytes; /* of each thread; cuda: dynamic shared memory of a block */
  int64_t columns;       /* cuda: blocks along y */
  int threads;           /* cuda: of a block */
  int registers, spill_bytes; /* cuda: of a thread, as its compiler says; 0: unknown */
  int spilled;                /* cuda: how often its compiler ran out of registers so far */
  /* Filled by emit. */
  int object; /* which of the archive's objects it is in */
} Kernel;

typedef struct {
  const char *name; /* "cpu" */
  /* Levels this build can emit; level 0 is the baseline. */
  int nlevel;
  const char *const *level;
  Status (*caps)(const char *level, TargetCaps *out);
  /* Fastest level of this machine; NULL when none of the levels runs here. */
  const char *(*host_level)(void);
  const char *(*level_needs)(const char *level); /* MpccCode.needs */
  /* How many of the first n kernels one compilation takes together, at least 1, whatever follows
   * them; NULL: each alone. */
  int (*together)(const Kernel *k, int n, const char *form);
  /* Compiles n kernels together: malloc'ed bytes in the form asked for, and the kernels' facts. form:
   * "object" (what goes into an MpccArchive of abi.h), or what people read: cpu "asm", "llvm-ir";
   * cuda "cuda", "ptx", "cubin". errors, with words in error[256] and the kernel at fault in *at:
   * ERR_TARGET (this target cannot), ERR_INTERNAL. Thread safe. */
  Status (*compile)(const char *level, Kernel *k, int n, int opt_level, const char *form,
                    char *error, int *at, void **bytes, size_t *len);
  /* Appends what decides, beside the kernel, the bytes that compile gives. */
  void (*compiler)(const char *level, int opt_level, Text *out);
  /* Appends all that decides them for n kernels, so that other builds of mpcc find them in the cache
   * too; false when that is not known. NULL: the groups and this build of mpcc decide. */
  bool (*key)(const char *level, const Kernel *k, int n, Text *out);
} Target;
const Target *target_by_name(const char *name); /* NULL when unknown */
extern const Target target_cpu; /* codegen/cpu/object.c; absent without MPCC_LLVM */
extern const Target target_cuda; /* codegen/cuda/object.c; compiling needs NVRTC at run time */

/* Kernels of a planned module, duplicates merged. Arena-allocated. */
typedef struct {
  int n;
  Kernel *kernel;
  const Module *module;
  int **of; /* kernel of op i of function f: of[f][i], -1 none */
} KernelTable;
Status codegen_kernels(const Module *m, Arena *a, KernelTable *out);
/* A `move` of many contiguous pieces of its result's dtype: package writes it as one copy command a
 * piece, since a kernel's code would grow with their number. It has no kernel. */
bool codegen_is_copies(const Op *group);
/* A product that the vendor's library makes: a command, no kernel. */
bool codegen_is_product(const Op *group);
/* What such a product asks of the library (abi.h). */
MpccProduct codegen_product(const Op *group);
/* Elements [start, start + size) of a move's axis are those of an operand, or zero (operand -1).
 * part: room for 2 nin + 1. Gives their number; -1 when the group lacks starts or sizes. */
typedef struct {
  int operand;
  int64_t start, size;
} MovePart;
int codegen_move_parts(const Op *group, MovePart *part);
/* Of a group of the table's module, or of another's by content; -1: there is none. */
int kernel_index(const KernelTable *t, const Op *group);

/* ---- emit.c: all kernels of a program -------------------------------------------------------- */

/* How to compile for which level of a target. */
typedef struct {
  const Target *target;
  const char *level;
  const char *form;      /* "object", or a text that the target can give: "asm", "ptx", ... */
  int opt_level, jobs;   /* threads that compile */
  const char *cache_dir; /* NULL: no cache */
} EmitOpts;
/* Compiles n kernels. Gives an MpccArchive of their objects, or for other forms their texts one
 * behind the other (malloc'ed).
 * errors  ERR_TARGET (unknown level; a kernel the target does not have), ERR_INTERNAL (a kernel, at
 *         its place), ERR_NOMEM */
Status codegen_emit(const EmitOpts *o, Kernel *kernels, int n, Diag *d, void **bytes, size_t *len);

/* MpccArchive of n parts, malloc'ed; false when memory is short. */
bool codegen_archive(const void *const *part, const size_t *part_bytes, int n, void **bytes,
                     size_t *len);

/* ---- cache.c: compiled kernels on disk ------------------------------------------------------- */

/* Text that decides the code of n kernels compiled together: what the target's key says, or groups
 * without places, level, optimization, compiler build. Failed: not known. */
void cache_key(const Kernel *k, int n, const Target *t, const char *level, int opt_level,
               Text *out);
/* True when dir holds an intact entry for key: fills the kernels' facts and *bytes (malloc'ed). */
bool cache_get(const char *dir, const Text *key, Kernel *k, int n, void **bytes, size_t *len);
/* Writes an entry (atomically, by rename); failures are of no consequence. */
void cache_put(const char *dir, const Text *key, const Kernel *k, int n, const void *bytes,
               size_t len);

/* ---- package.c ------------------------------------------------------------------------------- */

typedef struct {
  const char *target, *level, *needs;
  const void *object;
  size_t object_bytes;
} Code;
/* Image with descriptor, kernels and code. meta: JSON text. Frees nothing; *image is malloc'ed,
 * with a zero byte behind it. */
Status package_image(const Module *m, const KernelTable *kernels, const Code *codes, int ncode,
                     const char *meta, const Diag *files, void **image, size_t *bytes);

#endif
