/* CUDA programs: polynomials and device helpers, then kernels. */
#include "codegen/coeff.h"
#include "codegen/cuda/gen.h"

#include <string.h>

/* prelude.cuh, mma.cuh, attention.cuh */
extern const char mpcc_cuda_prelude[], mpcc_cuda_mma[], mpcc_cuda_attention[];

/* #define POLY_exp_f32(x) fma_(fma_(c2, x, c1), x, c0) */
static void put_poly(Text *t, const char *name, const double *c, int n) {
  const char *suffix = strstr(name, "f32") ? "f" : "";
  text_printf(t, "#define POLY_%s(x) ", name);
  for (int i = 1; i < n; i++)
    text_puts(t, "fma_(");
  text_printf(t, "%a%s", c[n - 1], suffix);
  for (int i = n - 2; i >= 0; i--)
    text_printf(t, ", x, %a%s)", c[i], suffix);
  text_puts(t, "\n");
}

static void put_prelude(Text *t) {
#define POLY(name) put_poly(t, #name, name, (int)(sizeof(name) / sizeof(name)[0]))
  POLY(exp_f32);
  POLY(sin_f32);
  POLY(cos_f32);
  POLY(erf_f32);
  POLY(erfc_f32);
  POLY(tanh_f32);
  POLY(log_f32);
  POLY(exp_f64);
  POLY(sin_f64);
  POLY(cos_f64);
  POLY(erf_f64);
  POLY(erfc_f64);
  POLY(atanh_f64);
#undef POLY
  text_puts(t, mpcc_cuda_prelude);
}

/* Two spaces a brace: the text is read by people too (--emit=cuda). */
static void indent(Text *t, size_t from) {
  Text out = {0};
  int depth = 0;
  bool open = false; /* the line before is an if or for without a brace */
  text_put(&out, t->data, from);
  for (const char *line = t->data + from; *line;) {
    const size_t n = strcspn(line, "\n");
    const bool flat = *line == '}';
    for (int k = flat; k < depth + open; k++)
      text_puts(&out, "  ");
    open = n > 3 && line[n - 1] == ')' && (!strncmp(line, "if (", 4) || !strncmp(line, "for (", 5));
    text_printf(&out, "%.*s\n", (int)n, line);
    for (size_t k = 0; k < n; k++)
      depth += line[k] == '{' ? 1 : line[k] == '}' ? -1 : 0;
    line += n + (line[n] == '\n');
  }
  text_fini(t);
  *t = out;
}

/* Whether every attribute is one of `words`. */
static bool knows(CudaGen *g, const Op *group, const char *words) {
  for (int i = 0; i < group->nattr; i++) {
    const char *key = group->attr[i].key, *at = strstr(words, key);
    const size_t n = strlen(key);
    for (; at; at = strstr(at + 1, key))
      if ((at == words || at[-1] == ' ') && (at[n] == ' ' || !at[n]))
        break;
    if (!at && strcmp(key, "kind") && !attr_is_told(&group->attr[i]))
      return cuda_unsupported(g, "target cuda does not support '%s' of %s yet", key,
                              op_str(group, "kind", ""));
  }
  return true;
}

/* Puts helpers that are not there yet behind the others. */
static void need(CudaGen *g, unsigned texts) {
  static const struct {
    CudaText text;
    const char *source;
  } all[] = {{CUDA_MMA, mpcc_cuda_mma}, {CUDA_ATTENTION, mpcc_cuda_attention}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    if (!(texts & all[i].text & ~g->texts))
      continue;
    Text out = {0};
    text_put(&out, g->out.data, g->helpers);
    text_puts(&out, all[i].source);
    const size_t helpers = out.len;
    text_puts(&out, g->out.data + g->helpers);
    out.failed = out.failed || g->out.failed;
    text_fini(&g->out);
    g->out = out;
    g->helpers = helpers;
    g->texts |= all[i].text;
  }
}

/* Helpers that the kernel of a group calls. */
static unsigned texts_of(const Op *group) {
  const char *kind = op_str(group, "kind", "");
  const bool attention = !strcmp(kind, "attention") || !strcmp(kind, "attention_grad");
  if (!strcmp(kind, "conv") && cuda_conv_on_tiles(group))
    return CUDA_MMA;
  return attention && cuda_attention_on_tiles(group) ? CUDA_MMA | CUDA_ATTENTION : 0;
}

void cuda_begin(CudaGen *g) {
  *g = (CudaGen){0};
  put_prelude(&g->out);
  g->helpers = g->out.len;
}

bool cuda_kernel(CudaGen *g, const Op *group, const char *symbol) {
  static const struct {
    const char *kind, *attrs;
    CudaEmit *emit;
  } kinds[] = {
#define KIND(name, attrs) {#name, attrs, cuda_##name},
#include "codegen/cuda/kinds.def"
#undef KIND
  };
  const char *kind = op_str(group, "kind", "");
  if (!g->out.failed)
    need(g, texts_of(group));
  const size_t begin = g->out.len;
  g->exact = cuda_is_exact(group->body);
  g->blocks = g->blocks_y = 1;
  g->shared_bytes = g->resident = 0;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (!strcmp(kind, kinds[i].kind)) {
      if (!knows(g, group, kinds[i].attrs) || !kinds[i].emit(g, group, symbol))
        return false;
      if (!g->out.failed)
        indent(&g->out, begin);
      return !g->out.failed || cuda_fail(g, "out of memory");
    }
  return cuda_unsupported(g, "target cuda does not have kernels of kind '%s' yet", kind);
}
