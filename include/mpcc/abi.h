/* The program image: all that compiler and runtime share. Flat, versioned, relocatable: every
 * reference is a byte offset from the start of the image, so an image is mapped and used in place.
 * Little endian. Written by codegen/package.c, checked by runtime/load.c, described in docs/abi.md. */
#ifndef MPCC_ABI_H
#define MPCC_ABI_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MPCC_IMAGE_MAGIC "MPCCIMG\n"
enum { MPCC_ABI_VERSION = 8, MPCC_MAX_RANK = 8, MPCC_ALIGN = 64 };

/* Segments: each is allocated once at load.
 * state: what a checkpoint is. derived: pure function of state, rebuilt by `refresh`. accum: sums
 * between micro-batches. work: planned arena of one function call, contents die with the call.
 * io: batches, metrics, tables. Tensors start at multiples of MPCC_ALIGN. */
enum { MPCC_SEG_STATE, MPCC_SEG_DERIVED, MPCC_SEG_ACCUM, MPCC_SEG_WORK, MPCC_SEG_IO, MPCC_SEG_COUNT };

/* Array inside the image: byte offset from its start, and element count. */
typedef struct {
  uint64_t offset, count;
} MpccSpan;

typedef struct {
  char magic[8];
  uint32_t version, header_bytes;
  uint64_t image_bytes;
  uint64_t segment_bytes[MPCC_SEG_COUNT];
  MpccSpan strings;   /* bytes; names are offsets into it, zero-terminated UTF-8; offset 0 is "" */
  MpccSpan tensors;   /* MpccTensor */
  MpccSpan functions; /* MpccFunction */
  MpccSpan commands;  /* MpccCommand */
  MpccSpan args;      /* MpccArgRef */
  MpccSpan kernels;   /* MpccKernel */
  MpccSpan codes;     /* MpccCode */
  uint32_t meta;      /* string offset: JSON, see docs/abi.md: name, version, resolved spec, plan facts */
  uint32_t reserved;
  uint64_t hash[2];   /* mpcc_image_hash() of hash.h; another value is refused */
} MpccImage;

/* A tensor with storage, or a view of one. dtype and role are the numbers of dtype.def, roles.def. */
typedef struct {
  uint32_t name;
  uint32_t dtype, role, segment;
  uint32_t rank, base; /* base: index of the flat tensor this is a view of, or itself */
  int64_t dim[MPCC_MAX_RANK];
  uint64_t offset, bytes; /* within the segment */
  uint32_t attrs;         /* string offset: JSON object (init, of, kind, field, columns ...) */
  uint32_t reserved;
} MpccTensor;

typedef struct {
  uint32_t name; /* init refresh micro_first micro_next update_step train_step calibrate eval_step predict */
  uint32_t first_command, ncommands;
  uint32_t uses; /* bit per segment it touches */
} MpccFunction;

enum { MPCC_CMD_LAUNCH, MPCC_CMD_COPY, MPCC_CMD_FILL, MPCC_CMD_REPEAT, MPCC_CMD_PRODUCT };

/* One command. launch: kernel `kernel` over all its tiles. copy: args[0] <- args[1], `bytes`.
 * fill: args[0] set to zero, `bytes`. repeat: the `kernel` commands behind it, none of them a
 * repeat, `bytes` times; it has no arguments. product (cuda): by the vendor's library, D[r, c] = sum
 * over k of A[r, k] B[k, c], then what `with` says; args are D, A, B, the operands of `with`, then the
 * integers of MpccProduct in their order. Every command names where it comes from. */
typedef struct {
  uint32_t op, kernel;
  uint32_t first_arg, nargs;
  uint32_t first_out, nout; /* which args are written: [first_out, first_out + nout) of its args */
  uint64_t bytes;
  uint32_t layer, source; /* strings: "encoder.0.mlp.0", "vit.yaml:43:15" */
  uint32_t label;         /* string: what the kernel computes: "linear+bias+gelu" */
  uint32_t value_dtypes;  /* string: one character per out argument index into dtype.def + 'a' */
  uint32_t others;        /* string: what was fused of other layers: "gelu of act at 44:15"; "" */
  uint32_t rounds_to;     /* pack: 1 + index into dtype.def of what FP32 masters are rounded to, or 0 */
} MpccCommand;

/* with: none; a vector added to every row; one f32 that sums are multiplied by; one for each
 * factor; those and then a vector; a matrix of D's type, dense as D, that is added. tf32: factors
 * in FP32 have TF32 values. Strides and sizes in elements; D is row-major and dense. dtypes:
 * numbers of dtype.def. */
enum {
  MPCC_WITH_NONE,
  MPCC_WITH_BIAS,
  MPCC_WITH_ALPHA,
  MPCC_WITH_SCALES,
  MPCC_WITH_SCALES_BIAS,
  MPCC_WITH_SUM,
  MPCC_WITH_COUNT
};
typedef struct {
  int64_t with, rows, cols, k;
  int64_t a_row, a_k, b_k, b_col;
  int64_t a_dtype, b_dtype, d_dtype;
  int64_t tf32;
} MpccProduct;
enum { MPCC_PRODUCT_INTS = 12 };
/* Which operand, D first, is the vector; 0: none. */
static inline uint32_t mpcc_product_bias(int64_t with) {
  return with == MPCC_WITH_SCALES_BIAS ? 5 : with == MPCC_WITH_BIAS ? 3 : 0;
}
enum { MPCC_PRODUCT_OPERANDS = 6 }; /* most */
static inline uint32_t mpcc_product_operands(int64_t with) {
  return with == MPCC_WITH_SCALES_BIAS ? 6
         : with == MPCC_WITH_SCALES    ? 5
         : with == MPCC_WITH_NONE      ? 3
                                       : 4;
}

/* Argument: address segment + offset, or an integer constant (segment = MPCC_ARG_INT). bytes: how
 * much the kernel may touch there (plan mode puts canaries around it). Behind a repeat the address
 * of iteration t lies mpcc_arg_step(t) bytes further. */
enum { MPCC_ARG_INT = 255 };
typedef struct {
  uint32_t segment, tensor_plus_1; /* tensor: when the address is a tensor's */
  int64_t offset;                  /* byte offset, or the integer */
  uint64_t bytes;
  int64_t stride;       /* between iterations; 0 elsewhere, and for integers */
  uint32_t ring, phase; /* ring > 0: iteration t is at stride * ((t + phase) % ring) */
} MpccArgRef;

static inline int64_t mpcc_arg_step(const MpccArgRef *a, uint64_t t) {
  return a->stride * (int64_t)(a->ring ? (t + a->phase) % a->ring : t);
}

/* A kernel is one symbol present in every code of its target. */
typedef struct {
  uint32_t symbol;
  uint32_t nargs;
  uint64_t ntiles;        /* depends on shapes only; cuda: blocks along x */
  uint64_t scratch_bytes; /* per thread, 64-byte aligned; cuda: dynamic shared memory of a block */
  uint32_t threads, columns; /* cuda: threads of a block, blocks along y; else 0 */
  uint32_t object, reserved; /* cuda: the object of the archive that has it */
} MpccKernel;

/* Machine code of one target level. On target cuda: MpccArchive of objects, each an MpccArchive of two
 * parts, zero-terminated PTX and a cubin, with some of the kernels; needs and level: "sm_90", the least
 * the device must be.
 * On the cpu: `object` is an archive (MpccArchive) of ELF relocatable objects,
 * each with one or more kernels as global function symbols; relocations are R_X86_64_PC32 and
 * R_X86_64_PLT32 between sections of the same object only, nothing is undefined. `needs`: cpu feature words, space separated ("avx2 fma f16c
 * bmi2", "avx512f avx512bf16"). Listed best level first; the loader takes the first that runs. */
typedef struct {
  uint32_t target, level, needs; /* strings: "cpu", "x86-64-v3" */
  uint32_t reserved;
  MpccSpan object; /* bytes */
} MpccCode;

/* Archive of objects: this header, `count` entries, then the objects. Offsets are from the start of
 * the archive; objects start at multiples of 64. */
#define MPCC_ARCHIVE_MAGIC "MPCCARC\n"
typedef struct {
  char magic[8];
  uint64_t count;
} MpccArchive;
typedef struct {
  uint64_t offset, bytes;
} MpccArchiveEntry;

/* Kernel ABI on the CPU. args: one slot per argument of the command, results first in group order
 * (out 0.., in 0.., param 0..). Processes tiles [first, end); tiles may run on any thread in any
 * order; scratch is private to the calling thread. */
typedef union {
  void *p;
  int64_t i;
} MpccArg;
typedef void (*MpccKernelFn)(const MpccArg *args, int64_t first, int64_t end, void *scratch);

#ifdef __cplusplus
}
#endif
#endif
