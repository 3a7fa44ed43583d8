"""Python's part of a task that four languages work on."""

from __future__ import annotations

from typing import Any

from tasker_core.step_handler.functional import depends_on, inputs, step_handler

Told = dict[str, Any]


@step_handler("polyglot.CountWords")
@inputs("text")
def count_words(text: str) -> Told:
    return {"language": "python", "words": len(text.split())}


@step_handler("polyglot.Summarise")
@depends_on(letters="letters", words="words", longest="longest", capitals="capitals")
def summarise(letters: Told, words: Told, longest: Told, capitals: Told) -> Told:
    return {
        "language": "python",
        "languages": [*(part["language"] for part in (letters, words, longest, capitals)), "python"],
        "text": f"{letters['letters']} letters in {words['words']} words, the longest is {longest['longest']}: "
        f"{capitals['capitals']}",
    }
