/* Texts of --help=TOPIC, from the tables that the code itself uses. */
#include <stdlib.h>
#include <string.h>

#include "codegen/codegen.h"
#include "lib/lib.h"
#include "passes/passes.h"

static const struct {
  const char *name, *text;
} warnings[] = {
#define WARNING(name, text) {name, text},
#include "lib/messages.def"
};

static const struct {
  int code;
  const char *text;
} codes[] = {
#define CODE(number, text) {number, text},
#include "lib/messages.def"
};

static const struct {
  const char *name, *text;
} precisions[] = {
    {"64-true", "everything FP64"},
    {"32-true", "everything FP32 (default)"},
    {"16-mixed", "FP32 weights, products in FP16, dynamic loss scaling"},
    {"bf16-mixed", "FP32 weights, products in BF16"},
    {"16-true", "everything FP16; diverges easily: see docs/numerics.md"},
    {"bf16-true", "everything BF16"},
    {"transformer-engine", "linear layers in FP8 with delayed scaling, the rest BF16, FP32 masters"},
    {"transformer-engine-float16", "the same with FP16 beside FP8, and loss scaling"},
};

static void help_passes(Text *t) {
  int n;
  const PassInfo *p = pass_table(&n);
  for (int i = 0; i < n; i++)
    text_printf(t, "  %-10s %s -> %s: %s\n", p[i].name, stage_name(p[i].needs),
                stage_name(p[i].gives), p[i].doc);
}

/* Words of -march and --gpu-arch. A GPU runs the code of its own generation and of older ones. */
static void help_targets(Text *t) {
  const Target *cpu = target_by_name("cpu"), *cuda = target_by_name("cuda");
  const char *host = cpu ? cpu->host_level() : NULL;
  for (int i = 0; cpu && i < cpu->nlevel; i++)
    text_printf(t, "  cpu  %-18s needs %s%s\n", cpu->level[i], cpu->level_needs(cpu->level[i]),
                host && !strcmp(host, cpu->level[i]) ? "   (this machine)" : "");
  for (int i = 0; cuda && i < cuda->nlevel; i++)
    text_printf(t, "  cuda %-18s needs a GPU of this generation or a newer one\n", cuda->level[i]);
}

char *mpcc_help(const char *topic) {
  Text t = {0};
  if (!strcmp(topic, "passes"))
    help_passes(&t);
  else if (!strcmp(topic, "targets"))
    help_targets(&t);
  else if (!strcmp(topic, "layers"))
    frontend_help_layers(&t);
  else if (!strcmp(topic, "spec"))
    frontend_reference(&t);
  else if (!strcmp(topic, "schema"))
    frontend_json_schema(&t);
  else if (!strcmp(topic, "precisions"))
    for (size_t i = 0; i < sizeof precisions / sizeof *precisions; i++)
      text_printf(&t, "  %-28s %s\n", precisions[i].name, precisions[i].text);
  else if (!strcmp(topic, "warnings"))
    for (size_t i = 0; i < sizeof warnings / sizeof *warnings; i++)
      text_printf(&t, "  -W%-22s %s\n", warnings[i].name, warnings[i].text);
  else if (!strncmp(topic, "MPC", 3))
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
      if (codes[i].code == atoi(topic + 3))
        text_printf(&t, "MPC%04d: %s\n", codes[i].code, codes[i].text);
  if (t.failed)
    text_fini(&t);
  return t.data;
}
