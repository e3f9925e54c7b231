/* Data of the host application: it writes batches into the tensors and calls mprt_train_batch, so there
 * is nothing to open. */
#include "runtime/data/data.h"

Status mprt__host_open(const mprt__data_source *src, mprt__dataset **out) {
  *out = NULL;
  return mprt__fail(src->cb, MPCC_ERR_USAGE,
                    "data.%s is of format: host, which has no samples of its own: the application that "
                    "loads the program writes batches into its tensors (mprt_find) and calls "
                    "mprt_train_batch",
                    src->split);
}
