"""Model cards from a run's record, and pushes to a hub that is not there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

import formers
from formers.errors import ConfigError, FormersError, RunError, TargetError, WeightsError
from formers.hub.push import Parcel, pack, push
from tests.hub.models import small, tokenizer

LAWS = [
    {"name": "causal by perturbation", "status": "pass", "violation": 0.0, "tolerance": 0.0, "blame": None},
    {"name": "step by step equals whole", "status": "pass", "violation": 3e-12, "tolerance": 1e-9, "blame": None},
    {"name": "tokenizer fits", "status": "not applicable", "violation": None, "tolerance": None, "blame": None},
]


def write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with everything that a run may record."""
    folder, model = tmp_path / "runs" / "mine", small("gpt2")
    formers.save(model, folder / "model", tokenizer=tokenizer())
    shards = tmp_path / "shards"
    shards.mkdir()
    counts = {
        kind: {"train": 7000 + i, "validation": 70 + i} for i, kind in enumerate(("documents", "tokens", "bytes"))
    }
    write(shards, "meta.json", counts | {"tokenizer_kind": "byte", "vocab_size": 257, "overlap": 0.25})
    recipe = {
        "name": "gpt2.nano",
        "architecture": "gpt2",
        "seed": 17,
        "model": formers.config.to_dict(model.config),
        "data": {"sources": ["stdlib", "/home/someone/secret/letters.jsonl"]},
        "train": {"steps": 20, "lr": 0.0007},
        "shards": {"folder": str(shards)},
        "parameters": 1,
    }
    write(folder, "recipe.json", recipe)
    write(folder, "environment.json", {"formers": "0.1.0", "torch": "2.13.0", "device": "cpu", "precision": "bf16"})
    lines = [
        {"kind": "train", "step": 20, "tokens": 81920, "seconds": 75.0, "loss": 2.5},
        {"kind": "eval", "step": 20, "split": "validation", "loss": 2.25, "perplexity": 9.488, "bits_per_byte": 1.625,
         "accuracy": 0.4375, "baselines": {"gzip_bits_per_byte": 2.5}},
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write(folder, "certificate.json", {"target": "gpt2", "ok": True, "laws": LAWS})
    return folder


def metadata(card: str) -> dict[str, Any]:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


# --- the card ---------------------------------------------------------------------------------------------------------


def test_the_card_holds_what_the_run_wrote_down(run: Path) -> None:
    card = pack(run, "me/mine").card
    parameters = sum(p.numel() for p in small("gpt2").parameters())
    for said in (
        "# mine",
        f"architecture `gpt2` with {parameters:,} parameters",
        "by the recipe `gpt2.nano`",
        'formers.load("me/mine")',
        'GPT2LMHeadModel.from_pretrained("me/mine")',
        "| train split | 7,000 documents, 7,002 bytes of text, 7,001 tokens |",
        "| tokenizer | byte, 257 ids |",
        "25.0 %",
        "| steps | 20 of 20 |",
        "| tokens | 81,920 |",
        "| time | 1 min 15 s |",
        "| seed | 17 |",
        "| `lr` | `0.0007` |",
        '"d_model": 26',
        "| Validation split, step 20 |",
        "| bits per byte | 1.625 |",
        "| accuracy of the likeliest token | 43.8 % |",
        "gzip bits per byte | 2.5",
        "Every law that applies holds.",
        "| step by step equals whole | pass | 3.0e-12 | 1.0e-09 |",
        "Unknown: whoever pushed this model did not state one",
    ):
        assert said in card, said


def test_the_metadata_is_yaml_that_the_hub_understands(run: Path) -> None:
    found = metadata(pack(run, "me/mine").card)
    assert (found["library_name"], found["license"]) == ("transformers", "unknown")
    assert (found["pipeline_tag"], found["tags"]) == ("text-generation", ["formers", "gpt2"])
    (result,) = found["model-index"][0]["results"]
    assert {m["type"]: m["value"] for m in result["metrics"]}["bits_per_byte"] == 1.625
    huggingface_hub = pytest.importorskip("huggingface_hub")
    assert huggingface_hub.ModelCard(pack(run, "me/mine").card).data.eval_results[0].metric_type == "loss"


def test_where_the_text_lay_on_this_machine_is_nobodys_business(run: Path) -> None:
    card = pack(run, "me/mine").card
    assert "`stdlib`, `letters.jsonl`" in card
    assert "secret" not in card
    assert str(run.parent) not in card


def test_what_was_not_recorded_is_said_to_be_missing(run: Path) -> None:
    for name in ("metrics.jsonl", "certificate.json", "environment.json"):
        (run / name).unlink()
    recipe = json.loads((run / "recipe.json").read_text())
    write(run, "recipe.json", {"name": "gpt2.nano", "model": recipe["model"]})
    card = pack(run, "mine").card
    for said in (
        "trained on is not recorded",
        "No evaluation was recorded",
        "No certificate was made",
    ):
        assert said in card, said
    assert "model-index" not in metadata(card)


def test_a_broken_law_is_not_hidden(run: Path) -> None:
    broken = LAWS[0] | {"status": "fail", "violation": 1.0}
    write(run, "certificate.json", {"target": "gpt2", "ok": False, "laws": [broken]})
    assert "A law is broken" in pack(run, "me/mine").card


def test_a_run_that_failed_is_not_praised(run: Path) -> None:
    lines = [{"kind": "train", "step": 5, "tokens": 9, "seconds": 1.0}, {"kind": "event", "step": 5, "level": "error"}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "its record says *failed*" in pack(run, "me/mine").card


def test_a_license_that_is_given_is_stated(run: Path) -> None:
    card = pack(run, "me/mine", license="apache-2.0").card
    assert metadata(card)["license"] == "apache-2.0"
    assert "Unknown" not in card


@pytest.mark.parametrize(
    ("name", "settings", "library", "tag"),
    [
        ("bert", {"head": "token"}, "transformers", "token-classification"),
        ("bert", {"head": "masked_token"}, "transformers", "fill-mask"),
        ("bert", {"head": "pooler"}, "transformers", "feature-extraction"),
        ("t5", {}, "transformers", "text2text-generation"),
        ("memorizing", {}, "formers", "text-generation"),
    ],
)
def test_a_folder_without_a_record_says_what_it_is(
    name: str, settings: dict[str, Any], library: str, tag: str, tmp_path: Path
) -> None:
    folder = formers.save(formers.build(name, preset="nano", **settings), tmp_path / "m")
    card = pack(folder, "me/mine").card
    assert (metadata(card)["library_name"], metadata(card)["pipeline_tag"]) == (library, tag)
    assert f"architecture `{name}`" in card
    assert "without the record of its training" in card
    assert ("transformers has no class" in card) == (library == "formers")


# --- what is pushed ---------------------------------------------------------------------------------------------------


def test_the_files_of_the_model_are_pushed_and_nothing_else(run: Path) -> None:
    for name in ("training_args.bin", "code.py", "vocab.txt", "notes.docx"):
        (run / "model" / name).write_text("x")
    parcel = pack(run, "me/mine")
    wanted = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(parcel.files) == [*wanted, "vocab.txt"]
    assert parcel.left == ["code.py", "notes.docx", "training_args.bin"]
    assert parcel.size == sum((run / "model" / name).stat().st_size for name in parcel.files)


def test_shards_are_pushed_with_their_index(tmp_path: Path) -> None:
    folder = formers.save(small("gpt2"), tmp_path / "m", max_shard_size="9KB")
    parcel = pack(folder, "me/mine")
    assert set(parcel.files) == {path.name for path in folder.iterdir()}
    assert f"{sum(p.numel() for p in small('gpt2').parameters()):,} parameters" in parcel.card


def test_a_card_that_someone_wrote_stays(run: Path) -> None:
    (run / "README.md").write_text("My model.")
    parcel = pack(run, "me/mine")
    assert (parcel.card, parcel.is_ours) == ("My model.", False)
    parcel.write_card()
    assert (run / "README.md").read_text() == "My model."


def test_a_card_that_was_made_is_made_anew_and_does_not_stand_in_the_way_of_saving(tmp_path: Path) -> None:
    folder = formers.save(small("gpt2"), tmp_path / "m")
    first = pack(folder, "me/mine").write_card()
    assert pack(folder, "me/other").is_ours
    assert "# other" in pack(folder, "me/other").card
    formers.save(small("gpt2", seed=5), folder)
    assert not first.exists()
    first.write_text("My model.")
    with pytest.raises(RunError, match=r"README\.md"):
        formers.save(small("gpt2"), folder)


# --- a hub that is not there ------------------------------------------------------------------------------------------


class Refused(OSError):
    """As huggingface_hub's, which is an OSError too."""


class Unreachable(Exception):
    """As httpx's, which is none."""


class Hub(ModuleType):
    """As much of huggingface_hub as a push needs, and what was asked of it."""

    def __init__(self, token: str | None = "hf_x", failing: Exception | None = None) -> None:
        super().__init__("huggingface_hub")
        self.asked: list[tuple[str, Any]] = []
        self.get_token = lambda: token
        self.CommitOperationAdd = SimpleNamespace
        self.HfApi = lambda: self
        self.failing = failing
        self.errors = ModuleType("huggingface_hub.errors")
        self.errors.HfHubHTTPError, self.errors.HTTPError = Refused, Unreachable  # type: ignore[attr-defined]

    def create_repo(self, repo: str, **given: Any) -> Any:
        if self.failing is not None:
            raise self.failing
        self.asked.append(("create", (repo, given)))
        return type("Url", (str,), {"repo_id": "me/" + repo.rpartition("/")[2]})(f"https://hub/{repo}")

    def create_commit(self, repo: str, operations: list[Any], commit_message: str) -> None:
        self.asked.append(("commit", (repo, {o.path_in_repo: o.path_or_fileobj for o in operations}, commit_message)))


def install(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> Hub:
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", hub.errors)
    return hub


@pytest.fixture
def parcel(run: Path) -> Parcel:
    return pack(run, "mine")


def test_everything_goes_in_one_commit(parcel: Parcel, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = install(monkeypatch, Hub())
    assert push(parcel, private=True, message="first") == "https://hub/mine"
    (_, (repo, given)), (_, (whole, files, message)) = hub.asked
    assert (repo, whole, message) == ("mine", "me/mine", "first")
    assert given == {"private": True, "exist_ok": True}
    assert files.keys() == {*parcel.files, "README.md"}
    assert files["README.md"] == parcel.card.encode()
    assert Path(files["model.safetensors"]) == run / "model" / "model.safetensors"


@pytest.mark.parametrize(
    ("hub", "says"),
    [
        (Hub(token=None), r"no token(.|\n)*hf auth login"),
        (Hub(failing=Refused("403 Forbidden: not yours\nRequest ID: 7")), r"refused mine: 403 Forbidden: not yours$"),
        (Hub(failing=Unreachable("Connection refused")), r"cannot be reached: Connection refused(.|\n)*--dry-run"),
        (Hub(failing=ConnectionError("offline mode is enabled")), "cannot be reached: offline mode"),
    ],
    ids=["no token", "refused", "no network", "offline"],
)
def test_what_the_hub_does_not_do_is_one_clear_error(
    hub: Hub, says: str, parcel: Parcel, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, hub)
    with pytest.raises(TargetError, match=says if not says.endswith("$") else says[:-1] + r"\n") as caught:
        push(parcel)
    assert "Request ID" not in str(caught.value)
    assert hub.asked == []


def test_without_huggingface_hub_the_way_to_get_it_is_said(parcel: Parcel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(TargetError, match="pip install huggingface_hub"):
        push(parcel)


@pytest.mark.parametrize("repo", ["", "a/b/c", "me/", "/mine", "me/my model", "../mine", "me\nyou"])
def test_what_is_no_name_of_a_repository_is_refused(repo: str, run: Path) -> None:
    with pytest.raises(TargetError, match="is no name of a repository"):
        pack(run, repo)


def test_what_is_no_model_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="there is no folder"):
        pack(tmp_path / "nowhere", "me/mine")
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        pack(tmp_path, "me/mine")
    (run / "model" / "model.safetensors").rename(run / "model" / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="pickle"):
        pack(run, "me/mine")
    whole = (run / "model" / "pytorch_model.bin").read_bytes()
    (run / "model" / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(WeightsError, match="damaged or cut short"):
        pack(run, "me/mine")
    (run / "model" / "model.safetensors").write_bytes(whole)
    config = (run / "model" / "config.json").read_text()
    (run / "model" / "config.json").write_text(config.replace('"n_layer": 2', '"n_layer": 3'))
    with pytest.raises(WeightsError, match=r"missing transformer\.h\.2"):
        pack(run, "me/mine")
    (run / "model" / "config.json").write_text(config)
    (run / "model").rename(run / "elsewhere")
    with pytest.raises(RunError, match="has no model yet"):
        pack(run, "me/mine")
    (run / "elsewhere").rename(run / "model")
    (run / "recipe.json").write_text("{")
    with pytest.raises(FormersError, match=r"recipe\.json"):
        pack(run, "me/mine")
