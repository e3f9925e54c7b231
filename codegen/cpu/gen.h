/* Private header of codegen/cpu: one emitter per group kind, and statements over vectors of lanes. */
#ifndef MPCC_CPU_GEN_H
#define MPCC_CPU_GEN_H

#include "codegen/codegen.h"
#include "codegen/cpu/llvm.h"

/* ---- caps.c ---------------------------------------------------------------------------------- */

const CpuLevel *cpu_level(const char *name); /* NULL when unknown */
extern const char *const cpu_level_names[];
enum { CPU_NLEVEL = 3 };
Status cpu_caps(const char *level, TargetCaps *out);
const char *cpu_host_level(void);
const char *cpu_level_needs(const char *level);

/* ---- emitters: cpu_<kind> ---------------------------------------------------------------------------
 * Each writes the body of the kernel's function (the builder stands in its entry block; the caller
 * adds the final return) and sets g->ntiles and g->scratch_bytes. False with g->error on failure. */

typedef bool CpuEmit(Gen *g, const Op *group);
#define KIND(name) CpuEmit cpu_##name;
#include "codegen/cpu/kinds.def"
#undef KIND

/* Storage dtypes and argument slots of a group: results first, then operands, then params (abi.h). */
static inline DType gen_in_dtype(const Op *group, int k) {
  return group->in[k]->type->dt;
}
static inline DType gen_out_dtype(const Op *group, int k) {
  return group->out[k]->type->dt;
}
static inline int gen_in_slot(const Op *group, int k) {
  return group->nout + k;
}
static inline int gen_param_slot(const Op *group, int k) {
  return group->nout + group->nin + k;
}
/* Lanes of a full vector of f32 (of f64 when everything in the group is 64 bits wide). */
int gen_lanes(const Gen *g, const Op *group);
/* Number of tiles: ceil(rows / panel). */
int64_t gen_tiles(int64_t rows, int64_t panel);

/* ---- stmt.c: statements over a vector of lanes --------------------------------------------------------
 * A point of the iteration space: lane l stands at index[] with index[lane_dim] + l. A statement's
 * value is a scalar when it does not vary along lane_dim (constants, params, broadcast loads and what
 * is computed from them alone), else a vector of `lanes`. Reductions are not emitted here. */

/* `rd` of a PR_LOAD that gives memory elements undecoded: they may only be stored to a result of the
 * same dtype. Set by emitters in their own copy of a body. */
enum { STMT_RAW = 255 };

typedef struct {
  Gen *g;
  const Op *group;  /* operand and result dtypes, argument slots */
  const Body *body; /* dims, accesses, statements; usually group->body */
  int lanes;        /* 1: everything is scalar */
  int lane_dim;     /* dimension along which the lanes run */
  bool paired;      /* lanes are pairs (llvm.h): even elements first; count is NULL */
  bool plain;       /* what is stored next has plain NaN (llvm.h) */
  Val count;        /* valid lanes, i64; NULL: all */
  Val index[MAX_DIMS]; /* i64 */
  Val acc;          /* value of PR_ACC */
  Val *raw;         /* what loads find, undecoded: nstmt values, or NULL when nobody asks */
  Val *val;         /* nstmt values, NULL until emitted */
  /* Address of the element at this row with all listed dimensions already counted in: when base_in[k]
   * (base_out[k]) is not NULL, only dimensions d with free[d] are added to it. NULL arrays: the
   * argument's address and all dimensions. */
  Val *base_in, *base_out;
  bool free[MAX_DIMS];
} Lanes;

/* Emits statement i, whose arguments must have been emitted; stores for PR_STORE. The value is kept
 * in s->val[i] (stores: none). False with g->error for reductions and unknown statements. */
bool stmt_emit(Lanes *s, int i);
/* Emits statements [from, to) in order. */
bool stmt_emit_range(Lanes *s, int from, int to);
/* Address of operand (result) k at the point, lane 0; lane stride in *stride (0, 1 or more). */
Val stmt_address(Lanes *s, bool out, int k, int64_t *stride);
/* Stores v (scalar values are broadcast) to result k at the point, as PR_STORE does. */
void stmt_store(Lanes *s, int k, Val v);

/* ---- object.c -------------------------------------------------------------------------------- */

typedef enum { FORM_OBJECT, FORM_ASM, FORM_LLVM_IR } CpuForm;
/* Compiles one kernel: malloc'ed bytes; fills k->ntiles and k->scratch_bytes. On failure false with
 * words in error[256]. Thread safe. */
bool cpu_compile(const CpuLevel *level, Kernel *k, int opt_level, CpuForm form, char *error,
                 void **bytes, size_t *len);

#endif
