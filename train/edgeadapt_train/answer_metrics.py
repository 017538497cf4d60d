"""How generated answers are scored, in [0, 1]; several right answers: the best of them counts.

exact_match         equal, white space collapsed
final_exact_match   the same for what is behind the last "####" (GSM8K's mark of its result), commas left out
f1                  SQuAD's (Rajpurkar et al. 2016, evaluate-v1.1): 2 P R / (P + R) over the words in common, counted
                    with repeats; lower case, no punctuation, none of the articles a, an, the.
                    Beside it squad_exact_match, equality of the same words
rougeL              F measure of the longest common subsequence of words (rouge-score); words of any script, in
                    lower case, where the library's own tokenizer knows only a-z and 0-9
code_rougeL         the same; beside it parse_rate, see there
bleu, chrf          of all answers together (sacrebleu's own defaults: 13a and exponential smoothing; chrF2), / 100
sql_exact_match     equal tokens; no matter which case, white space, kind of quotes, "<>" or "!=", "==" or "=", and
                    whether there is a last semicolon
pass@1              share of answers whose program passes the example's tests (sandbox.py)
"""

from __future__ import annotations

import ast
import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from edgeadapt_train import sandbox

Targets = Sequence[Sequence[str]]
FINAL = "####"
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"[^\W_]+")
_SQL = re.compile(r"""'[^']*'|"[^"]*"|[\w.]*\w(?:\.\*)?|<>|<=|>=|!=|==|\|\||\S""")
_SAME_SQL = {"<>": "!=", "==": "="}


@dataclass(frozen=True)
class Judged:
    """`correct` bool [n]: the whole answer is right. `score`: the metric. `beside`: figures that belong to it."""

    correct: np.ndarray
    score: float
    beside: Mapping[str, float] = field(default_factory=dict)


def judge(metric: str, answers: Sequence[str], targets: Targets) -> Judged:
    """Score answers [n] against their right answers [n][1..] (pass@1: against programs that test them)."""
    if metric == "pass@1":
        programs = [f"{a.strip()}\n\n{several[-1]}\n" for a, several in zip(answers, targets, strict=True)]
        passed = np.array([sandbox.passes(program) for program in programs])
        return Judged(passed, float(passed.mean()))
    if metric in ("exact_match", "final_exact_match", "sql_exact_match"):
        right = _best(_PAIRWISE[metric], answers, targets)
        return Judged(right == 1, float(right.mean()))
    if metric == "f1":
        right = _best(squad_exact_match, answers, targets) == 1
        return Judged(right, float(_best(f1, answers, targets).mean()), {"squad_exact_match": float(right.mean())})
    right = _best(exact_match, answers, targets) == 1
    if metric in ("bleu", "chrf"):
        return Judged(right, corpus_score(metric, answers, targets))
    beside = {"parse_rate": parse_rate(answers, targets)} if metric == "code_rougeL" else {}
    return Judged(right, float(_best(rouge_l, answers, targets).mean()), beside)


def exact_match(answer: str, target: str) -> float:
    return float(answer.split() == target.split())


def final_exact_match(answer: str, target: str) -> float:
    ends = [text.rpartition(FINAL)[2].replace(",", "").strip().rstrip(".") for text in (answer, target)]
    return exact_match(*ends)


def squad_exact_match(answer: str, target: str) -> float:
    return float(_squad_words(answer) == _squad_words(target))


def f1(answer: str, target: str) -> float:
    found, wanted = _squad_words(answer), _squad_words(target)
    if not found or not wanted:
        return float(found == wanted)
    common = (Counter(found) & Counter(wanted)).total()
    return 2 * common / (len(found) + len(wanted))  # = 2 P R / (P + R) with P = common / found, R = common / wanted


def rouge_l(answer: str, target: str) -> float:
    return float(_rouge().score(target, answer)["rougeL"].fmeasure)


def sql_exact_match(answer: str, target: str) -> float:
    return float(sql_tokens(answer) == sql_tokens(target))


def sql_tokens(query: str) -> list[str]:
    """A query's tokens as they are compared; a quoted one keeps its case and becomes 'quoted'."""
    found = []
    for token in _SQL.findall(query):
        quoted = len(token) > 1 and token[0] in "'\""
        found.append(f"'{token[1:-1]}'" if quoted else _SAME_SQL.get(token, token.lower()))
    while found and found[-1] == ";":
        found.pop()
    return found


def corpus_score(metric: str, answers: Sequence[str], targets: Targets) -> float:
    """BLEU or chrF2 of all answers together, / 100."""
    import sacrebleu

    most = max(map(len, targets))
    columns = [[several[at] if at < len(several) else None for several in targets] for at in range(most)]
    scorer: Any = sacrebleu.BLEU() if metric == "bleu" else sacrebleu.CHRF()
    return min(1.0, float(scorer.corpus_score(list(answers), columns).score) / 100)


def parse_rate(answers: Sequence[str], targets: Targets) -> float:
    """Of the examples whose target is Python, the share whose answer is, too; 0 where there is none.

    "Is Python" means that it parses and is not empty: a single English word is.
    """
    asked = [answer for answer, several in zip(answers, targets, strict=True) if _parses(several[0])]
    return float(np.mean([_parses(answer) for answer in asked])) if asked else 0.0


_PAIRWISE: dict[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "final_exact_match": final_exact_match,
    "sql_exact_match": sql_exact_match,
}


def _best(metric: Callable[[str, str], float], answers: Sequence[str], targets: Targets) -> np.ndarray:
    """The metric against the target that suits each answer best, float64 [n]."""
    pairs = zip(answers, targets, strict=True)
    return np.array([max(metric(answer, target) for target in several) for answer, several in pairs])


def _squad_words(text: str) -> list[str]:
    return [word for word in text.lower().translate(_PUNCTUATION).split() if word not in _ARTICLES]


class _Words:
    """rouge-score's seam for tokenizers."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())


def _parses(text: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Python thinks of the answer's style
        try:
            return bool(ast.parse(text.strip()).body)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
