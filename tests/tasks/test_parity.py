"""Every pipeline gives what transformers' own gives; where transformers 5 has none, what its model gives by a slow twin."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import formers
from tests.tasks.conftest import T5, TEXT, tokenizer_of, words

transformers = pytest.importorskip("transformers")

FLOAT32 = 1e-5
"""Both run in float32, by different orders of additions."""

Make = Callable[[str], Path]
CONTEXT = "The river Thames flows through Oxford, Reading and London."
TEXTS = [*TEXT.splitlines(), "Ada", *words(6, 20, seed=4)]


def theirs(task: str, folder: Path, kind: str, **options: Any) -> Any:
    model = getattr(transformers, kind).from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return transformers.pipeline(task, model=model, tokenizer=tokenizer, **options)


@pytest.mark.parametrize("head", ["masked_token", "pretraining"])
def test_fill_mask(folder: Make, pipe: Callable[..., Any], head: str) -> None:
    kind = "BertForMaskedLM" if head == "masked_token" else "BertForPreTraining"
    texts = ["Ada [MASK] Charles in [MASK].", "[MASK] flows.", *(f"{text} [MASK] London" for text in TEXTS[-6:])]
    if head == "pretraining":  # not among those that their pipeline takes
        reference = theirs("fill-mask", folder("masked_token"), "BertForMaskedLM", top_k=7)
        reference.model.load_state_dict(
            transformers.BertForPreTraining.from_pretrained(folder(head)).state_dict(), strict=False
        )
    else:
        reference = theirs("fill-mask", folder(head), kind, top_k=7)
    found = pipe("fill-mask", head, dtype=None, top_k=7)(texts)
    for text, gaps in zip(texts, found, strict=True):
        wanted = reference(text)
        wanted = wanted if isinstance(wanted[0], list) else [wanted]
        assert len(gaps) == text.count("[MASK]") == len(wanted)
        for gap, choices in zip(gaps, wanted, strict=True):
            assert text[gap.start : gap.end] == "[MASK]"
            assert [c.token_id for c in gap.choices] == [c["token"] for c in choices]
            assert [c.token for c in gap.choices] == [c["token_str"] for c in choices]
            assert [c.score for c in gap.choices] == pytest.approx([c["score"] for c in choices], abs=FLOAT32)


def test_fill_mask_of_chosen_words(folder: Make, pipe: Callable[..., Any]) -> None:
    reference = theirs("fill-mask", folder("masked_token"), "BertForMaskedLM", targets=["London", "river", "and"])
    (gap,) = pipe("fill-mask", "masked_token", dtype=None, targets=("and", "London", "river"))("Ada [MASK] London.")
    wanted = reference("Ada [MASK] London.")
    assert [choice.token for choice in gap.choices] == [choice["token_str"] for choice in wanted]
    assert [choice.score for choice in gap.choices] == pytest.approx([c["score"] for c in wanted], abs=FLOAT32)


@pytest.mark.parametrize("aggregation", ["none", "simple", "first", "average", "max"])
def test_entities(folder: Make, pipe: Callable[..., Any], aggregation: str) -> None:
    reference = theirs("ner", folder("token"), "BertForTokenClassification", aggregation_strategy=aggregation)
    found = pipe("ner", "token", dtype=None, aggregation=aggregation)(TEXTS)
    name = "entity" if aggregation == "none" else "entity_group"
    for text, entities in zip(TEXTS, found, strict=True):
        wanted = reference(text)
        assert [(e.label, e.start, e.end) for e in entities] == [(e[name], e["start"], e["end"]) for e in wanted]
        assert [e.score for e in entities] == pytest.approx([float(e["score"]) for e in wanted], abs=FLOAT32)
        assert all(e.text == text[e.start : e.end] for e in entities)
    assert len({e.label for entities in found for e in entities}) > 1


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid", "none"])
def test_labels_of_texts_and_pairs(folder: Make, pipe: Callable[..., Any], scoring: str) -> None:
    reference = theirs("text-classification", folder("sequence"), "BertForSequenceClassification", top_k=None)
    reference.model.double()  # they round the logits to float32
    given = [*TEXTS, *zip(TEXTS, reversed(TEXTS), strict=True)]
    ours = pipe("text-classification", "sequence", scoring=scoring)
    found = ours([text for text in given if isinstance(text, str) or sum(map(len, text)) < 150])
    kept = [text for text in given if isinstance(text, str) or sum(map(len, text)) < 150]
    assert sum(isinstance(text, tuple) for text in kept) > 3
    for text, labels in zip(kept, found, strict=True):
        inputs = text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}
        wanted = reference([inputs], function_to_apply=scoring)[0]
        assert [label.label for label in labels] == [label["label"] for label in wanted]
        assert [label.score for label in labels] == pytest.approx([x["score"] for x in wanted], abs=1e-6)
    assert len({labels[0].label for labels in found}) > 1


def test_whether_one_sentence_follows_another(folder: Make, pipe: Callable[..., Any]) -> None:
    model = transformers.BertForNextSentencePrediction.from_pretrained(folder("pair"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder("pair"))
    pairs = list(zip(words(5, 12, seed=1), words(5, 12, seed=2), strict=True))
    for pair, labels in zip(pairs, pipe("pair-classification", "pair", dtype=None)(pairs), strict=True):
        with torch.no_grad():
            wanted = model(**tokenizer(*pair, return_tensors="pt")).logits.softmax(-1)[0].tolist()
        scores = {label.label: label.score for label in labels}
        assert [scores["follows"], scores["does not follow"]] == pytest.approx(wanted, abs=FLOAT32)


def test_sentence_embeddings_are_the_mean_of_real_tokens(folder: Make, pipe: Callable[..., Any]) -> None:
    model = transformers.AutoModel.from_pretrained(folder("pooler"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder("pooler"))
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    keep = batch["attention_mask"][..., None]
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mean = (hidden * keep).sum(1) / keep.sum(1)
    ours = pipe("sentence-embedding", "pooler", dtype=None)
    assert torch.allclose(ours(TEXTS, normalise=False), mean, atol=FLOAT32)
    unit = torch.nn.functional.normalize(mean)
    assert torch.allclose(ours(TEXTS), unit, atol=FLOAT32)
    assert torch.allclose(ours(TEXTS, pooling="first", normalise=False), hidden[:, 0], atol=FLOAT32)
    assert torch.allclose(ours.similarity(TEXTS[:3], TEXTS[3:]), unit[:3] @ unit[3:].T, atol=FLOAT32)
    assert torch.allclose(ours(TEXTS[2]), unit[2], atol=FLOAT32)


@pytest.mark.parametrize(
    "settings",
    [
        {"beams": 1},
        {"beams": 4},
        {"beams": 3, "num_return": 2, "length_penalty": 0.3},
        {"beams": 3, "early_stopping": "yes", "prefix": "The river: "},
    ],
    ids=str,
)
def test_translations(folder: Make, pipe: Callable[..., Any], settings: dict[str, Any]) -> None:
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder("t5")).double()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder("t5"))
    early = {"no": False, "yes": True}[settings.get("early_stopping", "no")]
    found = pipe("translation", "t5", max_new_tokens=9, **settings)(TEXTS)
    returned, lengths = settings.get("num_return", 1), set()
    for text, ours in zip(TEXTS, found, strict=True):
        ids = torch.tensor([tokenizer(settings.get("prefix", "") + text)["input_ids"]])
        if ids[0, -1] != model.config.eos_token_id:
            ids = torch.cat([ids, torch.tensor([[model.config.eos_token_id]])], 1)
        made = model.generate(
            ids,
            num_beams=settings["beams"],
            num_return_sequences=returned,
            max_new_tokens=9,
            length_penalty=settings.get("length_penalty", 1.0),
            early_stopping=early if settings["beams"] > 1 else None,
            do_sample=False,
        )
        wanted = [tokenizer.decode(row, skip_special_tokens=True) for row in made]
        assert [one.text.strip() for one in ours] == [one.strip() for one in wanted]
        lengths |= {len(one.ids) for one in ours}
    assert len(lengths) > 1  # some end early, or the end token would go untested


def test_text_generation(folder: Make, pipe: Callable[..., Any]) -> None:
    reference = theirs("text-generation", folder("gpt2"), "GPT2LMHeadModel", max_new_tokens=9, do_sample=False)
    prompts = words(5, 9, seed=7)
    found = pipe("text-generation", "gpt2", dtype=None, max_new_tokens=9, temperature=0.0)(prompts)
    for prompt, (ours,) in zip(prompts, found, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings that their pipeline sets itself
            (wanted,) = reference(prompt, return_full_text=False)
        assert ours.text == wanted["generated_text"]


@pytest.mark.parametrize("head", ["masked_token", "token", "sequence"])
@pytest.mark.parametrize("name", ["albert", "distilbert", "deberta", "deberta_v2"])
def test_encoders_of_every_kind(name: str, head: str, tmp_path: Path) -> None:
    changes = {"num_labels": 3, "labels": ("O", "B-PER", "I-PER")} if head != "masked_token" else {}
    model = formers.build(
        name, preset="nano", vocab_size=149, max_length=64, head=head, init_std=0.3, seed=5, **changes
    )
    formers.save(model, tmp_path / "m", tokenizer=tokenizer_of("wordpiece"))
    texts = TEXTS[4:]
    if head == "masked_token":
        kind, ours, given = "AutoModelForMaskedLM", "fill-mask", [f"{text} [MASK] met" for text in texts]
        found = [[c.score for c in gap.choices] for (gap,) in formers.pipeline(ours, tmp_path / "m")(given)]
        wanted = [[c["score"] for c in row] for row in theirs(ours, tmp_path / "m", kind)(given)]
    elif head == "token":
        kind, ours = "AutoModelForTokenClassification", "token-classification"
        reference = theirs(ours, tmp_path / "m", kind, aggregation_strategy="average")
        entities = formers.pipeline(ours, tmp_path / "m")(texts, aggregation="average")
        found = [[(e.start, e.end, e.score) for e in row] for row in entities]
        wanted = [[(e["start"], e["end"], float(e["score"])) for e in reference(text)] for text in texts]
    else:
        kind, ours = "AutoModelForSequenceClassification", "text-classification"
        found = [[label.score for label in row] for row in formers.pipeline(ours, tmp_path / "m")(texts)]
        wanted = [[x["score"] for x in row] for row in theirs(ours, tmp_path / "m", kind, top_k=None)(texts)]
    for ours_row, theirs_row in zip(found, wanted, strict=True):
        assert ours_row == [pytest.approx(value, abs=2 * FLOAT32) for value in theirs_row]


T5_HEADS = {
    "sequence": ("T5ForSequenceClassification", "text-classification"),
    "token": ("T5ForTokenClassification", "ner"),
    "span": ("T5ForQuestionAnswering", "question-answering"),
}


@pytest.mark.parametrize("head", T5_HEADS)
def test_heads_of_t5(head: str, tmp_path: Path) -> None:
    """Texts of several lengths at once, against one by one: the decoder of a text reads it once more."""
    kind, task = T5_HEADS[head]
    tokenizer = tokenizer_of("unigram")
    labels = {} if head == "span" else {"num_labels": 3, "labels": ("O", "B-PER", "I-PER")}
    ends = {"start_token": tokenizer.special_tokens["<pad>"], "end_token": tokenizer.role("end")}
    model = formers.build("t5", **T5, **ends, **labels, vocab_size=101, head=head, seed=3)
    formers.save(model, tmp_path / "m", tokenizer=tokenizer)
    reference = getattr(transformers, kind).from_pretrained(tmp_path / "m")
    words_of = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    ours = formers.pipeline(task, tmp_path / "m")
    given = [(text, CONTEXT) for text in TEXTS[4:8]] if head == "span" else TEXTS[4:8]
    for text, found in zip(given, ours(given, **{"aggregation": "none"} if head == "token" else {}), strict=True):
        inputs = words_of(*([text] if isinstance(text, str) else text), return_tensors="pt")
        with torch.no_grad():
            out = reference(**inputs)
        if head == "sequence":
            wanted = out.logits.softmax(-1)[0].tolist()
            assert sorted(label.score for label in found) == pytest.approx(sorted(wanted), abs=FLOAT32)
        elif head == "token":
            best = out.logits.softmax(-1)[0, :-1].max(-1)  # without the end token
            wanted = [p for p, i in zip(*map(Tensor.tolist, best), strict=True) if i]
            assert [entity.score for entity in found] == pytest.approx(wanted, abs=FLOAT32)
        else:
            first = inputs["input_ids"][0].tolist().index(ends["end_token"]) + 1
            starts, stops = out.start_logits[0, first:-1].tolist(), out.end_logits[0, first:-1].tolist()
            every = [(i, j) for i in range(len(starts)) for j in range(i, min(i + 30, len(stops)))]
            i, j = max(every, key=lambda span: starts[span[0]] + stops[span[1]])
            places = tokenizer.encode_offsets(CONTEXT)[1]
            assert found[0].text == CONTEXT[places[i][0] : places[j][1]].strip()
