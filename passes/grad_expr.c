/* One gradient for all elementwise ops, those of scalar.def and bodies of `expr`: the derivative of
 * the body by each operand, times dy, as expressions again. */
#include "passes/grad.h"

enum { MAX_ARGS = 16, MAX_NAMES = MAX_ARGS + 2 }; /* operands, then upstream, then the result */
static const char *const letters[MAX_NAMES] = {"a", "b", "c", "d", "e", "f", "g", "h", "i",
                                               "j", "k", "l", "m", "n", "o", "p", "q", "r"};

/* Derivative with respect to operand i as a body over (operands..., upstream, result). */
static Scalar *derivative(Grad *g, const Op *op, int i, bool *times) {
  const char *given = op_info(op->code)->deriv;
  *times = !given;
  if (!given)
    return scalar_diff(g->scratch, op->scalar, i);
  const char *text = given;
  for (int k = 0; k < i && text; k++) {
    text = strchr(text, ';');
    text = text ? text + 1 : NULL;
  }
  if (!text)
    return NULL;
  size_t len = strcspn(text, ";");
  char *part = ARENA_ARRAY(g->scratch, char, len + 1);
  const char *names[MAX_NAMES];
  if (arena_failed(g->scratch))
    return NULL;
  memcpy(part, text, len);
  for (int k = 0; k < op->nin; k++)
    names[k] = letters[k];
  names[op->nin] = "g";
  names[op->nin + 1] = "y";
  Scalar *s = NULL;
  scalar_parse(g->scratch, g->diag, op->loc, part, names, op->nin + 2, &s);
  return s;
}

/* used[r]: argument r is read by what the result needs. */
static void used_args(Grad *g, const Scalar *s, bool used[MAX_NAMES]) {
  bool *live = ARENA_ARRAY(g->scratch, bool, s->nstmt + 1);
  if (arena_failed(g->scratch))
    return;
  live[s->result] = true;
  for (int i = s->nstmt - 1; i >= 0; i--) {
    if (!live[i])
      continue;
    const Stmt *st = &s->stmt[i];
    if (st->prim == PR_ARG)
      used[st->ref] = true;
    for (int k = 0; k < prim_args((Prim)st->prim); k++)
      if (st->arg[k] >= 0)
        live[st->arg[k]] = true;
  }
}

/* upstream * body, upstream being one more argument */
static Scalar *times_upstream(Grad *g, const Scalar *s, int upstream) {
  Scalar *r = ARENA_NEW(g->scratch, Scalar);
  Stmt *stmt = ARENA_ARRAY(g->scratch, Stmt, s->nstmt + 2);
  if (arena_failed(g->scratch))
    return NULL;
  memcpy(stmt, s->stmt, (size_t)s->nstmt * sizeof *stmt);
  const Stmt base = {.level = LV_ELEM, .dt = MPCC_F32, .arg = {-1, -1, -1, -1}, .ref = -1};
  Stmt *arg = &stmt[s->nstmt], *mul = arg + 1;
  *arg = *mul = base;
  arg->prim = PR_ARG;
  arg->ref = upstream;
  mul->prim = PR_MUL;
  mul->arg[0] = s->nstmt;
  mul->arg[1] = s->result;
  *r = (Scalar){s->nstmt + 2, upstream + 1, s->nstmt + 1, stmt};
  return r;
}

/* The body over (operands..., upstream, result) as an expr over only those that it reads, so that
 * no other value is kept alive until the backward pass. */
static Value *chain(Grad *g, const Op *op, const Scalar *s, Value *dy, DType dt) {
  bool used[MAX_NAMES] = {0};
  const char *names[MAX_NAMES] = {0};
  Value *in[MAX_NAMES];
  int n = 0;
  used_args(g, s, used);
  for (int i = 0; i < op->nin + 2; i++) {
    names[i] = letters[n];
    if (used[i])
      in[n++] = i < op->nin ? grad_forward(g, op, i) : i == op->nin ? dy : grad_result(g, op, 0);
  }
  Text t = {0};
  scalar_print(s, names, &t);
  Value *v = t.failed ? dy : build_expr(g->b, t.data, dt, n, in);
  text_fini(&t);
  return v;
}

/* Argument i of s is read other than by comparisons. */
static bool depends(Grad *g, const Scalar *s, int i) {
  bool *on = ARENA_ARRAY(g->scratch, bool, s->nstmt + 1);
  if (arena_failed(g->scratch))
    return false;
  for (int k = 0; k < s->nstmt; k++) {
    const Stmt *st = &s->stmt[k];
    const Prim prim = (Prim)st->prim;
    on[k] = prim == PR_ARG && st->ref == i;
    if ((prim >= PR_LT && prim <= PR_NOT) || prim == PR_ISFINITE)
      continue;
    for (int n = prim == PR_SELECT; n < prim_args(prim); n++)
      on[k] |= st->arg[n] >= 0 && on[st->arg[n]];
  }
  return on[s->result];
}

bool grad_passes(Grad *g, const Op *op, int i) {
  const OpInfo *info = op_info(op->code);
  if (info->kind != OK_ELEM || op->code == OP_cast)
    return grad_rule(op->code) != NULL;
  if (!info->deriv)
    return depends(g, op->scalar, i);
  bool times;
  const Scalar *s = derivative(g, op, i, &times);
  return s && !scalar_is_zero(s);
}

void grad_expr(Grad *g, const Op *op, Value *const *dy) {
  if (op->nin > MAX_ARGS) {
    diag_error(g->diag, op->loc, 196, "expression of more than %d operands is not supported yet",
               MAX_ARGS);
    return;
  }
  for (int i = 0; i < op->nin; i++) {
    if (!grad_wants(g, op, i))
      continue;
    bool times;
    Scalar *s = derivative(g, op, i, &times);
    if (!s || scalar_is_zero(s)) {
      g->zeros[op->in[i]->id] |= grad_passes(g, op, i);
      continue;
    }
    const Stmt *last = &s->stmt[s->result];
    if (times && last->prim == PR_CONST && last->imm == 1) {
      grad_give(g, op, i, dy[0]);
      continue;
    }
    if (times)
      s = times_upstream(g, s, op->nin);
    if (s)
      grad_give(g, op, i, chain(g, op, s, dy[0], grad_dtype(g, op, i)));
  }
}
