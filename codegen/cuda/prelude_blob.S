/* The device helpers as text, in front of every CUDA program. */
  .section .rodata
  .global mpcc_cuda_prelude
mpcc_cuda_prelude:
  .incbin PRELUDE_FILE
  .byte 0
  .section .note.GNU-stack, "", @progbits
