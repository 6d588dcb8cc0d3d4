# SPDX-License-Identifier: Apache-2.0
"""Reads mutated files, in a process of its own with a limit on memory: ``python -m soak.fuzz``.

Atheris guides the mutations by the code that they reach. Without it, they are only random. A zip archive notices most
damage itself, so the members of an archive are mutated and packed again; the CRCs of an image are computed again. Of an
HDF5 file only the text in it is mutated, not its own structure: the HDF5 library may never return from a damaged one.
"""

import argparse
import io
import random
import re
import resource
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

__all__ = ["LIMIT", "main", "replay"]

#: Bytes that reading a file of at most `LONGEST` bytes may take, beside the program itself.
LIMIT = 1 << 30
LONGEST = 1 << 17
#: Seconds that one file may take.
SLOWEST = 20


def read(path):
    """Read a file of any kind; it is read or refused."""
    from openese.sw import importers
    from openese.sw.model.layers import ModelError
    from openese.sw.model.network import Network
    from openese.sw.pack.image import ImageFormatError, parse

    for reader in (importers.entries, importers.load):
        try:
            reader(path)
        except (importers.ImportRefused, ModelError) as error:
            assert str(error).strip(), "a refusal without a message"
    if path.suffix == ".npz":
        with suppress(ModelError):
            Network.load(path)
    if path.suffix == ".img":
        with suppress(ImageFormatError):
            parse(path.read_bytes()).model()


def replay(path):
    """Read one file as the fuzzer does; returns the exit status."""
    limit_memory()
    try:
        read(Path(path))
    except Exception:
        traceback.print_exc()
        return 1
    print(f"{path}: read or refused")
    return 0


def limit_memory():
    """From here on, this process may take `LIMIT` bytes more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + LIMIT,) * 2)


def repacked(data, mutate, chance):
    """An archive with one mutated member, or None if ``data`` is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()
                       if info.file_size <= LONGEST][:64]
    except Exception:
        return None
    if not members:
        return None
    # Large members are tensors, whose numbers matter little.
    small = [index for index, (name, content) in enumerate(members)
             if not name.endswith(".h5") and (len(content) < 4096 or chance.random() < 0.1)]
    if not small:
        return None
    chosen = chance.choice(small)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for index, (name, content) in enumerate(members):
            with suppress(ValueError):
                archive.writestr(name, mutate(content) if index == chosen else content)
    return buffer.getvalue()


def resealed(data):
    """An image with right CRCs, as far as its sections can be followed."""
    words = memoryview(bytearray(data[:len(data) // 4 * 4])).cast("I")
    if len(words) > 8:
        words[4] = zlib.crc32(words[:4].tobytes())
        end = 8 + words[7]
        if end < len(words):
            words[end] = zlib.crc32(words[5:end].tobytes())
    return words.tobytes()


def mutated(data, chance):
    """``data`` with a few bytes changed, removed or inserted."""
    copy = bytearray(data)
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(copy) + 1)
        kind = chance.randrange(3)
        if kind == 0:
            copy[at:at + 1] = chance.randbytes(1)
        elif kind == 1:
            del copy[at:at + chance.randint(1, 20)]
        else:
            copy[at:at] = chance.randbytes(chance.randint(1, 8))
    return bytes(copy)


def rewritten(data, mutate, chance):
    """An HDF5 file with other text of the same length, where there is JSON in it."""
    texts = list(re.finditer(rb'[\[{]"[ -~]{20,}', data))
    if not texts:
        return data
    start, stop = chance.choice(texts).span()
    return data[:start] + mutate(data[start:stop])[:stop - start].ljust(stop - start) + data[stop:]


def change(data, mutate, chance, suffix):
    """A mutation that the checks of the file's format let through, most times."""
    if suffix == ".h5":
        return rewritten(data, mutate, chance)
    if chance.random() < 0.1 and suffix != ".keras":
        return mutate(data)
    if suffix == ".img":
        return resealed(mutate(data))
    return repacked(data, mutate, chance) or (data if suffix == ".keras" else mutate(data))


def unguided(corpus, crashes, seconds, seed, suffix, one):
    """Random mutations of the files in ``corpus``."""
    files = [path.read_bytes() for path in sorted(corpus.iterdir())]
    chance = random.Random(seed)
    began, runs = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        data = change(chance.choice(files), lambda content: mutated(content, chance), chance, suffix)
        try:
            one(data)
        except Exception:
            traceback.print_exc()
            (crashes / f"crash-{zlib.crc32(data):08x}").write_bytes(data)
            return 1
        runs += 1
    print(f"Done {runs} runs", file=sys.stderr)
    return 0


def main():
    """``python -m soak.fuzz CORPUS CRASHES SUFFIX SECONDS SEED``"""
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("crashes", type=Path)
    parser.add_argument("suffix")
    parser.add_argument("seconds", type=int)
    parser.add_argument("seed", type=int)
    arguments = parser.parse_args()
    suffix = arguments.suffix
    guided = find_spec("atheris") is not None
    if guided:
        import atheris

        with atheris.instrument_imports(include=["openese"]):
            from openese.sw import importers, pack  # noqa: F401
            from openese.sw.pack import image  # noqa: F401
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder, f"model{suffix}")

        def one(data):
            path.write_bytes(data)
            read(path)

        for file in arguments.corpus.iterdir():
            one(file.read_bytes())
        limit_memory()
        if not guided:
            sys.exit(unguided(arguments.corpus, arguments.crashes, arguments.seconds, arguments.seed, suffix, one))

        def mutator(data, size, seed):
            return change(data, lambda content: atheris.Mutate(content, max(len(content), 64)), random.Random(seed),
                          suffix)[:size]

        atheris.Setup([sys.argv[0], f"-max_total_time={arguments.seconds}", f"-seed={arguments.seed}",
                       f"-max_len={LONGEST}", f"-timeout={SLOWEST}", f"-artifact_prefix={arguments.crashes}/",
                       "-rss_limit_mb=0", "-print_final_stats=1", str(arguments.corpus)],
                      one, custom_mutator=mutator)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
