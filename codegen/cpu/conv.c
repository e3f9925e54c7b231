/* Convolutions: products whose first operand is a matrix of patches that never lies in memory.
 *
 * A row of that matrix is what the window covers at one position: taps x channels. Mostly rows are
 * read where they lie in the image (conv_image.c). Else the part of the matrix that a tile needs
 * for one k block is copied into scratch here, run by run: neighbouring taps of the last axis with
 * their channels lie side by side in a channels-last image, so a run is one copy with zeros where
 * it hangs over the edge. Forward and input gradients multiply rows of the matrix (k runs over taps
 * and channels); weight gradients multiply its columns (k runs over positions), read from the same
 * scratch through other strides.
 *
 * Where the window spreads its input (up > 1: input gradients of strided convolutions, transposed
 * ones) most taps of a position read nothing. Positions of equal rest by `up` use the same taps,
 * and every tap belongs to one rest: the kernel is one convolution without `up` for each rest
 * ("phase"), whose rows and taps are every up-th one of the whole. */
#include "codegen/cpu/conv.h"

#include <stdlib.h>

Spot conv_spot(Conv *v, Val row) {
  Gen *g = v->p.g;
  const ConvWindow *w = &v->c.w;
  Spot s;
  for (int i = w->nd - 1; i >= 0; i--) {
    Val p = w->size[i] == 1 ? ll_n(g, 0) : ll_urem(g, row, w->size[i]);
    row = w->size[i] == 1 ? row : ll_udiv(g, row, w->size[i]);
    s.first[i] = ll_sub(g, ll_mul(g, p, ll_n(g, w->stride[i])), ll_n(g, w->padding[i]));
  }
  s.sample = ll_mul(g, row, ll_n(g, v->c.stride[0]));
  return s;
}

static Val smax(Gen *g, Val a, Val b) {
  return ll_sel(g, ll_icmp(g, LLVMIntSGT, a, b), a, b);
}

static Val smin(Gen *g, Val a, Val b) {
  return ll_sel(g, ll_icmp(g, LLVMIntSLT, a, b), a, b);
}

Val conv_element(Conv *v, Val base, Val at) {
  return ll_gep(v->p.g, ll_mem(v->p.g, v->p.c.in), base, at);
}

int conv_lanes(const Conv *v) {
  return v->p.c.vl * v->p.c.pair;
}

void conv_copy_vector(Conv *v, Val to, Val from, Val at, Val count) {
  Gen *g = v->p.g;
  Ty mem = ll_mem(g, v->p.c.in);
  Val x;
  if (!from) {
    x = LLVMConstNull(ll_vec(mem, conv_lanes(v)));
  } else {
    Val a = ll_gep(g, ll_mem(g, v->p.a_dtype), from, at);
    x = v->p.a_dtype == v->p.c.in
            ? ll_load(g, mem, conv_lanes(v), a, count)
            : micro_convert(g, &v->p.c, ll_get(g, v->p.a_dtype, conv_lanes(v), a, count));
  }
  ll_store(g, x, conv_element(v, to, at), count);
}

static void copy_elements(Conv *v, Val to, Val from, Val n) {
  Gen *g = v->p.g;
  Val whole = ll_and(g, n, ll_n(g, ~(int64_t)(conv_lanes(v) - 1)));
  Loop i = ll_loop(g, ll_n(g, 0), whole, conv_lanes(v));
  conv_copy_vector(v, to, from, i.i, NULL);
  ll_loop_end(g, &i);
  If tail = ll_if(g, ll_icmp(g, LLVMIntSLT, whole, n));
  conv_copy_vector(v, to, from, whole, ll_sub(g, n, whole));
  ll_endif(g, &tail);
}

/* Where run r starts in the input, in elements behind the operand's first, and which of its
 * elements [lo, hi) lie inside. */
typedef struct {
  Val at, lo, hi;
} Run;

static Run run_of(Conv *v, const Spot *s, Val r) {
  Gen *g = v->p.g;
  const ConvWindow *w = &v->c.w;
  Val at = s->sample, inside = NULL, lo = ll_n(g, 0), hi = ll_n(g, v->run);
  int last = w->nd - 1;
  if (v->merged) {
    int64_t c = v->c.channels;
    Val first = s->first[last];
    at = ll_add(g, at, ll_mul(g, first, ll_n(g, v->c.stride[1 + last])));
    lo = smax(g, lo, ll_mul(g, first, ll_n(g, -c)));
    hi = smin(g, hi, ll_mul(g, ll_sub(g, ll_n(g, v->c.x[last]), first), ll_n(g, c)));
    last--;
  }
  for (int i = last; i >= 0; i--) {
    Val k = w->kernel[i] == 1 ? ll_n(g, 0) : ll_urem(g, r, w->kernel[i]);
    r = w->kernel[i] == 1 ? r : ll_udiv(g, r, w->kernel[i]);
    Val place = ll_add(g, s->first[i], ll_mul(g, k, ll_n(g, w->dilation[i])));
    /* Negative places are huge without sign. */
    Val in = ll_icmp(g, LLVMIntULT, place, ll_n(g, v->c.x[i] * w->up[i]));
    if (w->up[i] > 1) {
      Val rest = ll_urem(g, place, w->up[i]);
      in = ll_and(g, in, ll_icmp(g, LLVMIntEQ, rest, ll_n(g, 0)));
      place = ll_udiv(g, place, w->up[i]);
    }
    inside = inside ? ll_and(g, inside, in) : in;
    at = ll_add(g, at, ll_mul(g, place, ll_n(g, v->c.stride[1 + i])));
  }
  if (inside)
    hi = ll_sel(g, inside, hi, ll_n(g, 0));
  return (Run){at, lo, hi};
}

/* Columns [from, to) of the matrix's row at s to `out`. */
static void gather_part(Conv *v, Val x, const Spot *s, Val from, Val to, Val out) {
  Gen *g = v->p.g;
  Val r0 = ll_udiv(g, from, v->run);
  Val r1 = ll_udiv(g, ll_add(g, to, ll_n(g, v->run - 1)), v->run);
  Loop r = ll_loop(g, r0, r1, 1);
  Run run = run_of(v, s, r.i);
  Val start = ll_mul(g, r.i, ll_n(g, v->run)); /* column of the run's first element */
  Val a = smax(g, ll_sub(g, from, start), ll_n(g, 0));
  Val b = smin(g, ll_sub(g, to, start), ll_n(g, v->run));
  Val lo = smax(g, a, run.lo), hi = smin(g, b, run.hi);
  Val dst = ll_sub(g, start, from);
  Val part = ll_or(g, ll_icmp(g, LLVMIntSGT, lo, a), ll_icmp(g, LLVMIntSLT, hi, b));
  If cut = ll_if(g, part);
  copy_elements(v, conv_element(v, out, ll_add(g, dst, a)), NULL, ll_sub(g, b, a));
  ll_endif(g, &cut);
  If any = ll_if(g, ll_icmp(g, LLVMIntSLT, lo, hi));
  Val source = ll_gep(g, ll_mem(g, v->p.a_dtype), x, ll_add(g, run.at, lo));
  copy_elements(v, conv_element(v, out, ll_add(g, dst, lo)), source, ll_sub(g, hi, lo));
  ll_endif(g, &any);
  ll_loop_end(g, &r);
}

/* A whole run, whose length is a constant. */
static void copy_run(Conv *v, Val to, Val from) {
  enum { UNROLLED = 12 };
  Gen *g = v->p.g;
  int64_t n = conv_lanes(v), whole = v->run / n * n;
  if (whole > UNROLLED * n) {
    Loop i = ll_loop(g, ll_n(g, 0), ll_n(g, whole), n);
    conv_copy_vector(v, to, from, i.i, NULL);
    ll_loop_end(g, &i);
  } else {
    for (int64_t i = 0; i < whole; i += n)
      conv_copy_vector(v, to, from, ll_n(g, i), NULL);
  }
  if (whole < v->run)
    conv_copy_vector(v, to, from, ll_n(g, whole), ll_n(g, v->run - whole));
}

/* Whether every tap of the window reads inside. */
static Val all_inside(Conv *v, const Spot *s) {
  Gen *g = v->p.g;
  const ConvWindow *w = &v->c.w;
  Val yes = LLVMConstInt(g->i1, 1, 0);
  for (int i = 0; i < w->nd; i++) {
    int64_t span = (w->kernel[i] - 1) * w->dilation[i];
    Val low = span < 0 ? ll_add(g, s->first[i], ll_n(g, span)) : s->first[i];
    int64_t room = v->c.x[i] - (span < 0 ? -span : span);
    if (room <= 0)
      return LLVMConstInt(g->i1, 0, 0);
    yes = ll_and(g, yes, ll_icmp(g, LLVMIntULT, low, ll_n(g, room)));
  }
  return yes;
}

/* Runs [r0, r1) of a window that lies inside. */
static void gather_inside(Conv *v, Val x, const Spot *s, Val r0, Val r1, Val out) {
  Gen *g = v->p.g;
  const ConvWindow *w = &v->c.w;
  int last = w->nd - 1;
  Val start = s->sample;
  for (int i = 0; i <= last; i++)
    start = ll_add(g, start, ll_mul(g, s->first[i], ll_n(g, v->c.stride[1 + i])));
  Loop r = ll_loop(g, r0, r1, 1);
  Val at = start, tap = r.i;
  for (int i = last - v->merged; i >= 0; i--) {
    Val k = i == 0 ? tap : ll_urem(g, tap, w->kernel[i]);
    tap = i == 0 ? tap : ll_udiv(g, tap, w->kernel[i]);
    at = ll_add(g, at, ll_mul(g, k, ll_n(g, w->dilation[i] * v->c.stride[1 + i])));
  }
  Val to = ll_mul(g, ll_sub(g, r.i, r0), ll_n(g, v->run));
  copy_run(v, conv_element(v, out, to), ll_gep(g, ll_mem(g, v->p.a_dtype), x, at));
  ll_loop_end(g, &r);
}

/* Runs [r0, r1) of the matrix's row `row` to `out`. Most windows of a large image lie inside. */
static void gather_runs(Conv *v, Val x, Val row, Val r0, Val r1, Val out) {
  Gen *g = v->p.g;
  Spot s = conv_spot(v, row);
  If in = ll_if(g, all_inside(v, &s));
  gather_inside(v, x, &s, r0, r1, out);
  ll_else(g, &in);
  gather_part(v, x, &s, ll_mul(g, r0, ll_n(g, v->run)), ll_mul(g, r1, ll_n(g, v->run)), out);
  ll_endif(g, &in);
}

/* The second half of the last unit, where pairs do not divide k. */
static void zero_last(Conv *v, Val to, Val count, Val out) {
  Gen *g = v->p.g;
  if (v->p.K % v->p.c.pair == 0)
    return;
  If last = ll_if(g, ll_icmp(g, LLVMIntEQ, to, ll_n(g, v->p.K)));
  Ty mem = ll_mem(g, v->p.c.in);
  ll_store(g, LLVMConstNull(mem), conv_element(v, out, count), NULL);
  ll_endif(g, &last);
}

static void bring_rows(Product *p, const Tile *t) {
  Conv *v = (Conv *)p;
  Gen *g = p->g;
  Val pair = ll_n(g, p->c.pair);
  Val from = ll_mul(g, t->k0, pair);
  Val to = ll_umin(g, ll_mul(g, ll_add(g, t->k0, t->kc), pair), ll_n(g, p->K));
  Loop m = ll_loop(g, t->row0, t->row1, 1);
  Val at = ll_mul(g, ll_sub(g, m.i, t->row0), ll_n(g, p->micro.rs));
  Val out = ll_gep(g, p->c.unit, g->scratch, at);
  Val row = product_row(p, &p->body->in[0], m.i);
  if (v->whole_runs) {
    gather_runs(v, t->a, row, ll_udiv(g, from, v->run), ll_udiv(g, to, v->run), out);
  } else {
    Spot s = conv_spot(v, row);
    gather_part(v, t->a, &s, from, to, out);
  }
  zero_last(v, to, ll_sub(g, to, from), out);
  ll_loop_end(g, &m);
}

static void bring_columns(Product *p, const Tile *t) {
  Conv *v = (Conv *)p;
  Gen *g = p->g;
  Loop k = ll_loop(g, ll_n(g, 0), t->kc, 1);
  Val out = ll_gep(g, p->c.unit, g->scratch, ll_mul(g, k.i, ll_n(g, p->micro.ks)));
  Val row = ll_add(g, t->k0, k.i);
  if (p->whole) {
    gather_runs(v, t->a, row, ll_n(g, 0), ll_n(g, p->M / v->run), out);
  } else {
    Spot s = conv_spot(v, row);
    gather_part(v, t->a, &s, t->row0, t->row1, out);
  }
  ll_loop_end(g, &k);
}

/* ---- phases ---------------------------------------------------------------------------------- */

static int64_t gcd(int64_t a, int64_t b) {
  return b == 0 ? a : gcd(b, a % b);
}

/* Whether the phases of w can be computed one by one: a tap's channels are one k block. */
static bool has_phases(const Conv *v) {
  enum { MOST_UNITS = 1024 };
  const ConvWindow *w = &v->c.w;
  int64_t phases = 1;
  for (int i = 0; i < w->nd; i++) {
    if (w->up[i] > 1 && w->stride[i] != 1)
      return false;
    phases *= w->up[i];
  }
  int pair = v->p.c.pair;
  return phases > 1 && phases <= CONV_PHASES && v->c.channels % pair == 0 &&
         v->c.channels / pair <= MOST_UNITS && !v->c.wgrad;
}

/* The window of phase `number` of v->whole, or false when it has no positions. */
static bool phase_window(Conv *v, int64_t number) {
  const ConvWindow *w = v->whole;
  v->c.w = *w;
  for (int i = w->nd - 1; i >= 0; i--) {
    int64_t up = w->up[i], rest = number % up, k = 0;
    number /= up;
    if (rest >= w->size[i])
      return false;
    int64_t step = up / gcd(up, w->dilation[i] < 0 ? -w->dilation[i] : w->dilation[i]);
    while (k < w->kernel[i] && (rest + k * w->dilation[i] - w->padding[i]) % up != 0)
      k++;
    v->rest[i] = rest;
    v->first[i] = k;
    v->step[i] = step;
    v->c.w.size[i] = ceil_div(w->size[i] - rest, up);
    v->c.w.kernel[i] = k < w->kernel[i] ? ceil_div(w->kernel[i] - k, step) : 0;
    v->c.w.padding[i] = -((rest + k * w->dilation[i] - w->padding[i]) / up);
    v->c.w.dilation[i] = step * w->dilation[i] / up;
    v->c.w.up[i] = 1;
  }
  return true;
}

static Val phase_row(Product *p, Val m) {
  Conv *v = (Conv *)p;
  Gen *g = p->g;
  const ConvWindow *w = &v->c.w;
  Val at = ll_n(g, 0);
  int64_t inner = 1;
  for (int i = w->nd - 1; i >= 0; i--) {
    Val q = ll_urem(g, m, w->size[i]);
    m = ll_udiv(g, m, w->size[i]);
    q = ll_add(g, ll_mul(g, q, ll_n(g, v->whole->up[i])), ll_n(g, v->rest[i]));
    at = ll_add(g, at, ll_mul(g, q, ll_n(g, inner)));
    inner *= v->whole->size[i];
  }
  return ll_add(g, at, ll_mul(g, m, ll_n(g, inner)));
}

static Val phase_tap(Product *p, Val kb) {
  Conv *v = (Conv *)p;
  Gen *g = p->g;
  Val at = ll_n(g, 0);
  int64_t ch = v->c.channels / p->c.pair, whole = 1, inner = 1;
  for (int i = v->whole->nd - 1; i >= 0; i--) {
    int64_t taps = v->c.w.kernel[i] ? v->c.w.kernel[i] : 1;
    Val j = ll_n(g, v->first[i]);
    inner *= taps;
    if (inner * ch > p->kblock) { /* else a block has all taps of this axis */
      j = ll_add(g, j, ll_mul(g, ll_urem(g, kb, taps), ll_n(g, v->step[i])));
      kb = ll_udiv(g, kb, taps);
    }
    at = ll_add(g, at, ll_mul(g, j, ll_n(g, whole)));
    whole *= v->whole->kernel[i];
  }
  return ll_mul(g, at, ll_n(g, ch));
}

static void plan_phase(Conv *v) {
  Product *p = &v->p;
  int64_t taps = conv_taps(&v->c.w);
  v->merged = false;
  v->run = v->c.channels;
  v->whole_runs = true;
  p->M = v->c.batch * conv_positions(&v->c.w);
  p->K = (taps ? taps : 1) * v->c.channels;
  p->zero = taps == 0;
  p->kblock = v->c.channels / p->c.pair;
  p->units = p->K / p->c.pair;
  p->kblocks = p->units / p->kblock;
  p->b_units = conv_taps(v->whole) * p->kblock;
  p->row_at = phase_row;
  p->row_step = v->whole->up[v->whole->nd - 1];
  p->b_at = phase_tap;
  p->mode = A_GATHER;
  if (!p->zero && conv_plan_image(v))
    p->mode = A_IMAGE;
  product_plan(p);
}

/* Zeros to the rows beside those of a panel: they are on their way while the panel is computed. */
static void zeros_beside(Product *p, Val panel) {
  Conv *v = (Conv *)p;
  Gen *g = p->g;
  int lanes = p->c.vl * p->c.unit_bytes / micro_result_bytes(&p->micro);
  Ty elem = micro_result(g, &p->micro);
  Val zero = LLVMConstNull(ll_vec(elem, lanes));
  Val end = split_start(g, &p->split, ll_add(g, panel, ll_n(g, 1)));
  Loop m = ll_loop(g, split_start(g, &p->split, panel), end, 1);
  Val row = ll_mul(g, phase_row(p, m.i), ll_n(g, p->direct_stride));
  Val to = ll_gep(g, elem, ll_gepc(g, elem, ll_arg_ptr(g, 0), p->body->out[0].offset), row);
  Loop n = ll_loop(g, ll_n(g, 0), ll_n(g, p->N), lanes);
  for (int i = 0; i < v->nbeside; i++)
    ll_store(g, zero, ll_gep(g, elem, to, ll_add(g, n.i, ll_n(g, v->beside[i] * p->direct_stride))),
             NULL);
  ll_loop_end(g, &n);
  ll_loop_end(g, &m);
}

/* Adds phase `other` to those beside v. False when it has taps, or other positions. */
static bool put_beside(Conv *v, const Conv *other) {
  int64_t rows = 0, inner = 1;
  if (!v->p.direct || v->p.zero || conv_taps(&other->c.w) || v->nbeside == CONV_PHASES)
    return false;
  for (int i = v->whole->nd - 1; i >= 0; i--) {
    if (v->c.w.size[i] != other->c.w.size[i])
      return false;
    rows += (other->rest[i] - v->rest[i]) * inner;
    inner *= v->whole->size[i];
  }
  v->beside[v->nbeside++] = rows;
  return true;
}

/* Zeros of the phases beside v: on the way of the micro-kernel when it has k enough and they fill
 * lines, else before it. */
static void plan_beside(Conv *v) {
  Product *p = &v->p;
  Micro *m = &p->micro;
  const Access *out = &p->body->out[0];
  bool lines =
      (out->offset | p->direct_stride | p->width) * micro_result_bytes(&p->micro) % 64 == 0;
  if (!lines || p->kblocks > 1 || !micro_has_way(m, (int64_t)m->group * v->nbeside)) {
    p->beside = zeros_beside;
    return;
  }
  for (int i = 0; i < m->group; i++)
    for (int k = 0; k < v->nbeside; k++)
      m->way.clear[m->way.nclear++] = i * m->cs + v->beside[k] * p->direct_stride;
}

/* The phases as products that follow each other; how many. */
static int plan_phases(const Conv *whole, Conv *phase) {
  int64_t phases = 1;
  int n = 0, first = 0;
  for (int i = 0; i < whole->c.w.nd; i++)
    phases *= whole->c.w.up[i];
  for (int64_t k = 0; k < phases; k++) {
    Conv *v = &phase[n];
    *v = *whole;
    v->whole = &whole->c.w;
    v->p.image = (ProductImage){0};
    if (!phase_window(v, k))
      continue;
    if (n && put_beside(&phase[first], v))
      continue;
    plan_phase(v);
    v->tiles = v->p.g->ntiles;
    v->scratch_bytes = v->p.g->scratch_bytes;
    first = phase[first].p.zero ? n : first;
    n++;
  }
  if (n && phase[first].nbeside)
    plan_beside(&phase[first]);
  return n;
}

/* One product after the other; tiles of a kernel are those of its phases in turn. */
static bool emit_phases(const Conv *whole, Val x) {
  Gen *g = whole->p.g;
  Val first = g->first, end = g->end;
  int64_t tiles = 0, scratch = 0;
  bool ok = true;
  Conv *phase = calloc(CONV_PHASES, sizeof *phase);
  if (!phase)
    return gen_fail(g, "out of memory");
  int n = plan_phases(whole, phase);
  for (int k = 0; k < n && ok; k++) {
    Product *p = &phase[k].p;
    Val zero = ll_n(g, 0), count = ll_n(g, phase[k].tiles), base = ll_n(g, tiles);
    g->first = smin(g, smax(g, ll_sub(g, first, base), zero), count);
    g->end = smin(g, smax(g, ll_sub(g, end, base), zero), count);
    ok = product_emit(p, x, p->mode == A_IMAGE ? conv_bring_image : bring_rows);
    if (p->micro.way.nclear)
      ll_written(g);
    tiles += phase[k].tiles;
    scratch = phase[k].scratch_bytes > scratch ? phase[k].scratch_bytes : scratch;
  }
  free(phase);
  g->first = first;
  g->end = end;
  g->ntiles = tiles;
  g->scratch_bytes = scratch;
  return ok;
}

/* k blocks of whole runs, about equally many each. */
static void plan_runs(Conv *v) {
  Product *p = &v->p;
  int64_t most = PRODUCT_K_BYTES / p->c.unit_bytes * p->c.pair;
  for (int i = 0; i < v->c.w.nd; i++)
    if (v->c.w.up[i] > 1)
      return;
  if (v->run > most && v->c.channels <= most) {
    v->merged = false;
    v->run = v->c.channels;
  }
  if (v->run > most)
    return;
  int64_t runs = p->K / v->run, blocks = ceil_div(runs, most / v->run);
  if (blocks > 1 && v->run % p->c.pair != 0)
    return;
  p->kblock = ceil_div(ceil_div(runs, blocks) * v->run, p->c.pair);
  p->kblocks = ceil_div(p->units, p->kblock);
  v->whole_runs = true;
}

/* Short k blocks, so that many rows of the gathered columns fit the cache at once: all of them
 * where channels are few, whose short runs would take longer to cut than to copy. */
static void plan_positions(Conv *v) {
  enum { POSITIONS = 256, FEW_ROWS = 168 };
  Product *p = &v->p;
  p->whole = p->M <= FEW_ROWS;
  for (int i = 0; i < v->c.w.nd; i++)
    p->whole &= v->c.w.up[i] == 1;
  p->kblocks = ceil_div(p->units, POSITIONS);
  p->kblock = p->kblocks == 1 ? p->units : round_up(ceil_div(p->units, p->kblocks), p->c.vl);
  p->kblocks = ceil_div(p->units, p->kblock);
}

/* Multiplies bf16 as f32, which changes nothing when factors are no wider in memory. */
static bool decode_factors(Product *p) {
  for (int k = 0; k < 2; k++) {
    DType dt = gen_in_dtype(p->group, k);
    if (dt != MPCC_BF16 && !dtype_is_fp8(dt))
      return gen_fail(p->g, "weight gradient that rounds factors of few channels");
  }
  return micro_compute(p->g, MPCC_F32, &p->c);
}

/* How a weight gradient reads: panels where many columns pay for copying each, or where the pixels
 * of an image in place are apart, or each would be in two pairs, and each is read once; else the
 * image, else what can be. Neither has pairs of few channels on lines of odd length: they are
 * decoded to f32. */
static ProductBring *plan_weights(Conv *v) {
  enum { MANY_COLUMNS = 256 };
  Product *p = &v->p;
  const ConvWindow *w = &v->c.w;
  int last = w->nd - 1;
  bool once = w->kernel[last] == 1 && (w->stride[last] > 1 || p->c.pair > 1);
  bool panels = p->N >= MANY_COLUMNS || once;
  p->units = ceil_div(p->K, p->c.pair);
  if ((panels || !conv_plan_columns(v)) && conv_plan_panels(v)) {
    p->mode = A_PANELS;
    return conv_bring_places;
  }
  if (p->image.bytes || conv_plan_columns(v)) {
    p->mode = A_IMAGE_COLUMNS;
    return conv_bring_image;
  }
  if (p->c.pair > 1)
    return decode_factors(p) ? plan_weights(v) : NULL;
  plan_positions(v);
  p->mode = A_GATHER_COLUMNS;
  return bring_columns;
}

/* One axis is two, the first of one place. */
static void two_axes(ConvGroup *c) {
  if (c->w.nd != 1)
    return;
  ConvWindow *w = &c->w;
  int64_t *each[] = {w->size, w->kernel, w->stride, w->padding, w->dilation, w->up, c->x};
  for (size_t i = 0; i < sizeof each / sizeof *each; i++) {
    each[i][1] = each[i][0];
    each[i][0] = each[i] == w->padding ? 0 : 1;
  }
  w->nd = 2;
  c->stride[2] = c->stride[1];
  c->stride[1] = c->x[1] * c->stride[2];
}

bool cpu_conv(Gen *g, const Op *group) {
  Conv v = {.p = {.g = g, .group = group, .body = group->body}};
  Product *p = &v.p;
  if (!conv_group(group, &v.c) || v.c.depth || p->body->ncol != 1)
    return gen_fail(g, "convolution without a window");
  if (!micro_compute(g, micro_dtype(group), &p->c))
    return false;
  two_axes(&v.c);
  const ConvWindow *w = &v.c.w;
  int last = w->nd - 1;
  v.merged = w->dilation[last] == 1 && w->up[last] == 1 && v.c.stride[1 + last] == v.c.channels;
  v.run = v.c.channels * (v.merged ? w->kernel[last] : 1);
  p->N = p->body->dim[p->body->ndim - 1];
  p->M = v.c.wgrad ? v.c.columns : v.c.rows;
  p->K = v.c.wgrad ? v.c.rows : v.c.columns;
  p->a_dtype = gen_in_dtype(group, 0);
  p->raw = v.c.wgrad;
  p->b_ks = v.c.factor[0];
  p->b_ns = v.c.factor[1];
  if (v.c.wgrad && p->M > 1 && product_row_stride(p, &p->body->in[0]) != 1)
    return gen_fail(g, "weight gradient of a convolution with rows out of order");
  Val x = ll_gepc(g, ll_mem(g, p->a_dtype), ll_arg_ptr(g, gen_in_slot(group, 0)),
                  p->body->in[0].offset);
  if (has_phases(&v))
    return emit_phases(&v, x);
  p->units = ceil_div(p->K, p->c.pair);
  ProductBring *bring = conv_bring_image;
  if (v.c.wgrad) {
    bring = plan_weights(&v);
    if (!bring)
      return false;
  } else if (conv_plan_image(&v)) {
    p->mode = A_IMAGE;
  } else {
    p->mode = A_GATHER;
    bring = conv_bring_windows;
    if (!conv_plan_windows(&v)) {
      plan_runs(&v);
      bring = bring_rows;
    }
  }
  product_plan(p);
  return product_emit(p, x, bring);
}
