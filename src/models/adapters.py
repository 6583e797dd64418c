"""Adapter: a LoRA fine-tune as PEFT saves it, two small factors for each weight that it changes.

    weight of the fine-tune = base's weight + scaling · B A          B [out, r], A [r, in]

Read are `adapter_config.json` and the headers of `adapter_model.safetensors`. What is no plain LoRA is refused by name,
since whatever was left out would change the model in silence.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.models import digest
from src.models.header import TensorSpec, read_header, shape_text
from src.runtime.errors import UserError, printable

if TYPE_CHECKING:
    import torch

    from src.models.checkpoint import Checkpoint

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_RULE = 1  # of how factors become weights; part of every fingerprint
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<part>[AB])(\.weight)?")
_UNDERSTOOD = {  # keys of adapter_config.json that are read here, or that say nothing about the weights
    *("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "bias"),
    *("init_lora_weights", "base_model_name_or_path", "peft_version", "task_type", "auto_mapping", "inference_mode"),
    *("revision", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("megatron_core", "loftq_config", "eva_config", "runtime_config", "qalora_group_size", "ensure_weight_tying"),
}
_NAMED = {"use_dora": "DoRA", "modules_to_save": "modules_to_save (whole modules beside the factors)"}
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # their factors go with a base of their own


@dataclass(frozen=True)
class Factors:
    """What an adapter adds to one weight: `scaling` · B A, transposed where the weight is stored as [in, out]."""

    a: TensorSpec
    b: TensorSpec
    scaling: float
    transposed: bool
    embedding: bool
    """Whether it is an embedding's, whose product PEFT rounds to the base's dtype before it is added."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """A folder of factors that was found sound.

    Attributes:
        source: the adapter as the user wrote it, without its base: a folder or a hub name.
        folder: where it lies here.
        base: the checkpoint that it changes.
        factors: of every weight that it changes, by the weight's name in the base.
    """

    source: str
    folder: Path
    base: Checkpoint
    factors: Mapping[str, Factors]

    @property
    def origin(self) -> str:
        """BASE+ADAPTER, as mergekit takes it, each a hub name or an absolute folder."""
        return f"{self.base.origin}+{self.folder if Path(self.source).exists() else self.source}"

    @property
    def tokenizer(self) -> Path:
        """The folder of its tokenizer: its own, or the base's where it brings none."""
        return self.folder if (self.folder / "tokenizer_config.json").is_file() else self.base.path

    @property
    def nbytes(self) -> int:
        """Bytes of its factors."""
        return sum(one.a.nbytes + one.b.nbytes for one in self.factors.values())

    def digest(self, *, most: int | None = None) -> str:
        """Return the xxh3_128 hex digest of base, factors and what is done with them; see `digest.of_files`."""
        specs = sorted((spec for one in self.factors.values() for spec in (one.a, one.b)), key=lambda spec: spec.name)
        rules = {name: [one.a.name, one.scaling, one.transposed] for name, one in self.factors.items()}
        base = self.base.probe() if most else self.base.fingerprint()
        return digest.of_files(specs, {"adapter": _RULE, "base": base, "factors": rules}, most=most)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors of the whole model in the base's dtypes, as PEFT's `merge_and_unload` makes them.

        The product is computed in float32, and added to the base in what is the wider of the two dtypes.
        """
        from safetensors import safe_open

        for name, spec in self.base.tensors.items():
            with safe_open(str(spec.file), framework="pt") as file:
                weight = file.get_tensor(name)
            if (one := self.factors.get(name)) is not None:
                with safe_open(str(one.a.file), framework="pt") as file:
                    a, b = (file.get_tensor(part.name) for part in (one.a, one.b))
                wide = a.double() if a.element_size() > 4 else a.float()
                product = b.to(wide.dtype) @ wide
                delta = (product.T if one.transposed else product) * one.scaling
                weight += delta.to(weight.dtype) if one.embedding else delta
            yield name, weight


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter rather than a whole model."""
    whole = any(os.path.lexists(folder / name) for name in ("model.safetensors", "model.safetensors.index.json"))
    return not whole and any(os.path.lexists(folder / name) for name in (CONFIG, WEIGHTS, PICKLED))


def split_source(text: str) -> tuple[str, str]:
    """Return the base and the adapter of BASE+ADAPTER; no base, and the whole text, of anything else."""
    named, plus, own = text.rpartition("+")
    return (named, own) if plus and named and own and not os.path.lexists(os.path.expanduser(text)) else ("", text)  # noqa: PTH111


def open_adapter(text: str, path: Path, base: Checkpoint | None) -> Checkpoint:
    """Open the adapter in a folder, of its base: `base`, or else the one that BASE+ADAPTER names.

    Raises:
        UserError: as `read`; no base, or another one than `base`.
    """
    from src.models.checkpoint import Checkpoint, open_checkpoint, read_json

    named, own = split_source(text)
    if not is_adapter(path):
        raise UserError(
            f"{text}: expected BASE+ADAPTER, and {own} has no adapter_config.json; give it without {named}+"
        )
    if base is None and not named:
        raise UserError(
            f"{text}: an adapter (LoRA) only, not a whole model; merge it into its base first: "
            "peft.AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload().save_pretrained(NEW)"
        )
    if named and (base is None or named != base.source):
        mine = open_checkpoint(named)
        if base is not None and (mine.probe() != base.probe() or mine.fingerprint() != base.fingerprint()):
            raise UserError(f"{text}: an adapter of {named}, and the base is {base.source}; expected one base for all")
        base = base or mine
    assert base is not None
    if not os.path.lexists(path / CONFIG):
        raise UserError(f"{text}: no {CONFIG} beside its {WEIGHTS}; expected a LoRA as PEFT saves it")
    found = read(path, own, read_json(path / CONFIG), base, named=bool(named))
    unwritten = {name: replace(spec, file=path / "model.safetensors") for name, spec in base.tensors.items()}
    return Checkpoint(text, path, unwritten, base.config, found)


def read(folder: Path, source: str, config: Mapping[str, Any], base: Checkpoint, *, named: bool) -> Adapter:
    """Read the headers of an adapter, and refuse what is no plain LoRA, no safetensors, or does not fit the base.

    `source` is as the user wrote it, without its base; `config`, the content of its adapter_config.json, has to
    name the base unless the user has `named` it.
    """
    _check_config(source, config)
    if not named:
        _check_base(source, config.get("base_model_name_or_path"), base)
    if not os.path.lexists(folder / WEIGHTS):
        if (folder / PICKLED).exists():
            raise UserError(
                f"{source}: its factors are pickled ({PICKLED}), which may run code when loaded; convert them: python "
                f'-c \'import torch, safetensors.torch as s; s.save_file(torch.load("{PICKLED}", weights_only=True), '
                f'"{WEIGHTS}")\''
            )
        raise UserError(f"{source}: no {WEIGHTS} beside its {CONFIG}; copy or download the adapter again")
    pairs: dict[str, dict[str, TensorSpec]] = {}
    embeddings = set()
    for key, spec in read_header(folder / WEIGHTS).items():
        if (match := _KEY.fullmatch(key)) is None:
            raise UserError(f"{source}: {_what(key)}; supported are LoRA's factors alone: merge it into its base first")
        pairs.setdefault(match["module"], {})[match["part"]] = spec
        if match["embedding"]:
            embeddings.add(match["module"])
    if not pairs:
        raise UserError(f"{source}: no factors in its {WEIGHTS}; copy or download the adapter again")
    factors = {}
    for module, pair in sorted(pairs.items()):
        if len(pair) < 2:
            raise UserError(f"{source}: {module} has one factor of two, {next(iter(pair))}; copy the adapter again")
        transposed = module in embeddings or bool(config.get("fan_in_fan_out"))
        name = _weight_of(source, module, base)
        rank, scaling = _scaled(source, module, config)
        factors[name] = Factors(pair["A"], pair["B"], scaling, transposed, module in embeddings)
        _check_shapes(source, name, factors[name], base, rank)
    return Adapter(source, folder, base, factors)


def _check_config(source: str, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        found = f"has peft_type {printable(str(kind)[:40])}" if kind else "has no peft_type"
        raise UserError(f"{source}: its {CONFIG} {found}; supported is LORA: merge the adapter into its base first")
    for key, value in config.items():
        if value and key not in _UNDERSTOOD:
            what = _NAMED.get(key, f"{key}={printable(json.dumps(value)[:60])}")
            raise UserError(f"{source}: {what} is not supported; merge the adapter into its base first")
    if config.get("bias", "none") != "none":
        raise UserError(
            f"{source}: bias={config['bias']!r}, but trained biases are not supported; merge it into its base first"
        )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise UserError(
            f"{source}: init_lora_weights={start!r} changed the base that its factors go with; convert it to a plain "
            "LoRA (peft: save_pretrained(…, path_initial_model_for_weight_conversion=…))"
        )
    if not isinstance(config.get("r"), int) or not isinstance(config.get("lora_alpha"), int | float):
        raise UserError(f"{source}: its {CONFIG} lacks r or lora_alpha; copy or download the adapter again")
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(key) or {}, dict):
            raise UserError(
                f"{source}: its {CONFIG} has a {key} that is no mapping; copy or download the adapter again"
            )


def _check_base(source: str, trained_on: Any, base: Checkpoint) -> None:
    """Raise UserError unless an adapter's configuration names this base: the same place, or one of that last part."""
    if not trained_on:
        return
    there = Path(str(trained_on)).expanduser()
    same = str(trained_on) == base.source or there.name.lower() == Path(base.source).name.lower()
    if not same and not (there.is_dir() and there.resolve() == base.path.resolve()):
        raise UserError(
            f"{source} is an adapter of {printable(str(trained_on)[:100])}, and the base is {base.source}; "
            f"if they have the same weights, say so: {base.source}+{source}"
        )


def _what(key: str) -> str:
    """Describe a tensor that is no factor."""
    shown = printable(key[:100])
    if "lora_magnitude_vector" in key:
        return f"DoRA ({shown})"
    if "modules_to_save" in key or ".lora_" not in key:
        return f"the tensor {shown}, a whole module's (modules_to_save, or a vocabulary that was resized)"
    return f"the tensor {shown}"


def _weight_of(source: str, module: str, base: Checkpoint) -> str:
    """Return the name of a module's weight in the base, which some families store without their model's own name."""
    for name in (f"{module}.weight", f"{module.partition('.')[2]}.weight"):
        if name in base.tensors:
            if base.tied and re.search(r"(embed_tokens|wte|embed_in|word_embeddings)\.weight$", name):
                raise UserError(
                    f"{source}: it changes {name}, which the base uses as its output head, too (tie_word_embeddings), "
                    "and a merged weight cannot do both; leave that module out"
                )
            return name
    raise UserError(
        f"{source}: it changes {printable(module[:100])}, which the base {base.source} lacks; is it its base?"
    )


def _patterned(config: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """Return what a pattern says of a module, as PEFT reads patterns: the first that matches the end of its name."""
    patterns = (config.get(key) or {}).items()
    return next((value for pattern, value in patterns if re.match(rf"(.*\.)?({pattern})$", module)), default)


def _scaled(source: str, module: str, config: Mapping[str, Any]) -> tuple[int, float]:
    """Return the rank of a module's factors, and what their product is multiplied by."""
    rank = _patterned(config, "rank_pattern", module, config["r"])
    alpha = _patterned(config, "alpha_pattern", module, config["lora_alpha"])
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise UserError(f"{source}: {module} has rank {rank!r} and alpha {alpha!r}; expected numbers, the rank above 0")
    return rank, float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _check_shapes(source: str, name: str, factors: Factors, base: Checkpoint, rank: int) -> None:
    from src.models.checkpoint import COMPARABLE

    a, b, weight = factors.a, factors.b, base.tensors[name]
    for spec in (a, b):
        if spec.dtype not in COMPARABLE:
            raise UserError(f"{source}: {spec.name} has dtype {spec.dtype}; expected one of {', '.join(COMPARABLE)}")
    made = (*b.shape[:1], *a.shape[1:])
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or a.shape[0] != rank:
        raise UserError(
            f"{source}: factors A {shape_text(a.shape)} and B {shape_text(b.shape)} of {name}; expected [r, in] and "
            f"[out, r] with r = {rank}, as {CONFIG} has it"
        )
    if (made[::-1] if factors.transposed else made) != weight.shape:
        raise UserError(
            f"{source}: its factors make {shape_text(made)} of {name}, which is {shape_text(weight.shape)} in the base "
            f"{base.source}; is that its base?"
        )
