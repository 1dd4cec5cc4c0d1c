"""Search strategies as Lightning callbacks, one a file."""

from pnfs.search.first_order import FirstOrder
from pnfs.search.frozen import Frozen
from pnfs.search.gumbel import GumbelSoftmax
from pnfs.search.random import Random
from pnfs.search.second_order import SecondOrder
from pnfs.search.strategy import SearchStrategy
from pnfs.search.synchronous import Synchronous

__all__ = [
    "FirstOrder",
    "Frozen",
    "GumbelSoftmax",
    "Random",
    "SearchStrategy",
    "SecondOrder",
    "Synchronous",
]
