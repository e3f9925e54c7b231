/* The register micro-kernel of products and attention, and the small pieces around it: splitting
 * rows into panels, transposing in registers, converting storage dtypes to multiplication units.
 *
 * Sums stay in registers as loop phis: mr rows times nv vectors, 28 of 32 registers with AVX-512
 * and 12 of 16 with AVX2, so that two loads of B and the broadcast elements of A fit beside them. A
 * is read through two constant strides, in place or from a copy whose rows are neighbours: short
 * offsets make short instructions. What limits is often not multiplication but the rate at which
 * instructions are issued, above all where two threads of a core share it. Kernels are internal
 * functions: one object holds each variant once. */
#include "codegen/cpu/micro.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum { MAX_MR = 28, MAX_NV = 8, MAX_GROUPS = 8, PARAMS = 11, LINE = 64 };

DType micro_dtype(const Op *group) {
  const char *word = op_str(group, "compute", NULL);
  return word ? dtype_from_text(word) : (DType)op_int(group, "compute", MPCC_F32);
}

bool micro_compute(Gen *g, DType compute, Compute *out) {
  bool f64 = compute == MPCC_F64, bf16 = compute == MPCC_BF16;
  *out = (Compute){.in = compute,
                   .acc = f64 ? MPCC_F64 : MPCC_F32,
                   .unit = f64    ? g->f64
                           : bf16 ? g->i32
                                  : g->f32,
                   .sum = f64 ? g->f64 : g->f32,
                   .vl = g->level->vector_bytes / (f64 ? 8 : 4),
                   .pair = bf16 ? 2 : 1,
                   .unit_bytes = f64 ? 8 : 4};
  out->cols = 2 * out->vl;
  if (!f64 && !bf16 && compute != MPCC_F32)
    return gen_fail(g, "products cannot be computed in %s",
                    compute < MPCC_DTYPE_COUNT ? dtype_text(compute) : "an unknown dtype");
  if (bf16 && !g->level->bf16)
    return gen_fail(g, "level %s has no bf16 dot products", g->level->name);
  return true;
}

Ty micro_result(const Gen *g, const Micro *m) {
  return m->narrow ? g->i16 : m->c.sum;
}

int micro_result_bytes(const Micro *m) {
  return m->narrow ? 2 : m->c.unit_bytes;
}

int micro_rows(const Gen *g, int nv) {
  int registers = g->level->avx512 ? 32 : 16;
  int rows = (registers - 2 - nv) / nv;
  /* One vector per row: broadcasts are memory operands, and code size is the limit. */
  int most = g->level->avx512 ? 24 : 12;
  return rows < 1 ? 1 : rows > most ? most : rows;
}

Split split_rows(int64_t rows, int max) {
  Split s = {.rows = rows, .n = ceil_div(rows, max), .step = 1};
  s.hi = (int)ceil_div(rows, s.n);
  /* Equal panels need one kernel instead of two: worth a row or two. */
  for (int hi = s.hi; hi >= max - 2 && hi > 1; hi--)
    if (rows % hi == 0) {
      s.hi = hi;
      s.n = rows / hi;
      break;
    }
  s.nhi = rows - s.n * (s.hi - 1);
  s.period = s.n;
  return s;
}

Split split_periods(int64_t rows, int64_t periods, int max) {
  Split s = split_rows(rows, max);
  s.n *= periods;
  return s;
}

Split split_groups(int64_t rows, int group, int max) {
  Split s = {.rows = rows, .step = group, .hi = max / group * group};
  s.n = s.period = ceil_div(rows, s.hi);
  s.nhi = s.n - (s.n * s.hi - rows) / group;
  /* Few panels that lack much: all get lower first. */
  while (s.nhi < 0) {
    s.hi -= group;
    s.nhi += s.n;
  }
  return s;
}

static bool equal_panels(const Split *s) {
  return s->nhi == s->period;
}

Val split_start(Gen *g, const Split *s, Val panel) {
  if (equal_panels(s) && s->rows == s->period * s->hi)
    return ll_mul(g, panel, ll_n(g, s->hi));
  Val in = panel, rows = ll_n(g, 0);
  if (s->period < s->n) {
    in = ll_urem(g, panel, s->period);
    rows = ll_mul(g, ll_udiv(g, panel, s->period), ll_n(g, s->rows));
  }
  Val low = ll_mul(g, in, ll_n(g, s->hi - s->step));
  Val more = ll_mul(g, ll_umin(g, in, ll_n(g, s->nhi)), ll_n(g, s->step));
  return ll_add(g, rows, ll_add(g, low, more));
}

/* The bits of v as vector of elem. */
static Val recast(Gen *g, Val v, Ty elem, int lanes) {
  return LLVMBuildBitCast(g->b, v, ll_vec(elem, lanes), "");
}

/* ---- functions ------------------------------------------------------------------------------- */

Val micro_fn(Gen *g, const char *name, int nparam, Ty *param, FnSave *save) {
  if (LLVMGetNamedFunction(g->mod, name))
    return NULL;
  *save = (FnSave){LLVMGetInsertBlock(g->b), g->fn};
  Val fn = LLVMAddFunction(g->mod, name, LLVMFunctionType(g->none, param, (unsigned)nparam, 0));
  LLVMSetLinkage(fn, LLVMInternalLinkage);
  /* Same target features, no unwinding: whatever the kernel's own function has. */
  enum { MAX_ATTRS = 32 };
  LLVMAttributeRef attr[MAX_ATTRS];
  unsigned n = LLVMGetAttributeCountAtIndex(g->fn, LLVMAttributeFunctionIndex);
  if (n <= MAX_ATTRS) {
    LLVMGetAttributesAtIndex(g->fn, LLVMAttributeFunctionIndex, attr);
    for (unsigned i = 0; i < n; i++)
      LLVMAddAttributeAtIndex(fn, LLVMAttributeFunctionIndex, attr[i]);
  }
  unsigned noinline = LLVMGetEnumAttributeKindForName("noinline", strlen("noinline"));
  LLVMAddAttributeAtIndex(fn, LLVMAttributeFunctionIndex,
                          LLVMCreateEnumAttribute(g->ctx, noinline, 0));
  g->fn = fn;
  LLVMPositionBuilderAtEnd(g->b, LLVMAppendBasicBlockInContext(g->ctx, fn, "entry"));
  return fn;
}

void micro_fn_end(Gen *g, FnSave *save) {
  LLVMBuildRetVoid(g->b);
  g->fn = save->fn;
  LLVMPositionBuilderAtEnd(g->b, save->block);
}

/* ---- the kernel ------------------------------------------------------------------------------ */

/* Offset of vector j of a row of B. */
static int64_t b_offset(const Micro *m, int j) {
  return m->bp ? j / 2 * m->bp + j % 2 * m->c.vl : (int64_t)j * m->c.vl;
}

static Val multiply_add(Gen *g, const Micro *m, Val a, Val b, Val sum) {
  if (m->c.in != MPCC_BF16)
    return ll_fma(g, a, b, sum);
  Ty bf16 = LLVMBFloatTypeInContext(g->ctx);
  int n = 2 * m->c.vl;
  Val args[] = {sum, recast(g, a, bf16, n), recast(g, b, bf16, n)};
  return ll_call(g, "llvm.x86.avx512bf16.dpbf16ps.512", NULL, 3, args);
}

/* The same with a read and broadcast by the instruction itself, which LLVM would not do twice of
 * one element. AVX-512. */
static Val multiply_add_at(Gen *g, const Micro *m, Val at, Val b, Val sum) {
  const char *code = m->c.in == MPCC_F64    ? "vfmadd231pd $1{1to8}, $2, $0"
                     : m->c.in == MPCC_BF16 ? "vdpbf16ps $1{1to16}, $2, $0"
                                            : "vfmadd231ps $1{1to16}, $2, $0";
  static const char constraints[] = "=v,*m,v,0", elementtype[] = "elementtype";
  Ty vec = LLVMTypeOf(sum), param[] = {g->ptr, LLVMTypeOf(b), vec};
  Ty type = LLVMFunctionType(vec, param, 3, 0);
  Val fn = LLVMGetInlineAsm(type, code, strlen(code), constraints, strlen(constraints), 0, 0,
                            LLVMInlineAsmDialectATT, 0);
  Val arg[] = {at, b, sum}, call = LLVMBuildCall2(g->b, type, fn, arg, 3, "");
  unsigned kind = LLVMGetEnumAttributeKindForName(elementtype, strlen(elementtype));
  LLVMAddCallSiteAttribute(call, 1, LLVMCreateTypeAttribute(g->ctx, kind, m->c.unit));
  return call;
}

/* k whose part of B is prefetched by kernels of few rows, which use what they fetch but once. */
enum { AHEAD = 24 };

/* Rows whose elements are broadcast by the multiplications themselves, once per vector, instead of
 * by an instruction of their own that all vectors share: fewer instructions per multiplication,
 * more loads. Four rows of five keep both below what a core with a busy sibling thread can do.
 * Where loads are the limit (14 rows: 27 of the 28 that fit beside the multiplications, instead of
 * 16), every miss in the nearest cache would be felt. Only AVX-512 has the form. */
static bool folds(const Gen *g, const Micro *m) {
  return g->level->folds && m->nv == 2 && m->mr >= 5;
}

typedef struct {
  Val a[MAX_GROUPS], b, next, places;
  Val sum[MAX_MR][MAX_NV];
} State;

static int pointers(const Micro *m) {
  return m->group ? (int)ceil_div(m->mr, m->group) : 1;
}

/* Where the element of row i is, k units on. */
static Val a_address(Gen *g, const Micro *m, const State *s, int i, int64_t k) {
  int group = m->group ? m->group : m->mr;
  return ll_gepc(g, m->c.unit, s->a[i / group], i % group * m->rs + k * m->ks);
}

/* One k, `u` on: sum[i][j] += a[i] b[j]. */
static void step(Gen *g, const Micro *m, State *s, int u) {
  Val bv[MAX_NV], b = ll_gepc(g, m->c.unit, s->b, u * m->bs);
  int line_vectors = m->c.vl * m->c.unit_bytes < 64 ? 2 : 1;
  for (int j = 0; m->nv > 2 && j < m->nv; j += line_vectors)
    ll_prefetch(g, ll_gepc(g, m->c.unit, b, b_offset(m, j) + AHEAD * m->bs));
  for (int j = 0; j < m->nv; j++)
    bv[j] = ll_load(g, m->c.unit, m->c.vl, ll_gepc(g, m->c.unit, b, b_offset(m, j)), NULL);
  for (int i = 0; i < m->mr; i++) {
    Val at = a_address(g, m, s, i, u);
    bool memory = folds(g, m) && i % 5 != 4;
    Val av = memory ? NULL : ll_splat(g, ll_load(g, m->c.unit, 1, at, NULL), m->c.vl);
    for (int j = 0; j < m->nv; j++)
      s->sum[i][j] = memory ? multiply_add_at(g, m, at, bv[j], s->sum[i][j])
                            : multiply_add(g, m, av, bv[j], s->sum[i][j]);
  }
}

/* Calls what for every value of s that lives across turns of a loop. */
typedef Val Each(Gen *g, Val v, void *user);
static void each(Gen *g, const Micro *m, State *s, Each *what, void *user) {
  for (int i = 0; i < pointers(m); i++)
    s->a[i] = what(g, s->a[i], user);
  s->b = what(g, s->b, user);
  if (m->next)
    s->next = what(g, s->next, user);
  if (m->places)
    s->places = what(g, s->places, user);
  for (int i = 0; i < m->mr; i++)
    for (int j = 0; j < m->nv; j++)
      s->sum[i][j] = what(g, s->sum[i][j], user);
}

static Val make_phi(Gen *g, Val v, void *user) {
  (void)user;
  return LLVMBuildPhi(g->b, LLVMTypeOf(v), "");
}

/* The values of `from` come to the phis of `phi` out of `block`. */
static void incoming(const Micro *m, State *phi, State *from, LLVMBasicBlockRef block) {
  for (int i = 0; i < pointers(m); i++)
    LLVMAddIncoming(phi->a[i], &from->a[i], &block, 1);
  LLVMAddIncoming(phi->b, &from->b, &block, 1);
  if (m->next)
    LLVMAddIncoming(phi->next, &from->next, &block, 1);
  if (m->places)
    LLVMAddIncoming(phi->places, &from->places, &block, 1);
  for (int i = 0; i < m->mr; i++)
    for (int j = 0; j < m->nv; j++)
      LLVMAddIncoming(phi->sum[i][j], &from->sum[i][j], &block, 1);
}

/* Pointers a and b more units on. LLVM would count all with one register, and a multiplication
 * whose operand in memory has an index register is issued as two instructions. */
static void advance(Gen *g, const Micro *m, State *s, int64_t a, int64_t b) {
  for (int i = 0; i < pointers(m) && a; i++)
    s->a[i] = ll_opaque(g, ll_gepc(g, m->c.unit, s->a[i], a));
  if (b)
    s->b = ll_opaque(g, ll_gepc(g, m->c.unit, s->b, b));
}

int micro_unrolled(const Micro *m) {
  if (!m->nloop)
    return m->odd ? 1 : 2;
  for (int n = pointers(m) > 1 ? 4 : 2; n > 1; n--)
    if (m->run % n == 0)
      return n;
  return m->run % 3 == 0 ? 3 : 1;
}

int micro_lines(const Micro *m) {
  int unroll = micro_unrolled(m);
  return unroll > 2 ? m->next_lines * unroll / 2 : m->next_lines;
}

/* What a call gives that lives outside all loops; NULL what the kernel has not. */
typedef struct {
  Val fn, c, turns, next, next_step, rows, c_rows, places_at;
} Given;

static void fetch_next(Gen *g, const Micro *m, const Given *call, State *s) {
  if (call->next_step) {
    ll_prefetch_far(g, s->next);
    s->next = ll_gep(g, g->i8, s->next, call->next_step);
    return;
  }
  if (!m->next || !m->next_lines)
    return;
  for (int line = 0; line < micro_lines(m); line++)
    ll_prefetch(g, ll_gepc(g, g->i8, s->next, line * LINE));
  s->next = ll_opaque(g, ll_gepc(g, g->i8, s->next, micro_lines(m) * LINE));
}

static void fetch_place(Gen *g, const Micro *m, State *s, Val at) {
  if (!m->places)
    return;
  ll_prefetch(g, ll_gep(g, g->i8, ll_load(g, g->ptr, 1, s->places, NULL), at));
  s->places = ll_opaque(g, ll_gepc(g, g->ptr, s->places, 1));
}

static void innermost(Gen *g, const Micro *m, const Given *call, State *s, int unroll) {
  fetch_next(g, m, call, s);
  fetch_place(g, m, s, call->places_at);
  for (int u = 0; u < unroll; u++)
    step(g, m, s, u);
  advance(g, m, s, unroll * m->ks, unroll * m->bs);
}

/* A loop whose turns each take `step` of what is left, at least one. */
typedef struct {
  State before, phi;
  Val all, left;
  LLVMBasicBlockRef entry, loop;
} Turns;

/* s is the state before, and then inside. */
static Turns turns_begin(Gen *g, const Micro *m, Val fn, Val all, State *s) {
  Turns t = {.before = *s, .phi = *s, .all = all, .entry = LLVMGetInsertBlock(g->b)};
  t.loop = LLVMAppendBasicBlockInContext(g->ctx, fn, "k");
  LLVMBuildBr(g->b, t.loop);
  LLVMPositionBuilderAtEnd(g->b, t.loop);
  t.left = LLVMBuildPhi(g->b, g->i64, "");
  each(g, m, &t.phi, make_phi, NULL);
  *s = t.phi;
  return t;
}

/* s: the state at the end of a turn, and then after the loop. */
static void turns_end(Gen *g, const Micro *m, Val fn, Turns *t, int64_t step, State *s) {
  LLVMBasicBlockRef done = LLVMAppendBasicBlockInContext(g->ctx, fn, "done");
  Val rest = ll_sub(g, t->left, ll_n(g, step));
  LLVMBasicBlockRef latch = LLVMGetInsertBlock(g->b);
  LLVMBuildCondBr(g->b, ll_icmp(g, LLVMIntSGT, rest, ll_n(g, 0)), t->loop, done);
  LLVMAddIncoming(t->left, &t->all, &t->entry, 1);
  LLVMAddIncoming(t->left, &rest, &latch, 1);
  incoming(m, &t->phi, &t->before, t->entry);
  incoming(m, &t->phi, s, latch);
  LLVMPositionBuilderAtEnd(g->b, done);
}

/* Vectors of sums that make one of C. */
static int vectors_of(const Micro *m) {
  return m->narrow ? 2 : 1;
}

/* The share of C that turn `turn` of the outermost loop asks for; behind the last row or group what
 * is there is asked for. */
static void ask_share(Gen *g, const Micro *m, const Given *call, Val turn) {
  int all = m->c_rows ? pointers(m) : m->mr, lines = m->c_rows ? m->group : 1;
  int each = (int)ceil_div(all, m->ahead_turns);
  for (int k = 0; k < each; k++) {
    Val i = ll_add(g, ll_mul(g, turn, ll_n(g, each)), ll_n(g, k)), at = call->c;
    i = ll_umin(g, i, ll_n(g, all - 1));
    if (m->c_rows)
      at = ll_gep(g, g->i8, at, ll_load(g, g->i64, 1, ll_gep(g, g->i64, call->c_rows, i), NULL));
    else
      at = ll_gep(g, micro_result(g, m), at, ll_mul(g, i, ll_n(g, m->cs)));
    for (int l = 0; l < lines; l++)
      for (int j = 0; j < m->nv; j += vectors_of(m))
        ll_prefetch_store(g, ll_gepc(g, micro_result(g, m), at, l * m->cs + (int64_t)j * m->c.vl));
  }
}

/* Loop `level` (0: the innermost) and what is inside; s is the state before and then after. */
static void nest(Gen *g, const Micro *m, const Given *call, int level, State *s) {
  int unroll = level == 0 ? micro_unrolled(m) : 1;
  Val n = level == m->nloop ? call->turns : ll_n(g, level ? m->loop[level - 1].turns : m->run);
  Turns t = turns_begin(g, m, call->fn, n, s);
  if (level == m->nloop && m->ahead && m->ahead_turns > 1)
    ask_share(g, m, call, ll_sub(g, t.all, t.left));
  if (level == 0) {
    innermost(g, m, call, s, unroll);
  } else {
    nest(g, m, call, level - 1, s);
    advance(g, m, s, m->loop[level - 1].a, m->loop[level - 1].b);
  }
  turns_end(g, m, call->fn, &t, unroll, s);
}

static bool has_way(const Micro *m) {
  return m->way.nfetch || m->way.nclear;
}

/* k for each group of rows: two for each of n things to do, when there are enough. */
static int64_t way_k(const Micro *m, int64_t n) {
  int64_t k = m->run / pointers(m), unroll = micro_unrolled(m);
  return (k < 2 * n ? k : 2 * n) / unroll * unroll;
}

bool micro_has_way(const Micro *m, int64_t n) {
  Micro high = *m;
  high.mr = MAX_GROUPS * m->group;
  return m->group && !m->nloop && n <= MICRO_WAYSIDE && way_k(&high, n) > 0;
}

/* The first k, of which each group of rows has as many; how many are left. */
static int64_t wayside(Gen *g, const Micro *m, const Given *call, State *s) {
  const MicroWayside *w = &m->way;
  int64_t groups = pointers(m), unroll = micro_unrolled(m), fetched = 0, cleared = 0;
  int64_t k = way_k(m, w->nfetch > w->nclear ? w->nfetch : w->nclear);
  Val zero = LLVMConstNull(ll_vec(m->c.sum, m->c.vl)), from = NULL, to = NULL;
  Turns t = turns_begin(g, m, call->fn, ll_n(g, groups), s);
  Val group = ll_sub(g, t.all, t.left);
  if (w->nfetch)
    from = ll_load(g, g->i64, 1, ll_gep(g, g->i64, ll_gepc(g, g->i64, call->rows, groups), group),
                   NULL);
  if (w->nclear)
    to = ll_load(g, g->i64, 1, ll_gep(g, g->i64, call->c_rows, group), NULL);
  from = from ? ll_gep(g, g->i8, call->next, from) : NULL;
  to = to ? ll_gep(g, g->i8, call->c, to) : NULL;
  for (int64_t u = 0; u < k; u++) {
    if (u % unroll == 0)
      fetch_next(g, m, call, s);
    for (; fetched * k < (u + 1) * w->nfetch; fetched++)
      ll_prefetch(g, ll_gepc(g, g->i8, from, w->fetch[fetched]));
    for (; cleared * k < (u + 1) * w->nclear; cleared++)
      for (int j = 0; j < m->nv; j += vectors_of(m))
        ll_store_past(g, zero, ll_gepc(g, micro_result(g, m), to, w->clear[cleared] + j * m->c.vl));
    step(g, m, s, (int)u);
  }
  advance(g, m, s, k * m->ks, k * m->bs);
  turns_end(g, m, call->fn, &t, 1, s);
  return m->run - groups * k;
}

/* C as the call has it: a pointer to each group of rows, or to all. */
typedef struct {
  Val at[MAX_GROUPS];
  int group;
} Place;

static Place c_place(Gen *g, const Micro *m, Val c, Val rows) {
  Place p = {.at = {c}, .group = m->c_rows ? m->group : m->mr};
  for (int i = 0; m->c_rows && i < pointers(m); i++)
    p.at[i] = ll_gep(g, g->i8, c, ll_load(g, g->i64, 1, ll_gepc(g, g->i64, rows, i), NULL));
  return p;
}

static Val c_address(Gen *g, const Micro *m, const Place *p, int i, int j) {
  int64_t in = i % p->group * m->cs + (int64_t)j * m->c.vl;
  return ll_gepc(g, micro_result(g, m), p->at[i / p->group], in);
}

/* Sums before the first k: zero, or what is there already when the call says so. */
static void first_sums(Gen *g, const Micro *m, Val fn, const Place *c, State *s) {
  Ty type = ll_vec(m->c.sum, m->c.vl);
  Val loaded[MAX_MR][MAX_NV], zero = LLVMConstNull(type);
  LLVMBasicBlockRef load = NULL, none = NULL, start = NULL;
  if (m->add) {
    load = LLVMAppendBasicBlockInContext(g->ctx, fn, "load");
    none = LLVMAppendBasicBlockInContext(g->ctx, fn, "none");
    start = LLVMAppendBasicBlockInContext(g->ctx, fn, "start");
    LLVMBuildCondBr(g->b, LLVMGetParam(fn, 4), load, none);
    LLVMPositionBuilderAtEnd(g->b, load);
    for (int i = 0; i < m->mr; i++)
      for (int j = 0; j < m->nv; j++)
        loaded[i][j] = ll_load(g, m->c.sum, m->c.vl, c_address(g, m, c, i, j), NULL);
    LLVMBuildBr(g->b, start);
    LLVMPositionBuilderAtEnd(g->b, none);
  }
  for (int i = 0; m->ahead && m->ahead_turns <= 1 && i < m->mr; i++)
    for (int j = 0; j < m->nv; j += vectors_of(m))
      ll_prefetch_store(g, c_address(g, m, c, i, j));
  if (m->add) {
    LLVMBuildBr(g->b, start);
    LLVMPositionBuilderAtEnd(g->b, start);
  }
  for (int i = 0; i < m->mr; i++)
    for (int j = 0; j < m->nv; j++) {
      s->sum[i][j] = m->add ? LLVMBuildPhi(g->b, type, "") : zero;
      if (m->add) {
        LLVMAddIncoming(s->sum[i][j], &zero, &none, 1);
        LLVMAddIncoming(s->sum[i][j], &loaded[i][j], &load, 1);
      }
    }
}

/* Vector j of row i, with narrow and the one after it: dot products leave no subnormal number,
 * which the instruction would take for zero. */
static Val result(Gen *g, const Micro *m, const State *s, int i, int j) {
  if (!m->narrow)
    return s->sum[i][j];
  Val arg[] = {s->sum[i][j + 1], s->sum[i][j]};
  return ll_call(g, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", NULL, 2, arg);
}

static void micro_body(Gen *g, const Micro *m, Val fn) {
  Val a = LLVMGetParam(fn, 0);
  unsigned at = m->add ? 5 : 4;
  Given call = {.fn = fn, .c = LLVMGetParam(fn, 2), .turns = LLVMGetParam(fn, 3)};
  call.next = m->next ? LLVMGetParam(fn, at++) : NULL;
  call.next_step = m->next_step ? LLVMGetParam(fn, at++) : NULL;
  call.rows = m->group ? LLVMGetParam(fn, at++) : NULL;
  call.c_rows = m->c_rows ? LLVMGetParam(fn, at++) : NULL;
  State s = {.a = {a}, .b = LLVMGetParam(fn, 1), .next = call.next};
  s.places = m->places ? LLVMGetParam(fn, at++) : NULL;
  call.places_at = m->places ? LLVMGetParam(fn, at++) : NULL;
  for (int i = 0; call.rows && i < pointers(m); i++)
    s.a[i] = ll_gep(g, g->i8, a, ll_load(g, g->i64, 1, ll_gepc(g, g->i64, call.rows, i), NULL));
  Place place = c_place(g, m, call.c, call.c_rows);
  first_sums(g, m, fn, &place, &s);
  int64_t left = has_way(m) ? wayside(g, m, &call, &s) : -1;
  if (left > 0)
    call.turns = ll_n(g, left);
  if (left != 0)
    nest(g, m, &call, m->nloop, &s);
  place = c_place(g, m, call.c, m->c_rows ? ll_opaque(g, call.c_rows) : NULL);
  for (int i = 0; i < m->mr; i++)
    for (int j = 0; j < m->nv; j += vectors_of(m))
      ll_store(g, result(g, m, &s, i, j), c_address(g, m, &place, i, j), NULL);
}

/* Micro-kernels of a module are told apart by everything that makes their code. */
static void micro_name(const Micro *m, char *name, size_t size) {
  int n = snprintf(
      name, size, "micro_%s_%dx%d_a%lld_%lld_b%lld_%lld_c%lld%s%s%s_t%d_p%d%s_g%d%s%s",
      dtype_text(m->c.in), m->mr, m->nv, (long long)m->rs, (long long)m->ks, (long long)m->bs,
      (long long)m->bp, (long long)m->cs, m->narrow ? "n" : "", m->odd ? "_odd" : "",
      m->add ? "_add" : "", m->ahead ? 1 + (int)m->ahead_turns : 0, m->next ? m->next_lines : 0,
      m->next_step ? "_step" : "", m->group, m->c_rows ? "s" : "", m->places ? "_places" : "");
  if (m->nloop || has_way(m))
    n += snprintf(name + n, size - (size_t)n, "_r%lld", (long long)m->run);
  for (int i = 0; i < m->nloop; i++)
    n += snprintf(name + n, size - (size_t)n, "_l%lld_%lld_%lld",
                  (long long)(i + 1 < m->nloop ? m->loop[i].turns : 0), (long long)m->loop[i].a,
                  (long long)m->loop[i].b);
  for (int i = 0; i < m->way.nfetch; i++)
    n += snprintf(name + n, size - (size_t)n, "_f%lld", (long long)m->way.fetch[i]);
  for (int i = 0; i < m->way.nclear; i++)
    n += snprintf(name + n, size - (size_t)n, "_z%lld", (long long)m->way.clear[i]);
}

static Val micro_get(Gen *g, const Micro *m, Ty *type) {
  assert(m->mr >= 1 && m->mr <= MAX_MR && m->nv >= 1 && m->nv <= MAX_NV);
  Ty param[PARAMS] = {g->ptr, g->ptr, g->ptr, g->i64};
  int nparam = 4;
  if (m->add)
    param[nparam++] = g->i1;
  if (m->next)
    param[nparam++] = g->ptr;
  if (m->next_step)
    param[nparam++] = g->i64;
  if (m->group)
    param[nparam++] = g->ptr;
  if (m->c_rows)
    param[nparam++] = g->ptr;
  if (m->places) {
    param[nparam++] = g->ptr;
    param[nparam++] = g->i64;
  }
  *type = LLVMFunctionType(g->none, param, (unsigned)nparam, 0);
  char name[1000];
  micro_name(m, name, sizeof name);
  FnSave save;
  Val fn = micro_fn(g, name, nparam, param, &save);
  if (!fn)
    return LLVMGetNamedFunction(g->mod, name);
  micro_body(g, m, fn);
  micro_fn_end(g, &save);
  return fn;
}

void micro_call(Gen *g, const Micro *m, Val a, Val b, Val c, Val kc, Val add) {
  Ty type;
  Val fn = micro_get(g, m, &type);
  Val arg[PARAMS] = {a, b, c, kc};
  unsigned n = 4;
  if (m->add)
    arg[n++] = add;
  if (m->next)
    arg[n++] = m->next;
  if (m->next_step)
    arg[n++] = m->next_step;
  if (m->group)
    arg[n++] = m->rows;
  if (m->c_rows)
    arg[n++] = m->c_rows;
  if (m->places) {
    arg[n++] = m->places;
    arg[n++] = m->places_at;
  }
  LLVMBuildCall2(g->b, type, fn, arg, n, "");
}

void micro_panel(Gen *g, const Split *s, Micro m, Val panel, Val a, Val b, Val c, Val kc, Val add) {
  m.mr = s->hi;
  if (equal_panels(s)) {
    micro_call(g, &m, a, b, c, kc, add);
    return;
  }
  Val in = s->period < s->n ? ll_urem(g, panel, s->period) : panel;
  If f = ll_if(g, ll_icmp(g, LLVMIntSLT, in, ll_n(g, s->nhi)));
  micro_call(g, &m, a, b, c, kc, add);
  ll_else(g, &f);
  m.mr = s->hi - s->step;
  micro_call(g, &m, a, b, c, kc, add);
  ll_endif(g, &f);
}

/* ---- transposing ----------------------------------------------------------------------------- */

/* Interleaves groups of `unit` elements from the lower (upper) half of every `span` of a and b:
 * with a span of 16 bytes these are the unpack instructions. */
static Val unpack(Gen *g, Val a, Val b, int n, int span, int unit, int half) {
  int index[64];
  for (int i = 0; i < n; i++) {
    int in_span = i % span, group = in_span / unit;
    int source = i - in_span + half * (span / 2) + group / 2 * unit + in_span % unit;
    index[i] = source + (group % 2 ? n : 0);
  }
  return ll_shuffle(g, a, b, index, n);
}

/* Exchanges bit `bit` of the row number with the same bit of the column number. */
static void exchange(Gen *g, Val *row, int n, int bit) {
  for (int i = 0; i < n; i++) {
    if (i & bit)
      continue;
    int low[64], high[64];
    for (int c = 0; c < n; c++) {
      low[c] = c & bit ? n + (c ^ bit) : c;
      high[c] = c & bit ? n + c : c | bit;
    }
    Val a = row[i], b = row[i | bit];
    row[i] = ll_shuffle(g, a, b, low, n);
    row[i | bit] = ll_shuffle(g, a, b, high, n);
  }
}

/* Fences between the steps: without them the instruction selector looks for better shuffles through
 * the whole network, which costs milliseconds and finds none. */
static void fence(Gen *g, Val *row, int n) {
  for (int i = 0; i < n; i++)
    row[i] = ll_fence(g, row[i]);
}

/* 4 x 4 blocks of 4-byte elements in place: two steps of unpacking inside each 16 bytes. */
static void transpose_words(Gen *g, Val *row, int n) {
  for (int i = 0; i < n; i += 4) {
    Val *r = row + i, r0 = r[0], r2 = r[2];
    r[0] = unpack(g, r0, r[1], n, 4, 1, 0);
    r[1] = unpack(g, r0, r[1], n, 4, 1, 1);
    r[2] = unpack(g, r2, r[3], n, 4, 1, 0);
    r[3] = unpack(g, r2, r[3], n, 4, 1, 1);
  }
  fence(g, row, n);
  for (int i = 0; i < n; i += 4) {
    Val *r = row + i, r0 = r[0], r1 = r[1], r2 = r[2], r3 = r[3];
    r[0] = unpack(g, r0, r2, n, 4, 2, 0);
    r[1] = unpack(g, r0, r2, n, 4, 2, 1);
    r[2] = unpack(g, r1, r3, n, 4, 2, 0);
    r[3] = unpack(g, r1, r3, n, 4, 2, 1);
  }
}

/* 2 x 2 blocks of 8-byte elements. */
static void transpose_pairs(Gen *g, Val *row, int n) {
  for (int i = 0; i < n; i += 2) {
    Val a = row[i], b = row[i + 1];
    row[i] = unpack(g, a, b, n, 2, 1, 0);
    row[i + 1] = unpack(g, a, b, n, 2, 1, 1);
  }
}

void micro_transpose(Gen *g, Val *row, int n) {
  Ty elem = ll_elem(row[0]);
  bool wide = elem == g->f64 || elem == g->i64;
  for (int i = 0; i < n; i++) /* fences are for floats */
    row[i] = ll_bits(g, row[i], wide ? g->f64 : g->f32);
  fence(g, row, n);
  if (wide)
    transpose_pairs(g, row, n);
  else
    transpose_words(g, row, n);
  for (int bit = wide ? 2 : 4; bit < n; bit *= 2) {
    fence(g, row, n);
    exchange(g, row, n, bit);
  }
  for (int i = 0; i < n; i++)
    row[i] = ll_bits(g, row[i], elem);
}

/* ---- units ----------------------------------------------------------------------------------- */

Val micro_convert(Gen *g, const Compute *c, Val reg) {
  if (c->in == MPCC_BF16)
    return ll_encode(g, MPCC_BF16, reg);
  if (ll_elem(reg) == c->unit)
    return reg;
  return c->in == MPCC_F64 ? ll_fext(g, reg, g->f64) : ll_ftrunc(g, reg, g->f32);
}

Val micro_pairs(Gen *g, const Compute *c, Val elements) {
  return c->pair == 1 ? elements : recast(g, elements, c->unit, ll_lanes(elements) / 2);
}

Val micro_elements(Gen *g, const Compute *c, DType dt, int n, Val at, Val count) {
  if (dt == c->in)
    return ll_load(g, ll_mem(g, dt), n, at, count);
  return micro_convert(g, c, ll_get(g, dt, n, at, count));
}

Val micro_units(Gen *g, const Compute *c, DType dt, int n, Val at, Val count) {
  return micro_pairs(g, c, micro_elements(g, c, dt, n * c->pair, at, count));
}

Val micro_interleave(Gen *g, const Compute *c, Val first, Val second) {
  if (c->pair == 1)
    return first;
  int n = ll_lanes(first), index[128];
  for (int i = 0; i < 2 * n; i++)
    index[i] = i % 2 ? n + i / 2 : i / 2;
  Val both = ll_shuffle(g, first, second ? second : LLVMConstNull(LLVMTypeOf(first)), index, 2 * n);
  return recast(g, both, c->unit, n);
}
