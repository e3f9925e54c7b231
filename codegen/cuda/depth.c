/* cuda_depth: convolutions of each channel by itself. A thread has a strip of neighbouring places
 * of the last axis and up to two neighbouring channels; of each line of taps it holds the weights,
 * and reads every element of the image once for all places of the strip. Taps are added in their
 * order, whatever the strip. The gradient of an image is the same, with an image that is spread.
 *
 * Of the gradient of weights a block has some channels and some taps of one line, its threads
 * strips of places, one after the other: a thread holds the strip of dy, reads every element of the
 * image once, and keeps a sum for each of the taps. The sums of the threads are added at the end,
 * in their order. */
#include <stdio.h>

#include "codegen/cuda/gen.h"

enum {
  THREADS = 256,
  UNROLLED = 16, /* taps of a line that are held in registers */
  LANES = 16,    /* neighbouring channels, or pairs of them, of a block of weight gradients */
  HELD = 8,      /* most taps, and most places of a strip, of a thread of those */
};

typedef struct {
  CudaGen *g;
  const Op *group;
  const Body *b;
  ConvGroup c;
  const char *type;   /* of sums */
  int64_t lines;      /* of neighbouring channels */
  int strip, width;   /* places and channels of a thread */
  int last;           /* axis along which strips lie */
  int64_t step, dist; /* along it: between places, between taps */
  int64_t up;         /* along it: the image's elements are so far apart */
  bool unrolled;
} Depth;

/* ---- decisions ------------------------------------------------------------------------------- */

/* So many rows of the body, from a multiple of them on, are neighbouring places of one line. */
static bool is_strip(const Depth *d, int n) {
  const Body *b = d->b;
  const int row = b->ndim - 2;
  if (row < 0 || b->in[0].stride[row] != 1 || b->dim[row] % n || d->c.w.size[d->last] % n)
    return false;
  for (int i = 0; i < row; i++)
    if (b->dim[i] > 1 && b->in[0].stride[i] % n)
      return false;
  return true;
}

/* Which elements of a spread image a strip meets is known beforehand. */
static bool is_known(const Depth *d, int strip) {
  return strip * d->step % d->up == 0;
}

static int strip_of(const Depth *d) {
  static const int lengths[] = {4, 7, 5, 6, 3, 2};
  for (int known = 1; known >= 0; known--)
    for (size_t i = 0; d->unrolled && i < sizeof lengths / sizeof *lengths; i++)
      if (is_strip(d, lengths[i]) && is_known(d, lengths[i]) >= known)
        return lengths[i];
  return 1;
}

/* Two channels at a time lie side by side in the image and among the weights. */
static bool in_pairs(const Depth *d) {
  bool even = d->c.channels % 2 == 0 && d->c.factor[1] == 1 && d->c.factor[0] % 2 == 0;
  for (int i = 0; i <= d->c.w.nd; i++)
    even = even && d->c.stride[i] % 2 == 0;
  return even;
}

/* ---- text ------------------------------------------------------------------------------------ */

static const char *storage(const Depth *d, int operand) {
  return cuda_storage(d->group->in[operand]->type->dt);
}

static const char *format(const Depth *d, int operand) {
  return dtype_text(d->group->in[operand]->type->dt);
}

/* Some place's window hangs over an end of the axis. */
static bool hangs_over(const Depth *d, int axis) {
  const ConvWindow *w = &d->c.w;
  const int64_t far = (w->kernel[axis] - 1) * w->dilation[axis], low = far < 0 ? far : 0;
  const int64_t most = (w->size[axis] - 1) * w->stride[axis] + (far > 0 ? far : 0);
  return low < w->padding[axis] || most - w->padding[axis] >= d->c.x[axis] * w->up[axis];
}

/* Whether operands and results lie where whole lines of a thread can be moved at once. */
static void put_alignments(const Depth *d) {
  Text *t = &d->g->out;
  for (int k = 0; k < d->b->nin; k++)
    text_printf(t, "const bool wide_i%d = multiple(i%d, %d);\n", k, k,
                (int)dtype_bytes(d->group->in[k]->type->dt) * d->width);
  for (int k = 0; k < d->b->nout; k++)
    text_printf(t, "const bool wide_o%d = multiple(o%d, %d);\n", k, k,
                (int)dtype_bytes(d->group->out[k]->type->dt) * d->width);
}

/* The thread's channels, its places, and where their windows begin. */
static void put_places(const Depth *d, int64_t threads) {
  const ConvWindow *w = &d->c.w;
  const Body *b = d->b;
  Text *t = &d->g->out;
  text_printf(t, "const u32 e = blockIdx.x * %du + threadIdx.x;\nif (e >= %lldu)\nreturn;\n",
              THREADS, (long long)threads);
  text_printf(t, "const u32 c0 = e %% %lldu * %d, row0 = e / %lldu * %d;\n", (long long)d->lines,
              d->width, (long long)d->lines, d->strip);
  text_puts(t, "s64 window;\n{\n");
  cuda_indices(b, 0, b->ndim - 1, "row0", t);
  text_puts(t, "window = ");
  cuda_offset(b, &b->in[0], 0, b->ndim - 1, t);
  text_puts(t, ";\n}\n");
  int64_t below = 1;
  for (int i = w->nd; i-- > 0; below *= w->size[i])
    text_printf(t, "const int first%d = (int)((u32)window / %lldu %% %lldu) * %lld - %lld;\n", i,
                (long long)below, (long long)w->size[i], (long long)w->stride[i],
                (long long)w->padding[i]);
  text_printf(t, "const %s *image = i0 + (s64)((u32)window / %lldu) * %lldll + c0;\n",
              storage(d, 0), (long long)below, (long long)d->c.stride[0]);
  text_printf(t, "%s acc[%d][%d] = {};\n", d->type, d->strip, d->width);
}

/* Ends the turn of a loop where place at<i> of an axis lies outside of the image, or between its
 * elements. */
static void put_inside(const Depth *d, int i, bool over) {
  const int64_t up = d->c.w.up[i];
  Text *t = &d->g->out;
  if (over)
    text_printf(t, "if ((u32)at%d >= %lldu)\ncontinue;\n", i, (long long)(d->c.x[i] * up));
  if (up > 1)
    text_printf(t, "if (at%d %% %lld)\ncontinue;\n", i, (long long)up);
}

/* "at<i>", as a number of the image's elements. */
static void put_at(const Depth *d, int i) {
  if (d->c.w.up[i] > 1)
    text_printf(&d->g->out, "(at%d / %lld)", i, (long long)d->c.w.up[i]);
  else
    text_printf(&d->g->out, "at%d", i);
}

/* Opens the loops over the taps of all axes but the last: `line` of the image, `tap` the number of
 * the line's first tap. */
static void put_lines(const Depth *d) {
  const ConvWindow *w = &d->c.w;
  Text *t = &d->g->out;
  for (int i = 0; i < d->last; i++) {
    text_printf(t, "#pragma unroll 1\nfor (int t%d = 0; t%d < %lld; t%d++) {\n", i, i,
                (long long)w->kernel[i], i);
    text_printf(t, "const int at%d = first%d + t%d * %lld;\n", i, i, i, (long long)w->dilation[i]);
    put_inside(d, i, hangs_over(d, i));
  }
  text_printf(t, "const %s *line = image", storage(d, 0));
  if (d->up == 1)
    text_printf(t, " + (s64)first%d * %lldll", d->last, (long long)d->c.stride[1 + d->last]);
  for (int i = 0; i < d->last; i++) {
    text_puts(t, " + (s64)");
    put_at(d, i);
    text_printf(t, " * %lldll", (long long)d->c.stride[1 + i]);
  }
  text_puts(t, ";\nconst int tap = 0");
  int64_t below = w->kernel[d->last];
  for (int i = d->last; i-- > 0; below *= w->kernel[i])
    text_printf(t, " + t%d * %lld", i, (long long)below);
  text_puts(t, ";\n");
}

/* "x", the elements at `from` of the last axis, or zero; meets: of a spread image it is one. */
static void put_element(const Depth *d, const char *from, bool over, bool meets) {
  const long long stride = d->c.stride[1 + d->last], up = d->up;
  Text *t = &d->g->out;
  text_printf(t, "%s x[%d] = {};\n", storage(d, 0), d->width);
  if (over)
    text_printf(t, "if ((u32)(first%d + (%s)) < %lldu)\n", d->last, from,
                (long long)d->c.x[d->last] * up);
  if (!meets)
    text_printf(t, "if ((first%d + (%s)) %% %lld == 0)\n", d->last, from, up);
  if (up > 1)
    text_printf(t, "get_line<%d>(x, line + (s64)((first%d + (%s)) / %lld) * %lldll, wide_i0);\n",
                d->width, d->last, from, up, stride);
  else
    text_printf(t, "get_line<%d>(x, line + (s64)(%s) * %lldll, wide_i0);\n", d->width, from,
                stride);
}

static void put_weights(const Depth *d, const char *name, const char *tap) {
  Text *t = &d->g->out;
  text_printf(t, "%s w%s[%d];\n", storage(d, 1), name, d->width);
  text_printf(t,
              "get_line<%d>(w%s, i1 + (s64)(tap + (%s)) * %lldll + (s64)c0 * %lldll, wide_i1);\n",
              d->width, name, tap, (long long)d->c.factor[0], (long long)d->c.factor[1]);
}

/* acc[sum] += x w<name> */
static void put_sum(const Depth *d, int sum, const char *name) {
  Text *t = &d->g->out;
  for (int k = 0; k < d->width; k++)
    text_printf(t, "acc[%d][%d] = fma_((%s)get_%s(x[%d]), (%s)get_%s(w%s[%d]), acc[%d][%d]);\n",
                sum, k, d->type, format(d, 0), k, d->type, format(d, 1), name, k, sum, k);
}

/* Reads what so many taps of a line meet in the window of the strip: element j is tap k of place r
 * when j = r step + k dist. In the order of the taps of each place; of_taps: sums are of taps and
 * factors of places, else the other way round. */
static void put_elements(const Depth *d, int taps, bool over, bool of_taps) {
  const int64_t far = (taps - 1) * d->dist, most = (d->strip - 1) * d->step;
  const int64_t low = far < 0 ? far : 0, high = most + (far > 0 ? far : 0);
  const bool known = is_known(d, d->strip);
  char name[24];
  for (int64_t n = 0; n <= high - low; n++) {
    const int64_t j = d->dist > 0 ? low + n : high - n;
    bool read = false;
    if (known && (j - d->c.w.padding[d->last]) % d->up)
      continue;
    for (int r = 0; r < d->strip; r++) {
      const int64_t rest = j - r * d->step, k = rest / d->dist;
      if (rest % d->dist || k < 0 || k >= taps)
        continue;
      if (!read) {
        snprintf(name, sizeof name, "%lld", (long long)j);
        text_puts(&d->g->out, "{\n");
        put_element(d, name, over, known);
      }
      read = true;
      snprintf(name, sizeof name, "%lld", of_taps ? (long long)r : (long long)k);
      put_sum(d, of_taps ? (int)k : r, name);
    }
    if (read)
      text_puts(&d->g->out, "}\n");
  }
}

static void put_unrolled(const Depth *d) {
  const int taps = (int)d->c.w.kernel[d->last];
  char name[24];
  for (int k = 0; k < taps; k++) {
    snprintf(name, sizeof name, "%d", k);
    put_weights(d, name, name);
  }
  put_elements(d, taps, hangs_over(d, d->last), false);
}

static void put_loop(const Depth *d) {
  char from[40];
  text_printf(&d->g->out, "#pragma unroll 1\nfor (int k = 0; k < %lld; k++) {\n",
              (long long)d->c.w.kernel[d->last]);
  snprintf(from, sizeof from, "k * %lld", (long long)d->dist);
  put_weights(d, "", "k");
  put_element(d, from, hangs_over(d, d->last), is_known(d, 1));
  put_sum(d, 0, "");
  text_puts(&d->g->out, "}\n");
}

/* ---- what follows the sums ------------------------------------------------------------------- */

static bool is_wide(const Depth *d, const Stmt *s) {
  const Body *b = d->b;
  return d->width > 1 && (s->prim == PR_LOAD || s->prim == PR_STORE) &&
         cuda_side_by_side(b, s->prim == PR_LOAD ? &b->in[s->ref] : &b->out[s->ref], d->width);
}

/* Moves of whole lines between s<i> and memory. */
static void put_moves(const Depth *d, Prim prim) {
  const Body *b = d->b;
  Text *t = &d->g->out;
  for (int i = 0; i < b->nstmt; i++) {
    const Stmt *s = &b->stmt[i];
    if (s->prim != prim || !is_wide(d, s))
      continue;
    const char side = prim == PR_LOAD ? 'i' : 'o';
    const DType dt = (prim == PR_LOAD ? d->group->in : d->group->out)[s->ref]->type->dt;
    if (prim == PR_LOAD)
      text_printf(t, "%s s%d[%d];\n", cuda_storage(dt), i, d->width);
    text_printf(t, "{\nconst u32 x%d = c0;\n%s<%d>(s%d, %c%d + (", b->ndim - 1,
                prim == PR_LOAD ? "get_line" : "put_line", d->width, i, side, s->ref);
    cuda_offset(b, prim == PR_LOAD ? &b->in[s->ref] : &b->out[s->ref], 0, b->ndim, t);
    text_printf(t, "), wide_%c%d);\n}\n", side, s->ref);
  }
}

static bool put_statements(const Depth *d) {
  const Body *b = d->b;
  const CudaBody text = {d->g, d->group, NULL};
  const int last = b->ndim - 1;
  Text *t = &d->g->out;
  text_printf(t, "#pragma unroll\nfor (int r = 0; r < %d; r++) {\nconst u32 row = row0 + r;\n",
              d->strip);
  cuda_indices(b, 0, last, "row", t);
  put_moves(d, PR_LOAD);
  for (int i = 0; i < b->nstmt; i++)
    if (b->stmt[i].prim == PR_STORE && is_wide(d, &b->stmt[i]))
      text_printf(t, "%s s%d[%d];\n",
                  cuda_storage(d->group->out[b->stmt[i].ref]->type->dt), i, d->width);
  text_printf(t, "#pragma unroll\nfor (int k = 0; k < %d; k++) {\nconst u32 x%d = c0 + k;\n",
              d->width, last);
  for (int i = 0; i < b->nstmt; i++) {
    const Stmt *s = &b->stmt[i];
    if (s->prim == PR_STORE && !is_wide(d, s)) {
      cuda_store(&text, i, 0, b->ndim, "", t);
      continue;
    }
    if (s->prim == PR_STORE) {
      text_printf(t, "s%d[k] = put_%s(v%d);\n", i, dtype_text(d->group->out[s->ref]->type->dt),
                  cuda_stored(&text, i));
      continue;
    }
    text_printf(t, "const %s v%d = ", cuda_register(s->dt), i);
    if (s->prim == PR_ACC)
      text_puts(t, "acc[r][k]");
    else if (is_wide(d, s))
      text_printf(t, "get_%s(s%d[k])", dtype_text(d->group->in[s->ref]->type->dt), i);
    else if (!cuda_expression(&text, i, t))
      return false;
    text_puts(t, ";\n");
  }
  text_puts(t, "}\n");
  put_moves(d, PR_STORE);
  text_puts(t, "}\n");
  return true;
}

/* ---- the gradient of weights ----------------------------------------------------------------- */

typedef struct {
  int lanes, taps;          /* of a block: neighbouring channels by width, taps of a line */
  int64_t blocks_c, groups; /* blocks for all channels; parts of a line of taps */
  int64_t lines, strips;    /* of places: in a part of the batch; strips in a line */
} Weights;

/* So few strips that the last of a line is nearly whole. */
static int strip_for(int64_t places) {
  const int64_t strips = (places + HELD - 1) / HELD;
  return (int)((places + strips - 1) / strips);
}

/* The block's channels, taps and part of the batch; the thread's channels, and the strip it begins
 * with. */
static void put_share(const Depth *d, const Weights *m) {
  const ConvWindow *w = &d->c.w;
  Text *t = &d->g->out;
  text_printf(t, "const u32 lane = threadIdx.x %% %du, turn = threadIdx.x / %du;\n", m->lanes,
              m->lanes);
  text_printf(t, "u32 share = blockIdx.x / %lldu;\n", (long long)m->blocks_c);
  text_printf(t, "const u32 block_c = blockIdx.x %% %lldu * %d, c0 = block_c + lane * %d;\n",
              (long long)m->blocks_c, m->lanes * d->width, d->width);
  text_printf(t, "const int tap0 = (int)(share %% %lldu) * %d;\nshare /= %lldu;\n",
              (long long)m->groups, m->taps, (long long)m->groups);
  for (int i = d->last; i-- > 0;)
    text_printf(t, "const int t%d = (int)(share %% %lldu);\nshare /= %lldu;\n", i,
                (long long)w->kernel[i], (long long)w->kernel[i]);
  text_printf(t, "%s acc[%d][%d] = {};\n", d->type, m->taps, d->width);
}

/* w<r>: the strip of dy. */
static void put_strip(const Depth *d, bool whole) {
  Text *t = &d->g->out;
  for (int r = 0; r < d->strip; r++) {
    text_printf(t, "%s w%d[%d] = {};\n", storage(d, 1), r, d->width);
    if (!whole)
      text_printf(t, "if (place + %d < %lldu)\n", r, (long long)d->c.w.size[d->last]);
    text_printf(t, "get_line<%d>(w%d, dy + %lldll, wide_i1);\n", d->width, r,
                (long long)(r * d->c.factor[0]));
  }
}

/* All strips of the thread. */
static void put_strips(const Depth *d, const Weights *m) {
  const ConvWindow *w = &d->c.w;
  const int64_t places = w->size[d->last];
  int64_t below = 1;
  Text *t = &d->g->out;
  text_printf(t, "#pragma unroll 1\nfor (u32 e = turn; c0 < %lldu && e < %lldu; e += %du) {\n",
              (long long)d->c.channels, (long long)(m->lines * m->strips), THREADS / m->lanes);
  text_printf(t, "const u32 line_ = share * %lldu + e / %lldu, place = e %% %lldu * %du;\n",
              (long long)m->lines, (long long)m->strips, (long long)m->strips, d->strip);
  for (int i = d->last; i-- > 0; below *= w->size[i]) {
    text_printf(t, "const int at%d = (int)(line_ / %lldu %% %lldu) * %lld + t%d * %lld - %lld;\n",
                i, (long long)below, (long long)w->size[i], (long long)w->stride[i], i,
                (long long)w->dilation[i], (long long)w->padding[i]);
    put_inside(d, i, hangs_over(d, i));
  }
  text_printf(t, "const int first%d = (int)place * %lld + tap0 * %lld - %lld;\n", d->last,
              (long long)d->step, (long long)d->dist, (long long)w->padding[d->last]);
  text_printf(t, "const %s *line = i0 + (s64)(line_ / %lldu) * %lldll + c0 + (s64)first%d * %lldll",
              storage(d, 0), (long long)below, (long long)d->c.stride[0], d->last,
              (long long)d->c.stride[1 + d->last]);
  for (int i = 0; i < d->last; i++)
    text_printf(t, " + (s64)at%d * %lldll", i, (long long)d->c.stride[1 + i]);
  text_printf(
      t, ";\nconst %s *dy = i1 + ((s64)line_ * %lldll + place) * %lldll + (s64)c0 * %lldll;\n",
      storage(d, 1), (long long)places, (long long)d->c.factor[0], (long long)d->c.factor[1]);
  const bool whole = places % d->strip == 0, all = w->kernel[d->last] % m->taps == 0;
  put_strip(d, whole);
  put_elements(d, m->taps, !whole || !all || hangs_over(d, d->last), true);
  text_puts(t, "}\n");
}

/* Adds the sums of the threads, each of whose statements follow. */
static bool put_together(const Depth *d, const Weights *m) {
  const Body *b = d->b;
  const CudaBody text = {d->g, d->group, NULL};
  const int turns = THREADS / m->lanes, sums = m->taps * m->lanes * d->width, last = b->ndim - 1;
  const int64_t taps = d->c.w.kernel[d->last];
  Text *t = &d->g->out;
  text_printf(t, "__shared__ %s sums[%d][%d];\n", d->type, turns, sums);
  text_printf(t, "#pragma unroll\nfor (int k = 0; k < %d; k++) {\n", m->taps * d->width);
  text_printf(t, "sums[turn][(k / %d * %d + lane) * %d + k %% %d] = acc[k / %d][k %% %d];\n}\n",
              d->width, m->lanes, d->width, d->width, d->width, d->width);
  text_printf(t, "__syncthreads();\nfor (u32 e = threadIdx.x; e < %du; e += %du) {\n", sums,
              THREADS);
  text_printf(t, "const u32 x%d = block_c + e %% %du, tap = tap0 + e / %du;\n", last,
              m->lanes * d->width, m->lanes * d->width);
  text_printf(t, "if (x%d >= %lldu || tap >= %lldu)\ncontinue;\n", last, (long long)d->c.channels,
              (long long)taps);
  text_printf(t,
              "%s sum = sums[0][e];\nfor (int k = 1; k < %d; k++)\nsum = add_(sum, "
              "sums[k][e]);\n",
              d->type, turns);
  text_puts(t, "const u32 row = ");
  for (int i = 0; i < d->last; i++)
    text_puts(t, "(");
  text_puts(t, "share");
  for (int i = 0; i < d->last; i++)
    text_printf(t, " * %lldu + t%d)", (long long)d->c.w.kernel[i], i);
  text_printf(t, " * %lldu + tap;\n", (long long)taps);
  cuda_indices(b, 0, last, "row", t);
  for (int i = 0; i < b->nstmt; i++) {
    const Stmt *s = &b->stmt[i];
    if (s->prim == PR_STORE) {
      cuda_store(&text, i, 0, b->ndim, "", t);
      continue;
    }
    text_printf(t, "const %s v%d = ", cuda_register(s->dt), i);
    if (s->prim == PR_ACC)
      text_puts(t, "sum");
    else if (!cuda_expression(&text, i, t))
      return false;
    text_puts(t, ";\n");
  }
  text_puts(t, "}\n");
  return true;
}

static bool depth_weights(Depth *d, const char *symbol) {
  const ConvWindow *w = &d->c.w;
  const int64_t taps = w->kernel[d->last];
  Weights m = {.lanes = LANES, .groups = (taps + HELD - 1) / HELD};
  int64_t outer = d->c.parts;
  while (m.lanes / 2 >= d->lines)
    m.lanes /= 2;
  m.taps = (int)((taps + m.groups - 1) / m.groups);
  m.blocks_c = (d->lines + m.lanes - 1) / m.lanes;
  m.lines = d->c.rows / d->c.parts / w->size[d->last];
  d->strip = strip_for(w->size[d->last]);
  m.strips = (w->size[d->last] + d->strip - 1) / d->strip;
  for (int i = 0; i < d->last; i++)
    outer *= w->kernel[i];
  d->g->blocks = m.blocks_c * m.groups * outer;
  cuda_head(d->g, d->group, symbol);
  put_alignments(d);
  put_share(d, &m);
  put_strips(d, &m);
  const bool ok = put_together(d, &m);
  text_puts(&d->g->out, "}\n");
  return ok;
}

bool cuda_depth(CudaGen *g, const Op *group, const char *symbol) {
  Depth d = {.g = g, .group = group, .b = group->body};
  if (!conv_group(group, &d.c) || d.b->ndim < 1)
    return cuda_fail(g, "a depthwise convolution without a window");
  const bool wide = group->in[0]->type->dt == MPCC_F64;
  const Attr *compute = op_attr(group, "compute");
  d.type = compute && compute->u.i == MPCC_F64 ? "double" : "float";
  d.last = d.c.w.nd - 1;
  d.step = d.c.w.stride[d.last];
  d.dist = d.c.w.dilation[d.last];
  d.up = d.c.w.up[d.last];
  for (int i = 0; i < d.c.w.nd; i++)
    if (d.c.wgrad && d.c.w.up[i] != 1)
      return cuda_unsupported(g, "gradients of weights over a spread image");
  d.unrolled = d.c.w.kernel[d.last] <= UNROLLED;
  d.strip = strip_of(&d);
  d.width = !wide && in_pairs(&d) ? 2 : 1;
  d.lines = d.c.channels / d.width;
  g->threads = THREADS;
  g->resident = CUDA_RESIDENT / THREADS;
  const int64_t threads = d.c.rows / d.strip * d.lines;
  if (threads >= INT32_MAX || d.c.rows >= INT32_MAX)
    return cuda_unsupported(g, "more than 2^31 places of a depthwise convolution");
  if (d.c.wgrad)
    return depth_weights(&d, symbol);
  g->blocks = (threads + THREADS - 1) / THREADS;
  cuda_head(g, group, symbol);
  put_alignments(&d);
  put_places(&d, threads);
  put_lines(&d);
  if (d.unrolled)
    put_unrolled(&d);
  else
    put_loop(&d);
  for (int i = 0; i < d.last; i++)
    text_puts(&g->out, "}\n");
  const bool ok = put_statements(&d);
  text_puts(&g->out, "}\n");
  return ok;
}
