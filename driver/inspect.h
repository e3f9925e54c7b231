/* `mpcc inspect FILE`: what is in a checkpoint, safetensors or .npy file, or program. */
#ifndef MPCC_DRIVER_INSPECT_H
#define MPCC_DRIVER_INSPECT_H

#include <stdbool.h>
#include <stddef.h>

/* Prints to stdout; 0, or an exit code after a message. */
int inspect_file(const char *path);

/* inspect_data.c: what is in the bytes of a data file, on standard output; 0 or 4. */
bool is_idx(const unsigned char *p, size_t len);
int inspect_idx(const unsigned char *p, size_t len);
int inspect_tokens(const char *path, const unsigned char *p, size_t len);
int inspect_npz(const unsigned char *p, size_t len);
int inspect_ir(const unsigned char *p, size_t len);

#endif
