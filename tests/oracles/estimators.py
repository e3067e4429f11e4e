"""Returns and advantages as sums over the rest of a trajectory: no recurrence anywhere."""

import math


def valid(mask, like):
    return [[True] * len(row) for row in like.tolist()] if mask is None else mask.tolist()


def by_step(coefficient, like):
    """A coefficient as nested lists, one a step."""
    if hasattr(coefficient, "dim") and coefficient.dim():
        return coefficient.tolist()
    return [[float(coefficient)] * len(row) for row in like.tolist()]


class Row:
    """One trajectory after another in one row of data: what an estimator may look at."""

    def __init__(self, reward, next_value, terminated, cut, keep, gamma):
        self.reward, self.next_value, self.terminated = reward, next_value, terminated
        self.cut, self.keep, self.gamma = cut, keep, gamma

    def steps(self, t):
        """The steps of the trajectory from ``t`` on, up to the one that ends it."""
        found = []
        for k in range(t, len(self.reward)):
            if not self.keep[k]:
                break
            found.append(k)
            if self.cut[k] or self.terminated[k]:
                break
        return found

    def bootstrap(self, t):
        return 0.0 if self.terminated[t] else self.next_value[t]

    def partial(self, steps):
        """The discounted rewards of the steps and the value of the state after the last."""
        total, weight = 0.0, 1.0
        for k in steps:
            total += weight * self.reward[k]
            weight *= self.gamma[k]
        return total + weight * self.bootstrap(steps[-1])

    def weighted(self, steps, errors, traces):
        """The sum of the errors, each weighted by the discounts and traces before it."""
        total, weight = 0.0, 1.0
        for k in steps:
            total += weight * errors[k]
            weight *= self.gamma[k] * traces[k]
        return total


def each_row(reward, next_value, terminated, done, gamma, mask):
    tensors = (reward, next_value, terminated, done)
    columns = [x.tolist() for x in tensors]
    for *row, keep, gammas in zip(
        *columns, valid(mask, reward), by_step(gamma, reward), strict=True
    ):
        yield Row(*row, keep, gammas)


def by_trajectory(rows, rule):
    """``rule(row, steps)`` at every valid step, zero elsewhere."""
    return [
        [rule(row, row.steps(t)) if row.keep[t] else 0.0 for t in range(len(row.reward))]
        for row in rows
    ]


def less(target, value, mask):
    """``target - value``, zero under the mask; and the target."""
    pairs = zip(target, value.tolist(), valid(mask, value), strict=True)
    difference = [[a - b if k else 0.0 for a, b, k in zip(*row, strict=True)] for row in pairs]
    return difference, target


def discounted_return(reward, done, gamma=0.99, mask=None):
    rows = each_row(reward, reward * 0, done, done, gamma, mask)
    return (by_trajectory(rows, lambda row, steps: row.partial(steps)),)


def discounted_advantage(reward, value, done, gamma=0.99, mask=None):
    return less(*discounted_return(reward, done, gamma, mask), value, mask)


def n_step_return(reward, next_value, terminated, done, n_steps, gamma=0.99, mask=None):
    rows = each_row(reward, next_value, terminated, done, gamma, mask)
    return (by_trajectory(rows, lambda row, steps: row.partial(steps[:n_steps])),)


def n_step_advantage(reward, value, next_value, terminated, done, n_steps, gamma=0.99, mask=None):
    target = n_step_return(reward, next_value, terminated, done, n_steps, gamma, mask)
    return less(*target, value, mask)


def td0_return(reward, next_value, terminated, gamma=0.99, mask=None):
    return n_step_return(reward, next_value, terminated, terminated, 1, gamma, mask)


def td0_advantage(reward, value, next_value, terminated, gamma=0.99, mask=None):
    return less(*td0_return(reward, next_value, terminated, gamma, mask), value, mask)


def td1_return(reward, next_value, terminated, done, gamma=0.99, mask=None):
    rows = each_row(reward, next_value, terminated, done, gamma, mask)
    return (by_trajectory(rows, lambda row, steps: row.partial(steps)),)


def td1_advantage(reward, value, next_value, terminated, done, gamma=0.99, mask=None):
    return less(*td1_return(reward, next_value, terminated, done, gamma, mask), value, mask)


def td_lambda_return(reward, next_value, terminated, done, gamma=0.99, lmbda=0.95, mask=None):
    """The average of every n-step return by its weight."""
    out = []
    rows = each_row(reward, next_value, terminated, done, gamma, mask)
    for row, decays in zip(rows, by_step(lmbda, reward), strict=True):

        def average(row, steps, decays=decays):
            total, left = 0.0, 1.0
            for n, k in enumerate(steps[:-1], start=1):
                total += left * (1 - decays[k]) * row.partial(steps[:n])
                left *= decays[k]
            return total + left * row.partial(steps)

        out += by_trajectory([row], average)
    return (out,)


def td_lambda_advantage(
    reward, value, next_value, terminated, done, gamma=0.99, lmbda=0.95, mask=None
):
    target = td_lambda_return(reward, next_value, terminated, done, gamma, lmbda, mask)
    return less(*target, value, mask)


def gae(reward, value, next_value, terminated, done, gamma=0.99, lmbda=0.95, mask=None):
    out, targets = [], []
    rows = each_row(reward, next_value, terminated, done, gamma, mask)
    for row, v, decays in zip(rows, value.tolist(), by_step(lmbda, reward), strict=True):
        delta = [
            r + g * row.bootstrap(t) - v[t]
            for t, (r, g) in enumerate(zip(row.reward, row.gamma, strict=True))
        ]
        (advantage,) = by_trajectory(
            [row], lambda row, steps, d=delta, c=decays: row.weighted(steps, d, c)
        )
        out.append(advantage)
        targets.append(
            [a + b if k else 0.0 for a, b, k in zip(advantage, v, row.keep, strict=True)]
        )
    return out, targets


def multi_agent_gae(
    reward,
    value,
    next_value,
    terminated,
    done,
    gamma=0.99,
    lmbda=0.95,
    mask=None,
    time_dim=1,
    agent_dim=-1,
):
    """Each agent on its own; values are ``[B, T, n]``."""
    assert (time_dim, agent_dim) == (1, -1)
    own = lambda x, i: x if x is None or x.dim() == 2 else x[..., i]  # noqa: E731
    agents = [
        gae(
            *[own(x, i) for x in (reward, value, next_value, terminated, done)],
            gamma,
            lmbda,
            own(mask, i),
        )
        for i in range(value.shape[-1])
    ]
    # From [agent][batch][time] to [batch][time][agent].
    return tuple(
        [[list(steps) for steps in zip(*rows, strict=True)] for rows in zip(*field, strict=True)]
        for field in zip(*agents, strict=True)
    )


def vtrace(
    reward,
    value,
    next_value,
    terminated,
    done,
    log_prob,
    behavior_log_prob,
    gamma=0.99,
    lmbda=1.0,
    rho_thresh=1.0,
    c_thresh=1.0,
    mask=None,
):
    """The sum of equation 1, and the advantage from the target of the state entered."""
    advantages, targets = [], []
    columns = (value, log_prob, behavior_log_prob)
    rows = each_row(reward, next_value, terminated, done, gamma, mask)
    for row, v, new, old, decays in zip(
        rows, *[x.tolist() for x in columns], by_step(lmbda, reward), strict=True
    ):
        n = range(len(v))
        ratio = [math.exp(new[t] - old[t]) for t in n]
        rho = [min(rho_thresh, x) for x in ratio]
        trace = [decays[t] * min(c_thresh, ratio[t]) for t in n]
        delta = [rho[t] * (row.reward[t] + row.gamma[t] * row.bootstrap(t) - v[t]) for t in n]
        target = [
            v[t] + row.weighted(row.steps(t), delta, trace) if row.keep[t] else 0.0 for t in n
        ]
        advantage = [0.0] * len(v)
        for t in n:
            steps = row.steps(t)
            if steps:
                after = target[t + 1] if len(steps) > 1 else row.bootstrap(t)
                advantage[t] = rho[t] * (row.reward[t] + row.gamma[t] * after - v[t])
        advantages.append(advantage)
        targets.append(target)
    return advantages, targets


def retrace(
    reward,
    action_value,
    next_value,
    terminated,
    done,
    log_prob,
    behavior_log_prob,
    gamma=0.99,
    lmbda=0.95,
    mask=None,
):
    """The sum of equation 3: the trace of each later step is that of its own action."""
    out = []
    columns = (action_value, log_prob, behavior_log_prob)
    rows = each_row(reward, next_value, terminated, done, gamma, mask)
    for row, q, new, old, decays in zip(
        rows, *[x.tolist() for x in columns], by_step(lmbda, reward), strict=True
    ):
        target = []
        for t in range(len(q)):
            total, weight = q[t], 1.0
            for k in row.steps(t):
                if k > t:
                    weight *= row.gamma[k - 1] * decays[k] * min(1.0, math.exp(new[k] - old[k]))
                total += weight * (row.reward[k] + row.gamma[k] * row.bootstrap(k) - q[k])
            target.append(total if row.keep[t] else 0.0)
        out.append(target)
    return (out,)


def upgo_return(reward, next_value, terminated, done, gamma=0.99, mask=None):
    """Walk on while the next action was at least as good as expected."""

    def upgoing(row, steps):
        taken = steps[:1]
        for k in steps[1:]:
            if row.reward[k] + row.gamma[k] * row.bootstrap(k) < row.next_value[k - 1]:
                break
            taken.append(k)
        return row.partial(taken)

    rows = each_row(reward, next_value, terminated, done, gamma, mask)
    return (by_trajectory(rows, upgoing),)
