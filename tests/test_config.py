from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formers.config import Foreign, from_dict, replace, require, to_dict
from formers.errors import ConfigError
from formers.models import registry


@dataclass(frozen=True)
class Half:
    size: int
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Ratio:
    ratio: float


@dataclass(frozen=True)
class Whole:
    name: str
    count: int = 1
    rate: float = 0.5
    on: bool = False
    limit: int | None = None
    half: Half = Half(3)
    either: Half | Ratio | None = None
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, str] = (1, "x")
    table: Mapping[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    any: Any = None

    def __post_init__(self) -> None:
        require("Whole", [] if self.count > 0 else [f"count is {self.count}, wanted at least 1"])


def test_a_config_survives_json() -> None:
    whole = Whole("n", 3, 1.5, True, 7, Half(5, "b"), Ratio(0.25), (4,), (2, "y"), {"k": 1}, ["p"], {"deep": [1]})
    assert from_dict(Whole, json.loads(json.dumps(to_dict(whole)))) == whole


@given(
    st.builds(
        Whole,
        name=st.text(max_size=5),
        count=st.integers(1, 9),
        rate=st.floats(0, 1) | st.integers(0, 1),
        limit=st.none() | st.integers(),
        either=st.none()
        | st.builds(Half, st.integers(), st.sampled_from(["a", "b"]))
        | st.builds(Ratio, st.floats(0, 1)),
        sizes=st.lists(st.integers()).map(tuple),
    )
)
def test_any_config_survives_json(whole: Whole) -> None:
    assert from_dict(Whole, json.loads(json.dumps(to_dict(whole)))) == whole


def test_an_int_may_stand_for_a_float_and_a_list_for_a_tuple() -> None:
    whole = from_dict(Whole, {"name": "n", "rate": 2, "sizes": [5], "pair": [3, "z"]})
    assert (whole.rate, type(whole.rate), whole.sizes, whole.pair) == (2.0, float, (5,), (3, "z"))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"cuont": 2}, r"Whole: unknown setting 'cuont' \(did you mean 'count'\?\)"),
        ({"zzz": 2}, r"unknown setting 'zzz' \(known: name, count,"),
        ({"count": "2"}, "Whole.count is '2', wanted int"),
        ({"count": True}, "Whole.count is True, wanted int"),
        ({"rate": True}, "Whole.rate is True, wanted float"),
        ({"on": 1}, "Whole.on is 1, wanted bool"),
        ({"limit": 1.5}, "Whole.limit is 1.5, wanted int"),
        ({"half": 3}, "Whole.half is 3, wanted an object"),
        ({"half": {}}, "Whole.half: 'size' is missing"),
        ({"half": {"size": 1, "kind": "c"}}, "Whole.half.kind is 'c', wanted 'a' | 'b'"),
        ({"either": {"size": 1.5}}, "Whole.either.size is 1.5, wanted int; Whole.either: unknown setting 'size'"),
        ({"sizes": [1, "b"]}, r"Whole.sizes\[1\] is 'b', wanted int"),
        ({"sizes": 3}, "Whole.sizes is 3, wanted tuple"),
        ({"pair": [1]}, r"Whole.pair is \[1\], wanted 2 values"),
        ({"table": 3}, "Whole.table is 3, wanted Mapping"),
        ({"names": "abc"}, "Whole.names is 'abc', wanted list"),
        ({"count": 0}, "Whole: count is 0, wanted at least 1"),
    ],
)
def test_what_is_wrong_with_a_config_is_said(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("|", r"\|")):
        from_dict(Whole, {"name": "n"} | wrong)


def test_everything_wrong_with_a_config_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(Whole, {"count": "x", "half": {"kind": "a", "wide": 1}, "cuont": 1})
    for part in (
        "'name' is missing",
        "count is 'x'",
        "'size' is missing",
        "unknown setting 'wide'",
        "unknown setting 'cuont'",
    ):
        assert part in str(caught.value)


def test_replace_checks_names_and_types() -> None:
    whole = Whole("n")
    assert replace(whole) is whole
    assert replace(whole, rate=1, half=Half(9)) == Whole("n", rate=1.0, half=Half(9))
    assert replace(whole, half={"size": 9}) == Whole("n", half=Half(9))
    with pytest.raises(ConfigError, match=r"did you mean 'count'(.|\n)*on is 'yes', wanted bool"):
        replace(whole, cuont=3, on="yes")


# --- other people's configs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ours:
    width: int = 8
    shape: str = "round"
    deep: bool = True


FOREIGN = Foreign(
    "theirs",
    names={"hidden": "width", "form": "shape", "is_deep": "deep"},
    values={"shape": {"circle": "round", "disc": "round", "box": "square"}},
    fixed={"scaled": True},
    defaults={"form": "circle", "is_deep": True},
)


def test_their_settings_become_ours_and_back() -> None:
    ours = Ours(**FOREIGN.read({"model_type": "theirs", "hidden": 5, "form": "disc", "is_deep": False}))
    assert ours == Ours(5, "round", False)
    back = FOREIGN.write(ours)
    assert back == {"model_type": "theirs", "scaled": True, "hidden": 5, "form": "circle", "is_deep": False}
    assert Ours(**FOREIGN.read(back)) == ours


def test_what_their_config_leaves_out_has_their_default() -> None:
    assert FOREIGN.read({"hidden": 5}) == {"width": 5, "shape": "round", "deep": True}


def test_their_settings_that_change_no_number_are_passed_over() -> None:
    passed = {
        "use_cache": True,
        "_private": 1,
        "torch_dtype": "float16",
        "later": None,
        "is_encoder_decoder": False,
        "top_k": 50,
    }
    assert FOREIGN.read({"hidden": 5} | passed) == FOREIGN.read({"hidden": 5})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"form": "star"}, "form='star' is not implemented (known: 'circle', 'disc', 'box')"),
        ({"form": ["circle"]}, "form=['circle'] is not implemented"),
        ({"scaled": False}, "scaled=False is not implemented (only True is)"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder=True is not implemented (only False is)"),
        ({"window": 7}, "window=7 is unknown"),
    ],
)
def test_their_settings_that_are_not_implemented_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FOREIGN.read({"hidden": 5} | wrong)
    assert says in str(caught.value)


def test_all_that_is_refused_is_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        FOREIGN.read({"form": "star", "scaled": False, "window": 7})
    for part in ("hidden is missing", "form='star'", "scaled=False", "window=7"):
        assert part in str(caught.value)


def test_a_setting_of_ours_that_they_have_no_word_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="shape='oval' has no form"):
        FOREIGN.write(Ours(shape="oval"))


FOREIGNERS = [name for name, spec in registry.specs().items() if spec.load().FOREIGN is not None]


@pytest.mark.parametrize("name", FOREIGNERS)
def test_every_setting_of_a_built_in_model_survives_their_form(name: str) -> None:
    module = registry.spec(name).load()
    for preset in [None, *module.PRESETS]:
        config = registry.configure(name, preset)
        theirs = json.loads(json.dumps(module.FOREIGN.write(config)))
        again = from_dict(module.CONFIG, module.FOREIGN.read(theirs))
        assert module.FOREIGN.write(again) == theirs
        left_out = [f for f in to_dict(config) if getattr(config, f) is None]  # null stands for a value worked out
        assert to_dict(again) == to_dict(config) | {f: getattr(again, f) for f in left_out}


@pytest.mark.parametrize("name", FOREIGNERS)
def test_the_configs_that_transformers_writes_are_read(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    module = registry.spec(name).load()
    model_type = module.FOREIGN.model_type
    theirs = transformers.AutoConfig.for_model(model_type).to_dict()
    config = from_dict(module.CONFIG, module.FOREIGN.read(theirs))
    again = transformers.AutoConfig.for_model(**module.FOREIGN.write(config)).to_dict()
    # what a config leaves out is one of our defaults, or read had raised
    said = module.FOREIGN.names.keys() & theirs.keys()
    assert {k: again[k] for k in said} == {k: theirs[k] for k in said}


@pytest.mark.parametrize("name", sorted(registry.specs()))
def test_shares_that_are_dropped_lie_between_0_and_1_in_every_model(name: str) -> None:
    config = registry.configure(name)
    shares = [setting for setting in to_dict(config) if setting.endswith("dropout")]
    for wrong in (-0.1, 1.5, float("nan")):
        for setting in shares:
            with pytest.raises(ConfigError, match=f"{setting} is {wrong}, wanted 0 to 1"):
                replace(config, **{setting: wrong})
    if "init_std" in to_dict(config):
        with pytest.raises(ConfigError, match=r"init_std is -1\.0, wanted at least 0"):
            replace(config, init_std=-1.0)


@pytest.mark.parametrize("name", ["memorizing", "block_recurrent", "melodi"])
def test_buckets_of_distances_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="num_buckets is 1, wanted at least 2"):
        replace(registry.configure(name), num_buckets=1)
    with pytest.raises(ConfigError, match="max_distance is 16, wanted more than half of num_buckets, 16"):
        replace(registry.configure(name), num_buckets=32, max_distance=16)
