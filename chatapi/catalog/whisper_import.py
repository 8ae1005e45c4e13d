"""Imports a Whisper checkpoint of OpenAI's or Hugging Face's form as a model for CTranslate2."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chatapi.catalog import Catalog, checkpoint
from chatapi.catalog.tensor_pickle import Tensor
from chatapi.errors import BadInput, ModelError, WrongMode
from chatapi.storage import atomic_files
from chatapi.storage.atomic_files import writing
from chatapi.storage.layout import DataDirectory

ENGLISH, MULTILINGUAL = 51864, 51865
"""Tokens of an English model, and least tokens of a multilingual one."""
HEAD = 64
"""Width of an attention head, in every Whisper model."""
MOST_JSON = 32 << 20
NO_TIMESTAMPS = "<|notimestamps|>"
"""The last token before the timestamps, which Hugging Face's vocabularies may leave out."""
NAMES = (
    (r"^(?:model|module)\.", ""),
    (r"\.layers\.(\d+)\.", r".blocks.\1."),
    (r"\.self_attn_layer_norm\.", ".attn_ln."),
    (r"\.encoder_attn_layer_norm\.", ".cross_attn_ln."),
    (r"\.final_layer_norm\.", ".mlp_ln."),
    (r"\.self_attn\.", ".attn."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.q_proj\.", ".query."),
    (r"\.k_proj\.", ".key."),
    (r"\.v_proj\.", ".value."),
    (r"\.out_proj\.", ".out."),
    (r"\.fc1\.", ".mlp.0."),
    (r"\.fc2\.", ".mlp.2."),
    (r"embed_positions\.weight$", "positional_embedding"),
    (r"embed_tokens\.", "token_embedding."),
    (r"^encoder\.layer_norm\.", "encoder.ln_post."),
    (r"^decoder\.layer_norm\.", "decoder.ln."),
)
"""Parts of a name in Hugging Face's form -> those in OpenAI's."""


@dataclass(frozen=True)
class _Checkpoint:
    tensors: Mapping[str, Tensor]
    """By their names in OpenAI's form."""
    vocabulary: list[str]
    config: dict[str, Any]
    """CTranslate2's configuration of the model."""

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ModelError(f"the checkpoint has no {name}; it is no Whisper model")
        # CTranslate2 holds what it gets, and writes it as float16.
        return np.ascontiguousarray(self.tensors[name], np.float32)

    def layers(self, side: str) -> int:
        """Number of layers of the encoder or the decoder."""
        return len({name.split(".")[2] for name in self.tensors if name.startswith(f"{side}.blocks.")})


def import_whisper(data: Path, source: Path, name: str) -> None:
    """Convert a checkpoint, and install it as a model of that name with a manifest of the user's own.

    Blocking. Raises ModelError, WrongMode when there is a model of that name, BadInput, StorageError.
    """
    catalog = Catalog(data)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise BadInput(
            f"the name {name[:100]!r} must be of letters, digits, dots, hyphens and underscores; --name sets it"
        )
    if name in catalog.manifests:
        raise WrongMode(f"there is a model {name}; choose another name with --name")
    found = _read(catalog, source)
    work, manifest = DataDirectory(data).importing(name), catalog.own / f"{name}.toml"
    with writing(data):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        catalog.own.mkdir(parents=True, exist_ok=True)
        try:
            _write(found, work)
            atomic_files.write_whole(manifest, _manifest(name, source.name, work, found))
            try:
                Catalog(data).fetch(name)
            except BaseException:
                manifest.unlink(missing_ok=True)
                raise
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _read(catalog: Catalog, source: Path) -> _Checkpoint:
    """The checkpoint of a file or a folder. Raises ModelError."""
    if not source.exists():
        raise ModelError(f"there is no {source}")
    tensors: dict[str, Tensor] = {}
    for path in _files(source):
        tensors |= checkpoint.tensors(path)
    tensors = {_renamed(name): tensor for name, tensor in tensors.items()}
    size = len(tensors.get("decoder.token_embedding.weight", ()))
    if not size:
        raise ModelError(f"{source} holds no Whisper model: it has no embedding of tokens")
    own = _own_vocabulary(source, size)
    vocabulary, config = own if own is not None else _known_vocabulary(catalog, size)
    found = _Checkpoint(tensors, vocabulary, config)
    layers, heads = found.layers("decoder"), found["decoder.token_embedding.weight"].shape[1] // HEAD
    # Which heads align with the audio is known of published models only; the upper half of the layers is usual.
    default = [list(pair) for pair in itertools.product(range(layers // 2, layers), range(heads))]
    config.setdefault("alignment_heads", default)
    return found


def _files(source: Path) -> Iterator[Path]:
    """The files of a checkpoint: one, or those of a folder of Hugging Face's form."""
    if source.is_file():
        yield source
        return
    for pattern in ("model*.safetensors", "pytorch_model*.bin", "*.pt", "*.pth"):
        if found := sorted(source.glob(pattern)):
            yield from found
            return
    raise ModelError(f"{source} has no model.safetensors, pytorch_model.bin, .pt or .pth")


def _renamed(name: str) -> str:
    for pattern, text in NAMES:
        name = re.sub(pattern, text, name)
    return name


def _own_vocabulary(source: Path, size: int) -> tuple[list[str], dict[str, Any]] | None:
    """The vocabulary and the configuration of a folder of Hugging Face's form; None: it has none."""
    if not (source / "vocab.json").is_file():
        return None
    ids = {**_json(source / "vocab.json"), **_json(source / "added_tokens.json")}
    tokens = [""] * size
    for token, number in ids.items():
        if not isinstance(number, int) or not 0 <= number < size:
            raise ModelError(f"the vocabulary of {source} has the number {number!r}; the model has {size} tokens")
        tokens[number] = token
    first = (tokens.index(NO_TIMESTAMPS) if NO_TIMESTAMPS in tokens else size) + 1
    tokens[first:] = [f"<|{0.02 * number:.2f}|>" for number in range(size - first)]
    stated = _json(source / "generation_config.json") or _json(source / "config.json")
    config = {
        "suppress_ids": stated.get("suppress_tokens") or [],
        "suppress_ids_begin": stated.get("begin_suppress_tokens") or [],
        "lang_ids": sorted((stated.get("lang_to_id") or {}).values()) or _language_ids(tokens),
    }
    heads = stated.get("alignment_heads")
    return tokens, {**config, **({"alignment_heads": heads} if heads else {})}


def _known_vocabulary(catalog: Catalog, size: int) -> tuple[list[str], dict[str, Any]]:
    """The vocabulary of an installed model with as many tokens: OpenAI's files have none. Raises ModelError."""
    for manifest in catalog.manifests.values():
        if "vocabulary.txt" in manifest.files and "config.json" in manifest.files and catalog.installed(manifest.name):
            files = catalog.open(manifest.name).files
            lines = files["vocabulary.txt"].read_text(encoding="utf-8").removesuffix("\n").split("\n")
            if len(lines) == size:
                config = _json(files["config.json"])
                return lines, {key: config[key] for key in ("suppress_ids", "suppress_ids_begin", "lang_ids")}
    needed = "whisper-tiny.en-ct2" if size == ENGLISH else "whisper-base-ct2"
    raise ModelError(
        f"the checkpoint has no vocabulary, and no installed model has one of {size} tokens; "
        f"`chatapi models fetch {needed}` installs one of {ENGLISH if size == ENGLISH else MULTILINGUAL}"
    )


def _language_ids(tokens: list[str]) -> list[int]:
    return [number for number, token in enumerate(tokens) if re.fullmatch(r"<\|[a-z]{2,3}\|>", token)]


def _json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty: there is no file. Raises ModelError."""
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8") as file:
            # One that is longer is cut, and so no JSON.
            found = json.loads(file.read(MOST_JSON))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} is no JSON object")
    return found


def _write(found: _Checkpoint, folder: Path) -> None:
    """Writes CTranslate2's files."""
    try:
        from ctranslate2.specs.whisper_spec import WhisperSpec  # type: ignore[import-untyped]
    except ImportError:
        remedy = "pip install 'chatapi-appliance[ctranslate2]'"
        raise ModelError(f"CTranslate2 is not installed; install it with: {remedy}") from None
    heads = found["decoder.token_embedding.weight"].shape[1] // HEAD
    spec = WhisperSpec(found.layers("encoder"), heads, found.layers("decoder"), heads)
    _set_encoder(spec.encoder, found)
    _set_decoder(spec.decoder, found)
    for key, value in found.config.items():
        setattr(spec.config, key, value)
    spec.register_vocabulary(found.vocabulary)
    try:
        spec.validate()
        spec.optimize("float16")
    except (ValueError, AttributeError) as error:
        raise ModelError(f"the checkpoint is no Whisper model: {error}") from error
    spec.save(str(folder))
    (folder / "vocabulary.json").unlink(missing_ok=True)
    (folder / "vocabulary.txt").write_text("".join(f"{each}\n" for each in found.vocabulary), encoding="utf-8")


def _set_encoder(spec: Any, found: _Checkpoint) -> None:
    for name in ("conv1", "conv2"):
        _set_linear(getattr(spec, name), found, f"encoder.{name}")
    spec.position_encodings.encodings = found["encoder.positional_embedding"]
    _set_norm(spec.layer_norm, found, "encoder.ln_post")
    for number, layer in enumerate(spec.layer):
        _set_layer(layer, found, f"encoder.blocks.{number}")


def _set_decoder(spec: Any, found: _Checkpoint) -> None:
    spec.embeddings.weight = found["decoder.token_embedding.weight"]
    # The output layer has the weights of the embedding, which CTranslate2 then writes once.
    spec.projection.weight = spec.embeddings.weight
    spec.position_encodings.encodings = found["decoder.positional_embedding"]
    _set_norm(spec.layer_norm, found, "decoder.ln")
    for number, layer in enumerate(spec.layer):
        name = f"decoder.blocks.{number}"
        _set_layer(layer, found, name)
        cross = f"{name}.cross_attn"
        _set_norm(layer.attention.layer_norm, found, f"{name}.cross_attn_ln")
        _set_linear(layer.attention.linear[0], found, f"{cross}.query")
        _set_fused(layer.attention.linear[1], found, f"{cross}.key", f"{cross}.value")
        _set_linear(layer.attention.linear[2], found, f"{cross}.out")


def _set_layer(spec: Any, found: _Checkpoint, name: str) -> None:
    attention = f"{name}.attn"
    _set_norm(spec.self_attention.layer_norm, found, f"{name}.attn_ln")
    _set_fused(spec.self_attention.linear[0], found, f"{attention}.query", f"{attention}.key", f"{attention}.value")
    _set_linear(spec.self_attention.linear[1], found, f"{attention}.out")
    _set_norm(spec.ffn.layer_norm, found, f"{name}.mlp_ln")
    _set_linear(spec.ffn.linear_0, found, f"{name}.mlp.0")
    _set_linear(spec.ffn.linear_1, found, f"{name}.mlp.2")


def _set_norm(spec: Any, found: _Checkpoint, name: str) -> None:
    spec.gamma, spec.beta = found[f"{name}.weight"], found[f"{name}.bias"]


def _set_linear(spec: Any, found: _Checkpoint, name: str) -> None:
    spec.weight, spec.bias = found[f"{name}.weight"], found[f"{name}.bias"]


def _set_fused(spec: Any, found: _Checkpoint, *names: str) -> None:
    """Several projections as one; those of keys have no bias."""
    weights = [found[f"{name}.weight"] for name in names]
    spec.weight = np.concatenate(weights)
    spec.bias = np.concatenate(
        [
            found[f"{name}.bias"] if f"{name}.bias" in found.tensors else np.zeros(len(weight), np.float32)
            for name, weight in zip(names, weights, strict=True)
        ]
    )


def _manifest(name: str, source: str, folder: Path, found: _Checkpoint) -> str:
    """The manifest of the converted files; their source is removed once they are installed."""
    size = len(found["decoder.token_embedding.weight"])
    languages = (
        ["en"] if size == ENGLISH else sorted({found.vocabulary[each][2:-2] for each in found.config["lang_ids"]})
    )
    codes = [each for each in languages if len(each) == 2]
    files = {each: folder / each for each in ("model.bin", "vocabulary.txt", "config.json")}
    lines = [
        f'name = "{name}"', 'role = "asr"', 'engine = "ctranslate2"',
        f"title = {json.dumps('Imported from ' + source)}",
        'licence = "that of the checkpoint"', 'homepage = "https://github.com/openai/whisper"',
        f"languages = {json.dumps(codes)}", f"memory = {4 * files['model.bin'].stat().st_size}", "quality = 1",
    ]  # fmt: skip
    for each, path in files.items():
        lines += ["", f'[files."{each}"]', f"size = {path.stat().st_size}", f'sha256 = "{atomic_files.digest(path)}"']
    lines += ["", "[[sources]]", 'kind = "path"', f"path = {json.dumps(str(folder))}"]
    return "\n".join(lines) + "\n"
