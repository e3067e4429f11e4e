"""QMIX and VDN on the two-step game of the QMIX paper: which payoffs a team's value can be.

Two agents act at once. In the first step the first agent chooses which of two matrix games is
played in the second, and what they earn there is all they earn. VDN adds up what each is worth and
misses that both must choose well; QMIX does not. Where the better action of one depends on that of
the other, as in the last game, neither can tell the truth. It all takes seconds, less than to
compile it.
"""

from typing import NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from compiled_rl import QMixerLoss, SoftUpdate, UpdateStep
from compiled_rl.functional import cosine_schedule
from compiled_rl.modules import QMixer, VDNMixer

AGENTS, UNITS, EMBEDDING, LEARNING_RATE, GAMMA = 2, 64, 8, 2e-2, 0.99


class Game(NamedTuple):
    """What every joint action earns in every state, and to which state it leads: ``[S][A][A]``.

    A state below zero is the end.
    """

    title: str
    names: tuple[str, ...]
    payoff: list[list[list[float]]]
    leads_to: list[list[list[int]]]


_END = [[-1, -1], [-1, -1]]
TWO_STEP = Game(
    title="the two-step game",
    names=("1", "2A", "2B"),
    payoff=[[[0, 0], [0, 0]], [[7, 7], [7, 7]], [[0, 1], [1, 8]]],
    leads_to=[[[1, 1], [2, 2]], _END, _END],
)
NON_MONOTONIC = Game(
    title="payoffs [[8, -12, -12], [-12, 0, 0], [-12, 0, 0]]",
    names=("only",),
    payoff=[[[8, -12, -12], [-12, 0, 0], [-12, 0, 0]]],
    leads_to=[[[-1] * 3] * 3],
)


def every_step(game: Game) -> dict[str, Tensor]:
    """One transition for each state and joint action: what full exploration finds."""
    payoff, leads_to = torch.tensor(game.payoff), torch.tensor(game.leads_to).flatten()
    state, *action = torch.unravel_index(torch.arange(payoff.numel()), payoff.shape)
    return {
        **observed(game, state),
        "agents_action": torch.stack(action, -1),
        **{f"next_{name}": x for name, x in observed(game, leads_to.clamp(min=0)).items()},
        "next_reward": payoff.float().flatten(),
        "next_done": leads_to < 0,
        "next_terminated": leads_to < 0,
    }


def observed(game: Game, state: Tensor) -> dict[str, Tensor]:
    """The state, and what each agent sees: the state and which agent it is."""
    one_hot = nn.functional.one_hot(state, len(game.names)).float()
    who = torch.eye(AGENTS).expand(len(state), AGENTS, AGENTS)
    seen = one_hot.unsqueeze(1).expand(-1, AGENTS, -1)
    return {"state": one_hot, "agents_observation": torch.cat([seen, who], -1)}


def make_loss(game: Game, kind: str, seed: int) -> QMixerLoss:
    """Agents that share a network, and a mixer of the kind: ``"qmix"`` or ``"vdn"``."""
    torch.manual_seed(seed)
    states, actions = len(game.names), len(game.payoff[0])
    agents = nn.Sequential(nn.Linear(states + AGENTS, UNITS), nn.ReLU(), nn.Linear(UNITS, actions))
    mixer = QMixer((states,), EMBEDDING, AGENTS) if kind == "qmix" else VDNMixer(AGENTS)
    return QMixerLoss(agents, mixer, action_space="categorical").make_value_estimator(gamma=GAMMA)


def learn(
    game: Game, kind: str, seed: int = 0, steps: int = 1_000, compile: bool = False
) -> list[list[list[float]]]:
    """Train, and return what the team's value of every joint action has become, ``[S][A][A]``."""
    loss, batch = make_loss(game, kind, seed), every_step(game)
    optimizer = torch.optim.Adam(loss.parameters(), lr=LEARNING_RATE)
    update = UpdateStep(
        loss,
        optimizer,
        mode="default" if compile else "eager",
        target_updater=SoftUpdate(loss, tau=0.05),
    )
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = float(
            cosine_schedule(torch.tensor(step / steps), LEARNING_RATE, 0.0)
        )
        update(batch)
    value: Tensor = loss(batch)["pred_value"]
    return value.reshape(torch.tensor(game.payoff).shape).tolist()


def show(game: Game, kind: str, values: list[list[list[float]]]) -> None:
    """A row for each action of the first agent, in each state."""
    table = Table(title=f"{kind.upper()}, {game.title}")
    for head in (
        "state",
        "first agent",
        *[f"second: {chr(65 + k)}" for k in range(len(values[0]))],
    ):
        table.add_column(head)
    for name, matrix in zip(game.names, values, strict=True):
        for k, row in enumerate(matrix):
            table.add_row(
                name if k == 0 else "", chr(65 + k), *[f"{round(x, 2) + 0.0:.2f}" for x in row]
            )
    Console().print(table)


def main(steps: int = 1_000, seed: int = 0, compile: bool = False) -> None:
    """Learn both games with both mixers, and print what was learned."""
    torch.set_num_threads(1)  # for networks this small a second thread only waits
    for game in (TWO_STEP, NON_MONOTONIC):
        for kind in ("qmix", "vdn"):
            show(game, kind, learn(game, kind, seed, steps, compile))


if __name__ == "__main__":
    typer.run(main)
