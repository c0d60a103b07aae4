"""Augmentations: functions that change a text, with randomness from the given generator only.

    words        WordDeletion, WordReordering, WordRepetition, WordSwap
    spans        SpanDeletion, SpanReordering, Crop, SentenceShuffle
    negation     Negation
    characters   CharacterNoise, CharacterEdit
    synonyms     SynonymSubstitution, from a WordNet on this machine
    masked_lm    MaskedLMSubstitution, from a masked language model
    written      Written, from a file of renderings
    compose      Sometimes, OneOf, InOrder
    batched      many texts at once: render

Words are separated by white space. A text never becomes empty; if nothing would be left, it stays as it is. Token and
feature cutoff, which change vectors instead of texts, are in `cse.encoder.cutoff`.
"""

from cse.augment.batched import render
from cse.augment.characters import CharacterEdit, CharacterNoise
from cse.augment.compose import InOrder, OneOf, Sometimes
from cse.augment.masked_lm import MaskedLMSubstitution
from cse.augment.negation import Negation
from cse.augment.spans import Crop, SentenceShuffle, SpanDeletion, SpanReordering
from cse.augment.synonyms import SynonymSubstitution
from cse.augment.words import WordDeletion, WordReordering, WordRepetition, WordSwap
from cse.augment.written import Written

__all__ = [
    "CharacterEdit",
    "CharacterNoise",
    "Crop",
    "InOrder",
    "MaskedLMSubstitution",
    "Negation",
    "OneOf",
    "SentenceShuffle",
    "Sometimes",
    "SpanDeletion",
    "SpanReordering",
    "SynonymSubstitution",
    "WordDeletion",
    "WordReordering",
    "WordRepetition",
    "WordSwap",
    "Written",
    "render",
]
