"""A valid call of every public function."""

import torch

from compiled_rl import functional
from tests.cases import CASES, Case
from tests.fuzz.call import AT_LEAST_ONE, Call, Made
from tests.fuzz.mutations import FRACTION, NOT_NEGATIVE, POSITIVE, Range

RANGES = {
    "gamma": FRACTION,
    "lmbda": FRACTION,
    "n_steps": AT_LEAST_ONE,
    "rho_thresh": POSITIVE,
    "c_thresh": POSITIVE,
    "clip_epsilon_low": Range(0.0, 1.0, open_high=True),
    "clip_epsilon_high": NOT_NEGATIVE,
    "clip_value": POSITIVE,
    "alpha": NOT_NEGATIVE,
    "max_importance_ratio": POSITIVE,
    "atol": NOT_NEGATIVE,
    "rtol": NOT_NEGATIVE,
    "policy_noise": NOT_NEGATIVE,
    "noise_clip": NOT_NEGATIVE,
    "target_kl": POSITIVE,
    "increment": AT_LEAST_ONE,
    "decrement": Range(0.0, 1.0, open_low=True),
    "factor": Range(1.0, open_low=True),
    "min_learning_rate": POSITIVE,
    "floor": POSITIVE,
    "tau": FRACTION,
    "beta": NOT_NEGATIVE,
}
OWN = {"exponential_schedule": {"start": POSITIVE, "end": POSITIVE}}

ANY_BATCH = ("expected_action_value",)  # of one tensor but the atoms
CRITICS_FIRST = ("soft_value", "categorical_soft_value")
HALVES = {"torch.float16", "torch.bfloat16"}  # that of `loc` says how much is kept from a bound
ALLOWED = {
    **{f: {"action_value": {"a row less", "a row more", "one row"}} for f in CRITICS_FIRST},
    "chosen_action_value": {"action_value": {"one column", "a column less"}},
    "project_categorical": {"gamma": {"a number", "no axis", "an axis less"}},
}


def of_case(case: Case) -> Call:
    word = case.name.split()[0]

    def make() -> Made:
        inputs = case.draw(4, 6, torch.float32)
        if word in CRITICS_FIRST:
            inputs["action_value"] = inputs["action_value"].movedim(-1, 0).contiguous()
        return getattr(functional, word), {**inputs, **case.scalars, **case.fixed}

    one = {"a number", "no axis"}  # for a discount of each step
    each_step = dict.fromkeys(("gamma", "lmbda"), one) if "rolling" in case.name else {}
    coarse = {"loc": HALVES} if word.startswith("truncated") else {}
    allowed = {**ALLOWED.get(word, {}), **coarse, **each_step}
    names = {"agent_dim": {"reward"}}  # which then has not the shape that the values say
    return Call(
        f"functional.{case.name}",
        make,
        {**RANGES, **OWN.get(word, {})},
        names,
        allowed=allowed,
        alone=word in ANY_BATCH,
    )


FUNCTIONAL = [of_case(case) for case in CASES]
