#!/bin/sh
# Reads every #include of the product against the table of layers (docs/design.md) and fails on a
# line that points the wrong way; also finds library code that prints, exits or aborts.
set -eu
cd "$(dirname "$0")/.."
bad=0

# folder, then the extended regular expression of the include paths it may use
check() {
  folder=$1 allowed=$2
  found=$(grep -rnE '^ *# *include +["<]' "$folder" --include='*.c' --include='*.h' --include='*.def' |
    sed -E 's/^([^:]+:[0-9]+): *# *include +["<]([^">]+)[">].*/\1 \2/' |
    grep -vE " ($allowed|$standard)\$" || true)
  if [ -n "$found" ]; then
    echo "$folder may not include:"
    echo "$found" | sed 's/^/  /'
    bad=1
  fi
}

standard='(assert|ctype|dirent|elf|errno|fcntl|fnmatch|glob|inttypes|limits|math|pthread|sched|setjmp|signal|stdarg|stdatomic|stdbool|stddef|stdint|stdio|stdio_ext|stdlib|string|strings|time|unistd|cpuid|immintrin|xmmintrin|link|float|malloc|sys/[a-z]+|linux/[a-z]+)\.h'
leaf='mpcc/(base|num|abi|hash|philox)\.h|mpcc/(dtype|roles)\.def|(dtype|roles)\.def'
ir="ir/(ir|target)\.h|ir/[a-z]+\.def|$leaf"

check include "$leaf|mpcc/[a-z]+\.h"
check ir "$ir|ir/[a-z_]+\.h"
check frontend "$ir|frontend/[a-z_]+\.(h|def)|yaml\.h"
check passes "$ir|passes/[a-z_]+\.(h|def)"
check codegen "$ir|codegen/[a-z_]+\.h|codegen/(cpu|cuda)/[a-z_]+\.(h|def)|dlfcn\.h|llvm-c/.*\.h|llvm/Config/.*\.h"
check runtime "$leaf|mpcc/runtime\.h|runtime/.*\.(h|def)|jansson\.h|zlib\.h|libdeflate\.h|jpeglib\.h|jerror\.h|png\.h|dlfcn\.h"
check lib "$ir|mpcc/mpcc\.h|(frontend|passes|codegen|lib)/[a-z_]+\.(h|def)"
check report "$leaf|mpcc/runtime\.h|report/[a-z_]+\.h|jansson\.h"
check convert "$leaf|convert/[a-z_]+\.(h|def)|jansson\.h|pcre2\.h|utf8proc\.h"
check driver "$leaf|mpcc/(mpcc|runtime)\.h|(driver|report|runner|convert)/[a-z_]+\.h|jansson\.h"
check runner "$leaf|mpcc/runtime\.h|(report|runner)/[a-z_]+\.h"

# third-party headers and the only files that see them
only() { # header, allowed files
  found=$(grep -rlE "^ *# *include +<$1" --include='*.c' --include='*.h' include ir frontend passes \
    codegen runtime lib report convert driver runner | grep -vE "^($2)\$" || true)
  if [ -n "$found" ]; then
    echo "<$1> is only for $2, not for:" $found
    bad=1
  fi
}
only yaml.h 'frontend/yaml\.c'
only llvm-c 'codegen/cpu/[a-z_]+\.(c|h)'
only dlfcn.h '(runtime|codegen)/cuda/[a-z_]+\.c'
only zlib.h 'runtime/.*\.c'
only jpeglib.h 'runtime/codec/jpeg\.c'
only png.h 'runtime/codec/png\.c'
only pcre2.h 'convert/pretokenizer\.c'
only utf8proc.h 'convert/unicode\.c'
only libdeflate.h 'runtime/data/[a-z]+\.c'

found=$(grep -rnE '\b(printf|puts|putchar|perror|exit|_exit|abort|signal|sigaction)\(|\bf(printf|puts|putc)\((stdout|stderr)' \
  --include='*.c' ir frontend passes codegen runtime lib convert | grep -vE 'text_(printf|puts)|__attribute__' || true)
if [ -n "$found" ]; then
  echo "library code may not print, exit, abort or install handlers:"
  echo "$found"
  bad=1
fi
exit $bad
