/* The device helpers as text: prelude.cuh in front of every CUDA program, the others behind it where a
 * kernel calls them. */
  .section .rodata
  .global mpcc_cuda_prelude
mpcc_cuda_prelude:
  .incbin "prelude.cuh"
  .byte 0
  .global mpcc_cuda_mma
mpcc_cuda_mma:
  .incbin "mma.cuh"
  .byte 0
  .global mpcc_cuda_attention
mpcc_cuda_attention:
  .incbin "attention.cuh"
  .byte 0
  .section .note.GNU-stack, "", @progbits
