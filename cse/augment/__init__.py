"""Augmentations: a changed rendering of a text, its randomness from the generator that it is given and nothing else.

    words        WordDeletion, WordReordering, WordRepetition
    spans        SpanDeletion, SpanReordering, Crop, SentenceShuffle
    characters   CharacterNoise
    synonyms     SynonymSubstitution, from a WordNet on this machine
    masked_lm    MaskedLMSubstitution, from a masked language model
    compose      Sometimes, OneOf, InOrder
    batched      many texts at once: render

White space divides words. A text is never made empty: where nothing would be left, it stays as it was. What is changed
in the vectors instead of the text, token and feature cutoff, is in `cse.encoder.cutoff`.
"""

from cse.augment.batched import render
from cse.augment.characters import CharacterNoise
from cse.augment.compose import InOrder, OneOf, Sometimes
from cse.augment.masked_lm import MaskedLMSubstitution
from cse.augment.spans import Crop, SentenceShuffle, SpanDeletion, SpanReordering
from cse.augment.synonyms import SynonymSubstitution
from cse.augment.words import WordDeletion, WordReordering, WordRepetition

__all__ = [
    "CharacterNoise",
    "Crop",
    "InOrder",
    "MaskedLMSubstitution",
    "OneOf",
    "SentenceShuffle",
    "Sometimes",
    "SpanDeletion",
    "SpanReordering",
    "SynonymSubstitution",
    "WordDeletion",
    "WordReordering",
    "WordRepetition",
    "render",
]
