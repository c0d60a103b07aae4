"""`cse mine` as tests call it, and its negatives by a slow loop."""

import json

import numpy as np

from cse import Encoder, cli
from cse.data.reading.texts import same_text_key as key


def mined(*options, data="texts.txt", vectors="graph.npy"):
    """The rows that are mined from vectors, in the current folder."""
    assert cli.main(["mine", "--data", data, "--vectors", vectors, "--out", "m.jsonl", *options]) == 0
    with open("m.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def cosines(checkpoint, anchors, pool):
    encoder = Encoder.load(checkpoint)
    a, b = (np.array(encoder.encode(list(texts)), dtype=np.float64) for texts in (anchors, pool))
    return (a / np.linalg.norm(a, axis=1)[:, None]) @ (b / np.linalg.norm(b, axis=1)[:, None]).T


def slow(checkpoint, pairs, first, last, margin, k):
    """Negatives of each row, and the margin's count, by sorting."""
    pool = list(dict.fromkeys(p for _, p in pairs))
    near = cosines(checkpoint, [a for a, _ in pairs], pool)
    own = cosines(checkpoint, [a for a, _ in pairs], [p for _, p in pairs]).diagonal()
    found, dropped = [], 0
    for (anchor, _), cosine, positive in zip(pairs, near, own, strict=True):
        same = {key(p) for a, p in pairs if key(a) == key(anchor)} | {key(anchor)}
        order = [i for i in np.argsort(-cosine) if key(pool[i]) not in same][first - 1 : last]
        kept = [pool[i] for i in order if cosine[i] <= positive - margin]
        dropped += len(order) - len(kept)
        found.append(kept[:k])
    return found, dropped
