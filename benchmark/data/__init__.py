"""Data sets by name: their splits, their decoded images, and the draw of reference images."""

from pruneboard.benchmark.data._classes import check_outputs, check_same_classes
from pruneboard.benchmark.data._draw import draw_classes, draw_reference
from pruneboard.benchmark.data._find import datasets, find_dataset, look_for_dataset, open_dataset
from pruneboard.benchmark.data._records import DatasetInfo
from pruneboard.benchmark.data._sources import open_folder
from pruneboard.benchmark.data._splits import WHOLE, Dataset, Framing, Labels, Split, scaled

__all__ = [
    "WHOLE",
    "Dataset",
    "DatasetInfo",
    "Framing",
    "Labels",
    "Split",
    "check_outputs",
    "check_same_classes",
    "datasets",
    "draw_classes",
    "draw_reference",
    "find_dataset",
    "look_for_dataset",
    "open_dataset",
    "open_folder",
    "scaled",
]
