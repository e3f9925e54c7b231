/* The device helpers as text: prelude.cuh in front of every CUDA program, the others behind it where a
 * kernel calls them. */
  .section .rodata
  .global mpcc_cuda_prelude
mpcc_cuda_prelude:
  .incbin PRELUDE_FILE
  .byte 0
  .global mpcc_cuda_mma
mpcc_cuda_mma:
  .incbin MMA_FILE
  .byte 0
  .global mpcc_cuda_attention
mpcc_cuda_attention:
  .incbin ATTENTION_FILE
  .byte 0
  .section .note.GNU-stack, "", @progbits
