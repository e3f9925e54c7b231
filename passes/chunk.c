/* chunk: a loss over very many classes is taken in parts of the batch.
 *
 * The logits of a language model are its largest value: 3.3 GB for GPT-2's 50257 tokens at 32 x
 * 1024 in 16 bits. The loss makes their gradient together with its value, and that gradient only
 * enters products: with the weight, giving as many rows of what the model computed, and with those,
 * giving the weight's gradient. So all of it is done for some samples after the others, and only a
 * part's logits are in memory: linear, loss, metrics and both products of a part follow each other.
 * Rows are joined, sums are added in FP32 or wider; a part counts the valid samples that are its
 * own.
 *
 * What predict returns in a wider dtype is cast in parts in the same way.
 *
 * What else would read the logits keeps them whole. Stage step. Memory of the head: logits / parts,
 * as in the chunked losses of torchtitan and Liger. */
#include <string.h>

#include "passes/passes.h"

enum { MOST_IN = 8, MOST_ATTR = 16 };
static const int64_t MOST_BYTES = (int64_t)1 << 30; /* of logits that stay whole */

/* How a value of the head comes of those of its parts. */
typedef enum {
  OUTSIDE, /* not the head's */
  PART,    /* only its parts are made */
  JOINED,  /* side by side along axis 0 */
  TOTAL,   /* their sum */
} Kind;

typedef struct {
  Copier c;
  Arena *a;
  const Func *f;
  Uses *uses;
  int64_t most; /* bytes */
  Kind *kind;   /* by value id, of the head being looked at */
  bool *inside; /* by op index: belongs to a head that has been made, or will be */
  int at;       /* the head is built before this op */
  int first;    /* its linear */
  int64_t parts;
  Value **part;  /* by value id: of the part being built */
  Value ***rows; /* by value id: of all parts */
} Chunk;

static int64_t rows_of(const Value *v) {
  return v->type->rank ? v->type->dim[0] : 0;
}

static bool divides(const Chunk *s, const Value *v) {
  return rows_of(v) > 0 && rows_of(v) % s->parts == 0;
}

/* Fewest parts of whole samples within the limit; 1: the logits stay whole. */
static int64_t count_parts(const Chunk *s, const Value *logits) {
  const int64_t bytes = type_bytes(logits->type), n = rows_of(logits);
  if (bytes <= s->most || logits->type->rank < 2)
    return 1;
  for (int64_t parts = 2; parts <= n; parts++)
    if (n % parts == 0 && bytes / parts <= s->most)
      return parts;
  return n > 0 ? n : 1;
}

static bool sums_rows(const Op *op) {
  const Attr *dims = op_attr(op, "dims");
  return dims && dims->u.ints.n == 1 && dims->u.ints.v[0] == 0 && !op_int(op, "keepdim", 0) &&
         dtype_bytes(op->out[0]->type->dt) >= 4;
}

/* Operand k has a row of its own for each of the head's. */
static bool has_rows(const Chunk *s, const Op *op, int k) {
  switch (op->code) {
  case OP_linear:
    return k == 0;
  case OP_cross_entropy:
  case OP_accuracy:
    return k < 2;
  case OP_matmul: /* a^T b sums over the rows of both */
    return k == 0 || op_int(op, "ta", 0) || s->kind[op->in[k]->id] == PART;
  default:
    return true;
  }
}

/* What predict returns, in the dtype of results. */
static bool is_returned(const Chunk *s, const Value *v) {
  const Uses *u = &s->uses[v->id];
  for (int i = 0; i < u->n; i++)
    if (u->op[i]->code != OP_write)
      return false;
  return u->n > 0;
}

/* Kinds of the results of an op that reads parts; false: it needs the whole. */
static bool take_op(Chunk *s, const Op *op) {
  Kind first = PART;
  switch (op->code) {
  case OP_cast:
    if (is_returned(s, op->out[0]))
      first = JOINED;
    break;
  case OP_reshape:
    if (!divides(s, op->out[0]))
      return false;
    break;
  case OP_slice: /* of columns: sums of very many are made in blocks */
    if (op_int(op, "dim", 0) <= 0)
      return false;
    break;
  case OP_matmul:
    first = op_int(op, "ta", 0) ? TOTAL : JOINED;
    if (first == TOTAL ? op_int(op, "tb", 0) || !op_attr(op, "out")
                       : s->kind[op->in[1]->id] == PART)
      return false;
    break;
  case OP_sum:
    if (!sums_rows(op))
      return false;
    first = TOTAL;
    break;
  case OP_cross_entropy:
  case OP_accuracy:
    first = TOTAL;
    break;
  default:
    return false;
  }
  for (int k = 0; k < op->nin; k++) {
    const Kind kind = s->kind[op->in[k]->id];
    if (has_rows(s, op, k) ? !divides(s, op->in[k]) : kind == PART)
      return false;
    if (kind == JOINED || kind == TOTAL)
      return false;
  }
  for (int i = 0; i < op->nout; i++) /* dlogits beside the loss and the weight */
    s->kind[op->out[i]->id] = i == 2 ? PART : first;
  return op->nin <= MOST_IN && op->nattr < MOST_ATTR;
}

static bool reads(const Chunk *s, const Op *op, bool parts) {
  for (int k = 0; k < op->nin; k++) {
    const Kind kind = s->kind[op->in[k]->id];
    if (parts ? kind == PART : kind == JOINED || kind == TOTAL)
      return true;
  }
  return false;
}

static bool is_view(const Op *op) {
  return op->code == OP_reshape || op->code == OP_permute;
}

/* The op behind which v can be had: views of it may be built anywhere. */
static int made_at(const Value *v) {
  while (is_view(v->def))
    v = v->def->in[0];
  return v->def->index;
}

/* Whether linear begins a head: everything that reads its result, or what comes of that, can be
 * done in parts, to a loss or a result, before anything reads what is joined or summed. */
static bool find_head(Chunk *s, const Op *linear) {
  const Func *f = s->f;
  bool ends = false; /* in a loss, or in what is returned */
  s->parts = count_parts(s, linear->out[0]);
  if (s->parts < 2 || linear->nin > MOST_IN || linear->nattr >= MOST_ATTR ||
      recompute_region(f->module, linear->layer))
    return false;
  memset(s->kind, 0, (size_t)f->nvalue * sizeof *s->kind);
  s->kind[linear->out[0]->id] = PART;
  s->first = linear->index;
  s->at = linear->index + 1;
  int end = 0; /* the first op behind what is joined or summed */
  for (int i = linear->index; i < f->nop; i++) {
    const Op *op = f->op[i];
    s->inside[i] = i == linear->index || reads(s, op, true);
    if (!s->inside[i]) {
      if (!end && reads(s, op, false))
        end = i;
      continue;
    }
    if (i > linear->index && !take_op(s, op))
      return false;
    ends |=
        op->code == OP_cross_entropy || (op->code == OP_cast && s->kind[op->out[0]->id] == JOINED);
    for (int k = 0; k < op->nin; k++)
      if (s->kind[op->in[k]->id] == OUTSIDE && made_at(op->in[k]) >= s->at)
        s->at = made_at(op->in[k]) + 1;
  }
  return ends && (!end || s->at <= end);
}

/* ---- building -------------------------------------------------------------------------------- */

static Value *outside(Chunk *s, const Value *v) {
  if (v->def->index >= s->at && is_view(v->def)) {
    outside(s, v->def->in[0]);
    copier_op(&s->c, v->def);
  }
  return copier_get(&s->c, v);
}

/* Samples before the end, seen from where part p begins. */
static Value *valid_of_part(Chunk *s, const Value *valid, int64_t p, int64_t len) {
  Builder *b = s->c.b;
  Value *n = outside(s, valid);
  if (!p)
    return n;
  n = build_cast(b, n, MPCC_F64);
  Str text = str_fmt(builder_strings(b), "a - %lld", (long long)(p * len));
  return build_cast(b, build_expr(b, text, MPCC_F64, 1, &n), MPCC_I64);
}

static Value *operand_of_part(Chunk *s, const Op *op, int k, int64_t p) {
  const Value *v = op->in[k];
  const int64_t len = rows_of(v) / s->parts;
  if (s->kind[v->id] == PART)
    return s->part[v->id];
  if (has_rows(s, op, k))
    return build_slice(s->c.b, outside(s, v), 0, p * len, (p + 1) * len);
  const int valid = op->code == OP_cross_entropy ? 3 : op->code == OP_accuracy ? 2 : -1;
  return k == valid ? valid_of_part(s, v, p, rows_of(op->in[0]) / s->parts) : outside(s, v);
}

static DType wider(DType dt) {
  return dtype_is_float(dt) && dtype_bytes(dt) < 4 ? MPCC_F32 : dt;
}

/* Attributes of a part: shapes have fewer rows, sums are exact enough to be added. */
static int attrs_of_part(Chunk *s, const Op *op, Attr *attr) {
  Builder *b = s->c.b;
  int n = 0;
  for (int i = 0; i < op->nattr; i++) {
    attr[n] = op->attr[i];
    if (op->code == OP_reshape && !strcmp(attr[n].key, "shape")) {
      int64_t dim[MAX_RANK];
      const Type *t = op->out[0]->type;
      memcpy(dim, t->dim, sizeof dim);
      dim[0] /= s->parts;
      attr[n] = attr_ints(b, "shape", t->rank, dim);
    }
    const bool sum = op->code == OP_matmul && s->kind[op->out[0]->id] == TOTAL;
    if (sum && !strcmp(attr[n].key, "out"))
      attr[n] = attr_dt(b, "out", wider(op->out[0]->type->dt));
    n++;
  }
  return n;
}

/* What is built next is op's, for part p. */
static void at_part(Chunk *s, const Op *op, int64_t p) {
  Builder *b = s->c.b;
  const int64_t n = rows_of(s->f->op[s->first]->out[0]) / s->parts;
  build_at(b, op->loc, op->layer,
           str_fmt(builder_strings(b), "chunk: samples from %lld, %lld of them", (long long)(p * n),
                   (long long)n));
}

static void build_op_of_part(Chunk *s, const Op *op, int64_t p) {
  Builder *b = s->c.b;
  Value *in[MOST_IN];
  Attr attr[MOST_ATTR];
  for (int k = 0; k < op->nin; k++) {
    at_part(s, op, p);
    in[k] = operand_of_part(s, op, k, p);
  }
  at_part(s, op, p);
  const int nattr = attrs_of_part(s, op, attr);
  Op *made = build_op(b, op->code, op->nin, in, nattr, attr);
  for (int i = 0; i < op->nout && i < made->nout; i++) {
    const Value *v = op->out[i];
    Value *x = made->out[i];
    if (s->kind[v->id] == PART)
      s->part[v->id] = x;
    else if (s->kind[v->id] == JOINED)
      s->rows[v->id][p] = x;
    else
      s->part[v->id] = p ? build2(b, OP_add, s->part[v->id], x) : x;
  }
}

static void finish_value(Chunk *s, const Value *v) {
  Builder *b = s->c.b;
  const Attr dim = attr_i(b, "dim", 0);
  const Op *op = v->def;
  build_at(b, op->loc, op->layer, str_c(builder_strings(b), "chunk: of all parts"));
  if (s->kind[v->id] == JOINED)
    s->c.map[v->id] = build_op(b, OP_cat, (int)s->parts, s->rows[v->id], 1, &dim)->out[0];
  else if (s->kind[v->id] == TOTAL)
    s->c.map[v->id] = build_cast(b, s->part[v->id], v->type->dt);
}

static void build_head(Chunk *s) {
  const Func *f = s->f;
  for (int i = s->first; i < f->nop; i++)
    for (int o = 0; s->inside[i] && o < f->op[i]->nout; o++)
      if (s->kind[f->op[i]->out[o]->id] == JOINED)
        s->rows[f->op[i]->out[o]->id] = ARENA_ARRAY(s->a, Value *, s->parts);
  for (int64_t p = 0; p < s->parts && !arena_failed(s->a); p++)
    for (int i = s->first; i < f->nop && !builder_failed(s->c.b); i++)
      if (s->inside[i])
        build_op_of_part(s, f->op[i], p);
  for (int i = s->first; i < f->nop && !builder_failed(s->c.b) && !arena_failed(s->a); i++)
    for (int o = 0; s->inside[i] && o < f->op[i]->nout; o++)
      finish_value(s, f->op[i]->out[o]);
}

/* The first head of f, or false. A function has one: what comes of its logits ends it. */
static bool find_first(Chunk *s) {
  for (int i = 0; i < s->f->nop; i++) {
    memset(s->inside, 0, (size_t)s->f->nop * sizeof *s->inside);
    if (s->f->op[i]->code == OP_linear && find_head(s, s->f->op[i]))
      return true;
  }
  return false;
}

static void chunk_func(Chunk *s) {
  const Func *f = s->f;
  copier_func(&s->c, f, f->name);
  s->uses = func_uses(f, s->a);
  s->kind = ARENA_ARRAY(s->a, Kind, f->nvalue + 1);
  s->inside = ARENA_ARRAY(s->a, bool, f->nop + 1);
  s->part = ARENA_ARRAY(s->a, Value *, f->nvalue + 1);
  s->rows = ARENA_ARRAY(s->a, Value **, f->nvalue + 1);
  if (arena_failed(s->a))
    return;
  const bool any = find_first(s);
  for (int i = 0; i < f->nop && !builder_failed(s->c.b); i++) {
    if (any && i == s->at)
      build_head(s);
    if (!any || !s->inside[i])
      copier_op(&s->c, f->op[i]);
  }
}

Status pass_chunk(const Module *in, const PassOpts *o, Builder *out, Diag *d) {
  (void)d;
  Chunk s = {.most = o->logits_bytes ? o->logits_bytes : MOST_BYTES};
  copier_init(&s.c, out, in);
  for (int i = 0; i < in->nfunc; i++) {
    s.a = arena_create();
    if (!s.a)
      return MPCC_ERR_NOMEM;
    s.f = in->func[i];
    chunk_func(&s);
    const bool failed = arena_failed(s.a);
    arena_destroy(s.a);
    if (failed)
      return MPCC_ERR_NOMEM;
  }
  return MPCC_OK;
}
