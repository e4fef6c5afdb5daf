"""Find, fetch and check the files that pruneboard needs: weights, and the folders that hold data sets."""

from pruneboard.benchmark.assets._files import check_sha256, download, file_sha256
from pruneboard.benchmark.assets._hub import address_on_hub
from pruneboard.benchmark.assets._places import cache_folder, data_folders, is_file, is_folder, weights_folders
from pruneboard.benchmark.assets._weights import (
    Weights,
    find_weights,
    load_weights,
    look_for_weights,
    made_weights_digest,
    read_made_weights,
    read_weights,
    recorded_facts,
    tensors_digest,
    weights_digest,
)

__all__ = [
    "Weights",
    "address_on_hub",
    "cache_folder",
    "check_sha256",
    "data_folders",
    "download",
    "file_sha256",
    "find_weights",
    "is_file",
    "is_folder",
    "load_weights",
    "look_for_weights",
    "made_weights_digest",
    "read_made_weights",
    "read_weights",
    "recorded_facts",
    "tensors_digest",
    "weights_digest",
    "weights_folders",
]
