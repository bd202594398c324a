"""train's options for the losses and the heads: recipes, what wins over them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from broken import assert_refused, invoke

from autodeco_gguf.cli.train import train_command
from autodeco_gguf.training.module import HeadKind
from autodeco_gguf.training.recipes import RECIPES
from autodeco_gguf.training.settings import Objective, TrainingSettings
from autodeco_gguf.training.train import Trained, TrainingOptions

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What train is called with."""
    seen: dict[str, Any] = {}

    def spy(base: Path, data: object, output: Path, settings: TrainingSettings, **how: Any) -> Trained:
        seen.update(settings=settings, **how)
        return Trained(output, output, 1, 1, 1, None)

    monkeypatch.setattr("autodeco_gguf.training.train.train", spy)
    return seen


def run(capfd: Capture, *options: object) -> None:
    done = invoke(capfd, "train", "x.gguf", "--data", "d", "-o", "o", *options)
    assert done.status == 0, done.err


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_all_of_it(name: str, called: dict[str, Any], capfd: Capture) -> None:
    run(capfd, "--recipe", name)
    assert called["settings"] == RECIPES[name]


def test_the_defaults_of_the_options_are_those_of_the_settings(called: dict[str, Any], capfd: Capture) -> None:
    run(capfd)
    assert called["settings"] == TrainingSettings()
    assert called["options"] == TrainingOptions()


def test_what_is_given_besides_wins(
    called: dict[str, Any], capfd: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUTODECO_TRAIN_LR", "0.5")
    (tmp_path / "config.toml").write_text("[train]\nbatch = 7\n")
    monkeypatch.setenv("AUTODECO_CONFIG", str(tmp_path / "config.toml"))
    run(capfd, "--recipe", "nemo", "--average", "example", "--easy-mask", 0.6, "--no-feature-gradient", "-c", 99,
        "--initial-top-p", 0.8, "--heads", "temperature", "--seed", 3)  # fmt: skip
    settings, nemo = called["settings"], RECIPES["nemo"]
    assert (settings.lr, settings.batch, settings.max_tokens, settings.seed) == (0.5, 7, 99, 3)
    assert settings.kind == HeadKind(initial_top_p=0.8)
    assert settings.objective == Objective(
        heads=("temperature",), average="example", easy_in=nemo.objective.easy_in, weight_at=nemo.objective.weight_at
    )
    assert (settings.too_long, settings.schedule, settings.warmup) == ("leave-out", "cosine", 20)


def test_every_option_reaches_its_setting(called: dict[str, Any], capfd: Capture) -> None:
    run(capfd, "--average", "example", "--losses", "one", "--easy-mask-in", "both", "--dft-at", "T", "--from", "heads",
        "--feature-gradient", "--heads", "top-p", "--other-head", "frozen", "--schedule", "cosine", "--too-long",
        "leave-out", "--warmup", 12)  # fmt: skip
    expected = Objective(("top_p",), ("temperature",), "one", "example", easy_in="both", weight_at="T")
    assert called["settings"].objective == Objective(**{**vars(expected), "feature_gradient": True})
    assert called["options"].start == "heads"
    assert (called["settings"].schedule, called["settings"].too_long, called["settings"].warmup) == (
        "cosine", "leave-out", 12.0,
    )  # fmt: skip
    run(capfd, "--head-widths", "256,128,64", "--top-p-sees", "temperature")
    assert called["settings"].kind == HeadKind((256, 128, 64), enhanced=False)


def test_epochs_go_before_steps_from_further_off(
    called: dict[str, Any], capfd: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text('[train]\nsteps = 7\nepochs = 3\nother-head = "frozen"\n')
    monkeypatch.setenv("AUTODECO_CONFIG", str(tmp_path / "config.toml"))
    run(capfd)
    assert (called["settings"].steps, called["settings"].objective.frozen) == (7, ())
    run(capfd, "--epochs", 2, "--heads", "both")
    assert (called["settings"].steps, called["settings"].epochs) == (None, 2.0)
    run(capfd, "--steps", 2)
    assert called["settings"].steps == 2
    monkeypatch.setenv("AUTODECO_TRAIN_EPOCHS", "4")
    run(capfd, "--heads", "top-p")
    assert (called["settings"].steps, called["settings"].epochs) == (None, 4.0)
    assert called["settings"].objective.frozen == ("temperature",)


REFUSED: dict[str, tuple[list[object], str]] = {
    "a recipe that is none": (["--recipe", "x"], "'x' is not one of 'trl', 'nemo', 'paper'"),
    "frozen, of both": (["--other-head", "frozen"], "--other-head frozen needs --heads temperature or --heads top-p"),
    "two lengths": (["--steps", 2, "--epochs", 1], "--steps goes instead of --epochs: give one of them"),
    "widths": (["--head-widths", "a"], "'a', expected numbers such as 256 or 256,128,64"),
    "width as Python writes it": (["--head-widths", "2_5"], "'2_5', expected numbers such as 256 or 256,128,64"),
    "no width": (["--head-widths", "0"], "widths [0], expected 1 to 63 numbers"),
    "initial P": (["--initial-top-p", "1"], "initial_top_p 1, expected a number between 0 and 1"),
    "kind of given heads": (["--from", "h", "--head-widths", "8"], "--head-widths has no effect with --from: "),
    "likelihood": (["--from", "likelihood"], "--from likelihood needs --reward"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, capfd: Capture) -> None:
    options, message = REFUSED[name]
    assert_refused(invoke(capfd, "train", "x.gguf", "--data", "d", "-o", "o", *options), message, "--help)", status=2)


@pytest.mark.parametrize("option", ["--recipe trl", "--average example", "--losses one", "--too-long cut"])
def test_what_reward_has_no_use_for(option: str, capfd: Capture) -> None:
    refused = invoke(capfd, "train", "x.gguf", "--reward", "correct", "--task", "demo", "-o", "o", *option.split())
    assert_refused(refused, f"{option.split()[0]} has no effect with --reward", "--help)", status=2)


def test_choices_are_those_of_the_settings() -> None:
    choices = {p.name: list(p.type.choices) for p in train_command.params if isinstance(p.type, click.Choice)}
    assert choices["recipe"] == list(RECIPES)
    for name in ("average", "losses", "easy_in", "weight_at"):
        for value in choices[name]:
            Objective(**{name: value}).check()
    for name in ("schedule", "too_long"):
        for value in choices[name]:
            TrainingSettings(**{name: value}).check()
