"""What a step of several processes refuses, and how its processes begin."""

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from compiled_rl import (
    ClipPPOLoss,
    PercentileValueNorm,
    Policy,
    SoftUpdate,
    UpdateStep,
    ValueHead,
)
from compiled_rl.estimators import ValueEstimators
from compiled_rl.functional import reduce
from compiled_rl.functional.processes import SplitBatch
from compiled_rl.functional.reduction import standardize_groups
from compiled_rl.modules import Categorical
from compiled_rl.training import UpdateEpochs
from tests.distributed import cases, spawned
from tests.export.learning import loss_and_batch, step_of


def _sentence(make: Any, error: type[Exception]) -> str:
    with pytest.raises(error) as caught:
        make()
    return str(caught.value)


def _seeded(seed: int, **options: Any) -> UpdateStep:
    torch.manual_seed(seed)
    loss = ClipPPOLoss(Policy(nn.Linear(4, 2), Categorical), ValueHead(4))
    adam = torch.optim.Adam(loss.parameters(), lr=1e-3)
    return UpdateStep(loss, adam, mode="eager", process_group=dist.group.WORLD, **options)


def _no_process_needs_another() -> dict[str, Any]:
    group, rank = dist.group.WORLD, dist.get_rank()
    found: dict[str, Any] = {}

    begun = _seeded(rank)  # other parameters everywhere
    found["parameters"] = torch.cat([p.detach().flatten() for p in begun.loss.parameters()])
    found["first"] = torch.rand(3, generator=begun._source())
    found["second"] = torch.rand(3, generator=begun._source())
    found["common"] = begun.generator.get_state()
    other = _seeded(5)
    other.load_state_dict(begun.state_dict())
    found["third"] = torch.rand(3, generator=begun._source())
    found["loaded"] = torch.rand(3, generator=other._source())

    each = {"mode": "eager", "process_group": group}
    steps = [
        UpdateStep(begun.loss, torch.optim.Adam(begun.loss.parameters()), **each) for _ in range(2)
    ]
    found["two steps"] = torch.stack([torch.rand(3, generator=x._source()) for x in steps])
    found["another reduction"] = _sentence(
        lambda: _of_one_loss(reduction=("mean", "sum")[rank]), ValueError
    )
    found["another tau"] = _sentence(lambda: _of_one_loss(tau=0.1 + 0.5 * rank), ValueError)
    found["unlike"] = _sentence(lambda: _seeded(0, max_grad_norm=1.0 + rank), ValueError)

    def with_a(layer: nn.Module) -> UpdateStep:
        actor = Policy(nn.Sequential(nn.Linear(4, 2), layer), Categorical)
        loss = ClipPPOLoss(actor, ValueHead(4))
        adam = torch.optim.Adam(loss.parameters(), lr=1e-3)
        return UpdateStep(loss, adam, mode="eager", process_group=group)

    loss, _ = loss_and_batch("MAPPOLoss")
    loss.make_value_estimator(ValueEstimators.MAGAE, average_gae=True)
    found["agents"] = _sentence(lambda: step_of(loss, process_group=group), TypeError)
    found["batch norm"] = _sentence(lambda: with_a(nn.BatchNorm1d(2)), TypeError)
    loss, _ = loss_and_batch("MAPPOLoss", value_norm=PercentileValueNorm())
    found["quantiles"] = _sentence(lambda: step_of(loss, process_group=group), TypeError)
    with SplitBatch(group):
        x = torch.ones(2)
        found["groups"] = _sentence(
            lambda: standardize_groups(x, x.long(), None, 1e-5), RuntimeError
        )
        found["split"] = reduce(torch.ones(1 + rank), None, "sum")
    found["whole"] = reduce(torch.ones(1 + rank), None, "sum")
    found["reads a sample"] = _sentence(_rule_of_samples, KeyError)
    return found


def _of_one_loss(tau: float = 0.1, **options: Any) -> UpdateStep:
    loss, _ = loss_and_batch("DQNLoss", **options)
    return UpdateStep(
        loss,
        torch.optim.Adam(loss.parameters()),
        mode="eager",
        target_updater=SoftUpdate(loss, tau=tau),
        process_group=dist.group.WORLD,
    )


def _rule_of_samples() -> None:
    loss, batch = loss_and_batch("DQNLoss")

    def rule(now: Any, metrics: Any) -> Any:
        return {"learning_rate": 0.1 * metrics["td_error"].mean()}

    step_of(loss, process_group=dist.group.WORLD, rule=rule)(batch)


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    return spawned.run(_no_process_needs_another, 2)


def test_all_begin_with_what_the_first_one_has(found):
    one, two = found
    torch.manual_seed(0)
    expected = [*nn.Linear(4, 2).parameters(), *ValueHead(4).parameters()]
    assert torch.equal(one["parameters"], torch.cat([p.detach().flatten() for p in expected]))
    assert torch.equal(one["parameters"], two["parameters"])


def test_noise_is_another_in_every_process_and_every_call(found):
    draws = [each[name] for each in found for name in ("first", "second", "third")]
    assert len({tuple(x.tolist()) for x in draws}) == 6


def test_two_steps_of_one_program_draw_other_noise(found):
    for each in found:
        assert not torch.equal(*each["two steps"])


def test_the_state_is_one_and_each_process_goes_on_from_it(found):
    one, two = found
    assert torch.equal(one["common"], two["common"])
    for each in found:
        assert torch.equal(each["loaded"], each["third"])


def test_another_step_is_refused_everywhere(found):
    for each in found:
        assert each["unlike"].startswith("UpdateStep: every process of `process_group` must make")
        assert each["unlike"].endswith("on rank 1")
        assert "'max_grad_norm': 2.0" in each["unlike"]
        assert "DQNLoss with `reduction` 'sum' on rank 1" in each["another reduction"]
        assert "SoftUpdate with `_eps` " in each["another tau"]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("batch norm", "got a BatchNorm1d at `actor_network.network.1`"),
        ("quantiles", "got a PercentileValueNorm at `value_norm`"),
        ("agents", "got a MultiAgentGAE with `average_gae`"),
        ("groups", "standardize_groups: the statistics of groups must be of a whole batch"),
        ("reads a sample", "td_error"),
    ],
)
def test_what_needs_the_whole_batch_is_refused(found, what, words):
    for each in found:
        assert words in each[what]


def test_a_batch_is_split_inside_the_context_only(found):
    assert [float(each["split"]) for each in found] == [3.0, 3.0]
    assert [float(each["whole"]) for each in found] == [1.0, 2.0]


def test_a_group_is_one_of_torch():
    loss, _ = loss_and_batch("A2CLoss")
    with pytest.raises(TypeError, match=r"must be a torch.distributed.ProcessGroup, got a str"):
        step_of(loss, process_group="gloo")
    with pytest.raises(
        TypeError, match=r"must be a torch.distributed.ProcessGroup, got a NoneType"
    ):
        SplitBatch(None)


# ---- epochs, accumulation, copies ----------------------------------------------------------------


def _by_minibatches() -> dict[str, float]:
    """Epochs of ragged parts, of which one ends sooner; gradients of three calls; a copy."""
    rank, name, dtype = dist.get_rank(), "ClipPPOLoss, normalised", torch.float64
    (loss, batch), (whole, _) = cases.made(name, dtype), cases.made(name, dtype)
    split, alone = step_of(loss, process_group=dist.group.WORLD), step_of(whole)
    rows = slice(0, 4) if rank == 0 else slice(4, 6)
    own = {k: x[rows] for k, x in batch.items()}
    mine = torch.arange(rows.stop - rows.start).expand(3, -1)
    learned = UpdateEpochs(split, epochs=3, minibatch_size=1)(own, mine)
    for _ in range(3):
        for rows in ([0, 4], [1, 5], [2], [3]):
            last = alone({k: x[rows] for k, x in batch.items()})
    found = {"epochs": cases.states_apart(split, alone)}
    found["metric"] = float((learned["loss_critic"][-1] - last["loss_critic"]).abs())
    found["count"] = float(len(learned["loss_critic"]) - 12)

    again = copy.deepcopy(split)
    split(own), again(own)
    found["a copy"] = cases.states_apart(split, again)

    (loss, batch), (whole, _) = cases.made(name, dtype), cases.made(name, dtype)
    split = step_of(loss, process_group=dist.group.WORLD, accumulate=3)
    alone = step_of(whole, accumulate=3)
    for k, each in enumerate(cases.batches(whole, batch, masks=1)[:6]):
        split(cases.part(each, k)[0]), alone(each)
    found["accumulated"] = cases.states_apart(split, alone)
    return found


@pytest.mark.slow
def test_epochs_accumulation_and_copies():
    for found in spawned.run(_by_minibatches, 2):
        assert max(found.values()) < 1e-10, found
