/* Joining nodes: a producer into its consumer, or two readers of one value.
 *
 * Two iteration spaces are made one by factoring both along the value that links them: dimensions
 * are sorted by their stride in that value and split until the factors agree. Dimensions that one
 * side does not have (a row statistic used along a row, a scalar used everywhere) become dimensions
 * with stride 0 there. What a reduction needs of columns must agree; pointwise nodes follow.
 *
 * Every merge removes a node, so the loops end. */
#include <stdlib.h>
#include <string.h>

#include "passes/fuse.h"

/* Kernels of more arguments or statements than this gain nothing. */
enum { MAX_ARGS = 28, MAX_STMTS = 320, SIBLING_DISTANCE = 24 };

static bool is_reduction(int prim) {
  return prim >= PR_RSUM && prim <= PR_AMIN;
}

typedef struct {
  int dim;
  int64_t ext, stride, mult;
} Factor;

/* One dimension of the common space: multiplier of dimension p of the producer, c of the consumer;
 * -1 where a side does not have it. */
typedef struct {
  int64_t ext;
  int p, c;
  int64_t pmult, cmult;
} Common;

enum { MAX_COMMON = 24 };

static int factors(const Node *n, const Access *at, bool zero, Factor *f) {
  int k = 0;
  for (int d = n->ndim - 1; d >= 0; d--)
    if ((at->stride[d] == 0) == zero)
      f[k++] = (Factor){d, n->dim[d], at->stride[d], 1};
  for (int i = 1; i < k && !zero; i++)
    for (int j = i; j > 0 && f[j].stride < f[j - 1].stride; j--) {
      Factor t = f[j];
      f[j] = f[j - 1];
      f[j - 1] = t;
    }
  return k;
}

static bool refine(Factor *a, int na, Factor *b, int nb, Common *out, int *n) {
  int i = 0, j = 0;
  while (i < na && j < nb && *n < MAX_COMMON) {
    Factor *x = &a[i], *y = &b[j];
    if (x->stride != y->stride)
      return false;
    int64_t g = x->ext < y->ext ? x->ext : y->ext;
    if (x->ext == DIM_PANELS || y->ext == DIM_PANELS) {
      if (x->ext != y->ext)
        return false;
      out[(*n)++] = (Common){g, x->dim, y->dim, x->mult, y->mult};
      i++, j++;
      continue;
    }
    if (g <= 0 || x->ext % g || y->ext % g)
      return false;
    out[(*n)++] = (Common){g, x->dim, y->dim, x->mult, y->mult};
    x->ext /= g, x->mult *= g, x->stride *= g;
    y->ext /= g, y->mult *= g, y->stride *= g;
    i += x->ext == 1;
    j += y->ext == 1;
  }
  return i == na && j == nb;
}

/* Common space of p and c when element addresses pat and cat are to be the same. */
static bool common_space(const Node *p, const Access *pat, const Node *c, const Access *cat,
                         Common *out, int *n) {
  Factor a[MAX_DIMS], b[MAX_DIMS];
  *n = 0;
  if (pat->offset != cat->offset)
    return false;
  int na = factors(p, pat, false, a), nb = factors(c, cat, false, b);
  if (!refine(a, na, b, nb, out, n))
    return false;
  na = factors(p, pat, true, a), nb = factors(c, cat, true, b);
  if (na && nb)
    return refine(a, na, b, nb, out, n);
  for (int i = 0; i < na && *n < MAX_COMMON; i++)
    out[(*n)++] = (Common){a[i].ext, a[i].dim, -1, 1, 0};
  for (int i = 0; i < nb && *n < MAX_COMMON; i++)
    out[(*n)++] = (Common){b[i].ext, -1, b[i].dim, 0, 1};
  return *n < MAX_COMMON;
}

static bool is_column(const Node *n, int d) {
  return d >= 0 && n->rigid && d >= n->ndim - n->ncol;
}

/* Puts the dimensions in the order of side (producer: true); those it lacks go last. */
static void sort_common(Common *r, int n, bool producer) {
  for (int i = 1; i < n; i++)
    for (int j = i; j > 0; j--) {
      int da = producer ? r[j - 1].p : r[j - 1].c, db = producer ? r[j].p : r[j].c;
      int64_t ma = producer ? r[j - 1].pmult : r[j - 1].cmult;
      int64_t mb = producer ? r[j].pmult : r[j].cmult;
      if (da < 0)
        da = MAX_DIMS;
      if (db < 0)
        db = MAX_DIMS;
      if (da < db || (da == db && ma >= mb))
        break;
      Common t = r[j];
      r[j] = r[j - 1];
      r[j - 1] = t;
    }
}

/* Rows come in the same order in both (needed where panels matter to both). */
static bool same_row_order(const Common *r, int nrow) {
  for (int i = 1; i < nrow; i++)
    if (r[i].p < r[i - 1].p || r[i].c < r[i - 1].c)
      return false;
  return true;
}

static Access remap(const Access *at, const Common *r, int n, bool producer) {
  Access out = {.offset = at->offset};
  for (int i = 0; i < n && i < MAX_DIMS; i++) {
    int d = producer ? r[i].p : r[i].c;
    out.stride[i] = d < 0 ? 0 : at->stride[d] * (producer ? r[i].pmult : r[i].cmult);
  }
  return out;
}

static bool heavy(const Node *n) {
  int work = 0;
  for (int s = 0; s < n->nstmt; s++) {
    int p = n->stmt[s].prim;
    if (p == PR_EXP || p == PR_LOG || p == PR_TANH || p == PR_ERF || p == PR_RAND || p == PR_COS ||
        p == PR_SIN)
      work += 8;
    else if (p != PR_CONST && p != PR_LOAD && p != PR_PARAM && p != PR_INDEX)
      work++;
  }
  return work > 8;
}

static bool used_elsewhere(const Node *p, const Node *c) {
  for (int r = 0; r < p->nout; r++) {
    const Buf *b = p->out[r].buf;
    if (b->written || b->nuser > 1 || (b->nuser == 1 && b->user[0] != c))
      return true;
  }
  return false;
}

/* Whether p and c may share the space r; sorts r and gives the number of columns. */
static bool agree(const Node *p, const Node *c, Common *r, int n, bool sibling, int *ncol) {
  bool p_lacks = false, c_lacks = false;
  for (int i = 0; i < n; i++) {
    p_lacks |= r[i].p < 0;
    c_lacks |= r[i].c < 0;
  }
  if (sibling && (p_lacks || c_lacks))
    return false;
  if (node_is_product(p) && (p_lacks || c_lacks || c->rigid))
    return false;
  if (p_lacks && (p->rigid || heavy(p) || used_elsewhere(p, c)))
    return false;
  for (int i = 0; i < p->nout && p_lacks; i++)
    if (p->out[i].part)
      return false;
  if (c_lacks && c->rigid)
    return false;
  /* What c sums over its own space counts once a row where that space is p's rows. */
  for (int i = 0; i < c->nout && c_lacks; i++)
    if (c->out[i].part && !(c->out[i].part == PART_ALL && p->rigid))
      return false;
  if (p->rigid && c->rigid)
    for (int i = 0; i < n; i++)
      if (is_column(p, r[i].p) != is_column(c, r[i].c))
        return false;
  if (p->fix && c->fix && p->fix != c->fix)
    return false;
  bool by_p = p->rigid && (!c->rigid || (p->fix && !c->fix));
  if (!p->rigid && !c->rigid)
    by_p = !p_lacks && p->ndim > c->ndim;
  sort_common(r, n, by_p);
  *ncol = 0;
  for (int i = 0; i < n; i++)
    *ncol += is_column(p, r[i].p) || is_column(c, r[i].c);
  return !(p->fix && c->fix) || same_row_order(r, n - *ncol);
}

typedef struct {
  Fuse *F;
  Node *m;  /* the merged node in the making */
  int *map; /* statements of the side being copied */
} Joiner;

static void copy_operands(Joiner *j, const Node *n, const Common *r, int nr, bool producer,
                          int *in) {
  for (int i = 0; i < n->nin; i++) {
    Access at = remap(&n->in[i].at, r, nr, producer);
    if (node_is_product(n) && i < 2) {
      Node *m = j->m;
      m->in = fuse_grow(j->F, m->in, m->nin, &m->cin, sizeof *m->in);
      if (j->F->status != MPCC_OK)
        return;
      m->in[m->nin] = (NodeIn){n->in[i].buf, at};
      in[i] = m->nin++;
    } else {
      in[i] = -1;
    }
  }
}

/* Copies the statements of n, which is p or c; loads of p's results become p's statements. */
static bool copy_stmts(Joiner *j, const Node *n, const Node *p, const int *pmap, const Common *r,
                       int nr, bool producer) {
  Fuse *F = j->F;
  Node *m = j->m;
  int *in = ARENA_ARRAY(F->a, int, n->nin + 1);
  if (arena_failed(F->a))
    return false;
  copy_operands(j, n, r, nr, producer, in);
  for (int s = 0; s < n->nstmt; s++) {
    Stmt st = n->stmt[s];
    for (int k = 0; k < STMT_ARGS; k++)
      if (st.arg[k] >= 0)
        st.arg[k] = j->map[st.arg[k]];
    if (st.prim == PR_LOAD) {
      const NodeIn *x = &n->in[st.ref];
      Access at = remap(&x->at, r, nr, producer);
      if (!producer && x->buf->def == p) {
        const NodeOut *o = &p->out[x->buf->out];
        Access stored = remap(&o->at, r, nr, true);
        if (o->part || !form_equal(&stored, &at, nr))
          return false;
        int v = pmap[o->stmt];
        DType dt = x->buf->type->dt;
        bool narrow = dtype_is_float(dt) && dt != MPCC_F32 && dt != MPCC_F64;
        bool code = narrow && dtype_bytes(dt) == 1; /* to quantize is to round: never left out */
        if (code || (narrow && (F->o->strict || x->buf->exact)))
          v = node_round(F, m, v, dt);
        j->map[s] = v;
        continue;
      }
      st.ref = in[st.ref] >= 0 ? in[st.ref] : (in[st.ref] = node_in(F, m, x->buf, &at));
    } else if (st.prim == PR_INDEX) {
      Access at = remap(&n->lin[st.ref], r, nr, producer);
      j->map[s] = node_lin(F, m, &at);
      continue;
    } else if (st.prim == PR_PARAM) {
      j->map[s] = node_param(F, m, n->param[st.ref]);
      continue;
    }
    j->map[s] = node_stmt(F, m, st);
  }
  return F->status == MPCC_OK;
}

static bool needed_beside(const Buf *b, const Node *c) {
  return b->written || b->nuser > 1 || (b->nuser == 1 && b->user[0] != c);
}

static void copy_results(Joiner *j, const Node *n, const Node *other, const Common *r, int nr,
                         bool producer, bool sibling) {
  Fuse *F = j->F;
  Node *m = j->m;
  for (int i = 0; i < n->nout; i++) {
    if (producer && !sibling && !needed_beside(n->out[i].buf, other))
      continue;
    NodeOut o = n->out[i];
    o.at = remap(&o.at, r, nr, producer);
    o.stmt = j->map[o.stmt];
    for (int k = 0; k < nr; k++)
      o.rows |= o.part == PART_ALL && (producer ? r[k].p : r[k].c) < 0;
    m->out = fuse_grow(F, m->out, m->nout, &m->cout, sizeof *m->out);
    if (F->status != MPCC_OK)
      return;
    m->out[m->nout++] = o;
  }
}

static bool has_part(const char *label, const char *part, size_t n) {
  for (; label; label = strchr(label, '+') ? strchr(label, '+') + 1 : NULL)
    if (!strncmp(label, part, n) && (label[n] == '+' || !label[n]))
      return true;
  return false;
}

/* Parts of both in order, each once; what would be too long is left out. */
static Str join_labels(Fuse *F, const Node *p, const Node *c) {
  enum { LONGEST = 60 };
  Str label = p->label;
  for (const char *at = c->label; *at;) {
    size_t n = strcspn(at, "+");
    if (!has_part(label, at, n) && strlen(label) + n < LONGEST)
      label = str_fmt(builder_strings(F->b), "%s+%.*s", label, (int)n, at);
    at += n + (at[n] == '+');
  }
  return label;
}

/* Longest common prefix of whole components; the first name when there is none. */
static Str join_layers(Fuse *F, Str p, Str c) {
  if (!p || !*p)
    return c;
  if (!c || !*c || p == c)
    return p;
  size_t n = 0, cut = 0;
  for (; p[n] && p[n] == c[n]; n++)
    if (p[n] == '.')
      cut = n;
  if ((!p[n] || p[n] == '.') && (!c[n] || c[n] == '.'))
    cut = n;
  return cut ? str_intern(builder_strings(F->b), p, cut) : p;
}

/* Makes c the union of both. Nothing has changed when it answers false. */
static bool join(Fuse *F, Node *p, Node *c, const Common *r, int nr, int ncol, bool sibling) {
  Node *m = ARENA_NEW(F->a, Node);
  int *pmap = ARENA_ARRAY(F->a, int, p->nstmt + 1), *cmap = ARENA_ARRAY(F->a, int, c->nstmt + 1);
  if (arena_failed(F->a))
    return false;
  *m = *c;
  m->nin = m->nout = m->nstmt = m->nlin = m->nparam = 0;
  m->cin = m->cout = m->cstmt = m->clin = m->cparam = 0;
  m->in = NULL, m->out = NULL, m->stmt = NULL, m->lin = NULL, m->param = NULL;
  m->kind = p->kind;
  m->ndim = nr;
  for (int i = 0; i < nr; i++)
    m->dim[i] = r[i].ext;
  m->rigid = p->rigid || c->rigid;
  m->ncol = m->rigid ? ncol : 0;
  m->fix = p->fix ? p->fix : c->fix;
  m->panels = p->panels ? p->panels : c->panels;
  if (node_is_product(p)) {
    m->kstride = p->kstride;
    m->nattr = p->nattr, m->cattr = p->cattr;
    m->attr = p->attr; /* p is gone then */
  }
  Joiner j = {F, m, pmap};
  if (!copy_stmts(&j, p, p, NULL, r, nr, true))
    return false;
  copy_results(&j, p, c, r, nr, true, sibling);
  j.map = cmap;
  if (!copy_stmts(&j, c, p, pmap, r, nr, false))
    return false;
  copy_results(&j, c, p, r, nr, false, sibling);
  if (F->status != MPCC_OK || m->nin + m->nout > MAX_ARGS || m->nstmt > MAX_STMTS)
    return false;
  node_simplify(F, m);
  if (node_is_product(m) && m->ncol != 1)
    return false;
  node_clean(F, m);
  /* The kernel goes by the product, by what has a place in the spec, by the larger part. */
  bool p_placed = p->op->loc.file, c_placed = c->op->loc.file;
  bool principal = node_is_product(p) || (p_placed != c_placed ? p_placed : p->nop >= c->nop);
  m->op = principal ? p->op : c->op;
  m->layer = principal ? join_layers(F, p->layer, c->layer) : join_layers(F, c->layer, p->layer);
  m->label = join_labels(F, p, c);
  for (int i = 0; i < p->nheld; i++) /* m has what c holds */
    node_hold(m, p->held[i]);
  m->nop = p->nop + c->nop;
  m->recompute = p->recompute && c->recompute;
  m->backward = p->backward || c->backward;
  m->region = c->region ? c->region : p->region;
  m->seq = c->seq > p->seq ? c->seq : p->seq;

  Node old_p = *p, old_c = *c;
  *c = *m;
  p->dead = true;
  for (int i = 0; i < c->nout; i++) {
    c->out[i].buf->def = c;
    c->out[i].buf->out = i;
  }
  for (int i = 0; i < old_p.nin; i++)
    graph_update_users(old_p.in[i].buf);
  for (int i = 0; i < old_c.nin; i++)
    graph_update_users(old_c.in[i].buf);
  for (int i = 0; i < c->nin; i++)
    graph_add_user(F, c->in[i].buf, c);
  F->lowest = graph_reorder(F, p, c);
  return true;
}

static bool mergeable(const Node *n) {
  return !n->dead && n->kind == NODE_ROWS;
}

/* Partial results of one node must stay apart from the node that combines them, and two counts of
 * panels can only be one when they are the same node's. */
static bool panels_fit(const Node *p, const Node *c) {
  if (p->panels && c->panels && p->panels->def != c->panels->def)
    return false;
  return !(p->panels && p->panels->def == c) && !(c->panels && c->panels->def == p);
}

static bool has_reduction(const Node *n) {
  for (int s = 0; s < n->nstmt; s++)
    if (is_reduction(n->stmt[s].prim))
      return true;
  return false;
}

/* Whether c would write neighbouring columns of convolution p apart, each to a line of memory of its own, and
 * so many that a copy takes less: it transposes blocks in registers. */
static bool scatters(const Node *p, const Node *c, const Common *r, int nr) {
  int64_t column = INT64_MAX, elems = 1;
  int last = 0;
  for (int i = 0; i < nr; i++) {
    elems *= r[i].ext;
    if (r[i].p == p->ndim - 1 && r[i].pmult < column) {
      column = r[i].pmult;
      last = i;
    }
  }
  bool apart = false;
  for (int k = 0; k < c->nout && r[last].c >= 0; k++)
    apart |= c->out[k].at.stride[r[last].c] * r[last].cmult > 1;
  return apart && elems > FUSE_SCATTERED;
}

/* p, the producer of operand k of c, into c. */
static bool merge_producer(Fuse *F, Node *p, Node *c, int k) {
  const Buf *b = c->in[k].buf;
  const NodeOut *o = &p->out[b->out];
  Common r[MAX_COMMON];
  int nr, ncol;
  /* What is to be computed again must not move to where its operand is made. */
  if (o->part || p == c || !panels_fit(p, c) || (c->recompute && !p->recompute))
    return false;
  if (node_is_product(p) && has_reduction(c))
    return false;
  if (!common_space(p, &o->at, c, &c->in[k].at, r, &nr) || nr > MAX_DIMS ||
      !agree(p, c, r, nr, false, &ncol))
    return false;
  if (F->o->caps->turned_apart && p->kind == NODE_CONV && scatters(p, c, r, nr))
    return false;
  if (graph_reaches(F, p, c, true))
    return false;
  return join(F, p, c, r, nr, ncol, false);
}

static bool one_element(const Node *n) {
  for (int d = 0; d < n->ndim; d++)
    if (n->dim[d] != 1)
      return false;
  return true;
}

/* More than loops over rows lie between p and c. */
static bool far_apart(const Fuse *F, const Node *p, const Node *c) {
  for (int i = p->pos + 1; i < c->pos; i++) {
    const Node *x = F->order[i];
    if (!x->dead && x->kind != NODE_ROWS && x->kind != NODE_PACK)
      return true;
  }
  return false;
}

/* p and c read b the same way and do not depend on each other. A scalar is no reason to share a
 * loop: all initialisers read the seed, and a kernel of dozens of them would grow with depth. */
static bool merge_siblings(Fuse *F, Node *p, Node *c, const Buf *b) {
  Common r[MAX_COMMON];
  int nr, ncol;
  if (p == c || !panels_fit(p, c))
    return false;
  /* Beside a forward node, what is computed again would live as long as what it saves. */
  if ((p->recompute || c->recompute) && p->backward != c->backward)
    return false;
  if (b->type->rank == 0 && !one_element(c))
    return false;
  if (p->pos > c->pos) {
    Node *t = p;
    p = c;
    c = t;
  }
  if (c->pos - p->pos > SIBLING_DISTANCE)
    return false;
  /* What is computed again may wait, but comes no earlier than it is needed. */
  if (c->recompute && far_apart(F, p, c))
    return false;
  for (int i = 0; i < p->nin; i++)
    for (int k = 0; p->in[i].buf == b && k < c->nin; k++)
      if (c->in[k].buf == b && common_space(p, &p->in[i].at, c, &c->in[k].at, r, &nr) &&
          nr <= MAX_DIMS && agree(p, c, r, nr, true, &ncol) && !graph_reaches(F, p, c, false))
        return join(F, p, c, r, nr, ncol, true);
  return false;
}

/* ---- all nodes ------------------------------------------------------------------------------- */

/* Tries to merge n with another node; true when the graph changed. */
typedef bool StepFn(Fuse *F, Node *n);

/* c joins p's result with that of a product behind p, and nothing is rounded in between. */
static bool waits_for_product(const Node *p, const Node *c) {
  bool waits = false;
  for (int k = 0; k < c->nin; k++) {
    const Node *q = c->in[k].buf->def;
    if (q && node_is_product(q) && dtype_bytes(c->in[k].buf->type->dt) < 4)
      return false;
    waits |= q && node_is_product(q) && q->pos > p->pos;
  }
  return waits;
}

static bool merge_product(Fuse *F, Node *p, bool last) {
  if (!node_is_product(p))
    return false;
  for (int r = 0; r < p->nout; r++)
    for (int u = 0; u < p->out[r].buf->nuser; u++) {
      Node *c = p->out[r].buf->user[u];
      if (!mergeable(c) || (last && waits_for_product(p, c)))
        continue;
      for (int k = 0; k < c->nin; k++)
        if (c->in[k].buf == p->out[r].buf && merge_producer(F, p, c, k))
          return true;
    }
  return false;
}

/* Of two products that are added, the one made last takes the sum: the other's factors need not
 * live until then. */
static bool step_last_product(Fuse *F, Node *p) {
  return merge_product(F, p, true);
}

static bool step_product(Fuse *F, Node *p) {
  return merge_product(F, p, false);
}

static bool step_rows(Fuse *F, Node *c) {
  for (int k = 0; mergeable(c) && k < c->nin; k++) {
    Node *p = c->in[k].buf->def;
    if (p && mergeable(p) && merge_producer(F, p, c, k))
      return true;
  }
  return false;
}

/* Nodes that combine partial results of one node, in the same space: one kernel. */
static bool merge_combines(Fuse *F, const Buf *x, const Buf *y) {
  Node *p = x->user[0], *c = y->user[0];
  if (p == c || !mergeable(p) || !mergeable(c) || !panels_fit(p, c) || p->ndim != c->ndim ||
      p->ncol != c->ncol || p->fix != c->fix ||
      memcmp(p->dim, c->dim, (size_t)p->ndim * sizeof *p->dim))
    return false;
  if (p->pos > c->pos) {
    Node *t = p;
    p = c;
    c = t;
  }
  Common r[MAX_DIMS];
  for (int d = 0; d < p->ndim; d++)
    r[d] = (Common){p->dim[d], d, d, 1, 1};
  return !graph_reaches(F, p, c, false) && join(F, p, c, r, p->ndim, p->ncol, true);
}

static bool step_combines(Fuse *F, Node *n) {
  for (int a = 0; a < n->nout; a++)
    for (int b = a + 1; n->out[a].part && n->out[a].buf->nuser == 1 && b < n->nout; b++) {
      const Buf *x = n->out[a].buf, *y = n->out[b].buf;
      if (n->out[b].part && y->nuser == 1 && merge_combines(F, x, y))
        return true;
    }
  return false;
}

static bool step_siblings(Fuse *F, Node *c) {
  for (int k = 0; mergeable(c) && k < c->nin; k++) {
    const Buf *b = c->in[k].buf;
    for (int u = 0; u < b->nuser; u++)
      if (mergeable(b->user[u]) && merge_siblings(F, b->user[u], c, b))
        return true;
  }
  return false;
}

/* One sweep over the order, going back to where each merge changed it; true if any did. */
static bool run_step(Fuse *F, StepFn *step) {
  bool any = false;
  for (int i = 0; i < F->norder && F->status == MPCC_OK;) {
    Node *n = F->order[i];
    if (!n->dead && step(F, n)) {
      any = true;
      i = F->lowest;
    } else {
      i++;
    }
  }
  return any;
}

void merge_all(Fuse *F) {
  F->order = ARENA_ARRAY(F->a, Node *, F->nnode + 1);
  F->heap = ARENA_ARRAY(F->a, Node *, F->nnode + 1);
  F->window = ARENA_ARRAY(F->a, Node *, F->nnode + 1);
  if (arena_failed(F->a)) {
    F->status = MPCC_ERR_NOMEM;
    return;
  }
  graph_users(F);
  graph_sweep(F);
  for (int i = 0; i < F->nnode; i++)
    if (!F->node[i]->dead)
      node_simplify(F, F->node[i]);
  graph_order(F);
  StepFn *const step[] = {step_last_product, step_product, step_rows, step_combines, step_siblings};
  for (size_t s = 0; s < sizeof step / sizeof *step; s++) {
    graph_close_ranks(F);
    while (F->status == MPCC_OK && run_step(F, step[s]))
      ;
  }
  graph_sweep(F);
}
