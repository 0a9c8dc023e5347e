"""Known networks under other names: tables that rename, and the line on a file that none of them knows.

Only names rename, never the order of tensors alone: two networks may have the same shapes in the same order
and still be different ones. A renamed file is taken only if it fits completely, as any other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import replace

from csr.model.backbones.candidates import Candidate, State
from csr.model.backbones.prepare_state import COUNTER

_RESNET = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
_EFFICIENTNET = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_BLOCK = {  # of EfficientNet, with and without the convolution that widens
    True: ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"),
    False: ("", "", "conv_dw", "bn1", "conv_pw", "bn2"),
}
_BLOCK_PARTS = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}


def with_known_names(candidate: Candidate, own: Collection[str]) -> Iterator[Candidate]:
    """Yield a candidate as it is, then under the names of each table that knows its keys.

    Args:
        candidate: a dict of a file.
        own: names of the backbone's tensors, in order.
    """
    yield candidate
    for title, rename in (
        ("the children of a ResNet in nn.Sequential", _resnet_children),
        ("a DenseNet of before torchvision 0.2", _old_densenet),
        ("efficientnet_pytorch", _efficientnet),
    ):
        state = rename(candidate.state, own)
        if state is None or state.keys() == candidate.state.keys() or len(state) != len(candidate.state):
            continue
        old, new = next((a, b) for a, b in zip(candidate.state, state, strict=True) if a != b)
        yield replace(candidate, state=state, renaming=f"names of {title}: {_differing(old, new)}")


def _resnet_children(state: State, own: Collection[str]) -> State | None:
    """RadImageNet and others: conv1, bn1, relu, maxpool, layer1 .. layer4 by their numbers."""
    firsts = {key.partition(".")[0] for key in state}
    if not set(_RESNET) <= firsts or "layer4.0.conv1.weight" not in own:
        return None
    return {_renamed_first(key, _RESNET): value for key, value in state.items()}


def _old_densenet(state: State, own: Collection[str]) -> State | None:
    """CheXNet and others: `denselayer1.norm.1.` for `denselayer1.norm1.`."""
    if not any(_OLD_DENSENET.search(key) for key in state):
        return None
    return {_OLD_DENSENET.sub(r"\1\2.", key): value for key, value in state.items()}


def _efficientnet(state: State, own: Collection[str]) -> State | None:
    """The names of efficientnet_pytorch and of efficientnet_lite_pytorch; timm counts blocks by stage."""
    blocks = [*dict.fromkeys(found[0] for key in own if (found := re.match(r"blocks\.\d+\.\d+", key)))]
    if "_conv_stem.weight" not in state or "conv_stem.weight" not in own:
        return None
    return {_efficientnet_key(key, state, blocks): value for key, value in state.items()}


def _efficientnet_key(key: str, state: State, blocks: list[str]) -> str:
    found = re.fullmatch(r"_blocks\.(\d{1,3})\.(\w+)\.(\w+)", key)
    if found is None:
        return _renamed_first(key, _EFFICIENTNET)
    number, part, kind = int(found[1]), found[2], found[3]
    widens = f"_blocks.{number}._expand_conv.weight" in state
    parts = dict(zip(_BLOCK_PARTS, _BLOCK[widens], strict=True)) | _SQUEEZE
    if number >= len(blocks) or not parts.get(part):
        return key
    return f"{blocks[number]}.{parts[part]}.{kind}"


def _renamed_first(key: str, names: dict[str, str]) -> str:
    first, dot, rest = key.partition(".")
    return names.get(first, first) + dot + rest


def other_names(own: State, state: State) -> str | None:
    """Return a line on a dict that has a network's shapes in the same order under other names, else None.

    Args:
        own: state dict of the network.
        state: tensors of a file, in its order.
    """
    ours, theirs = ([key for key in one if not key.endswith(COUNTER)] for one in (own, state))
    if len(ours) != len(theirs):
        return None
    pairs = [(a, b) for a, b in zip(theirs, ours, strict=True) if a != b]
    if not pairs or any(state[a].shape != own[b].shape for a, b in zip(theirs, ours, strict=True)):
        return None
    return (
        f"all {len(ours)} shapes match in order; the names differ: {_differing(*pairs[0])}; if it is this "
        "network, rename its keys and save it again"
    )


def _differing(theirs: str, ours: str) -> str:
    """Return what differs of two names: `backbone.0.` is `conv1.`."""
    left, right = theirs.split("."), ours.split(".")
    dot = ""
    while len(left) > 1 and len(right) > 1 and left[-1] == right[-1]:
        left.pop(), right.pop()
        dot = "."
    return f"`{'.'.join(left)[:80]}{dot}` is `{'.'.join(right)[:80]}{dot}`"
