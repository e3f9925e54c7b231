/* cuda_move: a row of blocks along x for each part, a thread per element. */
#include <stdlib.h>

#include "codegen/cuda/gen.h"

static bool put_part(CudaGen *g, const Op *group, const MovePart *p, int number) {
  Text *t = &g->out;
  const int axis = (int)op_int(group, "axis", 0);
  const char *to = dtype_text(group->out[0]->type->dt);
  Body b = *group->body;
  Access out = b.out[0];
  int64_t n = 1;
  b.dim[axis] = p->size;
  out.offset += p->start * out.stride[axis];
  for (int d = 0; d < b.ndim; d++)
    n *= b.dim[d];
  if (n >= INT32_MAX)
    return cuda_fail(g, "more than 2^31 elements");
  if ((n + g->threads - 1) / g->threads > g->blocks)
    g->blocks = (n + g->threads - 1) / g->threads;
  text_printf(t, "if (blockIdx.y == %d && e < %lldu) {\n", number, (long long)n);
  cuda_indices(&b, 0, b.ndim, "e", t);
  text_printf(t, "o0[%lldll + ", (long long)(out.offset - group->body->out[0].offset));
  cuda_offset(&b, &out, 0, b.ndim, t);
  if (p->operand < 0) {
    text_puts(t, "] = 0;\n}\n");
    return true;
  }
  text_printf(t, "] = put_%s(get_%s(i%d[", to, dtype_text(group->in[p->operand]->type->dt),
              p->operand);
  cuda_offset(&b, &b.in[p->operand], 0, b.ndim, t);
  text_puts(t, "]));\n}\n");
  return true;
}

bool cuda_move(CudaGen *g, const Op *group, const char *symbol) {
  MovePart *part = calloc(2 * (size_t)group->nin + 2, sizeof *part);
  if (!part)
    return cuda_fail(g, "out of memory");
  const int count = codegen_move_parts(group, part);
  bool ok = count >= 0 || cuda_fail(g, "a move group needs starts and sizes for each operand");
  int parts = 0;
  g->threads = 256;
  cuda_head(g, group, symbol);
  text_printf(&g->out, "const u32 e = blockIdx.x * %du + threadIdx.x;\n", g->threads);
  for (int k = 0; ok && k < count; k++)
    if (part[k].size > 0)
      ok = put_part(g, group, &part[k], parts++);
  text_puts(&g->out, "}\n");
  g->blocks_y = parts;
  free(part);
  return ok;
}
