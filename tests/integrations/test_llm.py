"""llm's command line and its Python with the plugin: answers, chats, what is logged, what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llm
import pytest
from broken import Kind, rewrite
from conftest import Case
from llm.parts import AttachmentPart, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

import autodeco_gguf as ad
import autodeco_gguf.integrations.llm as plugin
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.heads.known import KnownModel
from autodeco_gguf.model.shipped import DEMO_MODEL

from .conftest import Run

ROUNDING = 1e-3
"""Of T and P: a prompt may be computed at once, or go on from one before."""

STORY = "Tell a story about Mia with 47 and 38."
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
PROJECT = (Path(__file__).parent.parent.parent / "pyproject.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def demo() -> Iterator[ad.Engine]:
    with ad.Engine(DEMO_MODEL, n_parallel=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def chatty(qwen2: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with heads and a chat template that shows what it is given."""
    directory = tmp_path_factory.mktemp("chatty")
    base = rewrite(qwen2.base, directory / "b.gguf", metadata={"tokenizer.chat_template": (TEMPLATE, Kind.STRING)})
    return ad.export(base, qwen2.heads, directory / "chatty.gguf").path


@pytest.fixture
def talk(run: Run, chatty: Path, tmp_path: Path) -> Run:
    """llm, which knows it as autodeco/talk."""
    shutil.copy(chatty, tmp_path / "talk.gguf")
    assert (
        run("autodeco", "add", "talk", str(tmp_path / "talk.gguf"), "--ctx", "128").output == "llm -m autodeco/talk\n"
    )
    return run


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that models are given from now on."""
    from autodeco_gguf.model.chat import Chat

    prompts: list[str] = []
    render = Chat.render

    def noting(self: Chat, *args: Any, **kwargs: Any) -> str:
        prompts.append(render(self, *args, **kwargs))
        return prompts[-1]

    monkeypatch.setattr(Chat, "render", noting)
    return prompts


def logged(run: Run) -> list[dict[str, Any]]:
    """llm's log, the oldest first."""
    found: list[dict[str, Any]] = json.loads(run("logs", "--json", "-n", "0").output)
    return found


# ---- answers ----


def test_the_project_names_the_plugin() -> None:
    assert '[project.entry-points.llm]\nautodeco = "autodeco_gguf.integrations.llm"\n' in PROJECT


def test_models_are_listed(run: Run, tiny: KnownModel) -> None:
    lines = run("models").output.splitlines()
    assert {"AutoDeco: autodeco/demo", "AutoDeco: autodeco/tiny"} <= set(lines)
    options = run("models", "-m", "autodeco/demo", "--options").output
    assert re.findall(r"^    (\w+): ", options, re.M) == list(plugin.AutoDecoOptions.model_fields)


@pytest.mark.parametrize("how", [(), ("--no-stream",), ("--async",)])
def test_the_same_answer_as_the_engine_s(run: Run, demo: ad.Engine, how: tuple[str, ...]) -> None:
    (expected,) = demo.generate([ad.Request(demo.prompt(STORY), seed=3)])
    done = run("-m", "autodeco/demo", STORY, "-o", "seed", "3", "-u", *how)
    assert (done.exit_code, done.stdout) == (0, expected.text + "\n")
    (entry,) = logged(run)
    assert entry["response"] == expected.text
    assert (entry["input_tokens"], entry["output_tokens"]) == (22, len(expected.trace))
    noted = entry["response_json"]
    assert noted["temperature"] == pytest.approx(expected.temperature.tolist(), abs=ROUNDING)
    assert noted["top_p"] == pytest.approx(expected.top_p.tolist(), abs=ROUNDING)
    rest = {"finish_reason": "stop", "source": "heads", "seed": 3, "tokens": len(expected.trace)}
    assert noted == {**noted, **rest}
    mean = round(sum(noted["temperature"]) / len(expected.trace), 4)
    assert f'"mean_temperature": {mean}' in done.stderr


def test_without_a_seed_answers_differ_and_the_log_has_what_repeats_them(run: Run) -> None:
    for _ in range(2):
        run("-m", "autodeco/demo", STORY)
    first, second = logged(run)
    assert first["response"] != second["response"]
    again = run("-m", "autodeco/demo", STORY, "-o", "seed", str(first["response_json"]["seed"]))
    assert again.stdout == first["response"] + "\n"


def test_an_answer_comes_in_pieces(user: Path, demo: ad.Engine) -> None:
    pieces = list(llm.get_model("autodeco/demo").prompt(STORY, seed=3))
    assert len(pieces) > 20
    assert "".join(pieces) == demo.generate([ad.Request(demo.prompt(STORY), seed=3)])[0].text


def test_asyncio(user: Path, demo: ad.Engine) -> None:
    async def ask(seed: int) -> str:
        response = llm.get_async_model("autodeco/demo").prompt(STORY, seed=seed)
        return "".join([piece async for piece in response])

    async def both() -> list[str]:
        return list(await asyncio.gather(ask(3), ask(4)))

    results = demo.generate([ad.Request(demo.prompt(STORY), seed=seed) for seed in (3, 4)])
    assert asyncio.run(both()) == [result.text for result in results]


def test_one_engine_of_a_model_in_a_process(user: Path) -> None:
    for _ in range(2):
        llm.get_model("autodeco/demo").prompt(STORY, max_tokens=1).text()
    assert [source.model for source in plugin._engines].count(str(DEMO_MODEL)) == 1


def test_a_known_model_whatever_lies_in_the_directory(
    run: Run, tiny: KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny").write_text("no model")
    done = run("-m", "autodeco/tiny", "Hello", "-o", "max_tokens", "4")
    assert done.exit_code == 0, done.output
    assert logged(run)[0]["response_json"]["source"] == "heads"
    plugin._engines.pop(plugin.Source("tiny")).close()


# ---- options ----


@pytest.mark.parametrize(
    ("options", "source"),
    [({}, "heads"), ({"heads": "off"}, {"temperature": "file", "top_p": "default"}), ({"top_p": 0.5}, None)],
)
def test_the_file_decides_where_no_head_does(
    options: dict[str, Any], source: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "_recommended", lambda _: {"temperature": 0.5, "top_k": 1})
    words = [word for name, value in options.items() for word in ("-o", name, str(value))]
    run("-m", "autodeco/demo", STORY, "-o", "max_tokens", "5", *words)
    noted = logged(run)[0]["response_json"]
    assert noted["source"] == (source or {"temperature": "heads", "top_p": "client"})
    assert (set(noted["temperature"]) == {0.5}) == ("heads" in options)


@pytest.mark.parametrize(
    ("options", "given", "source"),
    [
        ({"temperature": 0}, {"temperature": 0}, {"temperature": "client", "top_p": "heads"}),
        ({"top_p": 0.5}, {"top_p": 0.5}, {"temperature": "heads", "top_p": "client"}),
        ({"temperature": 2, "top_p": 0.9}, {"temperature": 2, "top_p": 0.9}, "client"),
        ({"heads": "off"}, {"temperature": 1, "top_p": 1}, "default"),
        ({"heads": "temperature"}, {"top_p": 1}, {"temperature": "heads", "top_p": "default"}),
        (
            {"heads": "top_p", "top_p": 0.5},
            {"temperature": 1, "top_p": 0.5},
            {"temperature": "default", "top_p": "client"},
        ),
        ({"heads": "on"}, {}, "heads"),
        ({"top_k": 1}, {"top_k": 1}, "heads"),
        ({"min_p": 0.9}, {"min_p": 0.9}, "heads"),
        ({"repeat_penalty": 1.5}, {"repeat_penalty": 1.5}, "heads"),
        ({"max_tokens": 5}, {"max_tokens": 5}, "heads"),
        ({"stop": "coins"}, {"stop": "coins"}, "heads"),
        ({"stop": '["zzz", " coins"]'}, {"stop": ["zzz", " coins"]}, "heads"),
        ({"stop": "["}, {"stop": "["}, "heads"),
    ],
)
def test_options(run: Run, demo: ad.Engine, options: dict[str, Any], given: dict[str, Any], source: Any) -> None:
    (expected,) = demo.generate([ad.Request(demo.prompt(STORY), seed=1, **given)])
    words = [word for name, value in options.items() for word in ("-o", name, str(value))]
    assert run("-m", "autodeco/demo", STORY, "-o", "seed", "1", *words).stdout == expected.text + "\n"
    noted = logged(run)[0]["response_json"]
    assert noted["temperature"] == pytest.approx(expected.temperature.tolist(), abs=ROUNDING)
    assert noted["top_p"] == pytest.approx(expected.top_p.tolist(), abs=ROUNDING)
    assert noted["source"] == source
    assert noted["finish_reason"] == expected.finish_reason


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "-1"),
        ("temperature", "nan"),
        ("temperature", "inf"),
        ("temperature", "hot"),
        ("top_p", "1.5"),
        ("heads", "maybe"),
        ("seed", "-2"),
        ("seed", str(2**32)),
        ("max_tokens", "0"),
        ("top_k", "-1"),
        ("min_p", "2"),
        ("repeat_penalty", "0"),
        ("stop", "[1]"),
        ("tempreature", "1"),
    ],
)
def test_options_out_of_range(run: Run, name: str, value: str) -> None:
    done = run("-m", "autodeco/demo", STORY, "-o", name, value)
    assert done.exit_code == 1
    assert re.fullmatch(rf"Error: {name}\n  [^\n]+\n", done.output)


@pytest.mark.parametrize("value", [1, [1], {}])
def test_stops_that_are_no_texts(user: Path, value: Any) -> None:
    with pytest.raises(ValueError, match="a text, or a list of texts"):
        llm.get_model("autodeco/demo").prompt(STORY, stop=value)


def test_json_schemas(run: Run) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"good": {"type": "boolean"}}, "required": ["good"]}
    schema["additionalProperties"] = False
    done = run("-m", "autodeco/demo", "A dog", "--schema", json.dumps(schema))
    assert done.exit_code == 0
    assert json.loads(done.stdout) in ({"good": True}, {"good": False})


# ---- chats ----


def test_a_chat_of_two_turns(talk: Run, rendered: list[str]) -> None:
    how = ("-o", "max_tokens", "4", "-o", "seed", "1")
    first = talk("-m", "autodeco/talk", "One", "-s", "Be kind.", *how).stdout.removesuffix("\n")
    talk("-c", "Two", *how)
    talk("-c", "Three", "-s", "Be rude.", *how)
    second = logged(talk)[1]["response"]
    one = "<system>Be kind.<user>One<assistant>"
    two = f"{one}{first}<user>Two<assistant>"
    assert rendered == [one, two, two.replace("kind", "rude") + f"{second}<user>Three<assistant>"]
    assert len({entry["conversation_id"] for entry in logged(talk)}) == 1


def test_llm_chat(talk: Run, rendered: list[str]) -> None:
    done = talk("chat", "-m", "autodeco/talk", "-o", "max_tokens", "3", input="One\nTwo\nexit\n")
    assert done.exit_code == 0, done.output
    first, second = logged(talk)
    assert rendered == ["<user>One<assistant>", f"<user>One<assistant>{first['response']}<user>Two<assistant>"]
    assert second["response_json"]["tokens"] == 3


def test_the_oldest_messages_go_where_the_context_is_full(talk: Run, rendered: list[str]) -> None:
    talk("-m", "autodeco/talk", "old " * 20, "-o", "max_tokens", "40", "-o", "temperature", "2")
    done = talk("-c", "new " * 20, "-o", "max_tokens", "4")
    assert done.exit_code == 0
    assert "the context is full" in done.stderr
    assert "old" not in rendered[-1]


def test_the_demo_answers_one_message(run: Run, demo: ad.Engine) -> None:
    run("-m", "autodeco/demo", "Tell a story about Tom with 12 and 13.")
    expected = demo.generate([ad.Request(demo.prompt(STORY), seed=1)])[0].text
    assert run("-c", STORY, "-o", "seed", "1").stdout == expected + "\n"


def test_a_program_s_own_messages(talk: Run, rendered: list[str]) -> None:
    thought = ReasoningPart(text="hm")
    messages = [llm.system("A"), llm.user("B"), llm.assistant(thought, "C"), llm.user("D")]
    llm.get_model("autodeco/talk").prompt(messages=messages, max_tokens=1).text()
    assert rendered == ["<system>A<user>B<assistant>C<user>D<assistant>"]
    with pytest.raises(InvalidInput, match="the prompt is empty"):
        llm.get_model("autodeco/talk").prompt(messages=messages[:3]).text()


OTHER_PARTS = [
    llm.user("A", AttachmentPart(attachment=llm.Attachment(type="image/png", content=b"a"))),
    llm.assistant(ToolCallPart(name="f")),
    llm.tool_message(ToolResultPart(name="f", output="7")),
    llm.tool_message(TextPart(text="7")),
]


@pytest.mark.parametrize("message", OTHER_PARTS, ids=lambda m: type(m.parts[-1]).__name__)
def test_messages_with_more_than_text(talk: Run, message: llm.Message) -> None:
    match = f"^a message of role {message.role} with a part of type {type(message.parts[-1]).__name__}: this"
    with pytest.raises(InvalidInput, match=match):
        llm.get_model("autodeco/talk").prompt(messages=[message, llm.user("B")]).text()


# ---- what ends ----


def spawn(user: Path, *args: str) -> subprocess.Popen[bytes]:
    """The command line as a process of its own."""
    code = (
        "import signal, llm.plugins, autodeco_gguf.integrations.llm as p\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored, where the tests run in the background
        "llm.plugins.pm.register(p, 'autodeco')\n"
        "from llm.cli import cli\n"
        "cli()"
    )
    env = {**os.environ, "LLM_USER_PATH": str(user), "LLM_LOAD_PLUGINS": ""}
    pipes: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code, *args], env=env, bufsize=0, **pipes)


def test_ctrl_c_ends_the_answer_and_keeps_it(run: Run, user: Path, merged: Path) -> None:
    run("autodeco", "add", "long", str(merged), "--ctx", "20000")
    with spawn(user, "-m", "autodeco/long", "Hello", "-o", "stop", "never") as process:
        assert process.stdout is not None
        shown = process.stdout.read(8)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")
    (entry,) = logged(run)
    assert entry["response_json"]["finish_reason"] == "interrupt"
    assert (shown + rest).decode() == entry["response"] + "\n"
    assert 0 < entry["response_json"]["tokens"] == len(entry["response_json"]["temperature"]) < 19000


def test_an_interrupt_of_a_program_is_the_program_s(user: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    response = llm.get_model("autodeco/demo").prompt(STORY, seed=1)
    next(iter(response))
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)
    assert llm.get_model("autodeco/demo").prompt(STORY, max_tokens=1).text() != ""


def test_listing_models_loads_nothing(user: Path) -> None:
    code = (
        "import sys, llm, autodeco_gguf.integrations.llm as p\n"
        "p.register_models(lambda *models: models[0].Options(seed=1))\n"
        "sys.exit(any(name in sys.modules for name in ('llama_cpp', 'autodeco_gguf._core')))"
    )
    env = {**os.environ, "LLM_USER_PATH": str(user), "LLM_LOAD_PLUGINS": ""}
    assert subprocess.run([sys.executable, "-c", code], env=env, timeout=60).returncode == 0


# ---- the user's own models, and what goes wrong ----


def test_models_of_the_user_s_own(run: Run, qwen2: Case, user: Path) -> None:
    heads = user / "heads.gguf"
    ad.export(qwen2.base, qwen2.heads, heads, adapter=True)
    refused = run("autodeco", "add", "own", str(heads))
    assert (refused.exit_code, "an adapter holds heads only" in refused.output) == (1, True)
    assert run("autodeco", "add", "own", str(qwen2.base), "--heads", str(heads)).exit_code == 0
    assert f"autodeco/own: {qwen2.base.resolve()} --heads {heads}\n" in run("autodeco", "list").output
    assert run("-m", "autodeco/own", "Hello", "-o", "max_tokens", "4").exit_code == 0
    noted = logged(run)[0]["response_json"]
    assert len(set(noted["temperature"])) > 1
    plugin._engines.pop(next(s for s in plugin._engines if s.heads == str(heads))).close()
    assert run("autodeco", "remove", "own").exit_code == 0
    assert "autodeco/own" not in run("models").output


def test_names_that_are_added_and_removed_at_the_same_time(
    run: Run, merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command waits until the one that has read the file has written it."""
    for name in ("a", "b"):
        run("autodeco", "add", name, str(merged))
    add, remove = plugin._add.callback, plugin._remove.callback
    assert add is not None
    assert remove is not None
    others: list[threading.Thread] = []
    read = plugin.read_named

    def reading(file: Path) -> dict[str, plugin.Source]:
        found = read(file)
        if not others:
            others.append(threading.Thread(target=add, args=("c", merged, None, None)))
            others.append(threading.Thread(target=remove, args=("a",)))
            for other in others:
                other.start()
                other.join(0.5)
        return found

    monkeypatch.setattr(plugin, "read_named", reading)
    remove("b")
    for other in others:
        other.join()
    assert sorted(read(plugin._file())) == ["c"]


@pytest.mark.parametrize(
    ("model", "heads"), [("tiny", None), ("tiny", "hf:u/r"), ("{base}", "tiny"), ("hf:u/r", None), ("hf:u/r", "tiny")]
)
def test_a_name_for_a_known_model_or_one_of_the_hub(
    model: str,
    heads: str | None,
    run: Run,
    tiny: KnownModel,
    qwen2: Case,
    merged: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("autodeco_gguf.heads.model_file.find", lambda name: merged)
    source = plugin.Source(model.format(base=qwen2.base.resolve()), heads, 128)
    options = () if heads is None else ("--heads", heads)
    assert run("autodeco", "add", "short", source.model, *options, "--ctx", "128").exit_code == 0
    assert f"autodeco/short: {' '.join((source.model, *options))}\n" in run("autodeco", "list").output
    monkeypatch.chdir(tmp_path)
    Path("tiny").write_text("no model")
    done = run("-m", "autodeco/short", "Hello", "-o", "max_tokens", "4")
    assert done.exit_code == 0, done.output
    assert logged(run)[0]["response_json"]["source"] == "heads"
    engine = plugin._engines.pop(source)
    used = {None: tiny.heads if model == "tiny" else None, "tiny": tiny.heads}.get(heads, Path(str(heads)))
    assert (engine.context.n_ctx, engine.heads_file) == (128, used)
    engine.close()


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("add", "x", "none.gguf"), "none.gguf: "),
        (("add", "demo", str(DEMO_MODEL)), "name 'demo' is that of a model"),
        (("add", "x", __file__), "test_llm.py: "),
        (("add", "x", str(DEMO_MODEL), "--heads", "none.gguf"), "none.gguf: "),
        (("remove", "x"), "name 'x', expected one of none"),
    ],
)
def test_names_and_files_that_will_not_do(run: Run, args: tuple[str, ...], reason: str) -> None:
    done = run("autodeco", *args)
    assert done.exit_code == 1
    assert re.fullmatch(rf"Error: [^\n]*{re.escape(reason)}[^\n]*\n", done.output)


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("-m", "autodeco/none", STORY), "Unknown model: autodeco/none"),
        (("-m", "autodeco/demo", ""), "the prompt is empty"),
        (("-m", "autodeco/demo", "word " * 900), "the context holds 512"),
        (("-m", "autodeco/demo", STORY, "-o", "stop", ""), "stop"),
        (("-m", "autodeco/gone", STORY), "gone.gguf: "),
        (("-m", "autodeco/plain", STORY, "-s", "Be kind."), "a system message needs a chat template"),
        (("-m", "autodeco/plain", STORY, "-o", "heads", "on"), "the model has no heads"),
    ],
)
def test_what_cannot_be_answered(run: Run, user: Path, qwen2: Case, args: tuple[str, ...], reason: str) -> None:
    shutil.copy(qwen2.base, user / "plain.gguf")
    (user / "autodeco.json").write_text('{"gone": "gone.gguf", "plain": "plain.gguf"}')
    done = run(*args)
    assert done.exit_code == 1
    assert re.fullmatch(rf"Error: [^\n]*{re.escape(reason)}[^\n]*\n", done.output), done.output


def test_a_broken_file_of_names_spoils_nothing_else(run: Run, user: Path) -> None:
    (user / "autodeco.json").write_text("{")
    done = run("-m", "autodeco/demo", STORY, "-o", "max_tokens", "2")
    assert done.exit_code == 0
    assert re.fullmatch(r"warning: \S*autodeco\.json: [^\n]+\n", done.stderr)
