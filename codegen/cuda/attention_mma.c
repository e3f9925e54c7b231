/* cuda_attention_tiles, cuda_attention_grad_tiles: attention of 16-bit operands, and of codes, on
 * tensor cores.
 * The kernels are templates (attention.cuh); what is written here is their configuration: sizes,
 * places, tiles. */
#include <math.h>
#include <string.h>

#include "codegen/cuda/gen.h"

enum { ROW_EXTRA = 16 /* line_ of mma.cuh */ };

typedef struct {
  CudaGen *g;
  const Op *group;
  const Body *b;
  const char *symbol;
  int q;          /* operand; k and v are behind it */
  int mask, seed; /* operands; -1: none; the step is behind the seed */
  int scales;     /* operands: inverse scales of codes of q, k, v (, do); -1: none */
  int64_t keys, heads, width, pad, kv_heads;
  int warps, tile;
} Tiles;

/* q, k and v are alike; so are o and what comes out, in 16 bits. */
bool cuda_attention_on_tiles(const Op *group) {
  const int q = group->nin >= 6 && !strcmp(op_str(group, "kind", ""), "attention_grad") ? 3 : 0;
  if (group->nin < q + 3 || group->body->ndim != 4 || op_attr(group, "round"))
    return false;
  const DType dt = group->out[0]->type->dt, from = group->in[q]->type->dt;
  bool same = dt == MPCC_BF16 || dt == MPCC_F16;
  same = same && (op_attr(group, "p_dtype") ? dtype_is_fp8(from) : from == dt);
  for (int k = q; k < q + 3; k++)
    same = same && group->in[k]->type->dt == from;
  if (q) /* its gradient may be codes of the other format */
    same = same && group->in[1]->type->dt == dt &&
           (dtype_is_fp8(from) ? dtype_is_fp8(group->in[0]->type->dt) : group->in[0]->type->dt == dt);
  for (int k = 0; k < group->nout; k++)
    same = same && (group->out[k]->type->dt == dt || (!q && k == 1));
  return same && group->body->dim[3] <= 256;
}

static int64_t round_up(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}

static bool init(Tiles *x, CudaGen *g, const Op *group, const char *symbol, int q) {
  const Body *b = group->body;
  const bool mask = op_int(group, "mask", 0), dropout = op_float(group, "dropout_p", 0) > 0;
  const int scales = q + 3 + mask + 2 * dropout;
  const bool codes = op_attr(group, "p_dtype") != NULL;
  if (group->nin != scales + (!codes ? 0 : q ? 4 : 3) || group->nout > 3)
    return cuda_fail(g, "attention with other operands or results than expected");
  *x = (Tiles){.g = g,
               .group = group,
               .b = b,
               .symbol = symbol,
               .q = q,
               .mask = mask ? q + 3 : -1,
               .seed = dropout ? q + 3 + mask : -1,
               .scales = codes ? scales : -1,
               .keys = op_int(group, "keys", b->dim[2]),
               .heads = b->dim[1],
               .width = b->dim[3],
               .pad = round_up(b->dim[3], 16)};
  x->kv_heads = op_int(group, "kv_heads", x->heads);
  return true;
}

/* Warps for `rows` rows of 16; tiles of `most` rows of the other side, fewer when it is short. */
static void choose(Tiles *x, int64_t rows, int64_t others, int most) {
  const int64_t warps = round_up(rows, 16) / 16, tile = round_up(others, 16);
  x->warps = (int)(warps < 4 ? warps : 4);
  x->tile = (int)(tile < most ? tile : most);
}

/* ---- the configuration ----------------------------------------------------------------------- */

static void put_rows(const Tiles *x, const char *name, bool out, int k) {
  int value;
  const Access at = out ? attention_result(x->group, k, &value) : x->b->in[k];
  const int64_t *s = at.stride;
  text_printf(&x->g->out, "typedef Rows<%lldll, %lldll, %lldll, %lldll> %s;\n", (long long)s[0],
              (long long)s[1], (long long)s[2], (long long)s[3], name);
}

static void put_index(const Tiles *x, const Access *a, const char *const name[], int n) {
  Text *t = &x->g->out;
  const char *plus = "";
  for (int d = 0; d < n; d++, plus = " + ")
    text_printf(t, "%s(s64)%s * %lldll", plus, name[d], (long long)a->stride[d]);
}

static void put_float(const Tiles *x, const char *name, double v) {
  text_printf(&x->g->out, "static constexpr float %s = %af;\n", name, (double)(float)v);
}

static void put_mask(const Tiles *x) {
  static const char *const index[] = {"n", "h", "q", "s"};
  Text *t = &x->g->out;
  if (x->mask < 0) {
    text_puts(t, "typedef u8 Mask;\nFN float added(const Mask *, u32, u32, u32, u32) { return 0; "
                 "}\n");
    return;
  }
  const DType dt = x->group->in[x->mask]->type->dt;
  text_printf(t, "typedef %s Mask;\n", cuda_storage(dt));
  text_printf(t,
              "FN float added(const Mask *m, u32 n, u32 h, u32 q, u32 s) { return "
              "(float)get_%s(m[",
              dtype_text(dt));
  put_index(x, &x->b->in[x->mask], index, 4);
  text_puts(t, "]); }\n");
}

/* Formats of fragments, results and elements as they lie. */
static void put_formats(const Tiles *x) {
  static const char *const formats[] = {"E4M3", "E5M2"};
  const Op *group = x->group;
  const char *result = group->out[0]->type->dt == MPCC_F16 ? "F16" : "BF16";
  Text *t = &x->g->out;
  if (x->scales < 0) {
    text_printf(t, "typedef %s E;\ntypedef E R;\ntypedef u16 T;\ntypedef u16 TO;\n", result);
    text_puts(t, "typedef E4M3 P;\ntypedef E5M2 S;\n");
  } else {
    const DType p = (DType)op_int(group, "p_dtype", MPCC_E4M3);
    const DType s = (DType)op_int(group, "ds_dtype", MPCC_E5M2);
    text_printf(t, "typedef Decoded E;\ntypedef %s R;\ntypedef %s T;\ntypedef %s TO;\n", result,
                formats[group->in[x->q]->type->dt == MPCC_E5M2],
                formats[group->in[0]->type->dt == MPCC_E5M2]);
    text_printf(t, "typedef %s P;\ntypedef %s S;\n", formats[p == MPCC_E5M2],
                formats[s == MPCC_E5M2]);
  }
  put_float(x, "p_scale", op_float(group, "p_scale", 1));
  put_float(x, "ds_scale", op_float(group, "ds_scale", 1));
}

/* lse: its access, over [N, H, T]; NULL: nobody reads it. */
static void put_config(const Tiles *x, const Access *lse) {
  static const char *const index[] = {"n", "h", "q"};
  const double p = op_float(x->group, "dropout_p", 0);
  Text *t = &x->g->out;
  text_printf(t, "struct %s_is {\n", x->symbol);
  put_formats(x);
  text_printf(t,
              "enum { SAMPLES = %lld, HEADS = %lld, SHARING = %lld, QUERIES = %lld, KEYS = %lld, "
              "WIDTH = %lld, PAD "
              "= %lld };\n",
              (long long)x->b->dim[0], (long long)x->heads, (long long)(x->heads / x->kv_heads),
              (long long)x->b->dim[2], (long long)x->keys, (long long)x->width, (long long)x->pad);
  text_printf(t,
              "enum { CAUSAL = %d, MASK = %d, DROP = %d, WARPS = %d, TILE = %d, SHARED = %lld };\n",
              (int)op_int(x->group, "causal", 0), x->mask >= 0, x->seed >= 0, x->warps, x->tile,
              (long long)x->g->shared_bytes);
  put_float(x, "scale", op_float(x->group, "scale", 1 / sqrt((double)x->width)));
  put_float(x, "drop_p", p);
  put_float(x, "keep", 1 / (1 - p));
  put_rows(x, "Q", false, x->q);
  put_rows(x, "K", false, x->q + 1);
  put_rows(x, "V", false, x->q + 2);
  put_mask(x);
  text_puts(t, "FN s64 lse(u32 n, u32 h, u32 q) { return ");
  if (lse)
    put_index(x, lse, index, 3);
  else
    text_puts(t, "0");
  text_puts(t, "; }\n");
}

/* Operand k as elements of `type`. */
static void put_elements(const Tiles *x, int k, const char *type) {
  if (x->scales < 0)
    text_printf(&x->g->out, ", i%d", k);
  else
    text_printf(&x->g->out, ", (const %s_is::%s *)i%d", x->symbol, type, k);
}

/* Arguments behind the tensors: mask, seed, step, stream, units. */
static void put_beside(const Tiles *x) {
  Text *t = &x->g->out;
  text_printf(t, x->mask >= 0 ? ", i%d" : ", 0", x->mask);
  if (x->seed >= 0)
    text_printf(t, ", get_i64(i%d[0]), get_i64(i%d[0])", x->seed, x->seed + 1);
  else
    text_puts(t, ", 0, 0");
  text_puts(t, x->b->nparam ? ", p0, " : ", 0, ");
  text_puts(t, "Units{");
  for (int k = 0; k < 4; k++) {
    text_puts(t, k ? ", " : "");
    if (x->scales < 0 || (k == 3 && !x->q))
      text_puts(t, "1.0f");
    else
      text_printf(t, "get_f32(i%d[0])", x->scales + k);
  }
  text_puts(t, "}");
}

bool cuda_attention_tiles(CudaGen *g, const Op *group, const char *symbol) {
  Tiles x = {0};
  Text *t = &g->out;
  if (!init(&x, g, group, symbol, 0))
    return false;
  choose(&x, x.b->dim[2], x.keys, x.pad <= 128 ? 64 : 32);
  g->threads = 32 * x.warps;
  g->blocks = x.b->dim[0] * x.heads * ((x.b->dim[2] + 16 * x.warps - 1) / (16 * x.warps));
  g->shared_bytes = (16 * x.warps + 4 * x.tile) * (2 * x.pad + ROW_EXTRA);
  if (g->shared_bytes > CUDA_SHARED)
    return cuda_fail(g, "attention with tiles that are too large");
  put_config(&x, group->nout > 1 ? &x.b->out[1] : NULL);
  put_rows(&x, "O", true, 0);
  text_puts(t, "};\n");
  cuda_head(g, group, symbol);
  text_printf(t, "attention_forward<%s_is>(o0, %s", symbol, group->nout > 1 ? "o1" : "0");
  for (int k = 0; k < 3; k++)
    put_elements(&x, k, "T");
  put_beside(&x);
  text_puts(t, ");\n}\n");
  return true;
}

bool cuda_attention_grad_tiles(CudaGen *g, const Op *group, const char *symbol) {
  Tiles x = {0};
  Text *t = &g->out;
  if (!init(&x, g, group, symbol, 3) || group->nout != (op_attr(group, "joined") ? 1 : 3))
    return cuda_fail(g, "attention_grad with other operands or results than expected");
  const int64_t queries = x.b->dim[2], most = queries > x.keys ? queries : x.keys;
  choose(&x, most, most, x.pad <= 128 ? 32 : 16);
  do
    g->shared_bytes = (2 * 16 * x.warps + 4 * x.tile) * (2 * x.pad + ROW_EXTRA) + 8 * x.tile;
  while (g->shared_bytes > CUDA_SHARED && x.warps-- > 1);
  g->threads = 32 * x.warps;
  g->blocks = x.b->dim[0] * x.heads * ((most + 16 * x.warps - 1) / (16 * x.warps));
  g->blocks_y = x.pad <= 128 ? 2 : 3;
  put_config(&x, &x.b->in[2]);
  put_rows(&x, "DO", false, 0);
  put_rows(&x, "O", false, 1);
  put_rows(&x, "DQ", true, 0);
  put_rows(&x, "DK", true, 1);
  put_rows(&x, "DV", true, 2);
  text_puts(t, "};\n");
  cuda_head(g, group, symbol);
  text_printf(t, "attention_backward<%s_is>(o0", symbol);
  for (int k = 1; k < 3; k++) {
    int value;
    const Access at = cuda_attention_result(group, k, &value);
    text_printf(t, value == k ? ", o%d" : ", o%d + %lldll", value, (long long)at.offset);
  }
  put_elements(&x, 0, "TO");
  text_puts(t, ", i1, i2");
  for (int k = 3; k < 6; k++)
    put_elements(&x, k, "T");
  put_beside(&x);
  text_puts(t, ");\n}\n");
  return true;
}
