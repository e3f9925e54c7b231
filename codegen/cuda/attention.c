/* cuda_attention, cuda_attention_grad: the T x S matrix exists 32 keys (or queries) at a time.
 *
 * A block has 8 warps; each warp owns one row: a query in the forward pass and for dq, a key for dk
 * and dv. The other side comes in tiles of 32 rows through shared memory; a lane has one row of the
 * tile while scores are made, and every 32nd element of the head while they are used. Scores and
 * sums are f32 (f64 for f64), in an order that depends on shapes alone. Softmax on line: Milakov
 * and Gimelshein 2018; backward: Dao 2023, FlashAttention-2, algorithm 2, recomputing P from lse.
 * Codes of 8 bits are decoded into shared memory; P and dS become codes in registers, and scales
 * wait until results are written.
 */
#include <float.h>
#include <math.h>
#include <stdio.h>

#include "codegen/cuda/gen.h"

enum { WARPS = 8, LANES = 32, SHARED_BYTES = 48 << 10 /* of a block, without asking */ };

typedef struct {
  CudaGen *g;
  const Op *group;
  const Body *b;
  int64_t n, heads, queries, keys, width;
  int64_t sharing; /* heads of q that read one head of k and v */
  int kv, mask;    /* operands: k (v is behind it), what is added to the scores or -1 */
  int per_lane;    /* elements of a head a lane owns */
  int tile;        /* rows of the other side in shared memory: 32, fewer for wide heads */
  bool causal;
  double scale, dropout_p;
  int seed;    /* operand; the step is behind it */
  DType round; /* of P in strict numerics; MPCC_DTYPE_COUNT: not rounded */
  bool codes;  /* q, k, v, do are codes; P and dS become codes [N14] */
  int scales;  /* operands: inverse scales of q, k, v (, do) */
  DType p_format, ds_format;
  double p_scale, ds_scale;
  const char *type;
} Attention;

static void put_real(const Attention *a, double v) {
  text_printf(&a->g->out, *a->type == 'd' ? "(%a)" : "(%af)",
              *a->type == 'd' ? v : (double)(float)v);
}

/* Whether operand (result) k has the heads of k and v. */
static bool of_kv(const Attention *a, bool out, int k) {
  return out ? a->kv > 1 && k > 0 : k == a->kv || k == a->kv + 1;
}

Access cuda_attention_result(const Op *group, int k, int *value) {
  Access at = attention_result(group, k, value);
  if (*value != k)
    at.offset -= group->body->out[0].offset;
  return at;
}

/* Element `d` of row `row` of operand (result) k, in head h, or hk where k and v have fewer. */
static void put_place(const Attention *a, bool out, int k, const char *row, const char *d) {
  int value = k;
  const Access given = !out        ? a->b->in[k]
                       : a->kv > 1 ? cuda_attention_result(a->group, k, &value)
                                   : a->b->out[k];
  const Access *x = &given;
  text_printf(&a->g->out, "%c%d[(s64)n * %lldll + (s64)%s * %lldll + (s64)(%s) * %lldll",
              out ? 'o' : 'i', value, (long long)x->stride[0], of_kv(a, out, k) ? "hk" : "h",
              (long long)x->stride[1], row, (long long)x->stride[2]);
  if (out && value != k && x->offset)
    text_printf(&a->g->out, " + %lldll", (long long)x->offset);
  if (d)
    text_printf(&a->g->out, " + (s64)(%s) * %lldll", d, (long long)x->stride[3]);
  text_puts(&a->g->out, "]");
}

static void put_get(const Attention *a, int k, const char *row, const char *d) {
  text_printf(&a->g->out, "(%s)get_%s(", a->type, dtype_text(a->group->in[k]->type->dt));
  put_place(a, false, k, row, d);
  text_puts(&a->g->out, ")");
}

static void put_store(const Attention *a, int k, const char *row, const char *d,
                      const char *value) {
  put_place(a, true, k, row, d);
  const DType dt = a->group->out[k < a->group->nout ? k : 0]->type->dt;
  text_printf(&a->g->out, " = put_%s(%s);\n", dtype_text(dt), value);
}

/* Rows [first, first + 32) of operand k into shared `tile`, zero behind `length`. */
static void put_tile(const Attention *a, const char *tile, int k, int64_t length) {
  Text *t = &a->g->out;
  text_printf(t, "for (u32 e = threadIdx.x; e < %lldu; e += %du) {\n",
              (long long)(a->tile * a->width), WARPS * LANES);
  text_printf(t, "const u32 r = e / %lldu, d = e %% %lldu;\n", (long long)a->width,
              (long long)a->width);
  text_printf(t, "%s[r][d] = first + r < %lldu ? ", tile, (long long)length);
  put_get(a, k, "first + r", "d");
  text_puts(t, " : 0;\n}\n");
}

/* This warp's row of operand k into shared `rows`, for dot products. */
static void put_row(const Attention *a, const char *rows, int k) {
  Text *t = &a->g->out;
  text_printf(t, "for (u32 d = lane; d < %lldu; d += 32u)\n%s[warp][d] = have ? ",
              (long long)a->width, rows);
  put_get(a, k, "row", "d");
  text_puts(t, " : 0;\n");
}

/* <name> = sum over d of x[d] y[d] */
static void put_dot(const Attention *a, const char *name, const char *x, const char *y) {
  text_printf(&a->g->out,
              "%s %s = 0;\nfor (u32 d = 0; d < %lldu; d++)\n%s = fma_(%s[d], %s[d], %s);\n",
              a->type, name, (long long)a->width, name, x, y, name);
}

/* The block's head, of q or (kv) of k and v, and this warp's row, of `length` rows. */
static void put_places(const Attention *a, int64_t length, bool kv) {
  Text *t = &a->g->out;
  const int64_t tiles = (length + WARPS - 1) / WARPS, heads = kv ? a->heads / a->sharing : a->heads;
  text_puts(t, "const u32 lane = threadIdx.x % 32u, warp = threadIdx.x / 32u;\n");
  text_printf(t, "const u32 head = blockIdx.x / %lldu, %s = head %% %lldu, n = head / %lldu;\n",
              (long long)tiles, kv ? "hk" : "h", (long long)heads, (long long)heads);
  if (!kv)
    text_printf(t, "const u32 hk = h / %lldu;\n", (long long)a->sharing);
  text_printf(t, "const u32 row0 = blockIdx.x %% %lldu * %du, row = row0 + warp;\n",
              (long long)tiles, WARPS);
  text_printf(t, "const bool have = row < %lldu;\n", (long long)length);
}

/* Factor that dropout puts on P of query q and key s. */
static void put_keep(const Attention *a, const char *q, const char *s) {
  Text *t = &a->g->out;
  if (!(a->dropout_p > 0))
    return;
  text_printf(t,
              "const %s keep = rand_(get_i64(i%d[0]), get_i64(i%d[0]), (((s64)n * %lldll + h) * "
              "%lldll + %s) * %lldll + %s, p0) >= ",
              a->type, a->seed, a->seed + 1, (long long)a->heads, (long long)a->queries, q,
              (long long)a->keys, s);
  text_printf(t, "(%af) ? ", (double)(float)a->dropout_p);
  put_real(a, 1 / (1 - a->dropout_p));
  text_puts(t, " : 0;\n");
}

static const char *kept(const Attention *a) {
  return a->dropout_p > 0 ? " * keep" : "";
}

static void put_through(const Attention *a, DType dt, const char *value) {
  text_printf(&a->g->out, "(%s)get_%s(put_%s(%s))", a->type, dtype_text(dt), dtype_text(dt), value);
}

/* "value" rounded as strict numerics want P, or its code. */
static void put_rounded(const Attention *a, const char *value) {
  if (a->codes)
    put_through(a, a->p_format, value);
  else if (a->round == MPCC_DTYPE_COUNT)
    text_puts(&a->g->out, value);
  else
    put_through(a, a->round, value);
}

/* What P is multiplied by before it is rounded: dropout's factor, or the scale of its codes, of
 * which dropout leaves 0 or all. */
static void put_p_factor(const Attention *a) {
  if (a->codes) {
    text_puts(&a->g->out, a->dropout_p > 0 ? " * (keep > 0 ? " : " * ");
    put_real(a, a->p_scale);
    text_puts(&a->g->out, a->dropout_p > 0 ? " : 0)" : "");
  } else if (a->dropout_p > 0) {
    text_puts(&a->g->out, " * keep");
  }
}

/* Inverse scales as s_q, s_k, s_v (, s_do), and `unit`, what sums of codes are multiplied by to be
 * scores; `unit` is the plain scale where there are no codes. */
static void put_units(const Attention *a, int n) {
  static const char *const name[] = {"s_q", "s_k", "s_v", "s_do"};
  Text *t = &a->g->out;
  for (int i = 0; a->codes && i < n; i++)
    text_printf(t, "const T %s = (T)get_f32(i%d[%lld]);\n", name[i], a->scales + i,
                (long long)a->b->in[a->scales + i].offset);
  text_puts(t, a->codes ? "const T unit = s_q * s_k * " : "const T unit = ");
  put_real(a, a->scale);
  text_puts(t, ";\n");
}

static bool init(Attention *a, CudaGen *g, const Op *group, int q) {
  const Body *b = group->body;
  const Attr *round = op_attr(group, "round");
  const bool mask = op_int(group, "mask", 0);
  const bool codes = op_attr(group, "p_dtype") != NULL;
  const int scales = q + 3 + mask + (op_float(group, "dropout_p", 0) > 0 ? 2 : 0);
  const int operands = scales + (!codes ? 0 : q ? 4 : 3);
  if (b->ndim != 4 || group->nin != operands || group->nout > 3)
    return cuda_fail(g, "attention with other operands or results than expected");
  *a = (Attention){.g = g,
                   .group = group,
                   .b = b,
                   .n = b->dim[0],
                   .heads = b->dim[1],
                   .queries = b->dim[2],
                   .width = b->dim[3]};
  a->keys = op_int(group, "keys", a->queries);
  a->causal = op_int(group, "causal", 0);
  a->scale = op_float(group, "scale", 1 / sqrt((double)a->width));
  a->dropout_p = op_float(group, "dropout_p", 0);
  a->seed = q + 3 + mask;
  a->mask = mask ? q + 3 : -1;
  a->kv = q + 1;
  a->sharing = a->heads / op_int(group, "kv_heads", a->heads);
  a->round = round && round->kind == AT_DTYPE ? (DType)round->u.i : MPCC_DTYPE_COUNT;
  a->codes = codes;
  a->scales = scales;
  a->p_format = (DType)op_int(group, "p_dtype", MPCC_E4M3);
  a->ds_format = (DType)op_int(group, "ds_dtype", MPCC_E5M2);
  a->p_scale = op_float(group, "p_scale", 1);
  a->ds_scale = op_float(group, "ds_scale", 1);
  a->type = group->out[0]->type->dt == MPCC_F64 ? "double" : "float";
  a->per_lane = (int)((a->width + LANES - 1) / LANES);
  const int64_t row_bytes = (a->width + 1) * (*a->type == 'd' ? 8 : 4);
  a->tile = LANES;
  while (a->tile > 2 &&
         (2 * a->tile + 2 * WARPS) * row_bytes + LANES * (int)sizeof(double) > SHARED_BYTES)
    a->tile /= 2;
  if (a->width > 256)
    return cuda_unsupported(g, "heads of %lld elements are not supported, 256 at most",
                            (long long)a->width);
  g->threads = WARPS * LANES;
  return true;
}

static void put_shared(const Attention *a, const char *name, int rows) {
  text_printf(&a->g->out, "__shared__ %s %s[%d][%lld];\n", a->type, name, rows,
              (long long)a->width + 1);
}

/* on: this row and the tile's row see each other; both exist when `exist` says so. added: what the
 * mask adds to their score. */
static void put_seen(const Attention *a, const char *exist, bool row_is_query) {
  Text *t = &a->g->out;
  const char *query = row_is_query ? "row" : "other", *key = row_is_query ? "other" : "row";
  text_printf(t, "const bool both = %s;\n", exist);
  if (a->causal)
    text_printf(t, "const bool early = both && %s <= %s;\n", key, query);
  const char *before = a->causal ? "early" : "both";
  if (a->mask < 0) {
    text_printf(t, "const bool on = %s;\n", before);
    return;
  }
  text_printf(t, "const T added = %s ? ", before);
  put_get(a, a->mask, query, key);
  text_printf(t, " : -inf;\nconst bool on = added != -inf;\n");
}

static const char *masked(const Attention *a) {
  return a->mask < 0 ? "" : " + added";
}

/* The head of a loop over tiles of operands x and y. */
static void put_loop(const Attention *a, int64_t length, const char *tile_x, int x,
                     const char *tile_y, int y) {
  Text *t = &a->g->out;
  text_printf(t, "for (u32 first = 0; first < %lldu; first += TILE) {\n__syncthreads();\n",
              (long long)length);
  put_tile(a, tile_x, x, length);
  put_tile(a, tile_y, y, length);
  text_puts(t, "__syncthreads();\nconst u32 there = lane % TILE, other = first + there;\n");
}

/* ---- forward --------------------------------------------------------------------------------- */

/* score: of this warp's query and the lane's key, -inf where they do not see each other. */
static void put_score(const Attention *a) {
  Text *t = &a->g->out;
  char exist[64];
  snprintf(exist, sizeof exist, "have && lane < TILE && other < %lldu", (long long)a->keys);
  put_seen(a, exist, true);
  put_dot(a, "dot", "q_row[warp]", "k_tile[there]");
  text_printf(t, "const T score = on ? dot * unit%s : -inf;\n", masked(a));
}

/* acc += p v over the tile. */
static void put_values(const Attention *a) {
  text_puts(&a->g->out,
            "for (int s = 0; s < TILE; s++) {\nconst T ps = from_lane(p, s);\n#pragma unroll\n"
            "for (int j = 0; j < PER; j++)\nif (lane + 32u * j < WIDTH)\n"
            "acc[j] = fma_(ps, v_tile[s][lane + 32u * j], acc[j]);\n}\n");
}

static void put_forward_tile(const Attention *a) {
  Text *t = &a->g->out;
  put_score(a);
  text_puts(t, "const T peak = max_(most, over_lanes<Max, 32>(score));\n");
  text_puts(
      t, "const T old = most == peak ? 1 : exp_(most - peak), e = on ? exp_(score - peak) : 0;\n");
  text_puts(t, "sum = sum * old + over_lanes<Sum, 32>(e);\nmost = peak;\n");
  put_keep(a, "row", "other");
  text_printf(t, "const T p = e%s;\n", kept(a));
  text_puts(t, "#pragma unroll\nfor (int j = 0; j < PER; j++)\nacc[j] = acc[j] * old;\n");
  put_values(a);
}

/* Strict numerics and codes round P, which is known when the row's sum is: a second walk over the
 * keys. */
static void put_strict_tile(const Attention *a) {
  Text *t = &a->g->out;
  put_score(a);
  put_keep(a, "row", "other");
  text_puts(t, "const T whole = on ? exp_(score - most) / sum");
  put_p_factor(a);
  text_puts(t, " : 0, p = ");
  put_rounded(a, "whole");
  text_puts(t, ";\n");
  put_values(a);
}

static void put_types(const Attention *a) {
  text_printf(&a->g->out, "typedef %s T;\nenum { PER = %d, WIDTH = %lld, TILE = %d };\n", a->type,
              a->per_lane, (long long)a->width, a->tile);
  text_printf(&a->g->out, "const T inf = (T)__int_as_float(0x7f800000);\n");
}

bool cuda_attention(CudaGen *g, const Op *group, const char *symbol) {
  Attention a;
  Text *t = &g->out;
  if (cuda_attention_on_tiles(group))
    return cuda_attention_tiles(g, group, symbol);
  if (!init(&a, g, group, 0))
    return false;
  g->blocks = a.n * a.heads * ((a.queries + WARPS - 1) / WARPS);
  cuda_head(g, group, symbol);
  put_types(&a);
  put_shared(&a, "q_row", WARPS);
  put_shared(&a, "k_tile", a.tile);
  put_shared(&a, "v_tile", a.tile);
  put_places(&a, a.queries, false);
  put_units(&a, 3);
  put_row(&a, "q_row", 0);
  text_puts(t, "T most = -inf, sum = 0, acc[PER] = {};\n");
  put_loop(&a, a.keys, "k_tile", 1, "v_tile", 2);
  put_forward_tile(&a);
  text_puts(t, "}\n");
  const bool rounds = a.round != MPCC_DTYPE_COUNT || a.codes;
  if (rounds) {
    text_puts(t, "#pragma unroll\nfor (int j = 0; j < PER; j++)\nacc[j] = 0;\n");
    put_loop(&a, a.keys, "k_tile", 1, "v_tile", 2);
    put_strict_tile(&a);
    text_puts(t, "}\n");
  }
  text_puts(t, "if (!have)\nreturn;\n#pragma unroll\nfor (int j = 0; j < PER; j++) {\nconst u32 d "
               "= lane + 32u * j;\nif (d < WIDTH)\n");
  char unit[64];
  snprintf(unit, sizeof unit, "acc[j] * (s_v * (T)%a)", 1 / (a.p_scale * (1 - a.dropout_p)));
  put_store(&a, 0, "row", "d",
            a.codes      ? unit
            : rounds     ? "acc[j]"
            : a.mask < 0 ? "acc[j] / sum"
                         : "sum == 0 ? 0 : acc[j] / sum"); /* a query that sees nothing */
  text_puts(t, "}\n");
  if (group->nout > 1) {
    text_puts(t, "if (lane == 0)\n");
    put_store(&a, 1, "row", NULL, "most + log_(sum)");
  }
  text_puts(t, "}\n");
  return true;
}

/* ---- backward -------------------------------------------------------------------------------- */

/* P and dS of this lane's pair; what the two walks share. x, y: rows of the pair in shared memory.
 */
static void put_pair(const Attention *a, const char *q, const char *k, const char *dout,
                     const char *v, const char *query, const char *key, const char *lse,
                     const char *delta) {
  Text *t = &a->g->out;
  put_dot(a, "dot", q, k);
  put_dot(a, "dp", dout, v);
  text_printf(t, "const T p = on ? exp_(dot * unit%s - %s) : 0;\n", masked(a), lse);
  put_keep(a, query, key);
  char ds[160];
  if (!a->codes) {
    text_printf(t, "const T ds = unit * p * (dp%s - %s);\n", kept(a), delta);
    return;
  }
  /* in units of both scales; what nobody sees stays 0 */
  snprintf(ds, sizeof ds, "on ? (T)%a * p * (dp%s - %s * per_v) : 0", a->ds_scale, kept(a), delta);
  text_puts(t, "const T ds = ");
  put_through(a, a->ds_format, ds);
  text_puts(t, ";\n");
}

/* dq of a query: sum over keys of dS k. */
static void put_dq(const Attention *a) {
  Text *t = &a->g->out;
  char exist[64];
  put_places(a, a->queries, false);
  put_row(a, "row_a", 3);
  put_row(a, "row_b", 0);
  text_puts(t, "T part = 0;\nif (have)\nfor (u32 d = lane; d < WIDTH; d += 32u)\npart = "
               "fma_(row_b[warp][d], ");
  put_get(a, 1, "row", "d");
  text_puts(t, ", part);\nconst T delta = over_lanes<Sum, 32>(part);\nconst T norm = have ? ");
  put_get(a, 2, "row", NULL);
  text_puts(t, " : 0;\nT acc[PER] = {};\n");
  put_loop(a, a->keys, "tile_a", 4, "tile_b", 5);
  snprintf(exist, sizeof exist, "have && lane < TILE && other < %lldu", (long long)a->keys);
  put_seen(a, exist, true);
  put_pair(a, "row_a[warp]", "tile_a[there]", "row_b[warp]", "tile_b[there]", "row", "other",
           "norm", "delta");
  text_puts(t, "for (int s = 0; s < TILE; s++) {\nconst T w = from_lane(ds, s);\n#pragma unroll\n"
               "for (int j = 0; j < PER; j++)\nif (lane + 32u * j < WIDTH)\n"
               "acc[j] = fma_(w, tile_a[s][lane + 32u * j], acc[j]);\n}\n}\n");
  text_puts(t, "#pragma unroll\nfor (int j = 0; j < PER; j++) {\nconst u32 d = lane + 32u * j;\nif "
               "(have && d < WIDTH)\n");
  put_store(a, 0, "row", "d", a->codes ? "acc[j] * (ds_unit * s_k)" : "acc[j]");
  text_puts(t, "}\n");
}

/* deltas: of each query of the tile the sum of do o, a query a warp. */
static void put_deltas(const Attention *a) {
  Text *t = &a->g->out;
  text_printf(t, "for (u32 s = warp; s < TILE; s += %du) {\nT part = 0;\nif (first + s < %lldu)\n",
              WARPS, (long long)a->queries);
  text_puts(t, "for (u32 d = lane; d < WIDTH; d += 32u)\npart = fma_(tile_b[s][d], ");
  put_get(a, 1, "first + s", "d");
  text_puts(t, ", part);\npart = over_lanes<Sum, 32>(part);\nif (lane == 0)\ndeltas[s] = part;\n}\n"
               "__syncthreads();\n");
}

/* dk and dv of a key: sums over queries of dS q and P do, of all heads that read it. */
static void put_dk_dv(const Attention *a) {
  Text *t = &a->g->out;
  put_places(a, a->keys, true);
  put_row(a, "row_a", 4);
  put_row(a, "row_b", 5);
  text_puts(t, "T acc[PER] = {}, acc_v[PER] = {};\n");
  text_printf(t, "for (u32 h = hk * %lldu; h < (hk + 1) * %lldu; h++) {\n", (long long)a->sharing,
              (long long)a->sharing);
  put_loop(a, a->queries, "tile_a", 3, "tile_b", 0);
  put_deltas(a);
  text_printf(t, "const bool exists = other < %lldu;\n", (long long)a->queries);
  put_seen(a, "have && lane < TILE && exists", false);
  text_puts(t, "const T delta = deltas[there], norm = exists ? ");
  put_get(a, 2, "other", NULL);
  text_puts(t, " : 0;\n");
  put_pair(a, "tile_a[there]", "row_a[warp]", "tile_b[there]", "row_b[warp]", "other", "row",
           "norm", "delta");
  text_puts(t, "const T whole = p");
  put_p_factor(a);
  text_puts(t, ", pd = ");
  put_rounded(a, "whole");
  text_puts(t,
            ";\nfor (int s = 0; s < TILE; s++) {\nconst T w = from_lane(ds, s), u = from_lane(pd, "
            "s);\n#pragma unroll\n"
            "for (int j = 0; j < PER; j++)\nif (lane + 32u * j < WIDTH) {\n"
            "acc[j] = fma_(w, tile_a[s][lane + 32u * j], acc[j]);\n"
            "acc_v[j] = fma_(u, tile_b[s][lane + 32u * j], acc_v[j]);\n}\n}\n}\n}\n");
  text_puts(t, "#pragma unroll\nfor (int j = 0; j < PER; j++) {\nconst u32 d = lane + 32u * j;\nif "
               "(have && d < WIDTH) {\n");
  char unit[64];
  snprintf(unit, sizeof unit, "acc_v[j] * (s_do * (T)%a)", 1 / (a->p_scale * (1 - a->dropout_p)));
  put_store(a, 1, "row", "d", a->codes ? "acc[j] * (ds_unit * s_q)" : "acc[j]");
  put_store(a, 2, "row", "d", a->codes ? unit : "acc_v[j]");
  text_puts(t, "}\n}\n");
}

bool cuda_attention_grad(CudaGen *g, const Op *group, const char *symbol) {
  Attention a;
  Text *t = &g->out;
  if (cuda_attention_on_tiles(group))
    return cuda_attention_grad_tiles(g, group, symbol);
  if (!init(&a, g, group, 3))
    return false;
  const int64_t most = a.queries > a.keys ? a.queries : a.keys;
  g->blocks = a.n * a.heads * ((most + WARPS - 1) / WARPS);
  g->blocks_y = 2;
  cuda_head(g, group, symbol);
  put_types(&a);
  put_shared(&a, "row_a", WARPS);
  put_shared(&a, "row_b", WARPS);
  put_shared(&a, "tile_a", a.tile);
  put_shared(&a, "tile_b", a.tile);
  text_printf(t, "__shared__ %s deltas[%d];\n", a.type, a.tile);
  put_units(&a, 4);
  if (a.codes) /* of codes of dS; and how many units of v's scale the sum of do o is */
    text_printf(t, "const T ds_unit = s_do * s_v * (T)%a, per_v = min_(1 / s_v, (T)%a);\n",
                a.scale / a.ds_scale, (double)FLT_MAX);
  text_printf(t, "if (blockIdx.y == 0) {\nif (blockIdx.x >= %lldu)\nreturn;\n",
              (long long)(a.n * a.heads * ((a.queries + WARPS - 1) / WARPS)));
  put_dq(&a);
  text_printf(t, "} else {\nif (blockIdx.x >= %lldu)\nreturn;\n",
              (long long)(a.n * (a.heads / a.sharing) * ((a.keys + WARPS - 1) / WARPS)));
  put_dk_dv(&a);
  text_puts(t, "}\n}\n");
  return true;
}
