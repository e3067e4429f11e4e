"""The public API is the one that ``api.txt`` lists."""

from difflib import unified_diff

from tests.package.api import FILE, lines


def test_api_txt_lists_what_is_there():
    listed, found = FILE.read_text().splitlines(), lines()
    differences = "\n".join(unified_diff(listed, found, "api.txt", "the sources", n=0, lineterm=""))
    assert listed == found, (
        "the public API is not the one that api.txt lists; if it was meant to change, run "
        f"`make api` and say so in CHANGELOG.md:\n{differences}"
    )


def test_a_line_says_all_that_a_caller_must_know():
    found = lines()
    (gae,) = [x for x in found if x.startswith("compiled_rl.functional.gae(")]
    assert "gamma: float=0.99" in gae
    assert gae.endswith("-> AdvantageOutput")
    assert "compiled_rl.GAE = compiled_rl.estimators.GAE" in found
    assert "compiled_rl.losses.ClipPPOLoss['advantage']: input 'advantage' [*B] or [*B, 1]" in found
    assert any(x.startswith("compiled_rl.training.UpdateStep.__call__(self, batch") for x in found)
    assert any(x.startswith("compiled_rl.losses.A2CLoss(...entropy_coeff=") for x in found)
    assert "compiled_rl.functional.AdvantageOutput.advantage: Tensor" in found
