/* Gradients of the 3 x 3 convolution with padding 1: of x [n][h][w][ci], each thread gathers one; of the
 * weights [co][3][3][ci], each block sums one. f32, no atomics. */
KERNEL(128) convolution_dx(const float *__restrict__ dy, const float *__restrict__ weight,
                           float *__restrict__ dx, int n, int h, int w, int ci, int co, int s, int oh,
                           int ow) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n * h * w * ci) return;
  int c = i % ci, xx = i / ci % w, yy = i / ci / w % h, b = i / ci / w / h;
  float sum = 0;
  for (int ky = 0; ky < 3; ky++)
    for (int kx = 0; kx < 3; kx++) {
      int py = yy + 1 - ky, px = xx + 1 - kx;
      if (py < 0 || px < 0 || py % s || px % s || py / s >= oh || px / s >= ow) continue;
      for (int o = 0; o < co; o++)
        sum += dy[((b * oh + py / s) * ow + px / s) * co + o] * weight[((o * 3 + ky) * 3 + kx) * ci + c];
    }
  dx[i] = sum;
}

KERNEL(64) convolution_dw(const float *__restrict__ x, const float *__restrict__ dy,
                          float *__restrict__ dw, int n, int h, int w, int ci, int co, int s, int oh,
                          int ow) {
  __shared__ float part[32];
  int i = blockIdx.x, c = i % ci, kx = i / ci % 3, ky = i / ci / 3 % 3, o = i / ci / 9;
  float sum = 0;
  for (int p = threadIdx.x; p < n * oh * ow; p += blockDim.x) {
    int px = p % ow, py = p / ow % oh, b = p / ow / oh, yy = py * s + ky - 1, xx = px * s + kx - 1;
    if (yy >= 0 && yy < h && xx >= 0 && xx < w)
      sum += dy[(u64)p * co + o] * x[(((u64)b * h + yy) * w + xx) * ci + c];
  }
  sum = block_reduce<false>(sum, part);
  if (threadIdx.x == 0) dw[i] = sum;
}
