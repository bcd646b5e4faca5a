"""Corpora: latents, features and scores of clips on disk, for training without a sampler.

    FOLDER/corpus.json           what the rows are and which shards there are; written last, so without it the corpus
                                 is half-written
    FOLDER/part-00000.parquet    a shard: row groups of 64 rows
    FOLDER/*.tmp                 half-written: no reader looks at it

Arrays are float16, little-endian: a clip of FluxAudio at 44.1 kHz with text features takes 228 kB, 535 000 of them
122 GB. A reader needs one row group at a time (15 MB) and decodes a row when it is asked for; every page carries a
checksum. Nothing is ever un-pickled. `open_corpus` also reads the baseline's folders (rlloop/data/npz_corpus.py).
"""

from __future__ import annotations

from pathlib import Path

from rlloop.data.corpus_format import CORPUS_FILE, Corpus, CorpusRow, CorpusSpec
from rlloop.data.corpus_parquet import SHARD_NAME, CorpusWriter, ParquetCorpus
from rlloop.data.npz_corpus import NpzCorpus, find_npz

__all__ = ["Corpus", "CorpusRow", "CorpusSpec", "CorpusWriter", "open_corpus"]


def open_corpus(folder: Path | str) -> Corpus:
    """Opens a corpus, or the baseline's folder of npz files as it is; reads no rows.

    Raises:
        ValueError: neither, half-written, truncated, or of a foreign version; one line.
    """
    folder = Path(folder)
    if (folder / CORPUS_FILE).is_file():
        return ParquetCorpus(folder)
    if place := find_npz(folder):
        return NpzCorpus(*place)
    if not folder.is_dir():
        raise ValueError(f"corpus {folder} is not a folder; expected what `rlloop data prepare` makes")
    names = sorted(path.name for path in folder.iterdir())
    if any(name.startswith(("part-", CORPUS_FILE)) for name in names):
        shards = sum(bool(SHARD_NAME.fullmatch(name)) for name in names)
        raise ValueError(
            f"{folder} is half-written: it holds {shards} shards but no {CORPUS_FILE}; finish it with the command that "
            "began it"
        )
    raise ValueError(
        f"{folder} is not a corpus: expected {CORPUS_FILE} (rlloop data prepare makes one) or npz.tsv with its npz "
        f"files, found {', '.join(names[:5]) or 'nothing'}"
    )
