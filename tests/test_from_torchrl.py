"""Every row of docs/from_torchrl.md against both libraries."""

import copy
import dataclasses
import enum
import inspect
import re
import typing
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torchrl.objectives
import torchrl.objectives.multiagent
import torchrl.objectives.value
import torchrl.objectives.value.functional
from torchrl.trainers import TargetNetUpdaterHook, Trainer

import compiled_rl
from tests.losses.parity import steps
from tests.losses.peers import networks, unestimated
from tests.losses.test_documents_off_policy import make_ddpg, make_dqn, make_sac, make_td3
from tests.losses.test_keys import made
from tests.losses.test_off_policy import ALL, align, assert_parity
from tests.losses.transitions import SUBJECTS, Subject
from tests.losses.tutorial import PEER
from tests.pages import blocks

PAGE = (Path(__file__).parent.parent / "docs" / "from_torchrl.md").read_text()
# What the documents on A2C, KLPENPPO, QMixer and LossModule, and the tutorial, name.
DOCUMENTED = {
    "A2CLoss": "actor_network critic_network entropy_bonus samples_mc_entropy entropy_coef "
    "critic_coef loss_critic_type separate_losses advantage_key value_target_key functional "
    "reduction clip_value",
    "KLPENPPOLoss": "actor_network critic_network dtarg samples_mc_kl beta decrement increment "
    "entropy_bonus samples_mc_entropy entropy_coef critic_coef loss_critic_type "
    "normalize_advantage separate_losses advantage_key value_target_key value_key functional "
    "reduction clip_value",
    "QMixerLoss": "local_value_network mixer_network loss_function delay_value action_space "
    "priority_key",
}
METHODS = {
    "convert_to_functional": "module module_name expand_dim create_target_params compare_against",
    "forward": "tensordict",
    "from_stateful_net": "network_name stateful_net",
    "get_stateful_net": "network_name copy",
    "make_value_estimator": "value_type",
    "named_parameters": "prefix recurse remove_duplicate",
    "parameters": "recurse",
}


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def same_in(title: str) -> list[list[str]]:
    return [row for row in rows(title) if row[2].startswith("same")]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def resolve(path: str) -> Any:
    """What a dotted path names: its first part is a package."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(path)


def parameters(cls: type) -> list[str]:
    """Of a constructor, with those behind ``**``: of a ``TypedDict``, or of the class before it."""
    found: list[str] = []
    for parent in cls.__mro__:
        if "__init__" not in vars(parent) or parent.__module__.startswith("torch.nn"):
            continue
        own = inspect.signature(vars(parent)["__init__"]).parameters
        behind = [name for name, x in own.items() if x.kind is x.VAR_KEYWORD]
        found += [name for name in own if name not in ("self", "args", *behind)]
        init, ours = vars(parent)["__init__"], parent.__module__.startswith("compiled_rl")
        hints = typing.get_type_hints(init, include_extras=True) if behind and ours else {}
        options = [hints[name] for name in behind if typing.get_origin(hints.get(name))]
        found += [name for x in options for name in x.__args__[0].__optional_keys__]
        if options or not behind:
            break
    return found


@pytest.mark.parametrize("row", rows("Names"), ids=lambda row: row[0].strip("`"))
def test_both_names_are_there(row: list[str]) -> None:
    for cell in row[:2]:
        (name,) = quoted(cell)
        assert resolve(name) is not None
    assert row[2]


def both(name: str) -> tuple[Any, Any]:
    """A loss of ours and TorchRL's, all outputs on; or what is found on the class."""
    if name in ("LossModule", "A2CLoss"):
        pair = networks()
        return compiled_rl.A2CLoss(*pair), torchrl.objectives.A2CLoss(*pair)
    return getattr(compiled_rl, name), getattr(torchrl.objectives, name)


def taken(x: Any) -> list[str]:
    """What is taken by name."""
    if isinstance(x, type):
        return parameters(x)
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [name for name, p in inspect.signature(x).parameters.items() if p.kind not in variable]


def assert_the_same(theirs: Any, ours: Any) -> None:
    """Members of the same names; or arguments, those that only we take left out."""
    if isinstance(theirs, enum.Enum):
        assert theirs.name == ours.name
    elif isinstance(theirs, enum.EnumMeta):
        assert list(theirs.__members__) == list(ours.__members__)
    elif isinstance(theirs, tuple):
        assert {x.name for x in theirs} == {x.name for x in ours}
    else:
        here, there = taken(ours), taken(theirs)
        assert [name for name in here if name in there] == there


@pytest.mark.parametrize("row", same_in("Names"), ids=lambda row: row[0].strip("`"))
def test_what_is_the_same_takes_the_same(row: list[str]) -> None:
    theirs, ours = (resolve(quoted(cell)[0]) for cell in row[:2])
    listed = {name for row in rows("Arguments") for name in quoted(row[0])}
    if theirs.__name__ not in listed:  # else see the test of that table
        assert_the_same(theirs, ours)


@pytest.mark.parametrize(
    "row", same_in("Methods and attributes"), ids=lambda row: row[0].strip("`")
)
def test_methods_that_are_the_same_take_the_same(row: list[str]) -> None:
    owner, attribute = quoted(row[0])[0].split(".")
    ours, theirs = (getattr(x, attribute) for x in both(owner))
    assert_the_same(theirs, ours)


def test_what_torchrl_has_renamed() -> None:
    for old, new in rows("Names of the documents that TorchRL has changed"):
        with pytest.raises(AttributeError):
            resolve(quoted(old)[0])
        assert resolve(quoted(new)[0])


def test_every_public_name_of_torchrls_is_on_the_page() -> None:
    homes = (
        torchrl.objectives,
        torchrl.objectives.value,
        torchrl.objectives.value.functional,
    )
    public = {f"{home.__name__}.{name}" for home in homes for name in home.__all__}
    here = {quoted(row[0])[0] for row in rows("Names")}
    absent = {f"torchrl.objectives.{name}" for name in quoted(section("Not here"))}
    assert here & public | absent == public
    assert not here & absent
    assert not [name for name in absent if hasattr(compiled_rl, name.rsplit(".", 1)[1])]


@pytest.mark.parametrize("row", rows("Arguments"), ids=lambda row: row[0].replace("`", ""))
def test_every_argument_is_on_the_page(row: list[str]) -> None:
    same, theirs, ours = (set(quoted(cell)) for cell in row[1:])
    for name in quoted(row[0]):
        home = (
            torchrl.objectives if name in torchrl.objectives.__all__ else torchrl.objectives.value
        )
        assert set(parameters(getattr(home, name))) == same | theirs
        assert set(parameters(getattr(compiled_rl, name))) == same | ours
        documented = set(DOCUMENTED.get(name, "").split())
        assert documented <= same | ours


def test_every_documented_class_has_its_arguments_on_the_page() -> None:
    named = {name for row in rows("Arguments") for name in quoted(row[0])}
    assert set(DOCUMENTED) <= named
    losses = {quoted(row[0])[0].rsplit(".", 1)[1] for row in rows("Names")}
    assert {name for name in losses if name.endswith("Loss")} <= named


@pytest.mark.parametrize("row", rows("Methods and attributes"), ids=lambda row: row[0].strip("`"))
@pytest.mark.filterwarnings("ignore::UserWarning:torchrl")
def test_every_method_is_there(row: list[str]) -> None:
    assert row[0] == row[1]
    owner, attribute = quoted(row[0])[0].split(".")
    ours, theirs = both(owner)
    assert hasattr(ours, attribute)
    assert hasattr(theirs, attribute) != row[2].startswith("documents only")


LOSSES = ["LossModule", *[name for row in rows("Arguments") for name in quoted(row[0])]]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_public_name_of_a_loss_is_here_or_on_the_page() -> None:
    absent = {name for row in rows("Attributes that are not here") for name in quoted(row[0])}
    missing: set[str] = set()
    for name in [name for name in LOSSES if name.endswith(("Loss", "Module"))]:
        ours = compiled_rl.LossModule() if name == "LossModule" else made(name)
        public = [x for x in dir(getattr(torchrl.objectives, name)) if not x.startswith("_")]
        missing |= set(public) - set(dir(ours))
    assert missing == {x for x in absent if x.isidentifier() and not x.startswith("_")}


@pytest.mark.parametrize("name", [x for x in LOSSES if x.endswith("Loss")])
def test_the_estimators_of_a_loss_are_those_that_it_takes(name: str) -> None:
    cls = getattr(compiled_rl, name)
    theirs = getattr(torchrl.objectives, name).SUPPORTED_VALUE_ESTIMATORS
    names = {x.name for x in cls.SUPPORTED_VALUE_ESTIMATORS}
    assert names == {x.name for x in theirs}
    assert vars(cls.default_keys()).keys() == cls.default_keys.keys()
    for member in compiled_rl.ValueEstimators:
        if member.name in names:
            assert made(name).make_value_estimator(member).value_type is member
        else:
            with pytest.raises(NotImplementedError):
                made(name).make_value_estimator(member)


@pytest.mark.parametrize("name", METHODS)
def test_documented_methods_take_what_is_documented(name: str) -> None:
    assert f"`LossModule.{name}`" in section("Methods and attributes")
    signature = inspect.signature(getattr(compiled_rl.LossModule, name))
    assert set(METHODS[name].split()) <= set(signature.parameters)


def short(key: Any) -> str:
    """As the page writes a key; what is read under ``next`` is in the table without it."""
    parts = (key,) if isinstance(key, str) else tuple(key)
    return ".".join(parts[1:] if parts[0] == "next" and len(parts) == 2 else parts)


@pytest.mark.parametrize("row", rows("Keys"), ids=lambda row: row[0].split("`")[1])
def test_every_key_is_on_the_page(row: list[str]) -> None:
    same, here = (dict(re.findall(r"`([^`]+)`: `([^`]+)`", cell)) for cell in row[1:])
    for name in quoted(row[0]):
        declared = dataclasses.fields(getattr(torchrl.objectives, name)._AcceptedKeys)
        theirs = {x.name: x.default for x in declared}
        assert set(theirs) == set(same)
        for key, default in theirs.items():
            if isinstance(default, str | tuple):  # not one that waits for the actor's
                assert short(default) == same[key]
        cls = getattr(compiled_rl, name)
        ours = {x.name: short(x.key) for x in cls.fields if x.kind in cls.settable}
        assert ours == same | here


def fully_on(library: Any, name: str) -> Any:
    """A loss of an actor and a critic with every output."""
    clipped = {} if name == "ReinforceLoss" else {"clip_value": 0.2}
    return getattr(library, name)(*networks(), **clipped)


ON_POLICY = ("A2CLoss", "ReinforceLoss", "PPOLoss", "ClipPPOLoss", "KLPENPPOLoss", "MAPPOLoss")


@pytest.mark.parametrize("row", rows("Outputs"), ids=lambda row: row[0].strip("`"))
def test_every_output_is_on_the_page(row: list[str]) -> None:
    name, outputs, metrics = (quoted(cell) for cell in row)
    fields = getattr(compiled_rl, name[0]).fields
    assert [x.name for x in fields if x.kind == "output"] == outputs
    assert [x.name for x in fields if x.kind == "metric"] == metrics


@pytest.mark.parametrize("name", ON_POLICY)
def test_outputs_have_torchrls_order(name: str) -> None:
    ours, theirs = fully_on(compiled_rl, name), fully_on(torchrl.objectives, name)
    assert list(ours.out_keys) == list(theirs.out_keys)


@pytest.mark.parametrize("make", [make_ddpg, make_td3, make_sac, make_dqn])
def test_outputs_of_off_policy_losses_have_torchrls_order(make: Any, monkeypatch: Any) -> None:
    ours = make()
    monkeypatch.setattr(f"{make.__module__}.losses", torchrl.objectives)
    assert list(ours.out_keys) == list(make().out_keys)


def test_links_lead_somewhere() -> None:
    folder = Path(__file__).parent.parent / "docs"
    for page, anchor in re.findall(r"\]\(([\w.]+)#?([\w-]*)\)", PAGE):
        titles = re.findall(r"^#+ (.*)$", (folder / page).read_text(), re.MULTILINE)
        slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
        assert not anchor or anchor in slugs


def code(title: str) -> list[str]:
    return blocks(section(title))


def test_a_script_runs_with_its_imports_changed() -> None:
    """To the same losses, with the same parameters after a few updates."""
    theirs, ours, rest = code("What to change")
    results = []
    for imports in (theirs, ours):
        names: dict[str, Any] = {}
        exec(imports + rest, names)
        results.append([names["loss"], *names["actor"].parameters(), *names["critic"].parameters()])
    assert names["loss_module"].__module__.startswith("compiled_rl.")
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def test_the_tutorials_imports_are_on_the_page() -> None:
    here = {quoted(row[0])[0].rsplit(".", 1)[1] for row in rows("Names")}
    assert set(vars(PEER)) | {"hold_out_params", "SoftUpdate"} <= here


def assert_converted(ours: Any, theirs: Any) -> None:
    """By the page's lines, into a loss of other weights."""
    names: dict[str, Any] = {}
    exec(*code("Checkpoints"), names)
    with torch.no_grad():
        for x in ours.parameters():
            x.add_(1.0)
    ours.load_state_dict(names["converted_state_dict"](theirs.state_dict(), ours))


@pytest.mark.parametrize("subject", ALL.values(), ids=ALL)
@pytest.mark.filterwarnings("ignore")
def test_checkpoints_are_converted(subject: Subject) -> None:
    """Before TorchRL's first call, and behind it, with another discount."""
    theirs, data = subject.theirs(), subject.data(6)
    align(subject.ours(), theirs)
    for gamma in (None, 0.5):
        if gamma is not None:
            theirs.make_value_estimator(torchrl.objectives.ValueEstimators.TD0, gamma=gamma)
        ours = subject.ours()
        assert_converted(ours, theirs)
        assert_parity(ours, theirs, subject, data)


@pytest.mark.parametrize("name", ["A2CLoss", "ReinforceLoss", "ClipPPOLoss", "KLPENPPOLoss"])
@pytest.mark.filterwarnings("ignore")
def test_checkpoints_of_an_actor_and_a_critic_are_converted(name: str) -> None:
    theirs = getattr(torchrl.objectives, name)(*networks())
    data = unestimated(steps())
    for _ in range(2):
        ours = getattr(compiled_rl, name)(*networks())
        assert_converted(ours, theirs)
        mine, expected = (loss(data.clone()) for loss in (ours, theirs))
        for key in ours.minimised:
            torch.testing.assert_close(mine[key], expected[key])


class Nothing:
    """As much of a collector as a trainer that is made asks for."""

    def set_seed(self, *_: Any, **__: Any) -> int:
        return 0


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_updater_is_a_hook_of_torchrls_trainer() -> None:
    """By the page's line, after every update."""
    loss = SUBJECTS["ddpg"].ours()
    updater = compiled_rl.SoftUpdate(loss, tau=0.5)
    with pytest.raises(ValueError, match="Expected a target network updater"):
        TargetNetUpdaterHook(updater)
    with pytest.raises(ValueError, match="must be a LossModule"):
        torchrl.objectives.SoftUpdate(loss, tau=0.5)
    trainer = Trainer(
        collector=Nothing(),
        total_frames=1,
        frame_skip=1,
        optim_steps_per_batch=2,
        loss_module=loss,
        optimizer=torch.optim.SGD(loss.parameters(), 0.1),
        progress_bar=False,
        seed=0,
    )
    exec(*code("TorchRL's Trainer"), {"trainer": trainer, "updater": updater})
    twin = copy.deepcopy(loss)
    data = SUBJECTS["ddpg"].data(6)
    trainer.optim_steps(data)
    by_hand(twin, data)
    torch.testing.assert_close(loss.state_dict(), twin.state_dict())


def by_hand(loss: Any, data: Any) -> None:
    """The same two updates."""
    updater = compiled_rl.SoftUpdate(loss, tau=0.5)
    optimizer = torch.optim.SGD(loss.parameters(), 0.1)
    for _ in range(2):
        outputs = loss(data)
        (outputs["loss_actor"] + outputs["loss_value"]).backward()
        optimizer.step()
        optimizer.zero_grad()
        updater.step()
