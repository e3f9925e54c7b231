/* Learning rates beside torch.optim.lr_scheduler, step by step; rates of parameter groups.
 * The numbers come from tools/lr_reference.py. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/fit.h"
#include "tests/check_run.h"

enum { STEPS = 50 };

/* PyTorch 2.15.0 */
static const double constant[STEPS] = {
    0.075, 0.075, 0.075, 0.075, 0.075, 0.075, 0.075, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3,
    0.3,   0.3,   0.3,   0.3,   0.3,   0.3,   0.3,   0.3, 0.3, 0.3, 0.3, 0.3, 0.3,
    0.3,   0.3,   0.3,   0.3,   0.3,   0.3,   0.3,   0.3, 0.3, 0.3, 0.3, 0.3, 0.3,
    0.3,   0.3,   0.3,   0.3,   0.3,   0.3,   0.3,   0.3, 0.3, 0.3, 0.3};
static const double linear[STEPS] = {
    0.03,  0.042, 0.054, 0.066, 0.078, 0.09,  0.102, 0.114, 0.126, 0.138, 0.15, 0.162, 0.174,
    0.186, 0.198, 0.21,  0.222, 0.234, 0.246, 0.258, 0.27,  0.27,  0.27,  0.27, 0.27,  0.27,
    0.27,  0.27,  0.27,  0.27,  0.27,  0.27,  0.27,  0.27,  0.27,  0.27,  0.27, 0.27,  0.27,
    0.27,  0.27,  0.27,  0.27,  0.27,  0.27,  0.27,  0.27,  0.27,  0.27,  0.27};
static const double cosine[STEPS] = {0.3,
                                     0.299233065351558,
                                     0.296940664102733,
                                     0.293147912281322,
                                     0.287896364069964,
                                     0.281243556529821,
                                     0.273262379212493,
                                     0.264040275566835,
                                     0.25367828489024,
                                     0.242289935320946,
                                     0.23,
                                     0.216943130030612,
                                     0.203262379212493,
                                     0.189107636714486,
                                     0.174633984857472,
                                     0.16,
                                     0.145366015142529,
                                     0.130892363285514,
                                     0.116737620787507,
                                     0.103056869969388,
                                     0.0900000000000001,
                                     0.0777100646790538,
                                     0.0663217151097599,
                                     0.0559597244331649,
                                     0.0467376207875074,
                                     0.0387564434701786,
                                     0.0321036359300359,
                                     0.0268520877186785,
                                     0.0230593358972672,
                                     0.0207669346484417,
                                     0.02,
                                     0.0207669346484417,
                                     0.0230593358972673,
                                     0.0268520877186786,
                                     0.0321036359300361,
                                     0.0387564434701789,
                                     0.0467376207875078,
                                     0.0559597244331655,
                                     0.0663217151097607,
                                     0.0777100646790548,
                                     0.0900000000000012,
                                     0.103056869969389,
                                     0.116737620787509,
                                     0.130892363285516,
                                     0.145366015142531,
                                     0.160000000000003,
                                     0.174633984857474,
                                     0.189107636714489,
                                     0.203262379212496,
                                     0.216943130030616};
static const double cosine_auto[STEPS] = {0.3,
                                          0.299704009264241,
                                          0.298817205197172,
                                          0.297343087609303,
                                          0.295287474169295,
                                          0.292658477444273,
                                          0.289466472883238,
                                          0.285724057869903,
                                          0.28144600200658,
                                          0.276649188825302,
                                          0.271352549156242,
                                          0.265576986416368,
                                          0.259345294113212,
                                          0.252682065889303,
                                          0.245613598462303,
                                          0.238167787843871,
                                          0.230374019246849,
                                          0.222263051115257,
                                          0.213866893734761,
                                          0.205218682902702,
                                          0.196352549156242,
                                          0.187303483074728,
                                          0.178107197187859,
                                          0.168799985034646,
                                          0.159418577929397,
                                          0.15,
                                          0.140581422070603,
                                          0.131200014965354,
                                          0.121892802812141,
                                          0.112696516925272,
                                          0.103647450843758,
                                          0.0947813170972984,
                                          0.0861331062652391,
                                          0.0777369488847427,
                                          0.0696259807531505,
                                          0.0618322121561291,
                                          0.0543864015376965,
                                          0.0473179341106967,
                                          0.0406547058867883,
                                          0.0344230135836316,
                                          0.0286474508437579,
                                          0.0233508111746978,
                                          0.0185539979934205,
                                          0.0142759421300971,
                                          0.0105335271167623,
                                          0.00734152255572697,
                                          0.00471252583070535,
                                          0.00265691239069669,
                                          0.00118279480282834,
                                          0.000295990735759266};
static const double sequential[STEPS] = {0.003,
                                         0.0327,
                                         0.0624,
                                         0.0921,
                                         0.1218,
                                         0.1515,
                                         0.1812,
                                         0.2109,
                                         0.2406,
                                         0.2703,
                                         0.15,
                                         0.15,
                                         0.15,
                                         0.15,
                                         0.15,
                                         0.15,
                                         0.15,
                                         0.15,
                                         0.3,
                                         0.3,
                                         0.3,
                                         0.3,
                                         0.3,
                                         0.3,
                                         0.3,
                                         0.3,
                                         0.3,
                                         0.3,
                                         0.3,
                                         0.3,
                                         0.3,
                                         0.298153251089271,
                                         0.292658477444273,
                                         0.283650978628255,
                                         0.271352549156242,
                                         0.256066017177982,
                                         0.238167787843871,
                                         0.218098574960932,
                                         0.196352549156242,
                                         0.173465169756035,
                                         0.15,
                                         0.126534830243965,
                                         0.103647450843758,
                                         0.081901425039068,
                                         0.061832212156129,
                                         0.0439339828220179,
                                         0.0286474508437579,
                                         0.0163490213717448,
                                         0.00734152255572697,
                                         0.00184674891072935};
static const double warmup_rates[STEPS] = {0.0333333333333333,  0.062962962962963,
                                           0.0925925925925926,  0.122222222222222,
                                           0.151851851851852,   0.181481481481481,
                                           0.211111111111111,   0.240740740740741,
                                           0.27037037037037,    0.3,
                                           0.299559870177561,   0.298242063567052,
                                           0.296054313581667,   0.293009458808239,
                                           0.289125367665314,   0.284424833544158,
                                           0.27893544104808,    0.272689404115008,
                                           0.265723376973291,   0.258078239040118,
                                           0.249798855024835,   0.240933811644996,
                                           0.231535132500183,   0.221657972776839,
                                           0.211360295575701,   0.200702531761275,
                                           0.189747225329499,   0.1785586663747,
                                           0.16720251380976,    0.155745410053505,
                                           0.144254589946495,   0.13279748619024,
                                           0.1214413336253,     0.110252774670501,
                                           0.0992974682387246,  0.088639704424299,
                                           0.0783420272231606,  0.0684648674998168,
                                           0.0590661883550043,  0.0502011449751652,
                                           0.041921760959882,   0.0342766230267086,
                                           0.0273105958849924,  0.0210645589519198,
                                           0.0155751664558417,  0.0108746323346858,
                                           0.00699054119176042, 0.00394568641833316,
                                           0.00175793643294772, 0.000440129822438934};

/* A program that is nothing but a spec and the attributes of its optimizer. */
static mprt_program *open_program(const char *scheduler) {
  mprt_program *p = calloc(1, sizeof *p);
  char *spec = mprt__format("{\"scheduler\": %s}", scheduler);
  p->spec = json_loads(spec, 0, NULL);
  p->meta = json_loads("{\"attrs\": {\"group.0.lr\": 0.3, \"group.1.lr\": 0.03}}", 0, NULL);
  ck_assert(p->spec && p->meta);
  free(spec);
  return p;
}

static void close_program(mprt_program *p) {
  json_decref(p->spec);
  json_decref(p->meta);
  free(p);
}

/* PyTorch's recurrences round at every step, closed forms once: a few units in the last place. */
static void check_rates(const char *scheduler, const double *want) {
  mprt_program *p = open_program(scheduler);
  for (int64_t t = 0; t < STEPS; t++) {
    ck_assert_double_eq_tol(mprt__schedule_lr(p, 0, t, STEPS, 10), want[t], 1e-14);
    /* the second group has a tenth of the rate, where nothing absolute (eta_min) is in it */
    if (!strstr(scheduler, "0.02"))
      ck_assert_double_eq_tol(mprt__schedule_lr(p, 1, t, STEPS, 10), want[t] / 10, 1e-14);
  }
  close_program(p);
}

START_TEST(constant_lr) {
  check_rates("{\"type\": \"ConstantLR\", \"factor\": 0.25, \"total_iters\": 7}", constant);
}
END_TEST

START_TEST(linear_lr) {
  check_rates("{\"type\": \"LinearLR\", \"start_factor\": 0.1, \"end_factor\": 0.9, "
              "\"total_iters\": 20}",
              linear);
}
END_TEST

START_TEST(cosine_lr) {
  check_rates("{\"type\": \"CosineAnnealingLR\", \"T_max\": 30, \"eta_min\": 0.02}", cosine);
  check_rates("{\"type\": \"CosineAnnealingLR\", \"T_max\": \"auto\", \"eta_min\": 0.0}",
              cosine_auto);
}
END_TEST

START_TEST(sequential_lr) {
  check_rates("{\"type\": \"SequentialLR\", \"milestones\": [10, 30], \"schedulers\": ["
              "{\"type\": \"LinearLR\", \"start_factor\": 0.01, \"end_factor\": 1.0, "
              "\"total_iters\": 10}, "
              "{\"type\": \"ConstantLR\", \"factor\": 0.5, \"total_iters\": 8}, "
              "{\"type\": \"CosineAnnealingLR\", \"T_max\": 20, \"eta_min\": 0.0}]}",
              sequential);
}
END_TEST

/* What the frontend makes of {warmup_steps: 9, type: CosineAnnealingLR, T_max: auto}. */
START_TEST(warmup) {
  check_rates("{\"type\": \"SequentialLR\", \"interval\": \"step\", \"milestones\": [9], "
              "\"schedulers\": [{\"type\": \"LinearLR\", \"start_factor\": 0.1111111111111111, "
              "\"end_factor\": 1.0, \"total_iters\": 9}, "
              "{\"type\": \"CosineAnnealingLR\", \"T_max\": \"auto\", \"eta_min\": 0.0}]}",
              warmup_rates);
}
END_TEST

/* Beyond the spec's own end an automatic schedule holds its last value. */
START_TEST(beyond_the_end) {
  mprt_program *p = open_program("{\"type\": \"CosineAnnealingLR\", \"T_max\": \"auto\", "
                                 "\"eta_min\": 0.125}");
  for (int64_t t = STEPS; t < 3 * STEPS; t++)
    ck_assert_double_eq(mprt__schedule_lr(p, 0, t, STEPS, 10), 0.125);
  close_program(p);
}
END_TEST

/* Counted in epochs the rate changes between epochs alone. */
START_TEST(by_epoch) {
  mprt_program *p =
      open_program("{\"type\": \"LinearLR\", \"interval\": \"epoch\", "
                   "\"start_factor\": 0.1, \"end_factor\": 0.9, \"total_iters\": 20}");
  for (int64_t t = 0; t < 7 * STEPS; t++)
    ck_assert_double_eq_tol(mprt__schedule_lr(p, 0, t, 7 * STEPS, 7), linear[t / 7], 1e-14);
  close_program(p);
}
END_TEST

START_TEST(without_a_scheduler) {
  mprt_program *p = open_program("null");
  for (int64_t t = 0; t < STEPS; t++) {
    ck_assert_double_eq(mprt__schedule_lr(p, 0, t, STEPS, 10), 0.3);
    ck_assert_double_eq(mprt__schedule_lr(p, 1, t, STEPS, 10), 0.03);
  }
  close_program(p);
}
END_TEST

int main(void) {
  Suite *s = suite_create("schedule");
  TCase *tc = tcase_create("schedule");
  tcase_add_test(tc, constant_lr);
  tcase_add_test(tc, linear_lr);
  tcase_add_test(tc, cosine_lr);
  tcase_add_test(tc, sequential_lr);
  tcase_add_test(tc, warmup);
  tcase_add_test(tc, beyond_the_end);
  tcase_add_test(tc, by_epoch);
  tcase_add_test(tc, without_a_scheduler);
  suite_add_tcase(s, tc);
  return check_run(s);
}
