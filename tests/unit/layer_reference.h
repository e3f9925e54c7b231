/* Made by tools/layer_reference.py with PyTorch 2.15.0. */
static const struct {
  const char *layers;
  double train, eval;
  struct {
    const char *name;
    double sum;
  } tensor[8];
} layer_cases[] = {
    {"{name: x, type: Parameter, shape: [2, 6, 4, 5]}, {name: y, GroupNorm: 3}",
     -37.579407118555793, -37.579407118555793,
     {
      {"grad.x", -0.062168201147270889},
      {"grad.y.weight", 34.48455458544592},
      {"grad.y.bias", 1.4459436667228871},
     }},
    {"{name: x, type: Parameter, shape: [2, 6, 7]}, {name: y, GroupNorm: 2, affine: false, eps: 0.1}",
     43.096273264735402, 43.096273264735402,
     {
      {"grad.x", -4.500864238713814},
     }},
    {"{name: x, type: Parameter, shape: [2, 6]}, {name: y, GroupNorm: 2}",
     -2.3769737928370338, -2.3769737928370338,
     {
      {"grad.x", -0.0052171748104172799},
      {"grad.y.weight", 0.99934619346338749},
      {"grad.y.bias", 2.7840630897573955},
     }},
    {"{name: x, type: Parameter, shape: [2, 6, 4, 5]}, {name: y, InstanceNorm2d: 6}",
     137.55820142279617, 137.55820142279617,
     {
      {"grad.x", -0.0019451724093177553},
     }},
    {"{name: x, type: Parameter, shape: [2, 6, 4, 5]}, {name: y, type: InstanceNorm2d, affine: true, track_running_stats: true, momentum: 0.3}",
     -37.419363150311661, -24.094139481960013,
     {
      {"grad.x", 0.00061107599341630255},
      {"grad.y.weight", 34.402979184267203},
      {"grad.y.bias", 1.4459436667228871},
      {"y.running_mean", 0.011986657198944917},
      {"y.running_var", 1.0257378432146411},
     }},
};
