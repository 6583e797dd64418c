"""How models are asked: in a chat template, of which founders that have none are refused; and how they generate."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GenerationConfig

from src.config import Evaluate, Settings
from src.models.founders import Found
from src.runtime.errors import UserError
from src.runtime.terminal import warn

SYSTEM = "Answer the question."
"""A system message that a template is tried with."""
_LM_EVALS_OWN = ("max_gen_toks", "until")


def check(settings: Settings, found: Mapping[str, Found]) -> None:
    """Refuse founders that are here and cannot be asked as the configuration says.

    Offspring have the tokenizer of a parent, or of the base where mergekit is told so. A template that leaves the
    system message out costs a warning: lm-eval would say nothing of it.

    Raises:
        UserError: naming the founder, and what its tokenizer has; or an argument that nobody takes.
    """
    asked = settings.evaluate
    if asked.evaluator is None:
        _check_gen_kwargs(asked)
    if not asked.apply_chat_template or asked.evaluator is not None:
        return
    if asked.backend == "vllm" and isinstance(asked.apply_chat_template, str):
        raise UserError(
            f"evaluate.apply_chat_template is {asked.apply_chat_template!r}; with evaluate.backend=vllm it can be true "
            "or false, since lm-eval applies a model's default template there"
        )
    merged = settings.merge.base_model == "ancestor" and settings.merge.tokenizer_source in {"base", "union"}
    ask_base = merged or settings.strategy.needs_answers
    here = {name: one.checkpoint.tokenizer_folder for name, one in found.items() if one.checkpoint is not None}
    for name, folder in here.items():
        if name != "base" or ask_base:
            _try_out(asked, name, folder, remote_code=settings.trust_remote_code)


def _check_gen_kwargs(settings: Evaluate) -> None:
    """Refuse what transformers would refuse in every candidate's first batch; vLLM has names of its own."""
    known = {*vars(GenerationConfig()), *_LM_EVALS_OWN} if settings.backend == "hf" else set(settings.gen_kwargs)
    for name in sorted(settings.gen_kwargs.keys() - known):
        near = difflib.get_close_matches(name, [one for one in known if not one.startswith("_")], n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(
            f"evaluate.gen_kwargs.{name}: no such argument{hint}; expected lm-eval's {', '.join(_LM_EVALS_OWN)}, or "
            "one of transformers' GenerationConfig"
        )


def template_args(settings: Evaluate) -> dict[str, Any]:
    """Return what the template is rendered with: the arguments of the user's, and its name where it is one of several.

    lm-eval itself takes a name, records that template in its results, and applies the default one.
    """
    given = dict(settings.model_args.get("chat_template_args") or {})
    if isinstance(settings.apply_chat_template, str):
        given["chat_template"] = settings.apply_chat_template
    return given


def template_key(lm: Any) -> str:
    """Return a text that is the same for two of lm-eval's models just where they are asked in the same words."""
    return json.dumps([lm.tokenizer.chat_template, lm.tokenizer.special_tokens_map], sort_keys=True, default=str)


def _try_out(settings: Evaluate, name: str, folder: Path, *, remote_code: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=remote_code)
    wanted, own = settings.apply_chat_template, tokenizer.chat_template
    none = "evaluate.apply_chat_template=false asks without"
    if not own:
        raise UserError(f"{name} ({folder}) has no chat template; {none}, or put its chat_template.jinja there")
    known = own if isinstance(own, dict) else {"default": own}
    if (wanted if isinstance(wanted, str) else "default") not in known:
        named = f"named {wanted!r}" if isinstance(wanted, str) else "that is its default"
        raise UserError(
            f"{name} ({folder}) has no chat template {named}; evaluate.apply_chat_template can be: "
            f"{', '.join(sorted(known))}"
        )
    question = [{"role": "user", "content": "What is it?"}]
    given: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True, **template_args(settings)}
    if not isinstance(own, dict):
        given.pop("chat_template", None)  # transformers would take the name for a template
    try:
        tokenizer.apply_chat_template(question, **given)
    except Exception as error:  # whatever a template may raise
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(f"{name}: its chat template cannot be applied ({why}); {none}") from error
    if settings.system_instruction is not None and not _takes_system_message(tokenizer, question, given):
        warn(f"the chat template of {name} leaves system messages out: evaluate.system_instruction does not reach it")


def _takes_system_message(tokenizer: Any, question: list[dict[str, str]], given: Mapping[str, Any]) -> bool:
    try:
        return SYSTEM in tokenizer.apply_chat_template([{"role": "system", "content": SYSTEM}, *question], **given)
    except Exception:  # a template that takes none raises
        return False
