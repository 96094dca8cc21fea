"""Reading transformers checkpoints: folders and hub ids, with nothing missing and nothing left over.

The library maps names between its own releases while it loads (``weight_g`` to a parametrisation,
``embed_out`` to ``lm_head``), so weights always go through its ``from_pretrained``. What it
only warns about is an error here, except for names that are known to carry nothing.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from nuebridge.errors import CheckpointError
from nuebridge.tensors import check_headers

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
OLDER_THAN_5 = int(transformers.__version__.split(".")[0]) < 5

STALE_BUFFERS = {
    r"(^|\.)(attn|attention|self_attn)\.(bias|masked_bias)$": "a causal mask that older releases stored",
    r"(^|\.)rotary_emb\.inv_freq$": "rotary frequencies that older releases stored; they follow from the configuration",
}
"""Names that older checkpoints hold beside the weights, each with the reason it can be left out."""


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences the library's progress bars and load reports: what matters in them is raised here."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def one_line(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        return f"{lines[0]} {lines[1]}"
    return lines[0] if lines else type(error).__name__


def is_folder(source: str) -> bool:
    """Whether the source is a folder here; otherwise it is taken for a hub id."""
    return Path(source).expanduser().is_dir()


def find_file(source: str, name: str, revision: str | None = None, *, required: bool = False) -> Path | None:
    """A file of a folder or hub repository, or None where none of that name can be found.

    Raises CheckpointError where there is no such folder or repository. Without a connection the
    cache decides, which may lack a file that exists: what a repository must have is ``required``.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    if folder.is_absolute() or source.startswith((".", "~")) or not _HUB_ID.fullmatch(source):
        raise CheckpointError(f"there is no checkpoint folder {source!r}; check the path")
    try:
        found = cached_file(
            source,
            name,
            revision=revision,
            _raise_exceptions_for_missing_entries=required,
        )
    except OSError as error:
        raise CheckpointError(
            f"{source!r} is neither a folder here nor a repository that can be reached: {one_line(error)}"
        ) from error
    return None if found is None else Path(found)


def read_json(source: str, name: str, revision: str | None = None, *, required: bool = False) -> dict[str, Any] | None:
    """A JSON file of a checkpoint, or None where there is none of that name."""
    path = find_file(source, name, revision, required=required)
    if path is None:
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {one_line(error)}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds {type(data).__name__} where an object is expected")
    return data


def read_config(source: str, revision: str | None = None) -> PretrainedConfig:
    """The transformers configuration of a folder or hub id, written by either line of the library."""
    data = read_json(source, "config.json", revision, required=True)
    if data is None:
        raise CheckpointError(f"{source!r} has no config.json, so it is not a transformers checkpoint")
    return config_from_dict(data, source)


def config_from_dict(data: Mapping[str, Any], source: str) -> PretrainedConfig:
    """A configuration object from a parsed config.json. ``source`` is named in errors."""
    fields: dict[str, Any] = copy.deepcopy(dict(data))
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise CheckpointError(
            f"{source!r} is of model_type {model_type!r}, which transformers {transformers.__version__} does not know; "
            "a later release may, and code that a checkpoint brings along is not run"
        )
    if fields.get("quantization_config"):
        raise CheckpointError(
            f"{source!r} holds quantized weights, which are not supported; use the original checkpoint, with the "
            "option quantization where it should take less memory"
        )
    if OLDER_THAN_5:
        _write_rope_the_old_way(fields, source)
    fields.pop("auto_map", None)  # points at code that a checkpoint brings along
    try:
        with quiet_transformers():
            config: PretrainedConfig = CONFIG_MAPPING[model_type].from_dict(fields)
    except Exception as error:  # configurations check their values each in its own way
        raise CheckpointError(
            f"the config.json of {source!r} does not suit transformers {transformers.__version__}: {one_line(error)}"
        ) from error
    return config


def _write_rope_the_old_way(data: dict[str, Any], source: str) -> None:
    """Turns the ``rope_parameters`` that transformers 5 writes into the fields that 4.57 reads.

    4.57 ignores the new field without a word and would run with default frequencies.
    """
    for value in data.values():
        if isinstance(value, dict):
            _write_rope_the_old_way(value, source)
    rope = data.pop("rope_parameters", None)
    if not isinstance(rope, dict):
        return
    if set(rope) == {"full_attention", "sliding_attention"}:
        data["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    elif any(isinstance(value, dict) for value in rope.values()):
        raise CheckpointError(
            f"{source!r} was written by transformers 5 with rotary settings {sorted(rope)} that "
            f"{transformers.__version__} has no fields for; load it under transformers 5"
        )
    rope = dict(rope)
    if "rope_theta" in rope:
        data["rope_theta"] = data["rotary_emb_base"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        data["partial_rotary_factor"] = data["rotary_pct"] = rope.pop("partial_rotary_factor")
    if data.get("model_type") == "phi3" and rope.get("rope_type") == "longrope":  # there just these three may be
        data.setdefault("original_max_position_embeddings", rope.get("original_max_position_embeddings"))
        rope = {"type": "longrope", "short_factor": rope["short_factor"], "long_factor": rope["long_factor"]}
    data["rope_scaling"] = None if rope.get("rope_type", rope.get("type", "default")) == "default" else rope


def load_model(
    model_class: Any,
    config: PretrainedConfig,
    *,
    source: str,
    revision: str | None = None,
    state_dict: dict[str, torch.Tensor] | None = None,
    allow_pickle: bool = False,
    harmless: Mapping[str, str],
    may_miss: Mapping[str, str] | None = None,
    **arguments: Any,
) -> tuple[PreTrainedModel, frozenset[str]]:
    """Weights from a folder, a hub id or a ``state_dict`` into ``model_class``, in float32.

    ``harmless`` and ``may_miss`` map patterns of names that may be left over or absent to the
    reason. Returns the model and the absent names. Raises CheckpointError in one line.
    """
    if state_dict is None:
        safe = has_safetensors(source, revision, allow_pickle)
        arguments |= {"revision": revision or "main", "use_safetensors": safe}
    else:
        arguments["state_dict"] = state_dict
    try:
        with quiet_transformers():
            model, info = model_class.from_pretrained(
                source if state_dict is None else None,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
                **arguments,
            )
    except Exception as error:  # every kind of damage: unreadable, truncated, wrong sizes, unreachable
        raise CheckpointError(f"the weights of {source!r} cannot be loaded: {one_line(error)}") from error
    problems = [str(message) for message in info.get("error_msgs") or ()]
    if info.get("mismatched_keys"):
        problems.append(f"of another shape than config.json says: {_some(str(key) for key in info['mismatched_keys'])}")
    missing = frozenset(info["missing_keys"])
    unexplained = [name for name in missing if not _matches(name, may_miss or {})]
    if unexplained:
        problems.append(f"missing: {_some(unexplained)}")
    left_over = [name for name in info["unexpected_keys"] if not _matches(name, harmless)]
    if left_over:
        problems.append(f"unexpected: {_some(left_over)}")
    if problems:
        raise CheckpointError(
            f"the weights of {source!r} do not fill a {type(model).__name__}: {'; '.join(problems)}; "
            "the checkpoint is damaged or of another kind"
        )
    if getattr(model, "hf_quantizer", None) is None:
        model.float()  # some families keep chosen modules in the file's precision
    return model, missing


def outline_model(
    model_class: Any,
    config: PretrainedConfig,
    *,
    source: str,
    revision: str | None,
    allow_pickle: bool,
    **arguments: Any,
) -> PreTrainedModel:
    """The model of a configuration on torch's meta device, its weights unread.

    Raises CheckpointError where there are no weights, or where those of a folder are damaged.
    """
    if has_safetensors(source, revision, allow_pickle) and is_folder(source):
        check_headers(Path(source).expanduser())
    try:
        with quiet_transformers(), torch.device("meta"):
            model: PreTrainedModel = model_class._from_config(config, **arguments)
    except Exception as error:  # configurations that no model can be made of, each in its own way
        raise CheckpointError(f"no model can be made of the config.json of {source!r}: {one_line(error)}") from error
    return model.float()


def has_safetensors(source: str, revision: str | None, allow_pickle: bool) -> bool:
    """False where the weights are pickles and those are allowed. Raises CheckpointError otherwise.

    Asked beforehand, since the library would go on to look for a conversion under another revision.
    """
    if any(find_file(source, name, revision) for name in ("model.safetensors", "model.safetensors.index.json")):
        return True
    pickles = ("pytorch_model.bin", "pytorch_model.bin.index.json")
    if not any(find_file(source, name, revision) for name in pickles):
        raise CheckpointError(f"{source!r} has no weights: there is no model.safetensors in it; copy it again")
    if not allow_pickle:
        raise CheckpointError(
            f"{source!r} keeps its weights in a pickle (pytorch_model.bin), which can run code when it is read; "
            "convert it to safetensors, or set the option allow_pickle: true if you trust it"
        )
    return False


def _matches(name: str, patterns: Mapping[str, str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _some(names: Any) -> str:
    """The first few of many names."""
    listed = sorted(names)
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Writes ``config.json`` and safetensors weights."""
    with quiet_transformers():
        model.save_pretrained(folder, max_shard_size="5GB")
    # safetensors makes files that their owner alone can read; the umask is to decide, as it does for JSON
    mode = (folder / "config.json").stat().st_mode & 0o777
    for file in folder.glob("*.safetensors"):
        file.chmod(mode)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """JSON with sorted keys and a line end, so that the same data gives the same bytes."""
    path.write_text(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
