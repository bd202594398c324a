"""Problems as prompts, with requests for answers, and with graders of the answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from autodeco_gguf.answers.drawer import Drawer
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput
from autodeco_gguf.model.sampling import Sampling
from autodeco_gguf.tasks.given import given
from autodeco_gguf.tasks.grading import Grade, Grader
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.programs.grader import Leave
from autodeco_gguf.tasks.tasks import Task


@dataclass(frozen=True)
class Item:
    """A problem, its place in its task, and its prompt."""

    task: str
    number: int
    problem: Problem
    tokens: list[int]

    @property
    def key(self) -> tuple[str, int]:
        """Which problem it is."""
        return self.task, self.number


def render(engine: Drawer, tasks: Iterable[Task], max_tokens: int | None) -> list[Item]:
    """The problems of all tasks; raises BadFile for the first that does not fit, named as file:line."""
    asked = [(task.name, number, problem) for task in tasks for number, problem in enumerate(task.problems)]
    prompts = engine.prompts(problem.text for _, _, problem in asked)
    return [_item(engine, *one, prompts, max_tokens) for one in asked]


def make_item(engine: Drawer, task: str, number: int, problem: Problem, max_tokens: int | None) -> Item:
    """A problem as one message of a user; raises BadFile where it does not fit, named as file:line."""
    return _item(engine, task, number, problem, engine.prompts([problem.text]), max_tokens)


def _item(
    engine: Drawer, task: str, number: int, problem: Problem, prompts: Iterator[list[int]], max_tokens: int | None
) -> Item:
    """That of the next prompt."""
    try:
        item = Item(task, number, problem, next(prompts))
        engine.check(make_request(item, Sampling(temperature=1.0, top_p=1.0), 0, max_tokens))
    except InvalidInput as e:
        raise BadFile(f"{problem.where}: {e}", file=problem.file) from e
    except AutoDecoError as e:
        raise e.within(problem.where) from e
    return item


def make_request(item: Item, sampling: Sampling, seed: int, max_tokens: int | None) -> Request:
    """A request for an answer of at most so many tokens; None: until the context is full."""
    return Request(item.tokens, max_tokens=max_tokens, **{**vars(sampling), "seed": seed})


def digest(items: Iterable[Item]) -> str:
    """Of the problems with their answers and prompts, in their order."""
    found = hashlib.sha256()
    for item in items:
        where = item.task, item.problem.line, item.problem.answer, item.tokens
        found.update(repr(where).encode("utf-8", "surrogatepass"))
    return found.hexdigest()[:16]


class GradedTasks:
    """Tasks with graders for their answers, the same for the same checker; a context manager."""

    def __init__(self, tasks: Sequence[Task], time_limit: float = 10.0, allow_code: Leave | None = None) -> None:
        """Args: the tasks, the seconds that a checker may take for an answer, and how programs may run, None: not.

        Raises:
            InvalidInput: two tasks have the same name.
        """
        names = [task.name for task in tasks]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InvalidInput(f"two tasks are called {twice!r}; rename a file", key="tasks", found=twice)
        self.tasks = tuple(tasks)
        self._checker = {task.name: task.checker for task in tasks}
        self.time_limit, self.allow_code = time_limit, allow_code

    def __enter__(self) -> GradedTasks:
        """Start the graders; raises AutoDecoError for a checker that cannot be had, or an answer it cannot use."""
        graders: dict[str, Grader] = {}  # by checker
        with ExitStack() as stack:
            for task in self.tasks:
                if task.checker not in graders:
                    graders[task.checker] = stack.enter_context(Grader(task.checker, self.time_limit, self.allow_code))
                graders[task.checker].validate(task.problems)
            self._of = {task.name: graders[task.checker] for task in self.tasks}
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def of(self, tasks: Sequence[Task]) -> GradedTasks:
        """These tasks, each with some problems of one of the open ones, with their graders for as long as they last."""
        part = GradedTasks(tasks, self.time_limit, self.allow_code)
        part._of, part._opened = self._of, ExitStack()
        return part

    @property
    def files(self) -> list[Path]:
        """Those that the problems are from, where they are files."""
        names = dict.fromkeys(problem.file for task in self.tasks for problem in task.problems)
        return [path for path in map(Path, names) if path.is_file()]

    def grade(self, item: Item, text: str) -> Grade:
        """Grade an answer to a problem."""
        return self._of[item.task].grade(text, item.problem.answer)

    def given(self, item: Item, text: str, correct: bool | None) -> str | None:
        """What the checker takes out of an answer, as :func:`autodeco_gguf.tasks.given.given` says."""
        return given(self._checker[item.task], text, item.problem.answer, correct)
