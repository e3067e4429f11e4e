"""Values of actions, and distributions of returns over atoms."""

import math

from tests.oracles.formulas import probabilities, rows


def chosen_action_value(action_value, action):
    out = []
    for values, a in rows(action_value, action):
        chosen = [a] if isinstance(a, int) else [n for n, on in enumerate(a) if on]
        out.append(math.fsum(values[n] for n in chosen))
    return (out,)


def expected_action_value(logits, support):
    out = []
    for (row,) in rows(logits):
        each = [probabilities(column) for column in zip(*row, strict=True)]
        out.append(
            [math.fsum(x * z for x, z in zip(p, support.tolist(), strict=True)) for p in each]
        )
    return (out,)


def project_categorical(reward, next_probs, terminated, support, gamma=0.99):
    """By the triangle around every atom; the code moves each atom to its two neighbours."""
    atoms = support.tolist()
    step = atoms[1] - atoms[0]
    gammas = gamma.tolist() if hasattr(gamma, "tolist") else [gamma] * len(reward)
    out = []
    for (r, probs, ends), g in zip(rows(reward, next_probs, terminated), gammas, strict=True):
        moved = [min(max(r + (0 if ends else g * z), atoms[0]), atoms[-1]) for z in atoms]
        out.append(
            [
                math.fsum(
                    p * max(0.0, 1 - abs(y - z) / step) for p, y in zip(probs, moved, strict=True)
                )
                for z in atoms
            ]
        )
    return (out,)


def categorical_cross_entropy(logits, target_probs):
    out = []
    for row, target in rows(logits, target_probs):
        out.append(-sum(t * math.log(p) for t, p in zip(target, probabilities(row), strict=True)))
    return (out,)


def vdn_mix(local_value):
    return ([math.fsum(values) for (values,) in rows(local_value)],)


def monotonic_mix(local_value, hidden_weight, hidden_bias, last_weight, last_bias):
    out = []
    inputs = (local_value, hidden_weight, hidden_bias, last_weight, last_bias)
    for values, weight, bias, last, total in rows(*inputs):
        for e, b in enumerate(bias):
            x = b + math.fsum(q * abs(w[e]) for q, w in zip(values, weight, strict=True))
            total += abs(last[e]) * (x if x > 0 else math.exp(x) - 1)
        out.append(total)
    return (out,)
