/* The model as a value of the spec language, every layer with its full name: what resolve prints.
 */
#include "frontend/model.h"

static Val *inputs_value(const Check *c, const Node *n) {
  if (!n->in_key && n->nin == 1)
    return val_str(c->a, n->in[0]->name, ORIGIN_FILE, n->loc);
  Val *v = val_new(c->a, n->in_key ? VAL_MAP : VAL_LIST, ORIGIN_FILE, n->loc);
  for (int i = 0; i < n->nin; i++) {
    Val *name = val_str(c->a, n->in[i]->name, ORIGIN_FILE, n->loc);
    if (n->in_key)
      val_set(c->a, v, n->in_key[i], name);
    else
      val_add(c->a, v, name);
  }
  return v;
}

static Val *node_value(const Check *c, const Model *m, const Node *n) {
  Val *v = val_new(c->a, VAL_MAP, ORIGIN_FILE, n->loc);
  const Node *before = n->index > 0 ? m->node[n->index - 1] : m->input[0];
  val_set(c->a, v, str_c(c->s, "type"),
          val_str(c->a, str_c(c->s, n->type->key), ORIGIN_FILE, n->loc));
  val_set(c->a, v, str_c(c->s, "name"),
          val_str(c->a, n->name, n->auto_name ? ORIGIN_IMPLIED : ORIGIN_FILE, n->loc));
  if (n->nin && (n->nin > 1 || n->in_key || n->in[0] != before))
    val_set(c->a, v, str_c(c->s, "inputs"), inputs_value(c, n));
  Str section = str_fmt(c->s, "layer %s", n->type->key);
  for (int i = 0; i < n->args->n; i++) {
    Val *arg = n->args->item[i];
    bool says = arg && (arg->kind != VAL_NULL || arg->origin == ORIGIN_FILE);
    if (says && schema_find(c->rows, section, n->args->key[i]))
      val_set(c->a, v, n->args->key[i], arg);
  }
  if (n->init && n->init->n)
    val_set(c->a, v, str_c(c->s, "init"), *n->init->key[0] ? n->init : n->init->item[0]);
  if (n->tie)
    val_set(c->a, v, str_c(c->s, "tie_weight"), val_str(c->a, n->tie->name, ORIGIN_FILE, n->loc));
  if (n->twin)
    val_set(c->a, v, str_c(c->s, "tie"), val_str(c->a, n->twin->name, ORIGIN_FILE, n->loc));
  static const char *const set[] = {"freeze", "training", "pad_to_multiple_of", "float32_matmul",
                                    "float32_conv"};
  for (size_t i = 0; i < sizeof set / sizeof *set; i++) {
    Val *arg = val_get(n->args, set[i]);
    if (arg && arg->origin != ORIGIN_DEFAULT && arg->kind != VAL_NULL)
      val_set(c->a, v, str_c(c->s, set[i]), arg);
  }
  if (n->region.mode)
    val_set(c->a, v, str_c(c->s, "precision"),
            val_str(c->a, n->region.mode, ORIGIN_FILE, n->region.loc));
  return v;
}

Val *model_value(const Check *c, const Model *m) {
  Val *v = val_new(c->a, VAL_MAP, ORIGIN_FILE, (Loc){0});
  Val *inputs = val_new(c->a, VAL_MAP, ORIGIN_FILE, (Loc){0});
  for (int i = 0; i < m->ninput; i++)
    val_set(c->a, inputs, m->input[i]->name, m->input[i]->args);
  val_set(c->a, v, str_c(c->s, "inputs"), inputs);
  Val *outputs = val_new(c->a, VAL_MAP, ORIGIN_FILE, (Loc){0});
  for (int i = 0; i < m->noutput; i++)
    val_set(c->a, outputs, m->output_name[i],
            val_str(c->a, m->output[i]->name, ORIGIN_FILE, m->output[i]->loc));
  val_set(c->a, v, str_c(c->s, "outputs"), outputs);
  Val *layers = val_new(c->a, VAL_LIST, ORIGIN_FILE, (Loc){0});
  for (int i = 0; i < m->nnode; i++)
    val_add(c->a, layers, node_value(c, m, m->node[i]));
  val_set(c->a, v, str_c(c->s, "layers"), layers);
  Val *again = val_new(c->a, VAL_MAP, ORIGIN_FILE, (Loc){0});
  for (const Region *r = m->region; r; r = r->next)
    val_set(c->a, again, r->prefix, val_str(c->a, r->mode, ORIGIN_FILE, (Loc){0}));
  if (again->n)
    val_set(c->a, v, str_c(c->s, "recompute"), again);
  if (m->empty_init) {
    Val *init = val_new(c->a, VAL_MAP, ORIGIN_FILE, (Loc){0}), *on;
    val_set(c->a, init, str_c(c->s, "empty_init"),
            on = val_new(c->a, VAL_BOOL, ORIGIN_FILE, (Loc){0}));
    on->i = 1;
    val_set(c->a, v, str_c(c->s, "init"), init);
  }
  if (m->init_from && m->init_from->kind == VAL_MAP)
    val_set(c->a, v, str_c(c->s, "init_from"), m->init_from);
  if (m->expect && val_get(m->expect, "parameters") &&
      val_get(m->expect, "parameters")->kind != VAL_NULL)
    val_set(c->a, v, str_c(c->s, "expect"), m->expect);
  return v;
}
