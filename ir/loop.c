/* Bodies of scans: functions whose leaves are `arg` and whose ends are `yield`. */
#include <string.h>

#include "ir/ir.h"

static const char *const kinds[LOOP_KINDS] = {"captured", "stacked", "carried"};

const char *loop_kind_text(LoopKind k) {
  return k < LOOP_KINDS ? kinds[k] : "";
}

LoopKind loop_kind(const Op *op) {
  const char *word = op_str(op, "kind", "");
  int k = 0;
  while (k < LOOP_KINDS && strcmp(kinds[k], word))
    k++;
  return (LoopKind)k;
}

bool func_is_body(const Func *f) {
  for (int i = f->nop; i-- > 0;) /* yields come last, mostly */
    if (f->op[i]->code == OP_yield)
      return true;
  return false;
}

const Func *loop_body(const Op *scan) {
  return module_func(scan->func->module, op_str(scan, "func", ""));
}

static const Op *find(const Func *body, OpCode code, const char *key, int64_t value) {
  for (int i = 0; i < body->nop; i++)
    if (body->op[i]->code == code && op_int(body->op[i], key, -1) == value)
      return body->op[i];
  return NULL;
}

const Op *loop_arg(const Func *body, int64_t index) {
  return find(body, OP_arg, "index", index);
}

const Op *loop_yield(const Func *body, int64_t index) {
  return find(body, OP_yield, "index", index);
}

const Op *loop_carrier(const Func *body, int64_t index) {
  return find(body, OP_yield, "arg", index);
}

int64_t loop_slot(const Op *scan, int64_t slots, int64_t done) {
  int64_t length = op_int(scan, "length", 1);
  if (slots == length + 1)
    return op_int(scan, "reverse", 0) ? length - done : done;
  return done % slots;
}

bool *loop_varies(const Func *body, Arena *a) {
  bool *varies = ARENA_ARRAY(a, bool, body->nvalue + 1);
  if (arena_failed(a))
    return varies;
  for (int i = 0; i < body->nop; i++) {
    const Op *op = body->op[i];
    bool is = op->code == OP_arg && loop_kind(op) != LOOP_CAPTURED;
    for (int k = 0; k < op->nin; k++)
      is |= varies[op->in[k]->id];
    for (int k = 0; k < op->nout; k++)
      varies[op->out[k]->id] = is;
  }
  return varies;
}
