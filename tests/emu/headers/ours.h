/* Sizes as the product declares them: its names are the toolkit's, so not in one source file. */
#include <stddef.h>

size_t ours_algo_bytes(void);
size_t ours_result_bytes(void);
size_t ours_workspace_offset(void);
size_t ours_address_bytes(void);
