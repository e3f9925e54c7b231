/* libFuzzer target for .npz archives. */
#include "tests/fuzz/input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  InputFile file = input_file(data, size);
  char config[200];
  snprintf(config, sizeof config, "{\"path\": \"%s\"}", file.path);
  input_dataset(mprt__npz_open, config);
  close(file.fd);
  return 0;
}
