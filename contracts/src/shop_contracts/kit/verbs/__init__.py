"""The kit's verbs of the `contracts` command: arguments in, verdicts out."""
