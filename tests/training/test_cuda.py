"""The update step on a GPU: CUDA graphs that nobody notices. It needs one."""

import pytest
import torch

from compiled_rl import ClipPPOLoss, SoftUpdate, UpdateEpochs, UpdateStep
from tests.losses.networks import as_keywords, make_data, plain_networks
from tests.losses.transitions import SUBJECTS
from tests.training.test_update_targets import steps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def learner(mode: str):
    loss = SUBJECTS["sac"].ours().cuda()
    return UpdateStep(
        loss,
        torch.optim.Adam(loss.parameters(), lr=1e-3),
        target_updater=SoftUpdate(loss, tau=0.1),
        generator=torch.Generator("cuda").manual_seed(1),
        mode=mode,
    )


def on_gpu(seed: int) -> dict[str, torch.Tensor]:
    """Somewhere else in memory every time."""
    return {name: x.cuda() for name, x in steps(64, seed, torch.float32).items()}


@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune"])
def test_what_is_kept_stays_and_batches_may_be_anywhere(mode):
    step, eager, kept, batches = learner(mode), learner("eager"), [], []
    for k in range(8):
        batches.append(on_gpu(k))  # kept, so that the next one is not put in its place
        for group in step.optimizer.param_groups + eager.optimizer.param_groups:
            group["lr"] = 1e-3 / (1 + k)
        metrics = step(batches[-1])
        kept.append((metrics, eager(batches[-1])))
    for metrics, expected in kept:
        torch.testing.assert_close(metrics, expected, **CLOSE)
    torch.testing.assert_close(step.loss.state_dict(), eager.loss.state_dict(), **CLOSE)


def test_a_graph_is_recorded_and_replayed():
    """It was skipped, with a word in a log, if one tensor were elsewhere or not where it was."""
    step = learner("reduce-overhead")
    for k in range(4):
        step(on_gpu(k))
    skipped = torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]
    assert skipped == 0


def test_epochs_with_a_smaller_last_minibatch():
    losses = [ClipPPOLoss(*plain_networks("normal")).cuda() for _ in range(2)]
    data = {
        k: x.cuda() for k, x in as_keywords(make_data(plain_networks("normal")[0], (21,))).items()
    }
    order = torch.stack([torch.randperm(21) for _ in range(3)]).cuda()
    for loss, mode in zip(losses, ("reduce-overhead", "eager"), strict=True):
        step = UpdateStep(loss, torch.optim.Adam(loss.parameters()), mode=mode)
        UpdateEpochs(step, epochs=3, minibatch_size=8)(data, order)
    torch.testing.assert_close(losses[0].state_dict(), losses[1].state_dict(), **CLOSE)
