"""Quality of the tokens of an fMRI tokenizer: ``python -m experiments.tokens report`` measures them on scans.

`readings` encodes scans with a tokenizer, `measures` has the measures, `report` writes them as table, page and JSON.
"""
