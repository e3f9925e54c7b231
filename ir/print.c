/* The text form of a module, exactly as docs/ir.md specifies it: one canonical text per module, so
 * module_parse(module_print(m)) prints the same bytes again. Files of locations are numbered in
 * order of first appearance, so that the text does not depend on what else the session has read. */
#include "ir/ir.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/abi.h"

typedef struct {
  Text *out;
  const Diag *files;
  uint32_t *number; /* printed number by file index of the session; 0 = not seen yet */
  uint32_t nfile, seen;
} Printer;

/* ---- words ----------------------------------------------------------------------------------- */

static bool is_bare(const char *name) {
  if (!*name || !strcmp(name, "work"))
    return false;
  for (const char *p = name; *p; p++)
    if (!isalnum((unsigned char)*p) && !strchr("_.-/", *p))
      return false;
  return true;
}

static void put_name(Printer *p, const char *name) {
  text_puts(p->out, "@");
  if (is_bare(name))
    text_puts(p->out, name);
  else
    text_json(p->out, name);
}

static void put_key(Printer *p, const char *key) {
  bool first = isalpha((unsigned char)*key) || *key == '_';
  if (first && (is_bare(key) || !strcmp(key, "work")))
    text_puts(p->out, key);
  else
    text_json(p->out, key);
}

/* A float is told from an integer by its looks: 1 prints as 1.0. */
static void put_double(Text *out, double v) {
  size_t at = out->len;
  text_double(out, v);
  if (!out->failed && !strpbrk(out->data + at, ".ein"))
    text_puts(out, ".0");
}

static void put_attr(Printer *p, const Attr *a) {
  put_key(p, a->key);
  text_puts(p->out, "=");
  switch (a->kind) {
  case AT_INT:
    text_printf(p->out, "%lld", (long long)a->u.i);
    break;
  case AT_FLOAT:
    put_double(p->out, a->u.f);
    break;
  case AT_BOOL:
    text_puts(p->out, a->u.i ? "true" : "false");
    break;
  case AT_STR:
    text_json(p->out, a->u.s);
    break;
  case AT_DTYPE:
    text_puts(p->out, dtype_text((DType)a->u.i));
    break;
  case AT_INTS:
    text_puts(p->out, "[");
    for (int i = 0; i < a->u.ints.n; i++)
      text_printf(p->out, "%s%lld", i ? ", " : "", (long long)a->u.ints.v[i]);
    text_puts(p->out, "]");
    break;
  case AT_TENSOR:
    put_name(p, a->u.tensor->name);
    break;
  }
}

static void put_attrs(Printer *p, const Attr *attr, int n) {
  if (!n)
    return;
  text_puts(p->out, " {");
  for (int i = 0; i < n; i++) {
    text_puts(p->out, i ? ", " : "");
    put_attr(p, &attr[i]);
  }
  text_puts(p->out, "}");
}

/* ---- locations ------------------------------------------------------------------------------- */

static void see_file(Printer *p, Loc loc) {
  if (loc.file && loc.file < p->nfile && !p->number[loc.file]) {
    p->number[loc.file] = ++p->seen;
    const char *name = diag_file_name(p->files, loc.file);
    text_printf(p->out, "file %u ", p->seen);
    text_json(p->out, name ? name : "");
    text_puts(p->out, "\n");
  }
}

static void put_loc(Printer *p, Loc loc) {
  if (!loc.file || loc.file >= p->nfile)
    return;
  text_printf(p->out, " !%u:%u:%u", p->number[loc.file], loc.line, loc.col);
  if (loc.len)
    text_printf(p->out, "+%u", loc.len);
}

static uint32_t max_file(const Module *m) {
  uint32_t most = 0;
  for (int i = 0; i < m->ntensor; i++)
    most = m->tensor[i]->loc.file > most ? m->tensor[i]->loc.file : most;
  for (int i = 0; i < m->nfunc; i++)
    for (int j = 0; j < m->func[i]->nop; j++) {
      uint32_t file = m->func[i]->op[j]->loc.file;
      most = file > most ? file : most;
    }
  return most;
}

static void put_files(Printer *p, const Module *m) {
  if (!p->files)
    return;
  uint32_t most = max_file(m);
  p->number = calloc((size_t)most + 1, sizeof *p->number);
  if (!p->number) {
    p->out->failed = true;
    return;
  }
  p->nfile = most + 1;
  for (int i = 0; i < m->ntensor; i++)
    see_file(p, m->tensor[i]->loc);
  for (int i = 0; i < m->nfunc; i++)
    for (int j = 0; j < m->func[i]->nop; j++)
      see_file(p, m->func[i]->op[j]->loc);
}

/* ---- group bodies ---------------------------------------------------------------------------- */

static const char *level_name(int level) {
  static const char *const names[] = {"all", "row", "col", "elem"};
  return names[level & 3];
}

static void put_access(Printer *p, const char *word, int i, const Access *a, int ndim) {
  text_printf(p->out, "    %s %d: %lld +", word, i, (long long)a->offset);
  for (int d = 0; d < ndim; d++)
    text_printf(p->out, " %lld", (long long)a->stride[d]);
  text_puts(p->out, "\n");
}

static void put_stmt(Printer *p, int i, const Stmt *s) {
  Text *out = p->out;
  if (s->prim == PR_STORE) {
    text_printf(out, "    store %d s%d\n", s->ref, s->arg[0]);
    return;
  }
  text_printf(out, "    s%d:%s %s = %s", i, dtype_text((DType)s->dt), level_name(s->level),
              prim_name((Prim)s->prim));
  if (s->prim == PR_CONST) {
    text_puts(out, " ");
    put_double(out, s->imm);
  } else if (s->prim == PR_LOAD || s->prim == PR_INDEX || s->prim == PR_PARAM ||
             s->prim == PR_ARG) {
    text_printf(out, " %d", s->ref);
  } else if (s->prim == PR_ROUND) {
    text_printf(out, " %s", dtype_text((DType)s->rd));
  }
  for (int k = 0; k < prim_args((Prim)s->prim); k++)
    text_printf(out, "%s s%d", k ? "," : "", s->arg[k]);
  text_puts(out, "\n");
}

static void put_body(Printer *p, const Body *b) {
  text_puts(p->out, " [\n    dim");
  for (int d = 0; d < b->ndim; d++)
    text_printf(p->out, " %lld", (long long)b->dim[d]);
  text_printf(p->out, " cols %d panel %lld\n", b->ncol, (long long)b->panel_rows);
  for (int i = 0; i < b->nin; i++)
    put_access(p, "in", i, &b->in[i], b->ndim);
  for (int i = 0; i < b->nout; i++)
    put_access(p, "out", i, &b->out[i], b->ndim);
  if (b->nparam) {
    text_puts(p->out, "    param");
    for (int i = 0; i < b->nparam; i++)
      text_printf(p->out, " %lld", (long long)b->param[i]);
    text_puts(p->out, "\n");
  }
  for (int i = 0; i < b->nstmt; i++)
    put_stmt(p, i, &b->stmt[i]);
  text_puts(p->out, "  ]");
}

/* ---- the module ------------------------------------------------------------------------------ */

static void put_value(Printer *p, const Value *v) {
  text_printf(p->out, "%%%d:", v->id);
  type_print(v->type, p->out);
  if (v->alias) {
    put_name(p, v->alias->name);
    text_printf(p->out, "+%lld", (long long)v->alias_elem);
  } else if (v->offset >= 0) {
    text_printf(p->out, "@work+%lld", (long long)v->offset);
  }
}

static void put_op(Printer *p, const Op *op) {
  text_puts(p->out, "  ");
  for (int i = 0; i < op->nout; i++) {
    text_puts(p->out, i ? ", " : "");
    put_value(p, op->out[i]);
  }
  text_printf(p->out, "%s%s", op->nout ? " = " : "", op_info(op->code)->name);
  for (int i = 0; i < op->nin; i++)
    text_printf(p->out, "%s%%%d", i ? ", " : " ", op->in[i]->id);
  put_attrs(p, op->attr, op->nattr);
  if (op->layer && *op->layer) {
    text_puts(p->out, " layer=");
    text_json(p->out, op->layer);
  }
  put_loc(p, op->loc);
  if (op->why) {
    text_puts(p->out, " why=");
    text_json(p->out, op->why);
  }
  if (op->body)
    put_body(p, op->body);
  text_puts(p->out, "\n");
}

static void put_tensor(Printer *p, const Tensor *t) {
  text_puts(p->out, "tensor ");
  put_name(p, t->name);
  text_puts(p->out, " : ");
  type_print(t->type, p->out);
  text_printf(p->out, " role=%s", role_name(t->role));
  if (t->base) {
    text_puts(p->out, " base=");
    put_name(p, t->base->name);
    text_printf(p->out, " at=%lld", (long long)t->base_elem);
  }
  if (t->offset >= 0)
    text_printf(p->out, " offset=%lld", (long long)t->offset);
  put_attrs(p, t->attr, t->nattr);
  put_loc(p, t->loc);
  text_puts(p->out, "\n");
}

static void put_segments(Printer *p, const Module *m) {
  static const char *const names[] = {"state", "derived", "accum", "work", "io"};
  _Static_assert(sizeof names / sizeof *names == MPCC_SEG_COUNT, "one word per segment of abi.h");
  if (m->stage != STAGE_PLANNED)
    return;
  text_puts(p->out, "segments");
  for (int i = 0; i < MPCC_SEG_COUNT; i++)
    text_printf(p->out, " %s=%lld", names[i], (long long)m->segment_bytes[i]);
  text_puts(p->out, "\n");
}

void module_print(const Module *m, const Diag *files, Text *out) {
  Printer p = {out, files, NULL, 0, 0};
  text_printf(out, "mpir 1 stage=%s\n", stage_name(m->stage));
  for (int i = 0; i < m->nattr; i++) {
    text_puts(out, "attr ");
    put_attr(&p, &m->attr[i]);
    text_puts(out, "\n");
  }
  put_files(&p, m);
  put_segments(&p, m);
  for (int i = 0; i < m->ntensor; i++)
    put_tensor(&p, m->tensor[i]);
  for (int i = 0; i < m->nfunc; i++) {
    const Func *f = m->func[i];
    text_puts(out, "func ");
    put_name(&p, f->name);
    if (m->stage == STAGE_PLANNED)
      text_printf(out, " work=%lld", (long long)f->work_bytes);
    text_puts(out, " {\n");
    for (int j = 0; j < f->nop; j++)
      put_op(&p, f->op[j]);
    text_puts(out, "}\n");
  }
  free(p.number);
}
