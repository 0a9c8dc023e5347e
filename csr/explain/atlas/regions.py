"""Regions of an image in which a prototype finds itself.

The region around its map's peak, and where the vector came from.

A region is what is connected to the peak, by edges of cells, and reaches three quarters of the way from the
map's lowest to its highest value. A local concept vector is a mean of all cells, weighted by the softmax of
the concept's activation map (Eq. 2): `cam_share` is the share of that weight inside the region. Where it is
small the vector came from elsewhere than where the map is high.

Letters: B batch, K concepts, M prototypes, D embedding, H W map, L = H x W cells, R requests or boxes,
P = K x M.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from csr.data.batch import Batch
from csr.data.images.square import Frame, box_on_image
from csr.explain.atlas.scan import NONE, Scan
from csr.model import CSR

Box = tuple[float, float, float, float]
Point = tuple[float, float]
Place = tuple[int, int, int]  # concept, prototype, position of the image


# half-way, as the overlap with boxes is measured, a region on a coarse map spills over half of the image
REACH = 0.75
STRIP = 0.02
_ROUNDING = 1e-6  # of boxes, which are fp32


@dataclass(frozen=True, eq=False)
class Sight:
    """The view of a prototype on an image: its map and what it is highest at.

    Attributes:
        cell: the highest one, fractions of the square that the network sees, as all places here.
        score: the value there.
        box: around the region, fractions.
        map_HW: the similarity map, float16.
        cam_peak: where the concept's activation map is highest.
        cam_share: weight of the region's cells in the local concept vector, 0 to 1.
    """

    cell: Box
    score: float
    box: Box
    map_HW: np.ndarray
    cam_peak: Point
    cam_share: float

    @property
    def peak(self) -> Point:
        """x, y of the highest cell's centre."""
        return centre(self.cell)


def region_around_peak(map_HW: np.ndarray) -> np.ndarray:
    """Return the cells connected to the highest one that are nearly as high, (H,W) bool.

    The first of equals.
    """
    low, high = float(map_HW.min()), float(map_HW.max())
    high_HW = map_HW >= low + REACH * (high - low)
    label_HW, _ = ndimage.label(high_HW)
    return label_HW == label_HW.flat[map_HW.argmax()]


def box_around(region_HW: np.ndarray) -> Box:
    """Return the smallest box that holds all cells of a region, fractions of the image."""
    height, width = region_HW.shape
    rows, columns = np.flatnonzero(region_HW.any(axis=1)), np.flatnonzero(region_HW.any(axis=0))
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float((columns[-1] + 1) / width),
        float((rows[-1] + 1) / height),
    )


def cell_of(map_HW: np.ndarray) -> Box:
    """Return the highest cell (the first of equals), fractions of the image."""
    height, width = map_HW.shape
    row, column = divmod(int(map_HW.argmax()), width)
    return column / width, row / height, (column + 1) / width, (row + 1) / height


def centre(box: Box) -> Point:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def peak_of(map_HW: np.ndarray) -> Point:
    """Return centre (x, y) of the highest cell, fractions of the image."""
    return centre(cell_of(map_HW))


def is_in(cell: Box, box_R4: np.ndarray) -> np.ndarray:
    """Return whether a cell counts as inside of boxes.

    Along either axis it shares half of itself or of the box,
    whichever is shorter. bool (R,)

    Why not the cell's centre, as the pointing game has it: a box that is smaller than a cell may hold no
    centre, and every map would look outside of it. Here every box has a cell that counts, while for boxes
    that are not smaller than a cell both rules are the same. Any touch of the two would be too little: it
    makes large boxes a cell larger on all sides, and hides prototypes that look just beside them.
    """
    inside_R = np.ones(len(box_R4), dtype=bool)
    for low, high in ((0, 2), (1, 3)):
        shared_R = np.minimum(cell[high], box_R4[:, high]) - np.maximum(cell[low], box_R4[:, low])
        shorter_R = np.minimum(cell[high] - cell[low], box_R4[:, high] - box_R4[:, low])
        inside_R &= shared_R >= shorter_R / 2 - _ROUNDING
    return inside_R


def region_on_image(box: Box, frame: Frame) -> tuple[Box, bool]:
    """Return a region of the square as fractions of the image, and whether it lies in added black.

    It is cut at the image's edge. A region wholly in the black of a letterbox becomes the strip of the image
    beside it, `STRIP` wide, so that it has a picture.

    Args:
        box: fractions of the square.
        frame: the square as fractions of the image.
    """
    whole = box_on_image(box, frame)
    ends = [(max(0.0, whole[at]), min(1.0, whole[at + 2])) for at in (0, 1)]
    in_black = any(low >= high for low, high in ends)
    shown = [
        (low, high) if low < high else ((1 - STRIP, 1.0) if low >= 1 else (0.0, STRIP)) for low, high in ends
    ]
    return (shown[0][0], shown[1][0], shown[0][1], shown[1][1]), in_black


def sight_of(map_HW: np.ndarray, attention_HW: np.ndarray) -> Sight:
    """Put together what is known of one map.

    Args:
        map_HW: similarity map.
        attention_HW: softmax of the concept's activation map, sums to 1.
    """
    region_HW = region_around_peak(map_HW)
    return Sight(
        cell=cell_of(map_HW),
        score=float(map_HW.max()),
        box=box_around(region_HW),
        map_HW=map_HW.astype(np.float16),
        cam_peak=peak_of(attention_HW),
        cam_share=float(attention_HW[region_HW].sum()),
    )


def places_of(scan: Scan) -> dict[int, list[tuple[int, int, bool]]]:
    """Return which maps are needed of which images.

    Position -> (concept, prototype, whether it is a nearest vector).
    """
    wanted: dict[int, dict[tuple[int, int], bool]] = defaultdict(dict)
    for best, is_nearest in ((scan.scores, False), (scan.vectors, True)):
        image_KML = best.image_KML.numpy()
        for k, m, place in np.argwhere(image_KML != NONE).tolist():
            wanted[int(image_KML[k, m, place])][k, m] = is_nearest
    return {
        position: [(k, m, nearest) for (k, m), nearest in sorted(wanted[position].items())]
        for position in sorted(wanted)
    }


@torch.no_grad()
def collect_regions(
    model: CSR, batches: Iterable[Batch], wanted: Mapping[int, list[tuple[int, int, bool]]]
) -> tuple[dict[Place, Sight], dict[Place, Box]]:
    """Return maps of the wanted pairs only, image by image.

    Args:
        model: in eval mode, on the device of the batches.
        batches: transformed images with `position`: those of `wanted`, in any order.
        wanted: of `places_of`.

    Returns:
        Sights of nearest vectors, and the highest cells of all wanted maps.
    """
    sights: dict[Place, Sight] = {}
    cells: dict[Place, Box] = {}
    proto_PD = model.prototypes.unit().flatten(0, 1)
    num_per_concept = model.num_prototypes_per_concept
    for batch in batches:
        feat_BCHW = model.features(batch["image"])
        embed_BHWD, cam_BKHW = model.embed(feat_BCHW), model.cams(feat_BCHW)
        attention_BKHW = cam_BKHW.flatten(2).softmax(dim=2).view_as(cam_BKHW).cpu().numpy()
        for b, position in enumerate(batch["position"].tolist()):
            requests = wanted[position]
            row_R = torch.tensor([k * num_per_concept + m for k, m, _ in requests], device=proto_PD.device)
            map_RHW = torch.einsum("rd,hwd->rhw", proto_PD[row_R], embed_BHWD[b]).cpu().numpy()
            for (k, m, nearest), map_HW in zip(requests, map_RHW, strict=True):
                cells[k, m, position] = cell_of(map_HW)
                if nearest:
                    sights[k, m, position] = sight_of(map_HW, attention_BKHW[b, k])
    return sights, cells


def chunks_of(positions: Iterable[int], size: int) -> Iterator[np.ndarray]:
    """Yield positions in batches, as `csr.evaluation.inference.stored_batches` wants them."""
    all_N = np.fromiter(positions, dtype=np.int64)
    for start in range(0, len(all_N), size):
        yield all_N[start : start + size]
