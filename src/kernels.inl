// The kernels, in terms of a vector type; included once by each kernels_*.cpp, which defines
//   struct V            a vector of kLanes floats, by value
//   kLanes, kRows       rows of x that the forward tile holds in registers beside kPanel vectors
//   load, load_half, store, splat, add, sub, mul, div, fma (a * b + c), low (smaller), high,
//   round, scale2 (a * 2^b, b whole), sum (of all lanes), sum_each (of kPanel vectors)
// `low(limit, x)` and `high(limit, x)` give x where x is not a number.

namespace {

using qgf::Kernels;
using qgf::kPanel;
using qgf::Matrix;
using qgf::Rows;
using qgf::Tape;

// Written out by the compiler, so that arrays of vectors become registers.
#define QGF_FOR(i, n) _Pragma("GCC unroll 64") for (int i = 0; i < n; i++)

constexpr int padded(int n, int to) { return (n + to - 1) / to * to; }

struct Float32 {
  using Type = float;
  QGF_OP V get(const float *p) { return load(p); }
};
struct Float16 {
  using Type = uint16_t;
  QGF_OP V get(const uint16_t *p) { return load_half(p); }
};

// Weights are read once each, in the order in which they lie, and more of them than the nearest
// cache holds: asking for them early is worth 8 to 15 % where there are few rows.
constexpr int kAhead = 4096;  // bytes; it may end beyond the weights, where a prefetch does nothing

template <class W, int Count>
QGF_OP void prefetch(const typename W::Type *w) {
  const char *at = reinterpret_cast<const char *>(w) + kAhead;
  QGF_FOR(i, Count * static_cast<int>(sizeof *w) / 64) __builtin_prefetch(at + 64 * i);
}

// R rows by C vectors of columns, from column `at` of a panel of `columns` columns on. Each sum is
// taken in the order of the inputs, whatever R and C are: a row's result is the same to the bit
// however many rows there are.
template <class W, int R, int C>
QGF_OP void tile(const typename W::Type *w, int columns, int in, Rows x, Rows start, Rows y) {
  V sum[R][C];
  QGF_FOR(r, R)
    QGF_FOR(c, C) sum[r][c] = load(start.data + r * start.stride + c * kLanes);
  for (int i = 0; i < in; i++, w += columns) {
    if constexpr (R <= 2) prefetch<W, C * kLanes>(w);
    V seen[R];
    QGF_FOR(r, R) seen[r] = splat(x.data[r * x.stride + i]);
    QGF_FOR(c, C) {
      const V weight = W::get(w + c * kLanes);
      QGF_FOR(r, R) sum[r][c] = fma(weight, seen[r], sum[r][c]);
    }
  }
  QGF_FOR(r, R)
    QGF_FOR(c, C) store(y.data + r * y.stride + c * kLanes, sum[r][c]);
}

// R rows by all columns of a panel, C vectors at a time.
template <class W, int R, int C>
void sweep(const typename W::Type *w, int vectors, int in, Rows x, Rows start, Rows y) {
  const int columns = vectors * kLanes;
  int v = 0;
  const auto shifted = [&](Rows rows) { return Rows{rows.data + v * kLanes, rows.stride}; };
  for (; v + C <= vectors; v += C)
    tile<W, R, C>(w + v * kLanes, columns, in, x, shifted(start), shifted(y));
  if constexpr (C > 4)
    for (; v + 4 <= vectors; v += 4)
      tile<W, R, 4>(w + v * kLanes, columns, in, x, shifted(start), shifted(y));
  for (; v < vectors; v++)
    tile<W, R, 1>(w + v * kLanes, columns, in, x, shifted(start), shifted(y));
}

// As many rows as there are, at most Most; -> how many.
template <class W, int Most, int C>
int sweep_up_to(int rows, const typename W::Type *w, int vectors, int in, Rows x, Rows start,
                Rows y) {
  if constexpr (Most > 1)
    if (rows < Most) return sweep_up_to<W, Most - 1, C>(rows, w, vectors, in, x, start, y);
  sweep<W, Most, C>(w, vectors, in, x, start, y);
  return Most;
}

Rows from(Rows rows, int row) { return {rows.data + row * rows.stride, rows.stride}; }

template <class W>
void forward(const Matrix &m, int rows, Rows x, Rows start, Rows y) {
  const int vectors = padded(m.out, kLanes) / kLanes;
  const auto *w = static_cast<const typename W::Type *>(m.data);
  for (int v = 0; v < vectors; v += kPanel) {
    const int now = vectors - v < kPanel ? vectors - v : kPanel;
    const Rows s{start.data + v * kLanes, start.stride}, to{y.data + v * kLanes, y.stride};
    int r = 0;
    // Few rows: a panel in one go, each weight once. More: fewer columns, so that more rows share
    // what was loaded.
    while (rows - r > kRows)
      r += sweep_up_to<W, kMoreRows, kFewer>(rows - r, w, now, m.in, from(x, r), from(s, r),
                                             from(to, r));
    if (r < rows)
      sweep_up_to<W, kRows, kPanel>(rows - r, w, now, m.in, from(x, r), from(s, r), from(to, r));
    w += static_cast<ptrdiff_t>(padded(m.in, qgf::kAlign)) * now * kLanes;
  }
}

// y += W g over one panel of `vectors` vectors, kPanel inputs at a time.
template <class W, int C>
void dots(const typename W::Type *w, int vectors, int in, int rows, Rows g, Rows y, bool first) {
  const int count = C ? C : vectors;
  for (int i = 0; i < in; i += kPanel, w += kPanel * count * kLanes)
    for (int r = 0; r < rows; r++) {
      const float *from = g.data + r * g.stride;
      if (C && r == 0) prefetch<W, kPanel * C * kLanes>(w);
      V sum[kPanel];
      QGF_FOR(j, kPanel) sum[j] = splat(0.0f);
      QGF_FOR(c, count) {
        const V other = load(from + c * kLanes);
        QGF_FOR(j, kPanel) sum[j] = fma(W::get(w + (j * count + c) * kLanes), other, sum[j]);
      }
      float *to = y.data + r * y.stride + i;
      sum_each(sum, to, !first);
    }
}

template <class W>
void backward(const Matrix &m, int rows, Rows g, Rows y) {
  const int vectors = padded(m.out, kLanes) / kLanes;
  const auto *w = static_cast<const typename W::Type *>(m.data);
  const int in = padded(m.in, qgf::kAlign);
  for (int v = 0; v < vectors; v += kPanel) {
    const int now = vectors - v < kPanel ? vectors - v : kPanel;
    const Rows panel{g.data + v * kLanes, g.stride};
    if (now == kPanel)
      dots<W, kPanel>(w, now, in, rows, panel, y, v == 0);
    else
      dots<W, 0>(w, now, in, rows, panel, y, v == 0);
    w += static_cast<ptrdiff_t>(in) * now * kLanes;
  }
}

// e^x within 2 units in the last place; x is taken into [-87, 88]. Coefficients: Cephes' expf.
QGF_OP V exponential(V x) {
  x = low(splat(88.0f), high(splat(-87.0f), x));
  const V n = round(mul(x, splat(1.44269504088896341f)));
  V r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  V p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), splat(1.0f));
  return scale2(p, n);
}

// GELU, tanh form: x sigmoid(z), z = x (A + B x^2), because (1 + tanh(z / 2)) / 2 = sigmoid(z).
constexpr float kGeluA = 1.5957691216057308f;   // 2 sqrt(2 / pi)
constexpr float kGeluB = 0.07135481627159999f;  // 0.044715 A
constexpr float kEpsilon = 1e-6f;               // of the layer norm

QGF_OP V sigmoid_of(V x, V x2) {
  const V z = mul(x, fma(x2, splat(kGeluB), splat(kGeluA)));
  const V one = splat(1.0f);
  return div(one, add(one, exponential(sub(splat(0.0f), z))));
}

template <bool Norm, bool Keep>
QGF_OP void hidden_row(int width, const float *scale, const float *shift, float *x, Tape *tape) {
  const int vectors = padded(width, kLanes) / kLanes;
  V mean = splat(0.0f), inverse = splat(1.0f);
  if constexpr (Norm) {
    // Four sums at a time: one alone waits for itself.
    V s[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
    for (int v = 0; v < vectors; v++) s[v & 3] = add(s[v & 3], load(x + v * kLanes));
    mean = splat(sum(add(add(s[0], s[1]), add(s[2], s[3]))) / static_cast<float>(width));
    V t[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
    const int whole = width / kLanes;
    for (int v = 0; v < whole; v++) {
      const V d = sub(load(x + v * kLanes), mean);
      t[v & 3] = fma(d, d, t[v & 3]);
    }
    float variance = sum(add(add(t[0], t[1]), add(t[2], t[3])));
    for (int i = whole * kLanes; i < width; i++) {
      const float d = x[i] - first(mean);
      variance += d * d;
    }
    const float inverse_std =
        1.0f / __builtin_sqrtf(variance / static_cast<float>(width) + kEpsilon);
    inverse = splat(inverse_std);
    if constexpr (Keep) tape->inverse_std = inverse_std;
  }
  for (int v = 0; v < vectors; v++) {
    const int at = v * kLanes;
    V z = load(x + at), factor = splat(1.0f);
    if constexpr (Norm) {
      const V unit = mul(sub(z, mean), inverse);
      factor = load(scale + at);
      z = fma(unit, factor, load(shift + at));
      if constexpr (Keep) store(tape->unit + at, unit);
    }
    const V z2 = mul(z, z), s = sigmoid_of(z, z2), y = mul(z, s);
    store(x + at, y);
    if constexpr (Keep) {
      const V inner = fma(z2, splat(3 * kGeluB), splat(kGeluA));
      const V slope = fma(mul(y, sub(splat(1.0f), s)), inner, s);
      store(tape->slope + at, mul(slope, factor));
    }
  }
}

void hidden(int width, const float *scale, const float *shift, int rows, Rows x, Tape *tape) {
  for (int r = 0; r < rows; r++) {
    float *row = x.data + r * x.stride;
    if (!scale)
      hidden_row<false, false>(width, scale, shift, row, nullptr);
    else if (tape)
      hidden_row<true, true>(width, scale, shift, row, tape + r);
    else
      hidden_row<true, false>(width, scale, shift, row, nullptr);
  }
}

// With h = g slope scale: inverse_std (h - mean h - unit mean(h unit)). What lies beyond `width` is
// 0 in h, and comes out as some number that the zero columns of the weights swallow.
void hidden_back(int width, const Tape &tape, float *g) {
  const int vectors = padded(width, kLanes) / kLanes;
  V s[2] = {splat(0.0f), splat(0.0f)}, t[2] = {splat(0.0f), splat(0.0f)};
  for (int v = 0; v < vectors; v++) {
    const int at = v * kLanes;
    const V h = mul(load(g + at), load(tape.slope + at));
    store(g + at, h);
    s[v & 1] = add(s[v & 1], h);
    t[v & 1] = fma(h, load(tape.unit + at), t[v & 1]);
  }
  const V n = splat(1.0f / static_cast<float>(width));
  const V mean = mul(splat(sum(add(s[0], s[1]))), n);
  const V along = mul(splat(sum(add(t[0], t[1]))), n);
  const V inverse = splat(tape.inverse_std);
  for (int v = 0; v < vectors; v++) {
    const int at = v * kLanes;
    const V rest = sub(sub(load(g + at), mean), mul(load(tape.unit + at), along));
    store(g + at, mul(rest, inverse));
  }
}

float dot(int width, const float *a, const float *b) {
  const int vectors = padded(width, kLanes) / kLanes;
  V s[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  for (int v = 0; v < vectors; v++)
    s[v & 3] = fma(load(a + v * kLanes), load(b + v * kLanes), s[v & 3]);
  return sum(add(add(s[0], s[1]), add(s[2], s[3])));
}

}  // namespace

#define QGF_TABLE(name, text)                                   \
  namespace qgf {                                               \
  const Kernels name = {text,                                   \
                        kLanes,                                 \
                        {forward<Float32>, forward<Float16>},   \
                        {backward<Float32>, backward<Float16>}, \
                        hidden,                                 \
                        hidden_back,                            \
                        dot};                                   \
  }
