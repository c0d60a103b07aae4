"""One file a command of `cse`; nothing to edit when one is added.

A command's file is named after it and has `HELP`, `add_arguments(parser)` and `run(arguments, overrides) -> exit code`.
At its top it imports nothing heavy, so that `cse --help` is quick. `TAKES_OVERRIDES = True` lets options of a recipe
through to `run`; elsewhere they are errors. `ACTIONS` names subcommands, of which the first is meant if none is named.
"""
