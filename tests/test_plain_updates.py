"""The benchmarks' formulas by hand do the work of our losses, or the comparison says nothing."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from benchmarks.contenders import SUBJECTS
from benchmarks.plain import DRAWS, FORMULAS, Networks, make_update, networks_of
from benchmarks.workload import TAU
from compiled_rl import SoftUpdate, UpdateStep

SIZE = 32
# Where our losses find the noise that they would draw.
NOISE = {
    "A2CLoss": ["entropy_noise"],
    "TD3Loss": ["next_action_noise"],
    "SACLoss": ["action_noise", "next_action_noise"],
}
subjects = pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def prepared(subject) -> tuple[nn.Module, Networks, dict[str, Tensor]]:
    """A loss, its networks by hand, and a batch; frozen copies are of other numbers."""
    loss = subject.plain()
    networks = networks_of(loss)
    for parameter in [*loss.parameters(), *of_all(networks.learned)]:
        parameter.data.mul_(1.1).add_(0.01)
    return loss, networks, dict(subject.data(SIZE).flatten_keys("_").items())


def of_all(networks) -> list[nn.Parameter]:
    return [parameter for network in networks for parameter in network.parameters()]


def stacked(networks, what) -> list[Tensor]:
    """Something of each parameter, of twins stacked as ours are."""
    found = []
    for network in networks:
        twins = network if isinstance(network, nn.ModuleList) else [network]
        columns = zip(*[[what(p) for p in twin.parameters()] for twin in twins], strict=True)
        found += [torch.stack(x) if len(x) > 1 else x[0] for x in columns]
    return found


def ours(loss) -> list[nn.Parameter]:
    """In the order of the networks by hand, the temperature last."""
    return sorted(loss.parameters(), key=lambda p: p is getattr(loss, "log_alpha", None))


@subjects
def test_formula_has_the_loss_and_the_gradients_of_ours(subject):
    loss, networks, batch = prepared(subject)
    noise = [torch.randn_like(batch["action"]) for _ in range(DRAWS.get(subject.name, 0))]
    total = FORMULAS[subject.name](networks, batch, noise)
    total.backward()
    given = dict(zip(NOISE.get(subject.name, []), noise, strict=True))
    if "entropy_noise" in given:
        given["entropy_noise"] = given["entropy_noise"].unsqueeze(-1)  # of one sample
    outputs = loss(batch | given)
    expected = sum(outputs[name] for name in loss.minimised if name in outputs)
    expected.backward()
    torch.testing.assert_close(total, expected, rtol=1e-8, atol=1e-8)
    gradients = stacked(networks.learned, lambda p: p.grad)
    for mine, theirs in zip(gradients, [p.grad for p in ours(loss)], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "subject", [x for x in SUBJECTS if x.name not in NOISE], ids=lambda subject: subject.name
)
def test_update_moves_what_ours_moves(subject):
    """Of losses without noise: with it, each draws its own."""
    loss, networks, batch = prepared(subject)
    updater = SoftUpdate(loss, tau=TAU) if subject.max_grad_norm is None else None
    if updater is not None:  # it has made the copies anew
        own, frozen = of_all(networks.learned), of_all(networks.targets)
        torch._foreach_copy_([p.data for p in frozen], [p.data for p in own])
    bound = subject.max_grad_norm
    step = UpdateStep(
        loss,
        subject.optimizers(loss),
        max_grad_norm=bound,
        target_updater=updater,
        mode="eager",
    )
    update = make_update(subject.name, networks, bound, capturable=False)
    for _ in range(3):
        step(**batch)
        update(batch)
    for mine, theirs in zip(stacked(networks.learned, lambda p: p), ours(loss), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)
    if updater is not None:
        copies = [x for name, x in loss.named_buffers() if name.startswith("target_")]
        for mine, theirs in zip(of_all(networks.targets), copies, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)
