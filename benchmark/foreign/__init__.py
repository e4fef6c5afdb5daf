"""Criteria from elsewhere, which run in processes of their own: they get a network and images, and give back scores."""

from pruneboard.benchmark.foreign._criterion import (
    Facts,
    ForeignCriterion,
    named_scores,
    received_context,
)
from pruneboard.benchmark.foreign._description import Description, describe
from pruneboard.benchmark.foreign._exchange import (
    Reply,
    Request,
    read_payload,
    read_reply,
    read_request,
    write_reply,
)
from pruneboard.benchmark.foreign._server import READY, fork_server

__all__ = [
    "READY",
    "Description",
    "Facts",
    "ForeignCriterion",
    "Reply",
    "Request",
    "describe",
    "fork_server",
    "named_scores",
    "read_payload",
    "read_reply",
    "read_request",
    "received_context",
    "write_reply",
]
