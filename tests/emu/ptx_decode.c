/* PTX text to code: registers become offsets in a warp's register file, numbers, parameters and
 * special registers become slots that the launch fills, opcodes become handlers, labels become
 * indices. Nothing of the text is looked at while a kernel runs, but for reports. */
#include "ptx_handlers.h"
#include "ptx_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOT4 = 4 * LANES, SLOT8 = 8 * LANES, MAX_NAME = 160 };

typedef struct {
  char name[MAX_NAME];
  uint32_t length, first, count; /* count: name0 .. name<count - 1>; 0: one register `name` */
  uint32_t bytes;                /* of a lane: 4 or 8 */
} RegRange;

typedef struct {
  char name[MAX_NAME];
  uint32_t index;
  bool defined;
} Label;

typedef struct {
  const char *text; /* in the row's names */
  uint32_t n;
  const OpRow *row;
} OpName;

typedef struct {
  Lexer lex;
  Module *m;
  Kernel *k;
  OpName *ops; /* hash table of spellings */
  uint32_t ops_cap;
  RegRange *ranges;
  uint32_t n_ranges;
  Label *labels;
  uint32_t n_labels;
  uint32_t cap_code, cap_fixed, cap_locs;
  uint32_t loc; /* current */
  char *why;
  jmp_buf failed;
} Decoder;

_Noreturn static void fail(Decoder *d, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
_Noreturn static void fail(Decoder *d, const char *format, ...) {
  const int n = snprintf(d->why, 512, "line %u: ", d->lex.token.line);
  va_list args;
  va_start(args, format);
  vsnprintf(d->why + n, 512 - (size_t)n, format, args);
  va_end(args);
  longjmp(d->failed, 1);
}

#define TOKEN_ARGS(t) (int)(t).n, (t).at

static bool at(Decoder *d, const char *text) {
  return token_is(&d->lex.token, text);
}
static bool take(Decoder *d, const char *text) {
  if (!at(d, text))
    return false;
  lexer_next(&d->lex);
  return true;
}
static void expect(Decoder *d, const char *text) {
  if (!take(d, text))
    fail(d, "found '%.*s', expected '%s'", TOKEN_ARGS(d->lex.token), text);
}
static Token word(Decoder *d) {
  const Token t = d->lex.token;
  if (t.kind != TOKEN_WORD)
    fail(d, "found '%.*s', expected a name", TOKEN_ARGS(t));
  if (t.n >= MAX_NAME)
    fail(d, "name of %u characters", t.n);
  lexer_next(&d->lex);
  return t;
}
static int64_t number(Decoder *d) {
  const bool negative = take(d, "-");
  uint64_t bits;
  int is_float;
  if (!token_number(&d->lex.token, &bits, &is_float) || is_float)
    fail(d, "found '%.*s', expected a number", TOKEN_ARGS(d->lex.token));
  lexer_next(&d->lex);
  return negative ? (int64_t)(0 - bits) : (int64_t)bits;
}
static bool same(const Token *t, const char *name) {
  return strlen(name) == t->n && memcmp(t->at, name, t->n) == 0;
}
static void to_name(char *to, const Token *t) {
  memcpy(to, t->at, t->n);
  to[t->n] = 0;
}

/* ---- opcodes ---- */

static uint32_t hash(const char *s, size_t n) {
  uint32_t h = 2166136261u;
  for (size_t i = 0; i < n; i++)
    h = (h ^ (uint8_t)s[i]) * 16777619u;
  return h;
}

static void index_ops(Decoder *d) {
  size_t n;
  const OpRow *rows = ptx_table(&n);
  d->ops_cap = 2048; /* a power of two, twice the spellings */
  d->ops = emu_alloc(d->ops_cap * sizeof *d->ops);
  for (size_t i = 0; i < n; i++)
    for (const char *s = rows[i].names; *s;) {
      const size_t length = strcspn(s, " ");
      uint32_t h = hash(s, length) % d->ops_cap;
      while (d->ops[h].row)
        h = (h + 1) % d->ops_cap;
      d->ops[h] = (OpName){s, (uint32_t)length, &rows[i]};
      s += length + (s[length] == ' ');
    }
}

static const OpRow *find_op(const Decoder *d, const char *name) {
  const size_t n = strlen(name);
  for (uint32_t h = hash(name, n) % d->ops_cap; d->ops[h].row; h = (h + 1) % d->ops_cap)
    if (d->ops[h].n == n && memcmp(d->ops[h].text, name, n) == 0)
      return d->ops[h].row;
  return NULL;
}

/* ---- registers and fixed slots ---- */

static uint32_t new_slot(Decoder *d, uint32_t bytes) {
  const uint32_t slot = d->k->reg_bytes;
  d->k->reg_bytes += bytes * LANES;
  return slot;
}

static void declare_registers(Decoder *d) {
  const Token type = word(d);
  const bool wide = type.n > 2 && memcmp(type.at + type.n - 2, "64", 2) == 0;
  if (type.n > 3 && memcmp(type.at + type.n - 3, "128", 3) == 0)
    fail(d, "registers of type %.*s are not emulated", TOKEN_ARGS(type));
  do {
    const Token name = word(d);
    d->ranges = emu_grow(d->ranges, (d->n_ranges + 1) * sizeof *d->ranges);
    RegRange *r = &d->ranges[d->n_ranges++];
    memset(r, 0, sizeof *r);
    to_name(r->name, &name);
    r->length = name.n;
    r->bytes = wide ? 8 : 4;
    if (take(d, "<")) {
      const int64_t count = number(d);
      if (count < 1 || count > 1 << 20)
        fail(d, "%lld registers", (long long)count);
      r->count = (uint32_t)count;
      expect(d, ">");
    }
    const uint32_t n = r->count ? r->count : 1;
    r->first = d->k->reg_bytes;
    d->k->reg_bytes += n * r->bytes * LANES;
    if (memcmp(type.at, ".pred", 5) != 0)
      d->k->registers += n * r->bytes / 4;
  } while (take(d, ","));
  expect(d, ";");
}

/* Slot of a register; false: the word is not one. Inner scopes come last and win. */
static bool find_register(const Decoder *d, const Token *t, uint32_t *slot, uint32_t *bytes) {
  for (uint32_t i = d->n_ranges; i-- > 0;) {
    const RegRange *r = &d->ranges[i];
    if (t->n < r->length || memcmp(t->at, r->name, r->length) != 0)
      continue;
    uint32_t index = 0;
    bool digits = t->n > r->length;
    for (uint32_t k = r->length; k < t->n; k++) {
      digits = digits && t->at[k] >= '0' && t->at[k] <= '9' && index < 1 << 24;
      index = index * 10 + (uint32_t)(t->at[k] - '0');
    }
    if (r->count ? !digits || index >= r->count : t->n != r->length)
      continue;
    *slot = r->first + (r->count ? index : 0) * r->bytes * LANES;
    *bytes = r->bytes;
    return true;
  }
  return false;
}

static uint32_t fixed_slot(Decoder *d, FixedKind kind, uint64_t value, uint32_t size,
                           bool is_signed, uint32_t reg_bytes) {
  Kernel *k = d->k;
  for (uint32_t i = 0; i < k->n_fixed; i++) {
    const Fixed *f = &k->fixed[i];
    if (f->kind == kind && f->value == value && f->size == size && f->is_signed == is_signed &&
        f->reg_bytes == reg_bytes)
      return f->slot;
  }
  if (k->n_fixed == d->cap_fixed) {
    d->cap_fixed = d->cap_fixed ? 2 * d->cap_fixed : 64;
    k->fixed = emu_grow(k->fixed, d->cap_fixed * sizeof *k->fixed);
  }
  const uint32_t slot = new_slot(d, reg_bytes);
  k->fixed[k->n_fixed++] =
      (Fixed){value, slot, (uint8_t)kind, (uint8_t)size, (uint8_t)reg_bytes, is_signed};
  return slot;
}

static const Variable *find_variable(const Decoder *d, const Token *t) {
  for (uint32_t i = d->m->n_vars; i-- > 0;)
    if (same(t, d->m->vars[i].name))
      return &d->m->vars[i];
  return NULL;
}

static const Param *find_param(const Decoder *d, const Token *t) {
  for (uint32_t i = 0; i < d->k->n_params; i++)
    if (same(t, d->k->params[i].name))
      return &d->k->params[i];
  return NULL;
}

/* Slot of a register, number, special register or address, `bytes` a lane. */
static uint32_t source(Decoder *d, uint32_t bytes) {
  const bool negative = take(d, "-");
  const Token t = d->lex.token;
  if (t.kind == TOKEN_NUMBER) {
    uint64_t bits;
    int is_float;
    if (!token_number(&t, &bits, &is_float))
      fail(d, "'%.*s' is not a number", TOKEN_ARGS(t));
    if (is_float && is_float != (int)bytes)
      fail(d, "'%.*s' is not a %u-byte number", TOKEN_ARGS(t), bytes);
    lexer_next(&d->lex);
    bits = negative ? 0 - bits : bits;
    return fixed_slot(d, FIXED_NUMBER, bytes == 4 ? bits & UINT32_MAX : bits, 8, false, bytes);
  }
  word(d);
  uint32_t slot, have;
  if (find_register(d, &t, &slot, &have)) {
    if (have != bytes)
      fail(d, "register %.*s has %u bytes, not %u", TOKEN_ARGS(t), have, bytes);
    return slot;
  }
  static const char *const specials[] = {
#define SPECIAL_REGISTER(id, name) name,
#include "special.def"
#undef SPECIAL_REGISTER
  };
  for (uint32_t i = 0; i < SPECIAL_COUNT; i++)
    if (same(&t, specials[i]))
      return fixed_slot(d, FIXED_SPECIAL, i, 4, false, bytes);
  const Variable *v = find_variable(d, &t);
  if (v)
    return fixed_slot(d, v->is_dynamic ? FIXED_DYNAMIC : FIXED_NUMBER, v->address, 8, false, bytes);
  const Param *p = find_param(d, &t);
  if (p)
    return fixed_slot(d, FIXED_NUMBER, p->offset, 8, false, bytes);
  if (same(&t, "WARP_SZ"))
    return fixed_slot(d, FIXED_NUMBER, LANES, 8, false, bytes);
  fail(d, "'%.*s' is neither a register nor a variable (special registers: special.def)",
       TOKEN_ARGS(t));
}

static uint32_t destination(Decoder *d, uint32_t bytes) {
  const Token t = word(d);
  if (same(&t, "_"))
    return new_slot(d, bytes);
  uint32_t slot, have;
  if (!find_register(d, &t, &slot, &have))
    fail(d, "'%.*s' is not a register", TOKEN_ARGS(t));
  if (have != bytes)
    fail(d, "register %.*s has %u bytes, not %u", TOKEN_ARGS(t), have, bytes);
  return slot;
}

/* Data register of ld and st: may be wider than what is in memory. */
static uint32_t data_register(Decoder *d, Insn *in, bool store, uint32_t bytes) {
  const Token t = d->lex.token;
  uint32_t slot, have;
  if (t.kind == TOKEN_WORD && find_register(d, &t, &slot, &have) && have != bytes) {
    if (have < bytes)
      fail(d, "register %.*s has %u bytes, not %u", TOKEN_ARGS(t), have, bytes);
    in->wide_data = true;
    return lexer_next(&d->lex), slot;
  }
  return store ? source(d, bytes) : destination(d, bytes);
}

/* [register], [register + number], [symbol + number] */
static void memory_operand(Decoder *d, Insn *in, const OpRow *row, uint32_t *slot, bool *wide,
                           int32_t *offset) {
  expect(d, "[");
  const Token t = d->lex.token;
  uint32_t bytes = 8;
  const Param *p = NULL;
  if (t.kind == TOKEN_WORD && find_register(d, &t, slot, &bytes)) {
    lexer_next(&d->lex);
  } else if (row->space == SPACE_PARAM && (p = find_param(d, &t)) != NULL) {
    lexer_next(&d->lex);
    *slot = NO_SLOT;
  } else {
    *slot = source(d, 8);
  }
  *wide = bytes == 8;
  int64_t n = 0;
  if (take(d, "+"))
    n = number(d);
  else if (at(d, "-"))
    n = number(d);
  expect(d, "]");
  if (n < INT32_MIN || n > INT32_MAX)
    fail(d, "offset %lld", (long long)n);
  *offset = (int32_t)n;
  if (!p)
    return;
  const uint32_t size = row->bytes & 0x7F;
  if (n < 0 || (uint64_t)n + size * in->count > p->size)
    fail(d, "parameter %s has %u bytes; access at %lld", p->name, p->size, (long long)n);
  *offset = (int32_t)(p->offset + (uint64_t)n);
}

/* ---- variables ---- */

static uint32_t type_bytes(Decoder *d, const Token *t) {
  uint32_t bits = 0;
  for (uint32_t i = 2; i < t->n && t->at[i] >= '0' && t->at[i] <= '9'; i++)
    bits = bits * 10 + (uint32_t)(t->at[i] - '0');
  if (t->n < 3 || (bits != 8 && bits != 16 && bits != 32 && bits != 64))
    fail(d, "type '%.*s' is not emulated", TOKEN_ARGS(*t));
  return bits / 8;
}

static uint8_t *initializer(Decoder *d, uint64_t bytes, uint32_t element) {
  uint8_t *data = emu_alloc(bytes);
  const bool braces = take(d, "{");
  uint64_t at_byte = 0;
  do {
    const bool negative = take(d, "-");
    uint64_t bits;
    int is_float;
    if (!token_number(&d->lex.token, &bits, &is_float)) {
      free(data);
      fail(d, "'%.*s' in an initializer is not emulated", TOKEN_ARGS(d->lex.token));
    }
    lexer_next(&d->lex);
    bits = negative ? 0 - bits : bits;
    if (at_byte + element <= bytes)
      memcpy(data + at_byte, &bits, element);
    at_byte += element;
  } while (braces && take(d, ","));
  if (braces)
    expect(d, "}");
  return data;
}

/* After .shared, .global or .const. */
static void declare_variable(Decoder *d, bool shared, bool is_extern) {
  uint32_t align = 1, element = 0;
  Token t = word(d);
  for (; t.at[0] == '.'; t = word(d)) {
    if (same(&t, ".align"))
      align = (uint32_t)number(d);
    else
      element = type_bytes(d, &t);
  }
  if (!element || !align || (align & (align - 1)))
    fail(d, "variable '%.*s' has no type or a bad alignment", TOKEN_ARGS(t));
  uint64_t count = 1;
  bool open = false;
  while (take(d, "[")) {
    if (!at(d, "]")) {
      const int64_t n = number(d);
      if (n < 0 || n > 1 << 28 || (n && count > (1u << 28) / (uint64_t)n))
        fail(d, "array of %lld elements", (long long)n);
      count *= (uint64_t)n;
    } else {
      open = true;
    }
    expect(d, "]");
  }
  align = align > element ? align : element;
  Variable v = {emu_copy_text(t.at, t.n), 0, open ? 0 : count * element, shared,
                shared && is_extern};
  d->m->vars = emu_grow(d->m->vars, (d->m->n_vars + 1) * sizeof v);
  Variable *kept = &d->m->vars[d->m->n_vars++];
  *kept = v;
  if (shared && !v.is_dynamic) {
    if (!d->k)
      fail(d, "shared variable '%s' outside a kernel is not emulated", v.name);
    d->k->static_shared = (d->k->static_shared + align - 1) & ~(align - 1);
    kept->address = d->k->static_shared;
    d->k->static_shared += (uint32_t)v.bytes;
  } else if (!shared) {
    if (is_extern || v.bytes == 0)
      fail(d, "variable '%s' without a size", v.name);
    kept->address = memory_alloc(d->m->memory, v.bytes);
    Alloc *a = memory_find(d->m->memory, kept->address, v.bytes);
    if (!a)
      fail(d, "no device memory for variable '%s'", v.name);
    memset(a->host, 0, v.bytes); /* what an initializer leaves out is zero */
    if (take(d, "=")) {
      uint8_t *data = initializer(d, v.bytes, element);
      memcpy(a->host, data, v.bytes);
      free(data);
    }
    memory_host_wrote(a, 0, v.bytes);
  }
  expect(d, ";");
}

/* ---- source positions ---- */

static void source_position(Decoder *d) {
  SourceLoc loc = {0};
  loc.file = (uint32_t)number(d);
  loc.line = (uint32_t)number(d);
  loc.column = (uint32_t)number(d);
  while (take(d, ",")) {
    if (take(d, "function_name")) {
      word(d);
      if (take(d, "+"))
        number(d);
    } else if (take(d, "inlined_at")) {
      const uint32_t file = (uint32_t)number(d), line = (uint32_t)number(d),
                     column = (uint32_t)number(d);
      for (uint32_t i = d->m->n_locs; i-- > 1 && !loc.parent;) {
        const SourceLoc *o = &d->m->locs[i];
        if (o->file == file && o->line == line && o->column == column)
          loc.parent = i;
      }
    } else {
      fail(d, "found '%.*s' in .loc", TOKEN_ARGS(d->lex.token));
    }
  }
  if (d->m->n_locs == d->cap_locs) {
    d->cap_locs = d->cap_locs ? 2 * d->cap_locs : 256;
    d->m->locs = emu_grow(d->m->locs, d->cap_locs * sizeof loc);
  }
  d->m->locs[d->m->n_locs] = loc;
  d->loc = d->m->n_locs++;
}

static void source_file(Decoder *d) {
  const int64_t n = number(d);
  const Token t = d->lex.token;
  if (n < 0 || n > 1 << 16 || t.kind != TOKEN_TEXT)
    fail(d, "bad .file");
  if ((uint32_t)n >= d->m->n_files) {
    d->m->files = emu_grow(d->m->files, ((size_t)n + 1) * sizeof *d->m->files);
    while (d->m->n_files <= (uint32_t)n)
      d->m->files[d->m->n_files++] = NULL;
  }
  free(d->m->files[n]);
  d->m->files[n] = emu_copy_text(t.at, t.n);
  lexer_next(&d->lex);
  while (take(d, ",")) /* time, size */
    number(d);
}

/* ---- instructions ---- */

static Label *label(Decoder *d, const Token *t) {
  for (uint32_t i = 0; i < d->n_labels; i++)
    if (same(t, d->labels[i].name))
      return &d->labels[i];
  d->labels = emu_grow(d->labels, (d->n_labels + 1) * sizeof *d->labels);
  Label *l = &d->labels[d->n_labels++];
  memset(l, 0, sizeof *l);
  to_name(l->name, t);
  return l;
}

/* Opcode as the table spells it: without .v2/.v4 (their count goes to *count), with the shape of a
 * mov between a register and several. */
static void table_name(Decoder *d, const Token *t, char name[64], uint8_t *count) {
  *count = 1;
  if (t->n >= 56)
    fail(d, "opcode '%.*s' is not in the table of opcodes (ptx_ops.def)", TOKEN_ARGS(*t));
  to_name(name, t);
  if (strncmp(name, "ld.", 3) == 0 || strncmp(name, "st.", 3) == 0) {
    char *v = strstr(name, ".v2.");
    v = v ? v : strstr(name, ".v4.");
    if (v) {
      *count = (uint8_t)(v[2] - '0');
      memmove(v, v + 3, strlen(v + 3) + 1);
    }
  }
  if (strncmp(name, "mov.b", 5) != 0)
    return;
  int braces = 0, elements = 1, commas = 0;
  for (const char *p = d->lex.token.at; *p && *p != ';'; p++) {
    if (*p == '{')
      braces = commas ? 2 : 1;
    if (*p == ',') {
      commas++;
      elements += braces != 0;
    }
    if (*p == '}')
      break;
  }
  if (braces)
    snprintf(name + strlen(name), 24, ".%s%d", braces == 1 ? "unpack" : "pack", elements);
}

static void operands(Decoder *d, Insn *in, const OpRow *row) {
  int n = 0;
  bool optional = false, first = true;
  for (const char *s = row->sig; *s; s++) {
    if (*s == '?') {
      optional = true;
      continue;
    }
    if (*s == 'p') { /* after '|' */
      in->slot[n++] = take(d, "|") ? destination(d, 4) : new_slot(d, 4);
      continue;
    }
    const bool is_data = in->count > 1 && *s != 'm';
    const int repeat = is_data ? in->count : 1;
    for (int r = 0; r < repeat; r++) {
      if (!first && !take(d, ",")) {
        if (optional) {
          in->slot[n++] = NO_SLOT;
          continue;
        }
        fail(d, "found '%.*s', expected ','", TOKEN_ARGS(d->lex.token));
      }
      first = false;
      take(d, "{");
      if (n >= MAX_SLOTS)
        fail(d, "too many operands");
      const bool data = row->space != SPACE_NONE && row->bytes && strchr("dDsS", *s) &&
                        (row->run != NULL) && strlen(row->sig) == 2;
      switch (*s) {
      case 'd':
      case 'D':
        in->slot[n++] = data ? data_register(d, in, false, *s == 'd' ? 4 : 8)
                             : destination(d, *s == 'd' ? 4 : 8);
        break;
      case 's':
      case 'S':
        in->slot[n++] =
            data ? data_register(d, in, true, *s == 's' ? 4 : 8) : source(d, *s == 's' ? 4 : 8);
        break;
      case 'm': {
        bool wide;
        int32_t offset;
        uint32_t slot;
        memory_operand(d, in, row, &slot, &wide, &offset);
        if (in->address == NO_SLOT) {
          in->address = slot;
          in->wide_address = wide;
          in->offset = offset;
        } else { /* cp.async: the source; its address register is operand 0 */
          if (!wide)
            fail(d, "a global address has 64 bits");
          in->slot[n++] = slot;
          in->imm = offset;
        }
        break;
      }
      case 'i':
        if (row->run == op_async_copy)
          in->bytes = (uint8_t)number(d);
        else
          in->imm = (int32_t)number(d);
        break;
      case 'l': {
        const Token t = word(d);
        in->target = (uint32_t)(label(d, &t) - d->labels);
        break;
      }
      default:
        fail(d, "bad row for '%s'", row->names);
      }
      take(d, "}");
    }
  }
  expect(d, ";");
}

/* What the launch must know of a memory instruction; loads of named parameters become moves. */
static void finish_insn(Decoder *d, Insn *in, const OpRow *row, const char *name) {
  const uint32_t bytes = in->bytes;
  if (row->space == SPACE_SHARED || row->space == SPACE_GENERIC) {
    uint32_t whole = bytes * in->count;
    whole = whole > 16 ? 16 : whole;
    if (!d->k->shared_granule || whole < d->k->shared_granule)
      d->k->shared_granule = (uint8_t)whole;
  }
  if (row->run == op_async_copy) {
    d->k->has_async = true;
    if (bytes != 16 && ((bytes != 4 && bytes != 8) || strstr(name, ".cg.")))
      fail(d, "%s of %u bytes", name, bytes);
  }
  if (row->kind == INSN_BARRIER && in->imm != 0)
    fail(d, "barrier %d: only barrier 0 of the whole block is emulated", in->imm);
  if (row->kind == INSN_SYNC)
    in->member = (uint8_t)(strlen(row->sig) - 1);
}

static Insn *new_insn(Decoder *d) {
  Kernel *k = d->k;
  if (k->n_code == d->cap_code) {
    d->cap_code = d->cap_code ? 2 * d->cap_code : 256;
    k->code = emu_grow(k->code, d->cap_code * sizeof *k->code);
  }
  Insn *in = &k->code[k->n_code];
  memset(in, 0, sizeof *in);
  in->index = k->n_code++;
  in->guard = in->address = NO_SLOT;
  in->loc = d->loc;
  return in;
}

/* ld.param [name]: one mov for each element from a slot that holds the parameter. */
static void load_named_param(Decoder *d, const Insn *of, const OpRow *row) {
  const OpRow *mov = find_op(d, row->bytes == 8 ? "mov.u64" : "mov.u32");
  const uint32_t size = row->bytes & 0x7F;
  const Insn copy = *of;
  d->k->n_code--; /* `of` is replaced */
  for (uint32_t i = 0; i < copy.count; i++) {
    const bool wide = copy.wide_data || row->bytes == 8;
    const OpRow *use = wide ? find_op(d, "mov.u64") : mov;
    const uint32_t value = fixed_slot(d, FIXED_PARAM, (uint64_t)copy.offset + i * size, size,
                                      (row->bytes & 0x80) != 0, wide ? 8 : 4);
    Insn *in = new_insn(d);
    const uint32_t index = in->index;
    *in = copy;
    in->index = index;
    in->run = use->run;
    in->kind = INSN_PLAIN;
    in->slot[0] = copy.slot[i];
    in->slot[1] = value;
    in->count = 1;
  }
}

static void instruction(Decoder *d, const Token *opcode, const uint32_t guard, bool guard_not) {
  char name[80];
  uint8_t count;
  table_name(d, opcode, name, &count);
  const OpRow *row = find_op(d, name);
  if (!row)
    fail(d, "opcode '%.*s' is not in the table of opcodes (ptx_ops.def)", TOKEN_ARGS(*opcode));
  Insn *in = new_insn(d);
  in->run = row->run;
  in->kind = row->kind;
  in->count = count;
  in->bytes = row->bytes & 0x7F;
  in->is_signed = (row->bytes & 0x80) != 0;
  in->line = opcode->line;
  in->opcode = opcode->at;
  in->guard = guard;
  in->guard_not = guard_not;
  if (in->count * in->bytes > 16)
    fail(d, "'%.*s': a vector has at most 16 bytes", TOKEN_ARGS(*opcode));
  operands(d, in, row);
  finish_insn(d, in, row, name);
  if (row->space == SPACE_PARAM && in->address == NO_SLOT)
    load_named_param(d, in, row);
}

/* One statement of a body or a scope in it. */
static void statement(Decoder *d) {
  if (take(d, "{")) {
    const uint32_t ranges = d->n_ranges;
    while (!at(d, "}"))
      statement(d);
    expect(d, "}");
    d->n_ranges = ranges;
    return;
  }
  uint32_t guard = NO_SLOT, bytes;
  bool guard_not = false;
  if (take(d, "@")) {
    guard_not = take(d, "!");
    const Token p = word(d);
    if (!find_register(d, &p, &guard, &bytes) || bytes != 4)
      fail(d, "'%.*s' is not a predicate", TOKEN_ARGS(p));
  }
  const Token t = word(d);
  if (take(d, ":")) {
    Label *l = label(d, &t);
    if (l->defined)
      fail(d, "label '%s' twice", l->name);
    l->defined = true;
    l->index = d->k->n_code;
  } else if (same(&t, ".reg")) {
    declare_registers(d);
  } else if (same(&t, ".loc")) {
    source_position(d);
  } else if (same(&t, ".shared")) {
    declare_variable(d, true, false);
  } else if (same(&t, ".pragma")) {
    while (!take(d, ";"))
      lexer_next(&d->lex);
  } else if (t.at[0] == '.') {
    fail(d, "'%.*s' in a kernel is not emulated%s", TOKEN_ARGS(t),
         same(&t, ".local") ? ": keep arrays in registers (constant indices)" : "");
  } else {
    instruction(d, &t, guard, guard_not);
  }
}

static void parameters(Decoder *d) {
  Kernel *k = d->k;
  expect(d, "(");
  while (!at(d, ")")) {
    expect(d, ".param");
    uint32_t align = 1, bytes = 0;
    Token t = word(d);
    for (; t.at[0] == '.'; t = word(d)) {
      if (same(&t, ".align"))
        align = (uint32_t)number(d);
      else if (same(&t, ".ptr") || same(&t, ".global") || same(&t, ".shared") || same(&t, ".const"))
        continue;
      else
        bytes = type_bytes(d, &t);
    }
    if (!bytes)
      fail(d, "parameter '%.*s' has no type", TOKEN_ARGS(t));
    align = align > bytes ? align : bytes;
    if (take(d, "[")) {
      bytes *= (uint32_t)number(d);
      expect(d, "]");
    }
    k->params = emu_grow(k->params, (k->n_params + 1) * sizeof *k->params);
    k->param_bytes = (k->param_bytes + align - 1) / align * align;
    k->params[k->n_params++] = (Param){k->param_bytes, bytes, emu_copy_text(t.at, t.n)};
    k->param_bytes += bytes;
    if (!take(d, ","))
      break;
  }
  expect(d, ")");
  if (k->param_bytes > 32764)
    fail(d, "%u bytes of parameters, at most 32764", k->param_bytes);
}

static void kernel_directives(Decoder *d) {
  Kernel *k = d->k;
  while (!at(d, "{")) {
    const Token t = word(d);
    uint32_t v[3] = {1, 1, 1};
    int n = 0;
    if (d->lex.token.kind == TOKEN_NUMBER) {
      do {
        if (n == 3)
          fail(d, "more than three numbers after %.*s", TOKEN_ARGS(t));
        v[n++] = (uint32_t)number(d);
      } while (take(d, ","));
    }
    if (same(&t, ".maxntid") || same(&t, ".reqntid")) {
      k->max_threads = v[0] * v[1] * v[2];
      if (same(&t, ".reqntid"))
        memcpy(k->required, v, sizeof v);
    } else if (same(&t, ".maxnreg")) {
      k->max_registers = v[0];
    } else if (!same(&t, ".minnctapersm")) {
      fail(d, "'%.*s' is not emulated", TOKEN_ARGS(t));
    }
  }
}

static void entry(Decoder *d) {
  const Token name = word(d);
  Kernel *k = d->k = emu_alloc(sizeof *k);
  d->m->kernels = emu_grow(d->m->kernels, (d->m->n_kernels + 1) * sizeof *d->m->kernels);
  d->m->kernels[d->m->n_kernels++] = k;
  k->name = emu_copy_text(name.at, name.n);
  k->module = d->m;
  d->cap_code = d->cap_fixed = d->n_ranges = d->n_labels = d->loc = 0;
  const uint32_t outer_vars = d->m->n_vars;
  if (at(d, "("))
    parameters(d);
  kernel_directives(d);
  statement(d);
  for (uint32_t i = 0; i < k->n_code; i++)
    if (k->code[i].kind == INSN_BRANCH) {
      const Label *l = &d->labels[k->code[i].target];
      if (!l->defined)
        fail(d, "label '%s' is nowhere in kernel %s", l->name, k->name);
      k->code[i].target = l->index;
    }
  Insn *end = new_insn(d); /* falling off the end is ret */
  end->opcode = "ret";
  end->kind = INSN_EXIT;
  end->line = d->lex.token.line;
  k->shared_bytes = (k->static_shared + 127) & ~127u;
  if (k->static_shared > DEFAULT_SHARED)
    fail(d, "kernel %s has %u bytes of static shared memory, at most %d", k->name, k->static_shared,
         DEFAULT_SHARED);
  k->max_dynamic = DEFAULT_SHARED - k->static_shared;
  while (d->m->n_vars > outer_vars) /* its own variables go out of scope */
    free(d->m->vars[--d->m->n_vars].name);
  d->k = NULL;
}

static void top_level(Decoder *d) {
  const Token t = word(d);
  if (same(&t, ".version")) {
    const Token v = d->lex.token; /* 9.0: number, then a word ".0" */
    const int64_t major = number(d);
    const Token minor = d->lex.token;
    if (minor.kind != TOKEN_WORD || minor.n != 2 || minor.at[0] != '.')
      fail(d, "bad .version '%.*s'", TOKEN_ARGS(v));
    lexer_next(&d->lex);
    d->m->ptx_version = (uint32_t)major * 10 + (uint32_t)(minor.at[1] - '0');
  } else if (same(&t, ".target")) {
    const Token v = word(d);
    if (v.n < 5 || memcmp(v.at, "sm_", 3) != 0)
      fail(d, "bad .target '%.*s'", TOKEN_ARGS(v));
    d->m->target = (uint32_t)strtoul(v.at + 3, NULL, 10);
    while (take(d, ","))
      word(d);
  } else if (same(&t, ".address_size")) {
    if (number(d) != 64)
      fail(d, "addresses have 64 bits");
  } else if (same(&t, ".file")) {
    source_file(d);
  } else if (same(&t, ".visible") || same(&t, ".weak")) {
    return;
  } else if (same(&t, ".entry")) {
    entry(d);
  } else if (same(&t, ".extern")) {
    if (!take(d, ".shared"))
      fail(d, ".extern '%.*s' is not emulated", TOKEN_ARGS(d->lex.token));
    declare_variable(d, true, true);
  } else if (same(&t, ".shared")) {
    declare_variable(d, true, false);
  } else if (same(&t, ".global") || same(&t, ".const")) {
    declare_variable(d, false, false);
  } else if (same(&t, ".section")) {
    while (d->lex.token.kind != TOKEN_END && !take(d, "}"))
      lexer_next(&d->lex);
  } else {
    fail(d, "'%.*s' is not emulated%s", TOKEN_ARGS(t),
         same(&t, ".func") ? ": every device function must be inlined" : "");
  }
}

Module *ptx_load(const char *text, Memory *memory, char why[512]) {
  Decoder *d = emu_alloc(sizeof *d);
  Module *m = emu_alloc(sizeof *m);
  m->text = emu_copy_text(text, strlen(text));
  m->memory = memory;
  m->locs = emu_grow(NULL, sizeof *m->locs);
  m->locs[0] = (SourceLoc){0};
  m->n_locs = d->cap_locs = 1;
  d->m = m;
  d->why = why;
  why[0] = 0;
  index_ops(d);
  const bool ok = !setjmp(d->failed);
  if (ok) {
    lexer_init(&d->lex, m->text);
    while (d->lex.token.kind != TOKEN_END)
      top_level(d);
    if (!m->ptx_version || !m->target)
      fail(d, "no .version and .target");
  }
  free(d->ops);
  free(d->ranges);
  free(d->labels);
  free(d);
  if (!why[0])
    return m;
  ptx_unload(m);
  return NULL;
}

void ptx_unload(Module *m) {
  if (!m)
    return;
  stats_report(m);
  for (uint32_t i = 0; i < m->n_kernels; i++) {
    Kernel *k = m->kernels[i];
    free(k->counts_by_insn);
    for (uint32_t p = 0; p < k->n_params; p++)
      free(k->params[p].name);
    free(k->params);
    free(k->code);
    free(k->fixed);
    free(k->name);
    free(k);
  }
  for (uint32_t i = 0; i < m->n_vars; i++) {
    if (!m->vars[i].is_shared)
      memory_free(m->memory, m->vars[i].address);
    free(m->vars[i].name);
  }
  for (uint32_t i = 0; i < m->n_files; i++)
    free(m->files[i]);
  free(m->files);
  free(m->kernels);
  free(m->vars);
  free(m->locs);
  free(m->text);
  free(m);
}

Kernel *ptx_kernel(Module *m, const char *name) {
  for (uint32_t i = 0; i < m->n_kernels; i++)
    if (strcmp(m->kernels[i]->name, name) == 0)
      return m->kernels[i];
  return NULL;
}

const char *ptx_line(const Module *m, uint32_t line, size_t *n) {
  const char *s = m->text;
  while (line > 1 && *s)
    line -= *s++ == '\n';
  s += strspn(s, " \t");
  *n = strcspn(s, "\n");
  return s;
}
