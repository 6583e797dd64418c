"""From parents to an offspring: the only place that knows mergekit."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from mergekit.config import ConditionalParameter, MergeConfiguration, ParameterSetting, evaluate_setting
from mergekit.io.tensor_writer import TensorWriter
from mergekit.merge import run_merge
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import BasePolicy, MergeMethodSpec, ParameterSpec
from mergekit.options import MergeOptions
from pydantic import TypeAdapter, ValidationError

from src.config import Merge
from src.models import digest, private
from src.models.checkpoint import Checkpoint
from src.models.methods import treated
from src.runtime import plugins
from src.runtime.errors import UserError
from src.runtime.names import TREATED

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "generation_config.json"),
)
SIXTEEN_BITS = {"BF16": "bfloat16", "F16": "float16"}
"""Dtypes in which a merge would lose what founders changed: as safetensors and as mergekit name them."""


@dataclass(frozen=True)
class Recipe:
    """All that is needed to make an offspring again, to the same bytes."""

    config: Mapping[str, Any]
    """A mergekit configuration in which models are named as in the population; the ancestor is `base`."""
    donor: str
    """The better parent, which gives tokenizer and configuration."""
    seed: int
    """Of the random methods (dare, della)."""
    threads: int
    """torch's threads: several methods differ in the last bits between thread counts."""

    @property
    def models(self) -> list[str]:
        """Everyone whose weights it takes: the parents, and the ancestor where the method wants it."""
        named = [entry["model"] for entry in self.config["models"]]
        base = self.config.get("base_model")
        return named if base is None or base in named else [*named, base]

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as the journal keeps it."""
        return asdict(self)


def check(settings: Merge, parents: int, key: str = "merge") -> None:
    """Refuse what mergekit would refuse later, or would ignore in silence, of merges of so many parents at most.

    That is an unknown method, a parameter that the method does not have or lacks, a wrong number of parents. `key` is
    where the settings come from, for what is said.
    """
    spec = registry.get(registered(settings.method)).spec
    known = {parameter.name: parameter for parameter in spec.parameters}
    for part, given in (("parameters", settings.parameters), ("each", settings.each)):
        if unknown := sorted(given.keys() - known.keys()):
            raise UserError(
                f"{key}.{part}.{unknown[0]}: {settings.method} has no such parameter (mergekit would ignore it). "
                f"Known: {', '.join(sorted(known)) or 'none'}."
            )
        for name, value in given.items():
            _check_value(f"{key}.{part}.{name}", value, known[name])
    for name, parameter in known.items():
        if parameter.required and name not in {*settings.parameters, *settings.each}:
            raise UserError(f"{key}.parameters.{name} is missing; {settings.method} needs it.")
    _check_inputs(settings, spec, parents)
    if settings.treatment is not None:
        if TREATED + spec.name not in {one.spec.name for one in registry.registered_methods()}:
            raise UserError(
                f"merge.treatment is for methods that have none; {spec.name} has its own: merge.parameters.svc, and "
                "merge.parameters.scale, where [alpha, alpha + beta] is LiNeS"
            )
        scale = next(one for one in treated.PARAMETERS if one.name == "treatment_scale")
        _check_value("merge.treatment.scale", settings.treatment.scale, scale)


def with_own(settings: Merge, own: Mapping[str, Any]) -> Merge:
    """Return the settings with a proposal's own merge (`population.Proposal.merge`) in their place.

    Of what it gives to single parents, one value of each parameter stands for all.
    """
    each = {key: value for one in own.get("each", ()) for key, value in one.items()}
    return settings.model_copy(update={"base_model": None, "parameters": {}, **own, "each": each})


def registered(method: str) -> str:
    """Return the name by which mergekit knows a merge method; one of the user's own is imported first.

    Args:
        method: mergekit's name, or a dotted path that ends in the name that its module registers; of a treated
            method, with `names.TREATED` before the last part.

    Raises:
        UserError: there is no such method, or nothing that can be imported, or it registers another name.
    """
    module, dot, name = method.rpartition(".")
    if dot:
        plugins.imported(f"{module}.{name.removeprefix(TREATED)}")
        treated.register()
    known = sorted(one.spec.name for one in registry.registered_methods())
    if name not in known:
        plain = ", ".join(one for one in known if not one.startswith(TREATED))
        raise UserError(f"merge.method is {method!r}; mergekit has no such method. Known: {plain}.")
    return name


def _check_value(key: str, value: Any, parameter: ParameterSpec) -> None:
    try:
        setting: Any = TypeAdapter(ParameterSetting).validate_python(value)
        evaluate_setting("", setting, 0, validate=parameter.validate)
        found = [parameter.validate(scalar) for scalar in _scalars(setting)]
    except (ValueError, RuntimeError) as error:
        kind = parameter.value_type
        plain = f"expected {kind.__name__}, or a gradient of such" if isinstance(kind, type) else _reason(error)
        raise UserError(f"{key} is {value!r}; {plain}") from error
    if any(isinstance(scalar, float) and not math.isfinite(scalar) for scalar in found):
        raise UserError(f"{key} is {value!r}; expected finite numbers (mergekit would make a model of NaN with it)")


def _reason(error: Exception) -> str:
    """Return what a parameter's own check has to say."""
    text = error.errors()[-1]["msg"] if isinstance(error, ValidationError) else str(error)
    return text.removeprefix("Value error, ").removeprefix("Input ")


def _scalars(setting: Any) -> Iterator[Any]:
    """Yield every value within a setting, whatever part of the model its filter gives it to."""
    if isinstance(setting, ConditionalParameter):
        yield from _scalars(setting.value)
    elif isinstance(setting, list):
        for one in setting:
            yield from _scalars(one)
    else:
        yield setting


def _check_inputs(settings: Merge, spec: MergeMethodSpec, parents: int) -> None:
    contract = spec.contract
    ids = [f"parent {i}" for i in range(parents)] + ["ancestor"] * (settings.base_model == "ancestor")
    base = {"parent": "parent 0", "ancestor": "ancestor", None: None}[settings.base_model]
    if settings.base_model == "ancestor" and contract.base == BasePolicy.IGNORED:
        raise UserError(f"merge.base_model is ancestor, but {spec.name} takes no base; use parent or null.")
    try:
        contract.validate_ids(ids, base)
    except ValueError as error:
        raise UserError(
            f"merge.method={spec.name} with base_model={settings.base_model or 'null'} cannot merge {parents} parents "
            f"({str(error)[:1].lower()}{str(error)[1:]}); choose another merge=… or strategy=…"
        ) from error


def check_tensors(models: Mapping[str, Checkpoint], *, remote_code: bool = False) -> None:
    """Refuse checkpoints that lack a tensor which mergekit requires, as their headers say.

    An architecture that mergekit has no table of is inferred from the checkpoints themselves, and lacks nothing.
    """
    for name, checkpoint in models.items():
        try:
            config = transformers.AutoConfig.from_pretrained(
                str(checkpoint.config_folder), trust_remote_code=remote_code
            )
            weights = private.required_weights(config)
        except Exception as error:  # transformers' and mergekit's own, for whatever a config.json may hold
            raise UserError(
                f"mergekit cannot merge {name}: its config.json does not say what it is "
                f"({type(error).__name__}: {' '.join(str(error).split())[:160]})"
            ) from error
        for weight in weights:
            if not private.can_load(weight, checkpoint.tensors, config.model_type):
                raise UserError(
                    f"{name} has no tensor {weight.name}, which mergekit requires of {config.architectures[0]}: "
                    "every merge of it would fail; use checkpoints that have it, or models of another architecture"
                )


def recipe(
    settings: Merge,
    parents: Sequence[str],
    *,
    seed: int,
    threads: int,
    own: Mapping[str, Any] | None = None,
    align: bool = False,
    stored: str | None = None,
) -> Recipe:
    """Return how these parents, better one first, become an offspring.

    Args:
        settings: of the merge.
        parents: their names.
        seed: of random methods.
        threads: torch's.
        own: a merge of their own in place of the settings' (`population.Proposal.merge`).
        align: have mergekit align the vocabularies to the better parent's, which it must where their sizes differ.
        stored: dtype of the parents' weights as safetensors names it. Weights of 16 bits are merged in float32 and
            rounded once, unless `settings.dtype` says otherwise.
    """
    each = [settings.each] * len(parents)
    if own is not None:
        settings, each = with_own(settings, own), own.get("each") or [{}] * len(parents)
    base = {"parent": parents[0], "ancestor": "base", None: None}[settings.base_model]
    config: dict[str, Any] = {
        "merge_method": settings.method,
        "models": [
            {"model": name, **({"parameters": given} if given else {})}
            for name, given in zip(parents, each, strict=True)
        ],
        "parameters": settings.parameters,
    }
    if base is not None:
        config["base_model"] = base
    if settings.dtype is not None:
        config["dtype"] = settings.dtype
    elif stored in SIXTEEN_BITS:
        config |= {"dtype": "float32", "out_dtype": SIXTEEN_BITS[stored]}
    if settings.tokenizer_source not in {None, "auto"}:
        config["tokenizer_source"] = settings.tokenizer_source
    elif settings.tokenizer_source == "auto" and align:
        config["tokenizer_source"] = parents[0]
    config |= _treatment(settings)
    return Recipe(config, donor=parents[0], seed=seed, threads=threads)


def _treatment(settings: Merge) -> dict[str, Any]:
    """Return what a treatment makes of a mergekit configuration: another method, which deltas from the ancestor."""
    if (treatment := settings.treatment) is None:
        return {}
    module, dot, name = settings.method.rpartition(".")
    given = {
        "treatment_base": {"parent": "first", "ancestor": "base", None: "none"}[settings.base_model],
        "treatment_scale": treatment.factor,
        "treatment_svc": treatment.svc,
    }
    return {
        "merge_method": f"{module}{dot}{TREATED}{name}",
        "parameters": {**settings.parameters, **given},
        "base_model": "base",
    }


def merge(
    recipe: Recipe, models: Mapping[str, Path], out: Path, *, device: str = "cpu", remote_code: bool = False
) -> None:
    """Merge into the folder `out`, which must not exist: an ordinary Hugging Face checkpoint.

    Args:
        recipe: what to do.
        models: absolute folder of every model that the recipe names.
        out: where the offspring goes; half of it may be there when this raises.
        device: what mergekit computes on.
        remote_code: whether a checkpoint may execute Python code of its own.
    """
    with _mergekit(recipe, device, remote_code) as options:
        run_merge(MergeConfiguration.model_validate(with_paths(recipe.config, models)), str(out), options)
    _copy_from_donor(models[recipe.donor], out, tokenizer="tokenizer_source" not in recipe.config)


def merge_in_memory(
    recipe: Recipe, models: Mapping[str, Path], out: Path, *, device: str = "cpu", remote_code: bool = False
) -> dict[str, torch.Tensor] | None:
    """Return the offspring's tensors, the same to the bit as `merge` writes them; its other files go to `out`.

    None where mergekit has to align vocabularies, or fills gaps in written files: then only `merge` will do. The
    arguments are `merge`'s, but `out` exists.
    """
    config = MergeConfiguration.model_validate(with_paths(recipe.config, models))
    with _mergekit(recipe, device, remote_code) as options:
        architecture = private.architecture_in_memory(config, options)
        if "tokenizer_source" in recipe.config or architecture is None:
            return None
        transformers.set_seed(recipe.seed)  # as run_merge does
        source = Path(models[recipe.config.get("base_model", recipe.donor)])
        described = transformers.AutoConfig.from_pretrained(str(source), trust_remote_code=remote_code)
        if dtype := config.out_dtype or config.dtype:
            described.dtype = dtype
        tensors = private.merged_tensors(config, architecture, described, options)
    described.save_pretrained(str(out))
    _copy_files(architecture.tagalong_files or (), source, out)
    _copy_from_donor(models[recipe.donor], out, tokenizer=True)
    return tensors


def copy_surroundings(model: Checkpoint, folder: Path) -> None:
    """Put a model's configuration and its tokenizer into a folder."""
    _copy_files(("config.json", "generation_config.json"), model.config_folder, folder)
    _copy_tokenizer(model.tokenizer_folder, folder)


def write(tensors: Iterable[tuple[str, torch.Tensor]], folder: Path) -> None:
    """Write named tensors as mergekit would have."""
    writer = TensorWriter(str(folder), max_shard_size=MergeOptions().out_shard_size)
    for name, tensor in tensors:
        writer.save_tensor(name, tensor)
    writer.finalize()


@contextmanager
def _mergekit(recipe: Recipe, device: str, remote_code: bool) -> Iterator[MergeOptions]:
    """Yield mergekit's options for a recipe; torch has the recipe's number of threads until the block ends."""
    options = MergeOptions(
        device=device,
        copy_tokenizer=False,
        write_model_card=False,
        quiet=True,
        random_seed=recipe.seed,
        trust_remote_code=remote_code,
    )
    threads, verbosity = torch.get_num_threads(), transformers.logging.get_verbosity()
    torch.set_num_threads(recipe.threads)
    transformers.logging.set_verbosity_error()  # mergekit uses names that transformers warns of
    try:
        with private.fresh_loaders(options):
            yield options
    finally:
        torch.set_num_threads(threads)
        transformers.logging.set_verbosity(verbosity)


def with_paths(config: Mapping[str, Any], models: Mapping[str, Path]) -> dict[str, Any]:
    """Return a configuration for mergekit: models by their folders instead of their names, the method as registered."""
    named = {**config, "merge_method": registered(config["merge_method"])}
    named["models"] = [{**entry, "model": str(models[entry["model"]])} for entry in config["models"]]
    for key in ("base_model", "tokenizer_source"):
        if config.get(key) in models:
            named[key] = str(models[config[key]])
    return named


def align(checkpoints: Sequence[Checkpoint]) -> bool:
    """Return whether these parents' vocabularies differ in size, so that mergekit has to align them."""
    return len({checkpoint.config.get("vocab_size") for checkpoint in checkpoints}) > 1


def _copy_from_donor(donor: Path, out: Path, *, tokenizer: bool) -> None:
    """Give the offspring the better parent's configuration (where mergekit took another's), and its tokenizer."""
    merged = json.loads((out / "config.json").read_text())
    config = json.loads((donor / "config.json").read_text())
    decided_by_merge = {key: merged[key] for key in ("vocab_size", "dtype", "torch_dtype") if key in merged}
    (out / "config.json").write_text(json.dumps({**config, **decided_by_merge}, indent=2) + "\n")
    if tokenizer:
        _copy_tokenizer(donor, out)


def _copy_tokenizer(source: Path, target: Path) -> None:
    _copy_files(TOKENIZER_FILES, source, target)
    if (source / digest.TEMPLATES).is_dir():
        shutil.copytree(source / digest.TEMPLATES, target / digest.TEMPLATES, dirs_exist_ok=True)


def _copy_files(names: Iterable[str], source: Path, target: Path) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
