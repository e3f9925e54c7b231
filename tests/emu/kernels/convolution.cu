/* y [n][oh][ow][co] = x [n][h][w][ci] with weights [co][3][3][ci], stride s, padding 1: each thread
 * gathers one output. f32. */
KERNEL(128) convolution(const float *__restrict__ x, const float *__restrict__ weight,
                        const float *__restrict__ bias, float *__restrict__ y, int n, int h, int w,
                        int ci, int co, int s, int oh, int ow) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (u32)(n * oh * ow * co)) return;
  int c = i % co, px = i / co % ow, py = i / co / ow % oh, b = i / co / ow / oh;
  float sum = bias[c];
  for (int ky = 0; ky < 3; ky++)
    for (int kx = 0; kx < 3; kx++) {
      int yy = py * s + ky - 1, xx = px * s + kx - 1;
      if (yy < 0 || yy >= h || xx < 0 || xx >= w) continue;
      for (int k = 0; k < ci; k++)
        sum += x[(((u64)b * h + yy) * w + xx) * ci + k] * weight[((c * 3 + ky) * 3 + kx) * ci + k];
    }
  y[i] = fmaxf(sum, 0.0f);
}
