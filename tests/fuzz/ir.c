/* libFuzzer target for the IR text: any bytes are refused with an error or parsed into a module
 * whose text is a fixed point of print and parse, and which the interpreter runs when it is small.
 * Seeds: tests/golden/parse. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Module *parse(StrTable *s, Diag *d, const char *text, size_t len) {
  Module *m = NULL;
  module_parse(s, d, diag_file(d, "fuzz.mpir", text, len), text, len, &m);
  return m;
}

/* Work of running f: elements of all results, products counted by their operands. */
static bool is_small(const Module *m) {
  double work = 0;
  for (int i = 0; i < m->ntensor; i++)
    work += (double)type_elems(m->tensor[i]->type);
  for (int i = 0; i < m->nfunc; i++)
    for (int k = 0; k < m->func[i]->nop; k++) {
      const Op *op = m->func[i]->op[k];
      double in = 1, out = 1;
      for (int j = 0; j < op->nin; j++)
        in += (double)type_elems(op->in[j]->type);
      for (int j = 0; j < op->nout; j++)
        out += (double)type_elems(op->out[j]->type);
      if (op->body)
        for (int d = 0; d < op->body->ndim; d++)
          out *= (double)op->body->dim[d];
      work += in * out * (double)(op_int(op, "k", 1) + op_int(op, "keys", 1));
    }
  return work < 1e6;
}

static void print_parse_again(StrTable *s, Diag *d, const Module *m) {
  Text once = {0}, twice = {0};
  module_print(m, d, &once);
  Module *again = parse(s, d, once.data, once.len);
  if (!again)
    abort();
  module_print(again, d, &twice);
  if (once.len != twice.len || memcmp(once.data, twice.data, once.len))
    abort();
  module_destroy(again);
  text_fini(&once);
  text_fini(&twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Arena *a = arena_create();
  StrTable *s = str_table_create(a);
  Diag *d = diag_create(a, s);
  Module *m = parse(s, d, (const char *)data, size);
  if (!m && !diag_first(d))
    abort(); /* refused without a word */
  Text text = {0};
  for (const DiagMessage *msg = diag_first(d); msg; msg = msg->next)
    diag_render(d, msg, false, &text);
  text_fini(&text);
  if (m) {
    Eval *e;
    print_parse_again(s, d, m);
    if (is_small(m) && eval_create(m, false, &e) == MPCC_OK) {
      for (int i = 0; i < m->nfunc; i++)
        eval_run(e, m->func[i]);
      eval_destroy(e);
    }
  }
  module_destroy(m);
  arena_destroy(a);
  return 0;
}
