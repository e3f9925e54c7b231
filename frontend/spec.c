/* The effective spec: every key checked by the schema, every default filled in, rules between keys
 * applied, the model expanded. One run reports all mistakes.
 *
 * The result is one Val tree with YAML's own keys. spec_resolve prints it for people; spec_json is
 * what the runtime reads (`trainer.max_epochs` is at /trainer/max_epochs, unset optional keys are
 * null). What the tree says differently from the file:
 *   model.layers     flat: blocks, repeats, residual and parallel are expanded, names are full
 *   scheduler        `warmup_steps` has become SequentialLR
 *   data.transforms  {train: [...], eval: [...]}
 *   optimizer.param_groups[k]  has every hyperparameter; module attribute group.<k + 1>, while
 *                    group 0 holds the parameters that no group matches
 *   params, extends  are gone */
#include <ctype.h>

#include "frontend/frontend.h"

static Str key(const Check *c, const char *name) {
  return str_c(c->s, name);
}

static bool is_null(const Val *v) {
  return !v || v->kind == VAL_NULL;
}

static Val *word(const Check *c, const char *text) {
  return val_str(c->a, str_c(c->s, text), ORIGIN_IMPLIED, (Loc){0});
}

/* ---- params ---- */

static bool is_identifier(const char *s) {
  if (!*s || strchr("0123456789", *s))
    return false;
  return strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == strlen(s);
}

/* Evaluates `params:` in order; each may use those before it. */
static void read_params(Check *c, const Yaml *y, ParamScope *scope) {
  if (!y || y->kind == YAML_NULL)
    return;
  if (y->kind != YAML_MAP) {
    diag_error(c->d, y->loc, 201, "'params' takes a map, not %s", yaml_kind_text(y));
    return;
  }
  scope->param = ARENA_ARRAY(c->a, Param, y->n + 1);
  for (int i = 0; i < y->n && !arena_failed(c->a); i++) {
    const YamlPair *p = &y->u.pair[i];
    if (!strncmp(p->key->text, "x-", 2))
      continue;
    if (!is_identifier(p->key->text) || !strcmp(p->key->text, "i") ||
        !strcmp(p->key->text, "min") || !strcmp(p->key->text, "max") ||
        !strcmp(p->key->text, "sqrt")) {
      diag_error(c->d, p->key->loc, 218, "'%s' cannot name a parameter", p->key->text);
      diag_hint(c->d, "letters, digits and _; i, min, max and sqrt are taken");
      continue;
    }
    Val *v = check_free(c, p->value);
    scope->param[scope->n++] = (Param){.name = p->key->text, .value = v, .loc = p->key->loc};
  }
}

static void unused_params(const Check *c, const ParamScope *scope) {
  for (int i = 0; i < scope->n; i++)
    if (!scope->param[i].used) {
      diag_error(c->d, scope->param[i].loc, 216, "parameter '%s' is never used",
                 scope->param[i].name);
      diag_hint(c->d, "use $%s, remove it, or name it x-%s", scope->param[i].name,
                scope->param[i].name);
    }
}

/* ---- data ---- */

static void read_val_split(const Check *c, const Yaml *data, Val *out) {
  const Yaml *y = yaml_get(data, "val");
  if (!y || y->kind == YAML_NULL)
    return;
  Val *v = yaml_get(y, "from") ? check_section(c, "data split", NULL, y, y->loc, "'val'")
                               : check_variant(c, "data source", "format", y, "val");
  if (v)
    val_set(c->a, out, key(c, "val"), v);
}

static Val *default_transforms(const Check *c) {
  Val *list = val_new(c->a, VAL_LIST, ORIGIN_DEFAULT, (Loc){0});
  Val *t = val_new(c->a, VAL_MAP, ORIGIN_DEFAULT, (Loc){0});
  val_set(c->a, t, key(c, "type"), word(c, "ToTensor"));
  val_add(c->a, list, t);
  return list;
}

static const Val *random_transform(const Val *list) {
  for (int i = 0; i < list->n; i++)
    if (!strncmp(val_get_str(list->item[i], "type", ""), "Random", 6))
      return list->item[i];
  return NULL;
}

/* One list serves both; the evaluation list defaults to the training one, unless that is random. */
static void read_transforms(const Check *c, const Yaml *data, Val *out) {
  const Yaml *y = yaml_get(data, "transforms");
  Val *v = NULL;
  if (y && y->kind == YAML_LIST) {
    Yaml k = {.kind = YAML_SCALAR, .loc = y->loc, .text = key(c, "train")};
    YamlPair pair = {&k, (Yaml *)y};
    Yaml map = {.kind = YAML_MAP, .loc = y->loc, .n = 1, .u.pair = &pair};
    v = check_section(c, "data transforms", NULL, &map, y->loc, "'transforms'");
  } else {
    v = check_section(c, "data transforms", NULL, y, y ? y->loc : (Loc){0}, "'transforms'");
  }
  if (!v)
    return;
  Val *train = val_get(v, "train"), *eval = val_get(v, "eval");
  bool has_train = train && train->kind == VAL_LIST, has_eval = eval && eval->kind == VAL_LIST;
  if (!has_train)
    val_set(c->a, v, key(c, "train"), default_transforms(c));
  const Val *random = has_train && !has_eval ? random_transform(train) : NULL;
  if (random && (yaml_get(data, "val") || yaml_get(data, "test"))) {
    diag_error(c->d, random->loc, 346, "evaluation would be random too: '%s'",
               val_get_str(random, "type", ""));
    diag_hint(c->d, "give data.transforms.eval its own list beside train");
  }
  if (!has_eval)
    val_set(c->a, v, key(c, "eval"), has_train ? train : default_transforms(c));
  val_set(c->a, out, key(c, "transforms"), v);
}

static void check_transforms(const Check *c, const Val *list, const Model *m) {
  const Val *shape = m && m->ninput ? m->input[0]->shape : NULL;
  const bool vector = shape && shape->n == 1 && m->ninput == 1 &&
                      !strcmp(val_get_str(m->input[0]->args, "dtype", "float32"), "float32");
  int64_t channels = shape && (shape->n == 3 || vector) ? shape->item[0]->i : 0;
  for (int i = 0; list && list->kind == VAL_LIST && i < list->n; i++) {
    const Val *t = list->item[i], *mean = val_get(t, "mean"), *std = val_get(t, "std");
    const Val *size = val_get(t, "size"), *pad = val_get(t, "padding");
    if (size && size->kind == VAL_LIST && (size->n < 1 || size->n > 2))
      diag_error(c->d, size->loc, 201, "'size' takes 1 or 2 elements, not %d", size->n);
    if (pad && pad->kind == VAL_LIST && pad->n != 1 && pad->n != 2 && pad->n != 4)
      diag_error(c->d, pad->loc, 201, "'padding' takes 1, 2 or 4 elements, not %d", pad->n);
    if (!mean || mean->kind != VAL_LIST || !std || std->kind != VAL_LIST)
      continue;
    if (mean->n != std->n)
      diag_error(c->d, std->loc, 343, "'mean' has %d elements, 'std' has %d", mean->n, std->n);
    else if (channels && mean->n != 1 && mean->n != channels)
      diag_error(c->d, mean->loc, 343, "Normalize has %d %s, the input has %lld", mean->n,
                 vector ? "numbers" : "channels", (long long)channels);
  }
}

/* Rules between windows of tokens and the rest. */
static void check_sequences(const Check *c, const Val *data, const Model *m) {
  const Val *length = val_get(data, "train.sequence_length"), *from = val_get(data, "val.from");
  const Node *in = m && m->ninput ? m->input[0] : NULL;
  if (length && length->kind == VAL_INT && in && in->shape && in->shape->n == 1 &&
      in->shape->item[0]->i != length->i) {
    diag_error(c->d, length->loc, 341, "samples have %lld tokens, input '%s' has %lld",
               (long long)length->i, in->name, (long long)in->shape->item[0]->i);
    diag_note(c->d, in->shape->loc, "the input's shape");
  }
  if (from && from->kind == VAL_STR &&
      !strcmp(val_get_str(data, "train.sampling", "sequential"), "random")) {
    diag_error(c->d, from->loc, 345,
               "windows at random places of data.train would overlap those of data.val");
    diag_hint(c->d, "give data.val files of its own, or say sampling: sequential");
  }
}

static void read_data(const Check *c, const Yaml *y, Val *out, const Model *m) {
  read_val_split(c, y, out);
  read_transforms(c, y, out);
  check_transforms(c, val_get(out, "transforms.train"), m);
  if (val_get(out, "transforms.eval") != val_get(out, "transforms.train"))
    check_transforms(c, val_get(out, "transforms.eval"), m);
  check_sequences(c, out, m);
  const Val *shape = val_get(out, "train.shape");
  const Node *in = m && m->ninput ? m->input[0] : NULL;
  if (!shape || shape->kind != VAL_LIST || !in || !in->shape)
    return;
  bool same = shape->n == in->shape->n;
  for (int i = 0; same && i < shape->n; i++)
    same = shape->item[i]->i == in->shape->item[i]->i;
  if (!same) {
    diag_error(c->d, shape->loc, 341, "samples do not have the shape of input '%s'", in->name);
    diag_note(c->d, in->shape->loc, "the input's shape");
  }
}

/* ---- optimizer, scheduler ---- */

static void read_groups(const Check *c, const Yaml *y, Val *optimizer) {
  Str type = val_get_str(optimizer, "type", NULL);
  Val *groups = val_new(c->a, VAL_LIST, ORIGIN_FILE, (Loc){0});
  val_set(c->a, optimizer, key(c, "param_groups"), groups);
  const Yaml *list = y ? yaml_get(y, "param_groups") : NULL;
  if (!list || !type)
    return;
  if (list->kind != YAML_LIST) {
    diag_error(c->d, list->loc, 201, "'param_groups' takes a list, not %s", yaml_kind_text(list));
    return;
  }
  for (int i = 0; i < list->n; i++) {
    const Yaml *g = list->u.item[i];
    Val *v = check_section(c, "param group", str_fmt(c->s, "optimizer %s", type), g, g->loc,
                           "'param_groups'");
    if (!v)
      continue;
    if (is_null(val_get(v, "match")) == is_null(val_get(v, "match_ndim"))) {
      diag_error(c->d, g->loc, 109, "a parameter group has either 'match' or 'match_ndim'");
      continue;
    }
    for (int k = 0; k < v->n; k++) /* what a group does not say is the optimizer's */
      if (!yaml_get(g, v->key[k]) && val_get(optimizer, v->key[k]))
        v->item[k] = val_get(optimizer, v->key[k]);
    val_add(c->a, groups, v);
  }
}

/* Rules of a chain: one scheduler more than milestones, which increase. */
static void check_chain(const Check *c, const Val *v) {
  const Val *stones = val_get(v, "milestones"), *list = val_get(v, "schedulers");
  if (!stones || stones->kind != VAL_LIST || !list || list->kind != VAL_LIST)
    return;
  if (list->n != stones->n + 1) {
    diag_error(c->d, stones->loc, 330, "%d schedulers need %d milestones, not %d", list->n,
               list->n - 1, stones->n);
    return;
  }
  for (int i = 1; i < stones->n; i++)
    if (stones->item[i]->i <= stones->item[i - 1]->i)
      diag_error(c->d, stones->item[i]->loc, 330, "milestones must increase: %lld follows %lld",
                 (long long)stones->item[i]->i, (long long)stones->item[i - 1]->i);
  for (int i = 0; i < list->n; i++) {
    const Val *s = list->item[i], *warm = val_get(s, "warmup_steps");
    if (!strcmp(val_get_str(s, "type", ""), "SequentialLR") || (warm && warm->kind == VAL_INT))
      diag_error(c->d, s->loc, 190, "a chain of schedulers inside a chain is not supported yet");
    if (!strcmp(val_get_str(s, "type", ""), "ReduceLROnPlateau"))
      diag_error(c->d, s->loc, 330, "ReduceLROnPlateau cannot be part of a chain");
  }
}

/* `warmup_steps: N` becomes LinearLR from 1/N over N steps, then the scheduler itself. */
static Val *expand_warmup(const Check *c, Val *v) {
  Val *warm = val_get(v, "warmup_steps");
  bool wanted = warm && warm->kind == VAL_INT;
  const Val *list = val_get(v, "schedulers");
  for (int i = 0; list && list->kind == VAL_LIST && i < list->n; i++)
    val_remove(list->item[i], "interval");
  if (wanted && !strcmp(val_get_str(v, "type", ""), "ReduceLROnPlateau"))
    diag_error(c->d, warm->loc, 330, "warmup_steps does not go with ReduceLROnPlateau");
  if (wanted && list) {
    diag_error(c->d, warm->loc, 190, "warmup_steps of a SequentialLR is not supported yet");
    diag_hint(c->d, "put a LinearLR first in its schedulers");
  }
  if (wanted && !strcmp(val_get_str(v, "interval", "step"), "epoch")) {
    diag_error(c->d, warm->loc, 330, "warmup_steps does not go with interval: epoch");
    diag_hint(c->d, "write a SequentialLR with a LinearLR of whole epochs");
  }
  if (!wanted || list) {
    check_chain(c, v);
    for (int i = 0; list && list->kind == VAL_LIST && i < list->n; i++)
      val_remove(list->item[i], "warmup_steps");
    val_remove(v, "warmup_steps");
    return v;
  }
  Val *chain = val_new(c->a, VAL_MAP, v->origin, v->loc),
      *linear = val_new(c->a, VAL_MAP, ORIGIN_IMPLIED, warm->loc);
  Val *stones = val_new(c->a, VAL_LIST, ORIGIN_IMPLIED, warm->loc);
  Val *both = val_new(c->a, VAL_LIST, ORIGIN_IMPLIED, v->loc);
  val_set(c->a, linear, key(c, "type"), word(c, "LinearLR"));
  val_set(c->a, linear, key(c, "start_factor"),
          val_float(c->a, 1.0 / (double)warm->i, ORIGIN_IMPLIED, warm->loc));
  val_set(c->a, linear, key(c, "end_factor"), val_float(c->a, 1, ORIGIN_IMPLIED, warm->loc));
  val_set(c->a, linear, key(c, "total_iters"), warm);
  val_set(c->a, chain, key(c, "type"), word(c, "SequentialLR"));
  val_set(c->a, chain, key(c, "interval"), val_get(v, "interval"));
  val_add(c->a, stones, warm);
  val_set(c->a, chain, key(c, "milestones"), stones);
  val_remove(v, "warmup_steps");
  val_remove(v, "interval");
  val_add(c->a, both, linear);
  val_add(c->a, both, v);
  val_set(c->a, chain, key(c, "schedulers"), both);
  return chain;
}

/* OneCycleLR's `epochs` times `steps_per_epoch` is `total_steps`, unless that is given. */
static void settle_cycle(const Check *c, Val *v) {
  const Val *list = val_get(v, "schedulers"), *total = val_get(v, "total_steps");
  for (int i = 0; list && list->kind == VAL_LIST && i < list->n; i++)
    settle_cycle(c, list->item[i]);
  const Val *epochs = val_get(v, "epochs"), *steps = val_get(v, "steps_per_epoch");
  if (!epochs || !steps)
    return;
  bool both = epochs->kind == VAL_INT && steps->kind == VAL_INT;
  int64_t product = 0;
  if (epochs->kind != steps->kind) {
    diag_error(c->d, (is_null(epochs) ? steps : epochs)->loc, 109,
               "'epochs' and 'steps_per_epoch' go together");
  } else if (both && (__builtin_mul_overflow(epochs->i, steps->i, &product) || product < 2)) {
    diag_error(c->d, epochs->loc, 202, "'epochs' times 'steps_per_epoch' is %s",
               product == 1 ? "1, a cycle has at least 2 steps" : "too large");
  } else if (both && total && total->kind != VAL_INT) {
    val_set(c->a, v, key(c, "total_steps"), val_int(c->a, product, ORIGIN_FILE, epochs->loc));
  }
  val_remove(v, "epochs");
  val_remove(v, "steps_per_epoch");
}

/* ---- rules across sections ---- */

/* The first scheduler that moves the momentum, or NULL. */
static const Val *momentum_cycle(const Val *v) {
  const Val *list = val_get(v, "schedulers"), *found = NULL;
  for (int i = 0; list && list->kind == VAL_LIST && i < list->n && !found; i++)
    found = momentum_cycle(list->item[i]);
  return val_get_bool(v, "cycle_momentum", false) ? v : found;
}

static void check_cycle(const Check *c, const Val *root, bool *cycles) {
  const Val *cycle = momentum_cycle(val_get(root, "scheduler")), *o = val_get(root, "optimizer");
  *cycles = cycle != NULL;
  if (!cycle || !o || o->kind != VAL_MAP || val_get(o, "betas") || val_get(o, "momentum"))
    return;
  diag_error(c->d, cycle->loc, 330, "%s has no momentum, which this schedule moves",
             val_get_str(o, "type", "the optimizer"));
  diag_hint(c->d, "write cycle_momentum: false");
}

/* `limit_*_batches`: 1.0 is all of them, written as null. */
static void check_limits(const Check *c, Val *trainer) {
  const Val *interval = val_get(trainer, "val_check_interval");
  if (interval && interval->kind == VAL_FLOAT && interval->f > 1)
    diag_error(
        c->d, interval->loc, 202,
        "'val_check_interval' is a share of an epoch up to 1.0 or a whole number of batches");
  const Val *epochs = val_get(trainer, "check_val_every_n_epoch");
  if (epochs && epochs->kind == VAL_NULL && interval && interval->kind != VAL_INT)
    diag_error(c->d, epochs->loc, 202,
               "'check_val_every_n_epoch: null' needs a whole number as val_check_interval");
  static const char *const keys[] = {"limit_train_batches", "limit_val_batches",
                                     "limit_test_batches", "overfit_batches"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    Val *v = val_get(trainer, keys[i]);
    if (!v || v->kind != VAL_FLOAT)
      continue;
    if (v->f > 1) {
      diag_error(c->d, v->loc, 202, "'%s' is a share up to 1.0 or a whole number of batches",
                 keys[i]);
      continue;
    }
    if (v->f == 1.0)
      v->kind = VAL_NULL;
  }
}

/* A raw key of the trainer as it is written; NULL and *y NULL when it is not. */
static Val *raw_of_trainer(const Check *c, const Yaml *root, const char *name, const Yaml **y) {
  const Yaml *section = yaml_get(root, "trainer");
  *y = section && section->kind == YAML_MAP ? yaml_get(section, name) : NULL;
  return *y && (*y)->kind != YAML_NULL ? check_free(c, *y) : NULL;
}

/* `fast_dev_run`: false, true or a number of batches; in the effective spec a number, 0 for none.
 */
static void read_dev_run(const Check *c, const Yaml *root, Val *trainer) {
  const Yaml *y;
  Val *v = raw_of_trainer(c, root, "fast_dev_run", &y);
  bool number = v && (v->kind == VAL_INT || v->kind == VAL_BOOL) && v->i >= 0 && v->i <= 1000000;
  if (v && !number)
    diag_error(c->d, y->loc, 201, "'fast_dev_run' takes true, false or a number of batches");
  Loc loc = y ? y->loc : (Loc){0};
  val_set(c->a, trainer, key(c, "fast_dev_run"),
          val_int(c->a, number ? v->i : 0, y ? ORIGIN_FILE : ORIGIN_DEFAULT, loc));
}

/* Seconds of "DD:HH:MM:SS", hours from 0 to 23 and so on; -1 for other texts. */
static int64_t seconds_of(const char *text) {
  static const int most[] = {9999, 23, 59, 59}, unit[] = {86400, 3600, 60, 1};
  int64_t sum = 0;
  for (int i = 0; i < 4; i++) {
    int v = 0, digits = 0;
    for (; isdigit((unsigned char)*text) && digits < 4; digits++)
      v = 10 * v + *text++ - '0';
    if (!digits || v > most[i] || *text++ != (i < 3 ? ':' : 0))
      return -1;
    sum += (int64_t)v * unit[i];
  }
  return sum;
}

/* `max_time`: in the effective spec whole seconds. */
static void read_max_time(const Check *c, const Yaml *root, Val *trainer) {
  const Yaml *y;
  Val *v = raw_of_trainer(c, root, "max_time", &y);
  if (!v)
    return;
  int64_t seconds = v->kind == VAL_INT ? v->i : v->kind == VAL_STR ? seconds_of(v->s) : -1;
  if (seconds < 0)
    diag_error(c->d, y->loc, 201, "'max_time' takes a text DD:HH:MM:SS, or whole seconds");
  else
    val_set(c->a, trainer, key(c, "max_time"), val_int(c->a, seconds, ORIGIN_FILE, y->loc));
}

static void check_trainer(const Check *c, const Val *root, const Yaml *yaml) {
  Loc loc = yaml->loc;
  Val *t = val_get(root, "trainer");
  if (!t)
    return;
  read_dev_run(c, yaml, t);
  read_max_time(c, yaml, t);
  check_limits(c, t);
  const Val *skip = val_get(t, "skip_outliers"), *loss = val_get(skip, "loss_zscore"),
            *norm = val_get(skip, "grad_norm_zscore");
  if (loss && norm && is_null(loss) && is_null(norm))
    diag_error(c->d, skip->loc, 109,
               "'skip_outliers' has neither loss_zscore nor grad_norm_zscore");
  if (t->origin == ORIGIN_IMPLIED) /* has unknown keys: one of them may be the end */
    return;
  const Val *epochs = val_get(t, "max_epochs"), *steps = val_get(t, "max_steps");
  const bool dev_run = val_get_int(t, "fast_dev_run", 0) > 0;
  if (!dev_run && is_null(val_get(t, "max_time")) && epochs && steps && epochs->kind == VAL_NULL &&
      steps->kind == VAL_NULL && epochs->origin != ORIGIN_IMPLIED &&
      steps->origin != ORIGIN_IMPLIED) {
    diag_error(c->d, t->loc.file ? t->loc : loc, 109, "'trainer' says no end");
    diag_hint(c->d, "give max_epochs, max_steps or max_time");
  }
}

/* A metric that something watches: measured, and on data there is. */
static void check_monitor(const Check *c, const Val *root, const char *path) {
  const Val *v = val_get(root, path), *metrics = val_get(root, "metrics");
  if (!v || v->kind != VAL_STR)
    return;
  const char *known[32] = {"val/loss"};
  size_t n = 1;
  for (int i = 0; metrics && metrics->kind == VAL_LIST && i < metrics->n && n < 32; i++)
    known[n++] = str_fmt(c->s, "val/%s", val_get_str(metrics->item[i], "name", ""));
  bool found = false;
  for (size_t i = 0; i < n; i++)
    found |= !strcmp(known[i], v->s);
  Loc loc = v->loc.file ? v->loc : val_get(root, "scheduler")->loc;
  if (!found) {
    diag_error(c->d, loc, 204, "nothing measures '%s'", v->s);
    const char *near = diag_suggest(v->s, known, n);
    diag_hint(c->d, near ? "did you mean '%s'?" : "there is '%s'", near ? near : known[n - 1]);
    return;
  }
  const Val *val = val_get(root, "data.val"), *limit = val_get(root, "trainer.limit_val_batches");
  const bool none = limit && ((limit->kind == VAL_INT && limit->i == 0) ||
                              (limit->kind == VAL_FLOAT && limit->f == 0));
  if (!strncmp(v->s, "val/", 4) && (none || (val && val->kind == VAL_NULL))) {
    diag_error(c->d, loc, 342, "'%s' needs validation data", v->s);
    diag_hint(c->d, none ? "trainer.limit_val_batches is 0"
                         : "give data.val, like {from: train, fraction: 0.1}");
  }
}

/* The report is drawn from metrics.jsonl; a sample needs logits over tokens. */
static void check_logging(const Check *c, const Val *root, const Model *m) {
  const Val *report = val_get(root, "logging.report"), *sample = val_get(root, "logging.sample");
  if (report && !strcmp(val_get_str(root, "logging.report", ""), "html") &&
      !val_get_bool(root, "logging.jsonl", true))
    diag_error(c->d, report->loc, 109, "report: html is drawn from metrics.jsonl; leave jsonl on");
  if (!sample || sample->kind != VAL_MAP)
    return;
  const Node *in = m->ninput == 1 ? m->input[0] : NULL;
  bool bytes = !strcmp(val_get_str(root, "data.train.format", ""), "text");
  const Val *tokens = val_get(sample, "tokens");
  if (!in || !in->shape || in->shape->n != 1)
    diag_error(c->d, sample->loc, 347, "a sample needs a model of one input, a sequence of tokens");
  else if (!bytes && (!tokens || tokens->kind != VAL_LIST)) {
    diag_error(c->d, sample->loc, 347,
               "the tokens of this data are no bytes, so a prompt has no meaning");
    diag_hint(c->d, "give logging.sample.tokens, the numbers to go on from");
  }
}

/* Numbers `eps` that round to 0 in the format of a mode's parameters and states, `half` being the
 * largest that does. One that nobody wrote is at `at`: for the groups of an optimizer, which take it
 * over, the optimizer. */
static void warn_underflow(const Check *c, const Val *v, Loc at, const char *mode,
                           const char *format, double half) {
  for (int i = 0; v && (v->kind == VAL_MAP || v->kind == VAL_LIST) && i < v->n; i++) {
    const Val *x = v->item[i];
    bool eps = v->kind == VAL_MAP && !strcmp(v->key[i], "eps") && x && x->kind == VAL_FLOAT;
    if (eps && x->f > 0 && x->f <= half) {
      diag_warning(c->d, x->loc.file ? x->loc : at, "constant-underflow", "eps %g becomes 0 in %s, the format of mode %s",
                   x->f, format, mode);
      if (x->f > 0x1p-150)
        diag_hint(c->d, "computed in FP32 here; elsewhere a zero denominator may follow: try %s",
                  half < 0x1p-100 ? "1e-8" : "1e-7");
      else
        diag_hint(c->d, "a zero denominator may follow: try 1e-8");
    } else if (x && !eps) {
      const bool part = v->kind == VAL_MAP && x->kind == VAL_MAP;
      warn_underflow(c, x, part ? x->loc : at, mode, format, half);
    }
  }
}

/* A text that stands for a command line option, as a value with a place. */
static Val *option_value(const Check *c, const char *option, const char *text) {
  uint32_t file = diag_file(c->d, option, text, strlen(text));
  Loc loc = {.file = file, .line = 1, .col = 1, .len = (uint32_t)strlen(text)};
  return val_str(c->a, str_c(c->s, text), ORIGIN_FILE, loc);
}

/* The mode of the command line, at its place in the option that has it, alone or among others. */
static Val *option_mode(const Check *c, const SpecSource *src) {
  const char *from = src->precision_from, *list = from ? strchr(from, '=') : NULL;
  if (!src->precision || !list)
    return src->precision ? option_value(c, "--precision", src->precision) : NULL;
  Val *v = option_value(c, str_intern(c->s, from, (size_t)(list - from)), list + 1);
  const size_t len = strlen(src->precision);
  v->s = str_c(c->s, src->precision);
  for (const char *at = list + 1; *at; at += strcspn(at, ","), at += *at == ',')
    if (strcspn(at, ",") == len && !strncmp(at, src->precision, len)) {
      v->loc.col = (uint32_t)(at - list);
      v->loc.len = (uint32_t)len;
      break;
    }
  return v;
}

static Str default_name(const Check *c, const char *path) {
  const char *slash = strrchr(path, '/');
  const char *base = slash ? slash + 1 : path, *dot = strrchr(base, '.');
  size_t len = dot && dot > base ? (size_t)(dot - base) : strlen(base);
  return !strcmp(base, "-") || !len ? str_c(c->s, "program") : str_intern(c->s, base, len);
}

/* Program and folder names come from `name`: no separators, nothing hidden. */
static void check_name(const Check *c, Val *root, const SpecSource *src) {
  Val *v = val_get(root, "name");
  if (!v || v->kind == VAL_NULL) {
    val_set(c->a, root, key(c, "name"),
            val_str(c->a, default_name(c, src->path), ORIGIN_IMPLIED, (Loc){0}));
    return;
  }
  if (v->kind == VAL_STR && (!*v->s || *v->s == '.' || *v->s == '-' || strchr(v->s, '/')))
    diag_error(c->d, v->loc, 202, "'name' becomes a file name and cannot be '%s'", v->s);
}

static void check_all(Spec *s, const SpecSource *src, const Yaml *root) {
  const Check *c = &s->c;
  s->root = check_section(c, "", NULL, root, root->loc, "the spec");
  if (!s->root)
    return;
  if (yaml_get(root, "loss"))
    losses_read(s, yaml_get(root, "loss"));
  metrics_read(s, yaml_get(root, "metrics"));
  const Yaml *model = yaml_get(root, "model");
  s->model_ok = model && model_expand(c, model, &s->model);
  Val *data = val_get(s->root, "data"), *optimizer = val_get(s->root, "optimizer");
  Val *scheduler = val_get(s->root, "scheduler"), *precision = val_get(s->root, "precision");
  if (data && data->kind == VAL_MAP)
    read_data(c, yaml_get(root, "data"), data, &s->model);
  if (optimizer && optimizer->kind == VAL_MAP)
    read_groups(c, yaml_get(root, "optimizer"), optimizer);
  if (scheduler && scheduler->kind == VAL_MAP)
    settle_cycle(c, scheduler);
  check_cycle(c, s->root, &s->cycles_momentum);
  if (scheduler && scheduler->kind == VAL_MAP)
    val_set(c->a, s->root, key(c, "scheduler"), expand_warmup(c, scheduler));
  check_name(c, s->root, src);
  check_trainer(c, s->root, root);
  check_monitor(c, s->root, "checkpoint.monitor");
  check_monitor(c, s->root, "scheduler.monitor");
  check_monitor(c, s->root, "early_stopping.monitor");
  if (s->model_ok)
    check_logging(c, s->root, &s->model);
  if (s->model_ok) {
    losses_resolve(s);
    metrics_resolve(s);
    model_check_used(c, &s->model);
  }
  batch_settle(s);
  if (precision && precision->kind == VAL_MAP) {
    s->idle = precision_check(c, precision, option_mode(c, src));
    const char *mode = val_get_str(precision, "mode", "");
    bool masters = !strcmp(val_get_str(precision, "master_weights", ""), "float32");
    const Loc where = optimizer ? optimizer->loc : (Loc){0};
    if (!strcmp(mode, "16-true") && !masters)
      warn_underflow(c, optimizer, where, mode, "float16", 0x1p-25);
    else if (!strcmp(mode, "bf16-true") && !masters)
      warn_underflow(c, optimizer, where, mode, "bfloat16", 0x1p-134);
    else if (strcmp(mode, "64-true") != 0)
      warn_underflow(c, optimizer, where, mode, "float32", 0x1p-150);
    if (s->model_ok)
      precision_overrides(c, precision, &s->model);
  }
  val_remove(s->root, "params");
  val_remove(s->root, "extends");
  if (s->model_ok)
    val_set(c->a, s->root, key(c, "model"), model_value(c, &s->model));
}

Status spec_parse(Arena *a, StrTable *strings, Diag *d, const SpecSource *src, Spec **out) {
  *out = NULL;
  int before = diag_errors(d);
  Yaml *root;
  Spec *s = ARENA_NEW(a, Spec);
  Status st = source_load(a, strings, d, src, &s->parents, &root);
  if (arena_failed(a))
    return MPCC_ERR_NOMEM;
  if (st != MPCC_OK && (!root || st != MPCC_ERR_INPUT)) {
    source_notes(d, &s->parents);
    return st;
  }
  ParamScope *scope = ARENA_NEW(a, ParamScope);
  s->c = (Check){.a = a, .s = strings, .d = d, .scope = scope, .rows = schema_index(a)};
  s->defines = src->ndefine > 0;
  read_params(&s->c, yaml_get(root, "params"), scope);
  check_all(s, src, root);
  if (diag_errors(d) == before)
    unused_params(&s->c, scope);
  if (arena_failed(a))
    return MPCC_ERR_NOMEM;
  if (diag_errors(d) > before && s->root && s->model_ok)
    lower_shapes(s, strings, d); /* misfits of the model belong to the same report */
  if (arena_failed(a))
    return MPCC_ERR_NOMEM;
  source_notes(d, &s->parents);
  if (diag_errors(d) > before || !s->root)
    return MPCC_ERR_INPUT;
  *out = s;
  return MPCC_OK;
}

void spec_resolve(const Spec *s, bool with_origin, Text *out) {
  val_yaml(s->root, with_origin ? s->c.d : NULL, out);
}

void spec_json(const Spec *s, Text *out) {
  val_json(s->root, out);
}

void spec_places(const Spec *s, Text *out) {
  static const char *const keys[] = {"trainer.val_check_interval"};
  const char *comma = "";
  text_puts(out, "{");
  for (size_t i = 0; s && i < sizeof keys / sizeof *keys; i++) {
    const Val *v = val_get(s->root, keys[i]);
    const char *file = v ? diag_file_name(s->c.d, v->loc.file) : NULL;
    if (!file || !v->loc.line)
      continue;
    Text at = {0};
    text_printf(&at, "%s:%u:%u", file, v->loc.line, v->loc.col);
    text_puts(out, comma);
    text_json(out, keys[i]);
    text_puts(out, ":");
    text_json(out, at.data ? at.data : "");
    out->failed |= at.failed;
    text_fini(&at);
    comma = ",";
  }
  text_puts(out, "}");
}

const char *spec_name(const Spec *s) {
  return val_get_str(s->root, "name", "program");
}
