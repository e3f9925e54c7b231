/* Minimax coefficients of math.c, constant term first. Written by tools/fit_poly.py. */
/* clang-format off */
/* exp(r) = 1 + r + r^2 q(r), |r| <= ln(2)/2; relative to exp(r) - 1; largest error 1.3e-08 */
static const double exp_f32[] = {0x1.fffffe0000000p-2, 0x1.5554b00000000p-3, 0x1.5556760000000p-5, 0x1.1227760000000p-7, 0x1.6bea360000000p-10};
/* sin(r) = r + r^3 q(r^2), |r| <= pi/4; relative; largest error 3.6e-09 */
static const double sin_f32[] = {-0x1.5555460000000p-3, 0x1.1107600000000p-7, -0x1.994e580000000p-13};
/* cos(r) = 1 - r^2/2 + r^4 q(r^2), |r| <= pi/4; absolute; largest error 9.5e-11 */
static const double cos_f32[] = {0x1.55554a0000000p-5, -0x1.6c0c8a0000000p-10, 0x1.9a020c0000000p-16};
/* erf(x) = x + x q(x^2), |x| <= 0.921875; relative; largest error 1.6e-08 */
static const double erf_f32[] = {0x1.06eba60000000p-3, -0x1.8126e60000000p-2, 0x1.ce1a6c0000000p-4, -0x1.b68b5c0000000p-6, 0x1.473bba0000000p-8, -0x1.3a17ce0000000p-11};
/* ln(1 - erf(x)) = q(x - 0.921875), 0.921875 <= x <= 4.0; error of erf(x); largest error 1.5e-09 */
static const double erfc_f32[] = {-0x1.a608280000000p+0, -0x1.4106880000000p+1, -0x1.aa7f240000000p-1, -0x1.6ea7fa0000000p-5, 0x1.5e4a940000000p-7, -0x1.002d1a0000000p-9, 0x1.9862500000000p-13};
/* exp(r) = 1 + r + r^2 q(r), |r| <= ln(2)/2; relative to exp(r) - 1; largest error 1.8e-17 */
static const double exp_f64[] = {0x1.0000000000005p-1, 0x1.5555555555539p-3, 0x1.55555555522b6p-5, 0x1.1111111118facp-7, 0x1.6c16c17edbe34p-10, 0x1.a01a01751317bp-13, 0x1.a019a76eb8a2ap-16, 0x1.71de880cf7306p-19, 0x1.28a1e072a58c3p-22, 0x1.ae6b9b3ac7ff5p-26};
/* sin(r) = r + r^3 q(r^2), |r| <= pi/4; relative; largest error 3.4e-18 */
static const double sin_f64[] = {-0x1.5555555555549p-3, 0x1.111111110f87ap-7, -0x1.a01a019c11978p-13, 0x1.71de3577b56b1p-19, -0x1.ae5e6639d428fp-26, 0x1.5d9300cf18813p-33};
/* cos(r) = 1 - r^2/2 + r^4 q(r^2), |r| <= pi/4; absolute; largest error 4.7e-20 */
static const double cos_f64[] = {0x1.555555555554cp-5, -0x1.6c16c16c15180p-10, 0x1.a01a019cb1e92p-16, -0x1.27e4f80a091bep-22, 0x1.1ee9ebf63cfc5p-29, -0x1.8faea1ca2301bp-37};
/* erf(x) = x + x q(x^2), |x| <= 1; relative; largest error 7.3e-18 */
static const double erf_f64[] = {0x1.06eba8214db68p-3, -0x1.812746b0379bdp-2, 0x1.ce2f21a040d16p-4, -0x1.b82ce311fa936p-6, 0x1.565bccf92b22cp-8, -0x1.c02db03dd563ap-11, 0x1.f9a2baa8d85d9p-14, -0x1.f4ca4d6d09df5p-17, 0x1.b97fd3c481bbcp-20, -0x1.5c0726720bd5cp-23, 0x1.d71b0bbe27715p-27, -0x1.abae3f2b28ff6p-31};
/* ln(1 - erf(x)) = q(x - 1), 1 <= x <= 6.0; error of erf(x); largest error 6.6e-18 */
static const double erfc_f64[] = {-0x1.d97fbf27aa2a1p+0, -0x1.51c9b0006c21ap+1, -0x1.afabc11a2afdbp-1, -0x1.5477f099b6a7ep-5, 0x1.48c9d37fbc3cbp-7, -0x1.033f5a125e14ep-9, 0x1.f1b04a63a9acap-13, 0x1.b92ddd881cd08p-16, -0x1.c852b28630464p-16, 0x1.44847d90de7d9p-17, -0x1.1e24e09285c94p-19, 0x1.b7d47b2006b96p-23, 0x1.f25099d6ccb7ap-25, -0x1.1ed3e5c1b8fd0p-25, 0x1.24b3776fb6565p-27, -0x1.6a96c304a373fp-30, 0x1.06659d768eee4p-33, -0x1.5656de2ff507ap-38};
/* log(1 + f) = f - f^2/2 + f^3 q(f), sqrt(1/2) <= 1 + f <= sqrt(2); relative; largest error 5.8e-09 */
static const double log_f32[] = {0x1.5555540000000p-2, -0x1.0002260000000p-2, 0x1.99a0080000000p-3, -0x1.5472460000000p-3, 0x1.22da200000000p-3, -0x1.0d85400000000p-3, 0x1.055b5a0000000p-3, -0x1.38b5640000000p-4};
/* log(1 + f) = 2 s + s^3 q(s^2), s = f / (2 + f); relative; largest error 1.2e-18 */
static const double atanh_f64[] = {0x1.5555555555592p-1, 0x1.999999997fdbbp-2, 0x1.24924941f0ff9p-2, 0x1.c71c520972d6fp-3, 0x1.74663ee53a3edp-3, 0x1.39a1baf1ecea0p-3, 0x1.2f0561f209b9ep-3};
/* clang-format on */
