/* Convolutions that multiply windows where they lie in the image.
 *
 * The micro-kernel goes through a window by loops of its own: along a run (neighbouring taps with
 * their channels), then from run to run and from line to line. Windows of neighbouring positions
 * are a constant distance apart within a line of positions, so its rows come in groups that share a
 * pointer (a group divides the line). Where windows hang over the edge, or elements need
 * converting, the lines that a tile reads are copied into scratch with zeros around them, each line
 * once instead of once per tap.
 *
 * Weight gradients go through the same image the other way: rows are (tap, channel), k runs over
 * the positions of a line, then over lines, then over samples. Panels of rows stay within a run.
 * Pairs in k are of neighbouring positions, which no image has beside each other: a unit of the
 * copy holds an element and that of the next position, so that the copy has twice the elements and
 * every other position is the beginning of a pair. */
#include "codegen/cpu/conv.h"

enum {
  K_UNITS = 1536,           /* k in one block, at most */
  MOST_GROUPS = 7,          /* pointers the micro-kernel has registers for */
  LEAST_ROWS = 14,          /* products of fewer are made otherwise */
  LEAST_RUN = 4,            /* rows of a run: fewer make low panels */
  POSITIONS = 512,          /* of a k block of weight gradients, at most */
  LEAST_POSITIONS = 192,    /* fewer: sums would be added to too often */
  COLUMN_BYTES = 384 << 10, /* image of such a block */
};

/* ---- the image ------------------------------------------------------------------------------- */

static int64_t absolute(int64_t v) {
  return v < 0 ? -v : v;
}

/* In units of so many elements, fewer than the product's only where the image is no operand. False
 * when it is no image of whole units with two axes. */
static bool make_image(Conv *v, int64_t unit) {
  const ConvWindow *w = &v->c.w;
  ConvImage *m = &v->image;
  int64_t pair = v->p.c.pair, tap[2];
  bool pairs = v->c.wgrad && pair > 1; /* of positions */
  if (w->nd != 2 || product_row_stride(&v->p, &v->p.body->in[0]) != 1 ||
      (pairs ? w->size[1] : v->c.channels) % unit)
    return false;
  *m = (ConvImage){
      .pairs = pairs, .unit = unit, .copied = pairs || unit < pair || v->p.a_dtype != v->p.c.in};
  for (int i = 0; i < 2; i++) {
    int64_t reach = (w->kernel[i] - 1) * w->dilation[i];
    if (w->up[i] != 1)
      return false;
    m->span[i] = absolute(reach) + 1;
    m->origin[i] = (reach < 0 ? reach : 0) - w->padding[i];
    tap[i] = reach < 0 ? -reach : 0;
    int64_t places = (w->size[i] - 1) * w->stride[i] + m->span[i];
    *(i ? &m->wide : &m->lines) = places;
    m->copied |= m->origin[i] < 0 || m->origin[i] + places > v->c.x[i];
    m->copied |= v->c.stride[1 + i] % unit != 0;
  }
  m->copied |= v->c.stride[0] % unit != 0;
  m->wide -= pairs ? w->stride[1] : 0; /* the last position begins no pair */
  m->pixel = pairs ? v->c.channels : (m->copied ? v->c.channels : v->c.stride[2]) / unit;
  m->line = m->copied ? m->wide * m->pixel : v->c.stride[1] / unit;
  m->sample = m->copied ? m->lines * m->line : v->c.stride[0] / unit;
  m->tap = tap[0] * m->line + tap[1] * m->pixel;
  return true;
}

/* Bytes of so many lines of positions that follow each other, from anywhere. */
static int64_t lines_bytes(const Conv *v, int64_t positions) {
  const ConvWindow *w = &v->c.w;
  const ConvImage *m = &v->image;
  if (!m->copied)
    return 0;
  int64_t all = v->c.batch * m->lines;
  int64_t edges = (positions + w->size[0] - 2) / w->size[0]; /* from sample to sample */
  int64_t more = m->span[0] > w->stride[0] ? m->span[0] - w->stride[0] : 0;
  int64_t lines = (positions - 1) * w->stride[0] + m->span[0] + edges * more;
  return (lines < all ? lines : all) * m->line * m->unit * (int64_t)dtype_bytes(v->p.c.in);
}

static int64_t image_bytes(const Product *p, int64_t rows) {
  const Conv *v = (const Conv *)p;
  int64_t size = v->c.w.size[1], most = v->c.batch * v->c.w.size[0];
  int64_t positions = (rows + size - 2) / size + 1;
  return lines_bytes(v, positions < most ? positions : most);
}

/* A line of the lines of all samples: where the window at position `row` begins. */
static Val line_of(Conv *v, Val row) {
  Gen *g = v->p.g;
  const ConvWindow *w = &v->c.w;
  Val line = ll_udiv(g, row, w->size[1]), n = ll_udiv(g, line, w->size[0]);
  Val y = ll_mul(g, ll_urem(g, line, w->size[0]), ll_n(g, w->stride[0]));
  return ll_add(g, ll_mul(g, n, ll_n(g, v->image.lines)), y);
}

/* n elements, a constant. */
static void copy(Conv *v, Val to, Val from, int64_t n) {
  enum { UNROLLED = 4 };
  Gen *g = v->p.g;
  int64_t one = conv_lanes(v), turn = UNROLLED * one, most = n / turn * turn;
  if (most) {
    /* Loops around this one are many: strength reduction would try them all for each address. */
    to = ll_opaque(g, to);
    from = from ? ll_opaque(g, from) : NULL;
    Loop l = ll_loop(g, ll_n(g, 0), ll_n(g, most), turn);
    for (int i = 0; i < UNROLLED; i++)
      conv_copy_vector(v, to, from, ll_add(g, l.i, ll_n(g, i * one)), NULL);
    ll_loop_end(g, &l);
  }
  for (int64_t i = most; i < n; i += one)
    conv_copy_vector(v, to, from, ll_n(g, i), n - i < one ? ll_n(g, n - i) : NULL);
}

/* Pixels [from, from + n) of the line at `line` in memory to `to`. */
static void copy_pixels(Conv *v, Val to, Val line, int64_t from, int64_t n) {
  Gen *g = v->p.g;
  int64_t ch = v->c.channels, step = v->c.stride[2];
  Ty mem = ll_mem(g, v->p.a_dtype);
  if (step == ch) {
    copy(v, to, ll_gepc(g, mem, line, from * step), n * ch);
    return;
  }
  Loop l = ll_loop(g, ll_n(g, 0), ll_n(g, n), 1);
  Val at = ll_mul(g, ll_add(g, l.i, ll_n(g, from)), ll_n(g, step));
  copy(v, conv_element(v, to, ll_mul(g, l.i, ll_n(g, ch))), ll_gep(g, mem, line, at), ch);
  ll_loop_end(g, &l);
}

/* A vector of pairs to `to`, both `at` on; first, second: NULL where these are zero. */
static void copy_pair(Conv *v, Val to, Val first, Val second, Val at, Val count) {
  Gen *g = v->p.g;
  const Compute *c = &v->p.c;
  Ty mem = ll_mem(g, v->p.a_dtype);
  Val half[2] = {first, second};
  for (int i = 0; i < 2; i++)
    half[i] = half[i]
                  ? micro_elements(g, c, v->p.a_dtype, c->vl, ll_gep(g, mem, half[i], at), count)
                  : LLVMConstNull(ll_vec(ll_mem(g, c->in), c->vl));
  ll_store(g, micro_interleave(g, c, half[0], half[1]), ll_gep(g, c->unit, to, at), count);
}

/* n pairs, a constant; pointers as above. */
static void copy_pairs(Conv *v, Val to, Val first, Val second, int64_t n) {
  enum { UNROLLED = 4 };
  Gen *g = v->p.g;
  int64_t one = v->p.c.vl, turn = UNROLLED * one, most = n / turn * turn;
  if (most) {
    to = ll_opaque(g, to);
    first = first ? ll_opaque(g, first) : NULL;
    second = second ? ll_opaque(g, second) : NULL;
    Loop l = ll_loop(g, ll_n(g, 0), ll_n(g, most), turn);
    for (int i = 0; i < UNROLLED; i++)
      copy_pair(v, to, first, second, ll_add(g, l.i, ll_n(g, i * one)), NULL);
    ll_loop_end(g, &l);
  }
  for (int64_t i = most; i < n; i += one)
    copy_pair(v, to, first, second, ll_n(g, i), n - i < one ? ll_n(g, n - i) : NULL);
}

/* Pixels [from, from + n) of the line at `line` in memory, each beside that of the next position,
 * to `to`; first, second: whether these lie inside of the image. */
static void pair_pixels(Conv *v, Val to, Val line, int64_t from, int64_t n, bool first,
                        bool second) {
  Gen *g = v->p.g;
  int64_t ch = v->c.channels, step = v->c.stride[2], next = v->c.w.stride[1];
  Ty mem = ll_mem(g, v->p.a_dtype);
  Val a = first ? ll_gepc(g, mem, line, from * step) : NULL;
  Val b = second ? ll_gepc(g, mem, line, (from + next) * step) : NULL;
  if (step == ch || n == 1) {
    copy_pairs(v, to, a, b, n * ch);
    return;
  }
  Loop l = ll_loop(g, ll_n(g, 0), ll_n(g, n), 1);
  Val at = ll_mul(g, l.i, ll_n(g, step));
  copy_pairs(v, ll_gep(g, v->p.c.unit, to, ll_mul(g, l.i, ll_n(g, ch))),
             a ? ll_gep(g, mem, a, at) : NULL, b ? ll_gep(g, mem, b, at) : NULL, ch);
  ll_loop_end(g, &l);
}

static bool in_line(const Conv *v, int64_t place) {
  return place >= 0 && place < v->c.x[1];
}

/* The line at `line` in memory as pairs, in parts that lie inside or outside alike. */
static void pair_line(Conv *v, Val line, Val to) {
  const ConvImage *m = &v->image;
  int64_t next = v->c.w.stride[1], first = m->origin[1];
  for (int64_t at = 0, end; at < m->wide; at = end) {
    bool a = in_line(v, first + at), b = in_line(v, first + at + next);
    for (end = at + 1; end < m->wide && in_line(v, first + end) == a; end++)
      if (in_line(v, first + end + next) != b)
        break;
    pair_pixels(v, ll_gepc(v->p.g, v->p.c.unit, to, at * m->pixel), line, first + at, end - at, a,
                b);
  }
}

/* The line at `line` in memory with the zeros around it. */
static void pad_line(Conv *v, Val line, Val to) {
  Gen *g = v->p.g;
  const ConvImage *m = &v->image;
  int64_t ch = v->c.channels, size = v->c.x[1], from = m->origin[1] < 0 ? 0 : m->origin[1];
  int64_t left = m->origin[1] < 0 ? -m->origin[1] : 0, end = m->origin[1] + m->wide;
  int64_t n = (end < size ? end : size) - from;
  left = left < m->wide ? left : m->wide;
  n = n < 0 ? 0 : n;
  copy(v, to, NULL, left * ch);
  if (n)
    copy_pixels(v, conv_element(v, to, ll_n(g, left * ch)), line, from, n);
  copy(v, conv_element(v, to, ll_n(g, (left + n) * ch)), NULL, (m->wide - left - n) * ch);
}

/* Line `line` of the lines of all samples to `to`. */
static void copy_line(Conv *v, Val x, Val line, Val to) {
  Gen *g = v->p.g;
  const ConvImage *m = &v->image;
  Val sample = ll_udiv(g, line, m->lines);
  Val y = ll_add(g, ll_urem(g, line, m->lines), ll_n(g, m->origin[0]));
  If inside = ll_if(g, ll_icmp(g, LLVMIntULT, y, ll_n(g, v->c.x[0]))); /* negative: huge */
  Val at =
      ll_add(g, ll_mul(g, sample, ll_n(g, v->c.stride[0])), ll_mul(g, y, ll_n(g, v->c.stride[1])));
  Val from = ll_gep(g, ll_mem(g, v->p.a_dtype), x, at);
  if (m->pairs)
    pair_line(v, from, to);
  else
    pad_line(v, from, to);
  ll_else(g, &inside);
  copy(v, to, NULL, m->line * m->unit);
  ll_endif(g, &inside);
}

/* Lines that positions [row0, row1] read. */
static void copy_lines(Conv *v, const Tile *t, Val row0, Val row1) {
  Gen *g = v->p.g;
  const ConvImage *m = &v->image;
  Val first = line_of(v, row0), end = ll_add(g, line_of(v, row1), ll_n(g, m->span[0]));
  Val image = ll_gepc(g, g->i8, g->scratch, v->p.source_offset);
  Loop l = ll_loop(g, first, end, 1);
  Val at = ll_mul(g, ll_sub(g, l.i, first), ll_n(g, m->line * m->unit));
  copy_line(v, t->a, l.i, conv_element(v, image, at));
  ll_loop_end(g, &l);
}

/* Offset in bytes of the window at position row, in the image whose first line is `first`. */
static Val window_offset(Conv *v, Val row, Val first) {
  Gen *g = v->p.g;
  const ConvWindow *w = &v->c.w;
  const ConvImage *m = &v->image;
  Val x = ll_mul(g, ll_urem(g, row, w->size[1]), ll_n(g, w->stride[1] * m->pixel)), at;
  if (m->copied) {
    at = ll_mul(g, ll_sub(g, line_of(v, row), first), ll_n(g, m->line));
  } else {
    Val line = ll_udiv(g, row, w->size[1]), n = ll_udiv(g, line, w->size[0]);
    Val y = ll_mul(g, ll_urem(g, line, w->size[0]), ll_n(g, w->stride[0] * m->line));
    at = ll_add(g, ll_mul(g, n, ll_n(g, m->sample)), y);
  }
  return ll_mul(g, ll_add(g, at, x), ll_n(g, v->p.c.unit_bytes));
}

/* The place that window offsets are relative to: of tap 0 of a window at offset 0. */
static Val image_base(Conv *v, const Tile *t) {
  Gen *g = v->p.g;
  const ConvImage *m = &v->image;
  if (m->copied)
    return ll_gepc(g, v->p.c.unit, g->scratch, m->tap);
  return ll_gepc(g, v->p.c.unit, t->a, m->origin[0] * m->line + m->origin[1] * m->pixel + m->tap);
}

/* ---- what the tile or k block after reads ---------------------------------------------------- */

/* Bytes from the first image to the first line that the window at position `row` reads and those
 * before it do not. */
static Val fresh_line(Conv *v, Val row) {
  Gen *g = v->p.g;
  const ConvWindow *w = &v->c.w;
  int64_t fresh = v->image.origin[0] + v->image.span[0] - w->stride[0];
  Val line = ll_udiv(g, row, w->size[1]), n = ll_udiv(g, line, w->size[0]);
  Val y = ll_mul(g, ll_urem(g, line, w->size[0]), ll_n(g, w->stride[0]));
  y = ll_add(g, y, ll_n(g, fresh > 0 ? fresh : 0));
  Val at = ll_mul(g, n, ll_n(g, v->c.stride[0]));
  at = ll_add(g, at, ll_mul(g, y, ll_n(g, v->c.stride[1])));
  return ll_mul(g, at, ll_n(g, (int64_t)dtype_bytes(v->p.a_dtype)));
}

/* The image that the tile after copies. */
static void later_tile(Product *p, const Tile *t) {
  Conv *v = (Conv *)p;
  Gen *g = p->g;
  Val end = ll_umin(g, ll_sub(g, ll_add(g, t->row1, t->row1), t->row0), ll_n(g, p->M));
  Val from = fresh_line(v, t->row1), to = fresh_line(v, end);
  product_later_begin(p, t);
  product_later(p, ll_gep(g, g->i8, t->a, from), ll_sub(g, to, from),
                ll_mul(g, product_calls(p, t), ll_n(g, p->kblocks)));
}

/* The image and the rows of B that the k block after reads, by shares of the calls as large as
 * theirs of the bytes. */
static void later_block(Product *p, const Tile *t) {
  Conv *v = (Conv *)p;
  Gen *g = p->g;
  Val k1 = ll_add(g, t->k0, t->kc), calls = product_calls(p, t), bytes, pair = ll_n(g, p->c.pair);
  Val k2 = ll_umin(g, ll_add(g, k1, ll_n(g, p->kblock)), ll_n(g, p->units));
  Val from = fresh_line(v, ll_mul(g, k1, pair));
  Val image = ll_sub(g, fresh_line(v, ll_mul(g, k2, pair)), from);
  Val b = product_raw_after(p, t, &bytes), all = ll_add(g, ll_add(g, image, bytes), ll_n(g, 1));
  Val share = LLVMBuildUDiv(g->b, ll_mul(g, calls, image), all, "");
  product_later_begin(p, t);
  product_later(p, ll_gep(g, g->i8, t->a, from), image, share);
  product_later(p, b, bytes, ll_sub(g, calls, share));
}

/* ---- forward and input gradients ------------------------------------------------------------- */

static Val image_at(Product *p, const Tile *t, Val panel) {
  (void)panel;
  Conv *v = (Conv *)p;
  Gen *g = p->g;
  const ConvWindow *w = &v->c.w;
  Val kb = ll_udiv(g, t->k0, p->kblock), at = ll_n(g, 0);
  int64_t taps = p->kblock * p->c.pair / v->c.channels, inner = 1; /* of a block */
  for (int i = 1; i >= 0 && taps < conv_taps(w); i--) {
    inner *= w->kernel[i];
    if (inner <= taps)
      continue; /* a block has all taps of this axis */
    Val k = i == 0 ? kb : ll_urem(g, kb, w->kernel[i]);
    kb = ll_udiv(g, kb, w->kernel[i]);
    int64_t step = w->dilation[i] * (i ? v->image.pixel : v->image.line);
    at = ll_add(g, at, ll_mul(g, k, ll_n(g, step)));
  }
  return ll_gep(g, p->c.unit, image_base(v, t), at);
}

/* The lines that this call fetches of every window of the panel after. */
static Next next_lines(Product *p, const Tile *t, Val panel, Val j, Val b) {
  (void)panel, (void)b;
  Gen *g = p->g;
  int64_t bytes = p->micro.way.nfetch / p->micro.group * 64;
  Val first = ll_mul(g, ll_sub(g, j, t->group0), ll_n(g, bytes));
  return (Next){ll_gep(g, g->i8, image_base((Conv *)p, t), first), NULL};
}

/* The windows of the panel after, which follow those of this one in memory. */
static Next next_windows(Product *p, const Tile *t, Val panel, Val j, Val b) {
  (void)j, (void)b;
  Conv *v = (Conv *)p;
  Gen *g = p->g;
  Val row = split_start(g, &p->split, ll_add(g, panel, ll_n(g, 1)));
  Val at = window_offset(v, ll_umin(g, row, ll_n(g, p->M - 1)), NULL);
  return (Next){ll_gep(g, g->i8, image_base(v, t), at), NULL};
}

/* Rows that share a pointer: of the groups that divide a line of positions the one that makes the
 * highest panels, and the fewest pointers. 0: none. */
static int best_group(const Conv *v) {
  const Product *p = &v->p;
  int most = micro_rows(p->g, p->N <= p->c.vl ? 1 : 2), best = 0, height = 0;
  for (int n = most; n >= 1; n--) {
    int rows = most / n * n;
    if (v->c.w.size[1] % n || most / n > MOST_GROUPS || rows <= height)
      continue;
    best = n;
    height = rows;
  }
  return height * 3 >= most * 2 ? best : 0;
}

bool conv_plan_image(Conv *v) {
  Product *p = &v->p;
  const ConvWindow *w = &v->c.w;
  if (!make_image(v, p->c.pair) || p->M < LEAST_ROWS || image_bytes(p, LEAST_ROWS) > COLUMN_BYTES)
    return false;
  const ConvImage *m = &v->image;
  int group = best_group(v);
  int64_t ch = v->c.channels / p->c.pair;
  bool merged = w->dilation[1] == 1 && m->pixel == ch && (!v->whole || v->step[1] == 1);
  Micro walk = {.rs = w->stride[1] * m->pixel, .ks = 1, .group = group};
  int64_t run = merged ? w->kernel[1] * ch : ch, k = run, turn = 0;
  int64_t a = run, b = run; /* units that the loops inside move on */
  if (!group || run > K_UNITS)
    return false;
  for (int i = merged ? 0 : 1; i >= 0; i--) {
    int64_t all = v->whole && i == 0 ? v->whole->kernel[1] : 1; /* taps between those of an axis */
    int64_t step_a = w->dilation[i] * (i ? m->pixel : m->line);
    int64_t step_b = v->whole ? v->step[i] * all * ch : k;
    if (k * w->kernel[i] > K_UNITS)
      break;
    if (w->kernel[i] > 1) {
      walk.loop[walk.nloop++] = (MicroLoop){w->kernel[i], step_a - a, (step_b - b) * p->c.cols};
      turn = k;
      a = w->kernel[i] * step_a;
      b = w->kernel[i] * step_b;
    }
    k *= w->kernel[i];
  }
  walk.run = run;
  p->kblock = k;
  p->kblocks = p->units / k;
  p->image = (ProductImage){.walk = walk, .turn = turn, .bytes = image_bytes, .at = image_at};
  /* Prefetchers of the processor do not follow a dozen short lines at once. */
  p->image.apart = walk.rs != ch;
  if (conv_taps(w) == 1 && !m->copied)
    p->image.next = p->image.apart ? next_lines : next_windows;
  p->comes_later = m->copied;
  return true;
}

/* ---- windows of odd channels ----------------------------------------------------------------- */

/* Pairs of these begin in one run and end in the next, so rows must be put together. Those of few
 * channels are some vectors, into which runs are loaded at their place: a row is stored once. */

enum { ROW_LOADS = 48 }; /* at most */

/* Runs that vector i of a row reads: [*first, result). */
static int64_t runs_of(const Conv *v, int64_t i, int64_t *first) {
  int64_t end = (i + 1) * conv_lanes(v), k = v->p.K;
  *first = i * conv_lanes(v) / v->run;
  return ceil_div(end < k ? end : k, v->run);
}

static int64_t row_vectors(const Conv *v) {
  return ceil_div(v->p.K, conv_lanes(v));
}

/* Elements from a window's lowest place to run r. */
static int64_t run_offset(const Conv *v, int64_t r) {
  const ConvWindow *w = &v->c.w;
  const ConvImage *m = &v->image;
  int64_t at = m->tap;
  if (!v->merged) {
    at += r % w->kernel[1] * w->dilation[1] * m->pixel;
    r /= w->kernel[1];
  }
  return at + r * w->dilation[0] * m->line;
}

static void put_row(Conv *v, Val window, Val to) {
  Gen *g = v->p.g;
  const int64_t lanes = conv_lanes(v);
  for (int64_t i = 0, r; i < row_vectors(v); i++) {
    Val x = LLVMConstNull(ll_vec(ll_mem(g, v->p.c.in), (int)lanes));
    for (int64_t end = runs_of(v, i, &r); r < end; r++) {
      int64_t from = r * v->run - i * lanes, after = from + v->run; /* lanes */
      Val at = ll_gepc(g, ll_mem(g, v->p.c.in), window, run_offset(v, r) - from);
      x = ll_load_into(g, x, at, (int)(from < 0 ? 0 : from), (int)(after < lanes ? after : lanes));
    }
    ll_store(g, x, conv_element(v, to, ll_n(g, i * lanes)), NULL);
  }
}

void conv_bring_windows(Product *p, const Tile *t) {
  Conv *v = (Conv *)p;
  Gen *g = p->g;
  const ConvImage *m = &v->image;
  int64_t size = v->c.w.size[1];
  Val last = ll_sub(g, t->row1, ll_n(g, 1)), first = line_of(v, t->row0);
  if (p->next == product_next_later)
    later_tile(p, t);
  copy_lines(v, t, t->row0, last);
  Val image = ll_gepc(g, g->i8, g->scratch, p->source_offset);
  Val line1 = ll_add(g, ll_udiv(g, last, size), ll_n(g, 1));
  Loop l = ll_loop(g, ll_udiv(g, t->row0, size), line1, 1);
  Val row = ll_mul(g, l.i, ll_n(g, size)); /* of the line's first position */
  Val below = ll_icmp(g, LLVMIntSLT, row, t->row0);
  Val x0 = ll_sel(g, below, ll_sub(g, t->row0, row), ll_n(g, 0));
  Val x1 = ll_umin(g, ll_sub(g, t->row1, row), ll_n(g, size));
  Val line = ll_mul(g, ll_sub(g, line_of(v, row), first), ll_n(g, m->line));
  Val to = ll_mul(g, ll_sub(g, row, t->row0), ll_n(g, p->micro.rs));
  Loop x = ll_loop(g, x0, x1, 1);
  Val window = ll_add(g, line, ll_mul(g, x.i, ll_n(g, v->c.w.stride[1] * m->pixel)));
  Val out = ll_add(g, to, ll_mul(g, x.i, ll_n(g, p->micro.rs)));
  put_row(v, conv_element(v, image, window), ll_gep(g, p->c.unit, g->scratch, out));
  ll_loop_end(g, &x);
  ll_loop_end(g, &l);
}

bool conv_plan_windows(Conv *v) {
  Product *p = &v->p;
  int64_t loads = 0, first;
  if (p->c.pair == 1 || !make_image(v, 1) || image_bytes(p, LEAST_ROWS) > COLUMN_BYTES)
    return false;
  for (int64_t i = 0; i < row_vectors(v) && loads <= ROW_LOADS; i++)
    loads += runs_of(v, i, &first) - first;
  if (loads > ROW_LOADS)
    return false;
  p->kblock = p->units;
  p->kblocks = 1;
  p->source_bytes = image_bytes;
  p->comes_later = true;
  return true;
}

/* ---- weight gradients ------------------------------------------------------------------------ */

static int64_t block_bytes(const Product *p, int64_t rows) {
  (void)rows;
  const Conv *v = (const Conv *)p;
  return lines_bytes(v, ceil_div(p->kblock * p->c.pair, v->c.w.size[1]));
}

static Val columns_at(Product *p, const Tile *t, Val panel) {
  Conv *v = (Conv *)p;
  Gen *g = p->g;
  const ConvWindow *w = &v->c.w;
  const ConvImage *m = &v->image;
  Val run = ll_udiv(g, panel, p->split.period);
  Val row = split_start(g, &p->split, ll_urem(g, panel, p->split.period));
  Val at = row, y = run;
  if (p->image.period == v->c.channels) {
    at =
        ll_add(g, at, ll_mul(g, ll_urem(g, run, w->kernel[1]), ll_n(g, w->dilation[1] * m->pixel)));
    y = ll_udiv(g, run, w->kernel[1]);
  }
  at = ll_add(g, at, ll_mul(g, y, ll_n(g, w->dilation[0] * m->line)));
  Val base = image_base(v, t);
  if (!m->copied)
    base = ll_gep(g, g->i8, base, window_offset(v, t->k0, NULL)); /* never of pairs */
  return ll_gep(g, p->c.unit, base, at);
}

/* k blocks of whole lines of one sample, or of whole samples. False: they would be too short. */
static bool plan_lines(Conv *v) {
  Product *p = &v->p;
  const ConvWindow *w = &v->c.w;
  int64_t run = w->size[1] / p->c.pair, per = w->size[0] * run, best = 0;
  for (int64_t n = 1; n <= w->size[0] * v->c.batch && n * w->size[1] <= POSITIONS; n++)
    if ((w->size[0] % n == 0 || n % w->size[0] == 0) && lines_bytes(v, n) <= COLUMN_BYTES)
      best = n;
  p->kblock = best * run;
  if (!best || (best * w->size[1] < LEAST_POSITIONS && p->kblock < p->units))
    return false;
  p->kblocks = ceil_div(p->units, p->kblock);
  const ConvImage *m = &v->image;
  Micro *walk = &p->image.walk;
  *walk = (Micro){.rs = 1, .ks = p->c.pair * w->stride[1] * m->pixel, .run = run};
  int64_t line = w->stride[0] * m->line;
  walk->loop[walk->nloop++] = (MicroLoop){w->size[0], line - run * walk->ks, 0};
  p->image.turn = run;
  if (p->kblock > per) {
    walk->loop[walk->nloop++] = (MicroLoop){v->c.batch, m->sample - w->size[0] * line, 0};
    p->image.turn = per;
  }
  return true;
}

bool conv_plan_columns(Conv *v) {
  Product *p = &v->p;
  const ConvWindow *w = &v->c.w;
  int64_t ch = v->c.channels;
  if (!make_image(v, p->c.pair) || p->M < LEAST_ROWS)
    return false;
  /* Rows of several taps have no one stride in a result that is made in place. */
  const Access *out = &p->body->out[0];
  bool apart = out->stride[product_row_dims(p)] == 1 && product_row_stride(p, out) < 0;
  bool merged = w->dilation[1] == 1 && v->image.pixel == ch && !apart;
  p->image.period = merged ? w->kernel[1] * ch : ch;
  if (p->image.period < LEAST_RUN || !plan_lines(v)) {
    p->image = (ProductImage){0};
    p->kblock = p->kblocks = 0;
    return false;
  }
  p->image.bytes = block_bytes;
  p->image.at = columns_at;
  p->comes_later = p->kblocks > 1;
  return true;
}

/* ---- both ------------------------------------------------------------------------------------ */

/* Where the windows of the tile's positions begin, and their results; a group lies in one line. */
static void row_offsets(Conv *v, const Tile *t) {
  Product *p = &v->p;
  Gen *g = p->g;
  int64_t group = p->image.walk.group;
  Val first = v->image.copied ? line_of(v, t->row0) : NULL;
  Val offsets = ll_gepc(g, g->i8, g->scratch, p->image.rows_offset);
  Val sums = ll_gepc(g, g->i8, g->scratch, p->image.sums_offset);
  /* And of the panel after the tile, which is only fetched. */
  Val end = p->micro.way.nfetch ? ll_add(g, t->row1, ll_n(g, p->split.hi - group)) : t->row1;
  Loop l = ll_loop(g, t->row0, end, group);
  Val i = ll_udiv(g, ll_sub(g, l.i, t->row0), group);
  Val row = p->micro.way.nfetch ? ll_umin(g, l.i, ll_n(g, p->M - group)) : l.i;
  ll_store(g, window_offset(v, row, first), ll_gep(g, g->i64, offsets, i), NULL);
  if (p->direct && p->row_at)
    ll_store(
        g, ll_mul(g, p->row_at(p, l.i), ll_n(g, p->direct_stride * micro_result_bytes(&p->micro))),
        ll_gep(g, g->i64, sums, i), NULL);
  ll_loop_end(g, &l);
}

void conv_bring_image(Product *p, const Tile *t) {
  Conv *v = (Conv *)p;
  Gen *g = p->g;
  Val one = ll_n(g, 1), pair = ll_n(g, p->c.pair);
  if (p->mode == A_IMAGE_COLUMNS) {
    if (p->next == product_next_later)
      later_block(p, t);
    if (v->image.copied)
      copy_lines(v, t, ll_mul(g, t->k0, pair),
                 ll_sub(g, ll_mul(g, ll_add(g, t->k0, t->kc), pair), one));
    return;
  }
  if (p->next == product_next_later)
    later_tile(p, t);
  If first = ll_if(g, ll_icmp(g, LLVMIntEQ, t->k0, ll_n(g, 0)));
  if (v->image.copied)
    copy_lines(v, t, t->row0, ll_sub(g, t->row1, one));
  row_offsets(v, t);
  ll_endif(g, &first);
}
