"""The script on TorchRL's environment, collector and buffer learns; its return is a number."""

import copy
import math

import torch

from examples import ddpg_half_cheetah


def test_ddpg_trains(capsys, monkeypatch):
    made = []

    def recorded(loss, tau):
        updater = follow(loss, tau=tau)
        made.append((loss, copy.deepcopy(loss.state_dict())))
        return updater

    follow = ddpg_half_cheetah.SoftUpdate
    monkeypatch.setattr(ddpg_half_cheetah, "SoftUpdate", recorded)
    reached = ddpg_half_cheetah.main(
        600, random_frames=200, updates=2, report_every=400, compile=False
    )
    assert math.isfinite(reached)
    lines = [line for line in capsys.readouterr().out.splitlines() if "return" in line]
    assert [line.split()[0] for line in lines] == ["0", "400", "600"]
    ((loss, before),) = made
    for name, x in loss.state_dict().items():
        network = name.removeprefix("target_").split(".")[0]
        if network in ("actor_network", "value_network") and "weight" in name:
            assert not torch.equal(x, before[name]), name
