/* --emit=c-header: names, shapes and types of a program for a C host that links what --emit=lib wrote.
 * The functions are inline over libmpcc_rt (mpcc/runtime.h), so the header is all there is to read. */
#include <ctype.h>
#include <string.h>

#include "lib/lib.h"

/* A C identifier: what is no letter or digit becomes _. */
static Str identifier(Compilation *c, const char *name, bool upper) {
  Text t = {0};
  if (isdigit((unsigned char)*name))
    text_puts(&t, "_");
  for (; *name; name++) {
    int ch = isalnum((unsigned char)*name) ? *name : '_';
    text_printf(&t, "%c", upper ? toupper(ch) : ch);
  }
  return text_take(c->arena, c->strings, &t);
}

static const char *c_type(DType dt) {
  switch (dt) {
  case MPCC_F64: return "double";
  case MPCC_F32: return "float";
  case MPCC_I64: return "int64_t";
  case MPCC_I32: return "int32_t";
  default: return dtype_bytes(dt) == 2 ? "uint16_t" : "uint8_t"; /* 16 bits as they are stored */
  }
}

static void put_shape(const Type *t, Text *out) {
  text_puts(out, "[");
  for (int i = 0; i < t->rank; i++)
    text_printf(out, "%s%lld", i ? ", " : "", (long long)t->dim[i]);
  text_puts(out, "]");
}

/* Pointer to the values of an io tensor. */
static void put_tensor(Compilation *c, const char *id, const Tensor *t, const char *what, Text *out) {
  const char *dot = strrchr(t->name, '.');
  Str name = identifier(c, dot ? dot + 1 : t->name, false);
  text_printf(out, "/* %s ", what);
  put_shape(t->type, out);
  text_printf(out, ", %s */\nenum { %s_%s_ELEMS = %lld };\n", dtype_text(t->type->dt),
              identifier(c, id, true), identifier(c, name, true), (long long)type_elems(t->type));
  text_printf(out,
              "static inline %s *%s_%s(mprt_program *p) {\n"
              "  mprt_tensor t;\n  return mprt_find(p, \"%s\", &t) ? (%s *)t.data : 0;\n}\n\n",
              c_type(t->type->dt), id, name, t->name, c_type(t->type->dt));
}

Status header_emit(Compilation *c, Text *out) {
  const Module *m = c->module;
  Str id = identifier(c, module_str(m, "name", "program"), false), up = identifier(c, id, true);
  long long batch = (long long)module_int(m, "batch", 1);
  text_printf(out,
              "/* %s, precision %s: made by mpcc %s with --emit=c-header.\n"
              " * Link the library of the same spec (--emit=lib); a static one needs -ljansson -lz -ldeflate\n"
              " * -lpthread -lm behind it. Life of a program: %s_open, then mprt_init (or mprt_resume,\n"
              " * mprt_load_weights), then mprt_fit for the spec's own training, or batches by hand: fill the\n"
              " * inputs, call %s_train_step. mpcc/runtime.h has the rest. */\n"
              "#ifndef MPCC_PROGRAM_%s_H\n#define MPCC_PROGRAM_%s_H\n\n#include <stdint.h>\n\n"
              "#include \"mpcc/runtime.h\"\n\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n",
              id, module_str(m, "mode", ""), MPCC_VERSION, id, id, up, up);
  text_printf(out,
              "/* The program as mprt_open reads it, in the library. */\n"
              "const void *%s_program_image(size_t *bytes);\n\n"
              "enum { %s_BATCH = %lld, %s_ACCUMULATE = %lld };\n\n"
              "/* Options and callbacks as mprt_open takes them; options NULL: the defaults. */\n"
              "static inline mpcc_status %s_open(const mprt_options *options, const mprt_callbacks *cb,\n"
              "                                  mprt_program **out) {\n"
              "  mprt_options o;\n  size_t bytes;\n  const void *image = %s_program_image(&bytes);\n"
              "  mprt_options_default(&o);\n"
              "  return mprt_open(image, bytes, options ? options : &o, cb, out);\n}\n\n",
              id, up, batch, up, (long long)module_int(m, "accumulate", 1), id, id);
  for (int i = 0; i < m->ntensor; i++)
    if (m->tensor[i]->role == ROLE_INPUT)
      put_tensor(c, id, m->tensor[i], "input or target", out);
  for (int i = 0; i < m->ntensor; i++)
    if (m->tensor[i]->role == ROLE_OUTPUT)
      put_tensor(c, id, m->tensor[i], "what predict returns,", out);
  text_printf(out,
              "/* One optimizer step on the batch in the inputs, of which the first `samples` are real. *loss:\n"
              " * their mean loss; may be NULL. For specs with accumulate_grad_batches: 1. */\n"
              "static inline mpcc_status %s_train_step(mprt_program *p, int64_t samples, double *loss) {\n"
              "  return mprt_train_batch(p, samples, loss);\n}\n\n"
              "/* Outputs for the batch in the inputs; they stay until the next function runs. */\n"
              "static inline mpcc_status %s_predict(mprt_program *p) {\n"
              "  return mprt_run(p, \"predict\");\n}\n\n"
              "#ifdef __cplusplus\n}\n#endif\n#endif\n",
              id, id);
  return out->failed ? MPCC_ERR_NOMEM : MPCC_OK;
}
