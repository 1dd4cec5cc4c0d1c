"""Search strategies as Lightning callbacks."""

from pnfs.search.bilevel import FirstOrder, SecondOrder
from pnfs.search.strategy import Frozen, GumbelSoftmax, Random, SearchStrategy, Synchronous

__all__ = ["FirstOrder", "Frozen", "GumbelSoftmax", "Random"]
__all__ += ["SearchStrategy", "SecondOrder", "Synchronous"]
