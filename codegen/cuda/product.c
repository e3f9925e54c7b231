/* cuda_product, cuda_conv, cuda_pack: tiles of 64 x 64 sums by 256 threads, 16 of k at a time
 * through shared memory. A convolution differs in how an element of A is found. Plain
 * multiply-adds, for every dtype: sums in f32, in f64 for f64; the order of a sum depends on k
 * alone. Convolutions of two factors of 16 bits, or of TF32, run on tensor cores: 4 warps of 16
 * rows, 32 of k at a time, the next while one is used. */
#include "codegen/cuda/gen.h"

#include <string.h>

enum { TILE = CUDA_TILE, TILE_K = 16, THREADS = 256, TILES_K = 32, TILES_THREADS = 128 };

typedef struct {
  CudaGen *g;
  const Op *group;
  const Body *b;
  const char *type; /* of sums */
  int64_t rows, cols, k;
  int sums; /* acc[sums][4] */
} Product;

/* One per axis; what is not given is 0 for paddings, 1 for everything else. */
static const int64_t *ints(const Op *op, const char *key) {
  static const int64_t zeros[MAX_DIMS], ones[MAX_DIMS] = {1, 1, 1, 1, 1, 1, 1, 1};
  _Static_assert(MAX_DIMS == 8, "a one for each axis");
  const Attr *a = op_attr(op, key);
  return a && a->kind == AT_INTS ? a->u.ints.v : strcmp(key, "padding") ? ones : zeros;
}

/* ---- A --------------------------------------------------------------------------------------- */

/* "const <type> get(row, k)": an element of a matrix with strides. */
static void put_matrix(const Product *p) {
  const Access *a = &p->b->in[0];
  const int last = p->b->ndim - 1;
  Text *t = &p->g->out;
  text_puts(t, "auto a_row = [&](u32 row) {\n");
  cuda_indices(p->b, 0, last, "row", t);
  text_puts(t, "return ");
  cuda_offset(p->b, a, 0, last, t);
  text_printf(t,
              ";\n};\nauto a_get = [&](s64 row, u32 k) {\nreturn (%s)get_%s(i0[row + (s64)k * "
              "%lldll]);\n};\n",
              p->type, dtype_text(p->group->in[0]->type->dt), (long long)a->stride[last]);
}

/* Index along one axis of the image, from position and tap; `in` says whether it exists. */
static void put_axis(const Product *p, int i) {
  const int64_t up = ints(p->group, "up")[i];
  Text *t = &p->g->out;
  text_printf(t, "int at%d = (int)(p%d_ * %lldu + t%d_ * %lldu) - %lld;\n", i, i,
              (long long)ints(p->group, "stride")[i], i, (long long)ints(p->group, "dilation")[i],
              (long long)ints(p->group, "padding")[i]);
  if (up > 1)
    text_printf(t, "in = in && at%d >= 0 && at%d %% %lld == 0;\nat%d /= %lld;\n", i, i,
                (long long)up, i, (long long)up);
  text_printf(t, "in = in && at%d >= 0 && at%d < %lld;\n", i, i, (long long)ints(p->group, "x")[i]);
}

/* Splits `flat` into indices <name>0_ .. of sizes size[0..n); what is left is `rest`. */
static void put_split(Text *t, const char *flat, const char *name, const int64_t *size, int n,
                      const char *rest) {
  int64_t below = 1;
  for (int i = n; i-- > 0; below *= size[i])
    text_printf(t, "const u32 %s%d_ = %s / %lldu %% %lldu;\n", name, i, flat, (long long)below,
                (long long)size[i]);
  if (rest)
    text_printf(t, "const u32 %s = %s / %lldu;\n", rest, flat, (long long)below);
}

/* "place(w, q)": where the image has the element of window w (sample and position) and
 * tap-and-channel q; negative outside of it. */
static void put_window(const Product *p) {
  const Attr *positions = op_attr(p->group, "positions");
  const int axes = positions ? positions->u.ints.n : 0;
  const int64_t channels = op_int(p->group, "channels", 1), *strides = ints(p->group, "strides");
  Text *t = &p->g->out;
  text_puts(t, "auto place = [&](u32 w, u32 q) {\n");
  put_split(t, "w", "p", ints(p->group, "positions"), axes, "n_");
  text_printf(t, "const u32 c_ = q %% %lldu, tap_ = q / %lldu;\n", (long long)channels,
              (long long)channels);
  put_split(t, "tap_", "t", ints(p->group, "kernel"), axes, NULL);
  text_puts(t, "bool in = true;\n");
  for (int i = 0; i < axes; i++)
    put_axis(p, i);
  text_printf(t, "return !in ? -1ll : (s64)n_ * %lldll", (long long)strides[0]);
  for (int i = 0; i < axes; i++)
    text_printf(t, " + (s64)at%d * %lldll", i, (long long)strides[1 + i]);
  text_puts(t, " + (s64)c_;\n};\n");
}

static bool turned(const Product *p) {
  return op_int(p->group, "wgrad", 0) != 0;
}

/* "a_row(row)", the number of a row of A; "a_place(row, k)". */
static void put_places(const Product *p) {
  Text *t = &p->g->out;
  const int last = p->b->ndim - 1;
  put_window(p);
  text_puts(t, "auto a_row = [&](u32 row) {\n");
  cuda_indices(p->b, 0, last, "row", t);
  text_puts(t, "return ");
  cuda_offset(p->b, &p->b->in[0], 0, last, t);
  text_printf(t, ";\n};\nauto a_place = [&](s64 row, u32 k) {\nreturn %s;\n};\n",
              turned(p) ? "place(k, (u32)row)" : "place((u32)row, k)");
}

static void put_image(const Product *p) {
  put_places(p);
  text_printf(
      &p->g->out,
      "auto a_get = [&](s64 row, u32 k) {\nconst s64 at = a_place(row, k);\nreturn at < 0 ? 0 : "
      "(%s)get_%s(i0[at]);\n};\n",
      p->type, dtype_text(p->group->in[0]->type->dt));
}

/* ---- the kernel ------------------------------------------------------------------------------ */

static void put_sums(const Product *p) {
  Text *t = &p->g->out;
  const char *b_dtype = dtype_text(p->group->in[1]->type->dt);
  text_printf(t, "__shared__ %s a_tile[%d][%d], b_tile[%d][%d];\n", p->type, TILE_K, TILE + 4,
              TILE_K, TILE);
  text_printf(t, "const u32 tx = threadIdx.x %% 16u, ty = threadIdx.x / 16u;\n");
  text_printf(t, "const u32 row0 = blockIdx.x * %du, panel = blockIdx.y;\n", TILE);
  text_printf(t, "const u32 mine = threadIdx.x / 4u, my_k = threadIdx.x %% 4u * 4u;\n");
  text_printf(t, "const bool have = row0 + mine < %lldu;\n", (long long)p->rows);
  text_printf(t, "const s64 at = have ? (s64)a_row(row0 + mine) : 0;\n");
  text_printf(t, "%s acc[4][4] = {};\n", p->type);
  text_printf(t, "for (u32 k0 = 0; k0 < %lldu; k0 += %du) {\n__syncthreads();\n", (long long)p->k,
              TILE_K);
  text_puts(t, "#pragma unroll\nfor (int j = 0; j < 4; j++) {\n");
  text_printf(t,
              "const u32 k = k0 + my_k + j;\na_tile[my_k + j][mine] = have && k < %lldu ? "
              "a_get(at, k) : 0;\n",
              (long long)p->k);
  text_printf(t, "const u32 e = threadIdx.x + j * %du, kb = k0 + e / %du;\n", THREADS, TILE);
  const int64_t *stride = ints(p->group, "factor");
  if (op_int(p->group, "wgrad", 0)) /* B as it lies */
    text_printf(t,
                "const u32 col = panel * %du + e %% %du;\n"
                "b_tile[e / %du][e %% %du] = kb < %lldu && col < %lldu ? "
                "(%s)get_%s(i1[kb * %lldll + col * %lldll]) : 0;\n",
                TILE, TILE, TILE, TILE, (long long)p->k, (long long)p->cols, p->type, b_dtype,
                (long long)stride[0], (long long)stride[1]);
  else
    text_printf(t,
                "b_tile[e / %du][e %% %du] = kb < %lldu ? (%s)get_%s(i1[((s64)panel * %lldll + kb) "
                "* %d + e %% %du]) : 0;\n",
                TILE, TILE, (long long)p->k, p->type, b_dtype, (long long)p->k, TILE, TILE);
  text_printf(t, "}\n__syncthreads();\n#pragma unroll\nfor (int k = 0; k < %d; k++) {\n", TILE_K);
  text_puts(t, "#pragma unroll\nfor (int i = 0; i < 4; i++) {\n#pragma unroll\nfor (int j = 0; j < "
               "4; j++) {\n"
               "acc[i][j] = fma_(a_tile[k][ty * 4u + i], b_tile[k][tx + 16u * j], "
               "acc[i][j]);\n}\n}\n}\n}\n");
}

/* For each sum acc[i][j] of a thread: its row and column in the tile are said. */
static bool put_statements(const Product *p, const char *row, const char *column) {
  Text *t = &p->g->out;
  const CudaBody text = {p->g, p->group, NULL};
  const int last = p->b->ndim - 1;
  text_printf(t, "#pragma unroll\nfor (int i = 0; i < %d; i++) {\n#pragma unroll\n", p->sums);
  text_printf(t,
              "for (int j = 0; j < 4; j++) {\nconst u32 row = row0 + %s, x%d = panel * %du + %s;\n",
              row, last, TILE, column);
  text_printf(t, "if (row < %lldu && x%d < %lldu) {\n", (long long)p->rows, last,
              (long long)p->cols);
  cuda_indices(p->b, 0, last, "row", t);
  for (int i = 0; i < p->b->nstmt; i++) {
    const Stmt *s = &p->b->stmt[i];
    if (s->prim == PR_STORE) {
      cuda_store(&text, i, 0, p->b->ndim, "", t);
      continue;
    }
    text_printf(t, "const %s v%d = ", cuda_register(s->dt), i);
    if (s->prim == PR_ACC)
      text_puts(t, "acc[i][j]");
    else if (!cuda_expression(&text, i, t))
      return false;
    text_puts(t, ";\n");
  }
  text_puts(t, "}\n}\n}\n");
  return true;
}

/* ---- on tensor cores ------------------------------------------------------------------------- */

/* FP32 factors that are TF32 already: the units look at no more of them. */
static bool is_tf32(const Op *group) {
  return op_int(group, "tf32", 0) && group->in[0]->type->dt == MPCC_F32;
}

bool cuda_conv_on_tiles(const Op *group) {
  const DType a = group->in[0]->type->dt;
  return group->nin > 1 && !op_int(group, "depth", 0) && (dtype_is_half(a) || is_tf32(group)) &&
         group->in[1]->type->dt == a;
}

/* Elements in 16 bytes; bytes of one. */
static int chunk(const Product *p) {
  return is_tf32(p->group) ? 4 : 8;
}
static int unit(const Product *p) {
  return 16 / chunk(p);
}

/* v[j] of the chunk at an element that is found one by one: `value` of element j, or of 2 j and 2 j
 * + 1. */
static void put_gather(const Product *p, const char *first, const char *second) {
  Text *t = &p->g->out;
  text_puts(t, "u32 v[4];\n#pragma unroll\nfor (int j = 0; j < 4; j++)\n");
  if (!second[0])
    text_printf(t, "v[j] = __float_as_uint(%s);\n", first);
  else
    text_printf(t, "v[j] = (u32)%s | (u32)%s << 16;\n", first, second);
}

/* 16 bytes of columns of B, zero behind k and columns: from a panel, or as it lies (of weight
 * gradients). */
static void put_bring_b(const Product *p) {
  Text *t = &p->g->out;
  const int64_t *stride = ints(p->group, "factor");
  const int lane = TILE / chunk(p);
  text_printf(t, "const u32 kb = k0 + e / %du, column = e %% %du * %du;\n", lane, lane, chunk(p));
  text_printf(t, "const u32 b_to = to + A_BYTES + e / %du * B_LINE + column * %du;\n", lane,
              unit(p));
  if (!turned(p)) {
    text_printf(
        t,
        "copy16(b_to, i1 + (kb < %lldu ? ((s64)panel * %lldll + kb) * %d + column : 0), kb < "
        "%lldu);\n",
        (long long)p->k, (long long)p->k, TILE, (long long)p->k);
    return;
  }
  const bool lines = stride[1] == 1 && stride[0] % chunk(p) == 0 && p->cols % chunk(p) == 0;
  text_printf(t, "const u32 col = panel * %du + column;\n", TILE);
  text_printf(t, "if (%s) {\n", lines ? "multiple(i1, 16)" : "false");
  text_printf(t, "const bool there = kb < %lldu && col < %lldu;\n", (long long)p->k,
              (long long)p->cols);
  text_printf(t, "copy16(b_to, there ? i1 + (s64)kb * %lldll + col : i1, there);\n} else {\n",
              (long long)stride[0]);
  text_printf(t,
              "auto b_at = [&](u32 cc) {\nreturn kb < %lldu && cc < %lldu ? i1[(s64)kb * %lldll + "
              "(s64)cc * %lldll] : 0;\n};\n",
              (long long)p->k, (long long)p->cols, (long long)stride[0], (long long)stride[1]);
  if (chunk(p) == 4)
    put_gather(p, "b_at(col + j)", "");
  else
    put_gather(p, "b_at(col + 2 * j)", "b_at(col + 2 * j + 1)");
  text_puts(t, "store16(b_to, v);\n}\n");
}

/* "bring(k0, to)": 32 of k from k0 on into a stage, A as [row][k], or [k][row] when it is
 * transposed, and B as [k][column]. 16 bytes at a time lie side by side where whole chunks are of
 * one tap. */
static void put_bring(const Product *p) {
  const int64_t channels = op_int(p->group, "channels", 1), *strides = ints(p->group, "strides");
  const Attr *positions = op_attr(p->group, "positions");
  const int axes = positions ? positions->u.ints.n : 0;
  Text *t = &p->g->out;
  const int lane = (turned(p) ? TILE : TILES_K) / chunk(p);
  bool lines = channels % chunk(p) == 0 && p->b->ndim == 2 && p->b->in[0].stride[0] == 1;
  for (int i = 0; i <= axes; i++)
    lines = lines && strides[i] % chunk(p) == 0;
  text_printf(t, "const bool lines = %s;\n", lines ? "multiple(i0, 16)" : "false");
  text_printf(t,
              "auto bring = [&](u32 k0, u32 to) {\n#pragma unroll\nfor (u32 e = threadIdx.x; e < "
              "%du; e += %du) {\n",
              TILE * TILES_K / chunk(p), TILES_THREADS);
  text_printf(t, "const u32 part = e %% %du * %du, line = e / %du;\n", lane, chunk(p), lane);
  text_printf(t, "const u32 m = row0 + %s, ka = k0 + %s;\n", turned(p) ? "part" : "line",
              turned(p) ? "line" : "part");
  text_printf(t, "const u32 a_to = to + line * A_LINE + part * %du;\n", unit(p));
  text_printf(t,
              "auto a_at = [&](u32 mm, u32 kk) {\nreturn mm < %lldu && kk < %lldu ? "
              "a_place((s64)a_row(mm), kk) : -1ll;\n};\n",
              (long long)p->rows, (long long)p->k);
  text_puts(
      t,
      "if (lines) {\nconst s64 at = a_at(m, ka);\ncopy16(a_to, at < 0 ? i0 : i0 + at, at >= 0);\n} "
      "else {\nauto a_of = [&](s64 at) {\nreturn at < 0 ? 0 : i0[at];\n};\n");
  if (chunk(p) == 4)
    put_gather(p, turned(p) ? "a_of(a_at(m + j, ka))" : "a_of(a_at(m, ka + j))", "");
  else
    put_gather(p, turned(p) ? "a_of(a_at(m + 2 * j, ka))" : "a_of(a_at(m, ka + 2 * j))",
               turned(p) ? "a_of(a_at(m + 2 * j + 1, ka))" : "a_of(a_at(m, ka + 2 * j + 1))");
  text_puts(t, "store16(a_to, v);\n}\n");
  put_bring_b(p);
  text_puts(t, "}\ncopies_end();\n};\n");
}

/* One stage's products of 16-bit elements, from a_tile and b_tile. */
static void put_half_products(const Product *p) {
  Text *t = &p->g->out;
  const char *e = p->group->in[0]->type->dt == MPCC_F16 ? "F16" : "BF16";
  text_printf(t, "#pragma unroll\nfor (int k = 0; k < %d; k++) {\nu32 a[4];\n", TILES_K / 16);
  if (turned(p))
    text_printf(t, "matrices_turned(a, lane_b<%d>(a_tile + warp * 32u, lane) + 16 * k * A_LINE);\n",
                TILE);
  else
    text_printf(t, "matrices(a, lane_a<%d>(a_tile + warp * 16u * A_LINE, lane) + 32 * k);\n",
                TILES_K);
  text_printf(t,
              "#pragma unroll\nfor (int n = 0; n < 4; n++) {\nu32 b[4];\nmatrices_turned(b, "
              "lane_turned<%d>(b_tile, lane) + 16 * k * B_LINE + 32 * n);\n",
              TILE);
  text_printf(
      t, "%s::mma(acc[2 * n], a, b[0], b[1]);\n%s::mma(acc[2 * n + 1], a, b[2], b[3]);\n}\n}\n", e,
      e);
}

/* The same of TF32, which no matrix load takes: words, at addresses in 32 different banks. */
static void put_tf32_products(const Product *p) {
  Text *t = &p->g->out;
  text_printf(t, "#pragma unroll\nfor (int k = 0; k < %d; k++) {\n", TILES_K / 8);
  if (turned(p))
    text_puts(t, "const u32 at = a_tile + (8 * k + t) * A_LINE + (warp * 16u + g) * 4u;\n"
                 "const u32 a[4] = {word(at), word(at + 32), word(at + 4 * A_LINE), word(at + 4 * "
                 "A_LINE + 32)};\n");
  else
    text_puts(t, "const u32 at = a_tile + (warp * 16u + g) * A_LINE + (8 * k + t) * 4u;\n"
                 "const u32 a[4] = {word(at), word(at + 8 * A_LINE), word(at + 16), word(at + 8 * "
                 "A_LINE + 16)};\n");
  text_puts(t, "#pragma unroll\nfor (int n = 0; n < 8; n++) {\n"
               "const u32 from = b_tile + (8 * k + t) * B_LINE + (8 * n + g) * 4u;\n"
               "TF32::mma(acc[n], a, word(from), word(from + 4 * B_LINE));\n}\n}\n");
}

static void put_tiles(const Product *p) {
  Text *t = &p->g->out;
  /* bytes from line to line: 16-bit elements and 16, as the matrix loads want it; of TF32, so many
   * that eight lines by four words, or four lines by eight words, lie in different banks */
  if (is_tf32(p->group))
    text_printf(t, "constexpr u32 A_LINE = %d, B_LINE = %d;\n",
                turned(p) ? 4 * TILE + 32 : 4 * TILES_K + 16, 4 * TILE + 32);
  else
    text_printf(t, "constexpr u32 A_LINE = line_<%d>, B_LINE = line_<%d>;\n",
                turned(p) ? TILE : TILES_K, TILE);
  text_printf(t, "constexpr u32 A_BYTES = %d * A_LINE, STAGE = A_BYTES + %d * B_LINE;\n",
              turned(p) ? TILES_K : TILE, TILES_K);
  text_puts(
      t, "__shared__ __align__(16) u8 room[2 * STAGE];\n"
         "const u32 lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, g = lane / 4u, t = lane % "
         "4u;\n");
  text_printf(t,
              "const u32 row0 = blockIdx.x * %du, panel = blockIdx.y, at_room = shared_at(room);\n",
              TILE);
  put_bring(p);
  text_puts(t, "float acc[8][4];\nclear<8>(acc);\nbring(0, at_room);\nu32 now = 0;\n");
  text_printf(t, "for (u32 k0 = 0; k0 < %lldu; k0 += %du, now ^= 1u) {\n", (long long)p->k,
              TILES_K);
  text_printf(t,
              "if (k0 + %du < %lldu) {\nbring(k0 + %du, at_room + (now ^ 1u) * "
              "STAGE);\ncopies_wait<1>();\n} else {\n"
              "copies_wait<0>();\n}\n__syncthreads();\n",
              TILES_K, (long long)p->k, TILES_K);
  text_puts(t, "const u32 a_tile = at_room + now * STAGE, b_tile = a_tile + A_BYTES;\n");
  if (is_tf32(p->group))
    put_tf32_products(p);
  else
    put_half_products(p);
  text_puts(t, "__syncthreads();\n}\n");
}

static bool product(CudaGen *g, const Op *group, const char *symbol, void (*put_a)(const Product *),
                    bool tiles) {
  const Body *b = group->body;
  const Attr *compute = op_attr(group, "compute");
  const Type *panels = group->nin < 2 ? NULL : group->in[1]->type;
  if (b->ndim < 1 || !panels ||
      (!op_int(group, "wgrad", 0) &&
       (panels->rank != 4 || panels->dim[2] != TILE || panels->dim[3] != 1)))
    return cuda_fail(g, "a product needs B in panels of %d columns", TILE);
  Product p = {.g = g,
               .group = group,
               .b = b,
               .rows = 1,
               .cols = b->dim[b->ndim - 1],
               .k = op_int(group, "k", 0)};
  for (int d = 0; d + 1 < b->ndim; d++)
    p.rows *= b->dim[d];
  p.type = compute && compute->u.i == MPCC_F64 ? "double" : "float";
  if (p.rows >= INT32_MAX || p.cols >= (int64_t)UINT16_MAX * TILE)
    return cuda_unsupported(g, "a product of %lld x %lld is too large", (long long)p.rows,
                            (long long)p.cols);
  g->threads = tiles ? TILES_THREADS : THREADS;
  g->blocks = (p.rows + TILE - 1) / TILE;
  g->blocks_y = (p.cols + TILE - 1) / TILE;
  cuda_head(g, group, symbol);
  put_a(&p);
  p.sums = tiles ? 8 : 4;
  if (tiles)
    put_tiles(&p);
  else
    put_sums(&p);
  const bool ok = tiles
                      ? put_statements(&p, "warp * 16u + g + j / 2 * 8u", "8u * i + 2u * t + j % 2")
                      : put_statements(&p, "ty * 4u + i", "tx + 16u * j");
  text_puts(&g->out, "}\n");
  return ok;
}

bool cuda_product(CudaGen *g, const Op *group, const char *symbol) {
  return product(g, group, symbol, put_matrix, false);
}

bool cuda_conv(CudaGen *g, const Op *group, const char *symbol) {
  if (op_int(group, "depth", 0))
    return cuda_depth(g, group, symbol);
  return cuda_conv_on_tiles(group) ? product(g, group, symbol, put_places, true)
                                   : product(g, group, symbol, put_image, false);
}

/* A thread per element of the panels; zero outside of N and K. */
bool cuda_pack(CudaGen *g, const Op *group, const char *symbol) {
  const Body *b = group->body;
  const Type *to = group->out[0]->type;
  const int64_t n = type_elems(to);
  if (to->rank != 4 || to->dim[3] != 1 || n >= INT32_MAX)
    return cuda_fail(g, "panels of this shape are not supported");
  Text *t = &g->out;
  g->threads = THREADS;
  g->blocks = (n + THREADS - 1) / THREADS;
  cuda_head(g, group, symbol);
  text_printf(t, "const u32 e = blockIdx.x * %du + threadIdx.x;\nif (e >= %lldu)\nreturn;\n",
              THREADS, (long long)n);
  text_printf(t, "const u32 k = e / %lldu %% %lldu, n = e / %lldu * %lldu + e %% %lldu;\n",
              (long long)to->dim[2], (long long)to->dim[1], (long long)(to->dim[1] * to->dim[2]),
              (long long)to->dim[2], (long long)to->dim[2]);
  text_printf(t,
              "o0[e] = put_%s(n < %lldu && k < %lldu ? (%s)get_%s(i0[(s64)n * %lldll + (s64)k * "
              "%lldll]) : 0);\n}\n",
              dtype_text(to->dt), (long long)b->dim[0], (long long)b->dim[1],
              to->dt == MPCC_F64 ? "double" : "float", dtype_text(group->in[0]->type->dt),
              (long long)b->in[0].stride[0], (long long)b->in[0].stride[1]);
  return true;
}
