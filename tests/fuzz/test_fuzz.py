"""Bad input to every public callable: the right result, or one sentence that names the argument.

``make fuzz`` tries every way to spoil every argument, and many pairs; here are some of each.
"""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiled_rl import functional
from tests.cases import CASES
from tests.fuzz.calls import CALLS
from tests.fuzz.drawn import changes
from tests.fuzz.outcome import attempt, shown, undocumented
from tests.fuzz.public import NOT_FUZZED, needed, public

every_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
QUICK = settings(
    max_examples=4,
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def test_every_public_callable_is_fuzzed():
    names = {call.name.split()[0] for call in CALLS}
    missing = [name for name in needed() if name not in names | NOT_FUZZED.keys()]
    assert not missing
    known = {name for name, _ in public()}
    stale = [name for name in NOT_FUZZED if ".".join(name.split(".")[:2]) not in known]
    assert not stale
    assert not names & NOT_FUZZED.keys()


@every_call
def test_bad_input_is_refused_in_a_sentence(call):
    if not call.only:
        outcome = attempt(call.make, {}, writes=call.writes)
        assert not outcome.refused, outcome.error
        assert not outcome.fault

    errors = []

    @QUICK
    @given(st.data())
    def spoiled(data):
        given = data.draw(changes(call))
        outcome = attempt(call.make, given, call.named, call.users, call.writes)
        assert not outcome.fault, f"{ {k: x.what for k, x in given.items()} }: {outcome.fault}"
        if outcome.error is not None:
            errors.append(outcome.error)

    spoiled()
    assert not undocumented(call.make()[0], errors)


FOUND = [  # by ``make fuzz``, and mended: too few of its calls are drawn in every run
    ("functional.linear_recurrence", "reverse", "a string"),
    ("functional.linear_recurrence", "reverse", "None"),
    ("functional.ppo_clip", "clip_epsilon_high", "1e+300"),
    ("functional.chosen_action_value", "action", "1000 in it"),
    ("functional.categorical_log_prob", "action", "-1000 in it"),
    ("functional.n_step_return", "n_steps", "a NumPy integer"),
    ("modules.StateIndependentScale()", "initial_scale", "1e+300"),
    ("losses.A2CLoss.forward by keyword", "next_terminated", "torch.float32"),
    ("losses.ClipPPOLoss()", "entropy_coeff", "a NumPy float32"),
    ("losses.DistributionalDQNLoss()", "support", "complex"),
    ("losses.DistributionalDQNLoss.make_value_estimator", "nothing_of_this_name", "too much"),
    ("losses.DQNLoss.forward by keyword", "action", "1000 in it"),
    ("training.UpdateStep()", "max_grad_norm", "a NumPy float32"),
    ("training.UpdateStep()", "accumulate", "a NumPy integer"),
    ("training.Collector()", "seed", "a NumPy integer"),
    ("export.load_pt2", "path", "bytes"),
    ("training.save_checkpoint", "state", "a number"),
]


@pytest.mark.parametrize(("name", "argument", "what"), FOUND)
def test_what_was_found_once_is_found_no_more(name, argument, what):
    tried = 0
    for call in [call for call in CALLS if call.name == name]:
        for named, way in call.ways():
            if (named, way.what) == (argument, what):
                outcome = attempt(call.make, {named: way}, call.named, call.users, call.writes)
                assert not outcome.fault
                tried += 1
    assert tried


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_empty_batch_has_an_empty_result(case):
    """Of a mean over nothing it is zero; where time is an axis, that may be empty, too."""
    for batch, time in ((0, 6), (4, 0))[: 1 + ("time" in case.dynamic)]:
        inputs = case.draw(max(batch, 1), max(time, 1), torch.float32)
        inputs = {k: x[:batch] if batch == 0 else x[:, :time] for k, x in inputs.items()}
        full = case.call(case.function, case.draw(2, 6, torch.float32))
        outputs = case.call(case.function, inputs)
        for x, whole in zip(outputs, full, strict=True):
            assert x.dim() == whole.dim()
            assert x.numel() == 0 if x.dim() else bool(x.isfinite()), shown(x)


@pytest.mark.parametrize("case", [c for c in CASES if c.per_row], ids=lambda case: case.name)
def test_what_is_not_a_number_stays_in_its_row(case):
    """It passes through, and is never a number that looks right."""
    inputs = case.draw(4, 6)
    expected = case.call(case.function, inputs)
    for name, x in inputs.items():
        if not x.is_floating_point():
            continue
        spoiled = x.clone()
        spoiled.view(-1)[0] = torch.nan
        got = case.call(case.function, inputs | {name: spoiled})
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a[1:], b[1:], rtol=0, atol=0)


def test_the_walk_sees_a_function_without_a_call(monkeypatch):
    monkeypatch.setattr(functional, "__all__", [*functional.__all__, "moments"])
    monkeypatch.setattr(functional, "moments", lambda x: x, raising=False)
    assert "functional.moments" in set(needed())
