"""AI feedback: sentences become training data with the help of a model that answers questions about them.

tasks.py      what is asked and what becomes of the answers: score, fill, contrast, write, rate
prompts/      the questions in words, versioned files; prompts.py reads and checks them
answers.py    what an answer must look like, and why one is not usable
job.py        questions -> answers: cached, retried within bounds, resumable, in any order
store.py      the answers on disk: nothing is asked twice
meter.py      rate limits, caps on requests, tokens and cost
labelers.py  who answers: remote.py (an OpenAI-compatible endpoint), raters.py (a sentence-transformers encoder or
              cross-encoder)
output.py     the data file, the rejects and the manifest
"""
