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
    {"{name: a, type: Parameter, shape: [2, 3, 5]}, {name: b, type: Parameter, shape: [2, 5, 4]}, {name: y, type: matmul, inputs: [a, b]}",
     -2.0627187953947113, -2.0627187953947113,
     {
      {"grad.a", 8.5841592123012997},
      {"grad.b", -0.28872319096879795},
     }},
    {"{name: a, type: Parameter, shape: [2, 3, 5]}, {name: b, type: Parameter, shape: [5, 4]}, {name: y, type: matmul, inputs: [a, b]}",
     -3.8483992621673115, -3.8483992621673115,
     {
      {"grad.a", 9.4001658874398526},
      {"grad.b", 0.62981798197032468},
     }},
    {"{name: a, type: Parameter, shape: [2, 1, 3, 5]}, {name: b, type: Parameter, shape: [4, 5, 2]}, {name: y, type: matmul, inputs: [a, b]}",
     1.3564473263226056, 1.3564473263226056,
     {
      {"grad.a", -2.8149025328788637},
      {"grad.b", 4.1444235319890126},
     }},
    {"{name: a, type: Parameter, shape: [3, 5]}, {name: b, type: Parameter, shape: [2, 5, 4]}, {name: y, type: matmul, inputs: [a, b]}",
     -1.4798848911918658, -1.4798848911918658,
     {
      {"grad.a", 6.9660881243963502},
      {"grad.b", 0.04803423015879893},
     }},
    {"{name: a, type: Parameter, shape: [2, 4, 5]}, {name: b, type: Parameter, shape: [5]}, {name: y, type: matmul, inputs: [a, b]}",
     0.44849036498545858, 0.44849036498545858,
     {
      {"grad.a", -0.26672226876019056},
      {"grad.b", 0.60075677480450518},
     }},
    {"{name: a, type: Parameter, shape: [5]}, {name: b, type: Parameter, shape: [2, 5, 3]}, {name: y, type: matmul, inputs: [a, b]}",
     -0.090978816523003048, -0.090978816523003048,
     {
      {"grad.a", 1.2704004322316085},
      {"grad.b", -0.88399903800487234},
     }},
    {"{name: a, type: Parameter, shape: [2, 5]}, {name: b, type: Parameter, shape: [5, 3]}, {name: y, type: matmul, inputs: [a, b]}",
     -0.67631210307814449, -0.67631210307814449,
     {
      {"grad.a", 3.5994450030563767},
      {"grad.b", -0.30472730858758412},
     }},
    {"{name: a, type: Parameter, shape: [2, 3, 3]}, {name: b, type: Parameter, shape: [2, 3, 3]}, {name: y, type: matmul, inputs: [a, b]}, {type: softmax, dim: -1}, {name: z, type: matmul, inputs: ['3', b]}",
     -2.651558576406031, -2.651558576406031,
     {
      {"grad.a", 0.73822757343137935},
      {"grad.b", 0.74762574855162711},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5]}, {name: y, pad: [2, 1, 0, 3], mode: reflect}",
     -3.1316206271251237, -3.1316206271251237,
     {
      {"grad.x", -0.96635632100167468},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5]}, {name: y, Conv2d: 2, kernel_size: [3, 2], padding: [1, 2], stride: 2, padding_mode: reflect}",
     -3.9456923509244826, -3.9456923509244826,
     {
      {"grad.x", 13.270807394124635},
      {"grad.y.weight", -4.6615550156265151},
      {"grad.y.bias", 2.2831334499666176},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5]}, {name: y, pad: [2, 1, 0, 3], mode: replicate}",
     1.0635238886987142, 1.0635238886987142,
     {
      {"grad.x", -1.3049438074413113},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5]}, {name: y, Conv2d: 2, kernel_size: [3, 2], padding: [1, 2], stride: 2, padding_mode: replicate}",
     -4.9676753649114946, -4.9676753649114946,
     {
      {"grad.x", 14.285555755779836},
      {"grad.y.weight", -4.7262231421778162},
      {"grad.y.bias", 2.2831334499666176},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5]}, {name: y, pad: [2, 1, 0, 3], mode: circular}",
     0.7148735380503628, 0.7148735380503628,
     {
      {"grad.x", -1.9474471582363684},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5]}, {name: y, Conv2d: 2, kernel_size: [3, 2], padding: [1, 2], stride: 2, padding_mode: circular}",
     -4.1316284805413055, -4.1316284805413055,
     {
      {"grad.x", 12.142433627673661},
      {"grad.y.weight", -5.4355618602979625},
      {"grad.y.bias", 2.2831334499666176},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 9]}, {name: y, Conv1d: 2, kernel_size: 4, padding: same, padding_mode: reflect, bias: false}",
     -2.9902777967859748, -2.9902777967859748,
     {
      {"grad.x", -0.15995059819367308},
      {"grad.y.weight", -0.84324657269893799},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 5]}, {name: y, pad: [-1, 2], mode: circular}",
     3.9105539814830523, 3.9105539814830523,
     {
      {"grad.x", -2.5701660976386256},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 5]}, {name: y, pad: [-1, 2], mode: reflect}",
     5.4854566013407169, 5.4854566013407169,
     {
      {"grad.x", -2.446537478505511},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 5]}, {name: y, pad: [2, -1], mode: replicate}",
     0.39572116195492857, 0.39572116195492857,
     {
      {"grad.x", -2.7106869154821203},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5]}, {name: y, pad: [1, 2, -1, 0, 0, 1], value: 0.5}",
     10.965551930586896, 10.965551930586896,
     {
      {"grad.x", -1.0417125332210255},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5]}, {name: y, type: Upsample, size: [7, 3], mode: bicubic}",
     16.123276168664589, 16.123276168664589,
     {
      {"grad.x", -5.6213719611368287},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5]}, {name: y, type: Upsample, scale_factor: 1.5, mode: bicubic, align_corners: true}",
     6.5858350578270759, 6.5858350578270759,
     {
      {"grad.x", -3.1541163059384951},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5]}, {name: y, type: interpolate, scale_factor: 1.7, mode: bicubic}",
     1.5031866278442045, 1.5031866278442045,
     {
      {"grad.x", 1.4969148234479648},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5]}, {name: y, type: interpolate, size: [3, 7], mode: area}",
     10.731989289431846, 10.731989289431846,
     {
      {"grad.x", -4.8011082324269134},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 5]}, {name: y, type: interpolate, size: 7, mode: nearest-exact}",
     0.28121628621129124, 0.28121628621129124,
     {
      {"grad.x", 3.7617527327817033},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5, 4]}, {name: y, type: interpolate, size: [2, 3, 9], mode: trilinear}",
     4.720317709078949, 4.720317709078949,
     {
      {"grad.x", -3.4662828384107121},
     }},
    {"{name: q, type: Parameter, shape: [2, 3, 8]}, {name: k, type: Parameter, shape: [2, 5, 8]}, {name: v, type: Parameter, shape: [2, 5, 8]}, {name: m, type: Parameter, shape: [2, 2, 3, 5]}, {name: y, scaled_dot_product_attention: 2, scale: 0.7, inputs: {query: q, key: k, value: v, attn_mask: m}}",
     3.0717457821311012, 3.0717457821311012,
     {
      {"grad.q", -1.2740359925820275},
      {"grad.k", -3.4010365804223306},
      {"grad.v", -1.0684037292850554},
      {"grad.m", -0.19925860474062074},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4]}, {name: y, type: PReLU}",
     0.012284140713154423, 0.012284140713154423,
     {
      {"grad.x", 1.5544385594515284},
      {"grad.y.weight", 2.1536805651092963},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4]}, {name: y, PReLU: 3}",
     -0.35945169519986298, -0.35945169519986298,
     {
      {"grad.x", 1.8533364198777704},
      {"grad.y.weight", 1.7819447291962791},
     }},
    {"{name: x, type: Parameter, shape: [2, 7]}, {name: y, type: Hardswish}",
     3.2891535778498966, 3.2891535778498966,
     {
      {"grad.x", -0.94511517834099346},
     }},
    {"{name: x, type: Parameter, shape: [2, 7]}, {name: y, type: SiLU}",
     3.2290884303374829, 3.2290884303374829,
     {
      {"grad.x", -0.77685324458618865},
     }},
    {"{name: x, type: Parameter, shape: [2, 7]}, {name: y, type: Tanh}",
     5.7598298065195923, 5.7598298065195923,
     {
      {"grad.x", -1.9502365021239791},
     }},
    {"{name: x, type: Parameter, shape: [2, 7]}, {name: y, type: Sigmoid}",
     0.98605360574834566, 0.98605360574834566,
     {
      {"grad.x", -0.63503013086027837},
     }},
    {"{name: x, type: Parameter, shape: [2, 7]}, {name: y, type: GELU}",
     3.125913798187459, 3.125913798187459,
     {
      {"grad.x", -0.49103701895038093},
     }},
    {"{name: x, type: Parameter, shape: [2, 7]}, {name: y, type: ReLU}",
     2.9321198282237244, 2.9321198282237244,
     {
      {"grad.x", -0.38806847498156194},
     }},
    {"{name: x, type: Parameter, shape: [2, 7]}, {name: y, type: Mish}",
     3.801990536282247, 3.801990536282247,
     {
      {"grad.x", -0.87405710990427943},
     }},
    {"{name: x, type: Parameter, shape: [2, 7]}, {name: y, type: ELU}",
     5.6760661010458069, 5.6760661010458069,
     {
      {"grad.x", -1.6838914525864741},
     }},
    {"{name: x, type: Parameter, shape: [2, 7]}, {name: y, type: Softplus}",
     2.4293141206418039, 2.4293141206418039,
     {
      {"grad.x", -1.0759360787065086},
     }},
    {"{name: x, type: Parameter, shape: [2, 7]}, {name: y, type: LeakyReLU}",
     2.9716386310991707, 2.9716386310991707,
     {
      {"grad.x", -0.41228274223279215},
     }},
    {"{name: x, type: Parameter, shape: [2, 7]}, {name: y, type: exp}",
     5.8344999476717341, 5.8344999476717341,
     {
      {"grad.x", -1.9063392158177734},
     }},
    {"{name: x, type: Parameter, shape: [2, 7]}, {name: y, type: abs}",
     -1.0197604593208989, -1.0197604593208989,
     {
      {"grad.x", 2.0333582501414673},
     }},
    {"{name: x, type: Parameter, shape: [2, 7]}, {name: y, type: Identity}",
     6.8840001157683481, 6.8840001157683481,
     {
      {"grad.x", -2.8094952001045908},
     }},
    {"{name: x, type: Parameter, shape: [2, 7]}, exp, {name: y, type: log}",
     6.8840001157683481, 6.8840001157683481,
     {
      {"grad.x", -2.8094952001045908},
     }},
    {"{name: x, type: Parameter, shape: [2, 7]}, exp, {name: y, type: sqrt}",
     2.1143772134945169, 2.1143772134945169,
     {
      {"grad.x", -1.1259057800420429},
     }},
    {"{name: x, type: Parameter, shape: [2, 7, 3]}, {name: y, Softmax: 1}",
     1.788102054796062, 1.788102054796062,
     {
      {"grad.x", -0.38520531456215806},
     }},
    {"{name: x, type: Parameter, shape: [2, 7, 3]}, {name: y, log_softmax: -1}",
     6.144850160520317, 6.144850160520317,
     {
      {"grad.x", -0.45248049257295048},
     }},
    {"{name: x, type: Parameter, shape: [2, 6, 2]}, {name: y, type: view, shape: [-1, 3, 4]}",
     7.6350622404568469, 7.6350622404568469,
     {
      {"grad.x", -4.2797901399300002},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5]}, {name: y, permute: [0, 2, 3, 1]}",
     -1.1832143880095924, -1.1832143880095924,
     {
      {"grad.x", 1.1937223615545292},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5]}, {name: y, type: transpose, dim0: -1, dim1: 1}",
     5.3329717235811147, 5.3329717235811147,
     {
      {"grad.x", -7.3645505343807027},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4]}, {name: y, type: select, dim: 1, index: -1}",
     -0.25821930317434821, -0.25821930317434821,
     {
      {"grad.x", -2.7414723138998864},
     }},
    {"{name: x, type: Parameter, shape: [2, 7, 2]}, {name: c, chunk: 3, dim: 1}, {name: y, type: sub, inputs: [c.2, c.0]}",
     -4.3576633157052722, -4.3576633157052722,
     {
      {"grad.x", 4.9656726889494118},
     }},
    {"{name: x, type: Parameter, shape: [2, 5, 2]}, {name: c, split: [2, 3], dim: 1}, {name: y, type: cat, inputs: [c.1, c.0], dim: 1}",
     0.76489344821013172, 0.76489344821013172,
     {
      {"grad.x", -3.0015399186228358},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5]}, {name: y, mean: [1, -1]}",
     -0.12021784409396785, -0.12021784409396785,
     {
      {"grad.x", -0.14803252026029257},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5]}, {name: y, sum: 2, keepdim: true}",
     -1.185221372034559, -1.185221372034559,
     {
      {"grad.x", -2.6118097686529254},
     }},
    {"{name: a, type: Parameter, shape: [2, 3, 4]}, {name: b, type: Parameter, shape: [2, 1, 4]}, {name: y, type: div, inputs: [a, b]}",
     -4.518548092165938, -4.518548092165938,
     {
      {"grad.a", 6.2890869688711764},
      {"grad.b", -1.76711771930454},
     }},
    {"{name: a, type: Parameter, shape: [2, 3, 4]}, {name: b, type: Parameter, shape: [4]}, {name: y, type: mul, inputs: [a, b]}",
     -1.2722587955646605, -1.2722587955646605,
     {
      {"grad.a", 3.3546710175795376},
      {"grad.b", -0.47526269764371332},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5]}, {name: y, type: Flatten, start_dim: 2}",
     42.40513033420126, 42.40513033420126,
     {
      {"grad.x", -19.083983948119812},
     }},
    {"{name: x, type: Parameter, shape: [2, 5]}, {name: p, type: arange_like, dim: 1}, {name: y, type: mul, inputs: [x, p]}",
     11.958034972020986, 11.958034972020986,
     {
      {"grad.x", -3.7903515066352229},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5]}, {name: y, MaxPool2d: 2, stride: 1}",
     -3.3934008049892164, -3.3934008049892164,
     {
      {"grad.x", 1.101968960110818},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5]}, {name: y, AvgPool2d: 3, padding: 1}",
     -0.41996287650633313, -0.41996287650633313,
     {
      {"grad.x", 0.20297307310294305},
     }},
    {"{name: x, type: Parameter, shape: [2, 3, 4, 5]}, {name: y, AdaptiveAvgPool2d: [2, 3]}",
     1.5566048170943279, 1.5566048170943279,
     {
      {"grad.x", -0.86647842666823705},
     }},
};
