"""Search strategies as Lightning callbacks."""

from pnfs.search.bilevel import FirstOrder, SecondOrder
from pnfs.search.gumbel import GumbelSoftmax
from pnfs.search.strategy import Frozen, Random, SearchStrategy, Synchronous

__all__ = [
    "FirstOrder",
    "Frozen",
    "GumbelSoftmax",
    "Random",
    "SearchStrategy",
    "SecondOrder",
    "Synchronous",
]
