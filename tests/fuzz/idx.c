/* libFuzzer target for IDX files. Input: length of the images file (16 bits, little endian), the
 * images file, the labels file. */
#include "tests/fuzz/input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2)
    return 0;
  size_t n = data[0] | (size_t)data[1] << 8;
  n = n < size - 2 ? n : size - 2;
  InputFile images = input_file(data + 2, n), labels = input_file(data + 2 + n, size - 2 - n);
  char config[200];
  snprintf(config, sizeof config, "{\"images\": \"%s\", \"labels\": \"%s\"}", images.path,
           labels.path);
  input_dataset(mprt__idx_open, config);
  close(images.fd);
  close(labels.fd);
  return 0;
}
