"""Recurrence, objectives, distributions, reductions and metrics."""

import itertools
import math
from statistics import NormalDist

from tests.oracles.estimators import valid

NEVER = -math.inf


def rows(*tensors):
    """The rows of several tensors side by side, as nested lists."""
    return zip(*[x.tolist() for x in tensors], strict=True)


def linear_recurrence(x, decay, mask=None, reverse=True):
    out = []
    ok = valid(mask, x)
    for xs, ds, keep in zip(x.tolist(), decay.tolist(), ok, strict=True):
        order = list(range(len(xs)))
        step = 1 if reverse else -1
        row = []
        for t in order:
            total, weight, k = 0.0, 1.0, t
            while 0 <= k < len(xs) and keep[k]:
                total += weight * xs[k]
                weight *= ds[k]
                k += step
            row.append(total)
        out.append(row)
    return (out,)


def policy_gradient(log_prob, advantage):
    return ([-lp * a for lp, a in rows(log_prob, advantage)],)


def weights(x, log_weight):
    return [1.0] * len(x) if log_weight is None else [math.exp(w) for w in log_weight.tolist()]


def ppo_clip(
    log_prob,
    behavior_log_prob,
    advantage,
    log_weight=None,
    clip_epsilon_low=0.2,
    clip_epsilon_high=0.2,
):
    out = []
    weight = weights(log_prob, log_weight)
    for (new, old, a), w in zip(rows(log_prob, behavior_log_prob, advantage), weight, strict=True):
        ratio = math.exp(new - old)
        bounded = min(max(ratio, 1 - clip_epsilon_low), 1 + clip_epsilon_high)
        out.append(-min(ratio * a, bounded * a) * w)
    return (out,)


def ppo_surrogate(log_prob, behavior_log_prob, advantage, log_weight=None):
    weight = weights(log_prob, log_weight)
    steps = zip(rows(log_prob, behavior_log_prob, advantage), weight, strict=True)
    return ([-math.exp(new) / math.exp(old) * a * w for (new, old, a), w in steps],)


def ppo_kl_penalty(log_prob, behavior_log_prob, advantage, kl, log_weight=None, beta=1.0):
    (surrogate,) = ppo_surrogate(log_prob, behavior_log_prob, advantage, log_weight)
    return ([x + beta * d for x, d in zip(surrogate, kl.tolist(), strict=True)],)


def importance_correction(
    log_prob, proximal_log_prob, behavior_log_prob, max_importance_ratio=math.inf
):
    out = []
    for new, proximal, old in rows(log_prob, proximal_log_prob, behavior_log_prob):
        ratio = math.exp(new - old)
        excess = min(1.0, max_importance_ratio / ratio)
        out.append(math.log(math.exp(proximal) / math.exp(old) * excess))
    return (out,)


def distance(d, kind):
    if kind == "l2":
        return d * d
    if kind == "l1":
        return abs(d)
    return d * d / 2 if abs(d) < 1 else abs(d) - 0.5


def value_loss(value, value_target, old_value=None, clip_value=0.2, loss_function="smooth_l1"):
    out = []
    olds = [None] * len(value) if old_value is None else old_value.tolist()
    for (v, target), old in zip(rows(value, value_target), olds, strict=True):
        loss = distance(v - target, loss_function)
        if old is not None:
            near = old + min(max(v - old, -clip_value), clip_value)
            loss = max(loss, distance(near - target, loss_function))
        out.append(loss)
    return (out,)


def soft_value(action_value, log_prob, alpha):
    return ([min(qs) - alpha * lp for qs, lp in rows(action_value, log_prob)],)


def categorical_soft_value(action_value, logits, alpha):
    """The mean value and the entropy apart."""
    out = []
    for (row, qs), (entropy,) in zip(
        rows(logits, action_value), zip(*categorical_entropy(logits), strict=True), strict=True
    ):
        mean = sum(p * min(q) for p, q in zip(probabilities(row), qs, strict=True))
        out.append(mean + alpha * entropy)
    return (out,)


def temperature_loss(log_prob, log_alpha, target_entropy):
    """By how much the entropy of each sample is over the target, times the factor."""
    return ([log_alpha * (-lp - target_entropy) for lp in log_prob.tolist()],)


def smoothed_action(action, noise, low, high, policy_noise=0.2, noise_clip=0.5):
    def one(a, n, lo, hi):
        return min(max(a + min(max(policy_noise * n, -noise_clip), noise_clip), lo), hi)

    each = rows(action, noise, low, high)
    return ([[one(*x) for x in zip(*row, strict=True)] for row in each],)


def distance_loss(value, value_target, loss_function="l2"):
    return ([distance(v - target, loss_function) for v, target in rows(value, value_target)],)


def normal_log_prob(action, loc, scale):
    def density(x, m, s):
        return math.log(math.exp(-((x - m) ** 2) / (2 * s * s)) / (s * math.sqrt(2 * math.pi)))

    return ([sum(density(*z) for z in zip(*row, strict=True)) for row in rows(action, loc, scale)],)


def normal_entropy(loc, scale):
    half = math.log(2 * math.pi * math.e) / 2
    return ([sum(half + math.log(s) for s in row) for row in scale.tolist()],)


def normal_kl(loc, scale, other_loc, other_scale):
    """By numerical integration of p log(p / q)."""

    def density(x, m, s):
        return math.exp(-((x - m) ** 2) / (2 * s * s)) / (s * math.sqrt(2 * math.pi))

    def integral(m, s, n, r, steps=4001):
        width = 20 * s / (steps - 1)
        total = 0.0
        for i in range(steps):
            x = m - 10 * s + i * width
            p = density(x, m, s)
            log_q = -((x - n) ** 2) / (2 * r * r) - math.log(r * math.sqrt(2 * math.pi))
            total += width * p * (math.log(p) - log_q) if p > 0 else 0.0
        return total

    return (
        [
            sum(integral(*z) for z in zip(*row, strict=True))
            for row in rows(loc, scale, other_loc, other_scale)
        ],
    )


def normal_mode(loc, scale):
    return (loc.tolist(),)


def normal_sample(loc, scale, noise):
    return ([[m + s * z for m, s, z in zip(*row, strict=True)] for row in rows(loc, scale, noise)],)


def probabilities(logits):
    weights = [math.exp(x) for x in logits]
    return [w / sum(weights) for w in weights]


def categorical_log_prob(action, logits):
    out = []
    for a, row in rows(action, logits):
        index = a if isinstance(a, int) else max(range(len(a)), key=a.__getitem__)
        p = probabilities(row)[index]
        out.append(math.log(p) if p else NEVER)
    return (out,)


def categorical_entropy(logits):
    return ([-sum(p * math.log(p) for p in probabilities(row) if p) for row in logits.tolist()],)


def categorical_kl(logits, other_logits):
    out = []
    for a, b in rows(logits, other_logits):
        pairs = zip(probabilities(a), probabilities(b), strict=True)
        out.append(sum(p * math.log(p / q) for p, q in pairs if p))
    return (out,)


def categorical_mode(logits):
    return ([max(range(len(row)), key=row.__getitem__) for row in logits.tolist()],)


def categorical_sample(logits, noise):
    """The first to fire of N exponential clocks with rates p: the same law, another formula."""
    out = []
    for row, u in rows(logits, noise):
        clocks = [
            -math.log(x) / p if x and p else math.inf
            for x, p in zip(u, probabilities(row), strict=True)
        ]
        out.append(min(range(len(row)), key=clocks.__getitem__))
    return (out,)


def squashed(x, low, high):
    e = math.exp(2 * x)
    return low + (high - low) * e / (e + 1)


def tanh_normal_log_prob(action, loc, scale, low, high):
    """Change of variables, with the slope of the squashing from the action itself."""

    def log_density(y, m, s, lo, hi):
        share = (y - lo) / (hi - lo)
        x = math.log(share / (1 - share)) / 2
        slope = 2 * (hi - lo) * share * (1 - share)
        density = math.exp(-((x - m) ** 2) / (2 * s * s)) / (s * math.sqrt(2 * math.pi))
        return math.log(density / slope)

    return (
        [
            sum(log_density(*z) for z in zip(*row, strict=True))
            for row in rows(action, loc, scale, low, high)
        ],
    )


def tanh_normal_mode(loc, low, high):
    return ([[squashed(*z) for z in zip(*row, strict=True)] for row in rows(loc, low, high)],)


def tanh_normal_sample(loc, scale, noise, low, high):
    return tanh_normal_mode(loc + scale * noise, low, high)


def tanh_normal_sample_with_log_prob(loc, scale, noise, low, high):
    action = tanh_normal_sample(loc, scale, noise, low, high)
    tensor = loc.new_tensor(action[0])
    return (*action, *tanh_normal_log_prob(tensor, loc, scale, low, high))


def share_inside(m, s, lo, hi):
    """The normal's share between its bounds, and below the lower one: never quite 0 or 1."""
    below, upto = (min(max(NormalDist(m, s).cdf(bound), 1e-6), 1 - 1e-6) for bound in (lo, hi))
    return upto - below, below


def truncated_normal_log_prob(action, loc, scale, low, high):
    def log_density(y, m, s, lo, hi):
        inside = lo <= y <= hi
        return (
            math.log(NormalDist(m, s).pdf(y) / share_inside(m, s, lo, hi)[0]) if inside else NEVER
        )

    return (
        [
            sum(log_density(*z) for z in zip(*row, strict=True))
            for row in rows(action, loc, scale, low, high)
        ],
    )


def truncated_normal_entropy(loc, scale, low, high):
    """``log(Z s sqrt(2 pi))`` and half the second moment, which is of integrals by Simpson."""

    def entropy(m, s, lo, hi, steps=4000):
        share, normal, width = share_inside(m, s, lo, hi)[0], NormalDist(m, s), (hi - lo) / steps
        moment = 0.0
        for i in range(steps + 1):
            x = lo + i * width
            weight = 1 if i in (0, steps) else 4 if i % 2 else 2
            moment += weight * width / 3 * normal.pdf(x) * ((x - m) / s) ** 2
        exact = normal.cdf(hi) - normal.cdf(lo)
        # One, where the density integrates to one.
        return math.log(share * s * math.sqrt(2 * math.pi)) + (moment + share - exact) / share / 2

    return (
        [sum(entropy(*z) for z in zip(*row, strict=True)) for row in rows(loc, scale, low, high)],
    )


def truncated_normal_mode(loc, low, high):
    return (
        [
            [min(max(m, lo + 1e-6), hi - 1e-6) for m, lo, hi in zip(*row, strict=True)]
            for row in rows(loc, low, high)
        ],
    )


def truncated_normal_sample(loc, scale, noise, low, high):
    def sample(m, s, u, lo, hi):
        share, below = share_inside(m, s, lo, hi)
        return min(max(NormalDist(m, s).inv_cdf(below + u * share), lo), hi)

    return (
        [
            [sample(*z) for z in zip(*row, strict=True)]
            for row in rows(loc, scale, noise, low, high)
        ],
    )


def deterministic_log_prob(action, param, atol=1e-6, rtol=1e-6):
    out = []
    for ys, ps in rows(action, param):
        near = [abs(y - p) <= atol + rtol * abs(p) for y, p in zip(ys, ps, strict=True)]
        out.append(0.0 if all(near) else NEVER)
    return (out,)


def yes(logit):
    return 1 / (1 + math.exp(-logit))


def bernoulli_log_prob(action, logits):
    out = []
    for row, odds in rows(action, logits):
        chances = [yes(x) if a else 1 - yes(x) for a, x in zip(row, odds, strict=True)]
        out.append(math.log(math.prod(chances)))
    return (out,)


def bernoulli_entropy(logits):
    """That of the categorical distribution over all vectors of zeros and ones."""
    return bernoulli_kl(logits, 0 * logits, -1.0, logits.shape[-1] * math.log(2))


def bernoulli_kl(logits, other_logits, sign=1.0, offset=0.0):
    out = []
    for row, others in rows(logits, other_logits):
        total = 0.0
        for vector in itertools.product((0, 1), repeat=len(row)):
            p, q = (
                math.prod(yes(x) if v else 1 - yes(x) for v, x in zip(vector, odds, strict=True))
                for odds in (row, others)
            )
            total += p * math.log(p / q)
        out.append(offset + sign * total)
    return (out,)


def bernoulli_mode(logits):
    return ([[1.0 if yes(x) > 0.5 else 0.0 for x in row] for row in logits.tolist()],)


def bernoulli_sample(logits, noise):
    """Odds against odds."""
    return (
        [
            [1.0 if u < (1 - u) * math.exp(x) else 0.0 for x, u in zip(*row, strict=True)]
            for row in rows(logits, noise)
        ],
    )


def heads(tensor, nvec):
    ends = list(itertools.accumulate(nvec))
    return [tensor[:, end - n : end] for n, end in zip(nvec, ends, strict=True)]


def summed(each):
    return ([sum(row) for row in zip(*[x for (x,) in each], strict=True)],)


def multi_categorical_log_prob(action, logits, nvec):
    one_hot = action.shape == logits.shape
    actions = heads(action, nvec) if one_hot else action.unbind(-1)
    return summed(map(categorical_log_prob, actions, heads(logits, nvec)))


def multi_categorical_entropy(logits, nvec):
    return summed(map(categorical_entropy, heads(logits, nvec)))


def multi_categorical_kl(logits, other_logits, nvec):
    return summed(map(categorical_kl, heads(logits, nvec), heads(other_logits, nvec)))


def multi_categorical_mode(logits, nvec):
    each = [categorical_mode(part)[0] for part in heads(logits, nvec)]
    return ([list(row) for row in zip(*each, strict=True)],)


def multi_categorical_sample(logits, noise, nvec):
    each = [
        categorical_sample(part, u)[0]
        for part, u in zip(heads(logits, nvec), heads(noise, nvec), strict=True)
    ]
    return ([list(row) for row in zip(*each, strict=True)],)


def kept(x, mask):
    if mask is None:
        return x.flatten().tolist()
    return [v for v, k in zip(x.flatten().tolist(), mask.flatten().tolist(), strict=True) if k]


def mean_of(values):
    return sum(values) / len(values) if values else 0.0


def variance_of(values, correction=0):
    m = mean_of(values)
    return sum((v - m) ** 2 for v in values) / max(len(values) - correction, 1)


def variance(x, mask=None, correction=0):
    return (variance_of(kept(x, mask), correction),)


def standardize(x, mask=None, exclude_dims=None):
    if exclude_dims is not None:  # the last
        out = x.clone()
        for i in range(x.shape[-1]):
            (column,) = standardize(x[..., i].flatten(), mask[..., i].flatten())
            out[..., i] = x.new_tensor(column).view(x.shape[:-1])
        return (out.tolist(),)
    values = kept(x, mask)
    m, s = mean_of(values), max(math.sqrt(variance_of(values, 1)), 1e-6)
    keep = [True] * len(x) if mask is None else mask.tolist()
    if len(values) < 2:
        return ([v if k else 0.0 for v, k in zip(x.tolist(), keep, strict=True)],)
    return ([(v - m) / s if k else 0.0 for v, k in zip(x.tolist(), keep, strict=True)],)


def reduce(x, mask=None, reduction="mean", weight=None):
    weights = [1.0] * len(x) if weight is None else weight.tolist()
    keep = [True] * len(x) if mask is None else mask.tolist()
    terms = [w * v if k else 0.0 for v, w, k in zip(x.tolist(), weights, keep, strict=True)]
    if reduction == "none":
        return (terms,)
    total = sum(w for w, k in zip(weights, keep, strict=True) if k)
    return (sum(terms) if reduction == "sum" else sum(terms) / (total or 1.0),)


def explained_variance(value, value_target, mask=None):
    v, r = kept(value, mask), kept(value_target, mask)
    residual = variance_of([b - a for a, b in zip(v, r, strict=True)])
    return (1 - residual / max(variance_of(r), 1e-8),)


def effective_sample_size(log_ratio, mask=None):
    w = [math.exp(x) for x in kept(log_ratio, mask)]
    return (sum(w) ** 2 / (len(w) * sum(x * x for x in w)),)


def kl_k1(log_prob, behavior_log_prob):
    return ([old - new for new, old in rows(log_prob, behavior_log_prob)],)


def kl_k3(log_prob, behavior_log_prob):
    out = []
    for new, old in rows(log_prob, behavior_log_prob):
        ratio = math.exp(new - old)
        out.append(ratio - 1 - math.log(ratio))
    return (out,)


def clip_fraction(x, low, high, mask=None):
    return (mean_of([0.0 if low <= v <= high else 1.0 for v in kept(x, mask)]),)


def next_beta(beta, kl, target_kl=0.01, increment=2.0, decrement=0.5):
    out = []
    for b, divergence in rows(beta, kl):
        if divergence > 1.5 * target_kl:
            b *= increment
        elif divergence < target_kl / 1.5:
            b *= decrement
        out.append(b)
    return (out,)


def kl_adaptive_learning_rate(
    learning_rate, kl, target_kl, factor, min_learning_rate, max_learning_rate
):
    out = []
    for rate, divergence in rows(learning_rate, kl):
        if divergence > 2 * target_kl:
            rate /= factor
        elif 0 < divergence < target_kl / 2:
            rate *= factor
        out.append(min(max(rate, min_learning_rate), max_learning_rate))
    return (out,)


def linear_schedule(fraction, start, end):
    return ([(1 - f) * start + f * end for f in fraction.tolist()],)


def exponential_schedule(fraction, start, end):
    return ([math.exp((1 - f) * math.log(start) + f * math.log(end)) for f in fraction.tolist()],)


def cosine_schedule(fraction, start, end):
    """By the half angle: the share of ``start`` that is left is a squared cosine."""
    left = [math.cos(math.pi * f / 2) ** 2 for f in fraction.tolist()]
    return ([x * start + (1 - x) * end for x in left],)


def soft_update(target, source, tau):
    pairs = rows(target, source)
    return ([[(1 - tau) * t + tau * s for t, s in zip(*pair, strict=True)] for pair in pairs],)


def hard_update(target, source, counter, interval):
    return (source.tolist() if counter == interval else target.tolist(),)
