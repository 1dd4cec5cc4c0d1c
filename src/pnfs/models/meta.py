"""Networks without numbers, for everything that asks only for shapes."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def meta_copy(module: ModuleT) -> ModuleT:
    """A copy on the meta device in evaluation mode, all of whose parameters take gradients.

    The numbers themselves are never copied.
    """
    memo: dict[int, Tensor] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"))
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, memo).eval()
