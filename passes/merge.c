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
enum { MAX_ARGS = 28, MAX_STMTS = 320, SIBLING_DISTANCE = 48 };

/* ---- one node ------------------------------------------------------------------------------ */

static bool is_reduction(int prim) {
  return prim >= PR_RSUM && prim <= PR_AMIN;
}

/* Calls fn on every affine form of the node over its dims. */
typedef void FormFn(Access *at, void *user);
static void each_form(Node *n, FormFn *fn, void *user) {
  for (int i = 0; i < n->nin; i++)
    fn(&n->in[i].at, user);
  for (int i = 0; i < n->nout; i++)
    fn(&n->out[i].at, user);
  for (int i = 0; i < n->nlin; i++)
    fn(&n->lin[i], user);
}

typedef struct {
  int from, count;
} Shift;

static void form_drop(Access *at, void *user) {
  int d = *(int *)user;
  memmove(at->stride + d, at->stride + d + 1, (size_t)(MAX_DIMS - 1 - d) * sizeof *at->stride);
  at->stride[MAX_DIMS - 1] = 0;
}

static void drop_dim(Node *n, int d) {
  each_form(n, form_drop, &d);
  if (d >= n->ndim - n->ncol)
    n->ncol--;
  memmove(n->dim + d, n->dim + d + 1, (size_t)(n->ndim - 1 - d) * sizeof *n->dim);
  n->ndim--;
}

typedef struct {
  int d;
  int64_t inner;
  bool fits;
} Join;

static void form_joins(Access *at, void *user) {
  Join *j = user;
  if (at->stride[j->d] != at->stride[j->d + 1] * j->inner)
    j->fits = false;
}

static bool can_join(Node *n, int d) {
  if (n->dim[d] == DIM_PANELS || n->dim[d + 1] == DIM_PANELS)
    return false;
  bool columns = d >= n->ndim - n->ncol, columns_next = d + 1 >= n->ndim - n->ncol;
  if (n->rigid && columns != columns_next)
    return false;
  Join j = {d, n->dim[d + 1], true};
  each_form(n, form_joins, &j);
  return j.fits;
}

static void form_permute(Access *at, void *user) {
  const int *perm = user;
  Access old = *at;
  for (int i = 0; i < MAX_DIMS; i++)
    at->stride[i] = perm[i] < 0 ? 0 : old.stride[perm[i]];
}

/* Pointwise nodes walk memory as their first result lies (or first operand when all results are
 * partial): strides descend. */
static void order_dims(Node *n) {
  const Access *at = NULL;
  for (int i = n->nout - 1; i >= 0; i--)
    if (n->out[i].part == PART_NONE)
      at = &n->out[i].at;
  if (!at && n->nin)
    at = &n->in[0].at;
  if (!at)
    return;
  int perm[MAX_DIMS];
  for (int i = 0; i < MAX_DIMS; i++)
    perm[i] = i < n->ndim ? i : -1;
  for (int i = 1; i < n->ndim; i++)
    for (int j = i; j > 0; j--) {
      int64_t before = llabs(at->stride[perm[j - 1]]), here = llabs(at->stride[perm[j]]);
      if (before >= here || (before == 0 && here != 0 && 0))
        break;
      int t = perm[j];
      perm[j] = perm[j - 1];
      perm[j - 1] = t;
    }
  int64_t dim[MAX_DIMS];
  for (int i = 0; i < n->ndim; i++)
    dim[i] = n->dim[perm[i]];
  memcpy(n->dim, dim, (size_t)n->ndim * sizeof *dim);
  each_form(n, form_permute, perm);
}

void node_simplify(Fuse *F, Node *n) {
  (void)F;
  if (n->kind != NODE_ROWS && n->kind != NODE_PRODUCT)
    return;
  int keep = n->kind == NODE_PRODUCT ? 1 : 0;
  for (int d = n->ndim - 1 - keep; d >= 0; d--)
    if (n->dim[d] == 1)
      drop_dim(n, d);
  if (!n->rigid)
    order_dims(n);
  for (int d = n->ndim - 2; d >= 0; d--)
    if (can_join(n, d)) {
      n->dim[d + 1] *= n->dim[d];
      drop_dim(n, d);
      /* drop_dim took a column when both were columns: the joined one stays. */
    }
}

static bool stmt_equal(const Stmt *a, const Stmt *b) {
  return a->prim == b->prim && a->dt == b->dt && a->rd == b->rd && a->ref == b->ref &&
         !memcmp(a->arg, b->arg, sizeof a->arg) && !memcmp(&a->imm, &b->imm, sizeof a->imm);
}

static bool form_equal(const Access *a, const Access *b, int ndim) {
  return a->offset == b->offset && !memcmp(a->stride, b->stride, (size_t)ndim * sizeof *a->stride);
}

/* Equal affine forms get one number, so that equal statements over them compare equal. */
static void number_forms(Node *n) {
  for (int s = 0; s < n->nstmt; s++)
    if (n->stmt[s].prim == PR_INDEX)
      for (int i = 0; i < n->stmt[s].ref; i++)
        if (form_equal(&n->lin[i], &n->lin[n->stmt[s].ref], n->ndim)) {
          n->stmt[s].ref = i;
          break;
        }
}

static void number_values(Node *n, int *map) {
  for (int s = 0; s < n->nstmt; s++) {
    Stmt *st = &n->stmt[s];
    map[s] = s;
    for (int k = 0; k < STMT_ARGS; k++)
      if (st->arg[k] >= 0)
        st->arg[k] = map[st->arg[k]];
    for (int t = 0; t < s && st->prim != PR_PARAM; t++)
      if (map[t] == t && stmt_equal(&n->stmt[t], st)) {
        map[s] = t;
        break;
      }
  }
  for (int i = 0; i < n->nout; i++)
    n->out[i].stmt = map[n->out[i].stmt];
}

/* Renumbers what *ref points to in use order; -1 while unused. */
static int renumber(int *map, int *next, int ref) {
  if (map[ref] < 0)
    map[ref] = (*next)++;
  return map[ref];
}

static void drop_unused(Fuse *F, Node *n, const int *value) {
  int total = n->nstmt + n->nin + n->nlin + n->nparam + 4;
  int *space = ARENA_ARRAY(F->a, int, total);
  bool *live = ARENA_ARRAY(F->a, bool, n->nstmt + 1);
  if (arena_failed(F->a))
    return;
  for (int i = 0; i < total; i++)
    space[i] = -1;
  int *stmt = space, *in = stmt + n->nstmt, *lin = in + n->nin, *param = lin + n->nlin;
  for (int i = 0; i < n->nout; i++)
    live[n->out[i].stmt] = true;
  for (int s = n->nstmt - 1; s >= 0; s--)
    for (int k = 0; live[s] && k < STMT_ARGS; k++)
      if (n->stmt[s].arg[k] >= 0)
        live[n->stmt[s].arg[k]] = true;
  int nstmt = 0, nin = 0, nlin = 0, nparam = 0;
  if (n->kind == NODE_PRODUCT)
    for (; nin < 2; nin++)
      in[nin] = nin;
  NodeIn *new_in = ARENA_ARRAY(F->a, NodeIn, n->nin + 1);
  Access *new_lin = ARENA_ARRAY(F->a, Access, n->nlin + 1);
  int64_t *new_param = ARENA_ARRAY(F->a, int64_t, n->nparam + 1);
  if (arena_failed(F->a))
    return;
  for (int s = 0; s < n->nstmt; s++) {
    if (!live[s] || value[s] != s)
      continue;
    Stmt st = n->stmt[s];
    for (int k = 0; k < STMT_ARGS; k++)
      if (st.arg[k] >= 0)
        st.arg[k] = stmt[st.arg[k]];
    if (st.prim == PR_LOAD)
      st.ref = renumber(in, &nin, st.ref);
    else if (st.prim == PR_INDEX)
      st.ref = renumber(lin, &nlin, st.ref);
    else if (st.prim == PR_PARAM)
      st.ref = renumber(param, &nparam, st.ref);
    stmt[s] = nstmt;
    n->stmt[nstmt++] = st;
  }
  for (int i = 0; i < n->nout; i++)
    n->out[i].stmt = stmt[n->out[i].stmt];
  for (int i = 0; i < n->nin; i++)
    if (in[i] >= 0)
      new_in[in[i]] = n->in[i];
  for (int i = 0; i < n->nlin; i++)
    if (lin[i] >= 0)
      new_lin[lin[i]] = n->lin[i];
  for (int i = 0; i < n->nparam; i++)
    if (param[i] >= 0)
      new_param[param[i]] = n->param[i];
  n->cin = n->nin + 1, n->clin = n->nlin + 1, n->cparam = n->nparam + 1;
  n->in = new_in, n->lin = new_lin, n->param = new_param;
  n->nstmt = nstmt, n->nin = nin, n->nlin = nlin, n->nparam = nparam;
}

void node_clean(Fuse *F, Node *n) {
  if (n->kind != NODE_ROWS && n->kind != NODE_PRODUCT)
    return;
  int *value = ARENA_ARRAY(F->a, int, n->nstmt + 1);
  if (arena_failed(F->a))
    return;
  number_forms(n);
  number_values(n, value);
  drop_unused(F, n, value);
}

/* ---- the graph ----------------------------------------------------------------------------- */

static void add_user(Fuse *F, Buf *b, Node *n) {
  for (int i = 0; i < b->nuser; i++)
    if (b->user[i] == n)
      return;
  b->user = fuse_grow(F, b->user, b->nuser, &b->cuser, sizeof *b->user);
  if (F->status == MPCC_OK)
    b->user[b->nuser++] = n;
}

static bool loads(const Node *n, const Buf *b) {
  for (int i = 0; i < n->nin; i++)
    if (n->in[i].buf == b)
      return true;
  return false;
}

static void update_users(Buf *b) {
  int k = 0;
  for (int i = 0; i < b->nuser; i++)
    if (!b->user[i]->dead && loads(b->user[i], b))
      b->user[k++] = b->user[i];
  b->nuser = k;
}

void fuse_users(Fuse *F) {
  for (int i = 0; i < F->nbuf; i++)
    F->buf[i]->nuser = 0;
  for (int i = 0; i < F->nnode; i++)
    for (int k = 0; !F->node[i]->dead && k < F->node[i]->nin; k++)
      add_user(F, F->node[i]->in[k].buf, F->node[i]);
}

/* Nodes that nothing needs go, and results that nothing reads. */
static void sweep(Fuse *F) {
  for (int i = F->nnode - 1; i >= 0; i--) {
    Node *n = F->node[i];
    if (n->dead)
      continue;
    bool fixed = n->kind != NODE_ROWS && n->kind != NODE_PRODUCT, any = false;
    int k = 0;
    for (int r = 0; r < n->nout; r++)
      any |= n->out[r].buf->nuser > 0 || n->out[r].buf->written;
    for (int r = 0; r < n->nout; r++)
      if (any && (fixed || n->out[r].buf->nuser || n->out[r].buf->written)) {
        n->out[k] = n->out[r];
        n->out[k].buf->out = k;
        k++;
      }
    n->nout = k;
    n->dead = !any;
    if (!n->dead)
      node_clean(F, n);
    for (int r = 0; n->dead && r < n->nin; r++)
      update_users(n->in[r].buf);
  }
  fuse_users(F);
}

/* Binary heap of nodes by creation number. */
static void heap_push(Node **heap, int *n, Node *x) {
  int i = (*n)++;
  while (i && heap[(i - 1) / 2]->seq > x->seq) {
    heap[i] = heap[(i - 1) / 2];
    i = (i - 1) / 2;
  }
  heap[i] = x;
}

static Node *heap_pop(Node **heap, int *n) {
  Node *top = heap[0], *x = heap[--*n];
  int i = 0;
  for (int c = 1; c < *n; c = 2 * i + 1) {
    if (c + 1 < *n && heap[c + 1]->seq < heap[c]->seq)
      c++;
    if (heap[c]->seq >= x->seq)
      break;
    heap[i] = heap[c];
    i = c;
  }
  heap[i] = x;
  return top;
}

int fuse_order(Fuse *F, Node **order) {
  Node **heap = F->heap;
  int nheap = 0, n = 0;
  for (int i = 0; i < F->nnode; i++) {
    Node *x = F->node[i];
    x->mark = 0;
    if (x->dead)
      continue;
    for (int k = 0; k < x->nin; k++)
      x->mark += x->in[k].buf->def != NULL;
    if (!x->mark)
      heap_push(heap, &nheap, x);
  }
  while (nheap) {
    Node *x = heap_pop(heap, &nheap);
    x->pos = n;
    order[n++] = x;
    for (int r = 0; r < x->nout; r++) {
      const Buf *b = x->out[r].buf;
      for (int u = 0; u < b->nuser; u++) {
        Node *y = b->user[u];
        for (int k = 0; k < y->nin; k++)
          if (y->in[k].buf == b && !--y->mark)
            heap_push(heap, &nheap, y);
      }
    }
  }
  return n;
}

static void visit(Node *n, Node **order, int *k) {
  if (n->mark)
    return;
  n->mark = 1;
  for (int i = 0; i < n->nin; i++)
    if (n->in[i].buf->def)
      visit(n->in[i].buf->def, order, k);
  order[(*k)++] = n;
}

/* Runs just before its first use: packs, and what needs no other node. */
static bool is_lazy(const Node *n) {
  bool lazy = true;
  for (int r = 0; r < n->nout; r++)
    lazy &= !n->out[r].buf->written && n->out[r].buf->nuser > 0;
  for (int i = 0; i < n->nin && n->kind != NODE_PACK; i++)
    lazy &= !n->in[i].buf->def;
  return lazy;
}

int fuse_schedule(Fuse *F, Node **order) {
  Node **by_seq = F->heap;
  int n = 0, k = 0;
  for (int i = 0; i < F->nnode; i++) {
    F->node[i]->mark = 0;
    if (!F->node[i]->dead)
      heap_push(by_seq, &n, F->node[i]);
  }
  while (n) {
    Node *x = heap_pop(by_seq, &n);
    if (!is_lazy(x))
      visit(x, order, &k);
  }
  return k;
}

/* Is there a way from p to c through another node? Positions bound the search. */
static bool reaches(const Node *p, Node *c, bool direct, int stamp) {
  for (int k = 0; k < c->nin; k++) {
    Node *x = c->in[k].buf->def;
    if (!x || x->pos < p->pos || x->mark == stamp)
      continue;
    if (x == p) {
      if (!direct)
        return true;
      continue;
    }
    x->mark = stamp;
    if (reaches(p, x, false, stamp))
      return true;
  }
  return false;
}

/* ---- two nodes ----------------------------------------------------------------------------- */

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
  if (p->kind == NODE_PRODUCT && (p_lacks || c_lacks || c->rigid))
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
    if (n->kind == NODE_PRODUCT && i < 2) {
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
        bool narrow = dtype_is_float(dt) && dt != DT_F32 && dt != DT_F64;
        if (narrow && (F->o->strict || dtype_is_fp8(dt)))
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

static Str join_labels(Fuse *F, const Node *p, const Node *c) {
  if (!strcmp(p->label, c->label) || strlen(p->label) + strlen(c->label) > 60)
    return p->label;
  return str_fmt(builder_strings(F->b), "%s+%s", p->label, c->label);
}

/* Longest common prefix of whole components; p's name when there is none. */
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
  if (p->kind == NODE_PRODUCT) {
    m->kstride = p->kstride;
    m->nattr = p->nattr;
    memcpy(m->attr, p->attr, sizeof m->attr);
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
  if (m->kind == NODE_PRODUCT && m->ncol != 1)
    return false;
  node_clean(F, m);
  bool principal = p->kind == NODE_PRODUCT || p->nop >= c->nop;
  m->op = principal ? p->op : c->op;
  m->layer = join_layers(F, p->layer, c->layer);
  m->label = join_labels(F, p, c);
  m->nop = p->nop + c->nop;
  m->recompute = p->recompute && c->recompute;
  m->seq = c->seq > p->seq ? c->seq : p->seq;

  Node old_p = *p, old_c = *c;
  *c = *m;
  p->dead = true;
  for (int i = 0; i < c->nout; i++) {
    c->out[i].buf->def = c;
    c->out[i].buf->out = i;
  }
  for (int i = 0; i < old_p.nin; i++)
    update_users(old_p.in[i].buf);
  for (int i = 0; i < old_c.nin; i++)
    update_users(old_c.in[i].buf);
  for (int i = 0; i < c->nin; i++)
    add_user(F, c->in[i].buf, c);
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

/* p, the producer of operand k of c, into c. */
static bool merge_producer(Fuse *F, Node *p, Node *c, int k) {
  const Buf *b = c->in[k].buf;
  const NodeOut *o = &p->out[b->out];
  Common r[MAX_COMMON];
  int nr, ncol;
  if (o->part || p == c || !panels_fit(p, c))
    return false;
  if (p->kind == NODE_PRODUCT && has_reduction(c))
    return false;
  if (!common_space(p, &o->at, c, &c->in[k].at, r, &nr) || nr > MAX_DIMS ||
      !agree(p, c, r, nr, false, &ncol))
    return false;
  if (reaches(p, c, true, ++F->stamp))
    return false;
  return join(F, p, c, r, nr, ncol, false);
}

/* p and c read b the same way and do not depend on each other. */
static bool merge_siblings(Fuse *F, Node *p, Node *c, const Buf *b) {
  Common r[MAX_COMMON];
  int nr, ncol;
  if (p == c || !panels_fit(p, c) || p->recompute != c->recompute)
    return false;
  if (p->pos > c->pos) {
    Node *t = p;
    p = c;
    c = t;
  }
  if (c->pos - p->pos > SIBLING_DISTANCE)
    return false;
  for (int i = 0; i < p->nin; i++)
    for (int k = 0; p->in[i].buf == b && k < c->nin; k++)
      if (c->in[k].buf == b && common_space(p, &p->in[i].at, c, &c->in[k].at, r, &nr) &&
          nr <= MAX_DIMS && agree(p, c, r, nr, true, &ncol) && !reaches(p, c, false, ++F->stamp))
        return join(F, p, c, r, nr, ncol, true);
  return false;
}

static bool merge_into_products(Fuse *F, Node **order, int n) {
  for (int i = 0; i < n; i++) {
    Node *p = order[i];
    if (p->dead || p->kind != NODE_PRODUCT)
      continue;
    for (int r = 0; r < p->nout; r++)
      for (int u = 0; u < p->out[r].buf->nuser; u++) {
        Node *c = p->out[r].buf->user[u];
        for (int k = 0; mergeable(c) && k < c->nin; k++)
          if (c->in[k].buf == p->out[r].buf && merge_producer(F, p, c, k))
            return true;
      }
  }
  return false;
}

static bool merge_rows(Fuse *F, Node **order, int n) {
  for (int i = 0; i < n; i++) {
    Node *c = order[i];
    for (int k = 0; mergeable(c) && k < c->nin; k++) {
      Node *p = c->in[k].buf->def;
      if (p && mergeable(p) && merge_producer(F, p, c, k))
        return true;
    }
  }
  return false;
}

/* Nodes that combine partial results of one node, in the same space: one kernel. */
static bool merge_combines(Fuse *F, Node **order, int n) {
  for (int i = 0; i < n; i++)
    for (int a = 0; a < order[i]->nout; a++)
      for (int b = a + 1; b < order[i]->nout; b++) {
        const Buf *x = order[i]->out[a].buf, *y = order[i]->out[b].buf;
        if (!order[i]->out[a].part || !order[i]->out[b].part || x->nuser != 1 || y->nuser != 1)
          continue;
        Node *p = x->user[0], *c = y->user[0];
        if (p == c || !mergeable(p) || !mergeable(c) || !panels_fit(p, c) || p->ndim != c->ndim ||
            p->ncol != c->ncol || p->fix != c->fix ||
            memcmp(p->dim, c->dim, (size_t)p->ndim * sizeof *p->dim))
          continue;
        if (p->pos > c->pos) {
          Node *t = p;
          p = c;
          c = t;
        }
        Common r[MAX_DIMS];
        for (int d = 0; d < p->ndim; d++)
          r[d] = (Common){p->dim[d], d, d, 1, 1};
        if (!reaches(p, c, false, ++F->stamp) && join(F, p, c, r, p->ndim, p->ncol, true))
          return true;
      }
  return false;
}

static bool merge_all_siblings(Fuse *F, Node **order, int n) {
  for (int i = 0; i < n; i++) {
    Node *c = order[i];
    for (int k = 0; mergeable(c) && k < c->nin; k++) {
      const Buf *b = c->in[k].buf;
      for (int u = 0; u < b->nuser; u++)
        if (mergeable(b->user[u]) && merge_siblings(F, b->user[u], c, b))
          return true;
    }
  }
  return false;
}

void merge_all(Fuse *F) {
  Node **order = ARENA_ARRAY(F->a, Node *, F->nnode + 1);
  F->heap = ARENA_ARRAY(F->a, Node *, F->nnode + 1);
  if (arena_failed(F->a)) {
    F->status = MPCC_ERR_NOMEM;
    return;
  }
  fuse_users(F);
  sweep(F);
  for (int i = 0; i < F->nnode; i++)
    if (!F->node[i]->dead)
      node_simplify(F, F->node[i]);
  bool (*const step[])(Fuse *, Node **, int) = {merge_into_products, merge_rows, merge_combines,
                                                merge_all_siblings};
  for (int s = 0; s < 4 && F->status == MPCC_OK;) {
    int n = fuse_order(F, order);
    F->stamp = INT32_MAX / 2;
    if (!step[s](F, order, n))
      s++;
  }
  sweep(F);
}
