"""Search strategies as Lightning callbacks, one a file."""

from pnfs.search.random import Random
from pnfs.search.strategy import SearchStrategy
from pnfs.search.synchronous import Synchronous

__all__ = ["Random", "SearchStrategy", "Synchronous"]
