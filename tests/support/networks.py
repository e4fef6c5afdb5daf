"""Tiny networks of timm's own classes for tests: those that the contract is checked on."""

from pruneboard.benchmark.contract import NETWORKS, draw_norm, images, tiny_network

GRANULARITIES = NETWORKS

__all__ = ["GRANULARITIES", "draw_norm", "images", "tiny_network"]
