/* One node: fewer dimensions, fewer statements. What it computes stays the same. */
#include <stdlib.h>
#include <string.h>

#include "passes/fuse.h"

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
      if (before >= here)
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
  if (!node_has_body(n))
    return;
  int keep = node_is_product(n) ? 1 : 0;
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

bool form_equal(const Access *a, const Access *b, int ndim) {
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
  if (node_is_product(n))
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
  if (!node_has_body(n))
    return;
  int *value = ARENA_ARRAY(F->a, int, n->nstmt + 1);
  if (arena_failed(F->a))
    return;
  number_forms(n);
  number_values(n, value);
  drop_unused(F, n, value);
}
