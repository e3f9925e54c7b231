/* Convolutions: products whose first operand is gathered, with no matrix of patches in memory.
 *
 * A row of that matrix is what the window covers at one position: taps x channels. The part of it
 * that a tile needs for one k block is copied into scratch, run by run: neighbouring taps of the
 * last axis with their channels lie side by side in a channels-last image, so a run is one copy
 * with zeros where it hangs over the edge. Forward and input gradients multiply rows of the matrix
 * (k runs over taps and channels); weight gradients multiply its columns (k runs over positions),
 * read from the same scratch through other strides. */
#include "codegen/cpu/product.h"

typedef struct {
  Product p; /* first: the emitter of products hands it back */
  ConvGroup c;
  bool merged; /* taps of the last axis lie side by side in the input */
  int64_t run; /* elements of a run */
} Conv;

/* Indices of the position, and the element of its sample. */
typedef struct {
  Val first[CONV_AXES]; /* place of tap 0 along each axis, times up */
  Val sample;
} Spot;

static Spot spot_of(Conv *v, Val row) {
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

static Val element(Conv *v, Val base, Val at) {
  return ll_gep(v->p.g, ll_mem(v->p.g, v->p.c.in), base, at);
}

static int lanes(const Conv *v) {
  return v->p.c.vl * v->p.c.pair;
}

/* n elements from `from` (storage dtype) to `to` (compute dtype); from NULL: zeros. */
static void copy_vector(Conv *v, Val to, Val from, Val at, Val count) {
  Gen *g = v->p.g;
  Ty mem = ll_mem(g, v->p.c.in);
  Val x;
  if (!from) {
    x = LLVMConstNull(ll_vec(mem, lanes(v)));
  } else {
    Val a = ll_gep(g, ll_mem(g, v->p.a_dtype), from, at);
    x = v->p.a_dtype == v->p.c.in
            ? ll_load(g, mem, lanes(v), a, count)
            : micro_convert(g, &v->p.c, ll_get(g, v->p.a_dtype, lanes(v), a, count));
  }
  ll_store(g, x, element(v, to, at), count);
}

static void copy_elements(Conv *v, Val to, Val from, Val n) {
  Gen *g = v->p.g;
  Val whole = ll_and(g, n, ll_n(g, ~(int64_t)(lanes(v) - 1)));
  Loop i = ll_loop(g, ll_n(g, 0), whole, lanes(v));
  copy_vector(v, to, from, i.i, NULL);
  ll_loop_end(g, &i);
  If tail = ll_if(g, ll_icmp(g, LLVMIntSLT, whole, n));
  copy_vector(v, to, from, whole, ll_sub(g, n, whole));
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

/* Columns [from, to) of the matrix's row `row` to `out`. */
static void gather_row(Conv *v, Val x, Val row, Val from, Val to, Val out) {
  Gen *g = v->p.g;
  Spot s = spot_of(v, row);
  Val r0 = ll_udiv(g, from, v->run);
  Val r1 = ll_udiv(g, ll_add(g, to, ll_n(g, v->run - 1)), v->run);
  Loop r = ll_loop(g, r0, r1, 1);
  Run run = run_of(v, &s, r.i);
  Val start = ll_mul(g, r.i, ll_n(g, v->run)); /* column of the run's first element */
  Val a = smax(g, ll_sub(g, from, start), ll_n(g, 0));
  Val b = smin(g, ll_sub(g, to, start), ll_n(g, v->run));
  Val lo = smax(g, a, run.lo), hi = smin(g, b, run.hi);
  Val dst = ll_sub(g, start, from);
  Val part = ll_or(g, ll_icmp(g, LLVMIntSGT, lo, a), ll_icmp(g, LLVMIntSLT, hi, b));
  If cut = ll_if(g, part);
  copy_elements(v, element(v, out, ll_add(g, dst, a)), NULL, ll_sub(g, b, a));
  ll_endif(g, &cut);
  If any = ll_if(g, ll_icmp(g, LLVMIntSLT, lo, hi));
  Val source = ll_gep(g, ll_mem(g, v->p.a_dtype), x, ll_add(g, run.at, lo));
  copy_elements(v, element(v, out, ll_add(g, dst, lo)), source, ll_sub(g, hi, lo));
  ll_endif(g, &any);
  ll_loop_end(g, &r);
}

/* The second half of the last unit, where pairs do not divide k. */
static void zero_last(Conv *v, Val to, Val count, Val out) {
  Gen *g = v->p.g;
  if (v->p.K % v->p.c.pair == 0)
    return;
  If last = ll_if(g, ll_icmp(g, LLVMIntEQ, to, ll_n(g, v->p.K)));
  Ty mem = ll_mem(g, v->p.c.in);
  ll_store(g, LLVMConstNull(mem), element(v, out, count), NULL);
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
  gather_row(v, t->a, product_row(p, &p->body->in[0], m.i), from, to, out);
  zero_last(v, to, ll_sub(g, to, from), out);
  ll_loop_end(g, &m);
}

static void bring_columns(Product *p, const Tile *t) {
  Conv *v = (Conv *)p;
  Gen *g = p->g;
  Loop k = ll_loop(g, ll_n(g, 0), t->kc, 1);
  Val out = ll_gep(g, p->c.unit, g->scratch, ll_mul(g, k.i, ll_n(g, p->micro.ks)));
  gather_row(v, t->a, ll_add(g, t->k0, k.i), t->row0, t->row1, out);
  ll_loop_end(g, &k);
}

bool cpu_conv(Gen *g, const Op *group) {
  Conv v = {.p = {.g = g, .group = group, .body = group->body}};
  Product *p = &v.p;
  if (!conv_group(group, &v.c) || p->body->ncol != 1)
    return gen_fail(g, "convolution without a window");
  if (!micro_compute(g, micro_dtype(group), &p->c))
    return false;
  const ConvWindow *w = &v.c.w;
  int last = w->nd - 1;
  v.merged = w->dilation[last] == 1 && w->up[last] == 1 && v.c.stride[1 + last] == v.c.channels;
  v.run = v.c.channels * (v.merged ? w->kernel[last] : 1);
  p->N = p->body->dim[p->body->ndim - 1];
  p->M = v.c.wgrad ? v.c.columns : v.c.rows;
  p->K = v.c.wgrad ? v.c.rows : v.c.columns;
  p->a_dtype = gen_in_dtype(group, 0);
  if (v.c.wgrad && (p->c.pair > 1 || product_row_stride(p, &p->body->in[0]) != 1))
    return gen_fail(g, "weight gradient of a convolution in pairs of k or rows out of order");
  p->units = ceil_div(p->K, p->c.pair);
  p->mode = v.c.wgrad ? A_GATHER_COLUMNS : A_GATHER;
  product_plan(p);
  Val x = ll_gepc(g, ll_mem(g, p->a_dtype), ll_arg_ptr(g, gen_in_slot(group, 0)),
                  p->body->in[0].offset);
  return product_emit(p, x, v.c.wgrad ? bring_columns : bring_rows);
}
