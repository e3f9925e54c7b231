/* libFuzzer target for specs: any bytes are refused with an error or become a spec whose resolved
 * text is a spec of the same meaning, and whose module prints and parses back. Seeds:
 * tests/golden/frontend. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/frontend.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Spec *parse(Arena *a, StrTable *s, Diag *d, const char *text, size_t len) {
  SpecSource src = {.path = "fuzz.yaml", .text = text, .len = len};
  Spec *spec = NULL;
  Status st = spec_parse(a, s, d, &src, &spec);
  if ((st == MPCC_OK) != (spec != NULL) || (st != MPCC_OK && !diag_errors(d)))
    abort();
  return spec;
}

static void resolve_again(Arena *a, StrTable *s, Diag *d, const Spec *spec) {
  Text yaml = {0}, json = {0}, again = {0};
  spec_resolve(spec, true, &yaml);
  spec_json(spec, &json);
  const Spec *second = parse(a, s, d, yaml.data, yaml.len);
  if (!second)
    abort();
  spec_json(second, &again);
  if (strcmp(json.data, again.data) != 0)
    abort();
  Text values = {0}, values_again = {0};
  spec_resolve(spec, false, &values);
  spec_resolve(second, false, &values_again);
  if (strcmp(values.data, values_again.data) != 0)
    abort();
  text_fini(&values);
  text_fini(&values_again);
  text_fini(&yaml);
  text_fini(&json);
  text_fini(&again);
}

static void lower(StrTable *s, Diag *d, const Spec *spec) {
  Module *m = NULL, *n = NULL;
  int before = diag_errors(d);
  if (spec_lower(spec, s, d, &m) != MPCC_OK) {
    if (m || diag_errors(d) == before)
      abort();
    return;
  }
  Text t = {0}, u = {0};
  module_print(m, d, &t);
  if (module_parse(s, d, diag_file(d, "fuzz.mpir", t.data, t.len), t.data, t.len, &n) != MPCC_OK)
    abort();
  module_print(n, d, &u);
  if (strcmp(t.data, u.data) != 0)
    abort();
  text_fini(&t);
  text_fini(&u);
  module_destroy(n);
  module_destroy(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Arena *a = arena_create();
  StrTable *s = str_table_create(a);
  Diag *d = diag_create(a, s);
  const Spec *spec = parse(a, s, d, (const char *)data, size);
  if (spec) {
    resolve_again(a, s, d, spec);
    lower(s, d, spec);
  }
  arena_destroy(a);
  return 0;
}
