/* Private header of codegen/cuda: one emitter of CUDA text per group kind, and statements as text.
 */
#ifndef MPCC_CUDA_GEN_H
#define MPCC_CUDA_GEN_H

#include "codegen/codegen.h"

enum {
  CUDA_TILE = 64,         /* rows and columns of a product's tile; columns of a packed panel */
  CUDA_TURNED = 16,       /* panels of kernels with transposed results: whole multiples of rows */
  CUDA_RESIDENT = 1024,   /* threads of a multiprocessor that hide latency: 64 registers each */
  CUDA_SHARED = 99 << 10, /* bytes that every device from sm_80 on can give a block */
};

/* One kernel being written. */
typedef struct {
  Text out;         /* its text so far */
  size_t helpers;   /* bytes of the device helpers, in front of the kernels */
  unsigned texts;   /* which helpers are there: bits of CudaText */
  bool exact;       /* the body rounds explicitly: no contraction of a * b + c */
  bool unsupported; /* the failure is what the target lacks */
  int threads;      /* of a block; filled by the emitter */
  int resident;     /* blocks of a multiprocessor that registers must leave room for; 0: any */
  int spilled;      /* fewer of them: how often the kernel did not fit so far */
  int64_t blocks;   /* along x: one per panel; along y: columns are split */
  int64_t blocks_y;
  int64_t shared_bytes; /* dynamic shared memory of a block */
  char error[256];      /* first failure */
} CudaGen;

/* Device helpers that only some kernels need. */
typedef enum { CUDA_MMA = 1, CUDA_ATTENTION = 2 } CudaText;

/* Remembers the first failure; false. */
bool cuda_fail(CudaGen *g, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same for what the target lacks, so that a spec which needs it is not at fault. */
#define cuda_unsupported(g, ...) ((g)->unsupported = true, cuda_fail(g, __VA_ARGS__))

/* ---- emitters: cuda_<kind>
 * --------------------------------------------------------------------------- Each writes the whole
 * kernel `symbol` and sets threads and blocks. False with g->error on failure. */

typedef bool CudaEmit(CudaGen *g, const Op *group, const char *symbol);
#define KIND(name, attrs) CudaEmit cuda_##name;
#include "codegen/cuda/kinds.def"
#undef KIND

/* ---- program.c ------------------------------------------------------------------------------- */

/* Starts g: the device helpers that every program begins with, in g->out, which the caller frees
 * (text_fini) in every case. */
void cuda_begin(CudaGen *g);
/* Appends one kernel to the program. False with g->error on failure. */
bool cuda_kernel(CudaGen *g, const Op *group, const char *symbol);

/* ---- attention_mma.c ------------------------------------------------------------------------- */

/* Whether tensor cores do this group of kind attention or attention_grad: 16-bit operands and none
 * of strict numerics' roundings. */
bool cuda_attention_on_tiles(const Op *group);
/* attention_result, from where the kernel's argument points; offset 0 unless it is joined. */
Access cuda_attention_result(const Op *group, int k, int *value);
CudaEmit cuda_attention_tiles, cuda_attention_grad_tiles;

/* ---- product.c ------------------------------------------------------------------------------- */

/* Whether tensor cores do this group of kind conv: both factors are bf16, f16 or TF32. */
bool cuda_conv_on_tiles(const Op *group);

/* ---- depth.c --------------------------------------------------------------------------------- */

CudaEmit cuda_depth; /* a group of kind conv with attribute `depth` */

/* ---- stmt.c: statements as CUDA expressions
 * ------------------------------------------------------------ Values are variables v<i>, or
 * elements v<i>[k] of an array of registers; operand k is i<k>, a pointer to its first element,
 * result k is o<k>, parameter k is p<k>. Indices along dimension d are x<d>. */

typedef struct {
  CudaGen *g;
  const Op *group;
  const bool *is_array; /* per statement; NULL: none */
} CudaBody;

const char *cuda_register(int dt);  /* float, double, s64, bool */
const char *cuda_storage(DType dt); /* float, double, u16, u8, int, s64 */
/* v<i> or v<i>[k] */
void cuda_value(const CudaBody *b, int i, Text *out);
/* The value of statement i: not reductions, stores. */
bool cuda_expression(const CudaBody *b, int i, Text *out);
/* Element offset over dimensions [from, to): 0 when nothing varies. */
void cuda_offset(const Body *b, const Access *a, int from, int to, Text *out);
/* `width` neighbours along the last dimension, the first of which is a multiple of `width`, lie
 * side by side, and begin at a multiple of them when element 0 does. */
bool cuda_side_by_side(const Body *b, const Access *a, int width);
/* The statement that store i stores: rounding to the format of the result is done by storing. */
int cuda_stored(const CudaBody *b, int i);
/* "o<k>[offset] = put_<dtype>(value);" over all dimensions. */
void cuda_store(const CudaBody *b, int i, int from, int to, const char *more, Text *out);
/* Declares x<from>.. x<to - 1> from the flat index `flat`. */
void cuda_indices(const Body *b, int from, int to, const char *flat, Text *out);
/* "extern "C" __global__ void __launch_bounds__(threads) symbol(arguments) {" */
void cuda_head(CudaGen *g, const Op *group, const char *symbol);
/* Rounds to a dtype visibly: then a fused multiply-add would not give the reference's bits. */
bool cuda_is_exact(const Body *b);

#endif
