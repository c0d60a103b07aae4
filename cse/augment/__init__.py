"""Augmentations: functions that change a text, with randomness from the given generator only.

Words are separated by white space. A text never becomes empty; if nothing would be left, it stays as it is. Token and
feature cutoff, which change vectors instead of texts, are in `cse.encoder.dropout`.
"""

from cse.augment.batched import InOrder as InOrder
from cse.augment.batched import MaskedLMSubstitution as MaskedLMSubstitution
from cse.augment.batched import OneOf as OneOf
from cse.augment.batched import Sometimes as Sometimes
from cse.augment.batched import Written as Written
from cse.augment.batched import render as render
from cse.augment.spans import Crop as Crop
from cse.augment.spans import SpanDeletion as SpanDeletion
from cse.augment.spans import SpanReordering as SpanReordering
from cse.augment.words import CharacterEdit as CharacterEdit
from cse.augment.words import CharacterNoise as CharacterNoise
from cse.augment.words import Negation as Negation
from cse.augment.words import SynonymSubstitution as SynonymSubstitution
from cse.augment.words import WordDeletion as WordDeletion
from cse.augment.words import WordReordering as WordReordering
from cse.augment.words import WordRepetition as WordRepetition
from cse.augment.words import WordSwap as WordSwap
