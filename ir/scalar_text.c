/* Infix text of scalar programs: parser and canonical printer.
 *
 *   body  := { name '=' cond ',' } cond        names: statements that are used more than once
 *   cond  := or [ '?' cond ':' cond ]
 *   or    := and { '||' and }
 *   and   := cmp { '&&' cmp }
 *   cmp   := sum [ ('<' | '<=' | '>' | '>=' | '==' | '!=') sum ]
 *   sum   := term { ('+' | '-') term }
 *   term  := unary { ('*' | '/') unary }
 *   unary := ('-' | '!') unary | primary       '-' before a number is part of the number
 *   primary := number | 'inf' | 'nan' | name | function '(' cond { ',' cond } ')' | '(' cond ')'
 *
 * Functions: the primitives named in scalar_parse's comment, rows of scalar.def (replaced by their
 * bodies), cvt (truth to 0 or 1) and float formats: bf16(x) rounds to the nearest bf16 value. */
#include "ir/ir.h"
#include "ir/scalar.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CODE_EXPRESSION = 218, MAX_LOCALS = 128 };

typedef struct {
  Maker *m;
  Diag *d;
  Loc loc;
  const char *p;
  const char *const *args;
  const int *bound; /* statements that stand for the arguments; NULL: arguments of the body */
  int nargs, depth;
  bool failed;
  int nlocal;
  struct Local {
    const char *name;
    size_t len;
    int stmt;
  } local[MAX_LOCALS];
} Parser;

static int parse_cond(Parser *p);

static int fail(Parser *p, const char *what) {
  if (!p->failed) {
    p->p += strspn(p->p, " \t\r\n");
    size_t n = strcspn(p->p, " \t\r\n");
    if (*p->p)
      diag_error(p->d, p->loc, CODE_EXPRESSION, "%s before '%.*s'", what, n > 20 ? 20 : (int)n,
                 p->p);
    else
      diag_error(p->d, p->loc, CODE_EXPRESSION, "%s at the end of the expression", what);
  }
  p->failed = true;
  return 0;
}

static bool eat(Parser *p, const char *token) {
  while (isspace((unsigned char)*p->p))
    p->p++;
  size_t n = strlen(token);
  if (strncmp(p->p, token, n))
    return false;
  /* '<' is not the start of '<=', nor '=' of '==', nor '!' of '!='. */
  if (n == 1 && strchr("<>=!", *token) && p->p[1] == '=')
    return false;
  p->p += n;
  return true;
}

static bool is_bool(const Parser *p, int stmt) {
  return !p->m->failed && p->m->stmt[stmt].dt == MPCC_B1;
}

static int number(Parser *p, int x) {
  return !p->failed && is_bool(p, x)
             ? fail(p, "needs a number, got a comparison (cvt(...) is 1 or 0)")
             : x;
}

static int truth(Parser *p, int x) {
  return !p->failed && !p->m->failed && !is_bool(p, x) ? fail(p, "needs a comparison, got a number")
                                                       : x;
}

static int make(Parser *p, Prim prim, int x, int y, int z) {
  if (p->failed)
    return 0;
  int i = maker_op(p->m, prim, x, y, z);
  if (p->m->n > SCALAR_MAX_PARSED)
    return fail(p, "the expression is too long");
  return i;
}

static size_t name_length(const char *s) {
  size_t n = 0;
  if (isalpha((unsigned char)*s) || *s == '_')
    while (isalnum((unsigned char)s[n]) || s[n] == '_')
      n++;
  return n;
}

static bool name_is(const char *name, const char *text, size_t len) {
  return strlen(name) == len && !memcmp(name, text, len);
}

/* Up to STMT_ARGS call arguments, the opening parenthesis being read; returns their number. */
static int parse_call_args(Parser *p, int arg[STMT_ARGS]) {
  int n = 0;
  do {
    if (n == STMT_ARGS) {
      fail(p, "too many arguments");
      return n;
    }
    arg[n++] = parse_cond(p);
  } while (!p->failed && eat(p, ","));
  if (!p->failed && !eat(p, ")"))
    fail(p, "expected ')'");
  return n;
}

static int parse_body(Parser *p);

/* The row's body with its arguments a, b, c replaced by statements. */
static int inline_row(Parser *p, const OpInfo *row, const int *arg) {
  static const char *const names[] = {"a", "b", "c"};
  Parser inner = {.m = p->m,
                  .d = p->d,
                  .loc = p->loc,
                  .p = row->body,
                  .args = names,
                  .bound = arg,
                  .nargs = row->nin,
                  .depth = p->depth + 1};
  int result = parse_body(&inner);
  p->failed |= inner.failed;
  return result;
}

static bool is_function(Prim prim) {
  switch (prim) {
  case PR_ABS:
  case PR_MIN:
  case PR_MAX:
  case PR_SQRT:
  case PR_EXP:
  case PR_LOG:
  case PR_TANH:
  case PR_ERF:
  case PR_FLOOR:
  case PR_COS:
  case PR_SIN:
  case PR_TF32:
  case PR_SR_BF16:
  case PR_SR_F16:
  case PR_ISFINITE:
  case PR_CVT:
    return true;
  default:
    return false;
  }
}

static int parse_call(Parser *p, const char *name, size_t len) {
  char word[32] = {0};
  if (len < sizeof word)
    memcpy(word, name, len);
  int arg[STMT_ARGS] = {0};
  const int n = parse_call_args(p, arg);
  if (p->failed)
    return 0;
  const Prim prim = prim_from_name(word);
  const bool is_prim = prim < PR_COUNT && is_function(prim);
  const OpCode op = op_from_name(word);
  const bool is_row = !is_prim && op < OP_COUNT && op_is_scalar(op);
  const DType dt = dtype_from_text(word);
  const bool is_round = dt < MPCC_DTYPE_COUNT && dtype_is_float(dt);
  if (!is_prim && !is_row && !is_round) {
    diag_error(p->d, p->loc, CODE_EXPRESSION, "unknown function '%.*s'", (int)len, name);
    diag_hint(p->d, "functions of an expression work element by element, as abs, max and gelu do");
    p->failed = true;
    return 0;
  }
  const int want = is_prim ? prim_args(prim) : is_row ? op_info(op)->nin : 1;
  if (n != want) {
    diag_error(p->d, p->loc, CODE_EXPRESSION, "'%s' takes %d argument%s, not %d", word, want,
               want == 1 ? "" : "s", n);
    p->failed = true;
    return 0;
  }
  for (int i = 0; i < n; i++)
    if (prim == PR_CVT)
      truth(p, arg[i]);
    else
      number(p, arg[i]);
  if (p->failed)
    return 0;
  if (is_prim)
    return make(p, prim, arg[0], arg[1], -1);
  if (is_row)
    return inline_row(p, op_info(op), arg);
  return maker_stmt(p->m,
                    (Stmt){.prim = PR_ROUND, .dt = MPCC_F32, .rd = (uint8_t)dt, .arg = {arg[0]}});
}

static int parse_name(Parser *p) {
  const char *name = p->p;
  const size_t len = name_length(name);
  p->p += len;
  if (eat(p, "("))
    return parse_call(p, name, len);
  for (int i = 0; i < p->nargs; i++)
    if (name_is(p->args[i], name, len))
      return p->bound ? p->bound[i] : maker_arg(p->m, i);
  for (int i = p->nlocal; i-- > 0;)
    if (p->local[i].len == len && !memcmp(p->local[i].name, name, len))
      return p->local[i].stmt;
  if (name_is("inf", name, len))
    return maker_const(p->m, INFINITY);
  if (name_is("nan", name, len))
    return maker_const(p->m, NAN);
  if (!p->failed) {
    diag_error(p->d, p->loc, CODE_EXPRESSION, "unknown name '%.*s'", (int)len, name);
    Text known = {0};
    for (int i = 0; i < p->nargs; i++)
      text_printf(&known, "%s%s", !i ? "" : i + 1 < p->nargs ? ", " : " and ", p->args[i]);
    if (known.len)
      diag_hint(p->d, p->nargs > 1 ? "its operands are called %s" : "its operand is called %s",
                known.data);
    text_fini(&known);
  }
  p->failed = true;
  return 0;
}

static int parse_number(Parser *p, bool negative) {
  char *end;
  double v = strtod(p->p, &end);
  p->p = end;
  return maker_const(p->m, negative ? -v : v);
}

static int parse_primary(Parser *p) {
  if (isdigit((unsigned char)*p->p) || (*p->p == '.' && isdigit((unsigned char)p->p[1])))
    return parse_number(p, false);
  if (name_length(p->p))
    return parse_name(p);
  if (!eat(p, "("))
    return fail(p, "expected a number, a name or '('");
  int x = parse_cond(p);
  if (!p->failed && !eat(p, ")"))
    return fail(p, "expected ')'");
  return x;
}

/* Words that are numbers, and so belong to a '-' before them. */
static bool at_number_word(const char *s) {
  size_t n = name_length(s);
  return name_is("inf", s, n) || name_is("nan", s, n);
}

static int parse_unary(Parser *p) {
  if (p->failed)
    return 0;
  if (++p->depth > SCALAR_MAX_DEPTH)
    return fail(p, "the expression is nested too deeply");
  int x;
  if (eat(p, "-")) {
    if (isdigit((unsigned char)*p->p) || *p->p == '.' || at_number_word(p->p))
      x = parse_number(p, true);
    else
      x = make(p, PR_NEG, number(p, parse_unary(p)), -1, -1);
  } else if (eat(p, "!")) {
    x = make(p, PR_NOT, truth(p, parse_unary(p)), -1, -1);
  } else {
    x = parse_primary(p);
  }
  p->depth--;
  return x;
}

static int parse_term(Parser *p) {
  int x = parse_unary(p);
  while (!p->failed) {
    Prim prim = eat(p, "*") ? PR_MUL : eat(p, "/") ? PR_DIV : PR_COUNT;
    if (prim == PR_COUNT)
      break;
    number(p, x);
    x = make(p, prim, x, number(p, parse_unary(p)), -1);
  }
  return x;
}

static int parse_sum(Parser *p) {
  int x = parse_term(p);
  while (!p->failed) {
    Prim prim = eat(p, "+") ? PR_ADD : eat(p, "-") ? PR_SUB : PR_COUNT;
    if (prim == PR_COUNT)
      break;
    number(p, x);
    x = make(p, prim, x, number(p, parse_term(p)), -1);
  }
  return x;
}

static int parse_cmp(Parser *p) {
  static const struct {
    const char *token;
    Prim prim;
    bool swap; /* a > b is b < a */
  } ops[] = {{"<=", PR_LE, false}, {">=", PR_LE, true}, {"==", PR_EQ, false},
             {"!=", PR_NE, false}, {"<", PR_LT, false}, {">", PR_LT, true}};
  int x = parse_sum(p);
  for (size_t i = 0; !p->failed && i < sizeof ops / sizeof ops[0]; i++) {
    if (!eat(p, ops[i].token))
      continue;
    number(p, x);
    int y = number(p, parse_sum(p));
    return ops[i].swap ? make(p, ops[i].prim, y, x, -1) : make(p, ops[i].prim, x, y, -1);
  }
  return x;
}

static int parse_and(Parser *p) {
  int x = parse_cmp(p);
  while (!p->failed && eat(p, "&&")) {
    truth(p, x);
    x = make(p, PR_AND, x, truth(p, parse_cmp(p)), -1);
  }
  return x;
}

static int parse_or(Parser *p) {
  int x = parse_and(p);
  while (!p->failed && eat(p, "||")) {
    truth(p, x);
    x = make(p, PR_OR, x, truth(p, parse_and(p)), -1);
  }
  return x;
}

static int parse_cond(Parser *p) {
  int x = parse_or(p);
  if (p->failed || !eat(p, "?"))
    return x;
  truth(p, x);
  if (++p->depth > SCALAR_MAX_DEPTH)
    return fail(p, "the expression is nested too deeply");
  int y = number(p, parse_cond(p));
  if (!p->failed && !eat(p, ":"))
    return fail(p, "expected ':'");
  int z = number(p, parse_cond(p));
  p->depth--;
  return make(p, PR_SELECT, x, y, z);
}

/* A definition `name = cond ,` is read if there is one. */
static bool parse_definition(Parser *p) {
  while (isspace((unsigned char)*p->p))
    p->p++;
  const char *start = p->p;
  const size_t len = name_length(start);
  p->p += len;
  if (!len || !eat(p, "=")) {
    p->p = start;
    return false;
  }
  if (p->nlocal == MAX_LOCALS) {
    fail(p, "too many names");
    return false;
  }
  const int x = parse_cond(p);
  if (!p->failed && !eat(p, ","))
    fail(p, "expected ','");
  p->local[p->nlocal++] = (struct Local){start, len, x};
  return !p->failed;
}

/* A whole body up to the end of the text. */
static int parse_body(Parser *p) {
  while (parse_definition(p))
    ;
  const int x = parse_cond(p);
  eat(p, "");
  if (!p->failed && *p->p)
    fail(p, "expected an operator");
  return x;
}

Status scalar_parse(Arena *a, Diag *d, Loc loc, const char *text, const char *const *args,
                    int nargs, Scalar **out) {
  *out = NULL;
  Maker m;
  maker_init(&m, a, nargs);
  Parser p = {.m = &m, .d = d, .loc = loc, .p = text, .args = args, .nargs = nargs};
  const int result = number(&p, parse_body(&p));
  if (p.failed)
    return MPCC_ERR_INPUT;
  *out = maker_finish(&m, result);
  return *out ? MPCC_OK : MPCC_ERR_NOMEM;
}

/* ---- printing -------------------------------------------------------------------------------- */

/* How tightly a form binds: the grammar's levels. */
enum { P_COND = 1, P_OR, P_AND, P_CMP, P_SUM, P_TERM, P_UNARY, P_PRIMARY };

typedef struct {
  const Scalar *s;
  const char *const *args;
  Text *out;
  int name[SCALAR_MAX]; /* k + 1: printed as t<k> */
} Printer;

static int binding(const Stmt *s) {
  switch ((Prim)s->prim) {
  case PR_SELECT:
    return P_COND;
  case PR_OR:
    return P_OR;
  case PR_AND:
    return P_AND;
  case PR_LT:
  case PR_LE:
  case PR_EQ:
  case PR_NE:
    return P_CMP;
  case PR_ADD:
  case PR_SUB:
    return P_SUM;
  case PR_MUL:
  case PR_DIV:
    return P_TERM;
  case PR_NEG:
  case PR_NOT:
    return P_UNARY;
  case PR_CONST:
    return signbit(s->imm) ? P_UNARY : P_PRIMARY;
  default:
    return P_PRIMARY;
  }
}

static const char *infix(Prim p) {
  switch (p) {
  case PR_OR:
    return " || ";
  case PR_AND:
    return " && ";
  case PR_LT:
    return " < ";
  case PR_LE:
    return " <= ";
  case PR_EQ:
    return " == ";
  case PR_NE:
    return " != ";
  case PR_ADD:
    return " + ";
  case PR_SUB:
    return " - ";
  case PR_MUL:
    return " * ";
  default:
    return " / ";
  }
}

static void print_stmt(Printer *p, int i, int least);

static void print_form(Printer *p, const Stmt *s) {
  const int b = binding(s);
  switch (b) {
  case P_COND:
    print_stmt(p, s->arg[0], P_OR);
    text_puts(p->out, " ? ");
    print_stmt(p, s->arg[1], P_COND);
    text_puts(p->out, " : ");
    print_stmt(p, s->arg[2], P_COND);
    return;
  case P_OR:
  case P_AND:
  case P_SUM:
  case P_TERM: /* they group to the left */
    print_stmt(p, s->arg[0], b);
    text_puts(p->out, infix((Prim)s->prim));
    print_stmt(p, s->arg[1], b + 1);
    return;
  case P_CMP:
    print_stmt(p, s->arg[0], P_SUM);
    text_puts(p->out, infix((Prim)s->prim));
    print_stmt(p, s->arg[1], P_SUM);
    return;
  default:
    break;
  }
  if (s->prim == PR_CONST) {
    text_double(p->out, s->imm);
  } else if (s->prim == PR_ARG) {
    text_puts(p->out, p->args[s->ref]);
  } else if (s->prim == PR_NEG || s->prim == PR_NOT) {
    text_puts(p->out, s->prim == PR_NEG ? "-" : "!");
    /* -(1) is not the number -1 */
    print_stmt(p, s->arg[0],
               s->prim == PR_NEG && p->s->stmt[s->arg[0]].prim == PR_CONST ? P_PRIMARY + 1
                                                                           : P_UNARY);
  } else {
    text_printf(p->out, "%s(",
                s->prim == PR_ROUND ? dtype_text((DType)s->rd) : prim_name((Prim)s->prim));
    for (int k = 0; k < prim_args((Prim)s->prim); k++) {
      if (k)
        text_puts(p->out, ", ");
      print_stmt(p, s->arg[k], P_COND);
    }
    text_puts(p->out, ")");
  }
}

/* Statement i as a form that binds at least as tightly as `least`. */
static void print_stmt(Printer *p, int i, int least) {
  if (p->name[i]) {
    text_printf(p->out, "t%d", p->name[i] - 1);
    return;
  }
  const bool parens = binding(&p->s->stmt[i]) < least;
  if (parens)
    text_puts(p->out, "(");
  print_form(p, &p->s->stmt[i]);
  if (parens)
    text_puts(p->out, ")");
}

void scalar_print(const Scalar *s, const char *const *args, Text *out) {
  Printer p = {.s = s, .args = args, .out = out};
  int uses[SCALAR_MAX] = {0}, names = 0;
  for (int i = 0; i < s->nstmt; i++)
    for (int k = 0; k < STMT_ARGS; k++)
      if (s->stmt[i].arg[k] >= 0)
        uses[s->stmt[i].arg[k]]++;
  for (int i = 0; i < s->nstmt; i++) {
    if (uses[i] < 2 || s->stmt[i].prim == PR_CONST || s->stmt[i].prim == PR_ARG)
      continue;
    text_printf(out, "t%d = ", names);
    print_form(&p, &s->stmt[i]);
    text_puts(out, ", ");
    p.name[i] = ++names;
  }
  print_stmt(&p, s->result, P_COND);
}
