/* The effective spec: defaults, origins, command line, rules between keys, its two text forms. */
#include "spec_check.h"

static Session s;

static void setup(void) {
  s = session_open();
}

static void teardown(void) {
  session_close(&s);
}

static Spec *good(const char *text) {
  Spec *spec = spec_text(&s, text);
  if (!spec)
    dump(&s);
  ck_assert_ptr_nonnull(spec);
  return spec;
}

static const char *json_of(const Spec *spec) {
  Text t = {0};
  spec_json(spec, &t);
  const char *copy = str_c(s.strings, t.data);
  text_fini(&t);
  return copy;
}

static const char *yaml_of(const Spec *spec, bool origin) {
  Text t = {0};
  spec_resolve(spec, origin, &t);
  const char *copy = str_c(s.strings, t.data);
  text_fini(&t);
  return copy;
}

#define HAS(text, part) ck_assert_msg(strstr(text, part) != NULL, "no '%s' in %s", part, text)

START_TEST(json_has_every_key_with_its_default) {
  const char *j = json_of(good(SPEC_SMALL));
  HAS(j, "\"name\": \"t\"");
  HAS(j, "\"seed\": 0");
  HAS(j, "\"trainer\": {\"max_epochs\": 1, \"max_steps\": null, \"accumulate_grad_batches\": 1");
  HAS(j, "\"val_check_interval\": 1.0");
  HAS(j, "\"train\": {\"format\": \"synthetic\", \"shape\": [1, 4, 4], \"classes\": 3, "
         "\"samples\": 1024, \"seed\": 0, \"limit_batches\": null}");
  HAS(j, "\"val\": null");
  HAS(j, "\"transforms\": {\"train\": [{\"type\": \"ToTensor\"}], \"eval\": [{\"type\": "
         "\"ToTensor\"}]}");
  HAS(j, "\"loader\": {\"batch_size\": 2, \"shuffle\": false");
  HAS(j, "\"optimizer\": {\"type\": \"SGD\", \"lr\": 0.1, \"weight_decay\": 0.0");
  HAS(j, "\"scheduler\": null");
  HAS(j, "\"metrics\": [{\"type\": \"Accuracy\", \"name\": \"acc\", \"inputs\": {\"input\": "
         "\"logits\", \"target\": \"label\"}, \"task\": \"multiclass\", \"ignore_index\": null, \"threshold\": 0.5, "
         "\"top_k\": 1");
  HAS(j,
      "\"loss\": {\"type\": \"CrossEntropyLoss\", \"inputs\": {\"input\": \"logits\", "
      "\"target\": \"label\"}, \"factor\": 1.0, \"label_smoothing\": 0.0, \"ignore_index\": -100");
  HAS(j, "\"outputs\": {\"logits\": \"1\"}");
  HAS(j,
      "\"layers\": [{\"type\": \"Flatten\", \"name\": \"0\", \"start_dim\": 1, \"end_dim\": -1}, "
      "{\"type\": \"Linear\", \"name\": \"1\", \"out_features\": 3, \"bias\": true, "
      "\"dtype\": \"float\"}]");
  HAS(j, "\"checkpoint\": {\"dirpath\": null");
  ck_assert_ptr_null(strstr(j, "recipe")); /* idle in 32-true */
}
END_TEST

START_TEST(resolve_tells_origins) {
  const char *y = yaml_of(good(SPEC_SMALL), true);
  HAS(y, "name: t  # t.yaml:2:7\n");
  HAS(y, "seed: 0  # default\n");
  HAS(y, "  max_epochs: 1  # t.yaml:11:23\n");
  HAS(y, "  - type: Flatten");
  SpecSource src = {.path = "a/b.c.yaml", .text = "mpcc: 1\n" SPEC_SMALL};
  src.text = strstr(SPEC_SMALL, "model");
  Text t = {0};
  text_printf(&t, "mpcc: 1\n%s", src.text);
  src.text = t.data;
  src.len = t.len;
  Spec *spec = spec_of(&s, &src);
  ck_assert_str_eq(spec_name(spec), "b.c");
  HAS(yaml_of(spec, true), "name: b.c  # implied\n");
  text_fini(&t);
}
END_TEST

static char *read_text(const char *path) {
  FILE *f = fopen(path, "rb");
  ck_assert_msg(f != NULL, "%s", path);
  Text t = {0};
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof buffer, f)) > 0;)
    text_put(&t, buffer, n);
  fclose(f);
  return t.data;
}

static const char *const examples[] = {
    SOURCE_DIR "/specs/fashion-mlp.yaml",
    SOURCE_DIR "/specs/fashion-vit.yaml",
    SOURCE_DIR "/tests/golden/frontend/initialisers.yaml",
    SOURCE_DIR "/tests/golden/frontend/expr_layer.yaml",
    SOURCE_DIR "/tests/golden/frontend/residual_with_shortcut.yaml",
    SOURCE_DIR "/tests/golden/frontend/blocks_repeat_with_params.yaml",
    SOURCE_DIR "/tests/golden/frontend/attention_by_name.yaml",
    SOURCE_DIR "/tests/golden/frontend/precision_transformer_engine.yaml",
    SOURCE_DIR "/tests/golden/frontend/param_groups_first_match_wins.yaml",
    SOURCE_DIR "/tests/golden/frontend/fields_bind.yaml"};

/* What resolve writes is a spec that means the same. */
START_TEST(resolved_specs_resolve_to_themselves) {
  char *text = read_text(examples[_i]);
  Spec *first = good(text);
  const char *json = json_of(first);
  Spec *second = good(yaml_of(first, false));
  ck_assert_str_eq(json_of(second), json);
  ck_assert_str_eq(json_of(good(yaml_of(first, true))), json);
  Module *m = NULL;
  ck_assert_int_eq(spec_lower(second, s.strings, s.diag, &m), MPCC_OK);
  module_destroy(m);
  free(text);
}
END_TEST

/* ---- command line ---- */

START_TEST(defines_replace_params) {
  static const char text[] = "mpcc: 1\nparams: {n: 3, m: $(n + 1)}\nname: a$m\n"
                             "model:\n  inputs: {image: {shape: [1, 4, 4]}}\n  layers: [Flatten, "
                             "{Linear: $n}]\n  expect: {parameters: 51}" SPEC_TAIL;
  const char *define[] = {"n=5"};
  SpecSource src = {
      .path = "t.yaml", .text = text, .len = sizeof text - 1, .define = define, .ndefine = 1};
  Spec *spec = spec_of(&s, &src);
  ck_assert_str_eq(spec_name(spec), "a6");
  Module *m = NULL;
  ck_assert_int_eq(spec_lower(spec, s.strings, s.diag, &m), MPCC_OK); /* expect does not hold */
  module_destroy(m);
  define[0] = "nn=5";
  ck_assert_ptr_null(spec_of(&s, &src));
  ck_assert_str_eq(message(&s, 215)->hint, "did you mean 'n'?");
}
END_TEST

START_TEST(sets_replace_any_key) {
  const char *set[] = {"optimizer.lr=0.5",
                       "precision=bf16-mixed",
                       "precision.policy=cpu",
                       "model.layers.1.bias=false",
                       "data.val={from: train, fraction: 0.5}",
                       "loss.label_smoothing=0.25"};
  SpecSource src = {
      .path = "t.yaml", .text = SPEC_SMALL, .len = strlen(SPEC_SMALL), .set = set, .nset = 6};
  Spec *spec = spec_of(&s, &src);
  if (!spec)
    dump(&s);
  const char *y = yaml_of(spec, true);
  HAS(y, "lr: 0.5  # --set:1:14\n");
  HAS(y, "mode: bf16-mixed  # --set:2:11\n");
  HAS(y, "policy: cpu  # --set:3:18\n");
  HAS(y, "bias: false  # --set:4:21\n");
  HAS(y, "fraction: 0.5");
  HAS(y, "label_smoothing: 0.25");
}
END_TEST

static const char *const bad_sets[] = {"novalue",    "=3",       "model.layers.x=1",
                                       "a..b=1",     "seed=[",   "optimizer.lrr=1",
                                       "seed=\"3\"", "trainer=5"};

START_TEST(wrong_sets_point_at_the_argument) {
  SpecSource src = {.path = "t.yaml",
                    .text = SPEC_SMALL,
                    .len = strlen(SPEC_SMALL),
                    .set = bad_sets + _i,
                    .nset = 1};
  ck_assert_ptr_null(spec_of(&s, &src));
  const DiagMessage *m = diag_first(s.diag);
  ck_assert_str_eq(diag_file_name(s.diag, m->loc.file), "--set");
}
END_TEST

START_TEST(a_long_path_is_refused) {
  Text t = {0};
  for (int i = 0; i < 50000; i++)
    text_puts(&t, "a.");
  text_puts(&t, "a=1");
  const char *set[] = {t.data};
  SpecSource src = {
      .path = "t.yaml", .text = SPEC_SMALL, .len = strlen(SPEC_SMALL), .set = set, .nset = 1};
  ck_assert_ptr_null(spec_of(&s, &src));
  ck_assert_ptr_nonnull(message(&s, 510));
  text_fini(&t);
}
END_TEST

/* ---- extends ---- */

static Status read_chain(void *user, const char *path, char **text, size_t *len) {
  (void)user;
  const char *t = !strcmp(path, "dir/parent.yaml")       ? "mpcc: 1\nextends: base/small.yaml\n"
                                                           "optimizer: {momentum: 0.9}\n"
                  : !strcmp(path, "inc/base/small.yaml") ? SPEC_SMALL
                  : !strcmp(path, "dir/list.yaml")       ? "- 1\n"
                                                         : NULL;
  if (!t)
    return MPCC_ERR_FILE;
  *text = strdup(t);
  *len = strlen(t);
  return MPCC_OK;
}

START_TEST(parents_are_merged_and_found) {
  static const char child[] = "mpcc: 1\nextends: parent.yaml\noptimizer: {lr: 0.7}\n";
  const char *include[] = {"inc"};
  SpecSource src = {.path = "dir/child.yaml",
                    .text = child,
                    .len = sizeof child - 1,
                    .read = read_chain,
                    .include = include,
                    .ninclude = 1};
  Spec *spec = spec_of(&s, &src);
  if (!spec)
    dump(&s);
  const char *y = yaml_of(spec, true);
  HAS(y, "lr: 0.7  # dir/child.yaml:3:17\n");
  HAS(y, "momentum: 0.9  # dir/parent.yaml:3:23\n");
  HAS(y, "batch_size: 2  # inc/base/small.yaml:9:24\n");
  HAS(y, "name: t"); /* the parent's */
  static const char list[] = "mpcc: 1\nextends: list.yaml\n";
  src.text = list;
  src.len = sizeof list - 1;
  ck_assert_ptr_null(spec_of(&s, &src));
  ck_assert_str_eq(message(&s, 107)->notes->text, "extended from here");
}
END_TEST

/* ---- precision ---- */

static const struct {
  const char *section; /* of precision: */
  const char *option;  /* --precision */
  const char *mode;    /* NULL: an error */
  int code;
  bool scales;
} modes[] = {
    {"32", NULL, "32-true", 0, false},
    {"64", NULL, "64-true", 0, false},
    {"16", NULL, "16-mixed", 0, true},
    {"bf16", NULL, "bf16-mixed", 0, false},
    {"bf16-true", NULL, "bf16-true", 0, false},
    {"16-true", NULL, "16-true", 0, false},
    {"{mode: 16-true, master_weights: float32}", NULL, "16-true", 0, true},
    {"{mode: 16-true, master_weights: float32, grad_scaler: {enabled: false}}", NULL, "16-true", 0,
     false},
    {"{mode: 16-true, master_weights: float32, grad_scaler: {enabled: true}}", NULL, "16-true", 0,
     true},
    {"{mode: 16-true, grad_scaler: {enabled: true}}", NULL, NULL, 430, false},
    {"{mode: 16-true, grad_scaler: {enabled: true}}", "16-mixed", NULL, 430, false},
    {"{mode: 16-mixed, grad_scaler: {enabled: true}}", "16-true", "16-true", 0, false},
    {"{mode: bf16-mixed, grad_scaler: {enabled: true}}", NULL, "bf16-mixed", 0, true},
    {"transformer-engine", NULL, "transformer-engine", 0, false},
    {"transformer-engine-float16", NULL, "transformer-engine-float16", 0, true},
    {"{mode: transformer-engine-float16, compat: lightning}", NULL, "transformer-engine-float16", 0,
     false},
    {"{mode: transformer-engine-float16, master_weights: none}", NULL, "transformer-engine-float16",
     0, false},
    {"{mode: transformer-engine, weights_dtype: float16}", NULL, "transformer-engine", 0, true},
    {"{mode: bf16-mixed, recipe: {margin: 1}}", NULL, NULL, 431, false},
    {"{recipe: {margin: 1}}", NULL, "32-true", 0, false},
    {"{recipe: {margin: 1}}", "bf16-mixed", "bf16-mixed", 0, false},
    {"{mode: transformer-engine, recipe: {margin: 1}}", "bf16-mixed", "bf16-mixed", 0, false},
    {"{mode: bf16-mixed, master_weights: none}", NULL, NULL, 432, false},
    {"{mode: 64-true, master_weights: float32}", NULL, NULL, 432, false},
    {"nf4", NULL, NULL, 190, false},
    {"32-true", "nf4", NULL, 190, false},
    {"bf17", NULL, NULL, 204, false},
    {"{mode: bf16-mixed, recipe: {name: NVFP4BlockScaling}}", NULL, NULL, 431, false},
    {"{mode: transformer-engine, recipe: {name: NVFP4BlockScaling, fp8_format: E4M3}}", NULL, NULL,
     434, false},
    {"{mode: transformer-engine, recipe: {name: MXFP8BlockScaling}}", NULL, "transformer-engine", 0,
     false},
    {"{mode: transformer-engine, recipe: {name: MXFP8BlockScaling, margin: 1}}", NULL, NULL, 434,
     false},
    {"{mode: transformer-engine, recipe: {power_2_scales: true}}", NULL, NULL, 434, false},
    {"{mode: transformer-engine, recipe: {name: Float8BlockScaling, power_2_scales: false}}", NULL,
     "transformer-engine", 0, false},
};

START_TEST(precision_rules) {
  Text t = {0};
  text_printf(&t, "%sprecision: %s\n", SPEC_SMALL, modes[_i].section);
  SpecSource src = {.path = "t.yaml", .text = t.data, .len = t.len, .precision = modes[_i].option};
  Spec *spec = spec_of(&s, &src);
  if (!modes[_i].mode) {
    ck_assert_ptr_null(spec);
    ck_assert_ptr_nonnull(message(&s, modes[_i].code));
  } else {
    ck_assert_msg(spec != NULL, "%s", modes[_i].section);
    const Val *p = val_get(spec->root, "precision");
    ck_assert_str_eq(val_get_str(p, "mode", ""), modes[_i].mode);
    ck_assert_int_eq(precision_scales(p), modes[_i].scales);
  }
  text_fini(&t);
}
END_TEST

/* ---- schedulers ---- */

START_TEST(warmup_becomes_a_chain) {
  const char *j =
      json_of(good(SPEC_SMALL "scheduler: {warmup_steps: 4, type: CosineAnnealingLR}\n"));
  HAS(j, "\"scheduler\": {\"type\": \"SequentialLR\", \"interval\": \"step\", \"milestones\": [4], "
         "\"schedulers\": [{\"type\": \"LinearLR\", \"start_factor\": 0.25, \"end_factor\": 1.0, "
         "\"total_iters\": 4}, {\"type\": \"CosineAnnealingLR\", \"T_max\": \"auto\", \"eta_min\": "
         "0.0}]}");
}
END_TEST

START_TEST(limits_of_one_are_none) {
  HAS(json_of(good(SPEC_SMALL "x-a: 1\n")), "\"limit_val_batches\": null");
  const char *set[] = {"trainer.limit_val_batches=1.0", "trainer.limit_train_batches=7"};
  SpecSource src = {
      .path = "t.yaml", .text = SPEC_SMALL, .len = strlen(SPEC_SMALL), .set = set, .nset = 2};
  Spec *spec = spec_of(&s, &src);
  HAS(json_of(spec), "\"limit_train_batches\": 7, \"limit_val_batches\": null");
}
END_TEST

/* ---- the table ---- */

START_TEST(schema_rows_are_sound) {
  int n;
  const SchemaRow *row = schema_rows(&n);
  Check c = {.a = s.arena, .s = s.strings, .d = s.diag};
  for (int i = 0; i < n; i++) {
    for (int k = 0; k < i; k++)
      ck_assert_msg(strcmp(row[i].section, row[k].section) || strcmp(row[i].key, row[k].key),
                    "twice: %s %s", row[i].section, row[i].key);
    if (row[i].type == KT_LATER)
      continue;
    ck_assert_msg(*row[i].doc, "no doc: %s %s", row[i].section, row[i].key);
    if (row[i].type == KT_TYPE) {
      if (*row[i].arg)
        ck_assert_msg(schema_find(NULL, str_fmt(s.strings, "%s %s", row[i].section, row[i].key),
                                  row[i].arg) != NULL,
                      "main of %s", row[i].key);
      if (!strcmp(row[i].section, "layer"))
        ck_assert_msg(layer_tensors(row[i].key) != NULL, "no layer function: %s", row[i].key);
      continue;
    }
    if (!row[i].otherwise || row[i].type == KT_RAW)
      continue;
    Yaml *y;
    ck_assert_int_eq(yaml_parse_at(s.arena, s.strings, s.diag, (Loc){0}, row[i].otherwise,
                                   strlen(row[i].otherwise), &y),
                     MPCC_OK);
    int before = diag_errors(s.diag);
    const Val *v = check_value(&c, &row[i], y, "a test");
    bool needs = row[i].type == KT_SECTION && !v; /* sections with required keys */
    ck_assert_msg((v && diag_errors(s.diag) == before) || needs || !strcmp(row[i].key, "loader"),
                  "default of %s %s", row[i].section, row[i].key);
  }
}
END_TEST

/* With an index the same rows are found as by looking at all, sections in the table's order. */
START_TEST(schema_rows_are_found) {
  int n;
  const SchemaRow *row = schema_rows(&n);
  SchemaIndex *x = schema_index(s.arena);
  for (int i = 0; i < n; i++) {
    ck_assert_ptr_eq(schema_find(x, row[i].section, row[i].key), &row[i]);
    ck_assert_ptr_eq(schema_find(NULL, row[i].section, row[i].key), &row[i]);
    ck_assert_ptr_eq(schema_next(x, row[i].section, &row[i]),
                     schema_next(NULL, row[i].section, &row[i]));
    ck_assert_ptr_eq(schema_next(x, row[i].section, NULL), schema_next(NULL, row[i].section, NULL));
  }
  ck_assert_ptr_null(schema_find(x, "layer", "no such key"));
  ck_assert_ptr_null(schema_next(x, "no such section", NULL));
}
END_TEST

/* Every error of a file in one run, none twice. */
START_TEST(all_errors_in_one_run) {
  static const char text[] =
      "mpcc: 1\nsed: 3\nmodel:\n  inputs: {image: {shape: [1, 4, 4]}}\n"
      "  layers: [Flaten, {Linear: 3, biass: false}]\nloss: {type: CrossEntropyLoss, smoothing: "
      "1}\n"
      "data:\n  train: {format: idx, images: a, labels: b, extra: 1}\n"
      "  loader: {batch_size: 0, shuffle: yes}\noptimizer: {type: SGD, lr: -1}\n"
      "trainer: {max_epochs: two}\nprecision: {mode: bf16-mixed, policy: tpu}\n"
      "ema: {decay: 1.5}\n";
  ck_assert_ptr_null(spec_text(&s, text));
  ck_assert_int_eq(diag_errors(s.diag), 11);
  for (const DiagMessage *m = diag_first(s.diag); m; m = m->next)
    for (const DiagMessage *k = m->next; k; k = k->next)
      ck_assert(m->loc.line != k->loc.line || m->loc.col != k->loc.col);
}
END_TEST

/* Every prefix of a spec, and changed bytes: a spec or an error, never a crash. */
START_TEST(damaged_specs_do_not_crash) {
  char *text = read_text(SOURCE_DIR "/specs/fashion-vit.yaml");
  size_t len = strlen(text);
  unsigned seed = 99;
  for (int i = 0; i < 400; i++) {
    Session t = session_open();
    char *copy = strdup(text);
    for (int k = 0; k < 4; k++) {
      seed = seed * 1103515245u + 12345u;
      size_t from = (seed >> 4) % len;
      seed = seed * 1103515245u + 12345u;
      copy[from] = text[(seed >> 4) % len];
    }
    SpecSource src = {.path = "t.yaml", .text = copy, .len = i % 2 ? len : (seed >> 3) % len};
    Spec *spec = NULL;
    Module *m = NULL;
    if (spec_parse(t.arena, t.strings, t.diag, &src, &spec) == MPCC_OK)
      spec_lower(spec, t.strings, t.diag, &m);
    else
      ck_assert_int_gt(diag_errors(t.diag), 0);
    module_destroy(m);
    free(copy);
    session_close(&t);
  }
  free(text);
}
END_TEST

START_TEST(running_out_of_memory_is_said) {
  char *text = read_text(SOURCE_DIR "/tests/golden/frontend/residual_with_shortcut.yaml");
  SpecSource src = {.path = "t.yaml", .text = text, .len = strlen(text)};
  for (long n = 1;; n++) {
    Session t = session_open();
    Spec *spec = NULL;
    Module *m = NULL;
    arena_fail_after(n);
    Status st = spec_parse(t.arena, t.strings, t.diag, &src, &spec);
    if (st == MPCC_OK)
      st = spec_lower(spec, t.strings, t.diag, &m);
    arena_fail_after(0);
    ck_assert_msg(st == MPCC_OK || st == MPCC_ERR_NOMEM, "allocation %ld: status %d", n, st);
    module_destroy(m);
    session_close(&t);
    if (st == MPCC_OK)
      break;
  }
  free(text);
}
END_TEST

#define LOOP(test, table) tcase_add_loop_test(c, test, 0, sizeof table / sizeof *table)

int main(void) {
  Suite *suite = suite_create("spec");
  TCase *c = tcase_create("all");
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_set_timeout(c, 120);
  tcase_add_test(c, json_has_every_key_with_its_default);
  tcase_add_test(c, resolve_tells_origins);
  LOOP(resolved_specs_resolve_to_themselves, examples);
  tcase_add_test(c, defines_replace_params);
  tcase_add_test(c, sets_replace_any_key);
  LOOP(wrong_sets_point_at_the_argument, bad_sets);
  tcase_add_test(c, a_long_path_is_refused);
  tcase_add_test(c, parents_are_merged_and_found);
  LOOP(precision_rules, modes);
  tcase_add_test(c, warmup_becomes_a_chain);
  tcase_add_test(c, limits_of_one_are_none);
  tcase_add_test(c, schema_rows_are_sound);
  tcase_add_test(c, schema_rows_are_found);
  tcase_add_test(c, all_errors_in_one_run);
  tcase_add_test(c, damaged_specs_do_not_crash);
  tcase_add_test(c, running_out_of_memory_is_said);
  suite_add_tcase(suite, c);
  return check_run(suite);
}
