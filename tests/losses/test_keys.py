"""Keys of our own losses: the documented spellings, attributes, and calls by position."""

import copy
import pickle
from dataclasses import dataclass, field, make_dataclass
from typing import Any

import pytest
import torch
import torchrl.objectives

import compiled_rl
from compiled_rl import GAE, losses
from compiled_rl.adapters.fields import is_next
from compiled_rl.adapters.keys import Keys
from tests.losses.networks import make_data, plain_networks
from tests.losses.parity import pair
from tests.losses.peers import make
from tests.losses.test_off_policy import ALL
from tests.losses.test_off_policy import pair as moved_pair

ACTOR_CRITIC = ["A2CLoss", "PPOLoss", "ClipPPOLoss", "KLPENPPOLoss", "ReinforceLoss"]
ABSTRACT = {"LossModule", "DeclaredLoss", "OffPolicyLoss", "QNetworkLoss"}
FIRST = {row.loss: row for row in reversed(ALL.values())}


def made(name: str) -> Any:
    return FIRST[name].ours() if name in FIRST else make(name)


every_loss = pytest.mark.parametrize("name", [n for n in losses.__all__ if n not in ABSTRACT])


@every_loss
def test_each_key_has_the_documented_spelling_too(name: str) -> None:
    loss = made(name)
    for key in list(loss.default_keys):
        loss.set_keys(**{f"{key}_key": loss.tensor_keys[key]})
    assert loss.tensor_keys == made(name).tensor_keys
    some = "priority" if "priority" in loss.default_keys else "advantage"
    loss.set_keys(**{f"{some}_key": "one", some: "one"})
    assert getattr(loss.tensor_keys, some) == "one"
    with pytest.raises(ValueError, match=f"only one of `{some}` and `{some}_key` is taken"):
        loss.set_keys(**{f"{some}_key": "one", some: "two"})
    loss.set_keys(**{f"{some}_key": None})
    assert loss.tensor_keys[some] == loss.default_keys[some]
    with pytest.raises(ValueError, match="`nothing_key` is not an accepted key"):
        loss.set_keys(nothing_key="x")


def both(name: str) -> tuple[Any, Any]:
    return moved_pair(FIRST[name], "TD0", torch.float32) if name in FIRST else pair(name)


@every_loss
@pytest.mark.filterwarnings("ignore:No target network updater")
def test_attributes_are_the_peers(name: str) -> None:
    ours, theirs = both(name)
    names = vars(theirs.tensor_keys)
    assert {n: getattr(ours.tensor_keys, n) for n in names} == names
    ours.set_keys(reward="gain", done=("other", "over"))
    theirs.set_keys(reward="gain", done=("other", "over"))
    assert ours.tensor_keys.reward == theirs.tensor_keys.reward == "gain"
    assert ours.tensor_keys.done == theirs.tensor_keys.done == ("other", "over")
    assert ours.tensor_keys["done"] == ("next", "other", "over")


def test_estimators_keep_errors_of_their_own() -> None:
    gae = GAE(gamma=0.9, lmbda=0.9)
    assert gae.tensor_keys.reward == "reward"
    with pytest.raises(KeyError, match="`reward_key` is not an accepted key"):
        gae.set_keys(reward_key="x")


def test_keys_are_a_dictionary_with_attributes() -> None:
    keys = Keys({"reward": ("next", "r"), "value": "v", "several": [("next", "a")]}, ["reward"])
    for each in (keys, copy.deepcopy(keys), pickle.loads(pickle.dumps(keys)), keys | {"more": "m"}):
        assert (each.reward, each["reward"], each.value) == ("r", ("next", "r"), "v")
        assert each.several == [("next", "a")]
    with pytest.raises(AttributeError, match=r"`tensor_keys` has no `other`; it has .*'reward'"):
        _ = keys.other
    for assign in (keys.__setattr__, keys.__setitem__):
        with pytest.raises(AttributeError, match="`reward` must be set by `set_keys`, got 'x'"):
            assign("reward", "x")


def test_a_key_may_have_any_name() -> None:
    names = {"copy": "c", "items": ("next", "i"), "get": "g", "keys": "k", "_hidden": "h"}
    keys = Keys(names, ["items"])
    for each in (keys, copy.deepcopy(keys), pickle.loads(pickle.dumps(keys)), keys | {"pop": "p"}):
        assert (each.copy, each.items, each.get, each.keys) == ("c", "i", "g", "k")
        assert (each._hidden, each["items"]) == ("h", ("next", "i"))
    declared = make_dataclass("Keys", [(name, str, key) for name, key in names.items()])
    loss = type("Mine", (losses.A2CLoss,), {"_AcceptedKeys": declared})(*plain_networks("normal"))
    assert (loss.tensor_keys.get, loss.tensor_keys["_hidden"]) == ("g", "h")


@pytest.mark.parametrize("library", [compiled_rl, torchrl.objectives], ids=["ours", "theirs"])
def test_written_keys_may_have_any_name(library: Any) -> None:
    class Mine(library.LossModule):
        @dataclass
        class _AcceptedKeys:
            copy: str = "c"
            items: str = "i"
            _hidden: str = "h"
            several: list = field(default_factory=lambda: ["a", "b"])

        default_keys = _AcceptedKeys

    loss = Mine()
    loss.set_keys(_hidden="x", items="y")
    found = {name: getattr(loss.tensor_keys, name) for name in ("copy", "items", "_hidden")}
    assert found == {"copy": "c", "items": "y", "_hidden": "x"}
    assert vars(loss.tensor_keys) == {**found, "several": ["a", "b"]}
    assert loss.default_keys().copy == "c"


def test_defaults_are_called_as_torchrls_are() -> None:
    loss, theirs = pair("A2CLoss")
    loss.set_keys(reward="gain")
    assert vars(loss.default_keys()) == vars(theirs.default_keys()) | {
        "sample_log_prob": loss.tensor_keys.sample_log_prob
    }


# ---- by position ---------------------------------------------------------------------------------


def by_position(loss: Any, data: Any) -> list[Any]:
    return [data.get(key, None) for key in loss.in_keys]


@pytest.mark.parametrize("name", ["A2CLoss", "ClipPPOLoss"])
def test_tensors_may_come_in_the_order_of_the_in_keys(name: str) -> None:
    actor, critic = plain_networks("normal")
    loss, data = getattr(losses, name)(actor, critic), make_data(actor, (4,))
    tensors = by_position(loss, data)
    expected = loss(data)
    for x, output in zip(loss(*tensors), loss.out_keys, strict=True):
        torch.testing.assert_close(x, expected[output])
    split = {"advantage": tensors[3], "value_target": tensors[4]}
    assert not is_next(loss.in_keys[4])
    torch.testing.assert_close(loss(*tensors[:3], **split), loss(*tensors))


def test_what_is_no_position_is_refused() -> None:
    loss = losses.A2CLoss(*plain_networks("normal"))
    one = torch.ones(())
    with pytest.raises(TypeError, match="`observation` must be given once"):
        loss(one, observation=one)
    with pytest.raises(TypeError, match=r"expected at most \d+ tensors, got 40"):
        loss(*[one] * 40)
    with pytest.raises(TypeError, match="`action` must be a tensor, got a str"):
        loss(one, "action")


@pytest.mark.parametrize("key", ["", ("next", ""), ()])
def test_a_key_is_not_empty(key):
    loss = make("A2CLoss")
    before = dict(loss.tensor_keys)
    with pytest.raises(TypeError, match="`advantage` must be a string or a tuple of strings"):
        loss.set_keys(advantage=key)
    assert loss.tensor_keys == before
