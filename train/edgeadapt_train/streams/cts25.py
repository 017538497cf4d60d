"""cts25: 25 tasks in 14 languages from the Hugging Face hub, for a machine that reaches it and has a GPU.

How a row becomes an example stands beside each task. Two parts of a text: the question or claim comes first, since the
end of a long text is cut off. Labels are words, in English in every language. Generated answers need room:
max_new_tokens=256 for gsm8k, mbpp and the summaries.

    edgeadapt data check cts25     what this machine can reach

Revisions: the last that public sources pin, with the data as files. knkarthick/dialogsum is pinned by none that we
found, so the hub is asked the first time (hub.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from edgeadapt.tasks import TaskSpec
from edgeadapt_train.batches import Example
from edgeadapt_train.streams.base import Source
from edgeadapt_train.streams.hub import HubData, HubTask, Row

MOST = 50_000
GLUE = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
XNLI = "b8dd5d7af51114dbda02c0e3f6133f332186418e"
PAWS_X = "4cd8187c404bda33cb1f62b49b001115862acf37"
TYDIQA = HubData("google-research-datasets/tydiqa", "secondary_task", "da78f23f9119363459acbaf46bf89426ff26c259")
MASSIVE = "4672e20407010da34463acc759c162ca9734bca6"
BOOLQ = HubData("google/boolq", None, "35b264d03638db9f4ce671b711558bf7ff0f80d5")
SST2 = HubData("nyu-mll/glue", "sst2", GLUE)

INTENTS = (
    "alarm_query", "alarm_remove", "alarm_set", "audio_volume_down", "audio_volume_mute", "audio_volume_other",
    "audio_volume_up", "calendar_query", "calendar_remove", "calendar_set", "cooking_query", "cooking_recipe",
    "datetime_convert", "datetime_query", "email_addcontact", "email_query", "email_querycontact", "email_sendemail",
    "general_greet", "general_joke", "general_quirky", "iot_cleaning", "iot_coffee", "iot_hue_lightchange",
    "iot_hue_lightdim", "iot_hue_lightoff", "iot_hue_lighton", "iot_hue_lightup", "iot_wemo_off", "iot_wemo_on",
    "lists_createoradd", "lists_query", "lists_remove", "music_dislikeness", "music_likeness", "music_query",
    "music_settings", "news_query", "play_audiobook", "play_game", "play_music", "play_podcasts", "play_radio",
    "qa_currency", "qa_definition", "qa_factoid", "qa_maths", "qa_stock", "recommendation_events",
    "recommendation_locations", "recommendation_movies", "social_post", "social_query", "takeaway_order",
    "takeaway_query", "transport_query", "transport_taxi", "transport_ticket", "transport_traffic", "weather_query",
)  # fmt: skip
ONTOLOGY = (
    "company", "school", "artist", "athlete", "politician", "transport", "building", "nature", "village", "animal",
    "plant", "album", "film", "book",
)  # fmt: skip


def labelled(choices: tuple[str, ...], text: str, label: str = "label") -> Callable[[Row], Example | None]:
    """Rows whose `label` is a number of `choices`, or a truth value; `text` is a format of the row's fields."""

    def example(row: Row) -> Example | None:
        number = int(row[label])
        return Example(text.format_map(row).strip(), choices[number]) if number >= 0 else None

    return example


def written(text: str, target: str) -> Callable[[Row], Example]:
    """Rows that are answered by text; both are formats of the row's fields."""
    return lambda row: Example(text.format_map(row).strip(), target.format_map(row).strip())


def translated(source: str, target: str) -> Callable[[Row], Example]:
    return lambda row: Example(row["translation"][source].strip(), row["translation"][target].strip())


def extracted(prefix: str = "") -> Callable[[Row], Example | None]:
    """SQuAD's rows, those whose id begins with `prefix`; every annotator's answer counts as right."""

    def example(row: Row) -> Example | None:
        answers = list(dict.fromkeys(answer.strip() for answer in row["answers"]["text"]))
        if not answers or not row["id"].startswith(prefix):
            return None
        text = f"Question: {row['question'].strip()}\nContext: {row['context'].strip()}"
        return Example(text, answers[0], references=tuple(answers[1:]))

    return example


def intended(row: Row) -> Example | None:
    return Example(row["text"].strip(), row["label_text"]) if row["label_text"] in INTENTS else None


def programmed(row: Row) -> Example:
    """MBPP's rows: the first test shows what the function is called; all of them test the answer."""
    setup = row.get("test_setup_code") or ""
    tests = "\n".join((setup, *row["test_list"])).strip()
    target = row["code"].replace("\r\n", "\n").strip()
    return Example(f"{row['text'].strip()}\nTest: {row['test_list'][0]}", target, references=(tests,))


def chosen(row: Row) -> Example | None:
    """SciQ's rows; the choices in alphabetical order, so that their place says nothing."""
    choices = sorted({row[key].strip() for key in ("correct_answer", "distractor1", "distractor2", "distractor3")})
    text = f"Question: {row['question'].strip()}\nSupport: {row['support'].strip()}"
    return Example(text, row["correct_answer"].strip(), choices=tuple(choices)) if len(choices) > 1 else None


def _spec(name: str, prompt: str, language: str = "en", **fields: Any) -> TaskSpec:
    return TaskSpec(**{"name": name, "prompt": prompt, "language": language, "max_prompt_tokens": 256, **fields})


def _generated(name: str, prompt: str, metric: str, language: str = "en", room: int = 256) -> TaskSpec:
    return _spec(name, prompt, language, kind="generation", metric=metric, max_prompt_tokens=room)


def _inference(language: str) -> HubTask:
    choices = ("entailment", "neutral", "contradiction")
    return HubTask(
        _spec(f"xnli_{language}", "{text}\nRelation:", language, choices=choices),
        "inference",
        HubData("facebook/xnli", language, XNLI),
        labelled(choices, "Hypothesis: {hypothesis}\nPremise: {premise}"),
        evaluation="validation",
        most=MOST,
    )


def _paraphrase(language: str) -> HubTask:
    choices = ("different", "same")
    return HubTask(
        _spec(f"pawsx_{language}", "{text}\nMeaning:", language, choices=choices),
        "paraphrase",
        HubData("google-research-datasets/paws-x", language, PAWS_X),
        labelled(choices, "1: {sentence1}\n2: {sentence2}"),
        evaluation="validation",
    )


def _questions(language: str, prefix: str) -> HubTask:
    spec = _generated(f"tydiqa_{language}", "{text}\nAnswer:", "f1", language, room=512)
    return HubTask(spec, "extractive-qa", TYDIQA, extracted(prefix), evaluation="validation")


def _intent(language: str) -> HubTask:
    spec = _spec(f"massive_{language}", "{text}\nIntent:", language, choices=INTENTS, max_prompt_tokens=96)
    return HubTask(
        spec, "intent", HubData("mteb/amazon_massive_intent", language, MASSIVE), intended, evaluation="validation"
    )


def _classified(
    name: str, choices: tuple[str, ...], data: HubData, text: str, *, asked: str, topic: str, **fields: Any
) -> HubTask:
    example = labelled(choices, text)
    spec = _spec(name, f"{{text}}\n{asked}:", choices=choices)
    return HubTask(spec, topic, data, example, **{"evaluation": "validation", **fields})


def sst2() -> HubTask:
    moods = ("negative", "positive")
    return _classified("sst2", moods, SST2, "{sentence}", asked="Sentiment", topic="sentiment", most=MOST)


def boolq(name: str, flips: float) -> HubTask:
    choices = ("no", "yes")
    spec = _spec(name, "{text}\nAnswer:", choices=choices, max_prompt_tokens=512)
    example = labelled(choices, "Question: {question}?\nPassage: {passage}", "answer")
    return HubTask(spec, "boolean-qa", BOOLQ, example, evaluation="validation", flips=flips)


TASKS = (
    HubTask(
        _generated("wmt14_en_de", "{text}\nGerman:", "bleu", "de"),
        "translation",
        HubData("wmt/wmt14", "de-en", "b199e406369ec1b7634206d3ded5ba45de2fe696"),
        translated("en", "de"),
        evaluation="validation",
        most=MOST,
    ),
    _classified(
        "rte", ("entailment", "no entailment"), HubData("nyu-mll/glue", "rte", GLUE),
        "Hypothesis: {sentence2}\nPremise: {sentence1}", asked="Relation", topic="inference",
    ),
    HubTask(
        _generated("cnn_dm", "{text}\nSummary:", "rougeL", room=512),
        "summarisation",
        HubData("abisee/cnn_dailymail", "3.0.0", "96df5e686bee6baa90b8bee7c28b81fa3fa6223d"),
        written("{article}", "{highlights}"),
        evaluation="validation",
        most=30_000,
    ),
    _questions("sw", "swahili"),
    _questions("fi", "finnish"),
    HubTask(
        _generated("code_alpaca", "{text}\nCode:", "code_rougeL"),
        "code",
        HubData("HuggingFaceH4/CodeAlpaca_20K", None, "798c567f69c8f4b12fc191015e59ee34e9afe00d"),
        written("{prompt}", "{completion}"),
        evaluation="test",
    ),
    boolq("boolq_noisy", flips=0.2),
    _classified(
        "ag_news", ("world", "sports", "business", "science"),
        HubData("fancyzhx/ag_news", None, "eb185aade064a813bc0b7f42de02595523103ca4"), "{text}",
        asked="Topic", topic="topic", evaluation="test", most=MOST,
    ),
    _inference("fr"),
    HubTask(
        _generated("gsm8k", "{text}\nAnswer:", "final_exact_match"),
        "arithmetic",
        HubData("openai/gsm8k", "main", "740312add88f781978c0658806c59bc2815b9866"),
        written("{question}", "{answer}"),
        evaluation="test",
    ),
    _paraphrase("ja"),
    HubTask(
        _generated("dialogsum", "{text}\nSummary:", "rougeL", room=512),
        "summarisation",
        HubData("knkarthick/dialogsum"),
        written("{dialogue}", "{summary}"),
        evaluation="validation",
    ),
    _intent("vi"),
    HubTask(
        _generated("opus_en_tr", "{text}\nTurkish:", "bleu", "tr"),
        "translation",
        HubData("Helsinki-NLP/opus-100", "en-tr", "805090dc28bf78897da9641cdf08b61287580df9"),
        translated("en", "tr"),
        evaluation="validation",
        most=MOST,
    ),
    _classified(
        "dbpedia", ONTOLOGY,
        HubData("fancyzhx/dbpedia_14", None, "9abd46cf7fc8b4c64290f26993c540b92aa145ac"), "{title}: {content}",
        asked="Kind", topic="topic", evaluation="test", most=MOST, sorted=True,
    ),
    _questions("ar", "arabic"),
    HubTask(
        _generated("mbpp", "{text}\nPython:", "pass@1"),
        "code",
        HubData("google-research-datasets/mbpp", "full", "4bb6404fdc6cacfda99d4ac4205087b89d32030c"),
        programmed,
        evaluation="validation",
        train=("train", "prompt"),
    ),
    sst2(),
    _inference("ru"),
    HubTask(
        _generated("squad", "{text}\nAnswer:", "f1", room=512),
        "extractive-qa",
        HubData("rajpurkar/squad", None, "7b6d24c440a36b6815f21b70d25016731768db1f"),
        extracted(),
        evaluation="validation",
        most=MOST,
    ),
    _paraphrase("es"),
    _questions("ko", "korean"),
    _inference("hi"),
    _intent("pt"),
    HubTask(
        _spec("sciq", "{text}\nAnswer:", kind="multiple-choice"),
        "multiple-choice-qa",
        HubData("allenai/sciq", None, "2c94ad3e1aafab77146f384e23536f97a4849815"),
        chosen,
        evaluation="validation",
    ),
)  # fmt: skip


def sources(seed: int = 0, mirror: str | None = None) -> dict[str, Source]:
    """The 25 tasks; `mirror` is a folder with copies of the datasets."""
    return {task.spec.name: partial(task.read, seed=seed, mirror=mirror) for task in TASKS}
