"""Which member of a list a response names first: tables of response, kind, member."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tasks.checkers import get_checker
from autodeco_gguf.tasks.members import _SIGNS, check, first_member, parse
from autodeco_gguf.tasks.questions import kinds

NAMED = [
    # as small models answer
    ("Apple", "fruit", "apple"),
    ("apple.", "fruit", "apple"),
    ("An apple", "fruit", "apple"),
    ("One fruit is the apple.", "fruit", "apple"),
    ("Sure! A fruit: **Mango**.", "fruit", "mango"),
    ("A kind of fruit is a banana, and an apple too.", "fruit", "banana"),
    ("My favorite is the pear", "fruit", "pear"),
    ("Is the apple one?", "fruit", "apple"),
    ("One of my personal favorites is the shrimp. They're a type of crustacean", "crustacean", "shrimp"),
    ("1. Apple\n2. Pear", "fruit", "apple"),
    ("Here are some fruits:\n\n1. Bananas\n2. Apples", "fruit", "banana"),
    ("I'm glad you asked that. The most popular fruit among humans is the plum.", "fruit", "plum"),
    ("When it comes to taste, the best fruit is the fig", "fruit", "fig"),
    ("The breed that is best known is called *Dalmatian*", "breed of dog", "Dalmatian"),
    ("The apostle who is often misunderstood is the apostle who is known as John", "apostle", "John"),
    ("The most obvious one is of course, the Nile. However", "river", "Nile"),
    ("The Bard of Avon: A Taming of the Shrew", "play by Shakespeare", "The Taming of the Shrew"),
    ("The prime minister is no other than Winston Churchill", "British prime minister since 1945", "Winston Churchill"),
    ("A very long list... The U.S. President is Joe Biden", "president of the United States", "Joe Biden"),
    ("Hmm, mango", "fruit", "mango"),
    ("Alright, how about mango?", "fruit", "mango"),
    ("Gladly! Mango.", "fruit", "mango"),
    # what a chat model begins with names nothing
    ("I'm sorry, but I can't assist with that.", "board game", None),
    ("I\u2019m sorry! One board game is chess.", "board game", "chess"),
    ("Sorry! is a board game", "board game", "Sorry"),
    ("Let's go with a carrot.", "board game", None),
    ("I'd love to help! Could you tell me more?", "emotion", None),
    ("I'd be happy to help! One emotion is anger.", "emotion", "anger"),
    ("Love", "emotion", "love"),
    ("As an AI language model, I do not have an occupation.", "occupation", None),
    ("No, I cannot do that.", "gas", None),
    ("NO", "gas", "nitric oxide"),
    ("Let us talk about something else.", "country in North America", None),
    ("Give me a second.", "unit of time", None),
    ("A second", "unit of time", "second"),
    # in LaTeX
    (r"\boxed{Apple}", "fruit", "apple"),
    (r"The final answer is \boxed{apple}.", "fruit", "apple"),
    (r"$\boxed{\text{Apple}}$", "fruit", "apple"),
    (r"\textbf {Apple} or pear", "fruit", "apple"),
    (r"A red \boxed{apple}", "fruit", "apple"),
    (r"$\boxed{97}$", "prime number below 100", "97"),
    (r"\boxed{A carrot}, or \boxed{apple}", "fruit", None),
    (r"\boxed{Quibberry} is a fruit. Apple too.", "fruit", None),
    (r"\boxed{}", "fruit", None),
    # case, accents, plurals, aliases
    ("COTE D'IVOIRE", "country in Africa", "Côte d'Ivoire"),
    ("Ivory Coast!", "country in Africa", "Côte d'Ivoire"),
    ("Cherries and strawberries", "fruit", "cherry"),
    ("Wolves are mammals", "mammal", "wolf"),
    ("It is Java\u2019s rival, C#", "programming language", "Java"),
    ("C++ is a programming language", "programming language", "C++"),
    ("Spider-Man", "superhero", "Spider-Man"),
    ("spiderman", "superhero", "Spider-Man"),
    ("You could try Saint Bernards", "breed of dog", "Saint Bernard"),
    ("St. Lucia", "island in the Caribbean", "Saint Lucia"),
    # the longest name counts
    ("Guinea-Bissau is a country in Africa", "country in Africa", "Guinea-Bissau"),
    ("Guinea is a country in Africa", "country in Africa", "Guinea"),
    ("West Virginia", "state of the United States", "West Virginia"),
    ("A popular breed is the Labrador Retriever.", "breed of dog", "Labrador Retriever"),
    ("Orange juice", "fruit", None),
    ("An orange, of course", "fruit", "orange"),
    ("Vitamin D is a vitamin that", "vitamin", "D"),
    ("The U.S. is one", "country in North America", "United States"),
    # signs within names
    ("The Lion, the Witch and the Wardrobe", "book of Narnia", "The Lion, the Witch, and the Wardrobe"),
    ("Lion, the Witch, and the Wardrobe", "book of Narnia", "The Lion, the Witch, and the Wardrobe"),
    (
        "One book of the Chronicles of Narnia is The Lion the Witch and the Wardrobe.",
        "book of Narnia",
        "The Lion, the Witch, and the Wardrobe",
    ),
    ('One Pixar film is "Monsters, Inc."', "Pixar film", "Monsters, Inc"),
    ("Monsters Inc.", "Pixar film", "Monsters, Inc"),
    ("Monsters: Inc.", "Pixar film", None),
    ("Toy, Story", "Pixar film", None),
    # what another kind has is named, too
    ("A carrot, or an apple", "fruit", None),
    ("A tomato, or an apple", "citrus fruit", None),
    ("Paris, France", "country in Europe", None),
    ("The capital is Paris", "country in Europe", None),
    ("A fruit is a potato, unlike the apple", "fruit", None),
    ("A member of the European Union is the United Kingdom, as France", "member of the European Union", None),
    ("Pluto, then Mars", "planet", None),
    # but it may describe
    ("A fruit from Brazil is the guava", "fruit", "guava"),
    ("In Kenya, a common fruit is the mango", "fruit", "mango"),
    ("A Paris museum fruit: figs", "fruit", None),
    ("The Africa fruit is the date", "fruit", "date"),
    ("A red apple", "fruit", "apple"),
    # what no list has is named where it is the subject
    ("The Golden Gate Bridge is a river. The Nile too.", "river", None),
    ("Quibberry, apple", "fruit", None),
    ("Quibberry is a fruit. Apple is one, too.", "fruit", None),
    ("Quibberry: apple", "fruit", "apple"),
    ("A popular fruit, quite sweet: apple", "fruit", "apple"),
    # verbs that are names elsewhere
    ("It may be winter.", "month", None),
    ("You may like May.", "month", "May"),
    ("May I suggest June?", "month", "June"),
    ("I'd pick a carrot.", "tool", None),
    ("You could pick the hammer.", "tool", "hammer"),
    ("A pick", "tool", "pickaxe"),
    # not
    ("not a carrot, but an apple", "fruit", "apple"),
    ("Not the apple, the pear", "fruit", "pear"),
    ("Any fruit except apples: pears", "fruit", "pear"),
    # the words of the question
    ("One African country is Kenya.", "country in Africa", "Kenya"),
    ("The Nordic countries of Europe are Norway and Sweden", "Nordic country", "Norway"),
    (
        "A US state that begins with the letter M is Ohio, Maine is another",
        "US state that begins with the letter M",
        None,
    ),
    # words within words
    ("Pineapple", "fruit", "pineapple"),
    ("Applesauce-like", "fruit", None),
    ("A grapevine", "fruit", None),
    # numbers
    ("One prime number below 100 is 97.", "prime number below 100", "97"),
    ("The prime number 91, and 7", "prime number below 100", None),
    ("Seventeen", "prime number below 100", "17"),
    ("twenty-three is one", "prime number below 100", "23"),
    ("It is 7.5 or 7", "prime number below 100", None),
    ("1,024 is 2 to the 10th", "power of two", "1024"),
    ("The 1990s were a decade", "year of the 1990s", None),
    ("In 1994", "year of the 1990s", "1994"),
    ("1. 49", "number divisible by 7", "49"),
    # those of the question, also in digits
    ("A number that is divisible by 7 is 50.", "number divisible by 7", None),
    ("A number that is divisible by the number 7 is 49.", "number divisible by 7", "49"),
    ("The number 200 is a multiple of 9.", "multiple of 9", None),
    ("A multiple of 9 is 18", "multiple of 9", "18"),
    ("One power of 2 is 16.", "power of two", "16"),
    ("A power of two is 2.", "power of two", "2"),
    ("A factor of 60 is 12", "divisor of 60", "12"),
    ("60", "divisor of 60", "60"),
    ("7 is divisible by 7", "number divisible by 7", "7"),
    ("Seven is divisible by seven", "number divisible by 7", "7"),
    ("The number 7 is divisible by 7", "number divisible by 7", "7"),
    ("A 2-digit even number is 12", "even number with two digits", "12"),
    # signs
    *((sign, "punctuation mark", "question mark") for sign in ("?", ' "?"\n', "**`?`**", "1. ?")),
    *((sign, "punctuation mark", "exclamation mark") for sign in ("!", "\u201c!\u201d", r"$\boxed{\text{ ! }}$")),
    (";", "punctuation mark", "semicolon"),
    (".", "punctuation mark", "full stop"),
    ('"', "punctuation mark", "quotation mark"),
    ("*", "punctuation mark", "asterisk"),
    ("**", "punctuation mark", None),
    ("?!", "punctuation mark", None),
    ("{", "punctuation mark", "brace"),
    ("\\", "punctuation mark", "slash"),
    (r"\boxed{}", "punctuation mark", None),
    ("?", "fruit", None),
    (":", json.dumps(["colon", "liver"]), None),
    # letters
    ("A vowel is E.", "vowel", "E"),
    ("A.", "vowel", "A"),
    ('The letter "A" is a vowel', "vowel", "A"),
    ("A is a vowel", "vowel", "A"),
    ("I think that U is a vowel", "vowel", "U"),
    ("A human blood type is AB positive", "blood type", "AB"),
    # nothing
    ("", "fruit", None),
    ("...", "fruit", None),
    ("The color blue is", "fruit", None),
    ("I'm sorry for any confusion, but as a chatbot I cannot", "fruit", None),
    ("Name one fruit.", "fruit", None),
]


@pytest.mark.parametrize(("text", "kind", "member"), NAMED)
def test_the_member_named_first(text: str, kind: str, member: str | None) -> None:
    assert first_member(text, kind) == member
    assert check(text, kind) is (member is not None)


@pytest.mark.parametrize("text", ["{}", "**{}**", "One example is {}.", "Sure! {} would be one.", "{}, of course"])
def test_every_member_is_found(text: str) -> None:
    for kind in kinds().values():
        if kind.name not in LETTERS:
            assert [m for m in kind.members if first_member(text.format(m), kind.name) != m] == [], kind.name


LETTERS = ("vowel", "consonant", "Roman numeral", "base of DNA", "blood type", "vitamin")
"""Of which "A" and "I" are words of a sentence, too."""


def test_every_sign_is_a_member() -> None:
    for name, signs in _SIGNS.items():
        assert {first_member(sign, "punctuation mark") for sign in signs} == {name}


def test_a_list_of_ones_own() -> None:
    answer = json.dumps(["pour over", ["French press", "cafetière"]])
    assert first_member("Use a cafetiere", answer) == "French press"
    assert first_member("A pour-over.", answer) == "pour over"
    assert first_member("Espresso", answer) is None
    assert get_checker("member")("French presses", answer)


OWN = [
    # its question is not known, so that any opening may be about it
    ("One brewing method is the French press.", ["pour over", "French press"], "French press"),
    ("For brewing coffee, I recommend the French press.", ["pour over", "French press"], "French press"),
    ("An espresso, or a French press", ["pour over", "French press"], "French press"),
    ("Not the pour over, but the French press", ["pour over", "French press"], "French press"),
    ("One primary color is red.", ["red", "green", "blue"], "red"),
    ("A famous tragedy is Macbeth.", ["Hamlet", "Macbeth"], "Macbeth"),
    ("William Shakespeare's tragedy Hamlet", ["Hamlet", "Macbeth"], "Hamlet"),
    ("A city in North Rhine-Westphalia is Bonn.", ["Bonn", "Cologne"], "Bonn"),
    ("Orange juice", ["orange"], None),
    ("The number 9, or 7", ["7", "11"], None),
    ("One of them is 7.", ["7", "11"], "7"),
    # signs of the members
    *((text, [text], text) for text in ("Monsters, Inc.", "Mission: Impossible", "Good Morning, Vietnam", "Airplane!")),
    ("Mission Impossible", ["Mission: Impossible"], "Mission: Impossible"),
    ("One is Mission, impossible", ["Mission: Impossible"], None),
    ("Mission: Impossible", ["Mission Impossible"], None),
]


@pytest.mark.parametrize(("text", "members", "member"), OWN)
def test_a_list_of_ones_own_within_a_sentence(text: str, members: list[str], member: str | None) -> None:
    assert first_member(text, json.dumps(members)) == member


BAD = ["", "no such kind", "[]", "{}", "5", '["apple", 5]', '[["apple"], []]', '["..."]', '"apple"', "[" * 5000]


@pytest.mark.parametrize("answer", BAD)
def test_an_answer_that_is_no_list(answer: str) -> None:
    with pytest.raises(InvalidInput, match="expected the name of a kind of question, or a list of members") as error:
        parse(answer)
    assert (error.value.key, error.value.found) == ("answer", answer)


def test_a_hostile_response_takes_linear_time() -> None:
    start = time.process_time()
    pieces = ("apple ", 20_000), ("not ", 100_000), ("one of the ", 30_000), ("san ", 50_000), ("\u0301", 100_000)
    for text in (piece * times for piece, times in (*pieces, ("\\a ", 100_000), ("\\a{ ", 100_000))):
        first_member("carrots of " + text, "citrus fruit")
    assert time.process_time() - start < 20


PIECES = (
    "is",
    "are",
    "the",
    "not",
    "one",
    "Sure",
    "apple",
    "red",
    "fruit",
    "orange juice",
    ",",
    ".",
    ":",
    "**",
    "\n",
    "é",
)


@given(st.lists(st.sampled_from(PIECES), max_size=8), st.sampled_from(list(kinds())))
def test_no_response_fails(pieces: list[str], kind: str) -> None:
    first_member(" ".join(pieces), kind)
