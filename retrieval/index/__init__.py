"""The nearest-neighbour index over candidate vectors."""

from retrieval.index.index import Index

__all__ = ["Index"]
