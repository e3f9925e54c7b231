/* Layers whose precision matters most: those whose ops run on the low-precision side of autocast.
 */
#include <string.h>

#include "lib/lib.h"

static bool known(const Text *t, const char *name) {
  size_t n = strlen(name);
  for (const char *p = t->data; p && *p; p += strcspn(p, "\n"), p += *p == '\n')
    if (!strncmp(p, name, n) && (p[n] == '\n' || p[n] == '\t'))
      return true;
  return false;
}

/* Whether some product of a layer is one that FP8 recipes quantize. */
static bool has_linear(const Func *f, Str layer) {
  for (int i = 0; i < f->nop; i++)
    if (f->op[i]->layer == layer && f->op[i]->code == OP_linear)
      return true;
  return false;
}

mpcc_status mpcc_product_layers(mpcc_session *s, const char *path, const char *text, size_t len,
                                char **out) {
  Compilation c;
  Text names = {0};
  size_t bytes;
  void *data = NULL;
  Status st = compilation_begin_mode(&c, s, NULL);
  if (st != MPCC_OK)
    return st;
  st = compilation_front(&c, path, text, len);
  const Func *f = st == MPCC_OK ? module_func(c.module, "train_forward") : NULL;
  for (int i = 0; f && i < f->nop; i++) {
    const Op *op = f->op[i];
    if (op_info(op->code)->policy[0] != POL_LOW || !op->layer || !*op->layer ||
        op_attr(op, "complex") || known(&names, op->layer))
      continue; /* complex numbers keep their format in every mode */
    text_puts(&names, op->layer);
    text_puts(&names, has_linear(f, op->layer) ? "\n" : "\tno FP8\n");
  }
  if (st == MPCC_OK)
    st = lib_take_text(&names, &data, &bytes);
  *out = data;
  return compilation_end(&c, s, st);
}
