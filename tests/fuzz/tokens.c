/* libFuzzer target for token files and texts. First byte: which of them, dtype, header, sampling. */
#include "tests/fuzz/input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (!size)
    return 0;
  InputFile file = input_file(data + 1, size - 1);
  char config[200];
  snprintf(config, sizeof config,
           "{\"path\": \"%s\", \"sequence_length\": %d, \"dtype\": \"%s\", \"header\": \"%s\", "
           "\"sampling\": \"%s\"}",
           file.path, 1 + (*data >> 4), *data & 1 ? "uint32" : "uint16",
           *data & 2 ? "none" : "llmc", *data & 4 ? "random" : "sequential");
  input_dataset(*data & 8 ? mprt__text_open : mprt__tokens_open, config);
  close(file.fd);
  return 0;
}
