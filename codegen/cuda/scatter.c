/* cuda_scatter: rows of a table that ids choose get what is added. A thread owns one column: it
 * goes through the ids in their order, so that the sums have one order and need no atomics. */
#include "codegen/cuda/gen.h"

bool cuda_scatter(CudaGen *g, const Op *group, const char *symbol) {
  const Body *b = group->body;
  const int last = b->ndim - 1;
  const Type *to = group->out[0]->type;
  if (last < 0 || to->rank != 2)
    return cuda_fail(g, "a scatter group needs ids, rows and a table");
  int64_t n = 1;
  for (int d = 0; d < last; d++)
    n *= b->dim[d];
  Text *t = &g->out;
  const char *dtype = dtype_text(to->dt), *type = cuda_register(to->dt);
  const long long rows = (long long)to->dim[0], cols = (long long)to->dim[1];
  g->threads = 64;
  g->blocks = (to->dim[1] + g->threads - 1) / g->threads;
  cuda_head(g, group, symbol);
  text_printf(t, "const u32 x%d = blockIdx.x * %du + threadIdx.x;\nif (x%d >= %lldu)\nreturn;\n",
              last, g->threads, last, cols);
  text_printf(t, "for (s64 r = 0; r < %lldll; r++)\no0[r * %lldll + x%d] = ", rows, cols, last);
  if (group->nin > 2)
    text_printf(t, "i2[r * %lldll + x%d];\n", cols, last);
  else
    text_puts(t, "0;\n");
  text_printf(t, "for (u32 e = 0; e < %lldu; e++) {\n", (long long)n);
  cuda_indices(b, 0, last, "e", t);
  text_printf(t, "const s64 id = put_i64(get_%s(i0[", dtype_text(group->in[0]->type->dt));
  cuda_offset(b, &b->in[0], 0, last, t);
  text_puts(t, "]));\n");
  if (op_attr(group, "skip"))
    text_printf(t, "if (id == %lldll)\ncontinue;\n", (long long)op_int(group, "skip", 0));
  text_printf(t, "%s *at = &o0[id * %lldll + x%d];\n*at = put_%s(get_%s(*at) + (%s)get_%s(i1[",
              cuda_storage(to->dt), cols, last, dtype, dtype, type,
              dtype_text(group->in[1]->type->dt));
  cuda_offset(b, &b->in[1], 0, b->ndim, t);
  text_puts(t, "]));\n}\n}\n");
  return true;
}
