/* Private to codegen/cpu: what attention and its gradient share. */
#ifndef MPCC_CPU_ATTN_H
#define MPCC_CPU_ATTN_H

#include "codegen/cpu/gen.h"
#include "codegen/cpu/micro.h"

/* Sizes and scratch layout. Scores are held with queries along the lanes: scores[key][query], so
 * that softmax runs down columns without crossing lanes, and so that the same memory serves the
 * next product as its first operand (rows of queries or of keys, by strides alone). */
typedef struct {
  Gen *g;
  const Op *group;
  const Body *body;
  Compute c;
  int64_t N, H, T, D, S;
  int64_t share; /* heads that read one head of keys */
  int mask_in;   /* operand number of what is added to the scores; 0: none */
  bool causal, dropout;
  double scale, dropout_p;
  DType round; /* P is rounded to it; MPCC_DTYPE_COUNT: not */
  bool pairs; /* of bf16 as they are: factors of q k^T and do v^T; other products take f32 copies */
  bool codes;  /* q, k, v, do are codes, P and dS become codes [N14] */
  DType p_format, ds_format;
  double p_scale, ds_scale;
  Val sq, sk, sv, sdo;      /* of codes: inverse scales; sdo of the gradient alone */
  Val score;                /* of codes: what scores are multiplied by, in all lanes */
  int seed_slot, step_slot; /* arguments, when dropout */
  int seed_in;              /* operand number of seed */
  int64_t queries;          /* per block */
  int64_t blocks;           /* of queries */
  int64_t lanes;            /* queries of a block, padded */
  int64_t keys;             /* S, padded to even */
  int64_t width;            /* D, padded to whole vectors */
  int64_t ds, qs;           /* elements between rows of [.][width] and of [.][lanes] arrays */
  Compute sc;               /* of the products that make scores: their operands' units along D, */
  int64_t sunits, swidth;   /* how many there are, padded to whole vectors, */
  int64_t ss;               /* and between rows of [.][swidth] arrays */
  int lanes_nv, width_nv;   /* vectors a micro-kernel covers */
  Split key_rows;           /* keys as rows, with lanes_nv */
  Split key_wide;           /* keys as rows, with width_nv */
  Split query_rows;         /* queries of a block as rows, with width_nv */
} Attn;

/* Fills a from the group. q: number of operand q. False with g->error. */
bool attn_plan(Attn *a, Gen *g, const Op *group, int q);

/* Next part of scratch. */
Val attn_scratch(Attn *a, int64_t elems);

/* Address of (n, h) of an operand or result, and one that has T or S as third dimension. */
typedef struct {
  DType dt;
  Val base;         /* element (n, h, 0, 0) */
  int64_t row, col; /* elements between rows, between columns */
} Heads;
Heads attn_in(Attn *a, int k, Val n, Val h);
Heads attn_out(Attn *a, int k, Val n, Val h);

/* Rows [from, from + count) of x as sums dtype into to[.][ds]; columns are padded with zeros, and
 * so are rows [count, padded). The same rows of `later` (NULL: none) are prefetched. */
void attn_read(Attn *a, const Heads *x, const Heads *later, Val from, Val count, Val padded,
               Val to);
/* The same as units of the products that make scores, into to[.][ss]. */
void attn_read_units(Attn *a, const Heads *x, const Heads *later, Val from, Val count, Val padded,
                     Val to);
/* Sum of the products of a row of x and with[width]. */
Val attn_dot(Attn *a, const Heads *x, Val row, Val with);
/* The first count rows of from[.][ds], times row_scale[row] and factor unless they are NULL, to
 * rows from `first`. */
void attn_write(Attn *a, const Heads *x, Val first, Val count, Val from, Val row_scale, Val factor);
/* to[swidth][qs] = transpose of the first `lanes` rows of from[.][ss]. */
void attn_transpose(Attn *a, Val from, Val lanes, Val to);
/* The products of a block of queries that starts at q0. When causal, what no query of a part sees
 * may be left out: scores behind attn_vector_limit are not written, and must be zero for the other
 * two. */
/* out[key][query] = sum over d of rows[key][d] packed[d][query] (in units), for keys < limit,
 * queries < lanes. */
void attn_scores(Attn *a, Val rows, Val packed, Val out, Val lanes, Val limit, Val q0);
/* out[query][d] = sum over keys < limit (an even number) of p[key][query] rows[key][d]. */
void attn_by_query(Attn *a, Val p, Val rows, Val out, Val count, Val limit, Val q0);
/* Where rows of scores from limit on must be zero for the next two: up to this key. */
Val attn_padded(Attn *a, Val limit);
/* Whether attn_by_key always adds, to what was cleared; else the first block of queries overwrites.
 */
bool attn_summed(const Attn *a);
/* out[key][d] (+)= sum over queries < count of p[key][query] rows[query][d], for keys < limit. With
 * an odd count one more query is read, whose row must be zero. */
void attn_by_key(Attn *a, Val p, Val rows, Val out, Val count, Val limit, Val q0);

/* Scores of `count` queries from q0 on become scale * score + mask, of head (n, h); nothing without
 * a mask. attn_logits: the same of a score just loaded, where attn_mask has been called. */
void attn_mask(Attn *a, Val scores, Val n, Val h, Val q0, Val count, Val limit);
Val attn_logits(Attn *a, Val score);
/* n rounded up to a multiple of m, a power of two. */
Val attn_round_up(Attn *a, Val n, int64_t m);
/* Lanes that scores of `count` queries are computed for. */
Val attn_lanes(Attn *a, Val count);
/* The queries of vector v of a block that starts at q0, as i64 lanes. */
Val attn_query_lanes(Attn *a, Val q0, Val v);
/* Factor of dropout on P (0 or 1 / (1 - p)) for a vector of queries; (n, h) flat in nh. */
typedef struct {
  Val seed, step, stream, nh;
} Dropout;
Dropout attn_dropout(Attn *a, Val nh);
Val attn_keep(Attn *a, const Dropout *d, Val queries, Val key);
/* P as the products take it: rounded to what strict numerics store it in, dropped; or its codes,
 * which dropout sets to 0 and whose unit is attn_p_unit. */
Val attn_rounded(Attn *a, Val p, const Dropout *d, Val queries, Val key);
/* What a code of P stands for, behind dropout. */
double attn_p_unit(const Attn *a);
/* Keys that a block of queries [q0, q0 + count) sees. */
Val attn_limit(Attn *a, Val q0, Val count);
/* Down a column of scores: m = max and sum of exp(scale * score - m) of a vector of queries. */
void attn_normalizer(Attn *a, Val scores, Val queries, Val limit, Val *most);
/* Keys that a vector of queries at lane v sees. */
Val attn_vector_limit(Attn *a, Val q0, Val v, Val limit);
/* Lanes where the key is seen by its query; NULL when all are. */
Val attn_seen(Attn *a, Val queries, Val key);

#endif
