/* For tests and benchmarks of kernels: builds group ops by hand, compiles one for a level of the
 * CPU target, loads the object and gives its entry point; typed buffers beside the doubles the
 * reference interpreter wants. Everything aborts on failure: the callers cannot go on. */
#ifndef MPCC_KERNEL_RUN_H
#define MPCC_KERNEL_RUN_H

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "codegen/cpu/gen.h"
#include "mpcc/abi.h"
#include "mpcc/num.h"

enum { GROUP_MOST = 64 };

typedef struct {
  Arena *arena;
  StrTable *strings;
  TypeTable *types;
  Op op;
  Body body;
} Group;

typedef struct {
  MpccKernelFn fn;
  int64_t ntiles, scratch_bytes;
  void *scratch, *map;
  size_t map_bytes, code_bytes;
  double compile_s;
} Run;

/* Processor seconds of this thread: other programs on the machine do not count. */
static inline double run_clock(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline void run_check(bool ok, const char *words) {
  if (ok)
    return;
  fprintf(stderr, "%s\n", words);
  abort();
}

/* ---- groups ---------------------------------------------------------------------------------- */

static inline Group *group_new(const char *kind, int ndim, const int64_t *dim, int ncol) {
  Arena *a = arena_create();
  run_check(a != NULL, "no memory");
  Group *t = ARENA_NEW(a, Group);
  t->arena = a;
  t->strings = str_table_create(a);
  t->types = type_table_create(a);
  t->op = (Op){.code = OP_group, .layer = "", .body = &t->body};
  t->op.attr = ARENA_ARRAY(a, Attr, GROUP_MOST);
  t->op.in = ARENA_ARRAY(a, Value *, GROUP_MOST);
  t->op.out = ARENA_ARRAY(a, Value *, GROUP_MOST);
  t->body.in = ARENA_ARRAY(a, Access, GROUP_MOST);
  t->body.out = ARENA_ARRAY(a, Access, GROUP_MOST);
  t->body.param = ARENA_ARRAY(a, int64_t, GROUP_MOST);
  t->body.stmt = ARENA_ARRAY(a, Stmt, GROUP_MOST);
  t->body.ndim = ndim;
  t->body.ncol = ncol;
  memcpy(t->body.dim, dim, (size_t)ndim * sizeof *dim);
  t->op.attr[t->op.nattr++] = (Attr){.key = "kind", .kind = AT_STR, .u.s = kind};
  return t;
}

static inline void group_free(Group *t) {
  arena_destroy(t->arena);
}

static inline void group_int(Group *t, const char *key, int64_t v) {
  t->op.attr[t->op.nattr++] = (Attr){.key = key, .kind = AT_INT, .u.i = v};
}

static inline void group_ints(Group *t, const char *key, int n, const int64_t *v) {
  int64_t *own = ARENA_ARRAY(t->arena, int64_t, n);
  memcpy(own, v, (size_t)n * sizeof *v);
  t->op.attr[t->op.nattr++] = (Attr){.key = key, .kind = AT_INTS, .u.ints = {n, own}};
}

static inline void group_float(Group *t, const char *key, double v) {
  t->op.attr[t->op.nattr++] = (Attr){.key = key, .kind = AT_FLOAT, .u.f = v};
}

static inline void group_dtype(Group *t, const char *key, DType v) {
  t->op.attr[t->op.nattr++] = (Attr){.key = key, .kind = AT_DTYPE, .u.i = v};
}

/* Type of a packed operand of n x k elements: panels of c columns, p consecutive k together. */
static inline const Type *group_packed(Group *t, DType dt, int64_t n, int64_t k, int64_t c,
                                       int64_t p) {
  int64_t dim[] = {(n + c - 1) / c, (k + p - 1) / p, c, p};
  return type_get(t->types, dt, 4, dim);
}

static inline void group_in_type(Group *t, const Type *type, Access a) {
  Value *v = ARENA_NEW(t->arena, Value);
  v->type = type;
  t->op.in[t->op.nin++] = v;
  t->body.in[t->body.nin++] = a;
}

static inline void group_out_type(Group *t, const Type *type, Access a) {
  Value *v = ARENA_NEW(t->arena, Value);
  *v = (Value){.def = &t->op, .out = t->op.nout, .type = type};
  t->op.out[t->op.nout++] = v;
  t->body.out[t->body.nout++] = a;
}

/* Operands and results of a plain number of elements. */
static inline void group_in(Group *t, DType dt, int64_t elems, Access a) {
  group_in_type(t, type_get(t->types, dt, 1, &elems), a);
}

static inline void group_out(Group *t, DType dt, int64_t elems, Access a) {
  group_out_type(t, type_get(t->types, dt, 1, &elems), a);
}

static inline void group_param(Group *t, int64_t v) {
  t->body.param[t->body.nparam++] = v;
}

/* Appends a statement with arguments a, b, c, d (-1: none); gives its number. */
static inline int group_stmt(Group *t, Prim p, DType dt, int ref, double imm, int a, int b, int c,
                             int d) {
  t->body.stmt[t->body.nstmt] = (Stmt){.prim = (uint8_t)p,
                                       .level = LV_ELEM,
                                       .dt = (uint8_t)dt,
                                       .arg = {a, b, c, d},
                                       .ref = ref,
                                       .imm = imm};
  return t->body.nstmt++;
}

/* ---- running --------------------------------------------------------------------------------- */

/* Copies the allocated sections of one object to executable memory and resolves its relocations,
 * which are relative to the place alone (abi.h). */
static inline void run_load(Run *r, const char *object, const char *symbol) {
  const Elf64_Ehdr *eh = (const Elf64_Ehdr *)object;
  const Elf64_Shdr *sh = (const Elf64_Shdr *)(object + eh->e_shoff);
  size_t *at = calloc(eh->e_shnum, sizeof *at), total = 0;
  run_check(at != NULL, "no memory");
  for (int s = 0; s < eh->e_shnum; s++)
    if (sh[s].sh_flags & SHF_ALLOC) {
      at[s] = total = (total + 63) & ~(size_t)63;
      total += sh[s].sh_size;
    }
  char *map = mmap(NULL, total + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  run_check(map != MAP_FAILED, "no memory");
  const Elf64_Sym *sym = NULL;
  const char *names = NULL;
  size_t nsym = 0;
  for (int s = 0; s < eh->e_shnum; s++) {
    if (sh[s].sh_flags & SHF_ALLOC && sh[s].sh_type != SHT_NOBITS)
      memcpy(map + at[s], object + sh[s].sh_offset, sh[s].sh_size);
    if (sh[s].sh_type == SHT_SYMTAB) {
      sym = (const Elf64_Sym *)(object + sh[s].sh_offset);
      nsym = sh[s].sh_size / sizeof *sym;
      names = object + sh[sh[s].sh_link].sh_offset;
    }
  }
  for (int s = 0; s < eh->e_shnum; s++) {
    if (sh[s].sh_type != SHT_RELA || !(sh[sh[s].sh_info].sh_flags & SHF_ALLOC))
      continue;
    const Elf64_Rela *rela = (const Elf64_Rela *)(object + sh[s].sh_offset);
    for (size_t i = 0; i < sh[s].sh_size / sizeof *rela; i++) {
      const Elf64_Sym *to = &sym[ELF64_R_SYM(rela[i].r_info)];
      char *place = map + at[sh[s].sh_info] + rela[i].r_offset;
      int64_t v = (map + at[to->st_shndx] + to->st_value) - place + rela[i].r_addend;
      int32_t v32 = (int32_t)v;
      memcpy(place, &v32, 4);
    }
  }
  for (size_t i = 0; i < nsym; i++)
    if (sym[i].st_shndx < eh->e_shnum && !strcmp(names + sym[i].st_name, symbol)) {
      void *p = map + at[sym[i].st_shndx] + sym[i].st_value;
      memcpy(&r->fn, &p, sizeof p);
    }
  run_check(r->fn != NULL, "no kernel symbol");
  run_check(!mprotect(map, total + 1, PROT_READ | PROT_EXEC), "mprotect");
  r->map = map;
  r->map_bytes = total + 1;
  r->code_bytes = total;
  free(at);
}

/* Compiles t for the level, without the cache. MPCC_KERNEL_ASM=file in the environment: the
 * assembly is left there. */
static inline Run run_compile(Group *t, const char *level) {
  Kernel k = {.group = &t->op, .symbol = "kernel"};
  Run r = {0};
  char error[256] = "";
  void *bytes = NULL;
  size_t len = 0;
  const char *file = getenv("MPCC_KERNEL_ASM");
  if (file && cpu_compile(cpu_level(level), &k, 2, FORM_ASM, error, &bytes, &len)) {
    FILE *f = fopen(file, "w");
    run_check(f != NULL, file);
    fwrite(bytes, 1, len, f);
    fclose(f);
    free(bytes);
  }
  double start = run_clock();
  bool ok = cpu_compile(cpu_level(level), &k, 2, FORM_OBJECT, error, &bytes, &len);
  run_check(ok, error);
  r.compile_s = run_clock() - start;
  run_load(&r, bytes, "kernel");
  free(bytes);
  r.ntiles = k.ntiles;
  r.scratch_bytes = k.scratch_bytes;
  size_t scratch = (size_t)(k.scratch_bytes / 64 + 1) * 64;
  r.scratch = aligned_alloc(64, scratch);
  run_check(r.scratch != NULL, "no memory");
  memset(r.scratch, 0xff, scratch); /* NaN: nothing may leak */
  return r;
}

static inline void run_free(Run *r) {
  munmap(r->map, r->map_bytes);
  free(r->scratch);
}

/* Levels this machine runs: the first n of target_cpu.level (host_level may be less: the fastest).
 */
static inline int run_levels(void) {
  bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  bool v4 = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512dq");
  return !v3 ? 0 : !v4 ? 1 : __builtin_cpu_supports("avx512bf16") ? 3 : 2;
}

/* Runs all tiles in pieces, last piece first, with scratch that holds NaN before each. */
static inline void run_in_pieces(const Run *r, const MpccArg *args, int64_t piece) {
  size_t bytes = (size_t)(r->scratch_bytes / 64 + 1) * 64;
  for (int64_t end = r->ntiles; end > 0; end -= piece) {
    memset(r->scratch, 0xff, bytes);
    r->fn(args, end > piece ? end - piece : 0, end, r->scratch);
  }
}

/* ---- buffers --------------------------------------------------------------------------------- */

/* n elements of dt in memory, and the same as doubles; a page of guard bytes behind them. */
typedef struct {
  DType dt;
  int64_t n;
  void *data;
  double *value;
} Elems;

enum { ELEMS_GUARD = 256, ELEMS_MARK = 0xa5 };

static inline void elems_set(Elems *b, int64_t i, double v) {
  uint8_t *at = (uint8_t *)b->data + (size_t)i * dtype_bytes(b->dt);
  b->value[i] = b->dt == MPCC_I64 ? v : num_round(v, b->dt);
  float f = (float)v;
  int64_t whole = (int64_t)v;
  uint32_t code = b->dt == MPCC_F64 || b->dt == MPCC_F32 || b->dt == MPCC_I64
                      ? 0
                      : num_encode_as(v, num_format(b->dt), false, 0);
  if (b->dt == MPCC_F64)
    memcpy(at, &v, 8);
  else if (b->dt == MPCC_F32)
    memcpy(at, &f, 4);
  else if (b->dt == MPCC_I64)
    memcpy(at, &whole, 8);
  else
    memcpy(at, &code, dtype_bytes(b->dt));
}

static inline double elems_get(const Elems *b, int64_t i) {
  const uint8_t *at = (const uint8_t *)b->data + (size_t)i * dtype_bytes(b->dt);
  float f;
  double v;
  uint32_t code = 0;
  switch (b->dt) {
  case MPCC_F64:
    memcpy(&v, at, 8);
    return v;
  case MPCC_F32:
    memcpy(&f, at, 4);
    return (double)f;
  default:
    memcpy(&code, at, dtype_bytes(b->dt));
    return num_decode_as(code, num_format(b->dt));
  }
}

/* Filled with 0xff bytes: NaN in every float format. */
static inline Elems elems_new(DType dt, int64_t n) {
  Elems b = {dt, n, NULL, calloc((size_t)n + 1, sizeof(double))};
  size_t bytes = (size_t)n * dtype_bytes(dt);
  b.data = aligned_alloc(64, (bytes + ELEMS_GUARD + 63) / 64 * 64);
  run_check(b.data && b.value, "no memory");
  memset(b.data, 0xff, bytes);
  memset((char *)b.data + bytes, ELEMS_MARK, ELEMS_GUARD);
  return b;
}

/* True when nothing wrote behind the elements. */
static inline bool elems_intact(const Elems *b) {
  const uint8_t *guard = (const uint8_t *)b->data + (size_t)b->n * dtype_bytes(b->dt);
  for (int i = 0; i < ELEMS_GUARD; i++)
    if (guard[i] != ELEMS_MARK)
      return false;
  return true;
}

static inline void elems_free(Elems *b) {
  free(b->data);
  free(b->value);
}

/* Values in [-scale, scale], a multiple of scale / 1024 before rounding to the dtype. */
static inline void elems_fill(Elems *b, uint32_t seed, double scale) {
  for (int64_t i = 0; i < b->n; i++) {
    seed = seed * 1664525u + 1013904223u;
    elems_set(b, i, scale * ((double)(seed >> 8 & 2047) - 1024) / 1024);
  }
}

#endif
