/* Kernels become objects: one LLVM module per kernel, a small pass pipeline, one object in memory,
 * each with its own context and target machine. */
#include <elf.h>
#include <llvm-c/Analysis.h>
#include <llvm-c/Error.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>
#include <llvm-c/Transforms/PassBuilder.h>
#include <llvm/Config/llvm-config.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/cpu/gen.h"

static const char *const kind_names[] = {
#define KIND(name) #name,
#include "codegen/cpu/kinds.def"
#undef KIND
    NULL};
static CpuEmit *const kind_emit[] = {
#define KIND(name) cpu_##name,
#include "codegen/cpu/kinds.def"
#undef KIND
    NULL};

/* Enough for IR that is vector code already; the loop vectorizer has nothing to add. */
static const char pipeline[] = "function(sroa<modify-cfg>,early-cse,simplifycfg,"
                               "instcombine<no-verify-fixpoint>,loop-mssa(licm),early-cse)";
static const char triple[] = "x86_64-unknown-linux-gnu";

static void init_llvm(void) {
  LLVMInitializeX86TargetInfo();
  LLVMInitializeX86Target();
  LLVMInitializeX86TargetMC();
  LLVMInitializeX86AsmPrinter();
  LLVMInitializeX86AsmParser(); /* micro-kernels have instructions of their own */
}

static pthread_once_t llvm_once = PTHREAD_ONCE_INIT;

/* ---- one kernel ---- */

int gen_lanes(const Gen *g, const Op *group) {
  bool wide = true;
  for (int k = 0; k < group->nin; k++)
    wide = wide && dtype_bytes(gen_in_dtype(group, k)) == 8;
  for (int k = 0; k < group->nout; k++)
    wide = wide && dtype_bytes(gen_out_dtype(group, k)) == 8;
  return g->level->vector_bytes / (wide ? 8 : 4);
}

int64_t gen_tiles(int64_t rows, int64_t panel) {
  return panel > 0 ? (rows + panel - 1) / panel : 0;
}

/* First error LLVM reports; its default is to print and exit. */
static void on_diagnostic(LLVMDiagnosticInfoRef info, void *user) {
  Gen *g = user;
  if (LLVMGetDiagInfoSeverity(info) != LLVMDSError)
    return;
  char *text = LLVMGetDiagInfoDescription(info);
  gen_fail(g, "LLVM: %s", text);
  LLVMDisposeMessage(text);
}

static bool gen_init(Gen *g, const CpuLevel *level) {
  *g = (Gen){.level = level, .ctx = LLVMContextCreate()};
  if (!g->ctx)
    return gen_fail(g, "no LLVM context");
  LLVMContextSetDiagnosticHandler(g->ctx, on_diagnostic, g);
  g->mod = LLVMModuleCreateWithNameInContext("mpcc", g->ctx);
  g->b = LLVMCreateBuilderInContext(g->ctx);
  g->i1 = LLVMInt1TypeInContext(g->ctx);
  g->i8 = LLVMInt8TypeInContext(g->ctx);
  g->i16 = LLVMInt16TypeInContext(g->ctx);
  g->i32 = LLVMInt32TypeInContext(g->ctx);
  g->i64 = LLVMInt64TypeInContext(g->ctx);
  g->f16 = LLVMHalfTypeInContext(g->ctx);
  g->f32 = LLVMFloatTypeInContext(g->ctx);
  g->f64 = LLVMDoubleTypeInContext(g->ctx);
  g->ptr = LLVMPointerTypeInContext(g->ctx, 0);
  g->none = LLVMVoidTypeInContext(g->ctx);
  return true;
}

static void gen_fini(Gen *g) {
  if (g->b)
    LLVMDisposeBuilder(g->b);
  if (g->mod)
    LLVMDisposeModule(g->mod);
  if (g->ctx)
    LLVMContextDispose(g->ctx);
}

static void text_attr(Gen *g, const char *key, const char *value) {
  LLVMAddAttributeAtIndex(g->fn, LLVMAttributeFunctionIndex,
                          LLVMCreateStringAttribute(g->ctx, key, (unsigned)strlen(key), value,
                                                    (unsigned)strlen(value)));
}

static void enum_attr(Gen *g, LLVMAttributeIndex at, const char *key) {
  unsigned kind = LLVMGetEnumAttributeKindForName(key, strlen(key));
  LLVMAddAttributeAtIndex(g->fn, at, LLVMCreateEnumAttribute(g->ctx, kind, 0));
}

/* void symbol(args, first, end, scratch) of abi.h, with the builder in its entry block. */
static void begin_function(Gen *g, const char *symbol) {
  Ty params[] = {g->ptr, g->i64, g->i64, g->ptr};
  g->fn = LLVMAddFunction(g->mod, symbol, LLVMFunctionType(g->none, params, 4, 0));
  const char *width = g->level->avx512 ? "512" : "256";
  text_attr(g, "prefer-vector-width", width);
  text_attr(g, "min-legal-vector-width", width);
  text_attr(g, "no-jump-tables", "true");
  enum_attr(g, LLVMAttributeFunctionIndex, "nounwind");
  /* args and scratch are the runtime's own memory; tensors are reached through args only */
  enum_attr(g, 1, "noalias");
  enum_attr(g, 1, "readonly");
  enum_attr(g, 4, "noalias");
  g->args = LLVMGetParam(g->fn, 0);
  g->first = LLVMGetParam(g->fn, 1);
  g->end = LLVMGetParam(g->fn, 2);
  g->scratch = LLVMGetParam(g->fn, 3);
  LLVMBasicBlockRef entry = LLVMAppendBasicBlockInContext(g->ctx, g->fn, "entry");
  LLVMPositionBuilderAtEnd(g->b, entry);
}

static bool emit_group(Gen *g, const Kernel *k) {
  const char *kind = op_str(k->group, "kind", "");
  for (int i = 0; kind_names[i]; i++) {
    if (strcmp(kind_names[i], kind))
      continue;
    begin_function(g, k->symbol);
    if (!kind_emit[i](g, k->group) || g->error[0])
      return gen_fail(g, "kind '%s' gave no kernel", kind);
    LLVMBuildRetVoid(g->b);
    return true;
  }
  return gen_fail(g, "group kind '%s' is not supported yet by target cpu", kind);
}

static LLVMTargetMachineRef machine(Gen *g, int opt_level) {
  static const LLVMCodeGenOptLevel of[] = {LLVMCodeGenLevelNone, LLVMCodeGenLevelLess,
                                           LLVMCodeGenLevelDefault, LLVMCodeGenLevelAggressive};
  LLVMTargetRef target;
  char *words = NULL;
  if (LLVMGetTargetFromTriple(triple, &target, &words)) {
    gen_fail(g, "LLVM: %s", words);
    LLVMDisposeMessage(words);
    return NULL;
  }
  int o = opt_level < 0 ? 0 : opt_level > 3 ? 3 : opt_level;
  LLVMTargetMachineRef tm = LLVMCreateTargetMachine(target, triple, "generic", g->level->features,
                                                    of[o], LLVMRelocPIC, LLVMCodeModelSmall);
  if (!tm)
    gen_fail(g, "LLVM: no target machine for level %s", g->level->name);
  return tm;
}

static bool optimize(Gen *g, LLVMTargetMachineRef tm) {
  LLVMSetTarget(g->mod, triple);
  LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(tm);
  LLVMSetModuleDataLayout(g->mod, layout);
  LLVMDisposeTargetData(layout);
  char *words = NULL;
  bool bad = LLVMVerifyModule(g->mod, LLVMReturnStatusAction, &words);
  if (bad)
    gen_fail(g, "LLVM verifier: %.200s", words);
  LLVMDisposeMessage(words);
  if (bad)
    return false;
  LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
  LLVMErrorRef e = LLVMRunPasses(g->mod, pipeline, tm, options);
  LLVMDisposePassBuilderOptions(options);
  if (e) {
    char *text = LLVMGetErrorMessage(e);
    gen_fail(g, "LLVM passes: %s", text);
    LLVMDisposeErrorMessage(text);
  }
  return !e;
}

static bool copy_out(Gen *g, const void *from, size_t len, void **bytes, size_t *out_len) {
  *bytes = malloc(len + 1);
  if (!*bytes)
    return gen_fail(g, "out of memory");
  memcpy(*bytes, from, len);
  ((char *)*bytes)[len] = 0;
  *out_len = len;
  return true;
}

static bool write_module(Gen *g, LLVMTargetMachineRef tm, CpuForm form, void **bytes, size_t *len) {
  if (form == FORM_LLVM_IR) {
    char *text = LLVMPrintModuleToString(g->mod);
    bool ok = copy_out(g, text, strlen(text), bytes, len);
    LLVMDisposeMessage(text);
    return ok;
  }
  LLVMMemoryBufferRef buffer;
  char *words = NULL;
  LLVMCodeGenFileType type = form == FORM_ASM ? LLVMAssemblyFile : LLVMObjectFile;
  if (LLVMTargetMachineEmitToMemoryBuffer(tm, g->mod, type, &words, &buffer)) {
    gen_fail(g, "LLVM code generation: %s", words);
    LLVMDisposeMessage(words);
    return false;
  }
  bool ok = copy_out(g, LLVMGetBufferStart(buffer), LLVMGetBufferSize(buffer), bytes, len);
  LLVMDisposeMemoryBuffer(buffer);
  return ok;
}

/* The loader knows no symbol but the kernels' own and two kinds of relocation (abi.h): a call of
 * memcpy or of a libgcc helper that the code generator slipped in is found here. */
static bool check_object(Gen *g, const char *object) {
  const Elf64_Ehdr *eh = (const Elf64_Ehdr *)object;
  const Elf64_Shdr *sh = (const Elf64_Shdr *)(object + eh->e_shoff);
  for (int s = 0; s < eh->e_shnum; s++) {
    if (sh[s].sh_type == SHT_SYMTAB) {
      const Elf64_Sym *sym = (const Elf64_Sym *)(object + sh[s].sh_offset);
      const char *names = object + sh[sh[s].sh_link].sh_offset;
      for (size_t i = 1; i < sh[s].sh_size / sizeof *sym; i++)
        if (sym[i].st_shndx == SHN_UNDEF)
          return gen_fail(g, "kernel code calls '%s', which no program has",
                          names + sym[i].st_name);
    } else if (sh[s].sh_type == SHT_RELA) {
      const Elf64_Rela *rela = (const Elf64_Rela *)(object + sh[s].sh_offset);
      for (size_t i = 0; i < sh[s].sh_size / sizeof *rela; i++) {
        unsigned type = (unsigned)ELF64_R_TYPE(rela[i].r_info);
        if (type != R_X86_64_PC32 && type != R_X86_64_PLT32)
          return gen_fail(g, "kernel code has a relocation of type %u", type);
      }
    }
  }
  return true;
}

bool cpu_compile(const CpuLevel *level, Kernel *k, int opt_level, CpuForm form, char *error,
                 void **bytes, size_t *len) {
  pthread_once(&llvm_once, init_llvm);
  Gen g;
  *bytes = NULL;
  bool ok = gen_init(&g, level) && emit_group(&g, k);
  LLVMTargetMachineRef tm = ok ? machine(&g, opt_level) : NULL;
  ok = ok && tm && optimize(&g, tm) && write_module(&g, tm, form, bytes, len) && !g.error[0];
  ok = ok && (form != FORM_OBJECT || check_object(&g, *bytes));
  if (ok) {
    k->ntiles = g.ntiles;
    k->scratch_bytes = (g.scratch_bytes + 63) / 64 * 64;
  } else {
    snprintf(error, 256, "%s", g.error[0] ? g.error : "unknown");
    free(*bytes);
    *bytes = NULL;
  }
  if (tm)
    LLVMDisposeTargetMachine(tm);
  gen_fini(&g);
  return ok;
}

/* ---- the target ---- */

static Status compile(const char *level, Kernel *k, int n, int opt_level, const char *form,
                      char *error, int *at, void **bytes, size_t *len) {
  (void)n; /* each alone */
  *at = 0;
  CpuForm f = !strcmp(form, "asm")       ? FORM_ASM
              : !strcmp(form, "llvm-ir") ? FORM_LLVM_IR
                                         : FORM_OBJECT;
  return cpu_compile(cpu_level(level), k, opt_level, f, error, bytes, len) ? MPCC_OK
                                                                           : MPCC_ERR_INTERNAL;
}

static void compiler(const char *level, int opt_level, Text *out) {
  text_printf(out, "llvm %s %s -O%d", LLVM_VERSION_STRING, cpu_level(level)->features, opt_level);
}

const Target target_cpu = {
    .name = "cpu",
    .nlevel = CPU_NLEVEL,
    .level = cpu_level_names,
    .caps = cpu_caps,
    .host_level = cpu_host_level,
    .level_needs = cpu_level_needs,
    .compile = compile,
    .compiler = compiler,
};
