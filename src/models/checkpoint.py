"""Checkpoint: a language model on disk, as its safetensors headers and its configuration describe it.

    base = open_checkpoint("org/name")                  # or a local folder
    math = open_checkpoint("outputs/zoo/math")
    warnings = check_family(base, {"math": math})       # UserError unless they can be compared and merged
    for tensor in compared(base, {"math": math}): ...   # what a comparison of them is over

Nothing here holds a weight: headers are parsed and validated by plain reads, and the weights themselves are read by
whoever needs them, at the file and offset that a `TensorSpec` gives.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from src.models import adapters, digest
from src.models.adapters import Adapter
from src.models.header import TensorSpec, read_header, shape_text
from src.runtime.errors import UserError, printable
from src.runtime.files import check_regular

COMPARABLE = ("BF16", "F16", "F32", "F64")
_FLOATS = (*COMPARABLE, "F8_E4M3", "F8_E5M2", "F8_E8M0")

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
HUB_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*")
_HUB_FILES = ["*.safetensors", "*.json", "tokenizer*", "*.model", "vocab.*", "merges.txt", "*.jinja", "README.md"]
_HUB_SKIPPED = ["consolidated*", "*/*"]  # the same weights under another name; other formats in subfolders

# Rows of these belong to tokens, so that a fine-tune that added tokens has more of them.
_PER_TOKEN = re.compile(
    r"(^|\.)(embed_tokens|tok_embeddings|word_embeddings|wte|embed_in|lm_head|embed_out)\.(weight|bias)$|^output\.weight$"
)
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$|^output\.weight$")
# Constants that older versions of transformers saved among the weights, so that some members of a family have them.
_CONSTANT = re.compile(r"(rotary_emb\.inv_freq|attn\.masked_bias|attn\.bias)$")


@dataclass(frozen=True)
class Compared:
    """A tensor that a comparison is over: `shape` is what all models have in common, `count` its elements."""

    name: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of elements that are compared: the first `count` of every model's tensor, in storage order."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A folder of safetensors whose headers were found sound.

    Attributes:
        source: the checkpoint as the user wrote it, a folder or a hub name.
        path: the absolute local folder.
        tensors: every tensor of the weights by name, sorted by name.
        config: the content of config.json.
        adapter: what makes it of its base, where it is no whole model on disk: `path` is the adapter's folder then, and
            `tensors` have names, dtypes and shapes of weights that nobody has written yet (see `written`).
    """

    source: str
    path: Path
    tensors: Mapping[str, TensorSpec]
    config: Mapping[str, Any]
    adapter: Adapter | None = None
    _digests: dict[int | None, str] = field(default_factory=dict, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of weights."""
        return sum(spec.nbytes for spec in self.tensors.values())

    @property
    def dtype(self) -> str | None:
        """The dtype that all its weights of real numbers have, as safetensors names it; None where they differ."""
        found = {spec.dtype for spec in self.tensors.values() if spec.dtype in _FLOATS}
        return found.pop() if len(found) == 1 else None

    @property
    def parameters(self) -> int:
        """Elements of all float tensors as stored (a tied head that was stored all the same counts)."""
        return sum(spec.count for spec in self.tensors.values() if spec.dtype in _FLOATS)

    @property
    def tied(self) -> bool:
        """Whether the output head is the token embedding, so that a stored head means nothing."""
        return bool(self.config.get("tie_word_embeddings", False))

    @property
    def origin(self) -> str:
        """The hub name or else the absolute folder, as a recipe names it for mergekit; of an adapter, BASE+ADAPTER."""
        if self.adapter is not None:
            return self.adapter.origin
        return str(self.path) if Path(self.source).exists() else self.source

    @property
    def config_folder(self) -> Path:
        """A folder of a whole model of this configuration: its own, or an adapter's base's."""
        return self.path if self.adapter is None else self.adapter.base.path

    @property
    def tokenizer_folder(self) -> Path:
        """The folder of its tokenizer."""
        return self.path if self.adapter is None else self.adapter.tokenizer

    def written(self, folder: Path) -> Checkpoint:
        """Return this adapter with the whole weights that were written to a folder."""
        return replace(self, path=folder, tensors=open_checkpoint(folder).tensors)

    def fingerprint(self) -> str:
        """Return the xxh3_128 hex digest of the content: tensors (names, dtypes, shapes, bytes) and config.json.

        Neither the folder's path nor the sharding matters. It reads every weight, once per instance. An adapter's is
        that of its base and its factors.
        """
        return self._digest(None)

    def probe(self) -> str:
        """Return a digest of the headers and of at most 4 KiB of each tensor: two that differ are different models."""
        return self._digest(4096)

    def _digest(self, most: int | None) -> str:
        if most not in self._digests:
            if self.adapter is not None:
                self._digests[most] = self.adapter.digest(most=most)
            else:
                self._digests[most] = digest.of_files(self.tensors.values(), self.config, most=most)
        return self._digests[most]


def open_checkpoint(source: str | Path, *, base: Checkpoint | None = None) -> Checkpoint:
    """Open a local folder, or else a model of the hub (`org/name`; HF_HUB_OFFLINE is honoured).

    A LoRA adapter of `base` is a checkpoint, too, whose weights nobody has written yet; BASE+ADAPTER names its base.

    Raises UserError if there is no such checkpoint, or if it is not one whose weights can be trusted: no config.json,
    no safetensors, a damaged header, an index that does not fit its shards; an adapter of another base.
    """
    try:
        return _opened(str(source), base, local=isinstance(source, Path))
    except OSError as error:  # a name too long for the disk, a folder that nobody may look into
        raise UserError(
            f"{source}: cannot be read ({error.strerror}); check the path, and that it is yours to read"
        ) from None


def open_family(sources: Mapping[str, str]) -> dict[str, Checkpoint]:
    """Open the base, called `base` among these sources, and the models that descend from it."""
    base = open_checkpoint(sources["base"])
    models = {name: open_checkpoint(source, base=base) for name, source in sources.items() if name != "base"}
    return {"base": base, **models}


def _opened(text: str, base: Checkpoint | None, *, local: bool) -> Checkpoint:
    named, own = adapters.split_source(text)
    folder = Path(os.path.expanduser(own))  # noqa: PTH111 (Path's own raises where there is no such user)
    if folder.is_file():
        raise UserError(f"{own} is a file; expected the folder of a checkpoint (config.json beside *.safetensors)")
    if not folder.is_dir():
        if local or not HUB_NAME.fullmatch(own):
            raise UserError(f"{own}: no such folder; give the folder of a checkpoint or a hub name like org/name")
        folder = _download(own)
    path = folder.absolute()
    if named or adapters.is_adapter(path):
        return adapters.open_adapter(text, path, base)
    files = _weight_files(path, text)
    if not os.path.lexists(path / "config.json"):
        raise UserError(
            f"{text}: no config.json; expected the folder of a whole checkpoint (config.json, *.safetensors)"
        )
    config = read_json(path / "config.json")
    tensors: dict[str, TensorSpec] = {}
    for file, listed in files.items():
        found = read_header(file)
        if listed is not None:
            _check_index(file, found, listed, text)
        for name, spec in found.items():
            if name in tensors:
                raise UserError(f"{text}: tensor {name} is in both {tensors[name].file.name} and {file.name}")
            tensors[name] = spec
    if not any(spec.dtype in _FLOATS for spec in tensors.values()):
        raise UserError(f"{text}: no float tensor in its safetensors; expected the weights of a language model")
    return Checkpoint(source=text, path=path, tensors=dict(sorted(tensors.items())), config=config)


def tensors_of(path: Path) -> dict[str, Any]:
    """Load the torch tensors of a checkpoint on disk, by name."""
    from safetensors.torch import load_file

    tensors: dict[str, Any] = {}
    for shard in sorted(path.glob("*.safetensors")):
        tensors |= load_file(shard)
    return tensors


def check_family(base: Checkpoint, models: Mapping[str, Checkpoint]) -> list[str]:
    """Raise UserError unless all `models` descend from `base` as far as headers can tell; return warnings.

    Refused: another architecture, a missing, extra or differently shaped tensor, a model that is the base, two models
    that are the same. The warnings announce tensors that are compared on the rows that all models have.
    """
    for label, model in models.items():
        for key in ("model_type", "architectures"):
            mine, theirs = base.config.get(key), model.config.get(key)
            if mine and theirs and mine != theirs:
                theirs, mine = printable(str(theirs)[:100]), printable(str(mine)[:100])
                raise UserError(f"{label} has {key} {theirs} and the base {mine}; expected fine-tunes of one base")
    tensors = compared(base, models)
    _check_distinct(base, models)
    warnings = []
    for tensor in tensors:
        rows = {"base": base.tensors[tensor.name].shape[:1]}
        rows |= {name: model.tensors[tensor.name].shape[:1] for name, model in models.items()}
        if len(set(rows.values())) > 1:
            sizes = ", ".join(f"{name} {shape[0]}" for name, shape in rows.items())
            warnings.append(
                f"{tensor.name}: vocabulary sizes differ ({sizes}); compared on the {tensor.shape[0]} rows all have"
            )
    return warnings


def compared(base: Checkpoint, models: Mapping[str, Checkpoint]) -> list[Compared]:
    """Return the float tensors that a comparison is over, sorted by name.

    Left out: integer and boolean tensors, empty ones, constants that old versions saved (rotary frequencies), and the
    output head where any model ties it to the embedding. Token embeddings and heads of different vocabulary size are
    compared on their common first rows. Raises UserError naming the first tensor that is missing, extra, of another
    shape or of a dtype that has no exact float32 or float64 value.
    """
    tied = base.tied or any(model.tied for model in models.values())
    wanted = {name: spec for name, spec in base.tensors.items() if _counts(spec, tied)}
    shapes = {name: spec.shape for name, spec in wanted.items()}
    for spec in wanted.values():
        _check_dtype("the base", spec)
    for label, model in models.items():
        for name, spec in model.tensors.items():
            if _counts(spec, tied) and name not in wanted:
                raise UserError(
                    f"{label} has a tensor {name} {shape_text(spec.shape)} that the base lacks; "
                    "expected fine-tunes of one base with the same tensors"
                )
        for name, mine in wanted.items():
            theirs = model.tensors.get(name)
            if theirs is None:
                raise UserError(
                    f"{label} lacks the tensor {name} {shape_text(mine.shape)} of the base; "
                    "expected fine-tunes of one base with the same tensors"
                )
            _check_dtype(label, theirs)
            if theirs.shape != mine.shape and not (
                _PER_TOKEN.search(name) and mine.shape and mine.shape[1:] == theirs.shape[1:]
            ):
                raise UserError(
                    f"{name} has shape {shape_text(theirs.shape)} in {label} and {shape_text(mine.shape)} in the base; "
                    "expected fine-tunes of one base with the same shapes"
                )
            if theirs.shape[:1] < shapes[name][:1]:
                shapes[name] = theirs.shape
    return [Compared(name, shape) for name, shape in shapes.items() if math.prod(shape)]


def _weight_files(path: Path, text: str) -> Mapping[Path, set[str] | None]:
    """Return a folder's safetensors files, each with the tensors that the index lists (None without an index)."""
    single, index = path / _SINGLE, path / _INDEX
    # What leads nowhere is there, too, and is complained about when it is read.
    if os.path.lexists(single) and os.path.lexists(index):
        raise UserError(
            f"{text}: both {_SINGLE} and {_INDEX} are there and programs disagree on which counts; remove the stale one"
        )
    if os.path.lexists(single):
        return {single: None}
    if os.path.lexists(index):
        return _read_index(index, text)
    pickles = sorted(p.name for p in path.iterdir() if p.name.endswith((".bin", ".pt", ".pth", ".ckpt")))
    if pickles:
        raise UserError(
            f"{text}: its weights are pickled ({printable(pickles[0])}), which may run code when loaded; "
            "convert them: python -c "
            "'from transformers import AutoModelForCausalLM as M; "
            f'M.from_pretrained("{text}", dtype="auto").save_pretrained("NEW")\''
        )
    others = sorted(p.name for p in path.glob("*.safetensors"))
    found = f"only {printable(', '.join(others[:3]))}" if others else "no weights"
    raise UserError(f"{text}: {found} there; expected {_SINGLE}, or {_INDEX} and its shards")


def _read_index(index: Path, text: str) -> Mapping[Path, set[str]]:
    """Return the shards that an index names, each with the tensors it is said to hold."""
    content = read_json(index)
    placed = content.get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(file, str) for file in placed.values()):
        raise UserError(f"{index}: no weight_map from tensors to files; copy or download it again")
    files: dict[Path, set[str]] = {}
    for name, file in placed.items():
        # By its words alone: the hub's cache is made of links, and a link in the folder is the user's own.
        pure = PurePosixPath(file)
        if pure.is_absolute() or ".." in pure.parts or PureWindowsPath(file).drive or "\\" in file or "\0" in file:
            raise UserError(
                f"{index}: shard {file[:100]!r} points outside the folder; expected a file beside the index"
            )
        shard = index.parent / file
        if shard not in files and not os.path.lexists(shard):
            raise UserError(
                f"{text}: the index names the shard {printable(file[:100])}, which is absent; copy or download it again"
            )
        files.setdefault(shard, set()).add(name)
    return dict(sorted(files.items()))


def _check_index(file: Path, found: Mapping[str, TensorSpec], listed: set[str], text: str) -> None:
    for name in sorted(listed ^ set(found)):
        says = "is said by the index to be" if name in listed else "is, unknown to the index,"
        lacks = ", and is not" if name in listed else ""
        raise UserError(
            f"{text}: tensor {printable(name[:100])} {says} in {file.name}{lacks}; "
            "copy or download the checkpoint again"
        )


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; UserError where it is something else."""
    try:
        check_regular(file)
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not readable as JSON ({error}); copy or download it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: a JSON object was expected; copy or download it again")
    return content


def _download(name: str) -> Path:
    """Download a hub model's safetensors, JSON and tokenizer files and its card; return the local snapshot."""
    import huggingface_hub  # half a second, and only hub names need it

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_SKIPPED))
    except Exception as error:  # the hub's own errors, those of its HTTP client, of sockets and of the disk
        why = printable((str(error).strip() or type(error).__name__).splitlines()[0][:160])
        raise UserError(
            f"{name}: neither a folder here nor a model that the hub gave ({type(error).__name__}: {why})\n"
            f"check the name and the network, or download it elsewhere (hf download {name}) and give its folder"
        ) from None


def _counts(spec: TensorSpec, tied: bool) -> bool:
    """Return whether a tensor takes part in comparisons at all."""
    return spec.dtype in _FLOATS and not _CONSTANT.search(spec.name) and not (tied and _HEAD.search(spec.name))


def _check_dtype(label: str, spec: TensorSpec) -> None:
    if spec.dtype not in COMPARABLE:
        raise UserError(
            f"{spec.name} has dtype {spec.dtype} in {label}; expected one of {', '.join(COMPARABLE)}: convert it first"
        )


def _check_distinct(base: Checkpoint, models: Mapping[str, Checkpoint]) -> None:
    """Raise UserError where a model is the base or another one: by folder, or by content where the probes agree."""
    for (other, earlier), (label, model) in itertools.combinations([("the base", base), *models.items()], 2):
        if model.path.resolve() == earlier.path.resolve() or (
            model.probe() == earlier.probe() and model.fingerprint() == earlier.fingerprint()
        ):
            what = f"{label} ({model.source}) is the same model as {other} ({earlier.source})"
            raise UserError(f"{what}; expected distinct fine-tunes of the base: give each once, and not the base")
