"""Tasks that tell architectures apart and need no data: their texts are made as they are read.

task = TASKS["induction"](Settings(batch_size=32, seed=0))
task.batch(step)            # a Batch like any other; a pure function of (settings, step)
task.score(model)           # accuracy where the answer is determined, and what guessing gives
"""

from formers.tasks.synthetic.base import Row, Settings, Task
from formers.tasks.synthetic.languages import Automata, Brackets
from formers.tasks.synthetic.sequences import Copying, Induction, Moons, Recall

TASKS: dict[str, type[Task]] = {kind.name: kind for kind in (Induction, Recall, Copying, Brackets, Automata, Moons)}
"""By name."""

__all__ = ["TASKS", "Automata", "Brackets", "Copying", "Induction", "Moons", "Recall", "Row", "Settings", "Task"]
