"""Checkpoints: what is read from the headers, and every complaint by its words."""

import json
import os
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from src.models import digest
from src.models.checkpoint import check_family, compared, open_checkpoint
from src.models.header import read_header
from src.runtime.errors import UserError
from tests.checkpoints import CONFIG, llama_shapes, random_weights, write_checkpoint, write_family


@pytest.fixture
def family(tmp_path):
    return write_family(tmp_path, ["a", "b"])


def opened(paths):
    models = {name: open_checkpoint(path) for name, path in paths.items()}
    return models.pop("base"), models


def write_raw(folder, header, data=b"", length=None):
    """A safetensors file of any content; returns the folder, which has a config.json."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    size = len(raw) if length is None else length
    (folder / "model.safetensors").write_bytes(size.to_bytes(8, "little") + raw + data)
    return folder


def entry(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


class TestReading:
    @pytest.mark.parametrize("shards", [1, 3])
    def test_what_safetensors_wrote(self, shards, tmp_path):
        weights = random_weights(llama_shapes(), 0)
        folder = write_checkpoint(tmp_path / "m", weights, dtype="BF16", shards=shards)
        model = open_checkpoint(folder)
        assert list(model.tensors) == sorted(weights)
        assert model.path == folder.absolute()
        assert model.config == CONFIG
        assert model.parameters == sum(w.size for w in weights.values())
        assert model.nbytes == 2 * model.parameters
        for name, spec in model.tensors.items():
            stored = load_file(spec.file)[name]
            with spec.file.open("rb") as file:
                file.seek(spec.offset)
                raw = file.read(spec.nbytes)
            assert (spec.dtype, spec.shape) == ("BF16", tuple(stored.shape))
            assert torch.equal(torch.frombuffer(bytearray(raw), dtype=torch.bfloat16).reshape(spec.shape), stored)

    def test_a_folder_of_links_like_the_hubs_cache(self, family, tmp_path):
        snapshot = tmp_path / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        for file in family["a"].iterdir():
            (snapshot / file.name).symlink_to(os.path.relpath(file, snapshot))
        assert open_checkpoint(snapshot).fingerprint() == open_checkpoint(family["a"]).fingerprint()


class TestFingerprint:
    def test_neither_place_nor_sharding_nor_order_matters(self, family, tmp_path):
        wanted = open_checkpoint(family["a"]).fingerprint()
        weights = load_file(family["a"] / "model.safetensors")
        backwards = dict(reversed(weights.items()))
        assert open_checkpoint(write_checkpoint(tmp_path / "x", backwards, shards=2)).fingerprint() == wanted
        remembers = CONFIG | {"_name_or_path": "/elsewhere"}
        assert open_checkpoint(write_checkpoint(tmp_path / "y", weights, config=remembers)).fingerprint() == wanted

    def test_every_bit_of_content_matters(self, family, tmp_path):
        weights = load_file(family["a"] / "model.safetensors")
        prints = {open_checkpoint(family["a"]).fingerprint()}
        prints.add(open_checkpoint(write_checkpoint(tmp_path / "1", weights, config=CONFIG | {"x": 1})).fingerprint())
        weights["model.norm.weight"][3] += 1e-6
        prints.add(open_checkpoint(write_checkpoint(tmp_path / "2", weights)).fingerprint())
        weights["renamed"] = weights.pop("model.norm.weight")
        prints.add(open_checkpoint(write_checkpoint(tmp_path / "3", weights)).fingerprint())
        weights["renamed"] = weights["renamed"].reshape(2, 4)
        prints.add(open_checkpoint(write_checkpoint(tmp_path / "4", weights)).fingerprint())
        assert len(prints) == 5


HEADERS = {
    "length beyond the file": ({"w": entry()}, b"\0" * 8, 10**6, "wrong header, its length is given as 1000000 bytes"),
    "absurd length": ({"w": entry()}, b"\0" * 8, 2**63, "wrong header, its length is given as 9223372036854775808"),
    "not JSON": (b"{nonsense", b"", None, "wrong header, not JSON"),
    "not text": (b"\xff\xfe{}", b"", None, "wrong header, not JSON"),
    "no object": (b"[1, 2]", b"", None, "wrong header, a JSON object was expected"),
    "deep nesting": (b"[" * 100_000, b"", None, "wrong header, not JSON"),
    "a key twice": (b'{"w": {}, "w": {}}', b"", None, "a key comes twice"),
    "entry is no object": ({"w": 3}, b"", None, "tensor w has no dtype, shape and data_offsets"),
    "unknown dtype": ({"w": entry(dtype="F17")}, b"\0" * 8, None, "tensor w has dtype 'F17'; expected one of F64, F32"),
    "dtype is a list": ({"w": entry() | {"dtype": []}}, b"\0" * 8, None, r"tensor w has dtype \[\]; expected one of"),
    "negative shape": (
        {"w": entry(shape=(-2,))},
        b"\0" * 8,
        None,
        r"tensor w has shape \[-2\] .* expected whole numbers",
    ),
    "fractional offsets": ({"w": entry(offsets=(0, 8.0))}, b"\0" * 8, None, "expected whole numbers, begin <= end"),
    "begin after end": ({"w": entry(offsets=(8, 0))}, b"\0" * 8, None, "expected whole numbers, begin <= end"),
    "offsets against shape": (
        {"w": entry(shape=(3,))},
        b"\0" * 8,
        None,
        r"has 8 bytes by its data_offsets and 12 by its",
    ),
    "too many dimensions": (
        {"w": entry(shape=(1,) * 300, offsets=(0, 4))},
        b"\0" * 4,
        None,
        "tensor w has 300 dimensions; expected at most 32",
    ),
    "an escape in a name": ({"w\x1b[31m": entry()}, b"\0" * 8, None, r"the tensor w\\x1b\[31m… has a name"),
    "an endless name": ({"w" * 5000: entry()}, b"\0" * 8, None, "has a name of 5000 characters"),
    "overlap": ({"v": entry(), "w": entry(offsets=(4, 12))}, b"\0" * 12, None, "data_offsets of v and w overlap"),
    "a hole": ({"v": entry(), "w": entry(offsets=(12, 20))}, b"\0" * 20, None, "data_offsets of v and w leave a hole"),
    "beyond the end": ({"w": entry(shape=(4,), offsets=(0, 16))}, b"\0" * 8, None, "truncated, its header speaks of"),
    "more than it says": ({"w": entry()}, b"\0" * 9, None, "wrong header, its header speaks of"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_wrong_headers(name, tmp_path):
    header, data, length, words = HEADERS[name]
    folder = write_raw(tmp_path / "m", header, data, length)
    with pytest.raises(UserError, match=rf"model\.safetensors: .*{words}"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("what", ["a pipe", "a folder", "a link that leads nowhere"])
def test_what_is_no_file_where_one_is_expected(name, what, family):
    file = family["a"] / name
    file.unlink(missing_ok=True)
    if what == "a pipe":
        os.mkfifo(file)
    elif what == "a folder":
        file.mkdir()
    else:
        file.symlink_to("nowhere")

    def look() -> None:
        digest.of_surroundings(open_checkpoint(family["a"]).path)

    with pytest.raises(UserError) as found:
        look()
    assert str(file) in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("name", ["x" * 5000, "\x1b[31mred"])
def test_a_shard_that_no_disk_could_hold(name, family):
    weights = load_file(family["a"] / "model.safetensors")
    (family["a"] / "model.safetensors").unlink()
    index = {"weight_map": dict.fromkeys(weights, f"{name}.safetensors")}
    (family["a"] / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError) as found:
        open_checkpoint(family["a"])
    assert str(found.value).isprintable()
    assert len(str(found.value)) < 1000


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_files(kept, family):
    file = family["a"] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"truncated"):
        open_checkpoint(family["a"])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_damaged_header_is_a_complaint_or_harmless(at, byte, tmp_path_factory):
    """Never another exception, and never a tensor that lies outside the file."""
    folder = tmp_path_factory.mktemp("fuzz")
    write_checkpoint(folder, random_weights({"v": (3, 2), "w": (4,)}, 0))
    file = folder / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[at % len(raw)] = byte
    file.write_bytes(raw)
    try:
        specs = read_header(file)
    except UserError:
        return
    assert all(spec.offset + spec.nbytes <= len(raw) for spec in specs.values())


class TestFolders:
    def test_no_such_folder(self, tmp_path):
        with pytest.raises(UserError, match="no such folder; give the folder of a checkpoint or a hub name"):
            open_checkpoint(tmp_path / "nowhere")

    def test_a_file(self, family):
        with pytest.raises(UserError, match="is a file; expected the folder"):
            open_checkpoint(family["a"] / "model.safetensors")

    def test_no_config(self, family):
        (family["a"] / "config.json").unlink()
        with pytest.raises(UserError, match=r"a: no config\.json; expected the folder of a whole checkpoint"):
            open_checkpoint(family["a"])

    @pytest.mark.parametrize("content", ["{", "[]", "\0"])
    def test_a_damaged_config(self, content, family):
        (family["a"] / "config.json").write_text(content)
        with pytest.raises(UserError, match=r"config\.json: .*JSON"):
            open_checkpoint(family["a"])

    def test_no_weights(self, family):
        (family["a"] / "model.safetensors").unlink()
        with pytest.raises(UserError, match=r"no weights there; expected model\.safetensors"):
            open_checkpoint(family["a"])

    def test_weights_by_another_name(self, family):
        (family["a"] / "model.safetensors").rename(family["a"] / "weights.safetensors")
        with pytest.raises(UserError, match=r"only weights\.safetensors there; expected model\.safetensors"):
            open_checkpoint(family["a"])

    def test_a_pickle(self, family):
        (family["a"] / "model.safetensors").rename(family["a"] / "pytorch_model.bin")
        with pytest.raises(
            UserError, match=r"pickled \(pytorch_model\.bin\).*convert them: python -c.*save_pretrained"
        ):
            open_checkpoint(family["a"])

    def test_an_adapter(self, family):
        (family["a"] / "model.safetensors").rename(family["a"] / "adapter_model.safetensors")
        (family["a"] / "adapter_config.json").write_text("{}")
        with pytest.raises(
            UserError, match=r"an adapter \(LoRA\) only.*merge it into its base first.*merge_and_unload"
        ):
            open_checkpoint(family["a"])

    def test_no_float_tensor(self, tmp_path):
        write_checkpoint(tmp_path / "m", {"ids": torch.arange(4)})
        with pytest.raises(UserError, match="no float tensor"):
            open_checkpoint(tmp_path / "m")

    def test_a_hub_name_offline(self, monkeypatch, tmp_path):
        import huggingface_hub

        def unreachable(name, **_):
            raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
        with pytest.raises(UserError, match=r"no-one/nothing: neither a folder .*\n.*hf download no-one/nothing"):
            open_checkpoint("no-one/nothing")

    def test_a_hub_name(self, monkeypatch, family):
        import huggingface_hub

        asked = {}

        def download(name, **options):
            asked.update(options, name=name)
            return str(family["a"])

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        model = open_checkpoint("someone/a")
        assert (model.source, model.path) == ("someone/a", family["a"].absolute())
        assert asked["name"] == "someone/a"
        assert not any(pattern.endswith((".bin", ".py", ".pt")) for pattern in asked["allow_patterns"])


class TestIndex:
    @pytest.fixture
    def sharded(self, tmp_path):
        return write_checkpoint(tmp_path / "sharded", random_weights(llama_shapes(), 0), shards=2)

    def edit(self, folder, change):
        file = folder / "model.safetensors.index.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    def test_an_absent_shard(self, sharded):
        (sharded / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(UserError, match=r"names the shard model-00002-of-00002\.safetensors, which is absent"):
            open_checkpoint(sharded)

    @pytest.mark.parametrize("file", ["../other.safetensors", "/etc/passwd", "a/../../b", "C:\\x", "..\\x"])
    def test_a_shard_outside_the_folder(self, file, sharded):
        self.edit(sharded, lambda content: content["weight_map"].update({"model.norm.weight": file}))
        with pytest.raises(UserError, match="points outside the folder"):
            open_checkpoint(sharded)

    def test_a_tensor_that_is_not_where_the_index_says(self, sharded):
        self.edit(sharded, lambda content: content["weight_map"].update({"ghost": "model-00001-of-00002.safetensors"}))
        with pytest.raises(UserError, match="tensor ghost is said by the index to be in model-00001-of-00002"):
            open_checkpoint(sharded)

    def test_a_tensor_that_the_index_does_not_know(self, sharded):
        self.edit(sharded, lambda content: content["weight_map"].pop("model.norm.weight"))
        with pytest.raises(UserError, match=r"tensor model\.norm\.weight is, unknown to the index, in model-0000"):
            open_checkpoint(sharded)

    @pytest.mark.parametrize("content", [{}, {"weight_map": {}}, {"weight_map": []}, {"weight_map": {"w": 3}}])
    def test_an_index_without_a_map(self, content, sharded):
        (sharded / "model.safetensors.index.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match="no weight_map from tensors to files"):
            open_checkpoint(sharded)

    def test_an_index_beside_a_single_file(self, sharded, family):
        shutil.copy(family["a"] / "model.safetensors", sharded)
        with pytest.raises(UserError, match=r"both model\.safetensors and .* remove the stale one"):
            open_checkpoint(sharded)


class TestFamily:
    def test_a_sound_one(self, family):
        base, models = opened(family)
        assert check_family(base, models) == []
        assert [tensor.name for tensor in compared(base, models)] == list(base.tensors)

    def change(self, folder, **changes):
        weights = load_file(folder / "model.safetensors")
        for name, value in changes.items():
            if value is None:
                weights.pop(name)
            else:
                weights[name] = value
        write_checkpoint(folder, weights)

    def test_a_missing_tensor(self, family):
        self.change(family["b"], **{"model.norm.weight": None})
        with pytest.raises(UserError, match=r"b lacks the tensor model\.norm\.weight \[8\] of the base"):
            check_family(*opened(family))

    def test_an_extra_tensor(self, family):
        self.change(family["b"], **{"model.extra.weight": torch.ones(3)})
        with pytest.raises(UserError, match=r"b has a tensor model\.extra\.weight \[3\] that the base lacks"):
            check_family(*opened(family))

    def test_another_shape(self, family):
        self.change(family["b"], **{"model.layers.1.mlp.up_proj.weight": torch.ones(8, 12)})
        words = r"model\.layers\.1\.mlp\.up_proj\.weight has shape \[8, 12\] in b and \[12, 8\] in the base"
        with pytest.raises(UserError, match=words):
            check_family(*opened(family))

    def test_a_dtype_without_arithmetic(self, family):
        self.change(family["b"], **{"model.norm.weight": torch.ones(8).to(torch.float8_e4m3fn)})
        with pytest.raises(UserError, match=r"model\.norm\.weight has dtype F8_E4M3 in b; expected one of BF16"):
            check_family(*opened(family))

    def test_another_architecture(self, family):
        (family["b"] / "config.json").write_text(json.dumps(CONFIG | {"model_type": "mistral"}))
        with pytest.raises(UserError, match="b has model_type mistral and the base llama; expected fine-tunes of one"):
            check_family(*opened(family))

    @pytest.mark.parametrize("how", ["the same folder", "a link", "a copy"])
    @pytest.mark.parametrize("of", ["base", "a"])
    def test_the_same_model_twice(self, of, how, family, tmp_path):
        twin = family[of]
        if how == "a link":
            twin = tmp_path / "link"
            twin.symlink_to(family[of])
        if how == "a copy":
            twin = shutil.copytree(family[of], tmp_path / "copy")
        other = "the base" if of == "base" else "a"
        with pytest.raises(UserError, match=rf"twin .* is the same model as {other} .*give each once"):
            check_family(*opened(family | {"twin": twin}))

    def test_vocabularies_of_different_size_are_announced(self, family, tmp_path):
        write_checkpoint(family["b"], random_weights(llama_shapes(vocab=13), 9))
        base, models = opened(family)
        warnings = check_family(base, models)
        assert len(warnings) == 2
        assert warnings[0].startswith(
            "lm_head.weight: vocabulary sizes differ (base 11, a 11, b 13); compared on the 11"
        )
        assert {t.name: t.shape for t in compared(base, models)}["model.embed_tokens.weight"] == (11, 8)

    def test_rotary_frequencies_of_old_versions_are_ignored(self, family):
        self.change(family["b"], **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
        assert check_family(*opened(family)) == []

    @pytest.mark.parametrize("tied", [["base"], ["a"], ["base", "a", "b"]])
    def test_a_tied_head_is_ignored_everywhere(self, tied, family):
        for name in tied:
            self.change(family[name], **{"lm_head.weight": None})
            (family[name] / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": True}))
        base, models = opened(family)
        assert check_family(base, models) == []
        assert "lm_head.weight" not in [tensor.name for tensor in compared(base, models)]
