// Flows whose posterior mean is known in closed form, a critic with a false peak, and ways to ask it.
// The formulas of training/lab/testbed.py, training/estimators and training/guards.py, written anew:
// the page holds its numbers against theirs. A point is an array of D numbers, D = 1 or 2; a matrix
// an array of rows. t = 0 is noise, t = 1 the clean action; T steps, k = 0 .. T - 1.
"use strict";

const add = (a, b, scale = 1) => a.map((x, i) => x + scale * b[i]);
const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const norm = (a) => Math.hypot(...a);
const apply = (matrix, a) => matrix.map((row) => dot(row, a));
const identity = (size) =>
  Array.from({ length: size }, (_, i) => Array.from({ length: size }, (_, j) => +(i === j)));
const transpose = (matrix) => matrix[0].map((_, j) => matrix.map((row) => row[j]));
const multiply = (a, b) => {
  const columns = transpose(b);
  return a.map((row) => columns.map((c) => dot(row, c)));
};

// Singular values, the largest first: the half axes of the ellipse that a unit circle becomes.
function stretches(matrix) {
  if (matrix.length === 1) return [Math.abs(matrix[0][0])];
  const [[a, b], [c, d]] = matrix;
  const plus = Math.hypot(a + d, b - c),
    minus = Math.hypot(a - d, b + c);
  return [(plus + minus) / 2, Math.abs(plus - minus) / 2];
}

// The share of each peak in a_t, their mean, and S = (1 - t)^2 + t^2 sigma^2. Written in loops, here
// and below: a page is a million of these.
function posterior(world, a, t) {
  const { means, sigma } = world,
    D = a.length,
    S = (1 - t) ** 2 + (t * sigma) ** 2;
  const share = new Array(means.length),
    centre = new Array(D).fill(0);
  let top = -Infinity,
    total = 0;
  for (let k = 0; k < means.length; k++) {
    let square = 0;
    for (let d = 0; d < D; d++) square += (a[d] - t * means[k][d]) ** 2;
    share[k] = -square / (2 * S);
    top = Math.max(top, share[k]);
  }
  for (let k = 0; k < means.length; k++) total += share[k] = Math.exp(share[k] - top);
  for (let k = 0; k < means.length; k++) {
    share[k] /= total;
    for (let d = 0; d < D; d++) centre[d] += share[k] * means[k][d];
  }
  return { share, centre, S };
}

function hatFrom({ centre, S }, { sigma }, a, t) {
  const pull = (t * sigma ** 2) / S,
    hat = new Array(a.length);
  for (let d = 0; d < a.length; d++) hat[d] = centre[d] + pull * (a[d] - t * centre[d]);
  return hat;
}

// From the covariance of the peaks under their shares.
function jacobianFrom({ share, centre, S }, { means, sigma }, t) {
  const D = centre.length,
    narrow = (t * sigma ** 2) / S,
    wide = (t * (1 - t) ** 2) / S ** 2,
    rows = new Array(D);
  for (let i = 0; i < D; i++) {
    rows[i] = new Array(D);
    for (let j = 0; j < D; j++) {
      let covariance = 0;
      for (let k = 0; k < share.length; k++)
        covariance += share[k] * (means[k][i] - centre[i]) * (means[k][j] - centre[j]);
      rows[i][j] = (i === j ? narrow : 0) + wide * covariance;
    }
  }
  return rows;
}

// E[a_1 | a_t = a]: what one Euler step to t = 1 gives, the sampler's a_hat; and d a_hat / d a_t.
const denoised = (world, a, t) => hatFrom(posterior(world, a, t), world, a, t);
const jacobianOfHat = (world, a, t) => jacobianFrom(posterior(world, a, t), world, t);

// One Euler step of the flow, v = (a_hat - a) / (1 - t), and its Jacobian d (a + v / T) / d a.
function moved(a, hat, t, T) {
  const scale = 1 / ((1 - t) * T),
    next = new Array(a.length);
  for (let d = 0; d < a.length; d++) next[d] = a[d] + scale * (hat[d] - a[d]);
  return next;
}
const stepFrom = (J, t, T) => {
  const scale = 1 / ((1 - t) * T);
  return J.map((row, i) => row.map((x, j) => (i === j ? 1 - scale : 0) + scale * x));
};
const jacobianOfStep = (world, a, t) => stepFrom(jacobianOfHat(world, a, t), t, world.T);

// The unguided chain from a_t = a at step k to its end: every point on the way, and on demand the
// Jacobian of each step.
function chain(world, a, k, steps = null) {
  const { T } = world,
    points = [a];
  for (let step = k; step < T; step++) {
    const t = step / T,
      p = posterior(world, a, t);
    steps?.push(stepFrom(jacobianFrom(p, world, t), t, T));
    points.push((a = moved(a, hatFrom(p, world, a, t), t, T)));
  }
  return points;
}

// d (end of the chain) / d a_t: the product of the steps' Jacobians.
function jacobianOfChain(world, a, k) {
  const steps = [];
  chain(world, a, k, steps);
  return steps.reduce((product, J) => multiply(J, product), identity(a.length));
}

function square(a, b) {
  let sum = 0;
  for (let d = 0; d < a.length; d++) sum += (a[d] - b[d]) ** 2;
  return sum;
}

function Q(critic, a) {
  return (
    critic.height * Math.exp(-square(a, critic.centre) / (2 * critic.width ** 2)) - square(a, critic.optimum)
  );
}

function gradientOfQ(critic, a) {
  const bump =
    (critic.height * Math.exp(-square(a, critic.centre) / (2 * critic.width ** 2))) / critic.width ** 2;
  return a.map((x, d) => -bump * (x - critic.centre[d]) - 2 * (x - critic.optimum[d]));
}

// Each way: where it asks the critic (at), and what it hands to the sampler (gradient).
const WAYS = {
  bptt(world, a, k) {
    const steps = [],
      at = chain(world, a, k, steps).at(-1);
    let gradient = gradientOfQ(world.critic, at);
    for (let i = steps.length - 1; i >= 0; i--) gradient = apply(transpose(steps[i]), gradient);
    return { at, gradient };
  },
  ood: (world, a) => ({ at: a, gradient: gradientOfQ(world.critic, a) }),
  qgf(world, a, k, at = denoised(world, a, k / world.T)) {
    return { at, gradient: gradientOfQ(world.critic, at) };
  },
};

// The guards that the page has: the support box, and the cap on w|g| / |v|.
function guarded(gradient, hat, v, w, guard) {
  if (guard.box) {
    const { low, high } = guard.box;
    gradient = gradient.map((g, d) => ((hat[d] >= high[d] && g > 0) || (hat[d] <= low[d] && g < 0) ? 0 : g));
  }
  if (guard.cap) {
    const push = w * norm(gradient),
      limit = guard.cap * norm(v);
    if (push > limit) gradient = gradient.map((g) => (g * limit) / push);
  }
  return gradient;
}

// One sample from the noise `start` at weight w = 1 / beta: its path, and where it asked.
// w = 0, or the way "none": the flow by itself; nobody is asked.
function sample(world, start, w, way, guard = {}) {
  const path = [start],
    asked = [];
  let a = start;
  for (let k = 0; k < world.T; k++) {
    const t = k / world.T,
      hat = denoised(world, a, t);
    let next = moved(a, hat, t, world.T);
    if (w > 0 && way !== "none") {
      const { at, gradient } = WAYS[way](world, a, k, hat);
      asked.push(at);
      const v = guard.cap ? add(next, a, -1).map((x) => x * world.T) : null;
      next = add(next, guarded(gradient, hat, v, w, guard), w / world.T);
    }
    path.push((a = next));
  }
  return { path, asked, end: a };
}

const found = (world, a) => norm(add(a, world.critic.optimum, -1)) < world.near;

// Nearer to the false peak than to the optimum, along the line from one to the other.
function fooled(world, a) {
  const { optimum, centre } = world.critic;
  return a.reduce((sum, x, d) => sum + (x - (optimum[d] + centre[d]) / 2) * (centre[d] - optimum[d]), 0) > 0;
}

function shares(world, ends) {
  const count = (rule) => ends.filter((a) => rule(world, a)).length / ends.length;
  return [count(found), count(fooled)];
}

// log of the data's density, up to a constant, and of what guidance aims at: that times exp(Q / beta).
function logDensity(world, a, w) {
  const logs = world.means.map((mean) => -square(a, mean) / (2 * world.sigma ** 2)),
    top = Math.max(...logs);
  return (
    top + Math.log(logs.reduce((sum, x) => sum + Math.exp(x - top), 0)) + (w > 0 ? w * Q(world.critic, a) : 0)
  );
}

// The sharpest bend of Q at a: lambda_max(-Hessian). Euler's steps need w * lambda / T < 2.
function curvature(critic, a) {
  const s2 = critic.width ** 2,
    away = add(a, critic.centre, -1),
    r2 = dot(away, away);
  const bump = (critic.height / s2) * Math.exp(-r2 / (2 * s2));
  const along = bump * (1 - r2 / s2); // across the line to the bump's centre it is `bump`
  return 2 + (a.length > 1 ? Math.max(bump, along) : along);
}
