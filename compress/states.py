"""What goes on inside a student and its teacher: layers in pairs, their hidden states, their attention relations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..runtime.errors import UsageError

# The last part of the names of the linear layers that make queries, keys and values.
_QUERIES, _KEYS, _VALUES = {"query", "q_proj", "q_lin"}, {"key", "k_proj", "k_lin"}, {"value", "v_proj", "v_lin"}


@dataclass
class Watch:
    """Keeps the outputs of some parts of a module while it is entered."""

    parts: Sequence[nn.Module]
    seen: dict[nn.Module, Tensor] = field(default_factory=dict)
    _hooks: list[torch.utils.hooks.RemovableHandle] = field(default_factory=list)

    def __enter__(self) -> "Watch":
        def keep(part: nn.Module, inputs: object, output: Tensor | Sequence[Tensor]) -> None:
            self.seen[part] = output if isinstance(output, Tensor) else output[0]

        self._hooks = [part.register_forward_hook(keep) for part in self.parts]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self.seen.clear()

    def __getitem__(self, part: nn.Module) -> Tensor:
        return self.seen[part]


def layers(module: nn.Module) -> list[nn.Module]:
    """The layers of a stack: the longest ModuleList, or Sequential of parts with weights, that the module holds.

    Raises UsageError where it has none.
    """
    stacks = [list(part) for part in module.modules() if isinstance(part, nn.ModuleList)]
    if not stacks:
        sequences = [list(part) for part in module.modules() if isinstance(part, nn.Sequential)]
        stacks = [[layer for layer in stack if any(True for _ in layer.parameters())] for stack in sequences]
    if not stacks or not max(map(len, stacks)):
        raise UsageError(
            "the module has no list of layers whose states could be compared; leave hidden and attention 0"
        )
    return max(stacks, key=len)


def pairs(student: nn.Module, teacher: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Each layer of the student with the teacher's that ends at the same depth: layer i of n with (i+1)·N/n − 1 of N.

    >>> len(pairs(three_layers, six_layers))
    3
    """
    mine, theirs = layers(student), layers(teacher)
    return [(layer, theirs[-(-(i + 1) * len(theirs) // len(mine)) - 1]) for i, layer in enumerate(mine)]


def products(layer: nn.Module) -> list[nn.Module]:
    """The three parts of a layer that make queries, keys and values. Raises UsageError where they are not apart."""
    named = {name.rpartition(".")[2]: part for name, part in layer.named_modules()}
    found = [next((named[name] for name in sorted(names & named.keys())), None) for names in (_QUERIES, _KEYS, _VALUES)]
    if not all(found):
        raise UsageError("the last layer has no query, key and value of its own to compare; set attention to 0")
    return [part for part in found if part is not None]


def width(state: Tensor) -> int:
    """The length of a state's vectors: its channels where it is an image [n, c, h, w], else its last axis."""
    return state.shape[1 if state.ndim == 4 else -1]


def hidden_loss(student: Tensor, teacher: Tensor, project: nn.Module, mask: Tensor | None) -> Tensor:
    """‖P H^s − H^t‖² / ‖H^t‖² over the positions that hold a token.

    student, teacher: [batch, ..., width] or [batch, channels, height, width]; mask: [batch, sequence], 1 for a token.
    """
    if student.ndim == 4:
        student, teacher = student.movedim(1, -1), teacher.movedim(1, -1)
    difference, held = project(student) - teacher, teacher
    if mask is not None and mask.shape == held.shape[:2]:
        tokens = mask.bool()
        difference, held = difference[tokens], held[tokens]
    return difference.square().sum() / held.square().sum().clamp_min(1e-12)


def relation_loss(student: Tensor, teacher: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """KL(softmax(M^t M^tᵀ/√d) ‖ softmax(M^s M^sᵀ/√d)), the mean over tokens and relation heads.

    student, teacher: [batch, sequence, width], of queries, keys or values; the widths may differ.
    """
    wanted, found = _relations(teacher, heads, mask), _relations(student, heads, mask)
    divergence = (wanted.exp() * (wanted - found)).sum(-1)  # [batch, heads, sequence]
    if mask is None:
        return divergence.mean()
    rows = mask[:, None, :].to(divergence.dtype).expand_as(divergence)
    return (divergence * rows).sum() / rows.sum().clamp_min(1)


def _relations(state: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """log softmax of each token's products with the others: [batch, heads, sequence, sequence]."""
    if state.shape[-1] % heads:
        raise UsageError(
            f"relation_heads = {heads} does not divide a width of {state.shape[-1]}; take a divisor of both"
        )
    split = state.unflatten(-1, (heads, -1)).transpose(1, 2)
    scores = split @ split.transpose(-1, -2) / split.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :].bool(), -1e4)  # finite: 0·log 0 is no NaN then
    return F.log_softmax(scores, -1)


def token_mask(batch: Mapping[str, Tensor]) -> Tensor | None:
    """The attention mask of a batch of texts, where it is one: [batch, sequence]."""
    mask = batch.get("attention_mask")
    return mask if mask is not None and mask.ndim == 2 else None
