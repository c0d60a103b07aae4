"""AI feedback: training data made from sentences, with a model that answers questions about them.

tasks.py      the tasks: the questions about a row, and the records made from the answers
prompts/      the wording of the questions, in versioned files; prompts.py reads and checks them
answers.py    the form of an answer, and the reasons why one is not usable
job.py        asks questions: cached, retried within bounds, resumable, in any order
store.py      the answers on disk, so that no question is asked twice
meter.py      rate limits, and caps on requests, tokens and cost
remote.py     an OpenAI-compatible endpoint that answers; raters.py: a sentence-transformers encoder or cross-encoder
output.py     the data file, the rejects and the manifest
"""
