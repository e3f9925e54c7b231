/* The prebuilt runners and the licence text, carried inside mpcc. */
  .section .rodata
  .balign 64
  .global mpcc_runner_begin
  .global mpcc_runner_end
mpcc_runner_begin:
  .incbin RUNNER_FILE
mpcc_runner_end:
  .byte 0
  .balign 64
  .global mpcc_images_runner_begin
  .global mpcc_images_runner_end
mpcc_images_runner_begin:
  .incbin IMAGES_FILE
mpcc_images_runner_end:
  .byte 0
  .global mpcc_license_begin
mpcc_license_begin:
  .incbin LICENSE_FILE
  .byte 0
  .section .note.GNU-stack, "", @progbits
