"""Packed datasets made of arrays, for tests that need pictures but no source."""

import numpy as np

from limner.adapters import silent
from limner.adapters.untracked import UntrackedRegistry, UntrackedTracker
from limner.packing import DomainRecord, ImageRecord, Manifest, PackedDataset, SplitWriter
from limner.ports import Ports


def pack(folder, domains, *, classes=(), task=None):
    """The dataset of {domain: {split: (pictures uint8 [N, H, W, C], labels [N] or None)}}; two domains are unpaired."""
    folder.mkdir(parents=True)
    first = next(iter(next(iter(domains.values())).values()))[0]
    image = ImageRecord(height=first.shape[1], width=first.shape[2], channels=first.shape[3])
    records = {}
    for domain, parts in domains.items():
        splits = {}
        for name in ("train", "validation"):
            pictures, labels = parts.get(name, (first[:0], None if parts["train"][1] is None else np.empty(0, int)))
            with SplitWriter(folder, domain=domain, split=name, image=image, shard_bytes=2**20) as writer:
                for index, picture in enumerate(pictures):
                    writer.add(picture, None if labels is None else int(labels[index]))
                splits[name] = writer.finish(labelled=labels is not None)
        labelled = parts["train"][1] is not None
        records[domain] = DomainRecord(
            classes=tuple(classes) if labelled else (), splits=splits, fingerprint="f", rejected={}, notes={}
        )
    task = task or ("pictures" if "pictures" in domains else "unpaired")
    Manifest(schema_version=1, task=task, image=image, domains=records, settings={}, licence="").write(folder)
    return PackedDataset(folder)


def quiet_ports(cache, extractor_weights=()):
    """Ports that record nothing and keep what was computed in a folder."""
    return Ports(UntrackedTracker(), UntrackedRegistry(), silent, cache, tuple(extractor_weights))
