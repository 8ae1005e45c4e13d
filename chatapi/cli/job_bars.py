"""Progress bars of a job that runs in the foreground, one for each step."""

from __future__ import annotations

from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from chatapi.jobs import JobEvent

COLUMNS: tuple[ProgressColumn, ...] = (
    SpinnerColumn(),
    TextColumn("{task.description}"),
    BarColumn(),
    TimeElapsedColumn(),
)
ENDINGS = {"kept": ": done before", "finished": ": done"}
"""State of a step -> what its description ends in."""


class JobBars:
    """Shows the events of one job as bars."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def show(self, event: JobEvent) -> None:
        """Show an event; those of the job's state are ignored."""
        if event.type == "step":
            self._show_step(event)
        elif event.type == "progress":
            self._bars.update(self._tasks[event.data["step"]], total=1.0, completed=event.data["fraction"])

    def _show_step(self, event: JobEvent) -> None:
        name, state = event.data["step"], event.data["state"]
        text = escape(event.data["description"] + ENDINGS.get(state, ""))
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(text, total=None)
        if state == "started":
            self._bars.update(self._tasks[name], description=text)
        else:
            self._bars.update(self._tasks[name], description=text, total=1.0, completed=1.0)
