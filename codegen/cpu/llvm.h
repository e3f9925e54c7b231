/* Short helpers for building LLVM IR by hand: types, constants, arithmetic, loops, vectors with a
 * count of valid lanes. Everything here works for a scalar (lanes = 1) as for a vector. */
#ifndef MPCC_CPU_LLVM_H
#define MPCC_CPU_LLVM_H

#include <llvm-c/Core.h>
#include <stdbool.h>
#include <stdint.h>

#include "mpcc/base.h"

typedef LLVMValueRef Val;
typedef LLVMTypeRef Ty;

/* What a level of the target may use. */
typedef struct {
  const char *name;     /* "x86-64-v3" */
  const char *features; /* LLVM feature string */
  const char *needs;    /* cpu feature words of MpccCode.needs */
  int vector_bytes;
  bool avx512, bf16;    /* bf16: vdpbf16ps */
  bool folds; /* micro-kernels save instructions where they can, rather than loads; AVX-512 */
} CpuLevel;

/* One kernel under construction: its LLVM module and the state of the function being written.
 * Used by one thread. */
typedef struct {
  const CpuLevel *level;
  LLVMContextRef ctx;
  LLVMModuleRef mod;
  LLVMBuilderRef b;
  Ty i1, i8, i16, i32, i64, f16, f32, f64, ptr, none;
  Val fn;
  Val args, first, end, scratch; /* parameters of the kernel ABI (abi.h) */
  int64_t ntiles, scratch_bytes; /* set by the emitter of the kind */
  bool may_branch;               /* conversions may branch: good in loops, not in big tiles */
  char error[256];               /* words of a failure */
} Gen;

/* ---- failure --------------------------------------------------------------------------------- */

/* Records the first failure; always false, so that `return gen_fail(...)` reads well. */
bool gen_fail(Gen *g, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- types and constants --------------------------------------------------------------------- */

Ty ll_vec(Ty elem, int lanes);         /* elem itself for 1 lane */
int ll_lanes(Val v);                   /* 1 for scalars */
Ty ll_elem(Val v);                     /* element type */
Ty ll_like(Val v, Ty elem);            /* type with the lanes of v */
Ty ll_reg(const Gen *g, DType reg);    /* element type of a register: float double i64 i1 */
Ty ll_mem(const Gen *g, DType dt);     /* element type in memory; 16- and 8-bit floats are integers */
Val ll_f(Ty t, double v);              /* constants of scalar or vector type t */
Val ll_i(Ty t, int64_t v);
Val ll_n(const Gen *g, int64_t v);     /* i64 */
Val ll_splat(Gen *g, Val scalar, int lanes); /* a value that has `lanes` already is returned as is */
Val ll_iota(Ty elem, int lanes);       /* 0, 1, 2, ... */
Val ll_lane(Gen *g, Val v, int lane);  /* scalar in lane; v itself when scalar */
/* Lanes [from, from + lanes) of v; join: lanes of a, then of b (equal types). */
Val ll_slice(Gen *g, Val v, int from, int lanes);
Val ll_join(Gen *g, Val a, Val b);
Val ll_shuffle(Gen *g, Val a, Val b, const int *index, int lanes);
/* fn of v, by halves while v is longer than `most` lanes. */
Val ll_by_parts(Gen *g, Val v, int most, Val (*fn)(Gen *, Val));

/* ---- arithmetic ------------------------------------------------------------------------------------
 * fadd, fsub, fmul may be contracted to fused operations (N10). */

Val ll_fadd(Gen *g, Val a, Val b);
Val ll_fsub(Gen *g, Val a, Val b);
Val ll_fmul(Gen *g, Val a, Val b);
Val ll_fdiv(Gen *g, Val a, Val b);
Val ll_fneg(Gen *g, Val a);
Val ll_fabs(Gen *g, Val a);
Val ll_fma(Gen *g, Val a, Val b, Val c); /* a b + c */
Val ll_sqrt(Gen *g, Val a);
Val ll_floor(Gen *g, Val a);
Val ll_fence(Gen *g, Val a); /* a, with everything before it rounded: stops contraction */
/* max, min that are NaN when either operand is. */
Val ll_fmax(Gen *g, Val a, Val b);
Val ll_fmin(Gen *g, Val a, Val b);
/* a > b (least: a < b) ? a : b, which is b when either is NaN: one instruction. */
Val ll_fextreme(Gen *g, Val a, Val b, bool least);
Val ll_add(Gen *g, Val a, Val b);
Val ll_sub(Gen *g, Val a, Val b);
Val ll_mul(Gen *g, Val a, Val b);
Val ll_and(Gen *g, Val a, Val b);
Val ll_or(Gen *g, Val a, Val b);
Val ll_xor(Gen *g, Val a, Val b);
Val ll_shl(Gen *g, Val a, int bits);
Val ll_lshr(Gen *g, Val a, int bits);
Val ll_ashr(Gen *g, Val a, int bits);
Val ll_udiv(Gen *g, Val a, int64_t n); /* by a positive constant */
Val ll_urem(Gen *g, Val a, int64_t n);
Val ll_umin(Gen *g, Val a, Val b);
Val ll_icmp(Gen *g, LLVMIntPredicate p, Val a, Val b);
Val ll_fcmp(Gen *g, LLVMRealPredicate p, Val a, Val b);
Val ll_sel(Gen *g, Val c, Val a, Val b);
Val ll_bits(Gen *g, Val v, Ty elem); /* bit cast to elements of the same width */
Val ll_zext(Gen *g, Val v, Ty elem);
Val ll_sext(Gen *g, Val v, Ty elem);
Val ll_trunc(Gen *g, Val v, Ty elem);
Val ll_fext(Gen *g, Val v, Ty elem);
Val ll_ftrunc(Gen *g, Val v, Ty elem);
Val ll_sitof(Gen *g, Val v, Ty elem);
/* Intrinsic by name, overloaded on the type `over` (NULL: not overloaded). */
Val ll_call(Gen *g, const char *name, Ty over, int n, Val *args);
/* Across lanes, in a fixed order. */
Val ll_hsum(Gen *g, Val v);

/* ---- memory ----------------------------------------------------------------------------------------
 * count: number of valid leading lanes, an i64 (constant or not) in 1..lanes, or NULL for all. Memory
 * behind the valid lanes is not touched; loads give 0 there. Alignment is that of one element. */

Val ll_gep(Gen *g, Ty elem, Val base, Val index);
Val ll_gepc(Gen *g, Ty elem, Val base, int64_t index);
Val ll_load(Gen *g, Ty elem, int lanes, Val at, Val count);
void ll_store(Gen *g, Val v, Val at, Val count);
/* v, but lanes [from, end) are those of the vector at `at`, of which nothing else is touched.
 * Levels with AVX-512. */
Val ll_load_into(Gen *g, Val v, Val at, int from, int end);
/* Elements `stride` elements (i64) apart. Loads give an arbitrary valid element behind count. */
Val ll_load_strided(Gen *g, Ty elem, int lanes, Val at, Val stride, Val count);
void ll_store_strided(Gen *g, Val v, Val at, Val stride, Val count);
Val ll_mask(Gen *g, int lanes, Val count); /* <lanes x i1>, or i1 for 1 lane; NULL count: all true */
/* A whole vector to a place that is a multiple of its size, past the caches. Other threads see it
 * after ll_written. */
void ll_store_past(Gen *g, Val v, Val at);
void ll_written(Gen *g);
void ll_prefetch(Gen *g, Val at);
void ll_prefetch_store(Gen *g, Val at); /* what will be written */
void ll_prefetch_far(Gen *g, Val at);   /* into the second-level cache only */
Val ll_opaque(Gen *g, Val at);          /* the same address; LLVM does not know */

/* ---- conversions of storage dtypes [N1, N2] -------------------------------------------------- */

/* Register value (f32, f64, i64, i1 elements) of raw memory elements; exact. */
Val ll_decode(Gen *g, DType dt, Val raw);
/* Raw memory elements of a register value: nearest even, e4m3 and e5m2 saturate, NaN stays NaN;
 * floats to integers truncate; integers are kept in the range of the narrower type. */
Val ll_encode(Gen *g, DType dt, Val v);
Val ll_tf32(Gen *g, Val v); /* nearest number with 10 bits of mantissa [N3] */
/* v in dt (bf16, f16), rounded away from zero where what is cut off and random in [0, 1) make one */
Val ll_sr(Gen *g, DType dt, Val v, Val random);
Val ll_round(Gen *g, DType dt, Val v); /* decode(encode(v)) in the register type of v */
/* load + decode, encode + store. */
Val ll_get(Gen *g, DType dt, int lanes, Val at, Val count);
void ll_put(Gen *g, DType dt, Val v, Val at, Val count);
/* Pairs: twice the usual lanes, those of even elements first, then those of odd ones. That is how
 * the halves of 32-bit words come apart, so bf16 costs one instruction a vector either way instead
 * of two and three. raw and encoded elements are in the order of memory. */
Val ll_even_odd(Gen *g, Val v);   /* order of memory to pairs */
Val ll_interleave(Gen *g, Val v); /* and back */
Val ll_decode_pairs(Gen *g, DType dt, Val raw);
/* plain: NaN among v are quiet, and what bf16 has no room for is zero in them: rounding keeps them. */
Val ll_encode_pairs(Gen *g, DType dt, Val v, bool plain);
Val ll_plain_nan(Gen *g, Val v); /* v (f32), NaN of it made plain */
/* Vectors v[0], v[1], ... of f32 side by side in 32-bit lanes: two in a 16-bit dtype, four in an
 * 8-bit one, the first in the low bits. */
Val ll_encode_words(Gen *g, DType dt, const Val *v);
/* Register type of a storage dtype. */
DType ll_reg_dtype(DType storage);

/* ---- control --------------------------------------------------------------------------------- */

/* Local variables; promoted to registers by the pipeline. */
Val ll_var(Gen *g, Val init);            /* initialised at the current place */
Val ll_buf(Gen *g, Ty elem, int64_t n, unsigned align); /* uninitialised stack array */
Val ll_var_get(Gen *g, Val var);
void ll_var_set(Gen *g, Val var, Val v);

typedef struct {
  Val i; /* i64, the loop variable */
  Val var, end;
  int64_t step;
  LLVMBasicBlockRef body, exit;
} Loop;
/* for (i = start; i < end; i += step), signed; nothing runs when start >= end. */
Loop ll_loop(Gen *g, Val start, Val end, int64_t step);
void ll_loop_end(Gen *g, Loop *l);
/* while: cond is evaluated between ll_while and ll_while_body. */
typedef struct {
  LLVMBasicBlockRef head, exit;
} While;
While ll_while(Gen *g);
void ll_while_body(Gen *g, While *w, Val cond);
void ll_while_end(Gen *g, While *w);
typedef struct {
  LLVMBasicBlockRef other, end;
  bool has_else;
} If;
If ll_if(Gen *g, Val cond);
If ll_if_rare(Gen *g, Val cond); /* hardly ever: out of the way of what follows */
void ll_else(Gen *g, If *f);
void ll_endif(Gen *g, If *f);

/* ---- kernel arguments ------------------------------------------------------------------------ */

Val ll_arg_ptr(Gen *g, int slot);
Val ll_arg_int(Gen *g, int slot);

/* ---- math.c: own polynomials; bounds in codegen/cpu/README.md -------------------------------- */

Val ll_exp(Gen *g, Val x);
Val ll_exp_to_1(Gen *g, Val x); /* the same, of x that is no larger than 0 */
Val ll_log(Gen *g, Val x);
Val ll_tanh(Gen *g, Val x);
Val ll_erf(Gen *g, Val x);
Val ll_sin(Gen *g, Val x);
Val ll_cos(Gen *g, Val x);
/* scalar_rand of ir/scalar.c on i64 values (scalars are broadcast to the widest); f32 in [0, 1). */
Val ll_rand(Gen *g, Val seed, Val step, Val element, Val stream);

#endif
