/* y = gelu(x + bias), tanh form; x, y [rows][cols] bf16 with four elements a thread, cols a multiple
 * of 4. */
KERNEL(256) gelu_bias(const uint2 *__restrict__ x, const float4 *__restrict__ bias,
                      uint2 *__restrict__ y, u32 quads, u32 cols) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= quads) return;
  uint2 v = x[i];
  float4 b = bias[i % (cols / 4)];
  float in[4] = {from_bf16((u16)v.x) + b.x, from_bf16((u16)(v.x >> 16)) + b.y,
                 from_bf16((u16)v.y) + b.z, from_bf16((u16)(v.y >> 16)) + b.w};
#pragma unroll
  for (int k = 0; k < 4; k++)
    in[k] = 0.5f * in[k] * (1.0f + tanhf(0.79788456f * (in[k] + 0.044715f * in[k] * in[k] * in[k])));
  y[i] = make_uint2(to_bf16x2(in[0], in[1]), to_bf16x2(in[2], in[3]));
}
