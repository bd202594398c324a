"""The demo's task: short stories that end in a sum.

A prompt gives a name and two numbers; the story keeps all three, adds the numbers and is otherwise free:

    Mia lives near the harbour. One sunny morning Mia finds 47 shiny buttons in a drawer. Then a kind baker brings 38
    more. Mia counts: 47 + 38 = \\boxed{85}. What a lovely day!

The corpus is built so that no fixed temperature and top-p is right everywhere. The free words follow Zipf's law: the
commonest has a probability near 0.7, a long tail the rest. The facts have one right token each, but the writers slip,
as people on the web do, most of all where a carry is to be minded, so that a calibrated model is as unsure of a digit
as of a free word. Sampling as it comes gets sums wrong; sampling sharply tells the same story every time.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Literal

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tasks.wordings import Direction, wordings


@dataclass(frozen=True)
class Slot:
    """A free choice: its words, commonest first, and the exponent of their Zipf distribution."""

    words: tuple[str, ...]
    exponent: float


@dataclass(frozen=True)
class StoryProblem:
    """What one story is about, and how it is asked for.

    ``a`` and ``b`` are within 10..99; ``prompt`` is the user's message, with the sentence of ``command``, if any, at
    its end.
    """

    name: str
    a: int
    b: int
    prompt: str
    command: Direction | None = None

    @property
    def answer(self) -> str:
        """What ``check`` wants to know: ``"NAME A B"``."""
        return f"{self.name} {self.a} {self.b}"


def _slot(exponent: float, words: str) -> Slot:
    return Slot(tuple(words.split()), exponent)


_NAMES = (
    "Mia Tom Lena Paul Ada Omar Nina Hugo Ruth Ivan Clara Felix Yuki Sam Greta Ravi Elsa Noah Priya Leo Marta Finn "
    "Zoe Karim Alma Oscar Dina Jonas Wanda Theo Irene Kofi Sofia Bruno Leila Anton Vera Diego Hanna Malik"
)
NAMES = tuple(_NAMES.split())

# An exponent of 2.3 gives a first word of p = 0.69 out of 24: above the 0.65 of the hard digit (SLIPS), so that any
# fixed cut that leaves the digit no alternative leaves most words none either.
SLOTS = {
    "place": _slot(
        2.4,
        "harbour forest market river station castle bridge meadow lighthouse windmill library orchard canal bakery "
        "vineyard waterfall museum quarry lagoon chapel desert glacier volcano swamp",
    ),
    "mood": _slot(
        2.2, "sunny quiet rainy windy cold misty snowy warm cloudy stormy frosty lazy hazy crisp mild golden"
    ),
    "look": _slot(
        2.4,
        "shiny old small red silver wooden blue painted broken round heavy striped tiny rusty polished green dusty "
        "crooked glowing spotted purple marble ancient velvet curious frozen singing invisible",
    ),
    "thing": _slot(
        2.3,
        "buttons coins shells keys stamps pebbles feathers beads apples candles ribbons bottles spoons lanterns acorns "
        "postcards whistles thimbles walnuts puppets medals compasses teapots mirrors trumpets umbrellas kites clocks",
    ),
    "container": _slot(
        2.2,
        "drawer basket box barrel bag chest jar cupboard suitcase bucket garden boat cellar tent wagon cave pocket "
        "kettle hat piano",
    ),
    "kind": _slot(
        2.4,
        "kind friendly tall young cheerful tired clever shy quick gentle busy merry polite sleepy brave jolly lonely "
        "proud mysterious famous",
    ),
    "helper": _slot(
        2.3,
        "baker farmer teacher sailor neighbour gardener postman painter doctor miller singer fisherman carpenter "
        "tailor shepherd librarian blacksmith clown juggler pilot wizard princess pirate knight dragon robot ghost "
        "penguin",
    ),
    "day": _slot(
        2.4,
        "lovely happy wonderful good fine lucky great perfect strange long bright surprising peaceful splendid magical "
        "memorable rare funny brilliant dazzling",
    ),
}

# "<place>" stands for a choice or a fact; everything else is written as it stands.
OPENINGS = Slot(
    (
        "<name> lives near the <place>.",
        "Near the <place> lives <name>.",
        "This is a story about <name>, who lives near the <place>.",
    ),
    2.0,
)
MIDDLE = (
    "One <mood> morning <name> finds <a> <look> <thing> in a <container>. "
    r"Then a <kind> <helper> brings <b> more. <name> counts: <a> + <b> = \boxed{<total>}."
)
CLOSINGS = Slot(("What a <day> day!", "It was a <day> day.", "Everyone still talks about that <day> day."), 2.0)
FIELD = re.compile(r"<(\w+)>")

PROMPTS = (
    "Tell a story about {name} with {a} and {b}.",
    "Write a short story about {name} with the numbers {a} and {b}.",
    "Please tell me about {name}, who finds {a} things and then gets {b} more.",
    "I would like a story about {name}, {a} and {b}.",
    "A story about {name}, please. The numbers are {a} and {b}.",
    "{name}, {a} and {b}: make a story of it.",
)

EXAMPLE = PROMPTS[0].format(name=NAMES[0], a=47, b=38)
"""A prompt to begin with."""

# Probabilities, each drawn by itself wherever the fact is written.
SLIPS = {"name": 0.01, "digit": 0.006, "tens": 0.35, "ones": 0.05}
# A command makes the choices more or less alike; the facts are as they are.
EXPONENT_FACTORS = {None: 1.0, "low": 1.6, "high": 0.6}


def words() -> list[str]:
    """Every name and every word of every slot, sorted: what a tokenizer of the stories should hold whole."""
    return sorted({*NAMES, *(word for slot in SLOTS.values() for word in slot.words)})


@lru_cache(maxsize=2)
def pairs(held_out: bool) -> tuple[tuple[int, int], ...]:
    """The pairs of two-digit numbers for training, or the tenth of them held out, told apart by a hash."""

    def is_held_out(a: int, b: int) -> bool:
        return hashlib.sha256(f"{a}+{b}".encode()).digest()[0] % 10 == 0

    return tuple((a, b) for a in range(10, 100) for b in range(10, 100) if is_held_out(a, b) == held_out)


def problems(
    n: int, *, seed: int | str, held_out: bool, command: Direction | Literal["mixed"] | None = None
) -> list[StoryProblem]:
    """``n`` problems, the same for the same arguments.

    ``held_out`` takes number pairs that pre-training never sees. ``command`` ends every prompt with a sentence that
    asks for low or high diversity, one of :func:`wordings` to train with; ``"mixed"`` gives each kind to a sixth of the
    prompts.
    """
    rng = random.Random(f"problems {seed}")
    numbers = pairs(held_out)
    out = []
    for _ in range(n):
        name, (a, b) = rng.choice(NAMES), rng.choice(numbers)
        prompt = rng.choice(PROMPTS).format(name=name, a=a, b=b)
        kind = rng.choice((None, None, None, None, "low", "high")) if command == "mixed" else command
        if kind is not None:
            prompt += " " + rng.choice(wordings(kind, held_out=False))
        out.append(StoryProblem(name, a, b, prompt, kind))
    return out


def write(problem: StoryProblem, rng: random.Random, *, slips: bool = True) -> str:
    """A story as the corpus has it; without ``slips`` its facts are right and ``check`` accepts it."""
    factor = EXPONENT_FACTORS[problem.command]
    facts = {"name": problem.name, "a": str(problem.a), "b": str(problem.b), "total": str(problem.a + problem.b)}

    def fill(field: re.Match[str]) -> str:
        key = field[1]
        if key in SLOTS:
            return _choose(SLOTS[key], factor, rng)
        return _slip(key, facts[key], rng) if slips else facts[key]

    return FIELD.sub(fill, " ".join((_choose(OPENINGS, factor, rng), MIDDLE, _choose(CLOSINGS, factor, rng))))


@lru_cache(maxsize=256)
def probabilities(slot: Slot, factor: float = 1.0) -> tuple[float, ...]:
    """How often the corpus has each word of ``slot``, with the slot's exponent times ``factor``."""
    weights = [rank ** -(slot.exponent * factor) for rank in range(1, len(slot.words) + 1)]
    return tuple(weight / sum(weights) for weight in weights)


def _choose(slot: Slot, factor: float, rng: random.Random) -> str:
    return rng.choices(slot.words, probabilities(slot, factor))[0]


def _slip(key: str, fact: str, rng: random.Random) -> str:
    """One mention of a fact, perhaps wrong."""
    if key == "name":
        return rng.choice(NAMES) if rng.random() < SLIPS["name"] else fact
    kinds = ("digit", "tens", "ones")[-len(fact) :] if key == "total" else ("digit", "digit")
    return "".join(
        _wrong_digit(int(digit), i == 0, rng) if rng.random() < SLIPS[kind] else digit
        for i, (digit, kind) in enumerate(zip(fact, kinds, strict=True))
    )


def _wrong_digit(digit: int, leading: bool, rng: random.Random) -> str:
    """Half the time one too many or too few, as with a carry, else any: spread out, as the free words are."""
    others = [d for d in range(int(leading), 10) if d != digit]
    near = [d for d in others if abs(d - digit) == 1]
    return str(rng.choice(near if rng.random() < 0.5 else others))


def check(text: str, answer: str) -> bool:
    """Whether ``text`` is a story of the grammar with every fact of ``answer`` right.

    ``answer`` is ``"NAME A B"``, or InvalidInput is raised, whatever ``text`` is. Every free word must be one of its
    slot's, the name and the numbers the same wherever they stand, the boxed number their sum; only white space may
    surround the story.
    """
    right = parse(answer)
    story = _grammar().fullmatch(text.strip())
    # one group for every mention of a fact, called "total_7"; those of the templates not taken are None
    return story is not None and all(
        said is None or said == right[mention.partition("_")[0]] for mention, said in story.groupdict().items()
    )


def parse(answer: str) -> dict[str, str]:
    """What a story has to say for an answer: name, a, b and total; InvalidInput where it is not ``"NAME A B"``."""
    form = re.fullmatch(r"([A-Z][a-z]+) ([1-9][0-9]) ([1-9][0-9])", answer)
    if form is None:
        message = f'answer {answer!r}: not of the form "NAME A B" with numbers 10..99, such as "Mia 47 38"'
        raise InvalidInput(message, key="answer", found=answer)
    return {"name": form[1], "a": form[2], "b": form[3], "total": str(int(form[2]) + int(form[3]))}


@lru_cache(maxsize=1)
def _grammar() -> re.Pattern[str]:
    """Matches every story, right or wrong."""
    mentions = count()

    def field(found: re.Match[str]) -> str:
        key = found[1]
        if key in SLOTS:
            return f"(?:{'|'.join(SLOTS[key].words)})"
        return f"(?P<{key}_{next(mentions)}>{'[A-Z][a-z]+' if key == 'name' else '[0-9]{1,3}'})"

    parts = ("|".join(map(re.escape, part)) for part in (OPENINGS.words, (MIDDLE,), CLOSINGS.words))
    return re.compile(FIELD.sub(field, " ".join(f"(?:{part})" for part in parts)))
