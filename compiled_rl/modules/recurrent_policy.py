"""A policy with a memory, as one step of control: what is remembered goes in and comes out."""

from collections.abc import Mapping
from typing import Optional

import torch
from torch import Generator, Tensor, nn

from compiled_rl.modules.arguments import check_module
from compiled_rl.modules.memory import check_memory, first_state, remember, state_names
from compiled_rl.modules.named import Named, NamedModule, as_named, names_read


class RecurrentPolicy(NamedModule):
    """A memory and a policy that reads it, one step at a time.

        features      = encoder(observation)
        read, h_out   = memory(features, 0 if is_init else h_in)
        action        = policy(read)

    .. code-block:: python

        trained = RecurrentPolicy(memory, Policy(head, Normal), encoder)      # the same parameters
        state = trained.initial_state(observation)                            # h_in and is_init
        outputs = trained(observation=observation, **state)                   # action and h_out

    The batch is the first axis of every input. What is remembered is ``h_in`` and ``h_out``, of an
    LSTM also ``c_in`` and ``c_out``, of a ``FrameStack`` ``frames_in`` and ``frames_out``.
    ``is_init`` marks the rows in which an episode begins; left out, none does, and whoever calls
    resets the state.

    Args:
        memory: of ``torch.nn`` a ``GRUCell``, ``RNNCell`` or ``LSTMCell``, with a state ``[B, H]``,
            or a ``GRU``, ``RNN`` or ``LSTM``, with one of ``[B, layers, H]``; a ``GRU`` of ours,
            ``[B, H]``; or a ``FrameStack``, ``[B, size, ...]``.
        policy: what reads the memory first, and then what else ``Reads`` says: a ``Policy``, a
            ``QPolicy``, a ``SampledPolicy``, or any module.
        encoder: what comes before the memory; None: the memory takes the observation. Of other
            inputs, or several, wrap it in ``Reads``.

    Raises:
        TypeError: the memory is none of these.
        ValueError: the memory runs in both directions of time.

    Reference: Hausknecht and Stone 2015, arXiv:1507.06527, sec. 3.
    """

    def __init__(
        self, memory: nn.Module, policy: nn.Module, encoder: Optional[nn.Module] = None
    ) -> None:
        super().__init__()
        check_memory("RecurrentPolicy", memory)
        self.memory = memory
        self.policy = as_named(check_module("RecurrentPolicy", "policy", policy))
        self.encoder: nn.Module = nn.Identity()
        if encoder is not None:
            self.encoder = check_module("RecurrentPolicy", "encoder", encoder)
        self.state_names = state_names(memory)
        names = [*self.reads, *self.state_names, "is_init", *self.policy.input_names[1:]]
        self.input_names = tuple(dict.fromkeys(names))
        self.optional_names = ("is_init", *self.policy.optional_names)

    @property
    def reads(self) -> tuple[str, ...]:
        """The inputs of the encoder."""
        return names_read(self.encoder)

    def computed(self, data: Named) -> Named:
        """The policy's outputs, and what is remembered for the next step."""
        read, state = self._remembered(data)
        outputs = self.policy(**self._read(read, data))
        return {**outputs, **dict(zip(self.state_names.values(), state, strict=True))}

    @torch.no_grad()
    def initial_state(self, *observations: Tensor) -> Named:
        """The state at the start of an episode, by input name, for a batch of observations."""
        features = self.encoder(*observations)
        state = first_state(self.memory, features)
        starts = torch.ones(features.shape[0], dtype=torch.bool, device=features.device)
        return {**dict(zip(self.state_names, state, strict=True)), "is_init": starts}

    @torch.no_grad()
    def draw_noise(
        self, data: Mapping[str, Tensor], generator: Optional[Generator] = None
    ) -> Named:
        """Noise for one step, by input name, where the policy is a ``SampledPolicy``."""
        read, _ = self._remembered(data)
        return self.policy.draw_noise(self._read(read, data), generator)

    def _remembered(self, data: Mapping[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        features = self.encoder(*[data[name] for name in self.reads])
        state = tuple(data[name] for name in self.state_names)
        return remember(self.memory, features, state, data.get("is_init"))

    def _read(self, read: Tensor, data: Mapping[str, Tensor]) -> Named:
        """The policy's inputs."""
        first, *others = self.policy.input_names
        return {first: read, **{name: data[name] for name in others if name in data}}
