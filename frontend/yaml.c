/* YAML text to a located tree, strictly: the only file that sees libyaml.
 *
 * The tree keeps every scalar as written; what a word means is decided by the schema, not by YAML's
 * resolution rules. What YAML readers disagree about or what hides mistakes is an error here:
 * duplicate keys, merge keys, tags, several documents, deep nesting, alias bombs. */
#include "frontend/frontend.h"

#include <yaml.h>

enum { YAML_MAX_DEPTH = 200, YAML_MAX_ALIASED = 100000 };

/* A named node that aliases may repeat; nodes and height count what an alias stands for. */
typedef struct Anchor {
  const char *name;
  Yaml *node;
  int64_t nodes;
  int height;
  struct Anchor *next;
} Anchor;

typedef struct {
  Arena *a;
  StrTable *s;
  Diag *d;
  Loc base; /* file, and where line 1 column 1 of the text lies in it */
  const char *text;
  size_t len;
  yaml_parser_t yaml;
  bool failed;
  Anchor *anchors;
  int64_t aliased; /* nodes seen through aliases */
} Parser;

/* A parsed subtree and what it counts for in the limits. */
typedef struct {
  Yaml *node;
  int64_t nodes;
  int height;
} Tree;

static Loc mark_loc(const Parser *p, const yaml_mark_t *from, const yaml_mark_t *to) {
  Loc loc = {.file = p->base.file,
             .line = (uint32_t)from->line + p->base.line,
             .col = (uint32_t)from->column + (from->line ? 1 : p->base.col),
             .len = 1};
  if (to->line == from->line && to->column > from->column)
    loc.len = (uint32_t)(to->column - from->column);
  return loc;
}

static Loc event_loc(const Parser *p, const yaml_event_t *e) {
  return mark_loc(p, &e->start_mark, &e->end_mark);
}

/* Bytes that continue a code point take no column. */
static bool starts_column(char c) {
  return ((unsigned char)c & 0xC0) != 0x80;
}

/* Where reading stopped. libyaml gives a place in the text to what it could parse, an offset in
 * bytes to what it could not decode. */
static Loc problem_loc(const Parser *p) {
  const yaml_mark_t *mark = &p->yaml.problem_mark;
  Loc loc = {.file = p->base.file, .line = p->base.line, .col = 1, .len = 1};
  if (p->yaml.error != YAML_READER_ERROR) {
    loc.line += (uint32_t)mark->line;
    loc.col += (uint32_t)mark->column;
    return loc;
  }
  for (size_t i = 0; i < p->yaml.problem_offset && i < p->len; i++)
    if (p->text[i] == '\n') {
      loc.line++;
      loc.col = 1;
    } else if (starts_column(p->text[i])) {
      loc.col++;
    }
  return loc;
}

/* Whether the text at the mark is the brace of "${", as other tools name values. */
static bool at_dollar_brace(const Parser *p, const yaml_mark_t *mark) {
  const char *c = p->text, *end = p->text + p->len;
  for (size_t line = 0; line < mark->line && c < end; c++)
    line += *c == '\n';
  for (size_t col = 0; col + 1 < mark->column && c < end; col++)
    for (c++; c < end && !starts_column(*c); c++)
      ;
  return mark->column && end - c >= 2 && c[0] == '$' && c[1] == '{';
}

/* Reads the next event; false (with a diagnostic) on a syntax error. */
static bool next_event(Parser *p, yaml_event_t *e) {
  if (yaml_parser_parse(&p->yaml, e))
    return true;
  p->failed = true;
  if (p->yaml.error == YAML_MEMORY_ERROR) {
    diag_error(p->d, p->base, 199, "out of memory while reading YAML");
    return false;
  }
  Loc loc = problem_loc(p);
  diag_error(p->d, loc, 100, "this is not YAML: %s",
             p->yaml.problem ? p->yaml.problem : "unreadable text");
  if (p->yaml.error == YAML_READER_ERROR)
    diag_hint(p->d, "the file must be UTF-8 text");
  else if (at_dollar_brace(p, &p->yaml.problem_mark))
    diag_hint(p->d, "write $name, or $(...) around an expression");
  else if (p->yaml.problem && strstr(p->yaml.problem, "cannot start any token"))
    diag_hint(p->d,
              "indent with spaces, not tabs; quote text that begins with a special character");
  else if (p->yaml.context && strstr(p->yaml.context, "scanning an a")) /* an anchor, an alias */
    diag_hint(p->d, "put quotes around text that begins with * or &, like a pattern \"*.bias\"");
  else if (p->yaml.context)
    diag_hint(p->d, "%s that begins at line %u", p->yaml.context,
              (unsigned)p->yaml.context_mark.line + p->base.line);
  return false;
}

static Yaml *new_node(Parser *p, YamlKind kind, Loc loc) {
  Yaml *y = ARENA_NEW(p->a, Yaml);
  y->kind = kind;
  y->loc = loc;
  return y;
}

static void refuse_tag(Parser *p, const yaml_char_t *tag, Loc loc) {
  if (!tag)
    return;
  diag_error(p->d, loc, 108, "YAML tag '%s' is not part of the spec language", (const char *)tag);
  diag_hint(p->d, "remove the tag; write text in quotes");
  p->failed = true;
}

static void add_anchor(Parser *p, const char *name, Tree t) {
  if (!*name || !t.node)
    return;
  Anchor *an = ARENA_NEW(p->a, Anchor);
  *an = (Anchor){.name = str_c(p->s, name),
                 .node = t.node,
                 .nodes = t.nodes,
                 .height = t.height,
                 .next = p->anchors};
  p->anchors = an;
}

static Tree parse_alias(Parser *p, const yaml_event_t *e, int depth) {
  Loc loc = event_loc(p, e);
  const char *name = (const char *)e->data.alias.anchor;
  const Anchor *an = p->anchors;
  while (an && strcmp(an->name, name))
    an = an->next;
  if (!an) {
    diag_error(p->d, loc, 106, "alias '*%s' names no finished anchor", name);
    diag_hint(p->d, "define '&%s' earlier; an anchor cannot contain itself", name);
    p->failed = true;
    return (Tree){0};
  }
  p->aliased += an->nodes;
  if (p->aliased > YAML_MAX_ALIASED) {
    diag_error(p->d, loc, 106, "aliases expand to more than %d nodes", YAML_MAX_ALIASED);
    p->failed = true;
    return (Tree){0};
  }
  if (depth + an->height > YAML_MAX_DEPTH) {
    diag_error(p->d, loc, 105, "nesting is deeper than %d levels", YAML_MAX_DEPTH);
    p->failed = true;
    return (Tree){0};
  }
  return (Tree){.node = an->node, .nodes = an->nodes, .height = an->height};
}

static Tree parse_scalar(Parser *p, const yaml_event_t *e) {
  Loc loc = event_loc(p, e);
  refuse_tag(p, e->data.scalar.tag, loc);
  const char *text = (const char *)e->data.scalar.value;
  size_t len = e->data.scalar.length;
  Yaml *y = new_node(p, YAML_SCALAR, loc);
  if (memchr(text, 0, len)) {
    diag_error(p->d, loc, 100, "text contains a zero byte");
    p->failed = true;
    len = strlen(text);
  }
  y->text = str_intern(p->s, text, len);
  y->quoted = e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
  if (!y->quoted && (!len || !strcmp(text, "~") || !strcmp(text, "null")))
    y->kind = YAML_NULL;
  return (Tree){.node = y, .nodes = 1, .height = 1};
}

static Tree parse_node(Parser *p, yaml_event_t *e, int depth);

/* Grows an arena array by doubling: old content moves, the old array is left to the arena. */
static void *grow(Arena *a, void *old, int n, int *cap, size_t size) {
  if (n < *cap)
    return old;
  int wider = *cap ? 2 * *cap : 8;
  void *v = arena_array(a, (size_t)wider, size);
  if (arena_failed(a))
    return NULL;
  if (n)
    memcpy(v, old, (size_t)n * size);
  *cap = wider;
  return v;
}

/* End of a collection seen at `e`: flow collections on one line get their full length. */
static void close_loc(const Parser *p, Yaml *y, const yaml_event_t *e, bool flow) {
  uint32_t line = (uint32_t)e->end_mark.line + p->base.line;
  uint32_t col = (uint32_t)e->end_mark.column + (e->end_mark.line ? 1 : p->base.col);
  if (flow && line == y->loc.line && col > y->loc.col)
    y->loc.len = col - y->loc.col;
  else
    y->loc.len = 1;
}

static Tree parse_list(Parser *p, const yaml_event_t *open, int depth) {
  bool flow = open->data.sequence_start.style == YAML_FLOW_SEQUENCE_STYLE;
  Yaml *y = new_node(p, YAML_LIST, event_loc(p, open));
  refuse_tag(p, open->data.sequence_start.tag, y->loc);
  Tree t = {.node = y, .nodes = 1, .height = 1};
  int cap = 0;
  for (;;) {
    yaml_event_t e;
    if (!next_event(p, &e))
      return (Tree){0};
    if (e.type == YAML_SEQUENCE_END_EVENT) {
      close_loc(p, y, &e, flow);
      yaml_event_delete(&e);
      return t;
    }
    Tree item = parse_node(p, &e, depth + 1);
    Yaml **v = item.node ? grow(p->a, y->u.item, y->n, &cap, sizeof *v) : NULL;
    if (!v)
      return (Tree){0};
    y->u.item = v;
    v[y->n++] = item.node;
    t.nodes += item.nodes;
    t.height = item.height + 1 > t.height ? item.height + 1 : t.height;
  }
}

/* Whether the pair becomes part of the map. */
static bool check_key(Parser *p, const Yaml *map, const Yaml *key) {
  if (key->kind != YAML_SCALAR) {
    p->failed = true;
    diag_error(p->d, key->loc, 108, "a key must be a word");
    if (key->kind == YAML_MAP)
      diag_hint(p->d, "'{{...}}' is not an expression; write $name or $(...)");
    return false;
  }
  if (!key->quoted && !strcmp(key->text, "<<")) {
    p->failed = true;
    diag_error(p->d, key->loc, 103, "merge keys are not part of the spec language");
    diag_hint(p->d, "repeat the keys, or use blocks, params or extends");
    return false;
  }
  for (int i = 0; i < map->n; i++)
    if (map->u.pair[i].key->text == key->text) {
      diag_error(p->d, key->loc, 101, "key '%s' is given twice", key->text);
      diag_note(p->d, map->u.pair[i].key->loc, "first given here");
      return false; /* the first one stands, so that the file's other errors are found too */
    }
  return true;
}

static Tree parse_map(Parser *p, const yaml_event_t *open, int depth) {
  bool flow = open->data.mapping_start.style == YAML_FLOW_MAPPING_STYLE;
  Yaml *y = new_node(p, YAML_MAP, event_loc(p, open));
  refuse_tag(p, open->data.mapping_start.tag, y->loc);
  Tree t = {.node = y, .nodes = 1, .height = 1};
  int cap = 0;
  for (;;) {
    yaml_event_t e;
    if (!next_event(p, &e))
      return (Tree){0};
    if (e.type == YAML_MAPPING_END_EVENT) {
      close_loc(p, y, &e, flow);
      yaml_event_delete(&e);
      return t;
    }
    Tree key = parse_node(p, &e, depth + 1);
    if (!key.node || !next_event(p, &e))
      return (Tree){0};
    Tree value = parse_node(p, &e, depth + 1);
    if (!value.node)
      return (Tree){0};
    t.nodes += key.nodes + value.nodes;
    t.height = value.height + 1 > t.height ? value.height + 1 : t.height;
    if (!check_key(p, y, key.node))
      continue;
    YamlPair *v = grow(p->a, y->u.pair, y->n, &cap, sizeof *v);
    if (!v)
      return (Tree){0};
    y->u.pair = v;
    v[y->n++] = (YamlPair){.key = key.node, .value = value.node};
  }
}

/* Node that begins with event e (deleted here). An empty Tree after an error that ends parsing. */
static Tree parse_node(Parser *p, yaml_event_t *e, int depth) {
  Tree t = {0};
  const char *anchor = "";
  if (depth > YAML_MAX_DEPTH) {
    diag_error(p->d, event_loc(p, e), 105, "nesting is deeper than %d levels", YAML_MAX_DEPTH);
    p->failed = true;
  } else if (e->type == YAML_ALIAS_EVENT) {
    t = parse_alias(p, e, depth);
  } else if (e->type == YAML_SCALAR_EVENT) {
    t = parse_scalar(p, e);
    anchor = (const char *)e->data.scalar.anchor;
  } else if (e->type == YAML_SEQUENCE_START_EVENT) {
    t = parse_list(p, e, depth);
    anchor = (const char *)e->data.sequence_start.anchor;
  } else if (e->type == YAML_MAPPING_START_EVENT) {
    t = parse_map(p, e, depth);
    anchor = (const char *)e->data.mapping_start.anchor;
  }
  if (anchor)
    add_anchor(p, anchor, t);
  yaml_event_delete(e);
  return t;
}

/* Stream: start, one document, end. NULL after an error. */
static Yaml *parse_stream(Parser *p) {
  yaml_event_t e;
  Yaml *root = NULL;
  for (;;) {
    if (!next_event(p, &e))
      return NULL;
    if (e.type == YAML_STREAM_END_EVENT) {
      yaml_event_delete(&e);
      return root;
    }
    if (e.type == YAML_DOCUMENT_START_EVENT && root) {
      diag_error(p->d, event_loc(p, &e), 104, "a spec is one YAML document; a second begins here");
      diag_hint(p->d, "remove the line '---', or put the second document into a file of its own");
      yaml_event_delete(&e);
      return NULL;
    }
    if (e.type == YAML_STREAM_START_EVENT || e.type == YAML_DOCUMENT_START_EVENT ||
        e.type == YAML_DOCUMENT_END_EVENT) {
      yaml_event_delete(&e);
      continue;
    }
    root = parse_node(p, &e, 1).node;
    if (!root)
      return NULL;
  }
}

Status yaml_parse_at(Arena *a, StrTable *s, Diag *d, Loc base, const char *text, size_t len,
                     Yaml **out) {
  *out = NULL;
  Parser p = {.a = a, .s = s, .d = d, .base = base, .text = text, .len = len};
  if (!yaml_parser_initialize(&p.yaml))
    return MPCC_ERR_NOMEM;
  yaml_parser_set_input_string(&p.yaml, (const unsigned char *)text, len);
  yaml_parser_set_encoding(&p.yaml, YAML_UTF8_ENCODING);
  Yaml *root = parse_stream(&p);
  bool failed = p.failed || (!root && diag_errors(d));
  yaml_parser_delete(&p.yaml);
  if (arena_failed(a))
    return MPCC_ERR_NOMEM;
  if (failed)
    return MPCC_ERR_INPUT;
  if (!root) {
    root = ARENA_NEW(a, Yaml); /* an empty document is a null */
    *root = (Yaml){.kind = YAML_NULL, .loc = base, .text = str_c(s, "")};
    root->loc.len = 1;
  }
  *out = root;
  return MPCC_OK;
}

Status yaml_parse(Arena *a, StrTable *s, Diag *d, uint32_t file, const char *text, size_t len,
                  Yaml **out) {
  return yaml_parse_at(a, s, d, (Loc){.file = file, .line = 1, .col = 1, .len = 1}, text, len, out);
}

Yaml *yaml_get(const Yaml *map, const char *key) {
  if (map && map->kind == YAML_MAP)
    for (int i = 0; i < map->n; i++)
      if (!strcmp(map->u.pair[i].key->text, key))
        return map->u.pair[i].value;
  return NULL;
}

const char *yaml_kind_text(const Yaml *y) {
  switch (y->kind) {
  case YAML_NULL:
    return "nothing";
  case YAML_LIST:
    return "a list";
  case YAML_MAP:
    return "a map";
  case YAML_SCALAR:
    break;
  }
  return y->quoted ? "text" : "a word or number";
}
