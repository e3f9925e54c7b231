/* Loops as commands of the image: the slots and slices of a scan's values that an iteration sees,
 * and its one `repeat` command. */
#include <string.h>

#include "codegen/package.h"

/* Axis 0 of `whole`, cut in n parts: the one of this iteration. */
static MpccArgRef slice_of(const Op *scan, MpccArgRef whole, int64_t n) {
  whole.bytes /= (uint64_t)n;
  whole.stride = (int64_t)whole.bytes;
  if (op_int(scan, "reverse", 0)) {
    whole.offset += (n - 1) * whole.stride;
    whole.stride = -whole.stride;
  }
  return whole;
}

/* The slot of a carried result before this iteration, or behind it. */
static MpccArgRef state_of(Package *p, const Op *yield, bool behind) {
  const Op *scan = p->scan;
  const int64_t slots = op_int(yield, "slots", 2);
  MpccArgRef a = commands_place(p, scan->out[op_int(yield, "index", 0)]);
  a.bytes /= (uint64_t)slots;
  a.stride = (int64_t)a.bytes;
  if (slots == op_int(scan, "length", 1) + 1) {
    a.offset += loop_slot(scan, slots, behind) * a.stride;
    a.stride *= op_int(scan, "reverse", 0) ? -1 : 1;
  } else {
    a.ring = (uint32_t)slots;
    a.phase = behind;
  }
  return a;
}

/* Where an arg, or what is yielded, lies in the values of the scan. */
static MpccArgRef loop_place(Package *p, const Op *op) {
  const Op *scan = p->scan;
  const int64_t at = op_int(op, "index", 0), length = op_int(scan, "length", 1);
  const bool is_arg = op->code == OP_arg;
  switch (loop_kind(op)) {
  case LOOP_CARRIED:
    return state_of(p, is_arg ? loop_carrier(op->func, at) : op, !is_arg);
  case LOOP_STACKED:
    return slice_of(scan, commands_place(p, is_arg ? scan->in[at] : scan->out[at]), length);
  default:
    return commands_place(p, scan->in[at]);
  }
}

static const Op *first_yield(const Value *v) {
  const Func *f = v->def->func;
  for (int i = v->def->index + 1; i < f->nop; i++)
    if (f->op[i]->code == OP_yield && f->op[i]->in[0] == v)
      return f->op[i];
  return NULL;
}

bool loop_holds(Package *p, const Value *v, MpccArgRef *out) {
  const Op *at = v->def->code == OP_arg ? v->def : v->offset < 0 ? first_yield(v) : NULL;
  if (at)
    *out = loop_place(p, at);
  return at != NULL;
}

/* The states before the first iteration, what the iterations share, and the loop itself: what
 * varies and what is yielded but was not made in its place. */
void commands_scan(Package *p, const Op *scan) {
  const Func *body = loop_body(scan);
  Arena *a = arena_create();
  bool *varies = a && body ? loop_varies(body, a) : NULL;
  if (!a || !body || arena_failed(a)) {
    p->failed = true;
    arena_destroy(a);
    return;
  }
  p->scan = scan;
  for (int i = 0; i < scan->nout; i++) {
    const Op *y = loop_yield(body, i);
    if (loop_kind(y) != LOOP_CARRIED)
      continue;
    MpccArgRef to = state_of(p, y, false);
    to.stride = to.ring = 0;
    commands_copy(p, scan, to, commands_place(p, scan->in[op_int(y, "arg", 0)]), "state",
                  y->in[0]->type);
  }
  for (int i = 0; i < body->nop; i++)
    if (body->op[i]->code == OP_group && !varies[body->op[i]->out[0]->id])
      commands_group(p, body->op[i]);
  size_t at = p->commands.len;
  commands_put(p, scan,
               (MpccCommand){.op = MPCC_CMD_REPEAT, .bytes = (uint64_t)op_int(scan, "length", 1)},
               "loop", 0, NULL);
  for (int i = 0; i < body->nop; i++)
    if (body->op[i]->code == OP_group && varies[body->op[i]->out[0]->id])
      commands_group(p, body->op[i]);
  for (int i = 0; i < body->nop; i++) {
    const Op *y = body->op[i];
    if (y->code == OP_yield &&
        (y->in[0]->def->code == OP_arg || y->in[0]->offset >= 0 || first_yield(y->in[0]) != y))
      commands_copy(p, y, loop_place(p, y), commands_place(p, y->in[0]), "yield", y->in[0]->type);
  }
  MpccCommand c;
  if (!p->commands.failed) {
    memcpy(&c, p->commands.data + at, sizeof c);
    c.kernel = (uint32_t)((p->commands.len - at) / sizeof c - 1);
    memcpy(p->commands.data + at, &c, sizeof c);
  }
  p->scan = NULL;
  arena_destroy(a);
}
