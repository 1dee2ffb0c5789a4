"""What questions are about: three tasks, by the skill that a question asks for."""

from __future__ import annotations

THINGS, BACKGROUND, TRANSCRIPTION = "things", "background", "transcription"
TASKS = (THINGS, BACKGROUND, TRANSCRIPTION)
#: Skills of the tasks other than things, whose skills are all that are named nowhere here.
SKILLS = {
    BACKGROUND: ("background", "ground", "shading", "light"),
    TRANSCRIPTION: ("transcription", "transcript"),
}
#: Shares of background among questions about things and background.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def task_of(skill: str) -> str:
    """Return the task of a skill."""
    return next((task for task, skills in SKILLS.items() if skill in skills), THINGS)
