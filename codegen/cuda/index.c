/* cuda_index: rows of a table chosen by ids; a thread per element. */
#include "codegen/cuda/gen.h"

bool cuda_index(CudaGen *g, const Op *group, const char *symbol) {
  const Body *b = group->body;
  const int last = b->ndim - 1;
  if (last < 0 || b->nin < 2 || b->nout < 1)
    return cuda_fail(g, "an index group needs ids, a table and a result");
  int64_t n = 1;
  for (int d = 0; d <= last; d++)
    n *= b->dim[d];
  if (n >= INT32_MAX)
    return cuda_fail(g, "more than 2^31 elements");
  Text *t = &g->out;
  const char *from = dtype_text(group->in[1]->type->dt), *to = dtype_text(group->out[0]->type->dt);
  g->threads = 256;
  g->blocks = (n + g->threads - 1) / g->threads;
  cuda_head(g, group, symbol);
  text_printf(t, "const u32 e = blockIdx.x * %du + threadIdx.x;\nif (e >= %lldu)\nreturn;\n",
              g->threads, (long long)n);
  cuda_indices(b, 0, b->ndim, "e", t);
  text_printf(t, "const s64 id = put_i64(get_%s(i0[", dtype_text(group->in[0]->type->dt));
  cuda_offset(b, &b->in[0], 0, last, t);
  text_puts(t, "]));\no0[");
  cuda_offset(b, &b->out[0], 0, b->ndim, t);
  text_printf(t, "] = put_%s(get_%s(i1[id * %lldll + ", to, from,
              (long long)op_int(group, "row_stride", b->dim[last]));
  cuda_offset(b, &b->in[1], last, b->ndim, t);
  text_puts(t, "]));\n}\n");
  return true;
}
