/* `mpcc inspect FILE`: what is in a checkpoint, safetensors or .npy file, or program. */
#ifndef MPCC_DRIVER_INSPECT_H
#define MPCC_DRIVER_INSPECT_H

/* Prints to stdout; 0, or an exit code after a message. */
int inspect_file(const char *path);

#endif
