/* Helpers of llvm.h: IR types, constants, arithmetic, vectors and control flow. */
#include "codegen/cpu/llvm.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LANES = 64 };

bool gen_fail(Gen *g, const char *fmt, ...) {
  if (!g->error[0]) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(g->error, sizeof g->error, fmt, ap);
    va_end(ap);
  }
  return false;
}

/* ---- types and constants ---- */

Ty ll_vec(Ty elem, int lanes) {
  return lanes == 1 ? elem : LLVMVectorType(elem, (unsigned)lanes);
}

static bool is_vector(Ty t) {
  return LLVMGetTypeKind(t) == LLVMVectorTypeKind;
}

static int type_lanes(Ty t) {
  return is_vector(t) ? (int)LLVMGetVectorSize(t) : 1;
}

static Ty type_elem(Ty t) {
  return is_vector(t) ? LLVMGetElementType(t) : t;
}

int ll_lanes(Val v) {
  return type_lanes(LLVMTypeOf(v));
}

Ty ll_elem(Val v) {
  return type_elem(LLVMTypeOf(v));
}

Ty ll_like(Val v, Ty elem) {
  return ll_vec(elem, ll_lanes(v));
}

Ty ll_reg(const Gen *g, DType reg) {
  switch (reg) {
  case MPCC_F64:
    return g->f64;
  case MPCC_I64:
    return g->i64;
  case MPCC_B1:
    return g->i1;
  default:
    return g->f32;
  }
}

Ty ll_mem(const Gen *g, DType dt) {
  if (dt == MPCC_F64)
    return g->f64;
  if (dt == MPCC_F32)
    return g->f32;
  switch (dtype_bytes(dt)) {
  case 8:
    return g->i64;
  case 4:
    return g->i32;
  case 2:
    return g->i16;
  default:
    return g->i8;
  }
}

static Val const_splat(Val scalar, int lanes) {
  if (lanes == 1)
    return scalar;
  Val v[MAX_LANES];
  for (int i = 0; i < lanes; i++)
    v[i] = scalar;
  return LLVMConstVector(v, (unsigned)lanes);
}

Val ll_f(Ty t, double v) {
  return const_splat(LLVMConstReal(type_elem(t), v), type_lanes(t));
}

Val ll_i(Ty t, int64_t v) {
  return const_splat(LLVMConstInt(type_elem(t), (unsigned long long)v, 1), type_lanes(t));
}

Val ll_n(const Gen *g, int64_t v) {
  return LLVMConstInt(g->i64, (unsigned long long)v, 1);
}

Val ll_splat(Gen *g, Val scalar, int lanes) {
  if (ll_lanes(scalar) == lanes)
    return scalar;
  if (LLVMIsConstant(scalar))
    return const_splat(scalar, lanes);
  Ty t = ll_vec(LLVMTypeOf(scalar), lanes);
  Val v = LLVMBuildInsertElement(g->b, LLVMGetPoison(t), scalar, LLVMConstInt(g->i32, 0, 0), "");
  return LLVMBuildShuffleVector(g->b, v, LLVMGetPoison(t), LLVMConstNull(ll_vec(g->i32, lanes)),
                                "");
}

Val ll_iota(Ty elem, int lanes) {
  Val v[MAX_LANES];
  for (int i = 0; i < lanes; i++)
    v[i] = LLVMConstInt(elem, (unsigned long long)i, 0);
  return lanes == 1 ? v[0] : LLVMConstVector(v, (unsigned)lanes);
}

Val ll_lane(Gen *g, Val v, int lane) {
  if (ll_lanes(v) == 1)
    return v;
  return LLVMBuildExtractElement(g->b, v, LLVMConstInt(g->i32, (unsigned)lane, 0), "");
}

Val ll_shuffle(Gen *g, Val a, Val b, const int *index, int lanes) {
  Val m[MAX_LANES];
  for (int i = 0; i < lanes; i++)
    m[i] = LLVMConstInt(g->i32, (unsigned)index[i], 0);
  return LLVMBuildShuffleVector(g->b, a, b, LLVMConstVector(m, (unsigned)lanes), "");
}

Val ll_slice(Gen *g, Val v, int from, int lanes) {
  if (lanes == 1)
    return ll_lane(g, v, from);
  int index[MAX_LANES];
  for (int i = 0; i < lanes; i++)
    index[i] = from + i;
  return ll_shuffle(g, v, LLVMGetPoison(LLVMTypeOf(v)), index, lanes);
}

Val ll_join(Gen *g, Val a, Val b) {
  int n = ll_lanes(a);
  if (n == 1) {
    Val v = LLVMGetPoison(ll_vec(LLVMTypeOf(a), 2));
    v = LLVMBuildInsertElement(g->b, v, a, LLVMConstInt(g->i32, 0, 0), "");
    return LLVMBuildInsertElement(g->b, v, b, LLVMConstInt(g->i32, 1, 0), "");
  }
  int index[MAX_LANES];
  for (int i = 0; i < 2 * n; i++)
    index[i] = i;
  return ll_shuffle(g, a, b, index, 2 * n);
}

Val ll_by_parts(Gen *g, Val v, int most, Val (*fn)(Gen *, Val)) {
  int half = ll_lanes(v) / 2;
  if (ll_lanes(v) <= most)
    return fn(g, v);
  Val a = ll_by_parts(g, ll_slice(g, v, 0, half), most, fn);
  return ll_join(g, a, ll_by_parts(g, ll_slice(g, v, half, half), most, fn));
}

/* ---- arithmetic ---- */

/* Gives two operands the same number of lanes. */
static void match(Gen *g, Val *a, Val *b) {
  int n = ll_lanes(*a) > ll_lanes(*b) ? ll_lanes(*a) : ll_lanes(*b);
  *a = ll_splat(g, *a, n);
  *b = ll_splat(g, *b, n);
}

static Val contract(Val v) {
  if (LLVMIsAInstruction(v) && LLVMCanValueUseFastMathFlags(v))
    LLVMSetFastMathFlags(v, LLVMFastMathAllowContract);
  return v;
}

Val ll_fadd(Gen *g, Val a, Val b) {
  match(g, &a, &b);
  return contract(LLVMBuildFAdd(g->b, a, b, ""));
}

Val ll_fsub(Gen *g, Val a, Val b) {
  match(g, &a, &b);
  return contract(LLVMBuildFSub(g->b, a, b, ""));
}

Val ll_fmul(Gen *g, Val a, Val b) {
  match(g, &a, &b);
  return contract(LLVMBuildFMul(g->b, a, b, ""));
}

Val ll_fdiv(Gen *g, Val a, Val b) {
  match(g, &a, &b);
  return LLVMBuildFDiv(g->b, a, b, "");
}

Val ll_fneg(Gen *g, Val a) {
  return LLVMBuildFNeg(g->b, a, "");
}

Val ll_call(Gen *g, const char *name, Ty over, int n, Val *args) {
  unsigned id = LLVMLookupIntrinsicID(name, strlen(name));
  size_t nover = over ? 1 : 0;
  if (!id) {
    gen_fail(g, "no intrinsic %s in this LLVM", name);
    return args[0];
  }
  Val f = LLVMGetIntrinsicDeclaration(g->mod, id, &over, nover);
  Ty t = LLVMIntrinsicGetType(g->ctx, id, &over, nover);
  return LLVMBuildCall2(g->b, t, f, args, (unsigned)n, "");
}

static Val call1(Gen *g, const char *name, Val a) {
  return ll_call(g, name, LLVMTypeOf(a), 1, &a);
}

Val ll_fabs(Gen *g, Val a) {
  return call1(g, "llvm.fabs", a);
}

Val ll_fma(Gen *g, Val a, Val b, Val c) {
  match(g, &a, &b);
  match(g, &a, &c);
  match(g, &a, &b);
  Val v[] = {a, b, c};
  return ll_call(g, "llvm.fma", LLVMTypeOf(a), 3, v);
}

Val ll_sqrt(Gen *g, Val a) {
  return call1(g, "llvm.sqrt", a);
}

Val ll_floor(Gen *g, Val a) {
  return call1(g, "llvm.floor", a);
}

Val ll_fence(Gen *g, Val a) {
  return call1(g, "llvm.arithmetic.fence", a);
}

/* ll_fextreme of a whole register. Written with comparisons LLVM merges it with the selection
 * around it, which takes more. */
static Val extreme_register(Gen *g, Val a, Val b, bool least) {
  bool wide = ll_elem(a) == g->f64;
  int bytes = ll_lanes(a) * (wide ? 8 : 4);
  bool zmm = bytes == 64 && g->level->avx512;
  if (!zmm && bytes != 32)
    return ll_sel(g, ll_fcmp(g, least ? LLVMRealOLT : LLVMRealOGT, a, b), a, b);
  char name[40];
  snprintf(name, sizeof name, "llvm.x86.%s.%s.p%c.%d", zmm ? "avx512" : "avx",
           least ? "min" : "max", wide ? 'd' : 's', 8 * bytes);
  Val args[] = {a, b, LLVMConstInt(g->i32, 4, 0)};
  return ll_call(g, name, NULL, zmm ? 3 : 2, args);
}

Val ll_fextreme(Gen *g, Val a, Val b, bool least) {
  match(g, &a, &b);
  int half = ll_lanes(a) / 2;
  int bytes = ll_lanes(a) * (ll_elem(a) == g->f64 ? 8 : 4);
  if (bytes <= g->level->vector_bytes)
    return extreme_register(g, a, b, least);
  Val low = ll_fextreme(g, ll_slice(g, a, 0, half), ll_slice(g, b, 0, half), least);
  return ll_join(g, low,
                 ll_fextreme(g, ll_slice(g, a, half, half), ll_slice(g, b, half, half), least));
}

static Val extreme(Gen *g, Val a, Val b, bool least) {
  match(g, &a, &b);
  int half = ll_lanes(a) / 2;
  int bytes = ll_lanes(a) * (ll_elem(a) == g->f64 ? 8 : 4);
  if (bytes > g->level->vector_bytes) {
    Val low = extreme(g, ll_slice(g, a, 0, half), ll_slice(g, b, 0, half), least);
    return ll_join(g, low,
                   extreme(g, ll_slice(g, a, half, half), ll_slice(g, b, half, half), least));
  }
  /* a stays when it is NaN, b is taken when it is: in loops only b, the new value, is tested */
  Val m = extreme_register(g, b, a, least);
  return ll_sel(g, ll_fcmp(g, LLVMRealUNO, b, b), b, m);
}

Val ll_fmax(Gen *g, Val a, Val b) {
  return extreme(g, a, b, false);
}

Val ll_fmin(Gen *g, Val a, Val b) {
  return extreme(g, a, b, true);
}

#define BINARY(name, build)                                                                        \
  Val name(Gen *g, Val a, Val b) {                                                                 \
    match(g, &a, &b);                                                                              \
    return build(g->b, a, b, "");                                                                  \
  }
BINARY(ll_add, LLVMBuildAdd)
BINARY(ll_sub, LLVMBuildSub)
BINARY(ll_mul, LLVMBuildMul)
BINARY(ll_and, LLVMBuildAnd)
BINARY(ll_or, LLVMBuildOr)
BINARY(ll_xor, LLVMBuildXor)
#undef BINARY

Val ll_shl(Gen *g, Val a, int bits) {
  return LLVMBuildShl(g->b, a, ll_i(LLVMTypeOf(a), bits), "");
}

Val ll_lshr(Gen *g, Val a, int bits) {
  return LLVMBuildLShr(g->b, a, ll_i(LLVMTypeOf(a), bits), "");
}

Val ll_ashr(Gen *g, Val a, int bits) {
  return LLVMBuildAShr(g->b, a, ll_i(LLVMTypeOf(a), bits), "");
}

Val ll_udiv(Gen *g, Val a, int64_t n) {
  return n == 1 ? a : LLVMBuildUDiv(g->b, a, ll_i(LLVMTypeOf(a), n), "");
}

Val ll_urem(Gen *g, Val a, int64_t n) {
  return LLVMBuildURem(g->b, a, ll_i(LLVMTypeOf(a), n), "");
}

Val ll_umin(Gen *g, Val a, Val b) {
  match(g, &a, &b);
  return ll_sel(g, ll_icmp(g, LLVMIntULT, a, b), a, b);
}

Val ll_icmp(Gen *g, LLVMIntPredicate p, Val a, Val b) {
  match(g, &a, &b);
  return LLVMBuildICmp(g->b, p, a, b, "");
}

Val ll_fcmp(Gen *g, LLVMRealPredicate p, Val a, Val b) {
  match(g, &a, &b);
  return LLVMBuildFCmp(g->b, p, a, b, "");
}

Val ll_sel(Gen *g, Val c, Val a, Val b) {
  match(g, &a, &b);
  if (ll_lanes(c) > 1) {
    a = ll_splat(g, a, ll_lanes(c));
    b = ll_splat(g, b, ll_lanes(c));
  }
  return LLVMBuildSelect(g->b, c, a, b, "");
}

Val ll_bits(Gen *g, Val v, Ty elem) {
  return LLVMBuildBitCast(g->b, v, ll_like(v, elem), "");
}

Val ll_zext(Gen *g, Val v, Ty elem) {
  return LLVMBuildZExt(g->b, v, ll_like(v, elem), "");
}

Val ll_sext(Gen *g, Val v, Ty elem) {
  return LLVMBuildSExt(g->b, v, ll_like(v, elem), "");
}

Val ll_trunc(Gen *g, Val v, Ty elem) {
  return LLVMBuildTrunc(g->b, v, ll_like(v, elem), "");
}

Val ll_fext(Gen *g, Val v, Ty elem) {
  return LLVMBuildFPExt(g->b, v, ll_like(v, elem), "");
}

Val ll_ftrunc(Gen *g, Val v, Ty elem) {
  return LLVMBuildFPTrunc(g->b, v, ll_like(v, elem), "");
}

Val ll_sitof(Gen *g, Val v, Ty elem) {
  return LLVMBuildSIToFP(g->b, v, ll_like(v, elem), "");
}

/* Halves the vector until one lane is left. */
Val ll_hsum(Gen *g, Val v) {
  bool whole = LLVMGetTypeKind(ll_elem(v)) == LLVMIntegerTypeKind;
  for (int n = ll_lanes(v) / 2; n >= 1; n /= 2) {
    Val low = ll_slice(g, v, 0, n), high = ll_slice(g, v, n, n);
    v = whole ? ll_add(g, low, high) : ll_fadd(g, low, high);
  }
  return v;
}

/* ---- memory ---- */

Val ll_gep(Gen *g, Ty elem, Val base, Val index) {
  return LLVMBuildGEP2(g->b, elem, base, &index, 1, "");
}

Val ll_gepc(Gen *g, Ty elem, Val base, int64_t index) {
  return index ? ll_gep(g, elem, base, ll_n(g, index)) : base;
}

static unsigned elem_bytes(Ty t) {
  switch (LLVMGetTypeKind(t)) {
  case LLVMDoubleTypeKind:
    return 8;
  case LLVMFloatTypeKind:
    return 4;
  case LLVMIntegerTypeKind:
    return (LLVMGetIntTypeWidth(t) + 7) / 8;
  default:
    return 2;
  }
}

Val ll_mask(Gen *g, int lanes, Val count) {
  if (!count)
    return ll_i(ll_vec(g->i1, lanes), -1);
  if (lanes == 1)
    return ll_icmp(g, LLVMIntSGT, count, ll_n(g, 0));
  Val n = LLVMBuildTrunc(g->b, count, g->i32, "");
  return ll_icmp(g, LLVMIntULT, ll_iota(g->i32, lanes), n);
}

static Val masked(Gen *g, const char *name, Ty vec, int n, Val *args) {
  unsigned id = LLVMLookupIntrinsicID(name, strlen(name));
  Ty over[] = {vec, g->ptr};
  Val f = LLVMGetIntrinsicDeclaration(g->mod, id, over, 2);
  return LLVMBuildCall2(g->b, LLVMIntrinsicGetType(g->ctx, id, over, 2), f, args, (unsigned)n, "");
}

/* AVX2 has masked moves for 4- and 8-byte elements only. */
static bool has_masked(const Gen *g, Ty elem) {
  return g->level->avx512 || elem_bytes(elem) >= 4;
}

static Val load1(Gen *g, Ty t, Val at, unsigned align) {
  Val v = LLVMBuildLoad2(g->b, t, at, "");
  LLVMSetAlignment(v, align);
  return v;
}

static void store1(Gen *g, Val v, Val at, unsigned align) {
  LLVMSetAlignment(LLVMBuildStore(g->b, v, at), align);
}

Val ll_load(Gen *g, Ty elem, int lanes, Val at, Val count) {
  unsigned bytes = elem_bytes(elem);
  Ty vec = ll_vec(elem, lanes);
  if (!count || lanes == 1)
    return load1(g, vec, at, bytes);
  if (has_masked(g, elem)) {
    Val args[] = {at, LLVMConstInt(g->i32, bytes, 0), ll_mask(g, lanes, count), LLVMConstNull(vec)};
    return masked(g, "llvm.masked.load", vec, 4, args);
  }
  if (LLVMIsConstant(count)) {
    Val v = LLVMConstNull(vec);
    int64_t n = LLVMConstIntGetSExtValue(count);
    for (int i = 0; i < n; i++)
      v = LLVMBuildInsertElement(g->b, v, load1(g, elem, ll_gepc(g, elem, at, i), bytes),
                                 LLVMConstInt(g->i32, (unsigned)i, 0), "");
    return v;
  }
  Val buf = ll_buf(g, elem, lanes, 32);
  store1(g, LLVMConstNull(vec), buf, bytes);
  Loop l = ll_loop(g, ll_n(g, 0), count, 1);
  store1(g, load1(g, elem, ll_gep(g, elem, at, l.i), bytes), ll_gep(g, elem, buf, l.i), bytes);
  ll_loop_end(g, &l);
  return load1(g, vec, buf, bytes);
}

Val ll_load_into(Gen *g, Val v, Val at, int from, int end) {
  Ty elem = ll_elem(v);
  int lanes = ll_lanes(v);
  if (from == 0 && end == lanes)
    return load1(g, LLVMTypeOf(v), at, elem_bytes(elem));
  Val i = ll_iota(g->i32, lanes), first = ll_i(ll_vec(g->i32, lanes), from),
      after = ll_i(ll_vec(g->i32, lanes), end);
  Val mask = ll_and(g, ll_icmp(g, LLVMIntUGE, i, first), ll_icmp(g, LLVMIntULT, i, after));
  Val args[] = {at, LLVMConstInt(g->i32, elem_bytes(elem), 0), mask, v};
  return masked(g, "llvm.masked.load", LLVMTypeOf(v), 4, args);
}

void ll_store(Gen *g, Val v, Val at, Val count) {
  Ty elem = ll_elem(v);
  unsigned bytes = elem_bytes(elem);
  int lanes = ll_lanes(v);
  if (!count || lanes == 1) {
    store1(g, v, at, bytes);
    return;
  }
  if (has_masked(g, elem)) {
    Val args[] = {v, at, LLVMConstInt(g->i32, bytes, 0), ll_mask(g, lanes, count)};
    masked(g, "llvm.masked.store", LLVMTypeOf(v), 4, args);
    return;
  }
  ll_store_strided(g, v, at, ll_n(g, 1), count);
}

Val ll_load_strided(Gen *g, Ty elem, int lanes, Val at, Val stride, Val count) {
  unsigned bytes = elem_bytes(elem);
  if (lanes == 1)
    return load1(g, elem, at, bytes);
  Val last = count ? ll_sub(g, count, ll_n(g, 1)) : NULL;
  Val v = LLVMGetPoison(ll_vec(elem, lanes));
  for (int i = 0; i < lanes; i++) {
    Val k = ll_n(g, i);
    if (last)
      k = ll_umin(g, k, last);
    Val x = load1(g, elem, ll_gep(g, elem, at, ll_mul(g, k, stride)), bytes);
    v = LLVMBuildInsertElement(g->b, v, x, LLVMConstInt(g->i32, (unsigned)i, 0), "");
  }
  return v;
}

void ll_store_strided(Gen *g, Val v, Val at, Val stride, Val count) {
  Ty elem = ll_elem(v);
  unsigned bytes = elem_bytes(elem);
  int lanes = ll_lanes(v);
  bool known = !count || LLVMIsConstant(count);
  if (known) {
    int64_t n = count ? LLVMConstIntGetSExtValue(count) : lanes;
    for (int i = 0; i < n; i++)
      store1(g, ll_lane(g, v, i), ll_gep(g, elem, at, ll_mul(g, ll_n(g, i), stride)), bytes);
    return;
  }
  Val buf = ll_buf(g, elem, lanes, 32);
  store1(g, v, buf, bytes);
  Loop l = ll_loop(g, ll_n(g, 0), count, 1);
  Val x = load1(g, elem, ll_gep(g, elem, buf, l.i), bytes);
  store1(g, x, ll_gep(g, elem, at, ll_mul(g, l.i, stride)), bytes);
  ll_loop_end(g, &l);
}

void ll_store_past(Gen *g, Val v, Val at) {
  static const char kind[] = "nontemporal";
  Val store = LLVMBuildStore(g->b, v, at);
  LLVMMetadataRef one = LLVMValueAsMetadata(LLVMConstInt(g->i32, 1, 0));
  LLVMMetadataRef node = LLVMMDNodeInContext2(g->ctx, &one, 1);
  LLVMSetAlignment(store, (unsigned)ll_lanes(v) * elem_bytes(ll_elem(v)));
  LLVMSetMetadata(store, LLVMGetMDKindIDInContext(g->ctx, kind, sizeof kind - 1),
                  LLVMMetadataAsValue(g->ctx, node));
}

void ll_written(Gen *g) {
  ll_call(g, "llvm.x86.sse.sfence", NULL, 0, NULL);
}

/* near: how near the processor, 3 nearest */
static void prefetch(Gen *g, Val at, int write, int near) {
  Val args[] = {at, LLVMConstInt(g->i32, (unsigned)write, 0),
                LLVMConstInt(g->i32, (unsigned)near, 0), LLVMConstInt(g->i32, 1, 0)};
  ll_call(g, "llvm.prefetch", g->ptr, 4, args);
}

void ll_prefetch(Gen *g, Val at) {
  prefetch(g, at, 0, 3);
}

void ll_prefetch_store(Gen *g, Val at) {
  prefetch(g, at, 1, 3);
}

void ll_prefetch_far(Gen *g, Val at) {
  prefetch(g, at, 0, 2);
}

Val ll_opaque(Gen *g, Val at) {
  Ty type = LLVMFunctionType(g->ptr, &g->ptr, 1, 0);
  Val nothing = LLVMGetInlineAsm(type, "", 0, "=r,0", 4, 0, 0, LLVMInlineAsmDialectATT, 0);
  return LLVMBuildCall2(g->b, type, nothing, &at, 1, "");
}

/* ---- control ---- */

static LLVMBasicBlockRef block(Gen *g, const char *name) {
  return LLVMAppendBasicBlockInContext(g->ctx, g->fn, name);
}

static Val entry_alloca(Gen *g, Ty t, Val n, unsigned align) {
  LLVMBasicBlockRef here = LLVMGetInsertBlock(g->b), entry = LLVMGetEntryBasicBlock(g->fn);
  Val first = LLVMGetFirstInstruction(entry);
  if (first)
    LLVMPositionBuilderBefore(g->b, first);
  else
    LLVMPositionBuilderAtEnd(g->b, entry);
  Val a = n ? LLVMBuildArrayAlloca(g->b, t, n, "") : LLVMBuildAlloca(g->b, t, "");
  if (align)
    LLVMSetAlignment(a, align);
  LLVMPositionBuilderAtEnd(g->b, here);
  return a;
}

Val ll_var(Gen *g, Val init) {
  Val a = entry_alloca(g, LLVMTypeOf(init), NULL, 0);
  LLVMBuildStore(g->b, init, a);
  return a;
}

Val ll_buf(Gen *g, Ty elem, int64_t n, unsigned align) {
  return entry_alloca(g, LLVMArrayType(elem, (unsigned)n), NULL, align);
}

Val ll_var_get(Gen *g, Val var) {
  return LLVMBuildLoad2(g->b, LLVMGetAllocatedType(var), var, "");
}

void ll_var_set(Gen *g, Val var, Val v) {
  LLVMBuildStore(g->b, v, var);
}

Loop ll_loop(Gen *g, Val start, Val end, int64_t step) {
  Loop l = {.end = end, .step = step, .body = block(g, "loop"), .exit = block(g, "done")};
  l.var = ll_var(g, start);
  LLVMBuildCondBr(g->b, ll_icmp(g, LLVMIntSLT, start, end), l.body, l.exit);
  LLVMPositionBuilderAtEnd(g->b, l.body);
  l.i = ll_var_get(g, l.var);
  return l;
}

void ll_loop_end(Gen *g, Loop *l) {
  Val next = LLVMBuildNSWAdd(g->b, l->i, ll_n(g, l->step), "");
  ll_var_set(g, l->var, next);
  LLVMBuildCondBr(g->b, ll_icmp(g, LLVMIntSLT, next, l->end), l->body, l->exit);
  LLVMPositionBuilderAtEnd(g->b, l->exit);
}

While ll_while(Gen *g) {
  While w = {block(g, "while"), block(g, "done")};
  LLVMBuildBr(g->b, w.head);
  LLVMPositionBuilderAtEnd(g->b, w.head);
  return w;
}

void ll_while_body(Gen *g, While *w, Val cond) {
  LLVMBasicBlockRef body = block(g, "do");
  LLVMBuildCondBr(g->b, cond, body, w->exit);
  LLVMPositionBuilderAtEnd(g->b, body);
}

void ll_while_end(Gen *g, While *w) {
  LLVMBuildBr(g->b, w->head);
  LLVMPositionBuilderAtEnd(g->b, w->exit);
}

static If begin_if(Gen *g, Val cond, bool rare) {
  LLVMBasicBlockRef then = block(g, "then");
  If f = {block(g, "else"), block(g, "end"), false};
  Val branch = LLVMBuildCondBr(g->b, cond, then, f.other);
  if (rare) {
    LLVMMetadataRef words[] = {LLVMMDStringInContext2(g->ctx, "branch_weights", 14),
                               LLVMValueAsMetadata(LLVMConstInt(g->i32, 1, 0)),
                               LLVMValueAsMetadata(LLVMConstInt(g->i32, 10000, 0))};
    LLVMMetadataRef node = LLVMMDNodeInContext2(g->ctx, words, 3);
    LLVMSetMetadata(branch, LLVMGetMDKindIDInContext(g->ctx, "prof", 4),
                    LLVMMetadataAsValue(g->ctx, node));
  }
  LLVMPositionBuilderAtEnd(g->b, then);
  return f;
}

If ll_if(Gen *g, Val cond) {
  return begin_if(g, cond, false);
}

If ll_if_rare(Gen *g, Val cond) {
  return begin_if(g, cond, true);
}

void ll_else(Gen *g, If *f) {
  LLVMBuildBr(g->b, f->end);
  LLVMPositionBuilderAtEnd(g->b, f->other);
  f->has_else = true;
}

void ll_endif(Gen *g, If *f) {
  LLVMBuildBr(g->b, f->end);
  if (!f->has_else) {
    LLVMPositionBuilderAtEnd(g->b, f->other);
    LLVMBuildBr(g->b, f->end);
  }
  LLVMPositionBuilderAtEnd(g->b, f->end);
}

/* ---- kernel arguments ---- */

Val ll_arg_ptr(Gen *g, int slot) {
  return load1(g, g->ptr, ll_gepc(g, g->i64, g->args, slot), 8);
}

Val ll_arg_int(Gen *g, int slot) {
  return load1(g, g->i64, ll_gepc(g, g->i64, g->args, slot), 8);
}
