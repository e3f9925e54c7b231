/* Programs of a batch into a file. */
#include <stdlib.h>

#include "codegen/codegen.h"
#include "opcheck.h"

Status pack_write(const char *folder, int index, const Together *t, const Inst *list) {
  Text names = {0};
  for (int k = 0; k < t->n; k++) {
    char name[NAME_MAX_BYTES];
    inst_name(&list[k], name);
    text_printf(&names, "%s\t%s\t%s\t%d\n", name, dtype_text(list[k].dt), list[k].shape,
                t->fused_at[k]);
  }
  const void *const part[] = {names.data, t->strict.image, t->fused.image};
  const size_t bytes[] = {names.len, t->strict.image_bytes, t->fused.image_bytes};
  void *archive = NULL;
  size_t len = 0;
  char path[600];
  snprintf(path, sizeof path, "%s/%04d.opcheck", folder, index);
  FILE *f =
      !names.failed && codegen_archive(part, bytes, 3, &archive, &len) ? fopen(path, "wb") : NULL;
  const bool wrote = f && fwrite(archive, 1, len, f) == len;
  const bool ok = f && !fclose(f) && wrote;
  text_fini(&names);
  free(archive);
  return ok ? MPCC_OK : MPCC_ERR_FILE;
}
