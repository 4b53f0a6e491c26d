"""The Python of a model card that makes boxes of a detector's output with numpy alone, or shows those of a graph. Free of torch."""

from __future__ import annotations

_SCORES = """
columns = {8 + classes: "retinanet", 9 + classes: "fcos", 13 + classes: "ssd", 6 + 5 * classes: "faster_rcnn"}
columns[6 + 5 * classes + 28 * 28] = "mask_rcnn"
detector = columns[said.shape[1]]
if detector in ("faster_rcnn", "mask_rcnn"):
    said = said[said[:, 0] > 0]  # the proposals; the other rows are what they were made of
    masked, said, masks = said[:, 0] == 2, said[:, 1 : 6 + 5 * classes], said[:, 6 + 5 * classes :]
if detector == "mask_rcnn":
    masks = masks.reshape(-1, 28, 28) > 0  # of those that are masked, in the box of the likeliest class
if detector not in ("fcos", "retinanet"):
    scores = said[:, 12:] if detector == "ssd" else said[:, 4 : 5 + classes]
    scores = np.exp(scores - scores.max(1, keepdims=True))
    scores = scores[:, 1:] / scores.sum(1, keepdims=True)  # without the background
else:
    scores = 1 / (1 + np.exp(-said[:, -classes:]))
if detector == "fcos":
    scores = np.sqrt(scores / (1 + np.exp(-said[:, 8:9])))
kinds, best = scores.argmax(1), scores.max(1)
"""
_BOXES = """
anchors, sides = said[:, :4], said[:, 4:8]
middles, sizes = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
if detector == "fcos":
    boxes = np.hstack([middles - sides[:, :2] * sizes, middles + sides[:, 2:] * sizes])
else:
    if detector in ("faster_rcnn", "mask_rcnn"):  # a box for each class
        sides = said[:, 5 + classes :].reshape(-1, classes, 4)[np.arange(len(said)), kinds]
    if detector != "retinanet":
        sides = sides * np.array([0.1, 0.1, 0.2, 0.2])
    middles, sizes = middles + sides[:, :2] * sizes, sizes * np.exp(sides[:, 2:])
    boxes = np.hstack([middles - sizes / 2, middles + sizes / 2])
for place in np.argsort(-best)[:10]:  # boxes over each other are not dropped here: see torchvision.ops.batched_nms
    print(names[kinds[place]] if names else kinds[place], round(float(best[place]), 3), boxes[place].tolist())
"""


_FOUND = """
for _, kind, score, *box, row in found[:10]:  # likeliest first; a box: left, top, right, bottom in shares of the side
    print(names[int(kind)] if names else int(kind), round(float(score), 3), box)
# Mask R-CNN: with the output "logits" too, logits[0, int(row), -784:].reshape(28, 28) > 0 is the mask of an object, within its box.
"""


def found_code(file: str | None) -> list[str]:
    """Lines that print the ten likeliest of ``found``, the boxes that the graph itself has made.

    Args:
        file: the file of JSON that names the classes; ``None`` where they have no names.
    """
    return [*_names(file), *_FOUND.strip().splitlines()]


def answer_code(file: str | None) -> list[str]:
    """Lines that print the ten likeliest boxes of ``logits``.

    Args:
        file: the file of JSON that names the classes; ``None`` where they have no names.
    """
    return [
        "said = logits[0]  # rows of numbers, in shares of the side: an anchor or a proposal, its box and a logit a class",
        *_names(file),
        "classes = len(names) if names else said.shape[1] - 9  # FCOS; of another detector put their number here",
        *_SCORES.strip().splitlines(),
        *_BOXES.strip().splitlines(),
    ]


def _names(file: str | None) -> list[str]:
    return [f'with open("{file}", encoding="utf-8") as file:', '    names = json.load(file)["classes"]'] if file else ["names = None"]
