"""Methods: what their names stand for, how each samples, which a model allows, and what the searches find."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from autodeco_gguf import AutoDecoError
from autodeco_gguf.evaluation.methods import (
    HELP,
    TEMPERATURES,
    TOP_PS,
    Config,
    Method,
    Points,
    check_names,
    config_of,
    find_distinct,
    find_oracle,
    parse_methods,
    split_names,
)
from autodeco_gguf.model.sampling import Sampling

BOTH = frozenset(("temperature", "top_p"))
MODEL = {"general.sampling.temp": "0.6", "general.name": "x"}


# ---- names ----


@pytest.mark.parametrize(
    ("name", "kind", "config"),
    [
        ("autodeco", "predicted", "autodeco"),
        ("autodeco:temperature", "predicted", "autodeco:temperature"),
        ("autodeco:top_p", "predicted", "autodeco:top_p-alone"),
        ("autodeco:fixed-t", "predicted", "autodeco:top_p"),  # what samples of before call it
        ("greedy", "constant", "static:0,1"),
        ("default", "constant", "static:1,1"),
        ("static:0.60,0.950", "constant", "static:0.6,0.95"),
        ("static:1,1", "constant", "static:1,1"),
        ("static:0,0.5", "constant", "static:0,1"),
        ("static:-0,1", "constant", "static:0,1"),
        ("oracle", "constant", None),
        ("distinct", "constant", None),
        ("mean-shift", "constant", None),
        ("shuffle", "peer", None),
        ("gated", "peer", "gated:1,0.9"),
        ("gated:1.20,0.5", "peer", "gated:1.2,0.5"),
        ("entropy", "peer", "entropy:0.5,1.5"),
        ("entropy:0,2", "peer", "entropy:0,2"),
        ("llama.cpp", "peer", "llama.cpp"),
        ("dynatemp", "peer", "dynatemp:0.5"),
        ("dynatemp:0.30", "peer", "dynatemp:0.3"),
        ("min-p", "peer", "min-p:0.05"),
        ("min-p:1", "peer", "min-p:1"),
        ("top-n-sigma", "peer", "top-n-sigma:1"),
        ("top-n-sigma:1.5", "peer", "top-n-sigma:1.5"),
        ("mirostat2", "peer", "mirostat2"),
        ("mirostat2:3", "peer", "mirostat2:3"),
        ("model", "peer", "model"),
    ],
)
def test_names(name: str, kind: str, config: str | None) -> None:
    assert parse_methods([name], BOTH, MODEL) == [Method(name, kind, config and config_of(config))]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("autodeco", ["autodeco"]),
        ("greedy, oracle", ["greedy", "oracle"]),
        ("static:0.6,0.95,greedy", ["static:0.6,0.95", "greedy"]),
        ("greedy,static:0.6, 0.95 ,static:1,1", ["greedy", "static:0.6,0.95", "static:1,1"]),
        ("static:0.6,greedy", ["static:0.6", "greedy"]),
        ("static:1,2,3", ["static:1,2", "3"]),
        ("gated:1,0.9,entropy:0.5,1.5,gated", ["gated:1,0.9", "entropy:0.5,1.5", "gated"]),
        ("dynatemp:1,2", ["dynatemp:1", "2"]),
        ("", [""]),
        ("greedy,,oracle", ["greedy", "", "oracle"]),
    ],
)
def test_a_list_is_split_at_commas_but_that_of_a_pair(text: str, names: list[str]) -> None:
    assert split_names(text) == names


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gredy", "method 'gredy', expected one of autodeco, .*, static:T,P, oracle, .*, model, all$"),
        ("", "method '', expected one of"),
        ("static", "method 'static', expected one of"),
        ("oracle:1", "method 'oracle:1', expected one of"),
        ("static:0.6", "method static:0.6: expected static:T,P, such as static:0.6,0.95"),
        ("static:1,1,1", "method static:1,1,1: expected static:T,P"),
        ("static:x,1", "method static:x,1: T is x, expected a number from 0 to 100, of at most 6 digits"),
        ("static:,1", "method static:,1: T is missing, expected"),
        ("static:nan,1", "T is nan, expected"),
        ("static:1_0,1", "T is 1_0, expected"),
        ("static:inf,1", "T is inf, expected"),
        ("static:-0.1,1", "T is -0.1, expected"),
        ("static:100.1,1", "T is 100.1, expected a number from 0 to 100"),
        ("static:1,1.1", "P is 1.1, expected a number from 0 to 1,"),
        ("static:0.1234567,1", "T is 0.1234567, expected .* of at most 6 digits"),
        ("dynatemp:0", "method dynatemp:0: RANGE is 0, expected a number above 0 to 10"),
        ("dynatemp:10.5", "RANGE is 10.5, expected"),
        ("min-p:", "method min-p:: P is missing, expected a number above 0 to 1"),
        ("min-p:2", "P is 2, expected"),
        ("top-n-sigma:0", "N is 0, expected a number above 0 to 100"),
        ("gated:1", "method gated:1: expected gated:T_HIGH,THRESHOLD$"),
        ("gated:0,0.5", "T_HIGH is 0, expected a number above 0 to 100"),
        ("gated:1,1.5", "THRESHOLD is 1.5, expected a number above 0 to 1,"),
        ("entropy:1,2,3", "method entropy:1,2,3: expected entropy:A,B$"),
        ("entropy:2,1", "method entropy:2,1: A is 2, expected at most B$"),
        ("shuffle:1", "method 'shuffle:1', expected one of"),
        ("mirostat2:many", "TAU is many, expected a number above 0 to 100"),
    ],
)
def test_what_is_no_method_is_named(name: str, words: str) -> None:
    with pytest.raises(AutoDecoError, match=words):
        check_names(["greedy", name])
    with pytest.raises(AutoDecoError, match=words):
        parse_methods(["greedy", name], BOTH, MODEL)


def test_all() -> None:
    names = [method.name for method in parse_methods(["all", "static:0.6,0.9", "greedy"], BOTH, MODEL)]
    assert sorted(names) == sorted(
        {*(m.name for m in parse_methods(None, BOTH, MODEL)), "distinct", "autodeco:fixed-t", "static:0.6,0.9"}
    )
    assert [method.name for method in parse_methods(["all"], frozenset(), {})][:3] == ["greedy", "default", "oracle"]


def test_no_method_at_all() -> None:
    with pytest.raises(AutoDecoError, match="no method, expected some of autodeco"):
        check_names([])


def test_the_same_name_twice_is_one_method() -> None:
    names = ["default", "greedy", "default", "static:1,1"]
    assert [m.name for m in parse_methods(names, BOTH, {})] == ["default", "greedy", "static:1,1"]


# ---- what applies ----

PEERS = ["gated", "entropy", "llama.cpp", "dynatemp", "min-p", "top-n-sigma", "mirostat2"]
CONSTANTS = ["greedy", "default", "oracle"]


@pytest.mark.parametrize(
    ("heads", "metadata", "names"),
    [
        (
            BOTH,
            MODEL,
            [
                *("autodeco", "autodeco:temperature", "autodeco:top_p", *CONSTANTS, "mean-shift", "shuffle"),
                *PEERS,
                "model",
            ],
        ),
        (frozenset(["top_p"]), {}, ["autodeco", *CONSTANTS, "mean-shift", "shuffle", *PEERS]),
        (frozenset(), {"general.sampling.sequence": "top_k"}, [*CONSTANTS, *PEERS]),
    ],
)
def test_the_default_is_what_applies(heads: frozenset[str], metadata: dict[str, str], names: list[str]) -> None:
    assert [m.name for m in parse_methods(None, heads, metadata)] == names


@pytest.mark.parametrize(
    ("name", "heads", "metadata", "words"),
    [
        ("autodeco", (), {}, "method autodeco: needs heads, the model has none; this model allows greedy, default, "),
        ("mean-shift", (), {}, "method mean-shift: needs heads, the model has none; this model allows"),
        ("shuffle", (), {}, "method shuffle: needs heads, the model has none; this model allows"),
        ("autodeco:top_p", (), {}, "autodeco:top_p: leaves one of two heads out, the model has none; this model"),
        (
            "autodeco:temperature",
            ("top_p",),
            {},
            "one of two heads out, the model has top_p; this model allows autodeco,",
        ),
        ("model", BOTH, {"a": "b"}, r"method model: needs metadata general\.sampling\.\*, the model has none; this"),
        (
            "model",
            BOTH,
            {**MODEL, "general.sampling.sequence": "temperature;top_k"},
            "method model: general.sampling.sequence 'temperature;top_k' cannot be followed, only 'penalties;dry;",
        ),
    ],
)
def test_what_does_not_apply_is_refused(name: str, heads: Any, metadata: dict[str, str], words: str) -> None:
    with pytest.raises(AutoDecoError, match=words):
        parse_methods(["greedy", name], frozenset(heads), metadata)


def test_what_a_model_allows_leaves_out_what_it_does_not() -> None:
    with pytest.raises(AutoDecoError) as info:
        parse_methods(["autodeco"], (), {})
    allowed = str(info.value).partition("this model allows ")[2].split(", ")
    assert allowed == [
        name for name in HELP if not name.startswith("autodeco") and name not in ("mean-shift", "shuffle", "model")
    ]


# ---- sampling ----


def test_the_top_p_head_alone_is_alone() -> None:
    assert config_of("autodeco:top_p-alone").heads == ("top_p",)
    assert {config_of(key).heads for key in ("autodeco", "autodeco:top_p", "autodeco:temperature", "min-p:0.05")} == {
        None
    }


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("autodeco", {}),
        ("autodeco:temperature", {"top_p": 1.0}),
        ("autodeco:top_p", {"temperature": 1.0}),
        ("autodeco:top_p-alone", {"temperature": 1.0}),
        ("static:0.6,0.95", {"temperature": 0.6, "top_p": 0.95}),
        ("static:0,1", {"temperature": 0.0, "top_p": 1.0}),
        ("llama.cpp", {"temperature": 0.8, "top_p": 0.95, "top_k": 40, "min_p": 0.05, "order": "llama.cpp"}),
        ("dynatemp:0.3", {"temperature": 0.8, "top_p": 1.0, "dynatemp_range": 0.3, "order": "llama.cpp"}),
        ("gated:1.2,0.9", {"temperature": 1.2, "top_p": 1.0, "gate": 0.9}),
        ("entropy:0.5,2", {"temperature": 1.25, "top_p": 1.0, "dynatemp_range": 0.75, "order": "llama.cpp"}),
        ("min-p:0.05", {"temperature": 1.0, "top_p": 1.0, "min_p": 0.05}),
        ("top-n-sigma:1.5", {"temperature": 1.0, "top_p": 1.0, "top_n_sigma": 1.5}),
        (
            "mirostat2",
            {"temperature": 0.8, "top_p": 1.0, "mirostat_mode": 2, "mirostat_tau": 5.0, "order": "llama.cpp"},
        ),
        (
            "mirostat2:3",
            {"temperature": 0.8, "top_p": 1.0, "mirostat_mode": 2, "mirostat_tau": 3.0, "order": "llama.cpp"},
        ),
    ],
)
def test_how_a_config_samples(config: str, expected: dict[str, Any]) -> None:
    sampling = config_of(config).sampling({})
    assert sampling == Sampling(**expected)
    sampling.check()


LLAMA_CPP: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "top_k": 40, "min_p": 0.05, "order": "llama.cpp"}


@pytest.mark.parametrize(
    ("metadata", "changed"),
    [
        ({"temp": "0.6", "top_k": "20", "top_p": "0.9"}, {"temperature": 0.6, "top_k": 20, "top_p": 0.9}),
        ({"min_p": "0", "xtc_probability": "0.5"}, {"min_p": 0.0, "xtc_probability": 0.5}),
        ({"xtc_threshold": "0.2"}, {"xtc_threshold": 0.2}),
        ({"penalty_last_n": "-1", "penalty_repeat": "1.1"}, {"penalty_last_n": -1, "repeat_penalty": 1.1}),
        ({"mirostat": "2", "mirostat_tau": "4"}, {"mirostat_mode": 2, "mirostat_tau": 4.0}),
        ({"mirostat_eta": "0.2"}, {"mirostat_eta": 0.2}),
        ({"temp": "-1", "top_k": "-1"}, {"temperature": 0.0, "top_k": 0}),
    ],
)  # fmt: skip
def test_the_models_own_parameters(metadata: dict[str, str], changed: dict[str, Any]) -> None:
    found = config_of("model").sampling({f"general.sampling.{key}": value for key, value in metadata.items()})
    assert found == Sampling(**{**LLAMA_CPP, **changed})


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"top_k": "many"}, "method model: general.sampling.top_k is 'many', expected a number"),
        ({"temp": "inf"}, "general.sampling.temp is 'inf', expected a number"),
        ({"top_p": "1.5"}, r"method model: general.sampling.\*: top_p 1.5, expected"),
        ({"mirostat": "3"}, r"general.sampling.\*: mirostat_mode 3, expected"),
    ],
)
def test_malformed_metadata(metadata: dict[str, str], words: str) -> None:
    with pytest.raises(AutoDecoError, match=words):
        config_of("model").sampling({f"general.sampling.{key}": value for key, value in metadata.items()})


def test_no_such_config() -> None:
    with pytest.raises(AutoDecoError, match="config 'hot:1': nothing that samples"):
        config_of("hot:1").sampling({})


@pytest.mark.parametrize(
    ("config", "pair", "deterministic"),
    [
        ("static:0,1", (0.0, 1.0), True),
        ("static:0.1,0", (0.1, 0.0), False),
        ("autodeco", None, False),
        ("llama.cpp", None, False),
    ],
)
def test_pairs(config: str, pair: tuple[float, float] | None, deterministic: bool) -> None:
    assert config_of(config).pair == pair
    assert config_of(config).deterministic == deterministic


# ---- searches ----


class Known:
    """Points that are known, and which were asked for."""

    def __init__(self, points: Mapping[tuple[str, bool], Points]) -> None:
        self.points, self.asked = points, dict[tuple[str, bool], int]()

    def __call__(self, config: Config, coarse: bool) -> Points:
        self.asked[config.key, coarse] = self.asked.get((config.key, coarse), 0) + 1
        return self.points.get((config.key, coarse), Points(0, 0))


def static(temperature: float, top_p: float) -> str:
    return Config.static(temperature, top_p).key


def test_the_oracle_takes_the_best_temperature_and_then_the_best_top_p() -> None:
    known = Known(
        {
            ("static:0.3,1", False): Points(7, 1),
            ("static:0.3,0.7", False): Points(8, 1),
            ("static:0.3,0.9", False): Points(8, 9),
            ("static:0.5,0.7", False): Points(99, 99),  # not on its way
        }
    )
    assert find_oracle(known) == config_of("static:0.3,0.7")
    wanted = {(static(t, 1.0), False) for t in TEMPERATURES} | {(static(0.3, p), False) for p in TOP_PS}
    assert set(known.asked) == wanted
    assert len(wanted) == 29


def test_distinct_tries_all_pairs_on_some_problems_and_the_best_eight_on_all() -> None:
    first = {(static(t, 0.5), True): Points(0, int(10 * t)) for t in TEMPERATURES}
    known = Known({**first, ("static:1.3,0.5", False): Points(1, 50), ("static:1.2,0.5", False): Points(1, 99)})
    assert find_distinct(known) == config_of("static:1.3,0.5")
    assert {config for config, coarse in known.asked if coarse} == {static(t, p) for t in TEMPERATURES for p in TOP_PS}
    finalists = [static(t, 0.5) for t in TEMPERATURES if t > 1.25]
    assert sorted(config for config, coarse in known.asked if not coarse) == sorted(finalists)
    assert len(finalists) == 8
