"""The demo's stories: what the corpus has, and what the checker lets pass."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tasks import stories
from autodeco_gguf.tasks.wordings import wordings

STORY = (
    "Mia lives near the harbour. One sunny morning Mia finds 47 shiny buttons in a drawer. "
    "Then a kind baker brings 38 more. Mia counts: 47 + 38 = \\boxed{85}. What a lovely day!"
)


def tell(n: int, command: stories.Direction | None = None, **options: bool) -> list[tuple[stories.StoryProblem, str]]:
    rng = random.Random(5)
    listed = stories.problems(n, seed=3, held_out=False, command=command)
    return [(problem, stories.write(problem, rng, **options)) for problem in listed]


@pytest.mark.parametrize(
    "text",
    [
        STORY,
        f"\n {STORY}\t\n",
        STORY.replace("Mia lives near the harbour.", "Near the swamp lives Mia."),
        STORY.replace("Mia lives", "This is a story about Mia, who lives"),
        STORY.replace("What a lovely day!", "It was a dazzling day."),
        STORY.replace("kind baker", "famous penguin"),
    ],
)
def test_a_good_story_passes(text: str) -> None:
    assert stories.check(text, "Mia 47 38")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Mia lives", "Tom lives"),
        ("morning Mia", "morning Tom"),
        ("Mia counts", "Tom counts"),
        ("Mia", "Tom"),
        ("finds 47", "finds 48"),
        ("brings 38", "brings 83"),
        ("47 +", "46 +"),
        ("+ 38", "+ 48"),
        ("47", "38"),
        ("{85}", "{75}"),
        ("{85}", "{085}"),
        ("{85}", "{}"),
        ("{85}", "85"),
        ("\\boxed", "boxed"),
        ("baker", "brewer"),
        ("baker", "basket"),
        (" a kind", ""),
        ("harbour.", "harbour. "),
        ("47 +", "٤٧ +"),
        ("day!", "day."),
        ("day!", "day! The end."),
        ("Mia lives", "So Mia lives"),
        ("day!", "day!<|im_end|>"),
        ("Mia lives near the harbour. ", ""),
        (STORY, f"{STORY} {STORY}"),
        (STORY, ""),
    ],
)
def test_a_bad_story_does_not(old: str, new: str) -> None:
    assert old in STORY
    assert not stories.check(STORY.replace(old, new), "Mia 47 38")


def test_sum_of_three_digits() -> None:
    text = STORY.replace("47", "99").replace("38", "98").replace("85", "197")
    assert stories.check(text, "Mia 99 98")
    assert not stories.check(text.replace("197", "97"), "Mia 99 98")


@given(st.text(max_size=300) | st.text("Mia 4738+=\\boxed{85}.! ", max_size=300))
@settings(max_examples=200, deadline=None)
def test_no_text_raises(text: str) -> None:
    assert stories.check(text, "Mia 47 38") is False
    assert stories.check(STORY + text, "Mia 47 38") == (not text.strip())


@pytest.mark.parametrize(
    "answer", ["", "Mia", "Mia 47", "Mia 47 38 85", "Mia 7 38", "Mia 47 100", "mia 47 38", "Mia  47 38", "Mia 47 38\n"]
)
def test_malformed_answer(answer: str) -> None:
    with pytest.raises(InvalidInput, match=r'^answer .*: not of the form "NAME A B" with numbers 10\.\.99') as info:
        stories.check(STORY, answer)
    assert "\n" not in str(info.value)
    assert (info.value.key, info.value.found) == ("answer", answer)


def test_problems_are_reproducible_and_split() -> None:
    train, test = (stories.problems(300, seed=1, held_out=held_out) for held_out in (False, True))
    assert train == stories.problems(300, seed=1, held_out=False)
    assert train != stories.problems(300, seed=2, held_out=False)
    assert {(p.a, p.b) for p in test} <= set(stories.pairs(True))
    assert not set(stories.pairs(True)) & set(stories.pairs(False))
    assert len(stories.pairs(True)) + len(stories.pairs(False)) == 8100
    assert 700 < len(stories.pairs(True)) < 900
    problem = test[0]
    assert problem.answer == f"{problem.name} {problem.a} {problem.b}"
    assert all(str(fact) in problem.prompt for fact in (problem.name, problem.a, problem.b))


def test_commands_end_the_prompt() -> None:
    for kind in ("low", "high"):
        for problem in stories.problems(20, seed=1, held_out=True, command=kind):
            assert problem.prompt.endswith(tuple(" " + sentence for sentence in wordings(kind, held_out=False)))
            assert problem.command == kind
    mixed = Counter(p.command for p in stories.problems(6000, seed=1, held_out=False, command="mixed"))
    assert {kind: round(n / 1000) for kind, n in mixed.items()} == {None: 4, "low": 1, "high": 1}


def test_stories_without_slips_are_right() -> None:
    for command in (None, "low", "high"):
        assert all(stories.check(text, problem.answer) for problem, text in tell(200, command, slips=False))


def test_a_story_in_full() -> None:
    problem = stories.StoryProblem("Mia", 47, 38, "Tell a story about Mia with 47 and 38.")
    assert stories.write(problem, random.Random(6), slips=False) == (
        "Near the harbour lives Mia. One sunny morning Mia finds 47 shiny buttons in a drawer. "
        "Then a friendly baker brings 38 more. Mia counts: 47 + 38 = \\boxed{85}. It was a happy day."
    )


def test_slips_are_as_frequent_as_they_say() -> None:
    told = tell(8000)
    right = sum(stories.check(text, problem.answer) for problem, text in told) / len(told)
    facts = stories.SLIPS
    assert right == pytest.approx(
        (1 - facts["name"]) ** 3 * (1 - facts["digit"]) ** 8.5 * (1 - facts["tens"]) * (1 - facts["ones"]), abs=0.02
    )
    totals = [(str(p.a + p.b), text.partition("boxed{")[2].partition("}")[0]) for p, text in told]
    assert all(len(wanted) == len(said) and said[0] != "0" for wanted, said in totals)
    for place, kind in ((-2, "tens"), (-1, "ones")):
        wrong = sum(wanted[place] != said[place] for wanted, said in totals) / len(totals)
        assert wrong == pytest.approx(facts[kind], abs=0.02)


@pytest.mark.parametrize(("command", "first"), [("low", 0.91), (None, 0.73), ("high", 0.43)])
def test_commands_change_how_often_the_first_word_is_taken(command: stories.Direction | None, first: float) -> None:
    places = stories.SLOTS["place"]
    told = [text for _, text in tell(3000, command)]
    assert sum(places.words[0] in text for text in told) / len(told) == pytest.approx(first, abs=0.03)
    assert stories.probabilities(places, stories.EXPONENT_FACTORS[command])[0] == pytest.approx(first, abs=0.01)


def test_an_article_fits_every_word() -> None:
    for slot in ("container", "kind", "day"):
        assert all(word[0] not in "aeiou" for word in stories.SLOTS[slot].words)
    assert all(len(set(slot.words)) == len(slot.words) for slot in stories.SLOTS.values())
    assert set(stories.words()) >= {"Mia", "harbour", "dazzling"}


def test_needs_nothing_heavy() -> None:
    code = "import sys, autodeco_gguf.tasks.stories; print({'torch', 'transformers', 'llama_cpp'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
