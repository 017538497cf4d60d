"""The 25 tasks of bigbench25: where each lies in BIG-bench 1.0.0, and the SHA-256 of its cut (bigbench_cut.py).

12 languages, and sentiment, intent, inference, questions, data-to-text, summaries, morphology, SQL, translation
quality. The reviews (multiemo) are the same list in every language: tasks of one list take different thirds of it, so
that no text returns in another language.

`licence`: of the texts, as the dataset's own page or its card on the Hugging Face hub said in 2026; behind it, whose.
BIG-bench is Apache-2.0 as a collection, but its upstream data is not all, and its archive names no other licence: for
the rest we found none. No text is stored in this project.
"""

from __future__ import annotations

from dataclasses import dataclass

NOT_NAMED = "Apache-2.0 as part of BIG-bench; upstream: none found"


@dataclass(frozen=True)
class Cut:
    """One task: its folder below benchmark_tasks, and examples k, k + n, k + 2n, ... of it for part = (k, n).

    `sha256` is that of the file that the cutter makes, decompressed.
    """

    name: str
    folder: str
    topic: str
    language: str
    sha256: str
    licence: str
    part: tuple[int, int] = (0, 1)


CUTS = (
    Cut(
        "hotel_reviews_de",
        "multiemo/hotels_text_de",
        "sentiment",
        "de",
        "5d94583bc4360a65e2817f2d4a65d6104ce5dea1f40ed834d10a3e4ad1ae4f2e",
        licence="CC BY 4.0 (MultiEmo)",
        part=(0, 3),
    ),
    Cut(
        "intent_recognition",
        "intent_recognition",
        "intent",
        "en",
        "8b34dbc637a94073d6c162b123fbf37bb333e95e9993e57b58027fac38361cb8",
        licence=NOT_NAMED,
    ),
    Cut(
        "webnlg_ru",
        "gem/webnlg_ru",
        "data-to-text",
        "ru",
        "1804b99981b54b99a8bff8766f6013bf1af496a0785e7ff0c239aa9556bdc366",
        licence="CC BY-NC 4.0 (GEM/web_nlg)",
    ),
    Cut(
        "strategyqa",
        "strategyqa",
        "boolean-qa",
        "en",
        "ade5d31a4612e815e25e602c7dbae4258fb1d2413320d2b2133c6797c62e35cb",
        licence=NOT_NAMED,
    ),
    Cut(
        "medicine_reviews_fr",
        "multiemo/medicine_text_fr",
        "sentiment",
        "fr",
        "47bf3f45b3bb5690a81480b1f12eec0379eb508103292318bead4743afda530b",
        licence="CC BY 4.0 (MultiEmo)",
        part=(0, 3),
    ),
    Cut(
        "past_tense",
        "linguistic_mappings/past_tense_json",
        "morphology",
        "en",
        "2f40698a67afddd6a826d20737cc23f205009942e44acc478e1ad0cb95f9a0df",
        licence=NOT_NAMED,
    ),
    Cut(
        "spider_sql",
        "semantic_parsing_spider",
        "code",
        "en",
        "34a0093d1b1d01bde27753aedefb74986a0138ad5cfc6e02e00e8640a30755ca",
        licence="CC BY-SA 4.0 (Spider)",
    ),
    Cut(
        "product_sentences_es",
        "multiemo/products_sentence_es",
        "sentiment",
        "es",
        "20e4d8e156922950c20b71a7ee3e3ed83e5e1dbd84cfc3fa924402c8a25af590",
        licence="CC BY 4.0 (MultiEmo)",
        part=(0, 3),
    ),
    Cut(
        "winowhy",
        "winowhy",
        "commonsense",
        "en",
        "3c4f77c0cedb3d780098926a195fe723aef0ebad2181af9264cb7e274e658bb7",
        licence="MIT (tasksource/winowhy)",
    ),
    Cut(
        "question_typing",
        "natural_instructions/subtask046_miscellaenous_question_typing",
        "question-type",
        "en",
        "939544f21b52b6406b7cba921011dacc3b5073bdbf31d7d938500b3bd49a516c",
        licence=NOT_NAMED,
    ),
    Cut(
        "parsinlu_qa",
        "parsinlu_qa",
        "multiple-choice-qa",
        "fa",
        "f0c5ccb9bfdbf1b513ab28e9d33512591b62cc78eabd92fd756c530cc4990ea2",
        licence="CC BY-NC-SA 4.0 (ParsiNLU)",
    ),
    Cut(
        "xsum",
        "gem/xsum",
        "summarisation",
        "en",
        "58754d7a4dda737bc014ce0778bfa3af6b99f746d796e7a69ae4f05dbd0e4311",
        licence="CC BY-SA 4.0 (GEM/xsum)",
    ),
    Cut(
        "hotel_reviews_zh",
        "multiemo/hotels_text_zh",
        "sentiment",
        "zh",
        "6216e92ddc55a8a0d27ed41e93585181e210a8fc9ce7430846be7776e8d3c7b6",
        licence="CC BY 4.0 (MultiEmo)",
        part=(2, 3),
    ),
    Cut(
        "logical_fallacy",
        "logical_fallacy_detection",
        "reasoning",
        "en",
        "25fbe89318316d02e91dc34815c7286180386b764cf0dae527594bacfa1a40c1",
        licence=NOT_NAMED,
    ),
    Cut(
        "cs_restaurants",
        "gem/cs_restaurants",
        "data-to-text",
        "cs",
        "a45d6330d54b6667cc850477e646eada5143d085bd739f9a9901f4b39fa3cd72",
        licence="CC BY-SA 4.0 (GEM/cs_restaurants)",
    ),
    Cut(
        "play_dialog",
        "play_dialog_same_or_different",
        "dialogue",
        "en",
        "e0fb5f827659e8229c04b66d41f63ba72f44c8daf83b8ab2c136296e1b99af26",
        licence=NOT_NAMED,
    ),
    Cut(
        "medicine_reviews_ja",
        "multiemo/medicine_text_ja",
        "sentiment",
        "ja",
        "9a151d9d1185fa5ec6901b85ff091ed234353ec7284ec20bf3e4f9cca4a11ca9",
        licence="CC BY 4.0 (MultiEmo)",
        part=(1, 3),
    ),
    Cut(
        "vitaminc",
        "vitaminc_fact_verification",
        "fact-verification",
        "en",
        "07f98306392b03b84f6e3b7559359755c5e397c7bf01a3953df1c48fecf193b3",
        licence="CC BY-SA 3.0 (tals/vitaminc)",
    ),
    Cut(
        "qasc_answers",
        "natural_instructions/subtask041_qasc_answer_generation",
        "generative-qa",
        "en",
        "86385e52f19bc5d111c0d1e4692c71a4fb35e9e6ab195bd0c4b5dd59af73e358",
        licence="CC BY 4.0 (allenai/qasc)",
    ),
    Cut(
        "school_sentences_it",
        "multiemo/reviews_sentence_it",
        "sentiment",
        "it",
        "6080cdb026b22f0ea294b6d446b7f831f571ce6b40d66cd5be3c49d671d6bcee",
        licence="CC BY 4.0 (MultiEmo)",
        part=(0, 3),
    ),
    Cut(
        "sports",
        "sports_understanding",
        "plausibility",
        "en",
        "346724da94f64a078192416367e75751db518a97090770ff029eb8d02132314a",
        licence=NOT_NAMED,
    ),
    Cut(
        "hotel_reviews_pt",
        "multiemo/hotels_text_pt",
        "sentiment",
        "pt",
        "aa97ee7c1c9482a7533346433d884dafa6f32013e96097292e29f984469cc2e2",
        licence="CC BY 4.0 (MultiEmo)",
        part=(1, 3),
    ),
    Cut(
        "translation_errors",
        "salient_translation_error_detection",
        "translation-quality",
        "de-en",
        "63cd9cfed191c85d548b69a400ab15df3eb3605581b53ca5f67a236201bbdaaf",
        licence=NOT_NAMED,
    ),
    Cut(
        "social_iqa",
        "social_iqa",
        "multiple-choice-qa",
        "en",
        "05caf9a4744825d7f743150c4edd6aeac6f9da041a97138e6427147d7ceb1087",
        licence=NOT_NAMED,
    ),
    Cut(
        "fever",
        "fact_checker/fever",
        "fact-verification",
        "en",
        "1010439bcdfe22ad5eabf6bf804d2ee11f0bbeb3909cc4f9aecd696ba19e53e5",
        licence="CC BY-SA 3.0, GPL 3.0 (fever/fever)",
    ),
)
