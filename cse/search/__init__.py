"""Find the method for a text: several recipes under one budget, each tuned, and compared with seeds and intervals."""

from cse.search.engine import Search, resume, search

__all__ = ["Search", "resume", "search"]
