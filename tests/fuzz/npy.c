/* libFuzzer target for .npy files. */
#include "tests/fuzz/input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  InputFile file = input_file(data, size);
  char config[200];
  snprintf(config, sizeof config, "{\"files\": {\"x\": \"%s\"}}", file.path);
  input_dataset(mprt__npy_open, config);
  close(file.fd);
  return 0;
}
