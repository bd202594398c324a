"""A server outlives the workers that its model is on: it waits for those that were lost, and loads the model again."""

from __future__ import annotations

import logging

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.errors import AutoDecoError, Closed, ModelFailed
from autodeco_gguf.model.loading import watched

LOOK_SECONDS = 2.0
"""How often to look for a worker that was lost."""

_log = logging.getLogger("autodeco_gguf.server")


class Revival:
    """Brings an engine back, for the thread that runs it.

    Attributes:
        interval: seconds after which :meth:`look` is to be called again; None: never.
        ended: set by any thread, for good: a load that is under way comes to nothing, soon.
    """

    def __init__(self, engine: Engine) -> None:
        """Of an engine, which may be on workers or not."""
        self._engine, self._told, self.ended = engine, "", False
        self.interval = LOOK_SECONDS if engine.machine.rpc else None

    def check(self) -> None:
        """Raise ModelFailed while a worker is lost."""
        lost = self._engine.lost
        if lost is not None:
            raise ModelFailed(lost, key="rpc")

    def look(self) -> bool:
        """Whether workers were lost and are back, and the model is loaded again. What is in the way is said once."""
        lost = self._engine.lost
        if lost is None:
            return False
        try:
            with watched(self._go_on):
                self._engine.reload()
        except Closed:
            return False
        except (AutoDecoError, OSError) as e:
            self._tell(f"{lost}; waiting for it, the model is not loaded: {e}")
            return False
        self._tell("the workers are back: the model is loaded again")
        return True

    def _go_on(self, share: float) -> None:
        if self.ended:
            raise Closed("the server is shutting down")

    def _tell(self, line: str) -> None:
        if line != self._told:
            self._told = line
            _log.warning("%s", line)
