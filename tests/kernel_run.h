/* For tests and benchmarks of kernels: builds group ops by hand, compiles one for a level, loads
 * the object and gives its entry point. Everything aborts on failure: a caller that cannot go on.
 */
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

typedef struct {
  Arena *arena;
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

static inline double run_clock(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline void run_check(bool ok, const char *words) {
  if (ok)
    return;
  fprintf(stderr, "%s\n", words);
  abort();
}

static inline Group *group_new(const char *kind, int ndim, const int64_t *dim, int ncol) {
  Arena *a = arena_create();
  run_check(a != NULL, "no memory");
  Group *t = ARENA_NEW(a, Group);
  t->arena = a;
  t->types = type_table_create(a);
  t->op = (Op){.code = OP_group, .layer = "", .body = &t->body};
  t->op.attr = ARENA_ARRAY(a, Attr, 16);
  t->op.in = ARENA_ARRAY(a, Value *, 16);
  t->op.out = ARENA_ARRAY(a, Value *, 16);
  t->body.in = ARENA_ARRAY(a, Access, 16);
  t->body.out = ARENA_ARRAY(a, Access, 16);
  t->body.param = ARENA_ARRAY(a, int64_t, 16);
  t->body.stmt = ARENA_ARRAY(a, Stmt, 64);
  t->body.ndim = ndim;
  t->body.ncol = ncol;
  memcpy(t->body.dim, dim, (size_t)ndim * sizeof *dim);
  t->op.attr[t->op.nattr++] = (Attr){.key = "kind", .kind = AT_STR, .u.s = kind};
  return t;
}

static inline void group_int(Group *t, const char *key, int64_t v) {
  t->op.attr[t->op.nattr++] = (Attr){.key = key, .kind = AT_INT, .u.i = v};
}

static inline void group_float(Group *t, const char *key, double v) {
  t->op.attr[t->op.nattr++] = (Attr){.key = key, .kind = AT_FLOAT, .u.f = v};
}

static inline void group_dtype(Group *t, const char *key, DType v) {
  t->op.attr[t->op.nattr++] = (Attr){.key = key, .kind = AT_DTYPE, .u.i = v};
}

static inline Value *group_value(Group *t, DType dt, int64_t elems) {
  Value *v = ARENA_NEW(t->arena, Value);
  v->type = type_get(t->types, dt, 1, &elems);
  return v;
}

static inline void group_in(Group *t, DType dt, int64_t elems, Access a) {
  t->op.in[t->op.nin++] = group_value(t, dt, elems);
  t->body.in[t->body.nin++] = a;
}

static inline void group_out(Group *t, DType dt, int64_t elems, Access a) {
  Value *v = group_value(t, dt, elems);
  v->def = &t->op;
  v->out = t->op.nout;
  t->op.out[t->op.nout++] = v;
  t->body.out[t->body.nout++] = a;
}

/* Appends a statement; returns its number. */
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

static inline void group_free(Group *t) {
  arena_destroy(t->arena);
}

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
    if (!strcmp(names + sym[i].st_name, symbol)) {
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

/* Compiles group t for the level. MPCC_KERNEL_ASM=file in the environment leaves the code there. */
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
  r.scratch = aligned_alloc(64, (size_t)(k.scratch_bytes / 64 + 1) * 64);
  run_check(r.scratch != NULL, "no memory");
  return r;
}

static inline void run_free(Run *r) {
  munmap(r->map, r->map_bytes);
  free(r->scratch);
}

#endif
