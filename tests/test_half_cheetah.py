"""The script on TorchRL's environment, collector and buffer runs, and its return is a number."""

import math

from examples import ddpg_half_cheetah


def test_ddpg_trains(capsys):
    reached = ddpg_half_cheetah.main(600, random_frames=200, updates=2, report_every=400)
    assert math.isfinite(reached)
    lines = [line for line in capsys.readouterr().out.splitlines() if "return" in line]
    assert [line.split()[0] for line in lines] == ["0", "400", "600"]
